//! Every task through the command line, on the fixtures: rows as people have them in, the metrics that the task has out; and the gradient of a
//! batch in parts is that of the whole batch, also where the loss compares all its rows.

use std::fmt::Write as _;
use std::path::Path;

use crate::common::{Folder, done, fixture, json_of, number, refused, run};
use peft_onnx::ir::Builder;
use peft_onnx::onnx::{self, WriteOptions};
use serde_json::{Value, json};

/// A tokenizer of the words `w0` to `w39`, which puts `[CLS]` and `[SEP]` around texts.
pub(crate) fn tokenizer() -> String {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let words: Vec<String> = special.iter().map(ToString::to_string).chain((0..40).map(|number| format!("w{number}"))).collect();
    let vocabulary: serde_json::Map<String, Value> = words.iter().zip(0..).map(|(word, id)| (word.clone(), json!(id))).collect();
    let added: Vec<Value> = special
        .iter()
        .zip(0..)
        .map(|(token, id)| json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}))
        .collect();
    let piece = |id: &str, segment: u8| json!({"SpecialToken": {"id": id, "type_id": segment}});
    let text = |id: &str, segment: u8| json!({"Sequence": {"id": id, "type_id": segment}});
    let ids = |token: &str, id: u8| json!({"id": token, "ids": [id], "tokens": [token]});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0)],
            "pair": [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0), text("B", 1), piece("[SEP]", 1)],
            "special_tokens": {"[CLS]": ids("[CLS]", 2), "[SEP]": ids("[SEP]", 3)},
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    })
    .to_string()
}

/// Some words, others for every number; rows differ in length.
pub(crate) fn words(seed: usize) -> String {
    (0..3 + seed % 4).map(|place| format!("w{}", (7 * seed + 5 * place + seed * place) % 40)).collect::<Vec<_>>().join(" ")
}

/// A small number to compute with.
fn small(number: usize) -> f64 {
    f64::from(u16::try_from(number).expect("a small number"))
}

pub(crate) struct Case {
    pub(crate) what: &'static str,
    pub(crate) model: &'static str,
    pub(crate) inject: &'static [&'static str],
    pub(crate) row: fn(usize) -> Value,
    metrics: &'static [&'static str],
}

const PAIRS: fn(usize) -> Value = |at| json!({"anchor": words(at), "positive": words(at + 100)});

const SCORED: fn(usize) -> Value = |at| json!({"sentence1": words(at), "sentence2": words(at + 100), "score": small(at % 5) / 4.0});

