//! The whole way in one command, and the folders that come out.

use std::io::Write;
use std::path::Path;

use serde_json::Value;

use crate::common::{Folder, done, fixture, json_of, peft_onnx, refused, run, text};

/// A model's folder as `optimum-cli export onnx` writes one: with a tokenizer of words, and a configuration.
fn exported(folder: &Folder, model: &str, config: &str) -> String {
    let path = Path::new(&folder.path("model")).to_path_buf();
    std::fs::create_dir(&path).expect("a folder");
    std::fs::copy(fixture(model), path.join("model.onnx")).expect("the fixture is there");
    std::fs::write(path.join("config.json"), config).expect("the file is written");
    std::fs::write(path.join("tokenizer.json"), TOKENIZER).expect("the file is written");
    std::fs::write(path.join("tokenizer_config.json"), "{\"pad_token\": \"[PAD]\"}").expect("the file is written");
    path.display().to_string()
}

const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [
  {"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
  "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
  "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "[UNK]": 1, "the": 2, "invoice": 3, "is": 4, "wrong": 5, "app": 6, "crashes": 7, "today": 8, "again": 9, "i": 10, "love": 11, "it": 12}, "unk_token": "[UNK]"}}"#;

const TICKETS: [(&str, &str); 3] = [("the invoice is wrong", "billing"), ("the app crashes", "bug"), ("i love it", "praise")];

fn tickets(rows: usize) -> String {
    let row = |number: usize| {
        let (body, category) = TICKETS[number % 3];
        format!("{body} {},{category}", ["today", "again"][number % 2])
    };
    format!("body,category\n{}\n", (0..rows).map(row).collect::<Vec<_>>().join("\n"))
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("the file is there")).expect("JSON")
}

const BERT: &str = r#"{"architectures": ["BertModel"], "model_type": "bert", "_name_or_path": "someone/tiny-bert"}"#;

#[test]
fn a_table_and_a_model_become_a_folder_that_answers_in_the_tables_words() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    let (data, out) = (folder.write("tickets.csv", &tickets(30)), folder.path("tuned"));
    let told = json_of(&["finetune", &model, "--data", &data, "-o", &out, "--batch-size", "4", "--learning-rate", "0.01"]);
    assert_eq!((&told["task"], &told["class_names"]), (&"seq-cls".into(), &serde_json::json!(["billing", "bug", "praise"])), "{told}");
    assert!(told["eval"]["accuracy"].as_f64().is_some_and(|accuracy| accuracy > 0.9), "{told}");
    let config = json(&format!("{out}/config.json"));
    assert_eq!(config["id2label"], serde_json::json!({"0": "billing", "1": "bug", "2": "praise"}));
    assert_eq!(config["architectures"], serde_json::json!(["BertForSequenceClassification"]));
    for name in ["model.onnx", "tokenizer.json", "tokenizer_config.json", "config.yaml"] {
        assert!(Path::new(&out).join(name).is_file(), "{name}");
    }
    let bundle = told["bundle"].as_str().expect("the bundle is told").to_owned();
    // The bundle knows the columns: so do the commands that read such data with it.
    assert_eq!(json(&format!("{bundle}/peft-onnx.json"))["columns"], serde_json::json!({"body": "text", "category": "label"}));
    assert_eq!(json_of(&["data", &data, &bundle])["training"]["task"], "seq-cls");
    done(&["train", &bundle, "--data", &data, "--continue", "--max-steps", "1", "--quiet"]);
    done(&["merge", &bundle, "-o", &folder.path("merged/"), "--quiet"]);
    assert!(json_of(&["eval", &folder.path("merged"), "--data", &data])["accuracy"].is_number());
    // Everything else may go: the model is complete, and knows its classes and columns.
    let card = std::fs::read_to_string(format!("{bundle}/README.md")).expect("there is a card");
    assert!(card.starts_with("---\nlibrary_name: peft\nbase_model: someone/tiny-bert\n") && card.contains("| 1 | bug |"), "{card}");
    assert_eq!(json(&format!("{bundle}/adapter_config.json"))["base_model_name_or_path"], "someone/tiny-bert");
    std::fs::remove_dir_all(&bundle).expect("the bundle goes");
    std::fs::remove_dir_all(&model).expect("the base goes");
    for map in [&[][..], &["--map", "body=text", "--map", "category=label"]] {
        let eval = json_of(&[&["eval", &out, "--data", &data], map].concat());
        assert!(eval["accuracy"].as_f64().is_some_and(|accuracy| accuracy > 0.9), "{eval}");
        assert!(eval["metrics"]["f1_macro"].as_f64().is_some_and(|f1| f1 > 0.9), "{eval}");
    }
    assert!(done(&["predict", &out, "--data", &data]).contains("billing"));
    // Files whose columns are called by their roles are read as well, and what is said wins.
    let named = folder.write("named.csv", "text,label,body\nthe app crashes,bug,the invoice is wrong\n");
    assert!(json_of(&["eval", &out, "--data", &named])["accuracy"].as_f64().is_some_and(|accuracy| accuracy > 0.9));
    assert_eq!(json_of(&["eval", &out, "--data", &named, "--map", "body=text"])["accuracy"], 0.0);
}

