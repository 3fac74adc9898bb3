//! LoHa: `ΔW = scaling · (A₁·B₁) ⊙ (A₂·B₂)` (Hyeon-Woo et al., FedPara; PEFT `tuners/loha/layer.py`).

use std::ops::Range;

use ndarray::Array2;

use super::branch::{self, Attached, Branch, Forward, added};
use super::product::{ProductConfig, ProductSite};
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::{Bias, Scope, settings::Settings};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::budget::wide;
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::params::{init, narrow_uniform};
use crate::adapter::part::{Folding, Insertion};
use crate::anatomy::Anatomy;
use crate::error::Result;

/// `[out_features, rank]`
const W1_A: KeyPart = KeyPart::new("hada_w1_a", "");
/// `[rank, in_features]`
const W1_B: KeyPart = KeyPart::new("hada_w1_b", "");
/// `[out_features, rank]`
const W2_A: KeyPart = KeyPart::new("hada_w2_a", "");
/// `[rank, in_features]`
const W2_B: KeyPart = KeyPart::new("hada_w2_b", "");

/// The row of LoHa.
pub static ROW: Row = Row {
    name: "loha",
    aliases: &[],
    variants: &[],
    about: "Hadamard products of two low-rank matrices",
    peft_type: "LOHA",
    learning_rate: 5e-4,
    family: Family::Tuner,
    tensors: Tensors { parts: &[W1_A, W1_B, W2_A, W2_B], shared: &[] },
    adapter_file: "loha",
    takes: &[SCOPE, &["rank", "alpha", "rank_pattern", "alpha_pattern"]],
    page: "other-updates.md",
    read: |fields| ProductConfig::read(fields).map(|product| LohaConfig(product).into()),
    configure: |options: &Options| Ok(LohaConfig(ProductConfig::asked(options)).into()),
};

/// The options of LoHa (`LoHaConfig`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LohaConfig(pub ProductConfig);

/// The update of one module.
#[derive(Debug)]
struct Hadamard(ProductSite);

impl Configuration for LohaConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        self.0.checked()
    }

    fn write(&self, settings: &mut Settings) {
        self.0.written(settings);
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let branches = self.0.sites(at)?.into_iter().map(Hadamard).collect();
        Ok(branch::placed(self.clone(), branches, Bias::None, at))
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.0.scope)
    }

    fn scope_mut(&mut self) -> Option<&mut Scope> {
        Some(&mut self.0.scope)
    }

    fn constants(&self) -> Vec<(&'static str, String)> {
        self.0.scales()
    }
}

impl Branch for Hadamard {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "update", module: &self.0.module, rank: self.0.rank, ..Attached::default() }
    }

    fn numbers(&self, _: &Anatomy) -> u128 {
        2 * wide(self.0.rank) * (wide(self.0.out_features) + wide(self.0.in_features))
    }

    /// A fresh `hada_w2_b` is zero.
    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let ProductSite { module, out_features, in_features, rank, scaling, seed } = &self.0;
        let (left, right) = ([*out_features, *rank], [*rank, *in_features]);
        let get = |part, shape: [usize; 2]| {
            at.params.of(module, part, || {
                if part == W2_B { init::zeros(&shape) } else { narrow_uniform(*seed, &Key::module(&**module, part), shape) }
            })
        };
        let delta = at.b.scoped(&format!("update/{module}"), || {
            let first = get(W1_A, left).matmul(get(W1_B, right));
            let second = get(W2_A, left).matmul(get(W2_B, right));
            first * second * *scaling
        });
        Ok(Box::new(move |call| call.plus(call.x.matmul(delta.t()))))
    }

    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, rows: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let get = |part| at.matrix(self.module(), part);
        let first = get(W1_A)?.dot(&get(W1_B)?);
        let second = get(W2_A)?.dot(&get(W2_B)?);
        added(weight, &(first * second * init::narrow(self.0.scaling)), rows)
    }
}
