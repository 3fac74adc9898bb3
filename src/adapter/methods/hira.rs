//! HiRA: `y = W·x + (W ⊙ B·A)·dropout(x)` (Huang et al., HiRA: Parameter-Efficient Hadamard High-Rank Adaptation, equation 5; PEFT
//! `tuners/hira/layer.py`).

use std::ops::Range;

use indexmap::IndexMap;
use ndarray::Array2;
use serde_json::{Value, json};

use super::branch::{self, Attached, Branch, Forward, Linear, added, has_stored_weight, stored_weight};
use crate::adapter::config::fields::{Fields, Flag, size};
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::{Bias, Scope, at_least_one, probability, settings::Settings};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::params::{init, narrow_uniform};
use crate::adapter::part::{Folding, Insertion};
use crate::anatomy::Layout;
use crate::error::{Error, Result};
use crate::ir::Tensor;

/// `[rank, in_features]`
const A: KeyPart = KeyPart::new("hira_A", "");
/// `[out_features, rank]`
const B: KeyPart = KeyPart::new("hira_B", "");

/// The row of HiRA.
pub static ROW: Row = Row {
    name: "hira",
    aliases: &[],
    variants: &[],
    about: "The base's weights times low-rank factors, element by element",
    peft_type: "HIRA",
    learning_rate: 5e-3,
    family: Family::Tuner,
    tensors: Tensors { parts: &[A, B], shared: &[] },
    adapter_file: "hira",
    takes: &[SCOPE, &["rank", "dropout", "rank_pattern"]],
    page: "hira.md",
    read: |fields| HiraConfig::read(fields).map(Into::into),
    configure: |options: &Options| {
        let default = HiraConfig::default();
        Ok(HiraConfig {
            scope: options.scope.clone(),
            rank: options.rank.unwrap_or(default.rank),
            dropout: options.dropout.unwrap_or(default.dropout),
            rank_pattern: options.rank_pattern.clone(),
            ..default
        }
        .into())
    },
};

/// The options of HiRA (`HiraConfig`).
#[derive(Clone, Debug, PartialEq)]
pub struct HiraConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// Length of the inner axis.
    pub rank: usize,
    /// Probability with which an element of the input is dropped while training.
    pub dropout: f64,
    /// Other ranks, found as for LoRA.
    pub rank_pattern: IndexMap<String, usize>,
    /// How the factors start.
    pub init: HiraInit,
    /// Whether the base's weights are stored `[in, out]`.
    pub fan_in_fan_out: bool,
}

/// How the factors start (`init_weights`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HiraInit {
    /// `A` uniform as PyTorch's `Linear`, `B` zero.
    #[default]
    Kaiming,
    /// `A` normal with deviation `1 / r`, `B` zero.
    Gaussian,
    /// Both normal with deviation 1, for tests.
    Random,
}

impl Default for HiraConfig {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            rank: 32,
            dropout: 0.0,
            rank_pattern: IndexMap::new(),
            init: HiraInit::Kaiming,
            fan_in_fan_out: false,
        }
    }
}

impl HiraConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        let default = Self::default();
        Ok(Self {
            scope: Scope::read(fields)?,
            rank: fields.size("r")?.unwrap_or(default.rank),
            dropout: fields.number("hira_dropout", default.dropout)?,
            rank_pattern: fields.by_name("rank_pattern", "ranks by name", size)?,
            init: match fields.value("init_weights") {
                None | Some(Value::Bool(true)) => HiraInit::Kaiming,
                Some(Value::Bool(false)) => HiraInit::Random,
                Some(Value::String(name)) if name.eq_ignore_ascii_case("gaussian") => HiraInit::Gaussian,
                Some(other) => return Err(Error::mismatch("init_weights", "true, false or gaussian", other)),
            },
            fan_in_fan_out: fields.flag("fan_in_fan_out", Flag::Off)?,
        })
    }
}

/// The branch at one module.
#[derive(Debug)]
struct Hira {
    linear: Linear,
    rank: usize,
    dropout: f64,
    init: HiraInit,
    seed: u64,
}

impl Configuration for HiraConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        at_least_one("r", self.rank)?;
        self.rank_pattern.iter().try_for_each(|(key, &rank)| at_least_one(&format!("rank_pattern {key:?}"), rank))?;
        probability("hira_dropout", self.dropout)?;
        self.scope.check()
    }

    fn write(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
        settings.put_layers(&self.scope);
        settings.put("r", self.rank);
        settings.put("hira_dropout", self.dropout);
        settings.put("rank_pattern", json!(self.rank_pattern));
        settings.put("fan_in_fan_out", self.fan_in_fan_out);
        let init = match self.init {
            HiraInit::Kaiming => json!(true),
            HiraInit::Random => json!(false),
            HiraInit::Gaussian => json!("gaussian"),
        };
        settings.put("init_weights", init);
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

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let hira = |(linear, rank)| Hira { linear, rank, dropout: self.dropout, init: self.init, seed: at.seed };
        let branches = branch::choose_ranks(self.rank, &self.rank_pattern, &self.scope, at)?.into_iter().map(hira).collect();
        Ok(branch::placed(self.clone(), branches, Bias::None, at))
    }
}

impl Branch for Hira {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "hira", module: &self.linear.module, rank: self.rank, dropout: self.dropout }
    }

    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let Linear { module, out_features, in_features } = &self.linear;
        has_stored_weight(at, module)?;
        let a = at.params.of(module, A, || self.fresh(A, [self.rank, *in_features]));
        let b = at.params.of(module, B, || self.fresh(B, [*out_features, self.rank]));
        Ok(Box::new(move |call| {
            let weight = stored_weight(a.b(), call.projection);
            let change = match call.projection.weight.layout {
                Layout::OutIn => call.dropped.matmul((weight * b.matmul(a)).t()),
                Layout::InOut => call.dropped.matmul(weight * a.t().matmul(b.t())),
            };
            call.plus(change)
        }))
    }

    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, rows: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let product = at.matrix(self.module(), B)?.dot(&at.matrix(self.module(), A)?);
        if product.dim() != weight.dim() {
            return Err(Error::mismatch("shape of the update", format!("{:?}", weight.dim()), format!("{:?}", product.dim())));
        }
        let delta = &weight * &product;
        added(weight, &delta, rows)
    }
}

impl Hira {
    fn fresh(&self, part: KeyPart, shape: [usize; 2]) -> Tensor {
        let key = Key::module(self.module(), part);
        let normal = |deviation| init::normal(&mut init::generator(self.seed, &key.to_string()), &shape, deviation);
        match (self.init, part) {
            (HiraInit::Random, _) => normal(1.0),
            (_, B) => init::zeros(&shape),
            (HiraInit::Gaussian, _) => normal(init::to_f32(self.rank).recip()),
            (HiraInit::Kaiming, _) => narrow_uniform(self.seed, &key, shape),
        }
    }
}
