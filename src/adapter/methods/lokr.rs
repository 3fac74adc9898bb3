//! LoKr: `ΔW = scaling · W₁ ⊗ W₂`, each factor whole or a product of two (Yeh et al., LyCORIS; PEFT `tuners/lokr/layer.py`).

use std::ops::Range;

use ndarray::{Array2, linalg::kron};

use super::branch::{self, Attached, Branch, Forward, added};
use super::product::{ProductConfig, ProductSite};
use crate::adapter::config::fields::{Fields, Flag};
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::{Bias, Scope, settings::Settings};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::budget::wide;
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::params::{init, narrow_uniform};
use crate::adapter::part::{Folding, Insertion};
use crate::anatomy::Anatomy;
use crate::error::Result;
use crate::ir::{Expr, Tensor};
use crate::num;

/// The left factor: whole, or its left and right factors.
const LEFT: [KeyPart; 3] = [KeyPart::new("lokr_w1", ""), KeyPart::new("lokr_w1_a", ""), KeyPart::new("lokr_w1_b", "")];
/// The right factor: whole, or its left and right factors.
const RIGHT: [KeyPart; 3] = [KeyPart::new("lokr_w2", ""), KeyPart::new("lokr_w2_a", ""), KeyPart::new("lokr_w2_b", "")];

/// The row of LoKr.
pub static ROW: Row = Row {
    name: "lokr",
    aliases: &[],
    variants: &[],
    about: "Kronecker products",
    peft_type: "LOKR",
    learning_rate: 5e-4,
    family: Family::Tuner,
    tensors: Tensors { parts: &[LEFT[0], LEFT[1], LEFT[2], RIGHT[0], RIGHT[1], RIGHT[2]], shared: &[] },
    adapter_file: "lokr",
    takes: &[SCOPE, &["rank", "alpha", "rank_pattern", "alpha_pattern"]],
    page: "other-updates.md",
    read: |fields| LokrConfig::read(fields).map(Into::into),
    configure: |options: &Options| Ok(LokrConfig { product: ProductConfig::asked(options), ..LokrConfig::default() }.into()),
};

/// The options of LoKr (`LoKrConfig`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LokrConfig {
    /// What it shares with LoHa.
    pub product: ProductConfig,
    /// Whether the left factor is low-rank, too.
    pub decompose_both: bool,
    /// Size of the left factor; none: as near the square root as divides.
    pub decompose_factor: Option<usize>,
    /// Whether what dropout leaves is scaled up.
    pub rank_dropout_scale: bool,
}

/// The update of one module.
#[derive(Debug)]
struct Kronecker {
    site: ProductSite,
    /// The left factor.
    left: Factor,
    /// The right factor.
    right: Factor,
}

/// One factor.
#[derive(Clone, Copy, Debug)]
struct Factor {
    shape: [usize; 2],
    /// Whether it is kept as it is, rather than as a product.
    is_whole: bool,
}

impl LokrConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        Ok(Self {
            product: ProductConfig::read(fields)?,
            decompose_both: fields.flag("decompose_both", Flag::Off)?,
            decompose_factor: usize::try_from(fields.integer("decompose_factor", -1)?).ok(),
            rank_dropout_scale: fields.flag("rank_dropout_scale", Flag::Off)?,
        })
    }

    fn kronecker(&self, site: ProductSite) -> Kronecker {
        let (inputs, outputs) = (factors(site.in_features, self.decompose_factor), factors(site.out_features, self.decompose_factor));
        // `r < max / 2` of PEFT, without its fractions.
        let is_small = |shape: [usize; 2]| 2 * site.rank < shape[0].max(shape[1]);
        let (left, right) = ([outputs.0, inputs.0], [outputs.1, inputs.1]);
        Kronecker {
            left: Factor { shape: left, is_whole: !(self.decompose_both && is_small(left)) },
            right: Factor { shape: right, is_whole: !is_small(right) },
            site,
        }
    }
}

