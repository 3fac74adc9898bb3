//! Random graphs come back as they were; damaged files are refused, not stumbled over.

use std::fs;
use std::path::Path;

use peft_onnx::ir::{Builder, DType, Dim, Expr, Graph, ModelInfo, Tensor};
use peft_onnx::onnx::{self, Storage, WriteOptions};
use proptest::prelude::*;

use super::make::show;

/// One step of a random graph: which operator, which values it reads.
type Step = (u8, usize, usize);

fn random_graph(steps: &[Step], rows: u8) -> peft_onnx::Result<Graph> {
    let b = Builder::new(ModelInfo::dialect());
    let shape = [Dim::symbol("batch"), Dim::known(i64::from(rows))];
    let mut values = vec![b.input("x", DType::F32, &shape)];
    for (at, (op, left, right)) in steps.iter().enumerate() {
        let (x, y) = (values[left % values.len()], values[right % values.len()]);
        let weights = |bytes: usize| Tensor::from_f32(&[usize::from(rows), usize::from(rows)], &vec![0.5; bytes]);
        let made: Expr<'_> = match op {
            0 => x + y,
            1 => x * 2.0,
            2 => x.tanh(),
            3 => x.matmul(b.initializer(&format!("w{at}"), weights(usize::from(rows) * usize::from(rows)))),
            4 => x.softmax(-1),
            5 => x.sum(&[-1]) + y,
            6 => x.cast(DType::F64).cast(DType::F32),
            _ => x.greater(y).where_(x, y),
        };
        values.push(made);
    }
    for (at, value) in values.iter().enumerate().skip(1).step_by(2) {
        b.output(&format!("out{at}"), *value);
    }
    b.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_come_back(steps in prop::collection::vec((0_u8..8, 0_usize..8, 0_usize..8), 1..12), rows in 1_u8..40, storage in 0..3) {
        let graph = random_graph(&steps, rows).expect("a valid graph");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.onnx");
        let storage = match storage {
            0 => Storage::Inline,
            1 => Storage::External { file: "model.data".into() },
            _ => Storage::Refer { files: vec![], file: "model.data".into() },
        };
        onnx::write(&graph, &path, &WriteOptions { storage }).expect("it can be written");
        let back = onnx::read(&path).expect("it can be read");
        prop_assert_eq!(show(&back), show(&graph));
        for output in graph.outputs() {
            let again = back.find(graph.value_name(*output)).expect("it is there");
            prop_assert_eq!(back.fact(again), graph.fact(*output));
        }
        for (id, tensor) in graph.initializers() {
            let again = back.find(graph.value_name(id)).and_then(|id| back.initializer(id));
            prop_assert_eq!(again, Some(tensor));
        }
    }
}

/// Reads damaged bytes, and raises, inlines and writes what can be read all the same.
fn survive(folder: &Path, bytes: &[u8]) {
    let path = folder.join("damaged.onnx");
    fs::write(&path, bytes).expect("disk");
    if let Ok(graph) = onnx::read(&path) {
        let _ = onnx::raise(&graph);
        let _ = onnx::inline_functions(&graph);
        let _ = onnx::write(&graph, &folder.join("again.onnx"), &WriteOptions::default());
    }
}

/// Small models of different exporters.
fn seeds() -> Vec<Vec<u8>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures");
    ["llama/dynamo_external.onnx", "bert_classifier/torchscript_opset12.onnx"]
        .map(|name| fs::read(fixtures.join(name)).expect("a fixture"))
        .into()
}

#[test]
fn damaged_files_are_refused_or_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    let byte = |number: usize| u8::try_from(number).expect("below 256");
    for seed in seeds() {
        for round in 0..40 {
            let mut bytes = seed.clone();
            match round % 4 {
                0 => bytes.truncate(next(bytes.len())),
                1 => (0..=next(8)).for_each(|_| *bytes.last_mut().expect("not empty") = byte(next(256))),
                _ => {}
            }
            for _ in 0..=next(6) {
                let at = next(bytes.len().max(1));
                match (bytes.get_mut(at), round % 3) {
                    (Some(hit), 0) => *hit = byte(next(256)),
                    (Some(hit), 1) => *hit ^= 1 << next(8),
                    (Some(_), _) => drop(bytes.drain(at..(at + next(5)).min(bytes.len()))),
                    (None, _) => {}
                }
            }
            survive(folder.path(), &bytes);
        }
    }
    for length in 0..64 {
        survive(folder.path(), &(0..length).map(|_| byte(next(256))).collect::<Vec<_>>());
    }
}
