//! A batch whose rows are computed in parts, or gathered over several steps, trains as the whole.

use std::path::Path;

use serde_json::Value;

use crate::common::{Folder, done, fixture, number};

struct Case {
    model: &'static str,
    method: &'static [&'static str],
    rows: &'static str,
}

/// Rows some of which have a label at their first token, and one that has no other.
const FIRST_LABELS: &str = r#"{"input_ids": [5, 9, 12, 3], "labels": [5, 9, 12, 3]}
{"input_ids": [4, 8, 15, 16, 23], "labels": [-100, -100, 15, 16, 23]}
{"input_ids": [7, 8, 9], "labels": [7, -100, -100]}
{"input_ids": [11, 12, 13, 14], "labels": [-100, 12, 13, 14]}
"#;

/// Rows one of which has no label that counts.
const NO_LABELS: &str = r#"{"input_ids": [5, 9, 12, 3], "labels": [-100, -100, -100, -100]}
{"input_ids": [4, 8, 15, 16, 23], "labels": [-100, -100, 15, 16, 23]}
{"input_ids": [7, 8, 9], "labels": [7, 8, 9]}
{"input_ids": [11, 12, 13, 14], "labels": [-100, 12, 13, 14]}
"#;

const CASES: &[Case] = &[
    Case { model: "llama/dynamo.onnx", method: &["lora"], rows: FIRST_LABELS },
    Case { model: "llama/dynamo.onnx", method: &["prompt_tuning", "--num-virtual-tokens", "3"], rows: FIRST_LABELS },
    Case { model: "gpt2/torchscript.onnx", method: &["prompt_tuning", "--num-virtual-tokens", "3"], rows: NO_LABELS },
    Case { model: "qwen2/dynamo.onnx", method: &["p_tuning", "--num-virtual-tokens", "3"], rows: FIRST_LABELS },
    Case { model: "llama/dynamo.onnx", method: &["prefix_tuning", "--num-virtual-tokens", "3"], rows: FIRST_LABELS },
    Case { model: "llama/dynamo.onnx", method: &["adalora", "--rank", "4"], rows: NO_LABELS },
    Case { model: "llama/dynamo.onnx", method: &["adalora", "--rank", "4"], rows: FIRST_LABELS },
];

/// What two steps find: the loss and the norm of the gradient of each.
fn trained(bundle: &str, data: &str, run: &str, options: &[&str]) -> Vec<[f64; 2]> {
    let fixed = ["train", bundle, "--data", data, "--no-shuffle", "--max-steps", "2", "--learning-rate", "0.01", "--restart", "-q"];
    done(&[&fixed[..], &["--run", run, "--lr-scheduler", "constant"], options].concat());
    let lines = std::fs::read_to_string(Path::new(bundle).join("runs").join(run).join("metrics.jsonl")).expect("metrics");
    let line = |line: &str| {
        let values: Value = serde_json::from_str(line).expect("JSON");
        [number(&values["loss"]), number(&values["grad_norm"])]
    };
    lines.lines().map(line).collect()
}

#[test]
fn a_batch_in_parts_trains_as_the_whole() {
    for Case { model, method, rows } in CASES {
        let folder = Folder::empty();
        let (bundle, data) = (folder.path("bundle"), folder.write("rows.jsonl", rows));
        done(&[&["inject", &fixture(model), "-o", &bundle, "-q", "--method"], *method].concat());
        let whole = trained(&bundle, &data, "whole", &["--batch-size", "4"]);
        let parts: [(&str, &[&str]); 3] = [
            ("ones", &["--batch-size", "4", "--micro-batch-size", "1"]),
            ("threes", &["--batch-size", "4", "--micro-batch-size", "3"]),
            ("gathered", &["--batch-size", "2", "--gradient-accumulation-steps", "2"]),
        ];
        for (run, options) in parts {
            let found = trained(&bundle, &data, run, options);
            let is_same = |one: f64, other: f64| (one - other).abs() < 2e-5 * one.abs().max(1.0);
            let same = whole.iter().zip(&found).all(|(one, other)| is_same(one[0], other[0]) && is_same(one[1], other[1]));
            assert!(same && whole.len() == found.len(), "{model} {method:?} {rows}{whole:?} as a whole, {found:?} with {options:?}");
        }
    }
}
