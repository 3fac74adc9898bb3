//! Every fused operator against what it is written out as, on ONNX Runtime: one row a form.

#![cfg(feature = "runtime")]

mod rows;

use peft_onnx::decompose::{decompose, for_cuda, separate};
use peft_onnx::ir::{Builder, DType, Dim, Graph, ModelInfo, NodeSpec, Tensor};
use peft_onnx::onnx::{self, WriteOptions};
use peft_onnx::ort::{Elements, Feed, HostTensor, Options, Runtime, Session, Settings};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rows::In::{Bytes, Ids, No, Number, W, Whole, X};
use rows::{LENGTHS, Row, rows};

#[test]
fn what_is_written_out_computes_the_same() {
    let only = std::env::var("DECOMPOSE").unwrap_or_default();
    let rows = rows();
    let failures: Vec<String> = rows
        .iter()
        .filter(|row| row.op.contains(&only))
        .filter_map(|row| check(row).err().map(|why| format!("{} ({}): {why}", row.op, row.what)))
        .collect();
    assert!(failures.is_empty(), "{} of {} rows fail:\n{}", failures.len(), rows.len(), failures.join("\n"));
}

#[test]
fn rounding_that_cuda_has_no_kernel_for_gives_the_same_numbers_without_it() {
    for values in [vec![0.25_f32, -1.5, 3.0, 0.1], vec![0.5, 2.0, 1.25, 3.5], vec![-0.5, -2.0, -0.1, -1.0], vec![0.0; 4]] {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(2)]);
        let rounded = b.op_n("DynamicQuantizeLinear", &[Some(x)], &[], 3);
        let names = ["values", "scale", "zero"];
        for (name, y) in names.iter().zip(rounded) {
            b.output(name, y.cast(DType::F32));
        }
        let graph = b.finish().expect("a graph");
        let other = for_cuda(&graph).expect("it is written").expect("it rounds");
        assert!(!other.nodes().iter().any(|node| &*node.op == "DynamicQuantizeLinear"));
        let fed = vec![("x".to_owned(), HostTensor::new(vec![2, 2], values.clone()).expect("two rows"))];
        let numbers = |graph: &Graph| run(graph, &fed).expect("it runs").iter().map(numbers).collect::<Vec<_>>();
        assert_eq!(numbers(&graph), numbers(&other), "{values:?}");
    }
}

fn check(row: &Row) -> Result<(), String> {
    let words = |error: peft_onnx::Error| error.to_string();
    let mut random = ChaCha8Rng::seed_from_u64(20_061_123);
    let (graph, fed) = graph(row, &mut random).map_err(words)?;
    let open = decompose(&graph).map_err(words)?;
    if let Some(node) = open.nodes().iter().find(|node| node.op.contains(row.op) && node.op.contains(':')) {
        return Err(format!("{} is still there", node.op));
    }
    let expected = run(&graph, &fed).map_err(words)?;
    for (form, graph) in [("written out", open), ("apart", separate(&graph).map_err(words)?)] {
        let found = run(&graph, &fed).map_err(|error| format!("{form}: {error}"))?;
        for (i, (expected, found)) in expected.iter().zip(&found).enumerate() {
            if expected.shape() != found.shape() {
                return Err(format!("{form}: output {i} has shape {:?}, not {:?}", found.shape(), expected.shape()));
            }
            let (expected, found) = (numbers(expected), numbers(found));
            let largest = expected.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
            let difference =
                expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, |worst: f32, d| if d <= worst { worst } else { d });
            if difference.is_nan() || difference > row.tolerance * largest {
                return Err(format!("{form}: output {i} differs by {difference} of {largest}"));
            }
        }
    }
    Ok(())
}

fn numbers(tensor: &HostTensor) -> Vec<f32> {
    match tensor.elements() {
        Elements::Int32(values) => values.iter().map(|&v| i16::try_from(v).map_or(f32::NAN, f32::from)).collect(),
        _ => tensor.to_f32().unwrap_or_default(),
    }
}

