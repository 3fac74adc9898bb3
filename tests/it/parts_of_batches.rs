//! A batch whose rows are computed in parts, or gathered over several steps, trains as the whole.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Folder, done, fixture, json_of, number, run};
use crate::tasks;
use peft_onnx::ir::{Builder, DType};
use peft_onnx::onnx::{self, WriteOptions};

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

/// A model that no mask tells what is filled up.
fn without_mask(model: &str, data: &str, output: &str) {
    let graph = onnx::read(Path::new(model)).expect("a model");
    let b = Builder::on(&graph);
    let ones = b.input_named(data).expect("its data").filled_like(1.0).cast(DType::I64);
    b.remove_input(b.input_named("attention_mask").expect("a mask"), ones);
    onnx::write(&b.finish().expect("a valid graph"), Path::new(output), &WriteOptions::default()).expect("it is written");
}

#[test]
fn what_compares_all_rows_of_a_batch_is_measured_on_the_whole_where_it_is_computed_in_parts() {
    for (what, has_mask) in [("single answers", true), ("embedding, pairs", true), ("embedding, pairs", false)] {
        let case = tasks::CASES.iter().find(|case| case.what == what).expect("a case");
        let folder = Folder::empty();
        folder.write("tokenizer.json", &tasks::tokenizer());
        let data = folder.write("rows.jsonl", &(0..12).map(|at| (case.row)(at).to_string() + "\n").collect::<String>());
        let (model, bundle, tokenizer) = (folder.path("model.onnx"), folder.path("bundle"), folder.path("tokenizer.json"));
        let base = if has_mask { fixture(case.model) } else { model.clone() };
        if !has_mask {
            without_mask(&fixture(case.model), "input_ids", &model);
        }
        done(&[&["inject", &base, "-o", &bundle, "-q", "--method", "lora", "--init-lora-weights", "random"][..], case.inject].concat());
        let fixed = ["--data", &data, "--tokenizer", &tokenizer, "--batch-size", "6"];
        let measured = |name: &str, more: &[&str]| {
            let options =
                ["--eval-data", &data, "--max-steps", "2", "--learning-rate", "0", "--no-shuffle", "--restart", "--run", name, "-q"];
            done(&[&["train", &bundle][..], &fixed, &options, more].concat());
            let log = std::fs::read_to_string(Path::new(&bundle).join("runs").join(name).join("metrics.jsonl")).expect("metrics");
            let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            let of = |is_measured: bool| {
                lines.iter().filter(move |line| line.get("split").is_some() == is_measured).map(|line| number(&line["loss"]))
            };
            let learnt: Vec<f64> = of(false).collect();
            assert_eq!(learnt.len(), 2);
            (learnt.iter().sum::<f64>() / 2.0, of(true).next_back().expect("a measurement"))
        };
        let evaluated = number(&json_of(&[&["eval", &bundle][..], &fixed].concat())["loss"]);
        for (name, more) in [("whole", &[][..]), ("parts", &["--micro-batch-size", "2"])] {
            let (learnt, found) = measured(name, more);
            let is_same = |other: f64| (learnt - other).abs() < 5e-5 * learnt.abs().max(1.0);
            assert!(
                is_same(found) && is_same(evaluated),
                "{what} {has_mask} {name}: {learnt} learnt, {found} measured, {evaluated} by eval"
            );
        }
    }
}

