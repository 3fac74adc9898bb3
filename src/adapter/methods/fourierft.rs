//! FourierFT: `ΔW = scaling · Re(F⁻¹(S))`, where a few frequencies of the spectrum `S` are trained, at places that a seed draws (Gao et al.,
//! Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, equation 3; PEFT `tuners/fourierft/layer.py`).
//!
//! With frequencies `(u, v)` and their numbers `s`, a weight of `M` rows and `N` columns changes by
//!
//! ```text
//! ΔW[p, q] = scaling / (M·N) · Σ s · cos(2π·(u·p / M + v·q / N))
//!          = scaling / (M·N) · Σ s · (cos(2π·u·p / M) · cos(2π·v·q / N) − sin(2π·u·p / M) · sin(2π·v·q / N))
//! ```
//!
//! which is a product of tables that never change, with the numbers between them: the graph has neither spectrum nor transform.

use std::collections::HashMap;
use std::ops::Range;

use indexmap::IndexMap;
use ndarray::{Array2, Axis};
use serde_json::json;

use super::branch::{self, Attached, Branch, Forward, Linear, added};
use crate::adapter::config::fields::{Fields, Flag, size};
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::settings::{Settings, number};
use crate::adapter::config::{Bias, Scope, at_least_one, finite};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::budget::wide;
use crate::adapter::params::init;
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::part::{Folding, Insertion};
use crate::anatomy::Anatomy;
use crate::error::{Error, Result};
use crate::ir::{Builder, DType, Expr};
use crate::num;

/// `[n_frequency]`
const SPECTRUM: KeyPart = KeyPart::new("fourierft_spectrum", "");

/// The row of FourierFT.
pub static ROW: Row = Row {
    name: "fourierft",
    aliases: &[],
    variants: &[],
    about: "A few frequencies of the spectrum of an update",
    peft_type: "FOURIERFT",
    learning_rate: 5e-2,
    family: Family::Tuner,
    tensors: Tensors { parts: &[SPECTRUM], shared: &[] },
    adapter_file: "fourierft",
    takes: &[SCOPE, &["bias"]],
    page: "fourierft.md",
    read: |fields| FourierFtConfig::read(fields).map(Into::into),
    configure: |options: &Options| {
        Ok(FourierFtConfig { scope: options.scope.clone(), bias: options.bias, ..FourierFtConfig::default() }.into())
    },
};

/// The options of FourierFT (`FourierFTConfig`).
#[derive(Clone, Debug, PartialEq)]
pub struct FourierFtConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// Number of frequencies that are trained.
    pub n_frequency: usize,
    /// Other numbers of them, found as LoRA's ranks.
    pub n_frequency_pattern: IndexMap<String, usize>,
    /// What the update is multiplied with.
    pub scaling: f64,
    /// Seed of the frequencies' places.
    pub random_loc_seed: u64,
    /// Whether a fresh adapter changes nothing; PEFT's default is random numbers.
    pub zero: bool,
    /// Which biases of the base are trained.
    pub bias: Bias,
    /// Whether the base's weights are stored `[in, out]`.
    pub fan_in_fan_out: bool,
}

impl Default for FourierFtConfig {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            n_frequency: 1000,
            n_frequency_pattern: IndexMap::new(),
            scaling: 150.0,
            random_loc_seed: 777,
            zero: false,
            bias: Bias::None,
            fan_in_fan_out: false,
        }
    }
}

impl FourierFtConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        let default = Self::default();
        let seed = fields.integer("random_loc_seed", 777)?;
        Ok(Self {
            scope: Scope::read(fields)?,
            n_frequency: fields.size("n_frequency")?.unwrap_or(default.n_frequency),
            n_frequency_pattern: fields.by_name("n_frequency_pattern", "numbers of frequencies by name", size)?,
            scaling: fields.number("scaling", default.scaling)?,
            random_loc_seed: u64::try_from(seed).map_err(|_| Error::mismatch("random_loc_seed", "a whole number from 0", seed))?,
            zero: fields.flag("init_weights", Flag::Off)?,
            bias: Bias::read(fields, "fourier_only")?,
            fan_in_fan_out: fields.flag("fan_in_fan_out", Flag::Off)?,
        })
    }

    fn branch(&self, linear: Linear, count: usize, seed: u64) -> Result<Fourier> {
        let Linear { module, out_features, in_features } = &linear;
        let elements = out_features * in_features;
        if count > elements {
            let error = Error::mismatch(format!("n_frequency of {module}"), format!("at most its {elements} weights"), count);
            return Err(error.with_hint("choose fewer: `set n_frequency=N`"));
        }
        let places = first_of_permutation(elements, count, self.random_loc_seed);
        let frequencies = places.iter().map(|place| [place / in_features, place % in_features]).collect();
        let scaling = self.scaling / (float(*out_features) * float(*in_features));
        Ok(Fourier { linear, frequencies, scaling, zero: self.zero, seed })
    }
}

