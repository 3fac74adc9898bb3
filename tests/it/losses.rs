//! Losses and their gradients, run by ONNX Runtime, against the reference libraries' (`scripts/fixtures/make_loss_fixtures.py`).

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::collections::{BTreeMap, BTreeSet};

use peft_onnx::grad;
use peft_onnx::ir::{Builder, DType, Dim, Expr, Graph, ModelInfo, Tensor};
use peft_onnx::onnx::{self, WriteOptions};
use peft_onnx::ort::{Device, Feed, HostTensor, Options, Runtime, Session, Settings};
use peft_onnx::train::class_terms::{ClassTerms, Weights};
use peft_onnx::train::distillation::{Distillation, Divergence};
use peft_onnx::train::losses::{LOSSES, Reads, Row, Sum, class_cross_entropy};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    reads: String,
    name: String,
    options: BTreeMap<String, f64>,
    #[serde(default)]
    weights: Vec<f64>,
    #[serde(default)]
    smoothing: f64,
    distillation: Option<Given>,
    outputs: Vec<Numbers>,
    columns: Vec<Numbers>,
    loss: f64,
    gradients: Vec<Numbers>,
}

#[derive(Deserialize)]
struct Given {
    weight: f64,
    temperature: f64,
    teacher: Numbers,
}

impl Given {
    /// The teacher's share of the loss.
    fn taught<'g>(&self, b: &'g Builder, divergence: Divergence, student: Expr<'g>, labels: Expr<'g>) -> Expr<'g> {
        let teacher = b.constant(Tensor::from_f32(&self.teacher.shape, &self.teacher.values));
        let counts = match labels.dtype() {
            DType::I64 => labels.less(b.int(0)).logical_not().cast(DType::F32),
            _ => labels.length(0).filled(1.0, DType::F32),
        };
        let distillation = Distillation { weight: self.weight, temperature: self.temperature };
        let Sum { sum, count } = distillation.diverged(divergence, student, teacher, counts).learnt;
        sum / count * distillation.factor(divergence)
    }
}

#[derive(Deserialize)]
struct Numbers {
    shape: Vec<usize>,
    #[serde(default)]
    values: Vec<f32>,
    #[serde(default)]
    integers: Vec<i64>,
}

impl Numbers {
    fn host(&self) -> HostTensor {
        if self.integers.is_empty() {
            HostTensor::new(self.shape.clone(), self.values.clone()).unwrap()
        } else {
            HostTensor::new(self.shape.clone(), self.integers.clone()).unwrap()
        }
    }

    /// An input of the graph whose first axis is free, as batches are.
    fn input<'g>(&self, b: &'g Builder, name: &str) -> Expr<'g> {
        let known = self.shape.iter().skip(1).map(|&length| Dim::known(i64::try_from(length).unwrap()));
        let dims: Vec<Dim> = std::iter::once(Dim::symbol(&format!("rows_{name}"))).chain(known).collect();
        b.input(name, if self.integers.is_empty() { DType::F32 } else { DType::I64 }, &dims)
    }
}

