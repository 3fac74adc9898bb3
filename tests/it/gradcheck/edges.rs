//! Edge values: zeros of either sign, equal elements and large numbers give gradients that are numbers, and at a kink the gradient that
//! PyTorch gives.

use std::collections::BTreeSet;

use peft_onnx::grad;
use peft_onnx::ir::{Attr, Builder, DType, Dim, Expr, ModelInfo};
use peft_onnx::onnx::{self, WriteOptions};
use peft_onnx::ort::{Elements, Feed, HostTensor, Options, Runtime, Session, Settings};

use super::check::{value, values_of};
use super::row::{Input, Precision, Row};
use super::rows;

/// What an input is filled with.
const EDGES: &[(&str, f32)] = &[("zeros", 0.0), ("negative zeros", -0.0), ("equal elements", 0.5), ("large numbers", 100.0)];

/// Where a finite output has a slope that is not: the operator, the input, the edge.
const POLES: &[(&str, usize, &str)] = &[
    // d√x = 1/(2√x): infinite at 0, as in PyTorch.
    ("Sqrt", 0, "zeros"),
    ("Sqrt", 0, "negative zeros"),
    ("Pow", 0, "zeros"),
    ("Pow", 0, "negative zeros"),
];

#[test]
fn gradients_at_edge_values_are_numbers_wherever_the_output_is() {
    let rows = rows::rows();
    let mut wrong = BTreeSet::new();
    for row in rows.iter().filter(|row| !row.is_symbolic()) {
        for (i, edge) in not_numbers(row).expect("the row runs") {
            if !POLES.contains(&(row.op, i, edge)) {
                wrong.insert(format!("{} with {edge} in input {i}: {row:?}", row.op));
            }
        }
    }
    assert!(wrong.is_empty(), "{} gradients are not numbers:\n{}", wrong.len(), wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

/// The inputs and edges of a row whose outputs are finite and whose gradients are not.
fn not_numbers(row: &Row) -> peft_onnx::Result<Vec<(usize, &'static str)>> {
    let b = Builder::new(ModelInfo::dialect().with_opset("", row.opset));
    let dtype = if matches!(row.precision, Precision::Double) { DType::F64 } else { DType::F32 };
    let x: Vec<Option<Expr>> = row.inputs.iter().enumerate().map(|(i, input)| value(&b, i, input, dtype)).collect();
    let y = b.op_n(row.op, &x, &row.attrs, row.outputs);
    let seeds: Vec<(Expr, Expr)> = row.seeds.iter().map(|&k| (y[k], y[k].filled_like(1.0))).collect();
    let asked: Vec<usize> = (0..x.len()).filter(|&i| row.inputs[i].is_asked_for()).collect();
    let wrt: Vec<Expr> = asked.iter().filter_map(|&i| x[i]).collect();
    for ((&i, &xi), dx) in asked.iter().zip(&wrt).zip(grad::vjp(&b, &seeds, &wrt)?) {
        b.output(&format!("dx{i}"), dx.unwrap_or_else(|| xi.zeros_like()).cast(DType::F32));
    }
    for &k in &row.seeds {
        b.output(&format!("y{k}"), y[k].cast(DType::F32));
    }
    let mut session = opened(&b.finish()?)?;
    let names: Vec<String> = asked.iter().map(|i| format!("dx{i}")).chain(row.seeds.iter().map(|k| format!("y{k}"))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let drawn = values_of(row);
    let mut found = vec![];
    for &i in &asked {
        for &(edge, number) in EDGES {
            let fed: Vec<(String, HostTensor)> = drawn.iter().map(|(j, value)| (format!("x{j}"), filled(value, *j == i, number))).collect();
            let feeds: Vec<Feed> = fed.iter().map(|(name, value)| Feed::host(name, value)).collect();
            let given = session.run(&feeds, &names)?;
            let is_finite = |tensor: &HostTensor| tensor.as_f32().is_ok_and(|numbers| numbers.iter().all(|number| number.is_finite()));
            if given[asked.len()..].iter().all(is_finite) && !given[..asked.len()].iter().all(is_finite) {
                found.push((i, edge));
            }
        }
    }
    Ok(found)
}

fn filled(value: &HostTensor, is_edge: bool, number: f32) -> HostTensor {
    let count = value.shape().iter().product();
    let elements = if is_edge { vec![number; count] } else { value.as_f32().expect("floats").to_vec() };
    HostTensor::new(value.shape().to_vec(), Elements::Float32(elements)).expect("as many elements")
}

fn opened(graph: &peft_onnx::ir::Graph) -> peft_onnx::Result<Session> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("graph.onnx");
    onnx::write(graph, &path, &WriteOptions::default())?;
    Session::open(Runtime::start(&Options::default())?, &path, &Settings::default())
}

/// An operator of one vector at its kinks.
struct Kink {
    op: &'static str,
    attrs: &'static [(&'static str, f32)],
    /// Other inputs: constants of one number.
    others: &'static [f32],
    x: &'static [f32],
    /// The gradient of the sum of its output, as PyTorch 2.15 gives it.
    dx: &'static [f32],
}

const fn kink(op: &'static str, x: &'static [f32], dx: &'static [f32]) -> Kink {
    Kink { op, attrs: &[], others: &[], x, dx }
}