pub(crate) const CASES: &[Case] = &[
    Case {
        what: "embedding, pairs",
        model: "bert_encoder/dynamo.onnx",
        inject: &["--task", "embedding", "--pooling", "mean"],
        row: PAIRS,
        metrics: &["loss", "recall@1", "recall@10", "mrr@10", "ndcg@10"],
    },
    Case {
        what: "embedding, negatives, Matryoshka",
        model: "bert_encoder/torchscript.onnx",
        inject: &["--task", "embedding", "--pooling", "cls", "--normalize", "true", "--matryoshka-dims", "16,8"],
        row: |at| json!({"query": words(at), "passage": words(at + 100), "negative_1": words(at + 200), "negative_2": words(at + 303)}),
        metrics: &["loss", "recall@1", "recall@10", "mrr@10", "ndcg@10", "triplet_accuracy"],
    },
    Case {
        what: "embedding, scored pairs",
        model: "bert_encoder/dynamo.onnx",
        inject: &["--task", "embedding", "--loss", "cosent"],
        row: SCORED,
        metrics: &["loss", "spearman", "pearson"],
    },
    Case {
        what: "embedding, scored pairs, angle",
        model: "bert_encoder/torchscript.onnx",
        inject: &["--task", "embedding", "--pooling", "mean", "--loss", "angle"],
        row: SCORED,
        metrics: &["loss", "spearman", "pearson"],
    },
    Case {
        what: "embedding, scored pairs, angle, dynamo",
        model: "bert_encoder/dynamo.onnx",
        inject: &["--task", "embedding", "--pooling", "mean", "--loss", "angle"],
        row: SCORED,
        metrics: &["loss", "spearman", "pearson"],
    },
    Case {
        what: "embedding, scored pairs, cosine",
        model: "bert_encoder/torchscript.onnx",
        inject: &["--task", "embedding", "--pooling", "mean", "--loss", "cosine"],
        row: SCORED,
        metrics: &["loss", "spearman", "pearson"],
    },
    Case {
        what: "embedding, a teacher's vectors",
        model: "bert_encoder/dynamo.onnx",
        inject: &["--task", "embedding", "--pooling", "mean", "--loss", "mse"],
        row: |at| json!({"sentence1": words(at), "sentence2": words(at + 7), "label": (0..32).map(|place| small((at + place) % 5) - 2.0).collect::<Vec<f64>>()}),
        metrics: &["loss", "cosine"],
    },
    Case {
        what: "embedding, scores of several negatives",
        model: "bert_encoder/torchscript.onnx",
        inject: &["--task", "embedding", "--pooling", "mean", "--loss", "margin-mse"],
        row: |at| {
            let scores = [small(at % 3), 0.5, -1.0];
            json!({"query": words(at), "passage": words(at + 100), "negative_1": words(at + 200), "negative_2": words(at + 303), "score": scores})
        },
        metrics: &["loss", "recall@1", "triplet_accuracy"],
    },
    Case {
        what: "many labels",
        model: "bert_classifier/dynamo.onnx",
        inject: &["--task", "multi-label"],
        row: |at| {
            let labels: [&[u8]; 4] = [&[0], &[1, 2], &[], &[2]];
            json!({"text": words(at), "labels": labels[at % 4]})
        },
        metrics: &["loss", "f1_micro", "f1_macro", "accuracy"],
    },
    Case {
        what: "numbers",
        model: "bert_encoder/dynamo.onnx",
        inject: &["--task", "regression", "--num-labels", "1", "--loss", "huber"],
        row: |at| json!({"text": words(at), "score": small(at % 7) / 3.0 - 1.0}),
        metrics: &["loss", "mse", "mae", "pearson", "spearman"],
    },
    Case {
        what: "relevance",
        model: "bert_encoder/dynamo.onnx",
        inject: &["--task", "rerank", "--num-labels", "1"],
        row: |at| json!({"query": words(at / 2), "document": words(at + 100), "label": at % 2}),
        metrics: &["loss", "accuracy", "average_precision", "mrr@10", "ndcg@10"],
    },
    Case {
        what: "classes, weighted and smoothed",
        model: "bert_classifier/dynamo.onnx",
        inject: &["--class-weights", "1,2,0.5", "--label-smoothing", "0.1"],
        row: |at| json!({"sentence1": words(at), "sentence2": words(at + 50), "label": at % 3}),
        metrics: &["loss", "accuracy", "f1_macro", "f1_micro", "mcc"],
    },
    Case {
        what: "classes, a teacher's logits",
        model: "bert_classifier/dynamo.onnx",
        inject: &["--distill-weight", "0.5", "--temperature", "2"],
        row: |at| json!({"text": words(at), "label": at % 3, "teacher_logits": [0.5, -1.0, at % 2]}),
        metrics: &["loss", "accuracy", "f1_macro", "f1_micro", "mcc", "kl"],
    },
    Case {
        what: "classes that weigh, a teacher's logits",
        model: "bert_classifier/dynamo.onnx",
        inject: &["--distill-weight", "0.3", "--class-weights", "1,3,0.5"],
        row: |at| json!({"text": words(at), "label": at % 3, "teacher_logits": [0.5, -1.0, at % 2]}),
        metrics: &["loss", "accuracy", "kl"],
    },
    Case {
        what: "several labels, a teacher's logits",
        model: "bert_classifier/dynamo.onnx",
        inject: &["--task", "multi-label", "--distill-weight", "0.5", "--temperature", "3"],
        row: |at| json!({"text": words(at), "labels": [at % 3], "teacher_logits": [0.5, -1.0, at % 2]}),
        metrics: &["loss", "f1_micro", "f1_macro", "accuracy", "kl"],
    },
    Case {
        what: "numbers, a teacher's",
        model: "bert_encoder/dynamo.onnx",
        inject: &["--task", "regression", "--num-labels", "1", "--distill-weight", "0.5"],
        row: |at| json!({"text": words(at), "score": small(at % 7) / 3.0, "teacher_logits": [small(at % 5)]}),
        metrics: &["loss", "mse", "teacher_mse"],
    },
    Case {
        what: "tags of words",
        model: "bert_tokens/dynamo.onnx",
        inject: &["--task", "token-cls"],
        row: |at| {
            let text = words(at);
            let tags: Vec<usize> = (0..text.split(' ').count()).map(|place| (at + place) % 2).collect();
            json!({"tokens": text.split(' ').collect::<Vec<_>>(), "ner_tags": tags})
        },
        metrics: &["loss", "accuracy", "precision", "recall", "f1"],
    },
    Case {
        what: "preferences",
        model: "llama/dynamo.onnx",
        inject: &["--task", "preference"],
        row: |at| json!({"prompt": words(at), "chosen": format!(" {}", words(at + 9)), "rejected": format!(" {}", words(at + 90))}),
        metrics: &["loss", "accuracy", "margin"],
    },
    Case {
        what: "preferences, a base with a cache",
        model: "llama/optimum_cache.onnx",
        inject: &["--task", "preference"],
        row: |at| json!({"prompt": words(at), "chosen": format!(" {}", words(at + 9)), "rejected": format!(" {}", words(at + 90))}),
        metrics: &["loss", "accuracy", "margin"],
    },
    Case {
        what: "preferences, odds",
        model: "llama/dynamo.onnx",
        inject: &["--task", "preference", "--loss", "orpo"],
        row: |at| json!({"prompt": words(at), "chosen": format!(" {}", words(at + 9)), "rejected": format!(" {}", words(at + 90))}),
        metrics: &["loss", "accuracy", "margin"],
    },
    Case {
        what: "single answers",
        model: "llama/torchscript.onnx",
        inject: &["--task", "preference", "--loss", "kto"],
        row: |at| json!({"prompt": words(at), "completion": format!(" {}", words(at + 9)), "label": at % 2 == 0}),
        metrics: &["loss", "accuracy", "margin"],
    },
    Case {
        what: "rewards",
        model: "bert_encoder/dynamo.onnx",
        inject: &["--task", "reward", "--num-labels", "1"],
        row: |at| json!({"prompt": words(at), "chosen": format!(" {}", words(at + 9)), "rejected": format!(" {}", words(at + 90))}),
        metrics: &["loss", "accuracy", "margin"],
    },
];

