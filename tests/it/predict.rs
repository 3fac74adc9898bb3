//! `predict`: a row in, a row out, for every task: the row's own columns, and behind them what the model says of it, in the user's words.

use serde_json::{Map, Value, json};

use crate::common::{Folder, done, json_of, number, refused};
use crate::tasks::tokenizer;

/// The rows that `predict` gives for rows, of a model or bundle in the folder.
fn predicted(folder: &Folder, model: &str, rows: &[Value], more: &[&str]) -> Vec<Map<String, Value>> {
    let data = folder.write("asked.jsonl", &rows.iter().map(|row| row.to_string() + "\n").collect::<String>());
    let tokenizer = folder.path("tokenizer.json");
    let args = ["predict", model, "--data", &data, "--tokenizer", &tokenizer, "--threads", "1"];
    let told = done(&[&args[..], more].concat());
    told.lines().map(|line| serde_json::from_str(line).expect("a row of JSON")).collect()
}

/// A folder with a model and the tokenizer of the tests of tasks.
fn folder(model: &str) -> Folder {
    let folder = Folder::with(model);
    folder.write("tokenizer.json", &tokenizer());
    folder
}

/// A bundle of the folder's model.
fn injected(folder: &Folder, options: &[&str]) -> String {
    let (model, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
    done(&[&["inject", &model, "--method", "lora", "--init-lora-weights", "random", "-o", &bundle, "-q"][..], options].concat());
    bundle
}

#[test]
fn a_text_that_is_gone_on_from_is_cut_as_rows_are() {
    let folder = folder("llama/dynamo.onnx");
    let bundle = injected(&folder, &[]);
    let rows = [3, 3000, 300_000].map(|times| json!({"prompt": "w1 w2 ".repeat(times)}));
    let answers = predicted(&folder, &bundle, &rows, &["--max-length", "4", "--max-new-tokens", "3"]);
    let without =
        |row: &Map<String, Value>| row.iter().filter(|(name, _)| *name != "prompt").map(|(_, value)| value.clone()).collect::<Vec<_>>();
    assert!(answers.iter().all(|row| without(row) == without(&answers[0]) && !without(row).is_empty()));
}

#[test]
fn every_task_answers_rows_without_labels_and_keeps_their_columns() {
    struct Case {
        model: &'static str,
        inject: &'static [&'static str],
        row: Value,
        columns: &'static [&'static str],
    }
    let cases = [
        Case {
            model: "bert_classifier/dynamo.onnx",
            inject: &[],
            row: json!({"sentence": "w1 w2"}),
            columns: &["prediction", "probability", "probabilities"],
        },
        Case {
            model: "bert_classifier/dynamo.onnx",
            inject: &["--task", "multi-label"],
            row: json!({"text": "w1 w2"}),
            columns: &["prediction", "probabilities"],
        },
        Case {
            model: "bert_encoder/dynamo.onnx",
            inject: &["--task", "regression", "--num-labels", "1"],
            row: json!({"text": "w1"}),
            columns: &["prediction"],
        },
        Case {
            model: "bert_encoder/torchscript.onnx",
            inject: &["--task", "rerank", "--num-labels", "1"],
            row: json!({"query": "w1", "document": "w2 w3"}),
            columns: &["prediction"],
        },
        Case {
            model: "bert_tokens/dynamo.onnx",
            inject: &["--task", "token-cls"],
            row: json!({"tokens": ["w1", "w2", "w3"]}),
            columns: &["prediction", "entities"],
        },
        Case {
            model: "bert_tokens/dynamo.onnx",
            inject: &["--task", "token-cls"],
            row: json!({"text": "w1 w2"}),
            columns: &["prediction"],
        },
        Case { model: "bert_encoder/dynamo.onnx", inject: &["--task", "embedding"], row: json!({"text": "w1 w2"}), columns: &["vector"] },
        Case {
            model: "bert_encoder/dynamo.onnx",
            inject: &["--task", "embedding"],
            row: json!({"query": "w1 w2", "positive": "w3"}),
            columns: &["similarity", "vectors"],
        },
        Case {
            model: "llama/dynamo.onnx",
            inject: &["--task", "preference"],
            row: json!({"prompt": "w1", "chosen": " w2", "rejected": " w3"}),
            columns: &["prediction", "chosen_log_probability", "rejected_log_probability"],
        },
        Case {
            model: "llama/dynamo.onnx",
            inject: &["--task", "preference", "--loss", "kto"],
            row: json!({"prompt": "w1", "completion": " w2"}),
            columns: &["prediction"],
        },
        Case {
            model: "bert_encoder/dynamo.onnx",
            inject: &["--task", "reward", "--num-labels", "1"],
            row: json!({"prompt": "w1", "chosen": " w2", "rejected": " w3"}),
            columns: &["prediction", "chosen_score", "rejected_score"],
        },
        Case { model: "llama/dynamo.onnx", inject: &["--task", "causal-lm"], row: json!({"prompt": "w1 w2"}), columns: &["prediction"] },
        Case {
            model: "bert_masked/dynamo.onnx",
            inject: &["--task", "masked-lm"],
            row: json!({"text": "w1 [MASK] w2"}),
            columns: &["prediction", "words"],
        },
    ];
    for Case { model, inject, row, columns } in cases {
        let folder = folder(model);
        let bundle = injected(&folder, inject);
        let mut second = row.clone();
        second["note"] = json!("kept");
        let writes = inject.contains(&"causal-lm");
        let options: &[&str] = if writes { &["--max-new-tokens", "3", "--batch-size", "1"] } else { &["--batch-size", "1"] };
        let rows = predicted(&folder, &bundle, &[row.clone(), second], options);
        let own: Vec<&String> = row.as_object().expect("a row").keys().collect();
        let found: Vec<&String> = rows[0].keys().collect();
        let expected: Vec<String> = own.iter().map(ToString::to_string).chain(columns.iter().map(ToString::to_string)).collect();
        assert_eq!(found, expected.iter().collect::<Vec<_>>(), "{inject:?}");
        assert!(rows[0].values().all(|value| !value.is_null()), "{inject:?}: {rows:?}");
        assert!(rows[1]["note"] == "kept" && columns.iter().all(|name| rows[0][*name] == rows[1][*name]), "{inject:?}: {rows:?}");
    }
}