/// A model of a folder, tuned on a file of rows for two steps.
fn tuned(folder: &Folder, model: &str, data: &str, out: &str) -> Value {
    json_of(&["finetune", model, "--data", data, "-o", &folder.path(out), "--max-steps", "2", "--force"])
}

#[test]
fn texts_with_scores_learn_the_order_of_the_scores() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    let row = |at: usize| {
        let (one, other) = (TICKETS[at % 3].0, TICKETS[at / 3 % 3].0);
        serde_json::json!({"sentence1": one, "sentence2": other, "score": at % 5}).to_string()
    };
    let data = folder.write("sts.jsonl", &(0..9).map(row).collect::<Vec<_>>().join("\n"));
    let told = tuned(&folder, &model, &data, "tuned");
    assert_eq!(told["task"], "embedding", "{told}");
    assert!(std::fs::read_to_string(folder.path("tuned/config.yaml")).expect("options are kept").contains("loss: cosent"));
}

#[test]
fn labels_of_pairs_say_how_alike_they_are_where_the_model_makes_vectors() {
    let folder = Folder::empty();
    let bert = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    let modules = r#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;
    for (of_vectors, labels, task, loss) in [
        (false, ["0", "1"], "seq-cls", None),
        (true, ["0", "2"], "seq-cls", None),
        (true, ["0", "1"], "embedding", Some("contrastive")),
        (true, ["0.5", "1"], "embedding", Some("cosent")),
    ] {
        if of_vectors {
            folder.write("model/modules.json", modules);
            std::fs::create_dir_all(format!("{bert}/1_Pooling")).expect("a folder");
            std::fs::write(format!("{bert}/1_Pooling/config.json"), r#"{"pooling_mode_mean_tokens": true}"#).expect("it is written");
        }
        let row = |at: usize| format!("{},{},{}", TICKETS[at % 3].0, TICKETS[at / 3 % 3].0, labels[at % 2]);
        let data = folder.write("pairs.csv", &format!("sentence1,sentence2,label\n{}", (0..9).map(row).collect::<Vec<_>>().join("\n")));
        assert_eq!(tuned(&folder, &bert, &data, "tuned")["task"], task, "{labels:?}");
        let options = std::fs::read_to_string(folder.path("tuned/config.yaml")).expect("options are kept");
        assert_eq!(loss.is_some_and(|loss| options.contains(&format!("loss: {loss}"))), loss.is_some(), "{labels:?}: {options}");
    }
}

#[test]
fn what_was_decided_is_said_in_five_lines_and_can_be_asked_for_again() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    let (data, out, again) = (folder.write("tickets.csv", &tickets(30)), folder.path("tuned"), folder.path("again"));
    let (success, _, stderr) = run(&["finetune", &model, "--data", &data, "-o", &out, "--max-steps", "4", "--rank", "4"]);
    let lines: Vec<&str> = stderr.lines().take(5).collect();
    let heads = ["task      seq-cls (column category", "adapter   lora, ", "data      30 rows", "training  4 steps", "output    "];
    assert!(success && lines.iter().zip(heads).all(|(line, head)| line.starts_with(head)), "{stderr}");
    let config = std::fs::read_to_string(format!("{out}/config.yaml")).expect("options are kept");
    for option in ["rank: '4'", "task: seq-cls", "num-labels: 3", "- category=label", "val-size: '0.1'", "load-best: true"] {
        assert!(config.contains(option), "{option}: {config}");
    }
    done(&["finetune", &model, "--config", &format!("{out}/config.yaml"), "--data", &data, "-o", &again, "--quiet"]);
    let bytes = |folder: &str| std::fs::read(format!("{folder}/model.onnx")).expect("the model is there");
    assert!(bytes(&out) == bytes(&again), "the same options give the same model");
    // What is handed on names no folder of this machine; the bundle's run does, which goes on with the same file.
    let page = folder.path("runs.html");
    let place = std::path::Path::new(&data).parent().and_then(std::path::Path::file_name).expect("a folder").to_string_lossy();
    done(&["runs", &format!("{out}.lora"), "--html", &page]);
    for file in [format!("{out}/config.yaml"), format!("{out}.lora/runs/001/report.html"), page] {
        let text = std::fs::read_to_string(&file).expect("it is there");
        assert!(text.contains("tickets.csv") && !text.contains(&*place), "{file}");
    }
    refused(&["finetune", &model, "--data", &data, "-o", &out], &["already there", "--force"]);
}