impl Configuration for LokrConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        self.product.checked()
    }

    fn write(&self, settings: &mut Settings) {
        self.product.written(settings);
        settings.put("decompose_both", self.decompose_both);
        settings.put("decompose_factor", self.decompose_factor.map_or_else(|| (-1).into(), serde_json::Value::from));
        settings.put("rank_dropout_scale", self.rank_dropout_scale);
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let branches = self.product.sites(at)?.into_iter().map(|site| self.kronecker(site)).collect();
        Ok(branch::placed(self.clone(), branches, Bias::None, at))
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.product.scope)
    }

    fn scope_mut(&mut self) -> Option<&mut Scope> {
        Some(&mut self.product.scope)
    }

    fn constants(&self) -> Vec<(&'static str, String)> {
        self.product.scales()
    }
}

/// Two numbers whose product is `length`: `wanted` and the other, or the two that are nearest to each other, the smaller first.
fn factors(length: usize, wanted: Option<usize>) -> (usize, usize) {
    if let Some(wanted) = wanted.filter(|&wanted| wanted > 0 && length.is_multiple_of(wanted)) {
        return (wanted, length / wanted);
    }
    let most = wanted.unwrap_or(length);
    let (mut small, mut large) = (1, length);
    while small < large {
        let Some(next) = (small + 1..=length).find(|&n| length.is_multiple_of(n)) else { break };
        if next + length / next > 1 + length || next > most {
            break;
        }
        (small, large) = (next, length / next);
    }
    (small.min(large), small.max(large))
}

impl Branch for Kronecker {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "update", module: &self.site.module, rank: self.site.rank, ..Attached::default() }
    }

    fn numbers(&self, _: &Anatomy) -> u128 {
        let of = |Factor { shape: [rows, columns], is_whole }: Factor| {
            if is_whole { wide(rows) * wide(columns) } else { wide(self.site.rank) * (wide(rows) + wide(columns)) }
        };
        of(self.left) + of(self.right)
    }

    /// A fresh left factor is zero.
    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let size = num::int;
        let delta = at.b.scoped(&format!("update/{}", self.module()), || {
            let (left, right) = (self.factor(at, self.left, LEFT), self.factor(at, self.right, RIGHT));
            let blocks = left.unsqueeze(&[1, 3]) * right.unsqueeze(&[0, 2]);
            blocks.reshape(&[size(self.site.out_features), size(self.site.in_features)]) * self.site.scaling
        });
        Ok(Box::new(move |call| call.plus(call.x.matmul(delta.t()))))
    }

    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, rows: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let get = |part| at.matrix(self.module(), part);
        let factor = |factor: Factor, [whole, a, b]: [KeyPart; 3]| {
            if factor.is_whole { get(whole) } else { Ok(get(a)?.dot(&get(b)?)) }
        };
        let delta = kron(&factor(self.left, LEFT)?, &factor(self.right, RIGHT)?) * init::narrow(self.site.scaling);
        added(weight, &delta, rows)
    }
}

impl Kronecker {
    fn factor<'g>(&self, at: &Insertion<'g, '_>, factor: Factor, [whole, a, b]: [KeyPart; 3]) -> Expr<'g> {
        let [rows, columns] = factor.shape;
        let get = |part, shape| at.params.of(self.module(), part, || self.fresh(part, shape));
        if factor.is_whole { get(whole, [rows, columns]) } else { get(a, [rows, self.site.rank]).matmul(get(b, [self.site.rank, columns])) }
    }

    fn fresh(&self, part: KeyPart, shape: [usize; 2]) -> Tensor {
        if LEFT[..2].contains(&part) {
            init::zeros(&shape)
        } else {
            narrow_uniform(self.site.seed, &Key::module(self.module(), part), shape)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_taken_apart_as_in_peft() {
        let rows = [(256, None, (16, 16)), (128, None, (8, 16)), (127, None, (1, 127)), (128, Some(4), (4, 32)), (360, None, (18, 20))];
        for (length, wanted, expected) in rows {
            assert_eq!(factors(length, wanted), expected, "{length} {wanted:?}");
        }
    }
}
