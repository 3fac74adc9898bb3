//! The same model in other file formats and types: trained to the losses of the float32 one, and merged.

#![cfg(feature = "runtime")]

pub(crate) mod rewrite;

use std::path::{Path, PathBuf};

use crate::common::{fixture, json_of, text};
use onnx_protobuf::ModelProto;
use serde_json::Value;

use rewrite::{Half, Scheme, in_half, listing_constants, quantised};

/// Losses of six steps, and what merging says.
struct Outcome {
    losses: Vec<f64>,
    merged: Value,
    /// Where the bundle lies.
    folder: tempfile::TempDir,
}

fn outcome(model: &Path, case: &str) -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let (bundle, merged) = (folder.path().join("bundle"), folder.path().join("merged.onnx"));
    let case = PathBuf::from(fixture(case));
    json_of(&["inject", text(model), "--adapter", text(&case.join("adapter_init")), "-o", text(&bundle)]);
    let data = case.join("train.jsonl");
    let options = ["--batch-size", "3", "--max-steps", "6", "--learning-rate", "0.01", "--lr-scheduler", "constant", "--no-shuffle"];
    json_of(&[&["train", text(&bundle), "--data", text(&data), "--quiet"][..], &options].concat());
    let metrics = std::fs::read_to_string(bundle.join("metrics.jsonl")).expect("there are metrics");
    let loss = |line: &str| serde_json::from_str::<Value>(line).ok()?["loss"].as_f64();
    let merged = json_of(&["merge", text(&bundle), "-o", text(&merged)]);
    Outcome { losses: metrics.lines().filter_map(loss).collect(), merged, folder }
}

impl Outcome {
    /// What merging says where quantised weights are rounded again.
    fn requantized(&self) -> Value {
        let rounded = self.folder.path().join("rounded.onnx");
        json_of(&["merge", text(&self.folder.path().join("bundle")), "-o", text(&rounded), "--requantize"])
    }
}

/// How a file differs from the exporter's.
type Change = fn(&mut ModelProto);

/// What the model is changed to, and how far its losses may be from those of the float32 model.
const ROWS: &[(&str, Change, f64)] = &[
    // Rounding the weights of two layers to 11 and to 8 bits.
    ("float16", |model| in_half(model, Half::Float16), 2e-3),
    ("bfloat16", |model| in_half(model, Half::BFloat16), 2e-2),
    ("constants among the inputs, as before version 4 of the format", |model| listing_constants(model, 3), 1e-6),
    ("constants among the inputs that callers may feed", |model| listing_constants(model, 8), 1e-6),
];

#[test]
fn other_forms_of_a_model_are_trained_to_its_losses() {
    let folder = tempfile::tempdir().expect("a folder");
    let (original, case) = (PathBuf::from(fixture("llama/torchscript.onnx")), "llama/cases/lora_qv");
    let expected = outcome(&original, case).losses;
    assert!(expected.len() == 6 && expected[5] < expected[0], "{expected:?}");
    for (what, change, tolerance) in ROWS {
        let path = folder.path().join("changed.onnx");
        rewrite::rewrite(&original, &path, change);
        let Outcome { losses, merged, .. } = outcome(&path, case);
        assert_eq!(losses.len(), expected.len(), "{what}");
        let apart = losses.iter().zip(&expected).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max);
        assert!(apart <= *tolerance, "{what}: losses differ by {apart}: {losses:?}, {expected:?}");
        assert!(merged["modules"].as_u64().is_some_and(|modules| modules > 0), "{what}: {merged}");
        // ONNX Runtime's processor does not compute in bfloat16: there is nothing to compare.
        assert_eq!(merged["verified"].is_null(), *what == "bfloat16", "{what}: {merged}");
    }
}

#[test]
fn quantised_models_are_trained_and_merged_beside_their_weights_or_into_them() {
    let folder = tempfile::tempdir().expect("a folder");
    // The share of a weight that rounding costs: half a step of 7 or 127, of numbers spread evenly, as root of the mean square.
    let rows: [(&str, Change, f64); 3] = [
        ("blocks of 4 bits", |model| quantised(model, Scheme::Blocks(4)), 0.12),
        ("blocks of 8 bits", |model| quantised(model, Scheme::Blocks(8)), 0.02),
        ("dynamic quantisation to 8 bits", |model| quantised(model, Scheme::Dynamic), 0.02),
    ];
    for (what, change, error) in rows {
        let path = folder.path().join("changed.onnx");
        rewrite::rewrite(Path::new(&fixture("llama/torchscript.onnx")), &path, change);
        let outcome = outcome(&path, "llama/cases/lora_qv");
        let (Outcome { losses, merged, .. }, requantized) = (&outcome, outcome.requantized());
        assert!(losses.last() < losses.first(), "{what}: {losses:?}");
        let apart = merged["verified"]["relative"].as_f64();
        assert!(merged["requantized"].is_null() && apart.is_some_and(|apart| apart < 1e-6), "{what}: {merged}");
        let found = requantized["requantized"]["error"].as_f64();
        assert!(found.is_some_and(|found| found > 0.0 && found < error), "{what}: {requantized}");
        assert_eq!(requantized["requantized"]["weights"], merged["modules"], "{what}: {requantized}");
    }
}
