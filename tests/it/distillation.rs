//! Teachers beside labels, through the command line: models whose answers are computed with each batch, and columns of the data.

use crate::common::{Folder, done, fixture, json_of, number, refused};
use crate::tasks::{answering, tokenizer, trained, words};
use serde_json::{Value, json};

/// A folder with a student, a tokenizer and rows.
fn with_rows(model: &str, row: fn(usize) -> Value) -> (Folder, String, String) {
    let folder = Folder::with(model);
    folder.write("tokenizer.json", &tokenizer());
    let data = folder.write("rows.jsonl", &(0..12).map(|at| row(at).to_string() + "\n").collect::<String>());
    let model = folder.path("model.onnx");
    (folder, data, model)
}

const TEXTS: fn(usize) -> Value = |at| json!({"prompt": words(at), "completion": format!(" {}", words(at + 3))});

fn question(at: usize) -> Value {
    let context = (0..4 + 3 * (at % 5)).map(|place| format!("w{}", (at + 3 * place) % 40)).collect::<Vec<_>>().join(" ");
    let answer = context.split(' ').nth(1).expect("some words").to_owned();
    json!({"question": words(at), "answers": {"text": [answer], "answer_start": [context.find(' ').map(|end| end + 1)]}, "context": context})
}

#[test]
fn a_folder_stands_for_the_teacher_in_it() {
    let (folder, data, model) = with_rows("bert_classifier/dynamo.onnx", |at| json!({"text": words(at), "label": at % 3}));
    std::fs::create_dir(folder.path("teacher")).expect("a folder");
    std::fs::copy(folder.path("model.onnx"), folder.path("teacher/model.onnx")).expect("it is copied");
    let bundle = folder.path("bundle");
    let inject = ["inject", &model, "--method", "lora", "--distill-weight", "0.5", "-o", &bundle, "-q", "--teacher"];
    refused(&[&inject[..], &[&folder.path("nowhere")]].concat(), &["nowhere"]);
    refused(&[&inject[..], &[&data]].concat(), &["rows.jsonl", "expected an ONNX model"]);
    done(&[&inject[..], &[&folder.path("teacher")]].concat());
    let (_, evaluation) = trained(&folder, &bundle, &data, &[]);
    // The teacher is what the student began as.
    assert!(number(&evaluation["metrics"]["kl"]) < 0.1, "{evaluation}");
}

#[test]
fn a_language_model_begins_where_its_teacher_is_and_leaves_another_s() {
    for (student, other, task, rows) in [
        ("llama/dynamo.onnx", "gpt2/dynamo.onnx", "causal-lm", TEXTS),
        ("bert_masked/dynamo.onnx", "llama/dynamo.onnx", "masked-lm", |at| json!({"text": words(at)})),
    ] {
        let (folder, data, model) = with_rows(student, rows);
        let mut losses = vec![];
        for (teacher, parts) in [(model.clone(), "6"), (fixture(other), "6"), (fixture(other), "2")] {
            let bundle = folder.path(&format!("bundle{}", losses.len()));
            let given = ["--task", task, "--distill-weight", "1", "--temperature", "2", "--teacher", &teacher, "-q", "-o", &bundle];
            done(&[&["inject", &model, "--method", "lora"][..], &given].concat());
            let (found, evaluation) = trained(&folder, &bundle, &data, &["--micro-batch-size", parts]);
            assert!(evaluation["metrics"]["kl"].is_number(), "{evaluation}");
            losses.push(found);
            // The rows of a file are looked at with what the teacher says of them.
            done(&["check", &bundle, "--data", &data, "--tokenizer", &folder.path("tokenizer.json"), "--batch-size", "2", "-q"]);
        }
        assert!(losses[0][0].abs() < 1e-5, "{task}: a fresh adapter says what its base says: {losses:?}");
        assert!(losses[1][0] > 1e-3, "{task}: another model says something else: {losses:?}");
        let is_same = losses[1].iter().zip(&losses[2]).all(|(whole, parts)| (whole - parts).abs() < 2e-5 * whole);
        assert!(is_same, "{task}: batches and their parts {losses:?}");
    }
}