#[test]
fn a_language_model_learns_to_write_and_a_classifier_keeps_its_head() {
    let folder = Folder::empty();
    let model = exported(&folder, "llama/dynamo.onnx", r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}"#);
    let rows: Vec<String> =
        (0..6).map(|row| format!("{{\"prompt\": \"the app {}\", \"completion\": \" crashes again\"}}", TICKETS[row % 3].1)).collect();
    let data = folder.write("rows.jsonl", &rows.join("\n"));
    let told =
        json_of(&["finetune", &model, "--data", &data, "-o", &folder.path("tuned"), "--max-steps", "2", "--layout", "transformers.js"]);
    assert_eq!((&told["task"], &told["merged"]["layout"]), (&"causal-lm".into(), &"transformers.js".into()), "{told}");
    assert!(Path::new(&folder.path("tuned/onnx/model.onnx")).is_file());
    assert_eq!(json(&folder.path("tuned/config.json"))["architectures"], serde_json::json!(["LlamaForCausalLM"]));
    assert_eq!(told["eval"], Value::Null, "of six rows none is held back");
}

/// Columns that are a model's own inputs tell no task, and the model does.
#[test]
fn rows_of_tokens_teach_what_the_model_is_for() {
    let of_tags = "{\"input_ids\": [5, 6, 7], \"labels\": [0, 1, 2]}\n";
    let rows = [
        ("llama/dynamo.onnx", r#"{"architectures": ["LlamaForCausalLM"]}"#, "{\"input_ids\": [5, 9, 12, 30]}\n", "causal-lm"),
        ("llama/torchscript.onnx", "{}", "{\"input_ids\": [5, 9, 12, 30], \"labels\": [-100, 9, 12, 30]}\n", "causal-lm"),
        ("bert_tokens/torchscript.onnx", "{}", of_tags, "token-cls"),
    ];
    for (model, config, row, task) in rows {
        let folder = Folder::empty();
        let model = exported(&folder, model, config);
        let data = folder.write("rows.jsonl", &row.repeat(4));
        assert_eq!(tuned(&folder, &model, &data, "tuned")["task"], task, "{row}");
    }
}

#[test]
fn data_that_teaches_nothing_the_model_can_learn_is_refused() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    let data = folder.write("rows.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    refused(&["finetune", &model, "--data", &data, "-o", &folder.path("tuned")], &["rows.jsonl", "prompt, completion", "--task", "--map"]);
    assert!(!Path::new(&folder.path("tuned")).exists() && !Path::new(&folder.path("tuned.lora")).exists());
}

#[test]
fn a_merged_folder_is_replaced_only_if_it_is_ours() {
    let folder = Folder::empty();
    let model = exported(&folder, "llama/dynamo.onnx", "{}");
    let (bundle, out) = (folder.path("bundle"), folder.path("out"));
    done(&["inject", &model, "--method", "lora", "-o", &bundle, "--base-model", "owner/base"]);
    done(&["merge", &bundle, "-o", &format!("{out}/"), "--weights", "external"]);
    assert!(Path::new(&format!("{out}/model.onnx_data")).is_file());
    refused(&["merge", &bundle, "-o", &out], &["already there"]);
    done(&["merge", &bundle, "-o", &out, "--force"]);
    assert!(!Path::new(&format!("{out}/model.onnx_data")).exists(), "the folder is replaced as a whole");
    std::fs::write(format!("{out}/notes.txt"), "mine").expect("a file");
    refused(&["merge", &bundle, "-o", &out, "--force"], &["notes.txt", "not replaced"]);
    refused(&["merge", &bundle, "-o", &model, "--force"], &["the base is in this folder"]);
    refused(&["merge", &bundle, "-o", &folder.path("x.onnx"), "--layout", "optimum"], &["name of a file"]);
    let exported = folder.path("adapter");
    done(&["export", &bundle, "--format", "peft", "-o", &exported]);
    assert_eq!(json(&format!("{exported}/adapter_config.json"))["base_model_name_or_path"], "owner/base");
    for name in ["README.md", "tokenizer.json", "adapter_model.safetensors"] {
        assert!(Path::new(&exported).join(name).is_file(), "{name}");
    }
    assert!(text(Path::new(&exported)).ends_with("adapter"));
}

#[test]
fn every_form_of_data_is_learnt_from_and_the_command_that_is_named_next_runs() {
    struct Case(&'static str, fn(usize) -> String, &'static str);
    let cases = [
        Case("numbers.csv", |row| format!("{},{}", said(row), row % 2), "seq-cls"),
        Case("fractions.tsv", |row| format!("{}\t{}.0", said(row), row % 2), "seq-cls"),
        Case("flags.csv", |row| format!("{},{}", said(row), ["True", "False"][row % 2]), "seq-cls"),
        Case("flags.jsonl", |row| format!("{{\"text\": \"{}\", \"label\": {}}}", said(row), row % 2 == 0), "seq-cls"),
        Case("array.json", |row| format!("{{\"text\": \"{}\", \"label\": {}}}", said(row), row % 2), "seq-cls"),
        Case("many.jsonl", |row| format!("{{\"text\": \"{}\", \"labels\": [{}, true, false]}}", said(row), row % 2 == 0), "multi-label"),
        Case("scores.csv", |row| format!("{},{}.5", said(row), row % 3), "regression"),
        Case("relevance.jsonl", |row| format!("{{\"query\": \"{}\", \"passage\": \"it\", \"label\": {}}}", said(row), row % 2), "rerank"),
        Case(
            "pairs.jsonl",
            |row| format!("{{\"sentence1\": \"{}\", \"sentence2\": \"it\", \"score\": 0.{}}}", said(row), row % 9),
            "embedding",
        ),
        Case("named.csv", |row| format!("{},{}", said(row), TICKETS[row % 3].1), "seq-cls"),
    ];
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    // One that puts something between two texts.
    std::fs::write(format!("{model}/tokenizer.json"), crate::tasks::tokenizer()).expect("the file is written");
    for Case(name, row, task) in cases {
        let rows: Vec<String> = (0..24).map(row).collect();
        let content = match name.rsplit_once('.') {
            Some((stem, ending @ ("csv" | "tsv"))) => {
                let between = if ending == "csv" { "," } else { "\t" };
                let head = if stem == "named" { "body,category".to_owned() } else { ["text", "label"].join(between) };
                format!("{head}\n{}\n", rows.join("\n"))
            }
            Some((_, "json")) => format!("[{}]", rows.join(", ")),
            _ => rows.join("\n"),
        };
        let (data, out) = (folder.write(name, &content), folder.path(&format!("tuned_{name}")));
        let (success, told, stderr) = run(&["finetune", &model, "--data", &data, "-o", &out, "--max-steps", "2"]);
        assert!(success, "{name}: {stderr}");
        let next = told.lines().find_map(|line| line.strip_prefix("next      peft-onnx ")).expect("a command");
        assert!(next.starts_with("eval ") && stderr.contains(&format!("task      {task}")), "{name}: {next} {stderr}");
        let next = next.replace(&format!("other.{}", name.rsplit_once('.').expect("an ending").1), &data);
        assert!(next.ends_with(&data), "{name}: {next}");
        done(&next.split(' ').collect::<Vec<_>>());
    }
}

/// A text of the tickets.
fn said(row: usize) -> String {
    format!("{} {}", TICKETS[row % 3].0, ["today", "again"][row % 2])
}

#[test]
fn a_folder_of_splits_and_standard_input_are_data_too() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    let split = folder.path("split");
    std::fs::create_dir(&split).expect("a folder");
    for (name, rows) in [("train.csv", 24), ("validation.csv", 6)] {
        std::fs::write(format!("{split}/{name}"), tickets(rows)).expect("the file is written");
    }
    let told = json_of(&["finetune", &model, "--data", &split, "-o", &folder.path("of_split"), "--max-steps", "2"]);
    assert_eq!((&told["task"], &told["eval"]["labels"]), (&"seq-cls".into(), &6.into()), "{told}");
    let args = ["finetune", &model, "--data", "-", "-o", &folder.path("of_input"), "--max-steps", "2", "--json"];
    let output = peft_onnx().args(args).write_stdin(tickets(24)).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Packed or not.
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    packed.write_all(tickets(6).as_bytes()).expect("memory takes it");
    let packed = packed.finish().expect("it is packed");
    let measured = ["eval", &folder.path("of_input"), "--data"];
    let plain = json_of(&[&measured[..], &[&format!("{split}/validation.csv")]].concat());
    let output = peft_onnx().args(measured).args(["-", "--json"]).write_stdin(packed).output().expect("the binary starts");
    let given: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(plain["loss"], given["loss"]);
}

