//! Training in half precision: what computes in it, how near its losses are to float32's, and what is said where it cannot be computed.
//!
//! ONNX Runtime's processor computes products of float16 in float32 between casts, so that what is rounded where is seen here too. Nothing of this ran on a GPU.

use std::path::Path;

use peft_onnx::export::Bundle;
use peft_onnx::ir::{DType, Graph};
use peft_onnx::train::precision::{LOSS_SCALE, lowered, scaled};
use serde_json::Value;

use crate::common::{Folder, done, fixture, json_of, number, refused};

struct Case {
    model: &'static str,
    inject: &'static [&'static str],
    rows: &'static str,
    /// How far losses of six steps may be from those in float32, each as a share: eleven bits of mantissa, a few thousand roundings; more where they are small soon.
    tolerance: f64,
}

const TOKENS: &str = r#"{"input_ids": [5, 9, 12, 3, 8, 21], "labels": [5, 9, 12, 3, 8, 21]}
{"input_ids": [4, 8, 15, 16, 23], "labels": [-100, -100, 15, 16, 23]}
{"input_ids": [7, 8, 9, 30], "labels": [7, 8, 9, 30]}
{"input_ids": [11, 12, 13, 14], "labels": [-100, 12, 13, 14]}
"#;

const CLASSES: &str = r#"{"input_ids": [5, 9, 12, 3, 8, 21], "labels": 1}
{"input_ids": [4, 8, 15, 16, 23], "labels": 0}
{"input_ids": [7, 8, 9, 30], "labels": 2}
{"input_ids": [11, 12, 13, 14], "labels": 1}
"#;

const CASES: &[Case] = &[
    Case { model: "llama/dynamo.onnx", inject: &["--method", "lora", "--target-modules", "all-linear"], rows: TOKENS, tolerance: 2e-3 },
    Case {
        model: "llama/torchscript.onnx",
        inject: &["--method", "lora", "--use-dora", "--recompute", "layer"],
        rows: TOKENS,
        tolerance: 2e-3,
    },
    Case { model: "qwen2/torchscript.onnx", inject: &["--method", "ia3"], rows: TOKENS, tolerance: 2e-3 },
    Case { model: "gpt2/dynamo.onnx", inject: &["--method", "lora", "--lora-dropout", "0.1"], rows: TOKENS, tolerance: 2e-3 },
    Case { model: "bert_classifier/torchscript.onnx", inject: &["--method", "lora"], rows: CLASSES, tolerance: 1e-2 },
    Case { model: "llama/dynamo.onnx", inject: &["--method", "prefix_tuning", "--num-virtual-tokens", "3"], rows: TOKENS, tolerance: 2e-3 },
];

const TRAIN: &[&str] = &["--no-shuffle", "--batch-size", "2", "--learning-rate", "0.01", "--lr-scheduler", "constant", "-q"];

fn losses(bundle: &str, run: &str) -> Vec<f64> {
    let file = Path::new(bundle).join("runs").join(run).join("metrics.jsonl");
    let text = std::fs::read_to_string(file).expect("metrics");
    text.lines().map(|line| number(&serde_json::from_str::<Value>(line).expect("JSON")["loss"])).collect()
}

