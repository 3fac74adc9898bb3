//! MiSS: an update of one block of weights that all blocks of a matrix share (Kang & Yin, MiSS: Balancing LoRA Performance and Efficiency with
//! Simple Shard Sharing; PEFT `tuners/miss/layer.py`).
//!
//! ```text
//! default  ΔW[o, j] = D[j mod r, o]                     D [r, out_features]
//! mini     the same, with D [r, mini_r] repeated        D [r, mini_r]
//! bat      each block of r columns: W·D[o] + D[o]       D [out_features / r, r, r]
//! ```

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis, s};
use serde_json::{Value, json};

use super::branch::{self, Attached, Branch, Call, Forward, Linear, added, has_stored_weight, stored_weight};
use crate::adapter::config::fields::Fields;
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::{Bias, Scope, at_least_one, probability, settings::Settings};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::budget::wide;
use crate::adapter::params::init;
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::part::{Folding, Insertion};
use crate::anatomy::{Anatomy, Layout};
use crate::error::{Error, Result};
use crate::ir::{Expr, Tensor};
use crate::num;

/// `D`, of the shape that goes with the kind.
const BLOCK: KeyPart = KeyPart::new("miss_block", "");

/// The row of MiSS.
pub static ROW: Row = Row {
    name: "miss",
    aliases: &[],
    variants: &[],
    about: "One block of weights that is added to all blocks of a matrix",
    peft_type: "MISS",
    learning_rate: 1e-3,
    family: Family::Tuner,
    tensors: Tensors { parts: &[BLOCK], shared: &[] },
    adapter_file: "miss",
    takes: &[SCOPE, &["rank", "dropout", "bias"]],
    page: "miss.md",
    read: |fields| MissConfig::read(fields).map(Into::into),
    configure: |options: &Options| {
        let default = MissConfig::default();
        Ok(MissConfig {
            scope: options.scope.clone(),
            rank: options.rank.unwrap_or(default.rank),
            dropout: options.dropout.unwrap_or(default.dropout),
            bias: options.bias,
            ..default
        }
        .into())
    },
};

/// The options of MiSS (`MissConfig`).
#[derive(Clone, Debug, PartialEq)]
pub struct MissConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// Columns of a block.
    pub rank: usize,
    /// Rows of a block of the kind `mini`.
    pub mini_r: usize,
    /// Probability with which an element of the input is dropped while training.
    pub dropout: f64,
    /// The kind of update, and how it starts (`init_weights`).
    pub kind: MissKind,
    /// Which biases of the base are trained.
    pub bias: Bias,
}

/// Kinds of updates (`init_weights`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissKind {
    /// One block of columns for all, zero at first.
    #[default]
    Balanced,
    /// The same from random numbers, for tests.
    Random,
    /// Blocks that are multiplied with the weight as well.
    Bat,
    /// A block that is repeated along the rows, too.
    Mini,
}

impl Default for MissConfig {
    fn default() -> Self {
        Self { scope: Scope::default(), rank: 64, mini_r: 1, dropout: 0.0, kind: MissKind::Balanced, bias: Bias::None }
    }
}

