//! One row, checked: `<dy, (f(x + εv) - f(x - εv)) / 2ε>` is compared with `<dx, v>` for random `v`.
//!
//! The comparison is part of the graph, so that it has the precision of the graph: only relative errors leave it.

use peft_onnx::grad;
use peft_onnx::ir::{Builder, DType, Dim, Expr, Graph, ModelInfo, Tensor};
use peft_onnx::onnx::{self, WriteOptions};
use peft_onnx::ort::{Elements, Feed, HostTensor, Options, Runtime, Session, Settings};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::row::{Domain, Input, Precision, Row};

/// Directions that each input is moved in.
const DIRECTIONS: i32 = 3;

/// What the symbolic lengths of a row stand for, in the runs of a row that has any. The third is 1 in one run and the first in the other.
const SIZES: [[usize; 3]; 2] = [[2, 3, 1], [3, 5, 3]];
const NAMES: [&str; 3] = ["batch", "seq", "one_or_batch"];

/// Builds the row's graph, runs it, and says what is wrong with the gradients.
pub(crate) fn check(row: &Row) -> Result<(), String> {
    let graph = graph(row).map_err(|error| error.to_string())?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("row.onnx");
    let runs = if row.is_symbolic() { &SIZES[..] } else { &SIZES[..1] };
    onnx::write(&graph, &path, &WriteOptions::default()).map_err(|error| error.to_string())?;
    let runtime = Runtime::start(&Options::default()).map_err(|error| error.to_string())?;
    let mut session = Session::open(runtime, &path, &Settings::default()).map_err(|error| error.to_string())?;
    runs.iter().try_for_each(|sizes| run(row, &mut session, sizes))
}

fn run(row: &Row, session: &mut Session, sizes: &[usize; 3]) -> Result<(), String> {
    let values = values(row, sizes);
    let names: Vec<String> = values.iter().map(|(i, _)| format!("x{i}")).collect();
    let feeds: Vec<Feed> = names.iter().zip(&values).map(|(name, (_, value))| Feed::host(name, value)).collect();
    for (i, value) in values.iter().filter(|(i, _)| row.inputs[*i].is_asked_for()) {
        let (error, dx) = (format!("error{i}"), format!("dx{i}"));
        let found = session.run(&feeds, &[&error, &dx]).map_err(|error| error.to_string())?;
        if found[1].shape() != value.shape() {
            return Err(format!("the gradient of input {i} has shape {:?}, the input {:?}", found[1].shape(), value.shape()));
        }
        let errors = found[0].as_f32().map_err(|error| error.to_string())?;
        // Written so that an error that is not a number is one too many.
        if !errors.iter().all(|&error| error <= row.precision.tolerance()) {
            return Err(format!("the gradient of input {i} is wrong: relative errors {errors:?} with sizes {sizes:?}"));
        }
    }
    Ok(())
}

/// A value for each input that is fed, of a row without symbolic lengths.
pub(crate) fn values_of(row: &Row) -> Vec<(usize, HostTensor)> {
    values(row, &SIZES[0])
}

/// A value for each input that is fed.
fn values(row: &Row, sizes: &[usize; 3]) -> Vec<(usize, HostTensor)> {
    let mut random = ChaCha8Rng::seed_from_u64(20_061_123);
    let mut fed = vec![];
    for (i, input) in row.inputs.iter().enumerate() {
        let Input::Numbers { shape, domain, .. } = input else { continue };
        let shape: Vec<usize> = shape.iter().map(|&n| usize::try_from(n).unwrap_or_else(|_| sizes[symbol(n)])).collect();
        let count = shape.iter().product();
        let elements: Vec<f32> = match domain {
            Domain::Within(from, to) => (0..count).map(|_| random.random_range(*from..*to)).collect(),
            Domain::AwayFromZero => {
                (0..count).map(|_| random.random_range(0.3_f32..1.5) * if random.random_bool(0.5) { 1.0 } else { -1.0 }).collect()
            }
        };
        fed.push((i, HostTensor::new(shape, Elements::Float32(elements)).expect("as many elements as the shape has")));
    }
    fed
}

/// The symbol that a negative length stands for: -1 is the first.
fn symbol(length: i64) -> usize {
    usize::try_from(-1 - length).expect("a negative length")
}

fn dims(shape: &[i64]) -> Vec<Dim> {
    shape.iter().map(|&n| if n < 0 { Dim::symbol(NAMES[symbol(n)]) } else { Dim::known(n) }).collect()
}

