//! Labels that are names, through the command line: a name keeps its class, whichever file it stands in.

use std::path::Path;

use crate::common::{Folder, done, json_of, number, refused};
use serde_json::{Value, json};

const MODEL: &str = "bert_classifier/dynamo.onnx";

/// A classifier of the fixtures with three classes, whose `config.json` names them in an order that is not the alphabet's.
fn with_config(names: [&str; 3]) -> Folder {
    let folder = Folder::with(MODEL);
    folder.write("config.json", &json!({"id2label": {"0": names[0], "1": names[1], "2": names[2]}}).to_string());
    folder
}

/// Rows of tokens with these labels.
fn write_rows(folder: &Folder, name: &str, labels: &[Value]) -> String {
    let row = |(at, label): (usize, &Value)| json!({"input_ids": [5 + at % 7, 20, 30 + at % 5], "label": label}).to_string() + "\n";
    folder.write(name, &labels.iter().enumerate().map(row).collect::<String>())
}

fn inject(folder: &Folder, more: &[&str]) -> String {
    let (model, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
    done(&[&["inject", &model, "--method", "lora", "-o", &bundle][..], more].concat());
    bundle
}

fn loss(model: &str, rows: &str) -> f64 {
    number(&json_of(&["eval", model, "--data", rows])["loss"])
}

fn train(bundle: &str, rows: &str, more: &[&str]) {
    done(&[&["train", bundle, "--data", rows, "--batch-size", "2", "--quiet"][..], more].concat());
}

fn names(bundle: &str) -> Value {
    let manifest = std::fs::read_to_string(Path::new(bundle).join("peft-onnx.json")).expect("a manifest");
    serde_json::from_str::<Value>(&manifest).expect("JSON")["class_names"].clone()
}

fn texts(labels: &[&str]) -> Vec<Value> {
    labels.iter().map(|label| json!(label)).collect()
}

#[test]
fn an_evaluation_file_that_lacks_a_class_has_the_numbers_of_the_training() {
    let folder = Folder::with(MODEL);
    let bundle = inject(&folder, &[]);
    assert_eq!(names(&bundle), Value::Null, "nothing is known before the first training");
    let learnt = write_rows(&folder, "train.jsonl", &texts(&["sad", "glad", "mad", "sad", "glad", "mad"]));
    let lacking = write_rows(&folder, "lacking.jsonl", &texts(&["sad", "mad", "sad"]));
    refused(
        &["eval", &bundle, "--data", &lacking],
        &["label names: expected 3, one for each class, found mad, sad", "hint: which class each name is"],
    );
    train(&bundle, &learnt, &["--max-steps", "2", "--learning-rate", "0.01", "--eval-data", &lacking]);
    assert_eq!(names(&bundle), json!(["glad", "mad", "sad"]));
    // The graph that others open knows them from the first training on.
    let inference = std::fs::read(format!("{bundle}/inference.onnx")).expect("a model");
    assert!(inference.windows(8).any(|bytes| bytes == b"id2label"));
    let numbers = write_rows(&folder, "numbers.jsonl", &[json!(2), json!(1), json!(2)]);
    assert_eq!(loss(&bundle, &lacking).to_bits(), loss(&bundle, &numbers).to_bits());
    let strange = write_rows(&folder, "strange.jsonl", &texts(&["sad", "bad"]));
    let said = ["strange.jsonl: line 2: label: expected one of glad, mad, sad, found bad", "hint: classes have the names that"];
    refused(&["eval", &bundle, "--data", &strange], &said);
    refused(&["train", &bundle, "--data", &learnt, "--eval-data", &strange, "--continue"], &said);
    refused(&["train", &bundle, "--data", &strange, "--continue"], &said);
    // A training that goes on knows them, too.
    train(&bundle, &learnt, &["--max-steps", "4", "--resume", "--eval-data", &lacking]);
    assert_eq!(names(&bundle), json!(["glad", "mad", "sad"]));
    // And an adapter that is injected again.
    let again = folder.path("again");
    done(&["inject", &folder.path("model.onnx"), "--adapter", &bundle, "-o", &again]);
    assert_eq!(loss(&again, &lacking).to_bits(), loss(&bundle, &lacking).to_bits());
}

#[test]
fn names_of_the_models_configuration_keep_their_order() {
    let folder = with_config(["sad", "mad", "glad"]);
    let (model, bundle) = (folder.path("model.onnx"), inject(&folder, &[]));
    assert_eq!(names(&bundle), json!(["sad", "mad", "glad"]));
    let rows = write_rows(&folder, "rows.jsonl", &texts(&["glad", "sad", "glad"]));
    let numbers = write_rows(&folder, "numbers.jsonl", &[json!(2), json!(0), json!(2)]);
    for model in [&model, &bundle] {
        assert_eq!(loss(model, &rows).to_bits(), loss(model, &numbers).to_bits(), "{model}");
    }
    train(&bundle, &rows, &["--max-steps", "2"]);
    assert_eq!(names(&bundle), json!(["sad", "mad", "glad"]));
    let other = write_rows(&folder, "other.jsonl", &texts(&["glad", "furious"]));
    refused(&["train", &bundle, "--data", &other, "--continue"], &["line 2: label: expected one of sad, mad, glad, found furious"]);
}

#[test]
fn a_class_that_the_first_training_lacks_takes_the_next_number() {
    let folder = Folder::with(MODEL);
    let bundle = inject(&folder, &[]);
    train(&bundle, &write_rows(&folder, "first.jsonl", &texts(&["sad", "mad"])), &["--max-steps", "1"]);
    assert_eq!(names(&bundle), json!(["mad", "sad"]));
    let all = write_rows(&folder, "all.jsonl", &texts(&["glad", "sad", "mad"]));
    refused(&["eval", &bundle, "--data", &all], &["line 1: label: expected one of mad, sad, found glad"]);
    train(&bundle, &all, &["--max-steps", "1", "--continue"]);
    assert_eq!(names(&bundle), json!(["mad", "sad", "glad"]));
}

#[test]
fn a_new_head_does_not_have_the_names_of_the_old_one() {
    let folder = with_config(["sad", "mad", "glad"]);
    let bundle = inject(&folder, &["--num-labels", "3"]);
    assert_eq!(names(&bundle), Value::Null);
    train(&bundle, &write_rows(&folder, "rows.jsonl", &texts(&["no", "maybe", "yes"])), &["--max-steps", "1"]);
    assert_eq!(names(&bundle), json!(["maybe", "no", "yes"]));
}

#[test]
fn numbers_need_no_names_even_in_tables() {
    let folder = with_config(["sad", "mad", "glad"]);
    let bundle = inject(&folder, &[]);
    let numbers = write_rows(&folder, "numbers.jsonl", &texts(&["2", "0", "2"]));
    let rows = write_rows(&folder, "rows.jsonl", &texts(&["glad", "sad", "glad"]));
    assert_eq!(loss(&bundle, &numbers).to_bits(), loss(&bundle, &rows).to_bits());
}

#[test]
fn a_merged_file_by_itself_says_the_names_of_its_classes() {
    let folder = Folder::with(MODEL);
    let bundle = inject(&folder, &[]);
    let rows = write_rows(&folder, "rows.jsonl", &texts(&["Störung & Co", "glad", "mad"]));
    train(&bundle, &rows, &["--max-steps", "1"]);
    let [alone, exported, again] = ["alone/tuned.onnx", "alone/adapted.onnx", "again"].map(|name| folder.path(name));
    std::fs::create_dir(folder.path("alone")).expect("a folder");
    done(&["merge", &bundle, "-o", &alone, "--quiet"]);
    done(&["export", &bundle, "--format", "inference", "-o", &exported, "--quiet"]);
    for model in [&alone, &exported] {
        let answers = json_of(&["predict", model, "--data", &rows]);
        let known = |answer: &Value| ["Störung & Co", "glad", "mad"].iter().all(|name| number(&answer["probabilities"][name]) > 0.0);
        assert!(answers.as_array().expect("rows").iter().all(known), "{model}: {answers}");
        assert_eq!(
            loss(model, &rows).to_bits(),
            loss(model, &write_rows(&folder, "numbers.jsonl", &[json!(0), json!(1), json!(2)])).to_bits()
        );
    }
    done(&["inject", &alone, "--method", "lora", "-o", &again]);
    assert_eq!(names(&again), json!(["Störung & Co", "glad", "mad"]));
    // Names in a configuration beside it are those of another model.
    let before = loss(&alone, &rows);
    folder.write("alone/config.json", &json!({"id2label": {"0": "a", "1": "b", "2": "c"}}).to_string());
    assert_eq!(loss(&alone, &rows).to_bits(), before.to_bits());
}