#[test]
fn a_tuned_folder_says_what_it_is_for() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    // One that puts something between two texts.
    std::fs::write(format!("{model}/tokenizer.json"), crate::tasks::tokenizer()).expect("the file is written");
    let rows = |row: &dyn Fn(usize) -> Value| (0..12).map(|at| row(at).to_string()).collect::<Vec<_>>().join("\n");
    let body = |at: usize| TICKETS[at % 3].0;
    for (task, metric, text) in [
        ("multi-label", "f1_micro", rows(&|at| serde_json::json!({"text": body(at), "labels": [TICKETS[at % 3].1]}))),
        ("regression", "mse", rows(&|at| serde_json::json!({"text": body(at), "score": 0.5 * f64::from(u8::try_from(at).unwrap_or(0))}))),
        ("rerank", "average_precision", rows(&|at| serde_json::json!({"query": body(at), "passage": body(at / 3), "label": at % 2}))),
        (
            "embedding",
            "recall@1",
            rows(&|at| serde_json::json!({"anchor": format!("{} {}", body(at), body(at / 3)), "positive": body(at)})),
        ),
    ] {
        let data = folder.write("rows.jsonl", &text);
        let told = tuned(&folder, &model, &data, "tuned");
        assert_eq!(told["task"], task, "{told}");
        let eval = json_of(&["eval", &folder.path("tuned"), "--data", &data]);
        assert!(eval["metrics"][metric].is_number(), "{task}: {eval}");
        done(&["predict", &folder.path("tuned/model.onnx"), "--data", &data]);
        if task == "regression" {
            // Two texts and a number are what such a model is made for, not how alike the texts are.
            let pairs = rows(&|at| serde_json::json!({"sentence1": body(at), "sentence2": body(at / 3), "score": at}));
            let told = tuned(&folder, &folder.path("tuned"), &folder.write("pairs.jsonl", &pairs), "again");
            assert_eq!(told["task"], task, "{told}");
        }
    }
    let scored =
        folder.write("rows.jsonl", &rows(&|at| serde_json::json!({"sentence1": body(at), "sentence2": body(at / 3), "score": at})));
    assert!(json_of(&["eval", &folder.path("tuned"), "--data", &scored])["metrics"]["spearman"].is_number(), "of the folder of vectors");
}