/// Logits of a teacher that is certain of each next token.
fn certain(ids: &[usize]) -> Value {
    let of = |next: &usize| (0..64).map(|token| if token == *next { 60.0 } else { 0.0 }).collect::<Vec<f64>>();
    let rows: Vec<Vec<f64>> = ids.iter().skip(1).chain([&0]).map(of).collect();
    json!(rows)
}

#[test]
fn a_teacher_in_the_data_that_is_certain_of_the_labels_is_learnt_as_labels_are() {
    let ids = |at: usize| (0..3 + at % 4).map(|place| 5 + (7 * at + 3 * place) % 40).collect::<Vec<usize>>();
    let folder = Folder::with("llama/dynamo.onnx");
    folder.write("tokenizer.json", &tokenizer());
    let row = |at: usize, with: bool| {
        let ids = ids(at);
        let labels: Vec<i64> =
            ids.iter().zip(0..).map(|(&id, place)| if place == 1 { -100 } else { i64::try_from(id).unwrap_or(0) }).collect();
        let mut row = json!({"input_ids": ids, "labels": labels});
        if with {
            row["teacher_logits"] = certain(&ids);
        }
        row.to_string() + "\n"
    };
    let model = folder.path("model.onnx");
    let losses = |name: &str, inject: &[&str], with: bool, more: &[&str]| {
        let data = folder.write(&format!("{name}.jsonl"), &(0..12).map(|at| row(at, with)).collect::<String>());
        let bundle = folder.path(name);
        let fixed = ["inject", &model, "--method", "lora", "--init-lora-weights", "random", "-o", &bundle, "-q"];
        done(&[&fixed[..], inject].concat());
        trained(&folder, &bundle, &data, more).0
    };
    let plain = losses("plain", &[], false, &[]);
    for (name, inject, more) in [
        ("alone", &["--distill-weight", "1"][..], &[][..]),
        ("half", &["--distill-weight", "0.5"], &[]),
        ("parts", &["--distill-weight", "0.5"], &["--micro-batch-size", "2"]),
    ] {
        let taught = losses(name, inject, true, more);
        let is_same = plain.len() == 3 && plain.iter().zip(&taught).all(|(one, other)| (one - other).abs() < 1e-5 * one);
        assert!(is_same, "{name}: labels {plain:?}, teacher {taught:?}");
    }
}

#[test]
fn answers_in_texts_are_learnt_from_a_teacher_in_batches_and_their_parts() {
    let folder = Folder::empty();
    folder.write("tokenizer.json", &tokenizer());
    let data = folder.write("rows.jsonl", &(0..12).map(|at| question(at).to_string() + "\n").collect::<String>());
    let model = answering(&folder);
    let mut losses = vec![];
    for (at, (weight, rows)) in [("1", "6"), ("0.5", "6"), ("0.5", "4")].iter().enumerate() {
        let bundle = folder.path(&format!("bundle{at}"));
        let method =
            ["inject", &model, "--method", "lora", "--task", "qa", "--init-lora-weights", if *weight == "1" { "true" } else { "random" }];
        done(&[&method[..], &["--distill-weight", weight, "--teacher", &model, "-o", &bundle, "-q"]].concat());
        losses.push(trained(&folder, &bundle, &data, &["--micro-batch-size", rows]).0);
    }
    assert!(losses[0][0].abs() < 1e-5, "the teacher is what the student began as: {losses:?}");
    let is_same = losses[1].iter().zip(&losses[2]).all(|(whole, parts)| (whole - parts).abs() < 2e-5 * whole);
    assert!(is_same, "batches and their parts {losses:?}");
}