impl Case {
    fn row(&self) -> &'static Row {
        let reads = match self.reads.as_str() {
            "Logits" => Reads::Logits,
            "Frames" => Reads::Frames,
            "Spans" => Reads::Spans,
            "Embeddings" => Reads::Embeddings,
            "TokenLogProbs" => Reads::TokenLogProbs,
            other => panic!("{other} is not read by any loss"),
        };
        Row::named(reads, &self.name).unwrap()
    }

    fn graph(&self) -> Graph {
        let b = Builder::new(ModelInfo::dialect());
        let outputs: Vec<Expr<'_>> = self.outputs.iter().zip(0..).map(|(given, at)| given.input(&b, &format!("output_{at}"))).collect();
        let columns: Vec<Expr<'_>> = self.columns.iter().zip(0..).map(|(given, at)| given.input(&b, &format!("column_{at}"))).collect();
        let beside = self.row().write_beside(outputs.clone(), columns.clone(), None, self.row().options(&self.options).unwrap());
        let Sum { sum, count } = self.write(&outputs, columns.clone());
        let mut loss = beside.map_or(sum / count, |beside| sum / count + beside.sum / beside.count);
        if let Some(given) = &self.distillation {
            loss = loss * (1.0 - given.weight)
                + given.taught(&b, Divergence::of(self.row().reads, &self.name).unwrap(), outputs[0], columns[0]);
        }
        let gradients = grad::gradients(&b, loss, &outputs).unwrap();
        b.output("loss", loss);
        for (gradient, at) in gradients.into_iter().zip(0..) {
            b.output(&format!("gradient_{at}"), gradient);
        }
        b.finish().unwrap()
    }

    fn write<'g>(&self, outputs: &[Expr<'g>], columns: Vec<Expr<'g>>) -> Sum<'g> {
        if !self.weights.is_empty() || self.smoothing > 0.0 {
            let terms = ClassTerms { weights: Weights::of(self.weights.clone()), smoothing: self.smoothing };
            return class_cross_entropy(outputs[0], columns[0], None, &terms);
        }
        let row = self.row();
        row.write(outputs.to_vec(), columns, None, row.options(&self.options).unwrap())
    }
}

fn session(graph: &Graph) -> Session {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("loss.onnx");
    onnx::write(graph, &path, &WriteOptions::default()).unwrap();
    let settings = Settings { device: Device::Cpu, ..Settings::default() };
    Session::open(Runtime::start(&Options::default()).unwrap(), &path, &settings).unwrap()
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../fixtures/losses.json")).unwrap()
}

#[test]
fn every_loss_and_its_gradient_are_the_reference_s() {
    let mut wrong = vec![];
    for case in cases() {
        let what = format!("{} of {} with {:?}", case.name, case.reads, case.options);
        let given: Vec<(String, HostTensor)> = [("output", &case.outputs), ("column", &case.columns)]
            .into_iter()
            .flat_map(|(kind, all)| all.iter().enumerate().map(move |(at, given)| (format!("{kind}_{at}"), given.host())))
            .collect();
        let mut session = session(&case.graph());
        // A loss that only needs to know how many rows there are reads a column's shape alone.
        let feeds: Vec<Feed<'_>> =
            given.iter().filter(|(name, _)| session.input(name).is_some()).map(|(name, value)| Feed::host(name, value)).collect();
        let names: Vec<String> =
            std::iter::once("loss".to_owned()).chain((0..case.outputs.len()).map(|at| format!("gradient_{at}"))).collect();
        let found = session.run(&feeds, &names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        let found: Vec<Vec<f32>> = found.iter().map(|tensor| tensor.to_f32().unwrap()).collect();
        let difference = (f64::from(found[0][0]) - case.loss).abs();
        if difference.is_nan() || difference > 2e-6 * case.loss.abs().max(1.0) {
            wrong.push(format!("{what}: loss {}, expected {}", found[0][0], case.loss));
        }
        for (gradient, expected) in found[1..].iter().zip(&case.gradients) {
            let largest = expected.values.iter().fold(1e-3_f32, |largest, value| largest.max(value.abs()));
            let worst = gradient.iter().zip(&expected.values).map(|(g, e)| (g - e).abs()).fold(0.0, f32::max);
            let is_whole = gradient.len() == expected.values.len() && gradient.iter().all(|number| number.is_finite());
            if !(is_whole && worst <= 2e-5 * largest) {
                wrong.push(format!("{what}: the gradient differs by {worst} where its largest is {largest}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_loss_has_a_case() {
    let tried: BTreeSet<(Reads, &str)> = cases().iter().map(|case| (case.row().reads, case.row().name)).collect();
    // Classes of tokens are classes of rows: one formula is tried for both.
    let reads = |row: &Row| if row.reads == Reads::TokenLogits { Reads::Logits } else { row.reads };
    let missing: Vec<_> = LOSSES.iter().filter(|row| !tried.contains(&(reads(row), row.name))).map(|row| row.name).collect();
    assert!(missing.is_empty(), "no case in fixtures/losses.json for {missing:?}");
}