impl MissConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        let default = Self::default();
        Ok(Self {
            scope: Scope::read(fields)?,
            rank: fields.size("r")?.unwrap_or(default.rank),
            mini_r: fields.size("mini_r")?.unwrap_or(default.mini_r),
            dropout: fields.number("miss_dropout", default.dropout)?,
            kind: match fields.value("init_weights") {
                None | Some(Value::Bool(true)) => MissKind::Balanced,
                Some(Value::Bool(false)) => MissKind::Random,
                Some(Value::String(name)) if name == "bat" => MissKind::Bat,
                Some(Value::String(name)) if name == "mini" => MissKind::Mini,
                Some(other) => return Err(Error::mismatch("init_weights", "true, false, bat or mini", other)),
            },
            bias: Bias::read(fields, "MiSS_only")?,
        })
    }

    /// The branch at a module whose lengths the blocks must divide.
    fn branch(&self, linear: Linear, seed: u64) -> Result<Miss> {
        let Linear { module, out_features, in_features } = &linear;
        let rank = self.rank;
        let wrong = |expected: String, found: usize| {
            let error = Error::mismatch(format!("r of {module}"), expected, found);
            Err(error.with_hint("choose another one: `rank N`, or leave the module out of `target_modules`"))
        };
        if rank > *in_features {
            return wrong(format!("at most its {in_features} inputs"), rank);
        }
        if self.kind == MissKind::Bat && !(in_features.is_multiple_of(rank) && out_features.is_multiple_of(rank)) {
            return wrong(format!("a divisor of its {in_features} inputs and {out_features} outputs"), rank);
        }
        if self.kind == MissKind::Mini && !out_features.is_multiple_of(self.mini_r) {
            return Err(Error::mismatch(format!("mini_r of {module}"), format!("a divisor of its {out_features} outputs"), self.mini_r));
        }
        Ok(Miss { linear, rank, mini_r: self.mini_r, dropout: self.dropout, kind: self.kind, seed })
    }
}

/// The branch at one module.
#[derive(Debug)]
struct Miss {
    linear: Linear,
    rank: usize,
    mini_r: usize,
    dropout: f64,
    kind: MissKind,
    seed: u64,
}

impl Configuration for MissConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        at_least_one("r", self.rank)?;
        at_least_one("mini_r", self.mini_r)?;
        probability("miss_dropout", self.dropout)?;
        self.scope.check()
    }

    fn write(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
        settings.put_layers(&self.scope);
        settings.put("r", self.rank);
        settings.put("mini_r", self.mini_r);
        settings.put("miss_dropout", self.dropout);
        let kind = match self.kind {
            MissKind::Balanced => json!(true),
            MissKind::Random => json!(false),
            MissKind::Bat => json!("bat"),
            MissKind::Mini => json!("mini"),
        };
        settings.put("init_weights", kind);
        settings.put("bias", self.bias.setting("MiSS_only"));
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }

    fn scope_mut(&mut self) -> Option<&mut Scope> {
        Some(&mut self.scope)
    }

    fn constants(&self) -> Vec<(&'static str, String)> {
        vec![("init_weights", format!("{:?}", if self.kind == MissKind::Random { MissKind::Balanced } else { self.kind }))]
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let branches =
            branch::choose(&self.scope, at)?.into_iter().map(|linear| self.branch(linear, at.seed)).collect::<Result<Vec<_>>>()?;
        branch::warn_of_conv1d("MiSS", &branches, at);
        if self.kind == MissKind::Bat && self.dropout > 0.0 {
            tracing::warn!(
                "miss_dropout = {}: nothing is dropped where weights are multiplied (init_weights = bat), as in PEFT",
                self.dropout
            );
        }
        Ok(branch::placed(self.clone(), branches, self.bias, at))
    }
}

impl Miss {
    fn shape(&self) -> Vec<usize> {
        let (out, rank) = (self.linear.out_features, self.rank);
        match self.kind {
            MissKind::Balanced | MissKind::Random => vec![rank, out],
            MissKind::Mini => vec![rank, self.mini_r],
            MissKind::Bat => vec![out / rank, rank, rank],
        }
    }

    fn fresh(&self) -> Tensor {
        let shape = self.shape();
        if self.kind != MissKind::Random {
            return init::zeros(&shape);
        }
        let key = Key::module(self.module(), BLOCK).to_string();
        init::uniform(&mut init::generator(self.seed, &key), &shape, init::to_f32(shape[1]).sqrt().recip())
    }

