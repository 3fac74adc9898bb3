//! LoKr: `ΔW = scaling · W₁ ⊗ W₂`, each factor whole or a product of two (Yeh et al., LyCORIS; PEFT `tuners/lokr/layer.py`).

use ndarray::{Array2, linalg::kron};

use super::update::{self, Site, Update};
use crate::Result;
use crate::adapter::config::{LokrConfig, Method};
use crate::adapter::params::{
    budget::wide,
    init,
    key::{Key, Part as KeyPart},
    narrow_uniform, param,
};
use crate::adapter::part::{Folding, Insertion, Placed, Places};
use crate::adapter::weights::linalg;
use crate::ir::{Expr, Tensor};

/// The update of one module.
#[derive(Debug)]
struct Kronecker {
    site: Site,
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

/// Finds the modules.
pub(crate) fn place(config: &LokrConfig, at: &Places<'_>) -> Result<Placed> {
    let make = |site: Site| {
        let (inputs, outputs) = (factors(site.in_features, config.decompose_factor), factors(site.out_features, config.decompose_factor));
        // `r < max / 2` of PEFT, without its fractions.
        let is_small = |shape: [usize; 2]| 2 * site.rank < shape[0].max(shape[1]);
        let (left, right) = ([outputs.0, inputs.0], [outputs.1, inputs.1]);
        Kronecker {
            left: Factor { shape: left, is_whole: !(config.decompose_both && is_small(left)) },
            right: Factor { shape: right, is_whole: !is_small(right) },
            site,
        }
    };
    let (parts, product) = update::place(&config.product, at, make)?;
    Ok(Placed { parts, settled: Method::Lokr(LokrConfig { product, ..config.clone() }) })
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

impl Update for Kronecker {
    fn module(&self) -> &str {
        &self.site.module
    }

    fn rank(&self) -> usize {
        self.site.rank
    }

    fn numbers(&self) -> u128 {
        let of = |Factor { shape: [rows, columns], is_whole }: Factor| {
            if is_whole { wide(rows) * wide(columns) } else { wide(self.site.rank) * (wide(rows) + wide(columns)) }
        };
        of(self.left) + of(self.right)
    }

    /// A fresh left factor is zero.
    fn write<'g>(&self, at: &Insertion<'g, '_>) -> Expr<'g> {
        let left = self.factor(at, self.left, [KeyPart::LokrW1, KeyPart::LokrW1A, KeyPart::LokrW1B]);
        let right = self.factor(at, self.right, [KeyPart::LokrW2, KeyPart::LokrW2A, KeyPart::LokrW2B]);
        let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let blocks = left.unsqueeze(&[1, 3]) * right.unsqueeze(&[0, 2]);
        blocks.reshape(&[size(self.site.out_features), size(self.site.in_features)]) * self.site.scaling
    }

    fn compute(&self, at: &Folding<'_>) -> Result<Array2<f32>> {
        let get = |part| linalg::matrix(&at.tensor(&Key::module(&*self.site.module, part).to_string())?);
        let factor = |factor: Factor, [whole, a, b]: [KeyPart; 3]| {
            if factor.is_whole { get(whole) } else { Ok(get(a)?.dot(&get(b)?)) }
        };
        let left = factor(self.left, [KeyPart::LokrW1, KeyPart::LokrW1A, KeyPart::LokrW1B])?;
        let right = factor(self.right, [KeyPart::LokrW2, KeyPart::LokrW2A, KeyPart::LokrW2B])?;
        Ok(kron(&left, &right) * init::narrow(self.site.scaling))
    }
}

impl Kronecker {
    fn factor<'g>(&self, at: &Insertion<'g, '_>, factor: Factor, [whole, a, b]: [KeyPart; 3]) -> Expr<'g> {
        let [rows, columns] = factor.shape;
        let get = |part, shape| param(at.params, &self.site.module, part, || self.fresh(part, shape));
        if factor.is_whole { get(whole, [rows, columns]) } else { get(a, [rows, self.site.rank]).matmul(get(b, [self.site.rank, columns])) }
    }

    fn fresh(&self, part: KeyPart, shape: [usize; 2]) -> Tensor {
        match part {
            KeyPart::LokrW1 | KeyPart::LokrW1A => init::zeros(&shape),
            _ => narrow_uniform(self.site.seed, &Key::module(&*self.site.module, part), shape),
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
