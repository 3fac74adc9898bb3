//! OFT: `y = W·(R·x)`, a rotation of the input in blocks, `R = (I + Q)·(I − Q)⁻¹` with a skew-symmetric `Q` (Qiu et al., Controlling
//! Text-to-Image Diffusion by Orthogonal Finetuning; PEFT `tuners/oft/layer.py`). The inverse is a sum of powers of `Q`, as PEFT has it by
//! default (`use_cayley_neumann`).

use std::collections::BTreeSet;
use std::ops::Range;

use ndarray::{Array2, s};

use super::branch::{self, Attached, Branch, Forward, Linear, Side, stored_weight};
use crate::adapter::config::fields::{Fields, Flag};
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::{Bias, Scope, probability, settings::Settings};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::budget::wide;
use crate::adapter::params::init;
use crate::adapter::params::key::{Family, Key, Part as KeyPart, Tensors};
use crate::adapter::part::{Folding, Insertion};
use crate::anatomy::{Anatomy, Layout};
use crate::error::{Error, Result};
use crate::ir::{DType, Expr, Tensor};
use crate::num;

/// `[blocks, size · (size − 1) / 2]`: what stands above the diagonal of each `Q`, row by row.
const R: KeyPart = KeyPart::new("oft_R", "weight");

/// The row of OFT.
pub static ROW: Row = Row {
    name: "oft",
    aliases: &[],
    variants: &[],
    about: "Rotations of what modules take, in blocks",
    peft_type: "OFT",
    learning_rate: 1e-3,
    family: Family::Tuner,
    tensors: Tensors { parts: &[R], shared: &[] },
    adapter_file: "oft",
    takes: &[SCOPE, &["rank", "bias"]],
    page: "oft.md",
    read: |fields| OftConfig::read(fields).map(Into::into),
    configure: |options: &Options| {
        let default = OftConfig::default();
        let (blocks, block_size) = options.rank.map_or((0, default.block_size), |rank| (rank, 0));
        Ok(OftConfig { scope: options.scope.clone(), blocks, block_size, bias: options.bias, ..default }.into())
    },
};

/// The options of OFT (`OFTConfig`).
#[derive(Clone, Debug, PartialEq)]
pub struct OftConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// Number of blocks (`r`), or 0 if their size is given.
    pub blocks: usize,
    /// Size of the blocks (`oft_block_size`), or 0 if their number is given.
    pub block_size: usize,
    /// Share of the blocks that are left alone in a step.
    pub module_dropout: f64,
    /// Whether all blocks of a module rotate alike.
    pub block_share: bool,
    /// Terms of the sum that stands for the inverse.
    pub terms: usize,
    /// Which biases of the base are trained.
    pub bias: Bias,
    /// Whether a fresh adapter changes something, for tests.
    pub random: bool,
    /// Whether the base's weights are stored `[in, out]`.
    pub fan_in_fan_out: bool,
}

impl Default for OftConfig {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            blocks: 0,
            block_size: 32,
            module_dropout: 0.0,
            block_share: false,
            terms: 5,
            bias: Bias::None,
            random: false,
            fan_in_fan_out: false,
        }
    }
}

impl OftConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        fields.inert(&["eps"]);
        fields.refuse(&[("coft", "weights that are projected after each step are not known here")])?;
        let default = Self::default();
        if !fields.flag("use_cayley_neumann", Flag::On)? {
            return Err(Error::unsupported("use_cayley_neumann = false", "the inverse of a matrix has no operator in ONNX")
                .with_hint("train the adapter with PEFT's default, `use_cayley_neumann=True`"));
        }
        Ok(Self {
            scope: Scope::read(fields)?,
            blocks: fields.size("r")?.unwrap_or(default.blocks),
            block_size: fields.size("oft_block_size")?.unwrap_or(default.block_size),
            module_dropout: fields.number("module_dropout", default.module_dropout)?,
            block_share: fields.flag("block_share", Flag::Off)?,
            terms: fields.size("num_cayley_neumann_terms")?.unwrap_or(default.terms),
            bias: Bias::read(fields, "oft_only")?,
            random: !fields.flag("init_weights", Flag::On)?,
            fan_in_fan_out: fields.flag("fan_in_fan_out", Flag::Off)?,
        })
    }

    fn branch(&self, linear: Linear, at: &Places<'_>) -> Result<Oft> {
        let inputs = linear.in_features;
        let block = if self.blocks == 0 { divisor(inputs, self.block_size) } else { inputs / divisor(inputs, self.blocks) };
        if block < 2 {
            let error = Error::mismatch(format!("size of the blocks of {}", linear.module), "at least 2", block);
            return Err(error.with_hint("a number alone cannot be rotated: choose fewer blocks, or larger ones"));
        }
        // The parts of a packed product share its input.
        let is_packed =
            at.anatomy.projections.iter().any(|projection| projection.module == linear.module && projection.weight.part.is_some());
        let blocks = if self.block_share { 1 } else { inputs / block };
        Ok(Oft { linear, blocks, block, terms: self.terms, is_packed, random: self.random, seed: at.seed })
    }
}

