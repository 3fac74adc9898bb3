//! RoAd: pairs of a module's outputs are rotated and stretched (Liao & Monz, 3-in-1: 2D Rotary Adaptation for Efficient Finetuning, Efficient
//! Batching and Composability, equation 4; PEFT `tuners/road/layer.py`).
//!
//! Outputs lie in groups; each in the first half of its group is paired with the one at the same place of the second half:
//!
//! ```text
//! y₀ = α₀·cos θ₀ · x₀ − α₀·sin θ₀ · x₁
//! y₁ = α₁·sin θ₁ · x₀ + α₁·cos θ₁ · x₁
//! ```

use std::ops::Range;

use ndarray::{Array2, Axis};

use super::branch::{self, Attached, Branch, Forward, Linear};
use crate::adapter::config::fields::{Fields, Flag};
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::settings::Settings;
use crate::adapter::config::{Bias, Scope};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::budget::wide;
use crate::adapter::params::init;
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::part::{Folding, Insertion};
use crate::adapter::weights::fold;
use crate::anatomy::Anatomy;
use crate::ir::{DType, Expr, Tensor};
use crate::num;
use crate::{Error, Result};

/// Angles `θ`, `[out_features / 2]`, `[out_features]` or `[2 · out_features]`.
const THETA: KeyPart = KeyPart::new("road_theta", "");
/// Scales `α`, as many.
const ALPHA: KeyPart = KeyPart::new("road_alpha", "");

/// The row of RoAd.
pub static ROW: Row = Row {
    name: "road",
    aliases: &[],
    variants: &[],
    about: "Rotations of pairs of outputs, with scales",
    peft_type: "ROAD",
    learning_rate: 2e-2,
    family: Family::Tuner,
    tensors: Tensors { parts: &[THETA, ALPHA], shared: &[] },
    adapter_file: "road",
    takes: &[SCOPE],
    page: "road.md",
    read: |fields| RoadConfig::read(fields).map(Into::into),
    configure: |options: &Options| Ok(RoadConfig { scope: options.scope.clone(), ..RoadConfig::default() }.into()),
};

/// The options of `RoAd` (`RoadConfig`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoadConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// What the outputs of a pair share.
    pub variant: Variant,
    /// Outputs of a group, an even number.
    pub group_size: usize,
    /// Whether angles and scales start from random numbers, for tests.
    pub random: bool,
}

/// What the outputs of a pair share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// One angle and one scale: a rotation.
    #[default]
    Road1,
    /// Nothing: each output has an angle and a scale.
    Road2,
    /// Nothing: each output has an angle and a scale for either term.
    Road4,
}

/// The variants by PEFT's names.
const VARIANTS: [(&str, Variant); 3] = [("road_1", Variant::Road1), ("road_2", Variant::Road2), ("road_4", Variant::Road4)];

impl Variant {
    fn name(self) -> &'static str {
        VARIANTS.iter().find(|(_, variant)| *variant == self).map_or("", |(name, _)| name)
    }

    /// How many angles a module with so many outputs has.
    fn angles(self, out_features: usize) -> usize {
        match self {
            Self::Road1 => out_features / 2,
            Self::Road2 => out_features,
            Self::Road4 => out_features * 2,
        }
    }
}

impl Default for RoadConfig {
    fn default() -> Self {
        Self { scope: Scope::default(), variant: Variant::Road1, group_size: 64, random: false }
    }
}

impl RoadConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        let default = Self::default();
        Ok(Self {
            scope: Scope::read(fields)?,
            variant: fields.one_of("variant", &VARIANTS, default.variant)?,
            group_size: fields.size("group_size")?.unwrap_or(default.group_size),
            random: !fields.flag("init_weights", Flag::On)?,
        })
    }

    fn branch(&self, linear: Linear, seed: u64) -> Result<Road> {
        let Self { variant, group_size: group, random, .. } = *self;
        if !linear.out_features.is_multiple_of(group) {
            let wanted = format!("a divisor of the {} outputs of {}", linear.out_features, linear.module);
            return Err(Error::mismatch("group_size", wanted, group).with_hint("choose one: `set group_size=N`"));
        }
        Ok(Road { linear, variant, group, random, seed })
    }
}

/// The branch at one module.
#[derive(Debug)]
struct Road {
    linear: Linear,
    variant: Variant,
    group: usize,
    random: bool,
    seed: u64,
}

impl Configuration for RoadConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        if self.group_size == 0 || !self.group_size.is_multiple_of(2) {
            return Err(Error::mismatch("group_size", "an even number from 2", self.group_size));
        }
        self.scope.check()
    }

    fn write(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
        settings.put("variant", self.variant.name());
        settings.put("group_size", self.group_size);
        settings.put("init_weights", !self.random);
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }

    fn scope_mut(&mut self) -> Option<&mut Scope> {
        Some(&mut self.scope)
    }

    fn constants(&self) -> Vec<(&'static str, String)> {
        vec![("variant", self.variant.name().to_owned()), ("group_size", self.group_size.to_string())]
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let chosen = branch::choose(&self.scope, at)?;
        let branches = chosen.into_iter().map(|linear| self.branch(linear, at.seed)).collect::<Result<Vec<_>>>()?;
        branch::warn_of_conv1d("RoAd", &branches, at);
        Ok(branch::placed(self.clone(), branches, Bias::None, at))
    }
}