    /// The block `[r, out_features]`, repeated if it is a smaller one.
    fn whole<'g>(&self, block: Expr<'g>) -> Expr<'g> {
        if self.kind != MissKind::Mini {
            return block;
        }
        let times = self.linear.out_features / self.mini_r;
        let ones = block.b().constant(Tensor::from_f32(&[1, times, 1], &vec![1.0; times]));
        (block.unsqueeze(&[1]) * ones).reshape(&[size(self.rank), size(self.linear.out_features)])
    }

    /// `x` with the blocks of its columns added up, times the block: `[rows, out_features]`.
    fn shared<'g>(&self, x: Expr<'g>, block: Expr<'g>) -> Expr<'g> {
        let (inputs, rank) = (size(self.linear.in_features), size(self.rank));
        let (blocks, rest) = (inputs / rank, inputs % rank);
        let rows = x.reshape(&[-1, inputs]);
        let aligned = if rest == 0 { rows } else { rows.slice(&[0], &[blocks * rank], &[1]) };
        let sum = aligned.reshape(&[-1, blocks, rank]).sum_away(&[1]).matmul(block);
        if rest == 0 {
            return sum;
        }
        sum + rows.slice(&[blocks * rank], &[inputs], &[1]).matmul(block.slice(&[0], &[rest], &[0]))
    }

    /// `ΔW` of the kind that is multiplied with the weight, `[out_features, in_features]`.
    fn multiplied<'g>(&self, call: &Call<'g, '_>, block: Expr<'g>) -> Expr<'g> {
        let stored = stored_weight(block.b(), call.projection);
        let weight = if call.projection.weight.layout == Layout::OutIn { stored } else { stored.t() };
        let (outputs, inputs, rank) = (size(self.linear.out_features), size(self.linear.in_features), size(self.rank));
        let blocks = weight.reshape(&[outputs / rank, rank, inputs / rank, rank]).transpose(&[2, 0, 1, 3]);
        (blocks.matmul(block) + block).transpose(&[1, 2, 0, 3]).reshape(&[outputs, inputs])
    }
}

fn size(length: usize) -> i64 {
    num::int(length)
}

impl Branch for Miss {
    fn attached(&self) -> Attached<'_> {
        // PEFT drops nothing where the weight itself is multiplied.
        let dropout = if self.kind == MissKind::Bat { 0.0 } else { self.dropout };
        Attached { name: "miss", module: &self.linear.module, rank: self.rank, dropout }
    }

    fn numbers(&self, _: &Anatomy) -> u128 {
        self.shape().into_iter().map(wide).product()
    }

    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        if self.kind == MissKind::Bat {
            has_stored_weight(at, self.module())?;
        }
        let block = at.params.of(self.module(), BLOCK, || self.fresh());
        Ok(Box::new(move |call| {
            let change = match self.kind {
                MissKind::Bat => call.x.matmul(self.multiplied(call, block).t()),
                _ => self.shared(call.dropped, self.whole(block)).reshape_like(call.y),
            };
            call.plus(change)
        }))
    }

    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, rows: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let Linear { module, out_features, in_features } = &self.linear;
        let block = at.vector(module, BLOCK)?;
        let found = block.len();
        let shaped = |rows: usize| {
            let columns = found.checked_div(rows).unwrap_or(0);
            block.to_shape((rows, columns)).map_err(|_| Error::mismatch("elements of miss_block", format!("{:?}", self.shape()), found))
        };
        let mut delta = Array2::zeros((*out_features, *in_features));
        if self.kind == MissKind::Bat {
            let blocks = shaped(*out_features)?;
            for (at, block) in blocks.axis_chunks_iter(Axis(0), self.rank).enumerate() {
                let own = at * self.rank..(at + 1) * self.rank;
                for start in (0..*in_features).step_by(self.rank) {
                    let columns = start..start + self.rank;
                    let product = weight.slice(s![own.clone(), columns.clone()]).dot(&block) + block;
                    delta.slice_mut(s![own.clone(), columns]).assign(&product);
                }
            }
        } else {
            let block = shaped(self.rank)?;
            let block: ArrayView2<'_, f32> = block.view();
            for ((row, column), number) in delta.indexed_iter_mut() {
                *number = block[[column % self.rank, row % block.ncols()]];
            }
        }
        added(weight, &delta, rows)
    }
}
