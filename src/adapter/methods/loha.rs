//! LoHa: `ΔW = scaling · (A₁·B₁) ⊙ (A₂·B₂)` (Hyeon-Woo et al., FedPara; PEFT `tuners/loha/layer.py`).

use crate::adapter::config::{Method, ProductConfig};
use crate::adapter::params::{
    budget::wide,
    init,
    key::{Key, Part as KeyPart},
    narrow_uniform, param,
};
use crate::adapter::part::{Folding, Insertion, Placed, Places};
use crate::adapter::weights::linalg;
use ndarray::Array2;

use super::update::{self, Site, Update};
use crate::Result;
use crate::ir::Expr;

/// The update of one module.
#[derive(Debug)]
struct Hadamard(Site);

/// Finds the modules.
pub(crate) fn place(config: &ProductConfig, at: &Places<'_>) -> Result<Placed> {
    let (parts, config) = update::place(config, at, Hadamard)?;
    Ok(Placed { parts, settled: Method::Loha(config) })
}

impl Update for Hadamard {
    fn module(&self) -> &str {
        &self.0.module
    }

    fn rank(&self) -> usize {
        self.0.rank
    }

    fn numbers(&self) -> u128 {
        2 * wide(self.0.rank) * (wide(self.0.out_features) + wide(self.0.in_features))
    }

    /// `hada_w1_a` and `hada_w2_a` are `[out_features, rank]`, `hada_w1_b` and `hada_w2_b` `[rank, in_features]`; a fresh `hada_w2_b` is zero.
    fn write<'g>(&self, at: &Insertion<'g, '_>) -> Expr<'g> {
        let Site { module, out_features, in_features, rank, scaling, seed } = &self.0;
        let (left, right) = ([*out_features, *rank], [*rank, *in_features]);
        let get = |part, shape: [usize; 2]| {
            param(at.params, module, part, || match part {
                KeyPart::HadaW2B => init::zeros(&shape),
                _ => narrow_uniform(*seed, &Key::module(&**module, part), shape),
            })
        };
        let first = get(KeyPart::HadaW1A, left).matmul(get(KeyPart::HadaW1B, right));
        let second = get(KeyPart::HadaW2A, left).matmul(get(KeyPart::HadaW2B, right));
        first * second * *scaling
    }

    fn compute(&self, at: &Folding<'_>) -> Result<Array2<f32>> {
        let get = |part| linalg::matrix(&at.tensor(&Key::module(&*self.0.module, part).to_string())?);
        let first = get(KeyPart::HadaW1A)?.dot(&get(KeyPart::HadaW1B)?);
        let second = get(KeyPart::HadaW2A)?.dot(&get(KeyPart::HadaW2B)?);
        Ok(first * second * init::narrow(self.0.scaling))
    }
}