#[test]
fn a_teacher_alone_needs_no_labels() {
    for (model, task) in [
        ("bert_classifier/dynamo.onnx", "seq-cls"),
        ("bert_classifier/dynamo.onnx", "multi-label"),
        ("bert_classifier/dynamo.onnx", "regression"),
    ] {
        let (folder, data, model) = with_rows(model, |at| json!({"text": words(at), "teacher_logits": [0.5, -1.0, at % 2]}));
        let bundle = folder.path("bundle");
        let inject = ["inject", &model, "--method", "lora", "--task", task, "-q", "-o", &bundle, "--distill-weight"];
        done(&[&inject[..], &["1"]].concat());
        let (losses, evaluation) = trained(&folder, &bundle, &data, &[]);
        assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{task}: {losses:?}");
        let names: Vec<&String> = evaluation["metrics"].as_object().expect("metrics").keys().collect();
        assert!(
            !names.iter().any(|name| ["accuracy", "mse"].contains(&name.as_str())),
            "{task}: nothing is compared with labels: {names:?}"
        );
        let (folder, data, model) =
            with_rows("bert_classifier/dynamo.onnx", |at| json!({"text": words(at), "teacher_logits": [0.5, -1.0, at % 2]}));
        let bundle = folder.path("bundle");
        done(&["inject", &model, "--method", "lora", "--task", task, "-q", "-o", &bundle, "--distill-weight", "0.5"]);
        refused(&["train", &bundle, "--data", &data, "--tokenizer", &folder.path("tokenizer.json")], &["line 1", "label"]);
    }
}

#[test]
fn a_teacher_that_cannot_be_learnt_from_is_refused_before_any_work() {
    let folder = Folder::with("llama/dynamo.onnx");
    let model = folder.path("model.onnx");
    let bundle = folder.path("bundle");
    let other = fixture("bert_classifier/dynamo.onnx");
    let inject = |more: &[&str], said: &[&str]| {
        refused(&[&["inject", &model, "-o", &bundle, "-q", "--distill-weight", "0.5"][..], more].concat(), said);
    };
    inject(&["--method", "lora", "--teacher", &other], &["bert_classifier", "hint"]);
    inject(&["--method", "prompt_tuning", "--num-virtual-tokens", "4", "--teacher", &model], &["virtual tokens", "lora"]);
    inject(&["--method", "lora", "--task", "preference", "--teacher", &model], &["--distill-weight", "nothing reads it here"]);
    let classifier = Folder::with("bert_classifier/dynamo.onnx");
    let regression = ["inject", &classifier.path("model.onnx"), "--method", "lora", "--task", "regression", "--distill-weight", "0.5"];
    refused(&[&regression[..], &["--temperature", "2", "-o", &bundle]].concat(), &["temperature", "as they are"]);
    // Classes of other numbers.
    let teacher = Folder::with("bert_classifier/dynamo.onnx");
    for (folder, names) in [(&classifier, ["bad", "fair", "good"]), (&teacher, ["good", "bad", "fair"])] {
        let id2label: serde_json::Map<String, Value> = names.iter().enumerate().map(|(at, name)| (at.to_string(), json!(name))).collect();
        folder.write("config.json", &json!({"id2label": id2label}).to_string());
    }
    let model = classifier.path("model.onnx");
    let teacher = teacher.path("model.onnx");
    let classes = ["inject", &model, "--method", "lora", "--task", "seq-cls", "-o", &bundle, "--teacher", &teacher];
    refused(
        &[&classes[..], &["--distill-weight", "0.5"]].concat(),
        &["the teacher's classes", "\"bad\", \"fair\", \"good\"", "the same numbers in both"],
    );
}

const TRIPLETS: fn(usize) -> Value = |at| json!({"anchor": words(at), "positive": words(at + 30), "negative": words(at + 61)});

/// The folder of a teacher with its tokenizer: the student itself, or a model that scores pairs.
fn teacher(folder: &Folder, model: &str, scores: bool) -> String {
    let (of, bundle) = (folder.path("teacher"), folder.path("scoring"));
    std::fs::create_dir(&of).expect("a folder");
    std::fs::copy(folder.path("tokenizer.json"), format!("{of}/tokenizer.json")).expect("it is copied");
    let file = format!("{of}/model.onnx");
    if scores {
        let head = ["--task", "rerank", "--num-labels", "1", "--init-lora-weights", "random", "-q"];
        done(&[&["inject", model, "--method", "lora", "-o", &bundle][..], &head].concat());
        done(&["merge", &bundle, "-o", &file, "-q"]);
    } else {
        std::fs::copy(model, &file).expect("it is copied");
    }
    file
}

