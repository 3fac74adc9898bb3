//! AdaLoRA: `y = W·x + alpha / (r + 1e-5) · B·(E ⊙ A)·dropout(x)`, an update in the form of its singular values, whose factors are kept nearly
//! orthogonal by a penalty (Zhang et al., Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, equations 3 and 4; PEFT
//! `tuners/adalora`).
//!
//! Ranks stay at `init_r` while training, unless they are allocated: in PEFT by a loop of the user's own that calls `update_and_allocate` after each
//! step, here by the graph of the update ([`Allocation`]). An adapter whose ranks were allocated has them in `rank_pattern`, and each module its own.

mod ranks;

use std::ops::Range;

use indexmap::IndexMap;
use ndarray::Array2;
use serde_json::{Value, json};

use super::branch::{self, Attached, Branch, Forward, Linear, added};
use super::trainable_tokens::{self, TOKEN_DELTA, Tokens};
use crate::adapter::config::fields::{Fields, Flag};
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::settings::{Settings, number};
use crate::adapter::config::{Bias, Scope, at_least_one, finite, probability, scaling};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::allocation::{Allocation, Schedule};
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::params::{Param, init};
use crate::adapter::part::{Change, Folding, Insertion, boxed};
use crate::anatomy::Projection;
use crate::error::{Error, Result};
use crate::ir::{Expr, Tensor};
use crate::num;

/// `[rank, in_features]`: right singular vectors.
const A: KeyPart = KeyPart::new("lora_A", "");
/// `[out_features, rank]`: left singular vectors.
const B: KeyPart = KeyPart::new("lora_B", "");
/// `[rank, 1]`: singular values.
const E: KeyPart = KeyPart::new("lora_E", "");

/// Deviation of fresh vectors (`reset_lora_parameters`).
const DEVIATION: f32 = 0.02;
/// What PEFT adds to the rank that the scale is divided by.
const EPSILON: f64 = 1e-5;
/// Settings that say something where ranks are allocated alone.
const OF_ALLOCATION: &[&str] = &["target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "total_step"];
/// Settings of PEFT's `LoraConfig` that AdaLoRA has and does not use.
const INERT: &[&str] = &["r", "alpha_pattern", "use_rslora", "qalora_group_size", "megatron_core", "ensure_weight_tying"];
/// Settings that change the computation in a way that is not known here.
const REFUSED: &[(&str, &str)] = &[
    ("use_dora", "AdaLoRA has no magnitudes"),
    ("lora_bias", "AdaLoRA's factors have no bias"),
    ("layer_replication", "the layers of an exported graph are not replicated"),
    ("target_parameters", "AdaLoRA on bare parameters is not known here"),
    ("alora_invocation_tokens", "it is LoRA's alone"),
    ("arrow_config", "it is LoRA's alone"),
    ("corda_config", "it is LoRA's alone"),
    ("eva_config", "it is LoRA's alone"),
    ("kasa_config", "it is LoRA's alone"),
    ("loftq_config", "it is LoRA's alone"),
    ("lora_ga_config", "it is LoRA's alone"),
    ("megatron_config", "Megatron's parallel layers are not known here"),
    ("monteclora_config", "it is LoRA's alone"),
    ("use_bdlora", "it is LoRA's alone"),
    ("use_qalora", "it is LoRA's alone"),
    ("velora_config", "it is LoRA's alone"),
];

/// The row of AdaLoRA.
pub static ROW: Row = Row {
    name: "adalora",
    aliases: &[],
    variants: &[],
    about: "Low-rank updates as singular values and nearly orthogonal vectors",
    peft_type: "ADALORA",
    learning_rate: 2e-3,
    family: Family::Tuner,
    tensors: Tensors { parts: &[A, B, E, TOKEN_DELTA], shared: &[] },
    adapter_file: "adalora",
    takes: &[SCOPE, &["rank", "alpha", "dropout", "bias", "allocate_ranks", "trainable_token_indices"]],
    page: "adalora.md",
    read: |fields| AdaLoraConfig::read(fields).map(Into::into),
    configure: |options: &Options| AdaLoraConfig::asked(options).map(Into::into),
};

/// The options of AdaLoRA (`AdaLoraConfig`).
#[derive(Clone, Debug, PartialEq)]
pub struct AdaLoraConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// The rank that every module starts with.
    pub init_r: usize,
    /// The mean rank after allocation.
    pub target_r: usize,
    /// Numerator of the scale; 0: the rank.
    pub alpha: f64,
    /// Probability with which an element of the input is dropped while training.
    pub dropout: f64,
    /// What the penalty is multiplied with.
    pub orth_reg_weight: f64,
    /// When ranks are allocated, if they are.
    pub schedule: Schedule,
    /// Which of the first `init_r` singular values a module kept, by PEFT's name of `lora_E`.
    pub rank_pattern: IndexMap<String, Vec<bool>>,
    /// Which biases of the base are trained.
    pub bias: Bias,
    /// Rows of embeddings that are trained beside it, by the names of their tables.
    pub trainable_token_indices: IndexMap<String, Vec<usize>>,
    /// Whether a fresh adapter changes something, for tests.
    pub random: bool,
    /// Whether the base's weights are stored `[in, out]`.
    pub fan_in_fan_out: bool,
}