/// Trains for three steps of six rows, and gives the losses and the evaluation.
pub(crate) fn trained(folder: &Folder, bundle: &str, data: &str, more: &[&str]) -> (Vec<f64>, Value) {
    let options = [
        "--no-shuffle",
        "--batch-size",
        "6",
        "--max-steps",
        "3",
        "--learning-rate",
        "0.005",
        "--lr-scheduler",
        "constant",
        "--threads",
        "1",
        "-q",
    ];
    let tokenizer = folder.path("tokenizer.json");
    done(&[&["train", bundle, "--data", data, "--tokenizer", &tokenizer][..], &options, more].concat());
    let metrics = Path::new(bundle).join("runs/001/metrics.jsonl");
    let lines = std::fs::read_to_string(metrics).expect("the run's metrics");
    let losses = lines.lines().map(|line| number(&serde_json::from_str::<Value>(line).expect("a line of JSON")["loss"])).collect();
    (losses, json_of(&["eval", bundle, "--data", data, "--tokenizer", &tokenizer, "--batch-size", "6", "--threads", "1"]))
}

#[test]
fn every_task_learns_from_rows_of_its_own_and_is_measured_as_its_own() {
    let mut wrong = String::new();
    for case in CASES {
        let folder = Folder::with(case.model);
        folder.write("tokenizer.json", &tokenizer());
        let rows = (0..12).map(|at| (case.row)(at).to_string() + "\n").collect::<String>();
        let (data, model) = (folder.write("rows.jsonl", &rows), folder.path("model.onnx"));
        let make = |bundle: &str| {
            let fixed = ["inject", &model, "--method", "lora", "--init-lora-weights", "random", "-o", bundle, "-q"];
            done(&[&fixed[..], case.inject].concat());
        };
        let (whole, parts) = (folder.path("whole"), folder.path("parts"));
        make(&whole);
        // Without any rows, too, it is known what the graphs are fed with.
        let checked = json_of(&["check", &whole]);
        if checked.as_array().is_none_or(|rows| rows.iter().any(|row| row["verdict"] != "right")) {
            writeln!(wrong, "{}: check without data {checked}", case.what).expect("text");
        }
        let before = json_of(&["eval", &whole, "--data", &data, "--tokenizer", &folder.path("tokenizer.json"), "--batch-size", "6"]);
        let (losses, after) = trained(&folder, &whole, &data, &[]);
        let names: Vec<&str> = after["metrics"].as_object().expect("metrics").keys().map(String::as_str).collect();
        if case.metrics.iter().any(|name| !names.contains(name)) {
            writeln!(wrong, "{}: metrics {names:?}, expected {:?}", case.what, case.metrics).expect("text");
        }
        // Batches of equal weight: the mean of the file's two batches is what evaluation finds; training sees each before its update.
        let first = number(&before["metrics"]["loss"]);
        if !(losses.iter().all(|loss| loss.is_finite()) && first.is_finite() && (losses[0] - first).abs() < 1.0 + first.abs()) {
            writeln!(wrong, "{}: losses {losses:?} beside {first} of an evaluation", case.what).expect("text");
        }
        make(&parts);
        let (in_parts, _) = trained(&folder, &parts, &data, &["--micro-batch-size", "2"]);
        let differ = losses.iter().zip(&in_parts).any(|(one, other)| (one - other).abs() > 2e-5 * one.abs().max(1.0));
        if differ || in_parts.len() != losses.len() {
            writeln!(wrong, "{}: losses {losses:?}, in parts {in_parts:?}", case.what).expect("text");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn bad_rows_of_a_task_are_named_with_their_line() {
    struct Bad {
        task: &'static [&'static str],
        model: &'static str,
        row: Value,
        said: &'static [&'static str],
    }
    let cases = [
        Bad {
            task: &["--task", "embedding"],
            model: "bert_encoder/dynamo.onnx",
            row: json!({"anchor": "w1 w2"}),
            said: &["line 2", "positive"],
        },
        Bad {
            task: &["--task", "embedding"],
            model: "bert_encoder/dynamo.onnx",
            row: json!({"anchor": "w1", "positive": " "}),
            said: &["line 2", "an empty one"],
        },
        Bad {
            task: &["--task", "embedding", "--pooling", "mean", "--loss", "mse"],
            model: "bert_encoder/dynamo.onnx",
            row: json!({"sentence1": "w1", "sentence2": "w2", "label": [0.5, 1.0]}),
            said: &["line 2", "numbers in label", "expected 32, as the model gives, found 2"],
        },
        Bad {
            task: &["--task", "embedding", "--pooling", "mean", "--loss", "margin-mse"],
            model: "bert_encoder/torchscript.onnx",
            row: json!({"query": "w1", "passage": "w2", "negative_1": "w3", "negative_2": "w4", "score": 0.5}),
            said: &["line 2", "numbers in label", "expected 2", "or 3, the scores themselves", "found 1"],
        },
        Bad {
            task: &["--task", "multi-label"],
            model: "bert_classifier/dynamo.onnx",
            row: json!({"text": "w1", "labels": [7]}),
            said: &["line 2", "below 3"],
        },
        Bad {
            task: &["--task", "multi-label"],
            model: "bert_classifier/dynamo.onnx",
            row: json!({"text": "w1", "labels": 1}),
            said: &["line 2", "a list"],
        },
        Bad {
            task: &["--task", "regression", "--num-labels", "1"],
            model: "bert_encoder/dynamo.onnx",
            row: json!({"text": "w1", "score": "high"}),
            said: &["line 2", "a number"],
        },
        Bad {
            task: &["--task", "rerank", "--num-labels", "1"],
            model: "bert_encoder/dynamo.onnx",
            row: json!({"query": "w1", "document": "w2", "label": 3}),
            said: &["line 2", "from 0"],
        },
        Bad {
            task: &["--task", "token-cls"],
            model: "bert_tokens/dynamo.onnx",
            row: json!({"tokens": ["w1", "w2"], "ner_tags": [0]}),
            said: &["line 2", "one for each"],
        },
        Bad {
            task: &["--task", "preference"],
            model: "llama/dynamo.onnx",
            row: json!({"prompt": "w1", "chosen": " w2", "rejected": " w2"}),
            said: &["line 2", "the same"],
        },
    ];
    for Bad { task, model, row, said } in cases {
        let folder = Folder::with(model);
        folder.write("tokenizer.json", &tokenizer());
        let good = CASES
            .iter()
            .find(|case| case.inject.starts_with(&task[..task.len().min(6)]) && case.model == model)
            .expect("a case of the task");
        let data = folder.write("rows.jsonl", &format!("{}\n{row}\n", (good.row)(1)));
        let (model, bundle, tokenizer) = (folder.path("model.onnx"), folder.path("bundle"), folder.path("tokenizer.json"));
        done(&[&["inject", &model, "--method", "lora", "-o", &bundle, "-q"][..], task].concat());
        refused(&["train", &bundle, "--data", &data, "--tokenizer", &tokenizer, "--max-steps", "1"], said);
    }
}

#[test]
fn frames_of_padding_do_not_count_and_rows_are_heard_alone() {
    let folder = Folder::empty();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wav2vec2_ctc");
    for file in ["model.onnx", "config.json", "vocab.json", "tokenizer_config.json", "preprocessor_config.json"] {
        std::fs::copy(source.join(file), folder.path(file)).unwrap();
    }
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(source.join("expected.json")).unwrap()).unwrap();
    let (rows, bundle) = (source.join("rows.jsonl").display().to_string(), folder.path("bundle"));
    done(&["inject", &folder.path("model.onnx"), "--method", "lora", "-o", &bundle, "-q"]);
    let mut rates = vec![];
    for batch_size in ["1", "2"] {
        let told: Value = serde_json::from_str(&done(&["eval", &bundle, "--data", &rows, "--batch-size", batch_size, "--json"])).unwrap();
        rates.push(["wer", "cer"].map(|name| number(&told["metrics"][name]).to_string()));
        let loss = number(&told["loss"]);
        let theirs = expected["loss"].as_f64().unwrap();
        assert!((loss - theirs).abs() < 1e-5 * theirs, "batches of {batch_size}: {loss}, transformers {theirs}");
    }
    assert_eq!(rates[0], rates[1], "what is heard in padding does not count");
    let told = done(&["predict", &bundle, "--data", &rows]);
    let heard: Vec<Value> = told.lines().map(|row| serde_json::from_str::<Value>(row).unwrap()["prediction"].clone()).collect();
    assert_eq!(Value::Array(heard), expected["heard"]);
}