/// The graph that computes the row's operator, its gradients, and how far they are from differences.
fn graph(row: &Row) -> peft_onnx::Result<Graph> {
    let b = Builder::new(ModelInfo::dialect().with_opset("", row.opset));
    let dtype = match row.precision {
        Precision::Double => DType::F64,
        Precision::Single => DType::F32,
    };
    let x: Vec<Option<Expr>> = row.inputs.iter().enumerate().map(|(i, input)| value(&b, i, input, dtype)).collect();
    let operator = |x: &[Option<Expr<'_>>]| -> Vec<Expr<'_>> {
        let ids: Vec<_> = x.iter().map(|x| x.map(|x| b.expr(x.id()))).collect();
        b.op_n(row.op, &ids, &row.attrs, row.outputs)
    };
    let y = operator(&x);
    let seeds: Vec<(Expr, Expr)> = row.seeds.iter().map(|&k| (y[k], noise(y[k], k))).collect();
    let asked: Vec<usize> = (0..x.len()).filter(|&i| row.inputs[i].is_asked_for()).collect();
    let wrt: Vec<Expr> = asked.iter().filter_map(|&i| x[i]).collect();
    let gradients = grad::vjp(&b, &seeds, &wrt)?;
    for ((&i, &xi), dx) in asked.iter().zip(&wrt).zip(gradients) {
        let dx = dx.unwrap_or_else(|| xi.zeros_like());
        let loss_at = |moved: Expr<'_>| {
            let moved = b.expr(moved.id());
            let y = operator(&x.iter().enumerate().map(|(j, x)| if i == j { Some(moved) } else { *x }).collect::<Vec<_>>());
            let parts = row.seeds.iter().zip(&seeds).map(|(&k, (_, dy))| (*dy * y[k]).sum_all());
            parts.reduce(|a, b| a + b).expect("a row has a seed").id()
        };
        let step = row.precision.step();
        let errors: Vec<Expr> = (0..DIRECTIONS)
            .map(|direction| {
                let v = noise(xi, 10 * i + usize::try_from(direction).expect("small") + 5);
                let difference = (b.expr(loss_at(xi + v * step)) - b.expr(loss_at(xi - v * step))) * (0.5 / step);
                let error = ((dx * v).sum_all() - difference).abs() / (difference.abs() + 1.0);
                error.cast(DType::F32).unsqueeze(&[0])
            })
            .collect();
        b.output(&format!("error{i}"), errors[0].concat(&errors[1..], 0));
        b.output(&format!("dx{i}"), dx.cast(DType::F32));
    }
    b.finish()
}

pub(crate) fn value<'g>(b: &'g Builder, i: usize, input: &Input, dtype: DType) -> Option<Expr<'g>> {
    match input {
        Input::Numbers { shape, .. } => Some(b.input(&format!("x{i}"), DType::F32, &dims(shape)).cast(dtype)),
        Input::Whole { shape, values } => Some(b.constant(Tensor::from_i64(shape, values))),
        Input::Truth { shape, values } => Some(b.constant(Tensor::from_i64(shape, values)).cast(DType::Bool)),
        Input::Held(numbers) => Some(b.constant(Tensor::from_f32(&[numbers.len()], numbers))),
        Input::Constant(number) => Some(b.number(*number, dtype)),
        Input::Computed(shape_of) => Some(b.op("Shape", &[b.expr(b.inputs()[*shape_of].id())], &[])),
        Input::LeftOut => None,
    }
}

/// Numbers between -1 and 1 that look random, in the shape and type of `like`.
fn noise(like: Expr<'_>, seed: usize) -> Expr<'_> {
    let b = like.b();
    let seed = f64::from(u32::try_from(seed).expect("small"));
    let count = like.size().range_from(b.int(0)).cast(like.dtype());
    ((count * 1.7 + seed * 2.3).cos()).reshape_like(like)
}

/// The gradient of `Σ y²` with respect to `x`, and `y`, which `write` computes from it.
pub(crate) fn gradient_of_squares(write: impl for<'g> Fn(Expr<'g>) -> Expr<'g>, shape: &[usize], x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let b = Builder::new(ModelInfo::dialect());
    let input =
        b.input("x", DType::F32, &shape.iter().map(|&length| Dim::known(i64::try_from(length).expect("small"))).collect::<Vec<_>>());
    let y = write(input);
    let dx = grad::gradients(&b, y.square().sum_all(), &[input]).expect("every operator has a rule")[0];
    b.output("dx", dx);
    b.output("y", y);
    let graph = b.finish().expect("a valid graph");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("graph.onnx");
    onnx::write(&graph, &path, &WriteOptions::default()).expect("written");
    let runtime = Runtime::start(&Options::default()).expect("a runtime");
    let mut session = Session::open(runtime, &path, &Settings::default()).expect("a session");
    let value = HostTensor::new(shape.to_vec(), Elements::Float32(x.to_vec())).expect("as many numbers");
    let found = session.run(&[Feed::host("x", &value)], &["dx", "y"]).expect("it runs");
    let numbers = |i: usize| found[i].as_f32().expect("floats").to_vec();
    (numbers(0), numbers(1))
}