impl Default for AdaLoraConfig {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            init_r: 12,
            target_r: 8,
            alpha: 8.0,
            dropout: 0.0,
            orth_reg_weight: 0.5,
            schedule: Schedule { tinit: 0, tfinal: 0, delta_t: 1, beta1: 0.85, beta2: 0.85, total_step: 1000 },
            rank_pattern: IndexMap::new(),
            bias: Bias::None,
            trainable_token_indices: IndexMap::new(),
            random: false,
            fan_in_fan_out: false,
        }
    }
}

impl AdaLoraConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        fields.inert(INERT);
        fields.refuse(REFUSED)?;
        let default = Self::default();
        let size = |field, default: usize| Ok::<_, Error>(fields.size(field)?.unwrap_or(default));
        let kept = |value: &Value| value.as_array()?.iter().map(Value::as_bool).collect();
        Ok(Self {
            scope: Scope::read(fields)?,
            init_r: size("init_r", default.init_r)?,
            target_r: size("target_r", default.target_r)?,
            alpha: fields.number("lora_alpha", default.alpha)?,
            dropout: fields.number("lora_dropout", default.dropout)?,
            orth_reg_weight: fields.number("orth_reg_weight", default.orth_reg_weight)?,
            schedule: Schedule {
                tinit: size("tinit", default.schedule.tinit)?,
                tfinal: size("tfinal", default.schedule.tfinal)?,
                delta_t: size("deltaT", default.schedule.delta_t)?,
                beta1: fields.number("beta1", default.schedule.beta1)?,
                beta2: fields.number("beta2", default.schedule.beta2)?,
                total_step: size("total_step", default.schedule.total_step)?,
            },
            rank_pattern: fields.by_name("rank_pattern", "lists of true and false by name", kept)?,
            bias: Bias::read(fields, "lora_only")?,
            trainable_token_indices: trainable_tokens::read_beside(fields)?,
            random: !fields.flag("init_lora_weights", Flag::On)?,
            fan_in_fan_out: fields.flag("fan_in_fan_out", Flag::Off)?,
        })
    }

    fn asked(options: &Options) -> Result<Self> {
        let is_set = |name: &&&str| options.settings.contains_key(**name);
        if let Some(name) = OF_ALLOCATION.iter().find(is_set).filter(|_| !options.allocate_ranks) {
            let error = Error::setting("allocate_ranks", format!("on, as {name} says how ranks are allocated"), "off");
            return Err(error.with_hint("ranks stay as they are without it"));
        }
        if options.allocate_ranks && !options.settings.contains_key("total_step") {
            let error = Error::setting("set", "total_step, the optimizer steps of the training", "nothing of it");
            return Err(error.with_hint("`set total_step=1000`, and what `max_steps` will be"));
        }
        let default = Self::default();
        let (init_r, alpha) = options.rank_and_alpha(default.init_r);
        Ok(Self {
            scope: options.scope.clone(),
            init_r,
            target_r: default.target_r.min(init_r),
            alpha,
            dropout: options.dropout.unwrap_or(default.dropout),
            bias: options.bias,
            trainable_token_indices: trainable_tokens::asked_beside(options),
            ..default
        })
    }

    /// Which of the first singular values a module kept, if its ranks were allocated.
    fn kept(&self, module: &str) -> Option<&[bool]> {
        let is_of_module = |name: &str| name.strip_prefix(module).is_some_and(|rest| rest == ".lora_E" || rest.starts_with(".lora_E."));
        self.rank_pattern.iter().find(|(name, _)| is_of_module(name)).map(|(_, kept)| kept.as_slice())
    }

    /// The rank of a module: as many singular values as it kept.
    fn rank(&self, module: &str) -> usize {
        self.kept(module).map_or(self.init_r, |kept| kept.iter().filter(|kept| **kept).count())
    }
}

