//! Trains and merges a method of one's own, an update of rank one: `cargo run --example own_method`.
//!
//! A method is three things: what it does at one module (`Branch`), how it is configured (`Configuration`), and what is the same for all its
//! adapters (`Row`). Registered, it is read, written, trained and merged like those of the library.

use std::ops::Range;
use std::path::Path;

use ndarray::{Array2, Axis};
use peft_onnx::adapter::Method;
use peft_onnx::adapter::config::options::{Options, SCOPE};
use peft_onnx::adapter::config::settings::Settings;
use peft_onnx::adapter::config::{Bias, Scope};
use peft_onnx::adapter::method::{Configuration, Placed, Places, Row};
use peft_onnx::adapter::methods::branch::{self, Attached, Branch, Forward, Linear};
use peft_onnx::adapter::methods::register;
use peft_onnx::adapter::params::init;
use peft_onnx::adapter::params::key::{Family, KeyPart, Tensors};
use peft_onnx::adapter::part::{Folding, Insertion};
use peft_onnx::data::Order;
use peft_onnx::export::AdapterSource;
use peft_onnx::training::{Optimizer, Source};
use peft_onnx::{Bundle, Injection, Model, Result, Trainer, TrainerOptions, onnx};
use serde_json::json;

/// `[out_features]`
const U: KeyPart = KeyPart::new("rank_one_u", "");
/// `[in_features]`
const V: KeyPart = KeyPart::new("rank_one_v", "");

static RANK_ONE: Row = Row {
    name: "rank_one",
    aliases: &[],
    variants: &[],
    about: "An update of rank one",
    peft_type: "RANK_ONE",
    learning_rate: 1e-2,
    family: Family::Tuner,
    tensors: Tensors { parts: &[U, V], shared: &[] },
    adapter_file: "rank_one",
    takes: &[SCOPE],
    page: "",
    read: |fields| Ok(RankOneConfig { scope: Scope::read(fields)? }.into()),
    configure: |options: &Options| Ok(RankOneConfig { scope: options.scope.clone() }.into()),
};

#[derive(Clone, Debug, Default, PartialEq)]
struct RankOneConfig {
    scope: Scope,
}

impl Configuration for RankOneConfig {
    fn row(&self) -> &'static Row {
        &RANK_ONE
    }

    fn check(&self) -> Result<()> {
        self.scope.check()
    }

    fn write(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }

    fn scope_mut(&mut self) -> Option<&mut Scope> {
        Some(&mut self.scope)
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let branches = branch::choose(&self.scope, at)?.into_iter().map(|linear| RankOne { linear, seed: at.seed }).collect();
        Ok(branch::placed(self.clone(), branches, Bias::None, at))
    }
}

/// `y + u · (v · x)`
#[derive(Debug)]
struct RankOne {
    linear: Linear,
    seed: u64,
}

impl Branch for RankOne {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "rank_one", module: &self.linear.module, rank: 1, ..Attached::default() }
    }

    /// The tensors of the branch with their first values, and what becomes of the module's output at each of its calls.
    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let Linear { module, out_features, in_features } = &self.linear;
        let u = at.params.of(module, U, || init::zeros(&[*out_features]));
        let v = at.params.of(module, V, || init::normal(&mut init::generator(self.seed, module), &[*in_features], 0.1));
        Ok(Box::new(move |call| call.plus((call.x * v).sum(&[-1]) * u)))
    }

    /// The weight that stands for both.
    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, _: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let (u, v) = (at.vector(self.module(), U)?, at.vector(self.module(), V)?);
        Ok(weight + u.insert_axis(Axis(1)).dot(&v.insert_axis(Axis(0))))
    }
}

fn main() -> Result<()> {
    register(&RANK_ONE)?;
    let model = Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures/bert_classifier/torchscript.onnx"))?;
    let method = Method::from(RankOneConfig::default());
    let bundle = Bundle::of(&model, &Injection { adapter: AdapterSource::Fresh(method), ..Injection::default() })?;

    let source = Source::with_tokenizer(&bundle, None)?;
    let rows = (0..12).map(|row| json!({"input_ids": [2, 10 + row, 20 + 3 * (row % 3), 30, 3], "label": row % 3}));
    let dataset = source.rows_to_learn(rows)?;
    let optimizer = Optimizer { learning_rate: RANK_ONE.learning_rate, ..Optimizer::default() };
    let mut trainer = Trainer::new(&bundle, &TrainerOptions { optimizer, ..TrainerOptions::default() })?;
    let mut batches = trainer.batches(&source, &dataset, 12, Order::File)?;
    let losses = (0..20).map(|_| Ok(trainer.step(&batches.next_batch()?)?.loss)).collect::<Result<Vec<f32>>>()?;
    println!("loss {:.4} -> {:.4}", losses[0], losses[losses.len() - 1]);
    assert!(losses[losses.len() - 1] < losses[0]);

    let merged = onnx::to_bytes(&trainer.bundle()?.merged()?)?;
    println!("the merged model has {} bytes", merged.len());
    Ok(())
}