impl OftConfig {
    /// Says where modules have other blocks than were asked for, because these do not divide what the modules take.
    fn warn_of_other_blocks(&self, branches: &[Oft]) {
        let (what, asked) = if self.blocks == 0 { ("oft_block_size", self.block_size) } else { ("r", self.blocks) };
        let mut told = BTreeSet::new();
        for branch in branches {
            let inputs = branch.linear.in_features;
            let taken = if self.blocks == 0 { branch.block } else { inputs / branch.block };
            if taken != asked && told.insert((inputs, taken)) {
                tracing::warn!(
                    "{what} = {asked} does not divide the {inputs} inputs of {}: {taken} is taken, as PEFT does",
                    branch.linear.module
                );
            }
        }
    }
}

/// The divisor of a length that is nearest to what was asked for, the smaller one of two (`adjust_oft_parameters`).
fn divisor(length: usize, wanted: usize) -> usize {
    if wanted >= length {
        return length;
    }
    let higher = (wanted..=length).find(|&n| length.is_multiple_of(n)).unwrap_or(length);
    let lower = (1..=wanted).rev().find(|&n| length.is_multiple_of(n)).unwrap_or(1);
    if wanted - lower <= higher - wanted { lower } else { higher }
}

/// The rotation in front of one module.
#[derive(Debug)]
struct Oft {
    linear: Linear,
    /// Rotations that the module has; 1 if all blocks share one.
    blocks: usize,
    /// Their size.
    block: usize,
    terms: usize,
    is_packed: bool,
    random: bool,
    seed: u64,
}

impl Configuration for OftConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        if (self.blocks == 0) == (self.block_size == 0) {
            let found = format!("r = {} and oft_block_size = {}", self.blocks, self.block_size);
            return Err(Error::mismatch("blocks", "one of r and oft_block_size, the other 0", found));
        }
        probability("module_dropout", self.module_dropout)?;
        self.scope.check()
    }

    fn write(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
        settings.put_layers(&self.scope);
        settings.put("r", self.blocks);
        settings.put("oft_block_size", self.block_size);
        settings.put("module_dropout", self.module_dropout);
        settings.put("block_share", self.block_share);
        settings.put("use_cayley_neumann", true);
        settings.put("num_cayley_neumann_terms", self.terms);
        settings.put("coft", false);
        settings.put("bias", self.bias.setting("oft_only"));
        settings.put("init_weights", !self.random);
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
        vec![("num_cayley_neumann_terms", self.terms.to_string())]
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        if self.module_dropout > 0.0 {
            return Err(Error::unsupported("module_dropout", "rotations are trained without dropout").with_hint("set it to 0"));
        }
        let branches = branch::choose(&self.scope, at)?.into_iter().map(|linear| self.branch(linear, at)).collect::<Result<Vec<_>>>()?;
        branch::warn_of_conv1d("OFT", &branches, at);
        self.warn_of_other_blocks(&branches);
        Ok(branch::placed(self.clone(), branches, self.bias, at))
    }
}

impl Oft {
    /// Numbers above the diagonal of a block.
    fn elements(&self) -> usize {
        self.block * (self.block - 1) / 2
    }

    /// For each element of a skew-symmetric block, row by row: the number that it is, and its sign; 0 on the diagonal.
    fn skew(&self) -> Vec<(usize, f32)> {
        let above = |row: usize, column: usize| row * (2 * self.block - row - 1) / 2 + column - row - 1;
        let element = |at: usize| match (at / self.block, at % self.block) {
            (row, column) if row < column => (above(row, column), 1.0),
            (row, column) if row > column => (above(column, row), -1.0),
            _ => (0, 0.0),
        };
        (0..self.block * self.block).map(element).collect()
    }