/// The branch at one module.
#[derive(Debug)]
struct Svd {
    linear: Linear,
    rank: usize,
    /// `alpha / (init_r + 1e-5)`: the scale stays where ranks are allocated.
    scaling: f64,
    dropout: f64,
    orth_reg_weight: f64,
    random: bool,
    seed: u64,
}

impl Configuration for AdaLoraConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        at_least_one("init_r", self.init_r)?;
        at_least_one("target_r", self.target_r)?;
        scaling("lora_alpha", self.alpha)?;
        probability("lora_dropout", self.dropout)?;
        let Schedule { tinit, tfinal, total_step, .. } = self.schedule;
        if tinit.saturating_add(tfinal) >= total_step {
            let wanted = format!("more than tinit + tfinal = {}", tinit.saturating_add(tfinal));
            return Err(Error::mismatch("total_step", wanted, total_step).with_hint("PEFT loads no adapter without a phase of allocation"));
        }
        if !(self.orth_reg_weight.is_finite() && self.orth_reg_weight >= 0.0) {
            return Err(Error::mismatch("orth_reg_weight", "a number from 0", self.orth_reg_weight));
        }
        finite("orth_reg_weight", self.orth_reg_weight)?;
        probability("beta1", self.schedule.beta1)?;
        probability("beta2", self.schedule.beta2)?;
        self.scope.check()
    }

    fn write(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
        settings.put_layers(&self.scope);
        settings.put("init_r", self.init_r);
        settings.put("target_r", self.target_r);
        settings.put("lora_alpha", number(self.alpha));
        settings.put("lora_dropout", self.dropout);
        settings.put("orth_reg_weight", self.orth_reg_weight);
        let Schedule { tinit, tfinal, delta_t, beta1, beta2, total_step } = self.schedule;
        for (field, steps) in [("tinit", tinit), ("tfinal", tfinal), ("deltaT", delta_t), ("total_step", total_step)] {
            settings.put(field, steps);
        }
        settings.put("beta1", beta1);
        settings.put("beta2", beta2);
        settings.put("rank_pattern", if self.rank_pattern.is_empty() { Value::Null } else { json!(self.rank_pattern) });
        settings.put("bias", self.bias.setting("lora_only"));
        trainable_tokens::write_beside(&self.trainable_token_indices, settings);
        settings.put("init_lora_weights", !self.random);
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

    fn has_empty_tensors(&self) -> bool {
        !self.rank_pattern.is_empty()
    }

    fn allocation(&self, params: &[Param]) -> Result<Option<Allocation>> {
        if !self.rank_pattern.is_empty() {
            let error = Error::setting("allocate_ranks", "an adapter whose ranks were not allocated yet", "one with a rank_pattern");
            return Err(error.with_hint("without it, training goes on with the ranks that the adapter has"));
        }
        let allocation = ranks::allocation(self, params);
        allocation.check()?;
        Ok(Some(allocation))
    }

    fn drop_ranks(&mut self, names: &[&str], tensors: &mut IndexMap<String, Tensor>, masked: &[f32]) -> Result<()> {
        ranks::drop_ranks(self, names, tensors, masked)
    }

    fn whole(&self, name: &str, tensor: Option<&Tensor>, shape: &[usize]) -> Option<Tensor> {
        ranks::whole(self, name, tensor, shape)
    }

    fn constants(&self) -> Vec<(&'static str, String)> {
        let scale = ("scale of the updates", format!("{} / {}", self.alpha, self.init_r));
        vec![scale, trainable_tokens::constant_beside(&self.trainable_token_indices)]
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let alpha = if self.alpha > 0.0 { self.alpha } else { num::float(self.init_r) };
        let scaling = alpha / (num::float(self.init_r) + EPSILON);
        let svd = |linear: Linear| Svd {
            rank: self.rank(&linear.module),
            linear,
            scaling,
            dropout: self.dropout,
            orth_reg_weight: self.orth_reg_weight,
            random: self.random,
            seed: at.seed,
        };
        // A module that kept no singular value has the base's weight.
        let (kept, others): (Vec<Linear>, Vec<Linear>) =
            branch::choose(&self.scope, at)?.into_iter().partition(|linear| self.rank(&linear.module) > 0);
        let rows = trainable_tokens::find(&self.trainable_token_indices, at)?;
        let config = Self { trainable_token_indices: rows.iter().map(Tokens::setting).collect(), ..self.clone() };
        let mut placed = branch::placed_among(config, kept.into_iter().map(svd).collect(), &others, self.bias, at);
        placed.parts.extend(rows.into_iter().map(boxed));
        Ok(placed)
    }
}