#[test]
fn texts_that_their_sound_has_no_room_for_are_named_and_so_are_letters_without_a_symbol() {
    let folder = Folder::empty();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wav2vec2_ctc");
    for file in ["model.onnx", "config.json", "vocab.json", "tokenizer_config.json", "preprocessor_config.json"] {
        std::fs::copy(source.join(file), folder.path(file)).unwrap();
    }
    let rows: Vec<Value> =
        std::fs::read_to_string(source.join("rows.jsonl")).unwrap().lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let mut long = rows[1].clone();
    long["labels"] = json!(vec![5; 40]);
    let data = folder.write("rows.jsonl", &format!("{}\n{}\n{long}\n", rows[0], rows[1]));
    let bundle = folder.path("bundle");
    done(&["inject", &folder.path("model.onnx"), "--method", "lora", "-o", &bundle, "-q"]);
    let said = ["line 3", "symbols of this row's text", "at most 6", "found 79", "zero_infinity=1"];
    refused(&["train", &bundle, "--data", &data, "--batch-size", "3", "--no-shuffle", "--max-steps", "1", "-q"], &said);
    refused(&["eval", &bundle, "--data", &data, "--batch-size", "3"], &said);
    let lenient = folder.path("lenient");
    done(&["inject", &folder.path("model.onnx"), "--method", "lora", "--loss-option", "zero_infinity=1", "-o", &lenient, "-q"]);
    done(&["train", &lenient, "--data", &data, "--batch-size", "3", "--max-steps", "1", "-q"]);
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/media/tone.wav"), folder.path("tone.wav")).unwrap();
    let data = folder.write("heard.jsonl", "{\"audio\": \"tone.wav\", \"text\": \"aBc\"}\n{\"audio\": \"tone.wav\", \"text\": \"B!\"}\n");
    let (_, _, warned) = run(&["eval", &bundle, "--data", &data]);
    assert!(warned.contains("no symbol for \"!\" (1 times), \"B\" (2 times)"), "{warned}");
    assert_eq!(warned.matches("no symbol").count(), 1, "it is said once: {warned}");
}