#[test]
fn vectors_are_made_of_a_tuned_folder_as_they_were_trained() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    let data = folder
        .write("rows.jsonl", "{\"anchor\": \"the app\", \"positive\": \"it crashes\"}\n{\"anchor\": \"i love\", \"positive\": \"it\"}");
    let out = folder.path("tuned");
    let pooled = ["--pooling", "cls", "--normalize", "true", "--max-steps", "2", "--quiet"];
    done(&[&["finetune", &model, "--data", &data, "-o", &out], &pooled[..]].concat());
    let modules: Vec<String> =
        json(&format!("{out}/modules.json")).as_array().expect("a list").iter().map(|module| module["type"].to_string()).collect();
    assert!(modules.len() == 3 && modules[1].contains("Pooling") && modules[2].contains("Normalize"), "{modules:?}");
    let pooling = json(&format!("{out}/1_Pooling/config.json"));
    assert_eq!((&pooling["pooling_mode_cls_token"], &pooling["pooling_mode_mean_tokens"]), (&true.into(), &false.into()), "{pooling}");
    let vectors = |model: &str, text: &str| {
        let row = folder.write("text.jsonl", &serde_json::json!({"text": text}).to_string());
        json_of(&["predict", model, "--data", &row])[0]["vector"]
            .as_array()
            .expect("a vector")
            .iter()
            .map(crate::common::number)
            .collect::<Vec<_>>()
    };
    let near = |one: &[f64], other: &[f64]| one.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(near(&vectors(&out, "the app crashes"), &vectors(&folder.path("tuned.lora"), "the app crashes")));
    // What sentence-transformers cuts is cut.
    assert!(!near(&vectors(&out, "the app crashes today"), &vectors(&out, "the app")));
    std::fs::write(format!("{out}/sentence_bert_config.json"), "{\"max_seq_length\": 2}").expect("a file");
    assert!(near(&vectors(&out, "the app crashes today"), &vectors(&out, "the app")));
}

