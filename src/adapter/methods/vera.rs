//! VeRA: `y = W·x + b ⊙ B·(d ⊙ A·dropout(x))` with frozen random `A` and `B` that all modules share (Kopiczko et al., VeRA; PEFT
//! `tuners/vera/layer.py`).

use std::ops::Range;

use ndarray::{Array2, Axis, s};

use super::branch::{self, Attached, Branch, Forward, Linear, added};
use crate::adapter::config::fields::{Fields, Flag};
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::{Bias, Scope, at_least_one, finite, probability, settings::Settings};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::init;
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::params::matrices::matrix;
use crate::adapter::part::{Change, Folding, Insertion};
use crate::anatomy::Projection;
use crate::ir::{Expr, Tensor};
use crate::num;
use crate::{Error, Result};

/// `[out_features]`
const LAMBDA_B: KeyPart = KeyPart::new("vera_lambda_b", "");
/// `[rank]`
const LAMBDA_D: KeyPart = KeyPart::new("vera_lambda_d", "");
/// `[rank, in_features]` of the widest module.
const SHARED_A: &str = "base_model.vera_A";
/// `[out_features, rank]` of the widest module.
const SHARED_B: &str = "base_model.vera_B";

/// The row of VeRA.
pub static ROW: Row = Row {
    name: "vera",
    aliases: &[],
    variants: &[],
    about: "Learned scales of shared random projections",
    peft_type: "VERA",
    learning_rate: 1e-2,
    family: Family::Tuner,
    tensors: Tensors { parts: &[LAMBDA_B, LAMBDA_D], shared: &[SHARED_A, SHARED_B] },
    adapter_file: "vera",
    takes: &[SCOPE, &["rank", "dropout", "bias"]],
    page: "other-updates.md",
    read: |fields| VeraConfig::read(fields).map(Into::into),
    configure: |options: &Options| Ok(VeraConfig::asked(options).into()),
};

/// The options of VeRA (`VeraConfig`).
#[derive(Clone, Debug, PartialEq)]
pub struct VeraConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// Length of the inner axis.
    pub rank: usize,
    /// Probability with which an element of the input is dropped while training.
    pub dropout: f64,
    /// Initial value of `vera_lambda_d`.
    pub d_initial: f64,
    /// Seed of the shared projections.
    pub projection_prng_key: i64,
    /// Whether the shared projections are kept in the file.
    pub save_projection: bool,
    /// Which biases of the base are trained.
    pub bias: Bias,
    /// Whether the base's weights are stored `[in, out]`.
    pub fan_in_fan_out: bool,
}

impl Default for VeraConfig {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            rank: 256,
            dropout: 0.0,
            d_initial: 0.1,
            projection_prng_key: 0,
            save_projection: true,
            bias: Bias::None,
            fan_in_fan_out: false,
        }
    }
}

impl VeraConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        fields.inert(&["init_weights"]);
        let default = Self::default();
        Ok(Self {
            scope: Scope::read(fields)?,
            rank: fields.size("r")?.unwrap_or(default.rank),
            dropout: fields.number("vera_dropout", default.dropout)?,
            d_initial: fields.number("d_initial", default.d_initial)?,
            projection_prng_key: fields.integer("projection_prng_key", default.projection_prng_key)?,
            save_projection: fields.flag("save_projection", Flag::On)?,
            bias: Bias::read(fields, "vera_only")?,
            fan_in_fan_out: fields.flag("fan_in_fan_out", Flag::Off)?,
        })
    }

    fn asked(options: &Options) -> Self {
        let default = Self::default();
        Self {
            scope: options.scope.clone(),
            rank: options.rank.unwrap_or(default.rank),
            dropout: options.dropout.unwrap_or(default.dropout),
            bias: options.bias,
            ..default
        }
    }
}

/// The branch at one module.
#[derive(Debug)]
struct Vera {
    linear: Linear,
    rank: usize,
    dropout: f64,
    d_initial: f64,
    /// Outputs and inputs of the widest modules.
    widest: [usize; 2],
    /// Seed of the projections, which all modules share.
    key: u64,
}