#[test]
fn texts_of_rows_without_a_mask_are_computed_alike_in_every_batch_and_it_is_said_that_they_are_filled_up() {
    let case = tasks::CASES.iter().find(|case| case.what == "embedding, pairs").expect("a case");
    let folder = Folder::empty();
    folder.write("tokenizer.json", &tasks::tokenizer());
    let (model, bundle, tokenizer) = (folder.path("model.onnx"), folder.path("bundle"), folder.path("tokenizer.json"));
    without_mask(&fixture(case.model), "input_ids", &model);
    let row = |at: usize| {
        let words = |count: usize| (0..count).map(|word| format!("w{}", (at + 3 * word) % 40)).collect::<Vec<_>>().join(" ");
        let score = [0.1, 0.9, 0.4, 0.7][at % 4];
        json!({"sentence1": words(1 + at % 4), "sentence2": words(1 + at % 3), "score": score}).to_string() + "\n"
    };
    let data = folder.write("rows.jsonl", &(0..12).map(row).collect::<String>());
    let options = ["--method", "lora", "--init-lora-weights", "random", "--task", "embedding", "--loss", "cosine", "-q"];
    done(&[&["inject", &model, "-o", &bundle][..], &options].concat());
    let loss = |size: &str| number(&json_of(&["eval", &bundle, "--data", &data, "--tokenizer", &tokenizer, "--batch-size", size])["loss"]);
    let (alone, together) = (loss("1"), loss("12"));
    assert!((alone - together).abs() < 1e-5, "{alone} row by row, {together} in one batch");
    let (_, _, said) = run(&["eval", &bundle, "--data", &data, "--tokenizer", &tokenizer]);
    assert_eq!(said.matches("short ones are filled up to the longest of their row").count(), 1, "{said}");
}

#[test]
fn without_a_mask_of_sounds_frames_of_zeros_count_in_the_loss_and_in_what_is_heard_and_predictions_are_of_sounds_alone() {
    let folder = Folder::empty();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wav2vec2_ctc");
    for file in ["config.json", "vocab.json", "tokenizer_config.json", "preprocessor_config.json"] {
        std::fs::copy(source.join(file), folder.path(file)).unwrap();
    }
    let (model, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
    without_mask(&source.join("model.onnx").display().to_string(), "input_values", &model);
    let text = std::fs::read_to_string(source.join("rows.jsonl")).unwrap();
    let mut rows: Vec<Value> = text.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let data = folder.write("rows.jsonl", &text);
    let longest = rows.iter().map(|row| row["input_values"].as_array().unwrap().len()).max().unwrap();
    for row in &mut rows {
        row["input_values"].as_array_mut().unwrap().resize(longest, json!(0.0));
    }
    let filled = folder.write("filled.jsonl", &rows.iter().map(|row| row.to_string() + "\n").collect::<String>());
    done(&["inject", &model, "--method", "lora", "--task", "ctc", "-o", &bundle, "-q"]);
    let measured = |data: &str, size: &str| {
        let told = json_of(&["eval", &bundle, "--data", data, "--batch-size", size]);
        ["loss", "wer", "cer"].map(|name| number(&told["metrics"][name]))
    };
    let (together, alone) = (measured(&data, "2"), measured(&filled, "1"));
    assert!(together.iter().zip(&alone).all(|(one, other)| (one - other).abs() < 1e-5), "{together:?}, filled up before {alone:?}");
    let heard = |size: &str| done(&["predict", &bundle, "--data", &data, "--batch-size", size]);
    assert_eq!(heard("1"), heard("2"), "what is heard does not depend on other sounds");
}

#[test]
fn a_loss_that_adds_rows_up_is_the_same_in_parts() {
    let folder = Folder::empty();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wav2vec2_ctc");
    let (model, data, bundle) = (source.join("model.onnx"), source.join("rows.jsonl"), folder.path("bundle"));
    let (model, data) = (model.display().to_string(), data.display().to_string());
    done(&["inject", &model, "--method", "lora", "--task", "ctc", "--loss-option", "mean=0", "-o", &bundle, "-q"]);
    let [whole, parts] = ["2", "1"].map(|rows| trained(&bundle, &data, rows, &["--batch-size", "2", "--micro-batch-size", rows]));
    let is_same = |one: f64, other: f64| (one - other).abs() < 2e-5 * one.abs();
    assert!(
        whole.iter().zip(&parts).all(|(one, other)| is_same(one[0], other[0]) && is_same(one[1], other[1])),
        "{whole:?} in parts {parts:?}"
    );
}