    /// The rotations `[blocks, size, size]`.
    fn rotations<'g>(&self, vectors: Expr<'g>) -> Expr<'g> {
        let b = vectors.b();
        let (places, signs): (Vec<usize>, Vec<f32>) = self.skew().into_iter().unzip();
        let places: Vec<i64> = places.into_iter().map(size).collect();
        let signs = b.constant(Tensor::from_f32(&[signs.len(), 1], &signs));
        let [blocks, block] = [self.blocks, self.block].map(size);
        let q = (vectors.t().gather(b.ints(&places), 0) * signs).t().reshape(&[blocks, block, block]);
        let mut ones = vec![0.0; self.block * self.block];
        ones.iter_mut().step_by(self.block + 1).for_each(|one| *one = 1.0);
        let identity = b.constant(Tensor::from_f32(&[1, self.block, self.block], &ones));
        // `I + 2Q + 2Q² + .. + Qⁿ`, the last term once (`_cayley_batch`).
        let mut sum = identity;
        let mut power = q;
        for (times, more) in self.coefficients() {
            sum = sum + power * times;
            if more {
                power = power.matmul(q);
            }
        }
        sum
    }

    /// What the powers of `Q` from the first on are multiplied with, and whether another one follows.
    fn coefficients(&self) -> Vec<(f64, bool)> {
        let last = match self.terms {
            0 | 1 => return vec![],
            2 => return vec![(2.0, false)],
            terms => terms.max(4) - 1,
        };
        (1..=last).map(|power| (if power == last { 1.0 } else { 2.0 }, power < last)).collect()
    }

    /// `x` rotated, float32.
    fn rotated<'g>(&self, x: Expr<'g>, rotations: Expr<'g>) -> Expr<'g> {
        let [blocks, block] = [self.linear.in_features / self.block, self.block].map(size);
        let parts = x.reshape(&[-1, blocks, block]).transpose(&[1, 0, 2]);
        parts.matmul(rotations).transpose(&[1, 0, 2]).reshape_like(x)
    }
}

fn size(length: usize) -> i64 {
    num::int(length)
}

impl Branch for Oft {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "oft", module: &self.linear.module, ..Attached::default() }
    }

    fn numbers(&self, _: &Anatomy) -> u128 {
        wide(self.blocks) * wide(self.elements())
    }

    fn side(&self) -> Side {
        if self.is_packed { Side::Output } else { Side::Input }
    }

    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let shape = [self.blocks, self.elements()];
        let vectors = at.params.of(self.module(), R, || {
            let key = Key::module(self.module(), R).to_string();
            if self.random { init::normal(&mut init::generator(self.seed, &key), &shape, 0.1) } else { init::zeros(&shape) }
        });
        let rotations = at.b.scoped(&format!("oft/{}", self.module()), || self.rotations(vectors));
        Ok(Box::new(move |call| match self.side() {
            Side::Input => self.rotated(call.y.cast(DType::F32), rotations).cast(call.y.dtype()),
            Side::Output => {
                let turned = self.rotated(call.x, rotations) - call.x;
                let weight = stored_weight(rotations.b(), call.projection);
                call.plus(turned.matmul(if call.projection.weight.layout == Layout::OutIn { weight.t() } else { weight }))
            }
        }))
    }

    /// `W·Rᵀ`, block by block.
    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, _: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let vectors = at.matrix(self.module(), R)?;
        if vectors.dim() != (self.blocks, self.elements()) || weight.ncols() != self.linear.in_features {
            let expected = format!("[{}, {}]", self.blocks, self.elements());
            return Err(Error::mismatch("shape of oft_R", expected, format!("{:?}", vectors.dim())));
        }
        let skew = self.skew();
        let rotation = |place: usize| {
            let vector = vectors.row(if self.blocks == 1 { 0 } else { place });
            let q = Array2::from_shape_fn((self.block, self.block), |(row, column)| {
                let (number, sign) = skew[row * self.block + column];
                vector[number] * sign
            });
            let (mut sum, mut power) = (Array2::eye(self.block), q.clone());
            for (times, more) in self.coefficients() {
                sum = sum + &power * init::narrow(times);
                if more {
                    power = power.dot(&q);
                }
            }
            sum
        };
        let mut turned = weight;
        for (place, start) in (0..self.linear.in_features).step_by(self.block).enumerate() {
            let columns = s![.., start..start + self.block];
            let product = turned.slice(columns).dot(&rotation(place).t());
            turned.slice_mut(columns).assign(&product);
        }
        Ok(turned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_blocks_are_adjusted_as_in_peft() {
        for (length, wanted, expected) in [(64, 32, 32), (48, 32, 24), (768, 50, 48), (10, 64, 10), (30, 7, 6), (7, 3, 1), (12, 5, 4)] {
            assert_eq!(divisor(length, wanted), expected, "{length} {wanted}");
        }
    }
}