#[test]
fn classes_are_called_by_the_users_names_and_a_merged_model_says_the_same() {
    let folder = folder("bert_classifier/dynamo.onnx");
    let bundle = injected(&folder, &[]);
    let row = |at: usize| json!({"text": format!("w{at} w{}", at + 1), "label": (["bad", "good", "so so"][at % 3])}).to_string() + "\n";
    let rows: String = (0..12).map(row).collect();
    let (data, tokenizer) = (folder.write("rows.jsonl", &rows), folder.path("tokenizer.json"));
    done(&["train", &bundle, "--data", &data, "--tokenizer", &tokenizer, "--max-steps", "4", "--save-steps", "2", "--threads", "1", "-q"]);
    let asked = [json!({"headline": "w1 w2 w3", "label": "whatever"}), json!({"headline": "w7"})];
    let told = predicted(&folder, &bundle, &asked, &["--map", "headline=text"]);
    for row in &told {
        let best = row["prediction"].as_str().expect("a name");
        let all = row["probabilities"].as_object().expect("probabilities");
        let sum: f64 = all.values().map(number).sum();
        assert!(["bad", "good", "so so"].contains(&best) && (sum - 1.0).abs() < 1e-5, "{row:?}");
        assert_eq!(all.iter().next(), Some((&best.to_owned(), &row["probability"])), "the most probable comes first");
    }
    assert_eq!(told[0]["label"], "whatever");
    let merged = folder.path("merged.onnx");
    done(&["merge", &bundle, "-o", &merged, "-q"]);
    let of_merged = predicted(&folder, &merged, &asked, &["--map", "headline=text", "--task", "seq-cls"]);
    for (one, other) in told.iter().zip(&of_merged) {
        assert!((number(&one["probability"]) - number(&other["probability"])).abs() < 1e-4, "{one:?} {other:?}");
    }
    let earlier = predicted(&folder, &bundle, &asked, &["--map", "headline=text", "--checkpoint", "2"]);
    assert_ne!(earlier[0]["probability"], told[0]["probability"]);
}