#[test]
fn texts_begin_where_their_teacher_is_and_a_teacher_that_scores_pairs_says_what_its_scores_in_the_data_say() {
    for loss in ["mse", "margin-mse"] {
        let (folder, data, model) = with_rows("bert_encoder/dynamo.onnx", TRIPLETS);
        let (teacher, bundle) = (teacher(&folder, &model, false), folder.path("bundle"));
        let given = ["--task", "embedding", "--pooling", "mean", "--loss", loss, "--teacher", &teacher, "-q", "-o", &bundle];
        done(&[&["inject", &model, "--method", "lora"][..], &given].concat());
        let tokenizer = folder.path("tokenizer.json");
        let fresh = json_of(&["eval", &bundle, "--data", &data, "--tokenizer", &tokenizer]);
        assert!(number(&fresh["loss"]).abs() < 1e-9, "{loss}: a fresh adapter says what its base says: {fresh}");
        assert!(loss == "margin-mse" || number(&fresh["metrics"]["cosine"]) > 0.9999, "{fresh}");
        done(&["check", &bundle, "--data", &data, "--tokenizer", &tokenizer, "-q"]);
        let (found, _) = trained(&folder, &bundle, &data, &[]);
        assert!(found[0].abs() < 1e-9, "{loss}: {found:?}");
    }
    let (folder, data, model) = with_rows("bert_encoder/dynamo.onnx", TRIPLETS);
    let teacher = teacher(&folder, &model, true);
    let inject = ["inject", &model, "--method", "lora", "--task", "embedding", "--pooling", "mean", "--loss", "margin-mse", "-q", "-o"];
    let (asked, told) = (folder.path("asked"), folder.path("told"));
    done(&[&inject[..], &[&asked, "--teacher", &teacher]].concat());
    done(&[&inject[..], &[&told]].concat());
    // What the teacher says of each pair, by itself.
    let pairs = (0..12).flat_map(|at| [30, 61].map(|by| json!({"query": words(at), "passage": words(at + by)}).to_string() + "\n"));
    let pairs = folder.write("pairs.jsonl", &pairs.collect::<String>());
    let scored = done(&["predict", &teacher, "--task", "rerank", "--data", &pairs]);
    let logit = |row: &str| {
        let row: Value = serde_json::from_str(row).expect("a line of JSON");
        let score = number(&row["prediction"]);
        (score / (1.0 - score)).ln()
    };
    let scores: Vec<f64> = scored.lines().map(logit).collect();
    let with_scores = |at: usize| {
        let mut row = TRIPLETS(at);
        row["label"] = json!(scores[2 * at..2 * at + 2]);
        row.to_string() + "\n"
    };
    let with_scores = folder.write("scored.jsonl", &(0..12).map(with_scores).collect::<String>());
    let (by_model, _) = trained(&folder, &asked, &data, &[]);
    let (by_column, _) = trained(&folder, &told, &with_scores, &[]);
    let is_same = by_model.iter().zip(&by_column).all(|(one, other)| (one - other).abs() < 1e-4 * other.abs());
    assert!(is_same && by_model[0] > 0.0, "by the model {by_model:?}, by the column {by_column:?}");
    // A teacher is for losses that read it, and its vectors are as long as the student's.
    refused(
        &["inject", &model, "--method", "lora", "--task", "embedding", "--teacher", &teacher, "-o", &folder.path("no")],
        &["teacher", "mnrl"],
    );
    std::fs::remove_file(&teacher).expect("it is there");
    let again = ["train", &asked, "--data", &data, "--tokenizer", &folder.path("tokenizer.json"), "--restart"];
    refused(&again, &["teacher/model.onnx", "must stay where it was"]);
}