/// At a kink any number between the slopes of both sides is a subgradient. These are PyTorch's.
const KINKS: &[Kink] = &[
    kink("Abs", &[0.0, -0.0], &[0.0, 0.0]),
    kink("Relu", &[0.0, -0.0], &[0.0, 0.0]),
    Kink { attrs: &[("alpha", 0.3)], ..kink("LeakyRelu", &[0.0, -0.0, -1.0, 1.0], &[0.3, 0.3, 0.3, 1.0]) },
    Kink { others: &[0.25], ..kink("PRelu", &[0.0, -0.0, -1.0, 1.0], &[0.25, 0.25, 0.25, 1.0]) },
    Kink { attrs: &[("alpha", 0.5)], ..kink("Elu", &[0.0, -0.0, 1.0], &[0.5, 0.5, 1.0]) },
    Kink { attrs: &[("alpha", 0.5)], ..kink("Celu", &[0.0, -0.0], &[1.0, 1.0]) },
    Kink { attrs: &[("lambd", 0.5)], ..kink("Shrink", &[0.5, -0.5, 0.0, 0.75], &[0.0, 0.0, 0.0, 1.0]) },
    Kink { attrs: &[("alpha", 1.0)], ..kink("ThresholdedRelu", &[1.0, 0.0, 2.0], &[0.0, 0.0, 1.0]) },
    Kink { attrs: &[("alpha", 1.0 / 6.0), ("beta", 0.5)], ..kink("HardSigmoid", &[-3.0, 3.0, 0.0], &[0.0, 0.0, 1.0 / 6.0]) },
    kink("Softsign", &[0.0, -0.0], &[1.0, 1.0]),
    Kink { others: &[-0.5, 0.5], ..kink("Clip", &[-0.5, 0.5, 0.0, 0.6], &[1.0, 1.0, 1.0, 0.0]) },
    Kink { others: &[0.5], ..kink("Max", &[0.5, 0.4, 0.6], &[0.5, 0.0, 1.0]) },
    Kink { others: &[0.5], ..kink("Min", &[0.5, 0.4, 0.6], &[0.5, 1.0, 0.0]) },
    Kink { others: &[0.0], ..kink("Pow", &[0.0, -0.0, 2.0], &[0.0, 0.0, 0.0]) },
    Kink { others: &[1.0], ..kink("Pow", &[0.0, -0.0, 2.0], &[1.0, 1.0, 1.0]) },
    Kink { others: &[2.0], ..kink("Pow", &[0.0, -0.0, 2.0], &[0.0, 0.0, 4.0]) },
    Kink { others: &[1.5], ..kink("Pow", &[0.0, 4.0], &[0.0, 3.0]) },
    kink("ReduceMax", &[2.0, 2.0, 1.0, 2.0], &[1.0 / 3.0, 1.0 / 3.0, 0.0, 1.0 / 3.0]),
    kink("ReduceMin", &[1.0, 2.0, 1.0], &[0.5, 0.0, 0.5]),
    kink("ReduceL1", &[0.0, -0.0, -2.0], &[0.0, 0.0, -1.0]),
    kink("ReduceL2", &[0.0, -0.0, 0.0], &[0.0, 0.0, 0.0]),
    kink("ReduceProd", &[2.0, 3.0, 4.0], &[12.0, 8.0, 6.0]),
    kink("ReduceProd", &[2.0, 0.0, 4.0], &[0.0, 8.0, 0.0]),
    kink("ReduceProd", &[2.0, 0.0, -0.0], &[0.0, 0.0, 0.0]),
];

#[test]
fn gradients_at_kinks_are_those_of_pytorch() {
    let mut wrong = vec![];
    for row in KINKS {
        let dx = gradient(row).unwrap_or_else(|error| panic!("{}: {error}", row.op));
        if dx.len() != row.dx.len() || dx.iter().zip(row.dx).any(|(dx, wanted)| (dx - wanted).abs() > 1e-6 || dx.is_nan()) {
            wrong.push(format!("{} {:?} at {:?}: {dx:?}, PyTorch {:?}", row.op, row.others, row.x, row.dx));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The exponent's gradient where the base is zero is 0, as in PyTorch.
#[test]
fn a_power_of_zero_gives_its_exponent_no_gradient() {
    let b = Builder::new(ModelInfo::dialect());
    let exponent = b.input("x", DType::F32, &[Dim::known(3)]);
    let y = b.op("Pow", &[exponent.same_type(0.0), exponent], &[]);
    let dx = grad::gradients(&b, y.sum_all(), &[exponent]).expect("rules")[0];
    b.output("dx", dx);
    let given = run(b, &[0.0, 1.0, 2.5]).expect("it runs");
    assert_eq!(given, [0.0, 0.0, 0.0]);
}

fn gradient(row: &Kink) -> peft_onnx::Result<Vec<f32>> {
    let b = Builder::new(ModelInfo::dialect());
    let length = i64::try_from(row.x.len()).expect("small");
    let x = b.input("x", DType::F32, &[Dim::known(length)]);
    let others = row.others.iter().map(|&number| x.same_type(f64::from(number)));
    let attrs: Vec<(&str, Attr)> = row.attrs.iter().map(|&(name, number)| (name, Attr::Float(number))).collect();
    let y = b.op(row.op, &[x].into_iter().chain(others).collect::<Vec<_>>(), &attrs);
    let dx = grad::gradients(&b, y.sum_all(), &[x])?[0];
    b.output("dx", dx);
    run(b, row.x)
}

fn run(b: Builder, x: &[f32]) -> peft_onnx::Result<Vec<f32>> {
    let mut session = opened(&b.finish()?)?;
    let value = HostTensor::new(vec![x.len()], Elements::Float32(x.to_vec()))?;
    Ok(session.run(&[Feed::host("x", &value)], &["dx"])?[0].as_f32()?.to_vec())
}

/// Every row that the first test reads has an input whose gradient is asked for.
#[test]
fn rows_have_inputs_to_fill() {
    assert!(rows::rows().iter().all(|row| row.inputs.iter().any(Input::is_asked_for)));
}