/// A model of questions made of one of tags: the scores of its two classes are those of starts and ends.
pub(crate) fn answering(folder: &Folder) -> String {
    let tags = onnx::read(Path::new(&fixture("bert_tokens/dynamo.onnx"))).expect("the fixture is there");
    let b = Builder::on(&tags);
    let logits = b.expr(tags.outputs()[0]);
    b.clear_outputs();
    for (at, name) in [(0, "start_logits"), (1, "end_logits")] {
        b.output(name, logits.gather(b.int(at), 2));
    }
    let path = folder.path("model.onnx");
    onnx::write(&b.finish().expect("a valid graph"), Path::new(&path), &WriteOptions::default()).expect("it is written");
    path
}

#[test]
fn scores_of_padding_count_in_parts_of_a_batch_as_in_the_whole() {
    let folder = Folder::empty();
    folder.write("tokenizer.json", &tokenizer());
    let row = |at: usize| {
        let context = (0..4 + 3 * (at % 5)).map(|place| format!("w{}", (at + 3 * place) % 40)).collect::<Vec<_>>().join(" ");
        let answer = context.split(' ').nth(1).expect("some words").to_owned();
        json!({"question": words(at), "answers": {"text": [answer], "answer_start": [context.find(' ').map(|end| end + 1)]}, "context": context})
    };
    let data = folder.write("rows.jsonl", &(0..12).map(|at| row(at).to_string() + "\n").collect::<String>());
    let model = answering(&folder);
    let made = |name: &str, more: &[&str]| {
        let bundle = folder.path(name);
        done(&["inject", &model, "--method", "lora", "--init-lora-weights", "random", "-o", &bundle, "-q"]);
        trained(&folder, &bundle, &data, more)
    };
    let (losses, evaluation) = made("whole", &[]);
    assert!(evaluation["metrics"]["exact_match"].is_number(), "the outputs tell that answers are looked for: {evaluation}");
    for rows in ["1", "4"] {
        let (in_parts, _) = made(&format!("parts_of_{rows}"), &["--micro-batch-size", rows]);
        let is_same = losses.len() == 3 && losses.iter().zip(&in_parts).all(|(one, other)| (one - other).abs() < 2e-5 * one.abs());
        assert!(is_same, "losses {losses:?}, in parts of {rows} {in_parts:?}");
    }
    // The merged model has no bundle that says what its loss reads.
    let (merged, tokenizer) = (folder.path("merged.onnx"), folder.path("tokenizer.json"));
    done(&["merge", &folder.path("whole"), "-o", &merged, "-q"]);
    let loss = |of: &str| number(&json_of(&["eval", of, "--data", &data, "--tokenizer", &tokenizer])["loss"]);
    let (adapted, folded) = (loss(&folder.path("whole")), loss(&merged));
    assert!((adapted - folded).abs() < 1e-5, "{adapted} with the adapter, {folded} merged");
}

#[test]
fn a_model_of_one_number_is_measured_for_what_the_columns_of_its_rows_are_for() {
    let folder = Folder::with("bert_encoder/dynamo.onnx");
    folder.write("tokenizer.json", &tokenizer());
    let (model, bundle, merged) = (folder.path("model.onnx"), folder.path("bundle"), folder.path("merged.onnx"));
    done(&["inject", &model, "--method", "lora", "--task", "reward", "--num-labels", "1", "-o", &bundle, "-q"]);
    done(&["merge", &bundle, "-o", &merged, "-q"]);
    for (task, asked) in [("reward", "margin"), ("rerank", "average_precision")] {
        let case = CASES.iter().find(|case| case.inject.contains(&task)).expect("a case");
        let data = folder.write(&format!("{task}.jsonl"), &(0..6).map(|at| (case.row)(at).to_string() + "\n").collect::<String>());
        let (success, told, said) = run(&["eval", &merged, "--data", &data, "--json"]);
        assert!(success && told.contains(asked), "{told}{said}");
        assert!(said.contains(&format!("is taken for the task {task}")) && said.contains("--task"), "{said}");
        assert!(run(&["predict", &merged, "--data", &data]).0, "{task}");
    }
}