impl Svd {
    fn tensors<'g>(&self, at: &Insertion<'g, '_>) -> [Expr<'g>; 3] {
        let Linear { module, out_features, in_features } = &self.linear;
        let fresh = |part: KeyPart, shape: [usize; 2]| -> Tensor {
            let deviation = if self.random { 1.0 } else { DEVIATION };
            if part == E && !self.random {
                return init::zeros(&shape);
            }
            init::normal(&mut init::generator(self.seed, &Key::module(&**module, part).to_string()), &shape, deviation)
        };
        [(A, [self.rank, *in_features]), (B, [*out_features, self.rank]), (E, [self.rank, 1])]
            .map(|(part, shape)| at.params.of(module, part, || fresh(part, shape)))
    }
}

impl Branch for Svd {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "adalora", module: &self.linear.module, rank: self.rank, dropout: self.dropout }
    }

    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let [a, b, e] = self.tensors(at);
        Ok(Box::new(move |call| {
            let down = call.dropped.matmul((a * e).t()) * self.scaling;
            call.plus(down.matmul(b.t()))
        }))
    }

    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, rows: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let [a, b, e] = [A, B, E].map(|part| at.matrix(self.module(), part));
        let delta = b?.dot(&(a? * e?)) * init::narrow(self.scaling);
        added(weight, &delta, rows)
    }

    fn change(&self, at: &Folding<'_>, _: &Projection) -> Result<Option<Change>> {
        let [a, b, e] = [A, B, E].map(|part| at.matrix(self.module(), part));
        Ok(Some(Change::product(a? * e?, b? * init::narrow(self.scaling))))
    }

    /// `orth_reg_weight · (‖A·Aᵀ − I‖ + ‖Bᵀ·B − I‖) / 2` (`AdaLoraModel.forward`; the mean over the modules is taken where they are put together).
    fn penalty<'g>(&self, at: &Insertion<'g, '_>) -> Option<Expr<'g>> {
        if self.orth_reg_weight <= 0.0 {
            return None;
        }
        let [a, b, _] = self.tensors(at);
        let mut ones = vec![0.0; self.rank * self.rank];
        ones.iter_mut().step_by(self.rank + 1).for_each(|one| *one = 1.0);
        let identity = at.b.constant(Tensor::from_f32(&[self.rank, self.rank], &ones));
        let norm = |product: Expr<'g>| (product - identity).square().sum_all().sqrt();
        Some((norm(a.matmul(a.t())) + norm(b.t().matmul(b))) * (self.orth_reg_weight / 2.0))
    }
}