#[test]
fn vectors_of_a_bundle_are_those_of_the_merged_model_pooled_alike() {
    let folder = folder("bert_encoder/dynamo.onnx");
    let bundle = injected(&folder, &["--task", "embedding", "--pooling", "mean", "--normalize", "true"]);
    let asked = [json!({"text": "w1 w2 w3 w4"}), json!({"text": "w5"})];
    let merged = folder.path("merged.onnx");
    done(&["merge", &bundle, "-o", &merged, "-q"]);
    let told = predicted(&folder, &bundle, &asked, &[]);
    let of_merged = predicted(&folder, &merged, &asked, &["--task", "embedding", "--pooling", "mean", "--normalize", "true"]);
    for (one, other) in told.iter().zip(&of_merged) {
        let vector = |row: &Map<String, Value>| row["vector"].as_array().expect("a vector").iter().map(number).collect::<Vec<f64>>();
        let (one, other) = (vector(one), vector(other));
        assert!((one.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
        assert!(one.iter().zip(&other).all(|(x, y)| (x - y).abs() < 1e-5), "{one:?} {other:?}");
    }
}

#[test]
fn answers_go_to_a_file_or_as_one_list_and_nothing_is_overwritten() {
    let folder = folder("bert_classifier/dynamo.onnx");
    let (model, tokenizer) = (folder.path("model.onnx"), folder.path("tokenizer.json"));
    let data = folder.write("rows.csv", "text,stars\nw1,5\nw2 w3,1\n");
    let args = ["predict", &model, "--data", &data, "--tokenizer", &tokenizer, "--task", "seq-cls"];
    let list = json_of(&args);
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    let output = folder.path("out.jsonl");
    let told = json_of(&[&args[..], &["-o", &output]].concat());
    assert_eq!((told["rows"].as_u64(), told["task"].as_str()), (Some(2), Some("seq-cls")));
    assert_eq!(std::fs::read_to_string(&output).expect("the file is there").lines().count(), 2);
    refused(&[&args[..], &["-o", &output]].concat(), &["already there", "--force"]);
    let named = folder.write("named.csv", "text,prediction\nw1,x\n");
    refused(
        &["predict", &model, "--data", &named, "--tokenizer", &tokenizer, "--task", "seq-cls"],
        &["line 2", "a column prediction", "--prefix"],
    );
}

#[test]
fn rows_that_cannot_be_answered_are_named() {
    for (model, task, row, said) in [
        ("bert_classifier/dynamo.onnx", "seq-cls", json!({"words": "w1"}), "expected text"),
        ("bert_classifier/dynamo.onnx", "seq-cls", json!({"text": " "}), "an empty one"),
        ("bert_encoder/dynamo.onnx", "embedding", json!({"title": "w1"}), "--map COLUMN=text"),
        ("bert_masked/dynamo.onnx", "masked-lm", json!({"text": "w1 w2"}), "[MASK]"),
        ("bert_tokens/dynamo.onnx", "token-cls", json!({"tokens": "w1 w2"}), "a list of words"),
        ("llama/dynamo.onnx", "preference", json!({"prompt": "w1"}), "prompt + chosen"),
    ] {
        let folder = folder(model);
        let (model, tokenizer) = (folder.path("model.onnx"), folder.path("tokenizer.json"));
        let data = folder.write("rows.jsonl", &format!("\n{row}\n"));
        refused(&["predict", &model, "--data", &data, "--tokenizer", &tokenizer, "--task", task], &["line 2", said]);
    }
}