/// The branch at one module.
#[derive(Debug)]
struct Fourier {
    linear: Linear,
    /// The row and the column of each frequency in the spectrum.
    frequencies: Vec<[usize; 2]>,
    /// `scaling / (out_features · in_features)`
    scaling: f64,
    zero: bool,
    seed: u64,
}

impl Configuration for FourierFtConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        at_least_one("n_frequency", self.n_frequency)?;
        self.n_frequency_pattern.iter().try_for_each(|(key, &count)| at_least_one(&format!("n_frequency_pattern {key:?}"), count))?;
        finite("scaling", self.scaling)?;
        self.scope.check()
    }

    fn write(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
        settings.put_layers(&self.scope);
        settings.put("n_frequency", self.n_frequency);
        settings.put("n_frequency_pattern", json!(self.n_frequency_pattern));
        settings.put("scaling", number(self.scaling));
        settings.put("random_loc_seed", self.random_loc_seed);
        settings.put("init_weights", self.zero);
        settings.put("bias", self.bias.setting("fourier_only"));
        settings.put("fan_in_fan_out", self.fan_in_fan_out);
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }

    fn scope_mut(&mut self) -> Option<&mut Scope> {
        Some(&mut self.scope)
    }

    fn fan_in_fan_out_mut(&mut self) -> Option<&mut bool> {
        Some(&mut self.fan_in_fan_out)
    }

    fn constants(&self) -> Vec<(&'static str, String)> {
        let Self { n_frequency, n_frequency_pattern, .. } = self;
        vec![
            ("scaling", self.scaling.to_string()),
            ("random_loc_seed", self.random_loc_seed.to_string()),
            ("n_frequency", format!("{n_frequency} {n_frequency_pattern:?}")),
        ]
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let chosen = branch::choose_ranks(self.n_frequency, &self.n_frequency_pattern, &self.scope, at)?;
        let branches = chosen.into_iter().map(|(linear, count)| self.branch(linear, count, at.seed)).collect::<Result<Vec<_>>>()?;
        Ok(branch::placed(self.clone(), branches, self.bias, at))
    }
}

impl Fourier {
    /// `cos` and `sin` of `2π · frequency · place / length`, each `[frequencies, length]`, float32. The graph computes them: as constants they would
    /// be larger than the weight.
    fn tables<'g>(&self, b: &'g Builder, axis: usize, length: usize) -> [Expr<'g>; 2] {
        let size = num::int;
        let frequencies: Vec<i64> = self.frequencies.iter().map(|frequency| size(frequency[axis])).collect();
        let places: Vec<i64> = (0..size(length)).collect();
        // Whole numbers below the length are exact in float32, however large the product is.
        let turns = (b.ints(&frequencies).unsqueeze(&[1]) * b.ints(&places)).modulo(b.int(size(length)));
        let angles = turns.cast(DType::F32) * (std::f64::consts::TAU / float(length));
        ["Cos", "Sin"].map(|op| b.op(op, &[angles], &[]))
    }

    /// The same as numbers.
    fn numbers_of_tables(&self, axis: usize, length: usize) -> [Array2<f32>; 2] {
        let angle = |(at, place): (usize, usize)| {
            let turn = (self.frequencies[at][axis] * place) % length;
            float(turn) * (std::f64::consts::TAU / float(length))
        };
        let shape = (self.frequencies.len(), length);
        [f64::cos, f64::sin].map(|of| Array2::from_shape_fn(shape, |at| init::narrow(of(angle(at)))))
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "lengths of axes are far below 2^53")]
fn float(length: usize) -> f64 {
    length as f64
}