#[test]
fn losses_in_float16_are_near_those_in_float32() {
    let mut wrong = vec![];
    for Case { model, inject, rows, tolerance } in CASES {
        let folder = Folder::empty();
        let (bundle, data) = (folder.path("bundle"), folder.write("rows.jsonl", rows));
        done(&[&["inject", &fixture(model), "-o", &bundle, "-q"], *inject].concat());
        for (run, precision) in [("whole", "float32"), ("half", "fp16")] {
            let own = ["train", &bundle, "--data", &data, "--run", run, "--precision", precision, "--restart", "--max-steps", "6"];
            done(&[&own[..], TRAIN].concat());
        }
        let (whole, half) = (losses(&bundle, "whole"), losses(&bundle, "half"));
        let apart = whole.iter().zip(&half).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max);
        let is_rounded = whole.iter().zip(&half).any(|(a, b)| a.to_bits() != b.to_bits());
        if apart > *tolerance || !is_rounded || half.len() != 6 || whole[4] >= whole[0] {
            wrong.push(format!("{model} {}: {apart} apart: {whole:?}, {half:?}", inject.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The gradient graph of a LoRA on a small Llama.
fn gradient() -> Graph {
    let folder = Folder::empty();
    let bundle = folder.path("bundle");
    done(&["inject", &fixture("llama/dynamo.onnx"), "--method", "lora", "--target-modules", "all-linear", "-o", &bundle, "-q"]);
    Bundle::open(Path::new(&bundle), None).and_then(|bundle| bundle.graph("gradient")).expect("its graph")
}

/// Nodes of an operator by the type of what they give.
fn count(graph: &Graph, op: &str, dtype: DType) -> usize {
    let here = graph.nodes().iter().filter(|node| &*node.op == op && node.output(0).is_some_and(|y| graph.fact(y).dtype == Some(dtype)));
    let bodies = graph.nodes().iter().flat_map(|node| node.attrs.values().flat_map(peft_onnx::ir::Attr::graphs));
    here.count() + bodies.map(|body| count(body, op, dtype)).sum::<usize>()
}

#[test]
fn products_are_in_half_precision_and_sums_norms_losses_and_what_goes_around_are_not() {
    let graph = gradient();
    for half in [DType::F16, DType::BF16] {
        let lowered = scaled(&lowered(&graph, half).expect("it can be lowered")).expect("it makes a gradient");
        for op in ["Gemm", "MatMul"] {
            let (in_half, whole) = (count(&lowered, op, half), count(&lowered, op, DType::F32));
            // Angles of rotations are a product of positions.
            assert!(in_half > 8 && whole <= 1, "{half}: {in_half} {op} in half precision, {whole} in float32");
        }
        for op in ["Softmax", "LogSoftmax", "ReduceSum", "ReduceMean", "Exp", "Pow", "Cos"] {
            assert_eq!(count(&lowered, op, half), 0, "{half}: {op}");
        }
        let types = |graph: &Graph| {
            let ports = graph.inputs().iter().chain(graph.outputs()).map(|&id| (graph.value_name(id).to_owned(), graph.fact(id).dtype));
            ports.filter(|(name, _)| name != LOSS_SCALE).collect::<Vec<_>>()
        };
        assert_eq!(types(&lowered), types(&graph), "inputs and outputs are what they were");
    }
}

#[test]
fn a_run_in_float16_goes_on_bit_for_bit() {
    let folder = Folder::empty();
    let (bundle, data) = (folder.path("bundle"), folder.write("rows.jsonl", TOKENS));
    done(&["inject", &fixture("llama/dynamo.onnx"), "--method", "lora", "-o", &bundle, "-q"]);
    let train =
        |more: &[&str]| done(&[&["train", &bundle, "--data", &data, "--precision", "fp16", "--max-steps", "8"], TRAIN, more].concat());
    train(&["--run", "whole", "--save-steps", "4"]);
    let checkpoint = Path::new(&bundle).join("runs/whole/checkpoints/step-4");
    let record: Value = serde_json::from_slice(&std::fs::read(checkpoint.join("trainer.json")).expect("a record")).expect("JSON");
    assert!(record["loss_scale"]["factor"].as_f64().is_some_and(|factor| factor >= 1.0), "{record}");
    train(&["--resume", checkpoint.to_str().expect("UTF-8"), "--run", "again"]);
    let adapter =
        |run: &str| std::fs::read(Path::new(&bundle).join("runs").join(run).join("checkpoints/step-8/state.safetensors")).expect("a state");
    assert_eq!(losses(&bundle, "whole"), losses(&bundle, "again"));
    assert!(adapter("whole") == adapter("again"), "the states differ");
    refused(
        &[
            &[
                "train",
                &bundle,
                "--data",
                &data,
                "--max-steps",
                "8",
                "--resume",
                checkpoint.to_str().expect("UTF-8"),
                "--precision",
                "float32",
            ],
            TRAIN,
        ]
        .concat(),
        &["`--precision`", "fp16", "float32"],
    );
}

#[test]
fn a_precision_that_the_processor_does_not_have_is_refused_with_what_it_lacks() {
    let folder = Folder::empty();
    let (bundle, data) = (folder.path("bundle"), folder.write("rows.jsonl", TOKENS));
    done(&["inject", &fixture("llama/dynamo.onnx"), "--method", "lora", "-o", &bundle, "-q"]);
    let train =
        |precision: &'static str| [&["train", &bundle, "--data", &data, "--max-steps", "1", "--precision", precision], TRAIN].concat();
    refused(&train("bf16"), &["gradient.onnx", "Could not find an implementation for", "hint: ", "--precision float32", "no bfloat16"]);
    refused(&train("tf32"), &["--precision tf32", "only GPUs", "hint: leave it out"]);
}

#[test]
fn weights_that_are_packed_give_the_losses_of_those_that_are_not_and_plan_counts_them() {
    let folder = Folder::empty();
    let (bundle, data) = (folder.path("bundle"), folder.write("rows.jsonl", TOKENS));
    done(&["inject", &fixture("llama/torchscript.onnx"), "--method", "lora", "--target-modules", "all-linear", "-o", &bundle, "-q"]);
    for (run, packed) in [("plain", &[][..]), ("packed", &["--prepack-weights"])] {
        let own = ["train", &bundle, "--data", &data, "--run", run, "--restart", "--max-steps", "4"];
        done(&[&own[..], TRAIN, packed].concat());
    }
    let (plain, packed) = (losses(&bundle, "plain"), losses(&bundle, "packed"));
    assert!(plain.len() == 4 && plain.iter().zip(&packed).all(|(a, b)| (a / b - 1.0).abs() < 1e-5), "{plain:?} {packed:?}");
    let bytes = |options: &[&str]| {
        let plan = json_of(&[&["plan", &bundle, "--batch-size", "2", "--max-length", "8"], options].concat());
        plan["plan"][0]["bytes"].as_u64().expect("bytes")
    };
    assert!(bytes(&["--prepack-weights"]) > bytes(&[]));
}