fn graph(row: &Row, random: &mut ChaCha8Rng) -> peft_onnx::Result<(Graph, Vec<(String, HostTensor)>)> {
    let b = Builder::new(ModelInfo::dialect().with_opset("com.microsoft", 1));
    let mut fed = vec![];
    let mut inputs = vec![];
    for (i, input) in row.inputs.iter().enumerate() {
        let name = format!("x{i}");
        let mut floats = |count: usize| -> Vec<f32> { (0..count).map(|_| random.random_range(-1.0_f32..1.0)).collect() };
        let expr = match input {
            No => None,
            Number(value) => Some(b.initializer(&name, Tensor::from_f64(DType::F32, &[], &[*value])?)),
            W(shape) => Some(b.initializer(&name, Tensor::from_f32(shape, &floats(shape.iter().product())))),
            Whole(dtype, shape, values) => {
                let values: Vec<f64> = values.iter().copied().map(f64::from).collect();
                Some(b.initializer(&name, Tensor::from_f64(*dtype, shape, &values)?))
            }
            Bytes(dtype, shape) => {
                let bytes: Vec<u8> = (0..shape.iter().product()).map(|_| random.random_range(0..=255_u8)).collect();
                Some(b.initializer(&name, Tensor::new(*dtype, shape.clone(), bytes.into())?))
            }
            X(shape) => {
                let lengths = lengths(shape);
                let count = lengths.iter().product();
                fed.push((name.clone(), HostTensor::new(lengths, floats(count))?));
                Some(b.input(&name, DType::F32, &dims(shape)))
            }
            Ids(dtype, shape, values) => {
                let elements = match dtype {
                    DType::I64 => Elements::Int64(values.iter().copied().map(i64::from).collect()),
                    DType::F32 => Elements::Float32(vec![]),
                    _ => Elements::Int32(values.clone()),
                };
                fed.push((name.clone(), HostTensor::new(lengths(shape), elements)?));
                Some(b.input(&name, *dtype, &dims(shape)))
            }
        };
        inputs.push(expr.map(peft_onnx::ir::Expr::id));
    }
    let outputs = row.outputs.iter().enumerate().map(|(i, &wanted)| (wanted == 1).then(|| format!("y{i}").as_str().into())).collect();
    let attrs = row.attrs.iter().map(|(name, attr)| ((*name).into(), attr.clone())).collect();
    let op = format!("com.microsoft:{}", row.op);
    let made = b.node(NodeSpec { name: "/layer/fused".into(), op: op.as_str().into(), inputs, outputs, attrs, ..NodeSpec::default() });
    for (i, y) in made.into_iter().enumerate() {
        if let Some(y) = y {
            b.output(&format!("y{i}"), y);
        }
    }
    Ok((b.finish()?, fed))
}

fn lengths(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&n| usize::try_from(n).unwrap_or_else(|_| LENGTHS[symbol(n)].1)).collect()
}

fn dims(shape: &[i64]) -> Vec<Dim> {
    shape.iter().map(|&n| if n < 0 { Dim::symbol(LENGTHS[symbol(n)].0) } else { Dim::known(n) }).collect()
}

fn symbol(length: i64) -> usize {
    usize::try_from(-1 - length).expect("a negative length")
}

fn run(graph: &Graph, fed: &[(String, HostTensor)]) -> peft_onnx::Result<Vec<HostTensor>> {
    let folder = tempfile::tempdir().map_err(|error| peft_onnx::Error::invalid(error.to_string()))?;
    let path = folder.path().join("row.onnx");
    onnx::write(graph, &path, &WriteOptions::default())?;
    let mut session = Session::open(Runtime::start(&Options::default())?, &path, &Settings::default())?;
    let feeds: Vec<Feed> = fed.iter().map(|(name, value)| Feed::host(name, value)).collect();
    let names: Vec<String> = graph.outputs().iter().map(|&id| graph.value_name(id).to_owned()).collect();
    session.run(&feeds, &names.iter().map(String::as_str).collect::<Vec<_>>())
}