#[test]
fn a_body_with_a_new_head_has_the_module_names_of_its_class() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    let names = |bundle: &str| {
        let bytes = std::fs::read(format!("{bundle}/adapter_model.safetensors")).expect("the adapter is there");
        let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))).expect("a length");
        let head: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
        head.as_object().expect("tensors").keys().filter(|name| *name != "__metadata__").cloned().collect::<Vec<_>>()
    };
    let (bundle, bare) = (folder.path("bundle"), folder.path("bare"));
    done(&["inject", &model, "--method", "lora", "--num-labels", "3", "-o", &bundle]);
    let all = names(&bundle);
    let is_of_class = |name: &String| name.starts_with("base_model.model.bert.") || name.starts_with("base_model.model.classifier.");
    assert!(all.iter().any(|name| name.contains(".bert.") && name.ends_with("lora_A.weight")) && all.iter().all(is_of_class), "{all:?}");
    // Trained, merged and read again under these names.
    let data = folder.write("rows.csv", "text,label\nthe app crashes,0\ni love it,2\n");
    done(&["train", &bundle, "--data", &data, "--max-steps", "2", "--quiet"]);
    done(&["merge", &bundle, "-o", &folder.path("merged/"), "--quiet"]);
    done(&["inject", &model, "--adapter", &bundle, "-o", &folder.path("again"), "--quiet"]);
    assert_eq!(names(&folder.path("again")), all);
    // A body alone keeps its own names.
    done(&["inject", &model, "--method", "lora", "--task", "embedding", "-o", &bare]);
    assert!(names(&bare).iter().all(|name| !name.contains(".bert.")));
}

#[test]
fn columns_are_found_as_the_file_writes_them() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    let data = folder.write("tickets.csv", &tickets(24).replace("body,category", "Message Body;Category").replace(',', ";"));
    let out = folder.path("tuned");
    // What lies beside the bundle is another model's.
    folder.write("tokenizer.json", &TOKENIZER.replace("\"crashes\": 7", "\"crashes\": 70"));
    done(&["finetune", &model, "--data", &data, "-o", &out, "--max-steps", "2", "--quiet"]);
    let config = std::fs::read_to_string(format!("{out}/config.yaml")).expect("options are kept");
    assert!(config.contains("- Message Body=text") && config.contains("- Category=label"), "{config}");
    assert!(json_of(&["eval", &out, "--data", &data])["accuracy"].is_number());
    // Of two columns, one is named by the user.
    done(&["finetune", &model, "--data", &data, "-o", &out, "--max-steps", "2", "--map", "Message Body=text", "--force", "--quiet"]);
    let config = std::fs::read_to_string(format!("{out}/config.yaml")).expect("options are kept");
    assert!(config.matches("- Message Body=text").count() == 1 && config.contains("- Category=label"), "{config}");
}

#[test]
fn a_model_without_a_configuration_gets_one_with_its_classes() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    std::fs::remove_file(format!("{model}/config.json")).expect("it was there");
    let data = folder.write("tickets.csv", &tickets(24).replace("billing", "Rechnung & Zahlung").replace("bug", "Störung melden"));
    let out = folder.path("tuned");
    let told = json_of(&["finetune", &model, "--data", &data, "-o", &out, "--max-steps", "2"]);
    assert_eq!(told["merged"]["layout"], "onnx", "{told}");
    let config = json(&format!("{out}/config.json"));
    assert_eq!(config["id2label"], serde_json::json!({"0": "Rechnung & Zahlung", "1": "Störung melden", "2": "praise"}));
    assert_eq!((&config["num_labels"], &config["problem_type"]), (&3.into(), &"single_label_classification".into()));
    assert_eq!((&config["model_type"], &config["architectures"]), (&Value::Null, &Value::Null), "nothing is guessed");
    let answers = json_of(&["predict", &out, "--data", &data]);
    let names = config["label2id"].as_object().expect("a table");
    assert!(answers[0]["prediction"].as_str().is_some_and(|name| names.contains_key(name)), "{answers}");
    // Programs that go by the kind of the model are told that it is not there.
    let (success, said, _) = run(&["merge", &folder.path("tuned.lora"), "-o", &folder.path("site"), "--layout", "transformers.js"]);
    assert!(success && said.contains("model_type in config.json"), "{said}");
}