impl Branch for Fourier {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "fourierft", module: &self.linear.module, ..Attached::default() }
    }

    fn numbers(&self, _: &Anatomy) -> u128 {
        wide(self.frequencies.len())
    }

    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let Linear { module, out_features, in_features } = &self.linear;
        let count = self.frequencies.len();
        let spectrum = at.params.of(module, SPECTRUM, || {
            let key = Key::module(&**module, SPECTRUM).to_string();
            if self.zero { init::zeros(&[count]) } else { init::normal(&mut init::generator(self.seed, &key), &[count], 1.0) }
        });
        let ([row_cos, row_sin], [column_cos, column_sin]) =
            at.b.scoped("fourierft", || (self.tables(at.b, 0, *out_features), self.tables(at.b, 1, *in_features)));
        Ok(Box::new(move |call| {
            let numbers = spectrum * self.scaling;
            let even = (call.x.matmul(column_cos.t()) * numbers).matmul(row_cos);
            let odd = (call.x.matmul(column_sin.t()) * numbers).matmul(row_sin);
            call.plus(even - odd)
        }))
    }

    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, rows: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let spectrum = at.vector(self.module(), SPECTRUM)?;
        if spectrum.len() != self.frequencies.len() {
            return Err(Error::mismatch("length of fourierft_spectrum", self.frequencies.len(), spectrum.len()));
        }
        let numbers = (spectrum * init::narrow(self.scaling)).insert_axis(Axis(1));
        let [row_cos, row_sin] = self.numbers_of_tables(0, self.linear.out_features);
        let [column_cos, column_sin] = self.numbers_of_tables(1, self.linear.in_features);
        let delta = (row_cos * &numbers).t().dot(&column_cos) - (row_sin * &numbers).t().dot(&column_sin);
        added(weight, &delta, rows)
    }
}

/// The first numbers of a permutation of `0..length` as PyTorch draws it on a CPU (`torch.randperm` with a generator of this seed): each place
/// changes with one that is drawn from those behind it.
fn first_of_permutation(length: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut random = MersenneTwister::new(seed);
    let mut moved: HashMap<usize, usize> = HashMap::new();
    let mut first = Vec::with_capacity(count);
    for at in 0..count {
        if at + 1 == length {
            first.push(moved.get(&at).copied().unwrap_or(at));
            break;
        }
        let other = at + usize::try_from(random.next()).unwrap_or(0) % (length - at);
        let (here, there) = (moved.get(&at).copied().unwrap_or(at), moved.get(&other).copied().unwrap_or(other));
        moved.insert(other, here);
        moved.insert(at, there);
        first.push(there);
    }
    first
}

/// The generator of PyTorch's CPU (Matsumoto & Nishimura, Mersenne Twister, MT19937 with its initialisation of 2002).
struct MersenneTwister {
    state: Vec<u32>,
    next: usize,
}

impl MersenneTwister {
    const LENGTH: usize = 624;
    const MIDDLE: usize = 397;

    fn new(seed: u64) -> Self {
        let mut state = vec![u32::try_from(seed & 0xFFFF_FFFF).unwrap_or(0)];
        for at in 1..Self::LENGTH {
            let last = state[at - 1];
            state.push(1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(u32::try_from(at).unwrap_or(0)));
        }
        Self { state, next: Self::LENGTH }
    }

    fn next(&mut self) -> u32 {
        if self.next == Self::LENGTH {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for at in 0..Self::LENGTH {
            let y = (self.state[at] & 0x8000_0000) | (self.state[(at + 1) % Self::LENGTH] & 0x7FFF_FFFF);
            let odd = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[at] = self.state[(at + Self::MIDDLE) % Self::LENGTH] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `torch.randperm(length, generator=torch.Generator().manual_seed(seed))[:count]`.
    #[test]
    fn places_are_those_that_pytorch_draws() {
        let rows: [(usize, u64, &[usize]); 4] = [
            (7, 777, &[5, 6, 3, 0, 1, 4, 2]),
            (4096, 777, &[2151, 945, 3161, 4091, 1983, 1566, 3683, 2858]),
            (2560, 3, &[1386, 72, 2065, 2549, 2444, 2370]),
            (1_000_000, 5, &[453_411, 997_051, 774_247, 536_598]),
        ];
        for (length, seed, expected) in rows {
            assert_eq!(first_of_permutation(length, expected.len(), seed), expected, "{length} {seed}");
        }
    }
}
