//! A batch whose rows are computed in parts, or gathered over several steps, trains as the whole.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Folder, done, fixture, number};
use crate::tasks;

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

#[test]
fn what_compares_all_rows_of_a_batch_learns_the_same_in_parts_and_rows_weigh_what_they_say() {
    let lora: &[&str] = &["--method", "lora", "--init-lora-weights", "random"];
    // AdaLoRA adds to the loss what no row has a part in.
    let adalora: &[&str] = &["--method", "adalora", "--rank", "4"];
    for (what, method) in [("single answers", lora), ("embedding, pairs", lora), ("embedding, pairs", adalora)] {
        let case = tasks::CASES.iter().find(|case| case.what == what).expect("a case");
        let folder = Folder::empty();
        folder.write("tokenizer.json", &tasks::tokenizer());
        let rows = |weight: fn(usize) -> usize| {
            let row = |at: usize| {
                let mut row = (case.row)(at);
                row["weight"] = json!(weight(at));
                row.to_string() + "\n"
            };
            (0..12).map(row).collect::<String>()
        };
        let (weighed, alike) = (folder.write("weighed.jsonl", &rows(|at| at % 3)), folder.write("alike.jsonl", &rows(|_| 1)));
        let (bundle, tokenizer) = (folder.path("bundle"), folder.path("tokenizer.json"));
        done(&[&["inject", &fixture(case.model), "-o", &bundle, "-q"][..], method, case.inject].concat());
        let found = |data: &str, run: &str, more: &[&str]| {
            trained(&bundle, data, run, &[&["--tokenizer", &tokenizer, "--batch-size", "6"][..], more].concat())
        };
        let is_same = |one: &[[f64; 2]], other: &[[f64; 2]]| {
            let close = |(one, other): (&f64, &f64)| (one - other).abs() < 5e-5 * one.abs().max(1.0);
            one.len() == other.len() && one.as_flattened().iter().zip(other.as_flattened()).all(close)
        };
        let whole = found(&weighed, "whole", &[]);
        for rows in ["1", "4"] {
            let parts = found(&weighed, &format!("parts-of-{rows}"), &["--micro-batch-size", rows]);
            assert!(is_same(&whole, &parts), "{what} {method:?}: {whole:?} as a whole, {parts:?} in parts of {rows}");
        }
        let alike = found(&alike, "alike", &["--micro-batch-size", "4"]);
        assert!(!is_same(&whole, &alike), "{what}: weights change what is learnt, {whole:?} beside {alike:?}");
    }
}