#[test]
fn a_report_shows_rows_before_and_after() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    let (data, out) = (folder.write("tickets.csv", &tickets(30)), folder.path("tuned"));
    let tune = |more: &[&str]| {
        let fixed = ["finetune", &model, "--data", &data, "-o", &out, "--learning-rate", "0.01", "--force", "--quiet"];
        done(&[&fixed, more].concat());
        std::fs::read_to_string(folder.path("tuned.lora/runs/001/report.html")).expect("the report is there")
    };
    let report = tune(&[]);
    let (_, samples) = report.split_once("before and after</h2>").expect("rows are shown");
    let (samples, _) = samples.split_once("<h2>").expect("options follow");
    let rows: Vec<&str> = samples.split("<tr><td>").skip(1).collect();
    // A tenth of the rows is three.
    assert_eq!(rows.len(), 3, "{samples}");
    for row in rows {
        let cells: Vec<&str> = row.split("<td>").collect();
        let told = |cell: &str, name: &str| {
            let (_, value) = cell.split_once(&format!("<span>{name}</span> ")).unwrap_or_else(|| panic!("{name}: {cell}"));
            value.split('<').next().unwrap_or_default().to_owned()
        };
        assert!(cells[0].contains("<span>body</span>") && cells[1].contains("<span>probability</span>"), "{row}");
        assert_eq!(told(cells[2], "prediction"), told(cells[0], "category"), "{row}");
        assert_ne!(told(cells[1], "probability"), told(cells[2], "probability"), "{row}");
    }
    assert!(tune(&["--samples", "1"]).matches("<span>body</span>").count() == 1);
    assert!(!tune(&["--samples", "0"]).contains("before and after"));
    let (success, _, stderr) = run(&["train", &folder.path("tuned.lora"), "--data", &data, "--restart", "--samples", "2"]);
    assert!(!success && stderr.contains("--samples needs rows to measure on"), "{stderr}");
}

#[test]
fn the_report_of_a_language_model_shows_what_it_writes() {
    let folder = Folder::empty();
    let model = exported(&folder, "llama/dynamo.onnx", r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}"#);
    let rows: Vec<String> = (0..24).map(|row| format!("{{\"prompt\": \"the app {}\", \"completion\": \" crashes\"}}", said(row))).collect();
    let data = folder.write("rows.jsonl", &rows.join("\n"));
    done(&["finetune", &model, "--data", &data, "-o", &folder.path("tuned"), "--max-steps", "30", "--learning-rate", "0.02", "--quiet"]);
    let report = std::fs::read_to_string(folder.path("tuned.lora/runs/001/report.html")).expect("the report is there");
    let (_, samples) = report.split_once("before and after</h2>").expect("rows are shown");
    let first = samples.split("<tr><td>").nth(1).expect("a row");
    let cells: Vec<&str> = first.split("<td>").collect();
    assert!(cells[2].contains("<span>prediction</span>") && cells[2].contains("crashes") && cells[1] != cells[2], "{first}");
}

#[test]
fn a_training_that_never_began_leaves_nothing_in_the_way_of_the_next_try() {
    let folder = Folder::empty();
    let model = exported(&folder, "bert_encoder/dynamo.onnx", BERT);
    let (data, out) = (folder.write("tickets.csv", &tickets(30)), folder.path("tuned"));
    let tune = ["finetune", &model, "--data", &data, "-o", &out, "--max-steps", "2", "--quiet"];
    refused(&[&tune[..], &["--metric", "nonsense"]].concat(), &["no metric named \"nonsense\""]);
    assert!(!Path::new(&folder.path("tuned.lora")).exists());
    refused(&[&tune[..], &["--onnxruntime", &folder.path("nowhere")]].concat(), &["ONNX Runtime"]);
    assert!(!Path::new(&folder.path("tuned.lora")).exists());
    done(&tune);
}