impl Branch for Road {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "road", module: &self.linear.module, ..Attached::default() }
    }

    fn numbers(&self, _: &Anatomy) -> u128 {
        2 * wide(self.angles())
    }

    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let theta = at.params.of(self.module(), THETA, || self.fresh(THETA));
        let alpha = at.params.of(self.module(), ALPHA, || self.fresh(ALPHA));
        Ok(Box::new(move |call| {
            let (own, other) = self.factors(theta, alpha);
            let y = call.y.cast(DType::F32);
            let halves = y.reshape(&[-1, 2, num::int(self.group / 2)]);
            let half = |place| halves.slice(&[place], &[place + 1], &[1]);
            let turned = (-half(1)).concat(&[half(0)], 1).reshape_like(y);
            (y * own + turned * other).cast(call.y.dtype())
        }))
    }

    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, _: Option<&Range<i64>>) -> Result<Array2<f32>> {
        self.rotated(at, &weight)
    }

    fn fold_bias(&self, at: &Folding<'_>) -> Result<()> {
        fold::change_bias(at, self.module(), self.linear.out_features, |bias| {
            let column = Array2::from_shape_fn((bias.len(), 1), |(output, _)| bias[output]);
            self.rotated(at, &column).map(|rotated| rotated.into_iter().collect())
        })
    }
}

impl Road {
    fn angles(&self) -> usize {
        self.variant.angles(self.linear.out_features)
    }

    /// Fresh ones change nothing: angles of 0 and scales of 1.
    fn fresh(&self, part: KeyPart) -> Tensor {
        let (count, start) = (self.angles(), if part == ALPHA { 1.0 } else { 0.0 });
        if !self.random {
            return Tensor::from_f32(&[count], &vec![start; count]);
        }
        let key = Key::module(self.module(), part).to_string();
        let around: Vec<f32> = init::normal(&mut init::generator(self.seed, &key), &[count], 0.5).to_f32().unwrap_or_default();
        Tensor::from_f32(&[count], &around.iter().map(|number| start + number).collect::<Vec<_>>())
    }

    /// What each output is multiplied with, and what the other one of its pair is, each `[out_features]`.
    fn factors<'g>(&self, theta: Expr<'g>, alpha: Expr<'g>) -> (Expr<'g>, Expr<'g>) {
        let (own, other) = (alpha * theta.cos(), alpha * theta.sin());
        let all = |factors: Expr<'g>, place: i64| match self.variant {
            Variant::Road1 => {
                let half = factors.reshape(&[-1, 1, num::int(self.group / 2)]);
                half.concat(&[half], 1).reshape(&[-1])
            }
            Variant::Road2 => factors,
            Variant::Road4 => factors.reshape(&[-1, 2, num::int(self.group)]).slice(&[place], &[place + 1], &[1]).reshape(&[-1]),
        };
        (all(own, 0), all(other, 1))
    }

    /// The rows of a matrix, `[out_features, n]`, as outputs are rotated.
    fn rotated(&self, at: &Folding<'_>, rows: &Array2<f32>) -> Result<Array2<f32>> {
        let (theta, alpha) = (at.vector(self.module(), THETA)?, at.vector(self.module(), ALPHA)?);
        for (name, found) in [("road_theta", theta.len()), ("road_alpha", alpha.len())] {
            if found != self.angles() {
                return Err(Error::mismatch(format!("length of {name}"), self.angles(), found));
            }
        }
        if rows.nrows() != self.linear.out_features {
            return Err(Error::mismatch("rows of the weight", self.linear.out_features, rows.nrows()));
        }
        let half = self.group / 2;
        let mut rotated = Array2::zeros(rows.dim());
        for (output, mut row) in rotated.axis_iter_mut(Axis(0)).enumerate() {
            let (group, place) = (output / self.group, output % self.group);
            let [of_own, of_other] = match self.variant {
                Variant::Road1 => [group * half + place % half; 2],
                Variant::Road2 => [output; 2],
                Variant::Road4 => [0, 1].map(|term| (2 * group + term) * self.group + place),
            };
            let (own, other) = (alpha[of_own] * theta[of_own].cos(), alpha[of_other] * theta[of_other].sin());
            let (partner, other) = if place < half { (output + half, -other) } else { (output - half, other) };
            row.assign(&(&rows.row(output) * own + &rows.row(partner) * other));
        }
        Ok(rotated)
    }
}