impl Configuration for VeraConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        at_least_one("r", self.rank)?;
        probability("vera_dropout", self.dropout)?;
        finite("d_initial", self.d_initial)?;
        self.scope.check()
    }

    fn write(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
        settings.put_layers(&self.scope);
        settings.put("r", self.rank);
        settings.put("vera_dropout", self.dropout);
        settings.put("d_initial", self.d_initial);
        settings.put("projection_prng_key", self.projection_prng_key);
        settings.put("save_projection", self.save_projection);
        settings.put("bias", self.bias.setting("vera_only"));
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

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let mut config = self.clone();
        let sites = branch::choose(&config.scope, at)?;
        let is_given = |key: Key| (at.given)(&key.to_string()).is_some();
        let first = sites.first().ok_or_else(|| Error::invalid("VeRA has no targets"))?;
        if is_given(Key::module(&*first.module, LAMBDA_B)) && !is_given(Key::Shared(SHARED_A)) {
            return Err(Error::unsupported(
                "this VeRA adapter",
                "its file has no projections, which PEFT then draws again with PyTorch's generator",
            )
            .with_hint("save it with `save_projection=True`"));
        }
        if !config.save_projection {
            tracing::warn!("save_projection = false: the projections are saved nevertheless, as nothing but PyTorch draws them again");
        }
        config.save_projection = true;
        let widest = |of: fn(&Linear) -> usize| sites.iter().map(of).max().unwrap_or(0);
        let widest = [widest(|site| site.out_features), widest(|site| site.in_features)];
        let vera = |linear| Vera {
            linear,
            rank: config.rank,
            dropout: config.dropout,
            d_initial: config.d_initial,
            widest,
            key: config.projection_prng_key.unsigned_abs(),
        };
        let (branches, bias) = (sites.iter().cloned().map(vera).collect(), config.bias);
        Ok(branch::placed(config, branches, bias, at))
    }
}

impl Branch for Vera {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "vera", module: &self.linear.module, rank: self.rank, dropout: self.dropout }
    }

    /// `vera_A` is `[rank, widest input]`, `vera_B` `[widest output, rank]`; modules take their first columns and rows.
    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let size = num::int;
        let Linear { module, out_features, in_features } = &self.linear;
        let a_all = self.shared(at, SHARED_A, [self.rank, self.widest[1]]);
        let b_all = self.shared(at, SHARED_B, [self.widest[0], self.rank]);
        let d = at.params.of(module, LAMBDA_D, || Tensor::from_f32(&[self.rank], &vec![init::narrow(self.d_initial); self.rank]));
        let scale = at.params.of(module, LAMBDA_B, || init::zeros(&[*out_features]));
        Ok(Box::new(move |call| {
            let a = a_all.slice(&[0], &[size(*in_features)], &[1]);
            let up = b_all.slice(&[0], &[size(*out_features)], &[0]);
            call.plus(scale * (d * call.dropped.matmul(a.t())).matmul(up.t()))
        }))
    }

    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, rows: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let Change { a, b, .. } = self.product(at)?;
        added(weight, &b.dot(&a), rows)
    }

    fn change(&self, at: &Folding<'_>, _: &Projection) -> Result<Option<Change>> {
        self.product(at).map(Some)
    }
}

impl Vera {
    /// `d ⊙ A` and `b ⊙ B` of this module.
    fn product(&self, at: &Folding<'_>) -> Result<Change> {
        let Linear { module, out_features, in_features } = &self.linear;
        let get = |shared| matrix(&at.tensor(&Key::Shared(shared).to_string())?);
        let (a, b) = (get(SHARED_A)?, get(SHARED_B)?);
        let (d, scale) = (at.vector(module, LAMBDA_D)?, at.vector(module, LAMBDA_B)?);
        let fits = a.ncols() >= *in_features && b.nrows() >= *out_features && scale.len() == *out_features;
        if !fits || d.len() != a.nrows() || d.len() != b.ncols() {
            return Err(Error::mismatch("shape of VeRA's tensors", format!("{out_features} outputs, {in_features} inputs"), module));
        }
        let down = &a.slice(s![.., ..*in_features]) * &d.view().insert_axis(Axis(1));
        let up = &b.slice(s![..*out_features, ..]) * &scale.view().insert_axis(Axis(1));
        Ok(Change::product(down, up))
    }

    fn shared<'g>(&self, at: &Insertion<'g, '_>, shared: &'static str, shape: [usize; 2]) -> Expr<'g> {
        let key = Key::Shared(shared).to_string();
        // Kaiming's bound for linear layers with `a = 0`: `√(6 / fan_in)`, hence a deviation of `√(2 / fan_in)`.
        let bound = (6.0 / init::to_f32(shape[1])).sqrt();
        let name = key.trim_start_matches("base_model.").to_owned();
        at.params.fixed(&key, &name, || init::uniform(&mut init::generator(self.key, &name), &shape, bound))
    }
}
