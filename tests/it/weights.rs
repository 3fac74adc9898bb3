//! Rows that weigh differently: `Σ w·l / Σ w`. A row of weight 2 counts as the row twice, one of weight 0 as if it were not there.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Folder, done, fixture, json_of, number, refused};
use crate::tasks::{CASES, tokenizer, words};

/// Tasks of every kind of loss that is a mean over rows or labels.
const WEIGHED: [&str; 8] = [
    "embedding, scored pairs, cosine",
    "many labels",
    "numbers",
    "relevance",
    "classes, a teacher's logits",
    "tags of words",
    "preferences",
    "rewards",
];

/// The weights of three rows, and the places of the rows that count as much.
const WEIGHTS: [f64; 3] = [2.0, 1.0, 0.0];
const AS_OFTEN: [usize; 3] = [0, 0, 1];

fn file(folder: &Folder, name: &str, rows: impl Iterator<Item = Value>) -> String {
    folder.write(name, &rows.map(|row| row.to_string() + "\n").collect::<String>())
}

fn weighed(mut row: Value, weight: f64) -> Value {
    row["weight"] = weight.into();
    row
}

/// The loss of the same rows, weighed and repeated: of an evaluation, and of the first step of training, whole and a row at a time.
fn losses(folder: &Folder, bundle: &str, weighed: &str, repeated: &str) -> [f64; 4] {
    let tokenizer = folder.path("tokenizer.json");
    let eval =
        |data: &str| number(&json_of(&["eval", bundle, "--data", data, "--tokenizer", &tokenizer, "--batch-size", "3"])["metrics"]["loss"]);
    let step = |name: &str, more: &[&str]| {
        let args = ["train", bundle, "--data", weighed, "--tokenizer", &tokenizer, "--no-shuffle", "--batch-size", "3", "--max-steps", "1"];
        done(&[&args[..], &["--restart", "--run", name, "-q"], more].concat());
        let metrics = std::fs::read_to_string(Path::new(bundle).join(format!("runs/{name}/metrics.jsonl"))).expect("a run");
        number(&serde_json::from_str::<Value>(metrics.lines().next().expect("a step")).expect("JSON")["loss"])
    };
    [eval(weighed), eval(repeated), step("whole", &[]), step("parted", &["--micro-batch-size", "1"])]
}

fn are_alike(what: &str, found: [f64; 4]) {
    let is_near = found.iter().all(|loss| (loss - found[1]).abs() <= 2e-5 * found[1].abs().max(1.0));
    assert!(is_near, "{what}: weighed {}, repeated {}, in training {} and {}", found[0], found[1], found[2], found[3]);
}

#[test]
fn a_row_counts_as_often_as_it_weighs() {
    for case in CASES.iter().filter(|case| WEIGHED.contains(&case.what)) {
        let folder = Folder::with(case.model);
        folder.write("tokenizer.json", &tokenizer());
        let rows: Vec<Value> = (0..3).map(case.row).collect();
        let (weights, repeated) = (
            file(&folder, "weighed.jsonl", rows.iter().zip(WEIGHTS).map(|(row, weight)| weighed(row.clone(), weight))),
            file(&folder, "repeated.jsonl", AS_OFTEN.iter().map(|at| rows[*at].clone())),
        );
        let bundle = folder.path("bundle");
        let inject = ["inject", &folder.path("model.onnx"), "--method", "lora", "--init-lora-weights", "random", "-o", &bundle, "-q"];
        done(&[&inject[..], case.inject].concat());
        are_alike(case.what, losses(&folder, &bundle, &weights, &repeated));
    }
}

#[test]
fn a_batch_whose_rows_weigh_nothing_teaches_nothing() {
    for case in CASES.iter().filter(|case| ["numbers", "embedding, scored pairs, cosine", "preferences"].contains(&case.what)) {
        let folder = Folder::with(case.model);
        folder.write("tokenizer.json", &tokenizer());
        let rows: Vec<Value> = (0..4).map(case.row).collect();
        let weight = |at: usize| if at < 2 { 0.0 } else { 1.0 };
        let data = file(&folder, "weighed.jsonl", rows.iter().enumerate().map(|(at, row)| weighed(row.clone(), weight(at))));
        let counted = file(&folder, "counted.jsonl", rows[2..].iter().cloned());
        let bundle = folder.path("bundle");
        done(&[&["inject", &folder.path("model.onnx"), "--method", "lora", "-o", &bundle][..], case.inject].concat());
        let tokenizer = folder.path("tokenizer.json");
        let eval = |data: &str| {
            number(&json_of(&["eval", &bundle, "--data", data, "--tokenizer", &tokenizer, "--batch-size", "2"])["metrics"]["loss"])
        };
        let (found, expected) = (eval(&data), eval(&counted));
        assert!((found - expected).abs() <= 2e-5 * expected.abs().max(1.0), "{}: {found}, expected {expected}", case.what);
        done(&[
            "train",
            &bundle,
            "--data",
            &data,
            "--tokenizer",
            &tokenizer,
            "--no-shuffle",
            "--batch-size",
            "2",
            "--max-steps",
            "2",
            "-q",
        ]);
    }
}

#[test]
fn tokens_of_a_row_weigh_what_the_row_weighs() {
    for (model, task) in
        [("llama/dynamo.onnx", "causal-lm"), ("t5/torchscript.onnx", "seq2seq-lm"), ("bert_masked/dynamo.onnx", "masked-lm")]
    {
        let folder = Folder::with(model);
        folder.write("tokenizer.json", &tokenizer());
        let row = |at: usize| {
            let tokens: Vec<usize> = (0..5 + at).map(|place| 5 + (7 * at + 3 * place) % 30).collect();
            let labels: Vec<i64> =
                tokens.iter().enumerate().map(|(place, token)| if place < 2 { -100 } else { i64::try_from(*token).unwrap_or(0) }).collect();
            json!({"input_ids": tokens, "labels": labels})
        };
        let weights = file(&folder, "weighed.jsonl", (0..3).map(|at| weighed(row(at), WEIGHTS[at])));
        let repeated = file(&folder, "repeated.jsonl", AS_OFTEN.iter().map(|at| row(*at)));
        let bundle = folder.path("bundle");
        let inject = [
            "inject",
            &folder.path("model.onnx"),
            "--task",
            task,
            "--method",
            "lora",
            "--init-lora-weights",
            "random",
            "-o",
            &bundle,
            "-q",
        ];
        done(&inject);
        are_alike(task, losses(&folder, &bundle, &weights, &repeated));
    }
}

#[test]
fn weights_that_cannot_count_are_refused_with_the_reason() {
    let folder = Folder::with("bert_encoder/dynamo.onnx");
    let tokenizer = folder.write("tokenizer.json", &tokenizer());
    let bundle = folder.path("bundle");
    let model = folder.path("model.onnx");
    done(&["inject", &model, "--method", "lora", "--task", "embedding", "--pooling", "mean", "--loss", "cosent", "-o", &bundle, "-q"]);
    let row = json!({"sentence1": words(1), "sentence2": words(2), "score": 0.5, "weight": 2});
    let data = file(&folder, "rows.jsonl", [row].into_iter());
    let train =
        |bundle: &str, data: &str, expected: &[&str]| refused(&["train", bundle, "--data", data, "--tokenizer", &tokenizer], expected);
    train(&bundle, &data, &["line 1", "weight", "the loss cosent weighs all rows alike", "compares each row", "hint: "]);
    let classifier = folder.path("classifier");
    done(&["inject", &fixture("bert_classifier/dynamo.onnx"), "--method", "lora", "-o", &classifier, "-q"]);
    for (weight, found) in [(json!(-1), "found -1"), (json!("much"), "found the text \"much\""), (json!([1]), "found a list")] {
        let data = file(&folder, "bad.jsonl", [json!({"text": "w1", "label": 1, "weight": weight})].into_iter());
        train(&classifier, &data, &["line 1", "weight of this row: expected a number, 0 or more", found, "hint: "]);
    }
}
