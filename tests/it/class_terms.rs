//! Weights of classes and label smoothing, of tokens too, against torch's formula; weights that follow from the data; what preferences are compared
//! with.

use std::path::Path;

use peft_onnx::ort::{Feed, HostTensor, Options, Runtime, Session, Settings};
use serde_json::{Value, json};

use crate::common::{Folder, done, json_of, number, refused};
use crate::tasks::{tokenizer, words};

/// `Σ ((1 − ε)·w_y·(−ln p_y) + ε/C·Σ_c w_c·(−ln p_c)) / Σ w_y` over the tokens that are predicted (`torch.nn.CrossEntropyLoss`).
fn expected(logits: &[f32], ids: &[i64], rows: usize, weight: impl Fn(usize) -> f64, smoothing: f64) -> f64 {
    let (length, classes) = (ids.len() / rows, logits.len() / ids.len());
    let float = |number: usize| f64::from(u32::try_from(number).expect("small"));
    let (mut sum, mut weights) = (0.0, 0.0);
    for at in (0..ids.len()).filter(|at| at % length + 1 < length) {
        let own = &logits[at * classes..(at + 1) * classes];
        let total: f64 = own.iter().map(|logit| f64::from(*logit).exp()).sum();
        let log_p = |class: usize| f64::from(own[class]) - total.ln();
        let label = usize::try_from(ids[at + 1]).expect("a token");
        let spread: f64 = (0..classes).map(|class| weight(class) * -log_p(class)).sum::<f64>() / float(classes);
        sum += (1.0 - smoothing) * weight(label) * -log_p(label) + smoothing * spread;
        weights += weight(label);
    }
    sum / weights
}

#[test]
fn tokens_of_a_language_model_are_weighed_and_smoothed_as_torch_does_it() {
    let folder = Folder::with("llama/dynamo.onnx");
    let model = folder.path("model.onnx");
    let ids = [2_i64, 7, 8, 30, 9, 2, 5, 6, 11, 12];
    let data: String = ids.chunks(5).map(|row| json!({"input_ids": row}).to_string() + "\n").collect();
    let data = folder.write("rows.jsonl", &data);
    let mut session = Session::open(Runtime::start(&Options::default()).expect("ONNX Runtime"), Path::new(&model), &Settings::default())
        .expect("the model");
    let tensor = |values: Vec<i64>| HostTensor::new([2, 5], values).expect("a tensor");
    let inputs = [
        ("input_ids", tensor(ids.to_vec())),
        ("attention_mask", tensor(vec![1; 10])),
        ("position_ids", tensor((0..10).map(|at| at % 5).collect())),
    ];
    let feeds: Vec<Feed<'_>> =
        inputs.iter().map(|(name, tensor)| Feed::host(name, tensor)).filter(|feed| session.input(feed.name()).is_some()).collect();
    let logits = session.run(&feeds, &["logits"]).expect("logits").remove(0);
    let classes = logits.shape()[2];
    let logits = logits.to_f32().expect("floats");
    let weight = |class: usize| 0.5 + f64::from(u32::try_from(class % 4).expect("small"));
    let weights = (0..classes).map(|class| weight(class).to_string()).collect::<Vec<_>>().join(",");
    for (number_of_case, (options, loss)) in [
        (vec!["--label-smoothing", "0.1"], expected(&logits, &ids, 2, |_| 1.0, 0.1)),
        (vec!["--class-weights", &weights], expected(&logits, &ids, 2, weight, 0.0)),
        (vec!["--class-weights", &weights, "--label-smoothing", "0.2"], expected(&logits, &ids, 2, weight, 0.2)),
    ]
    .into_iter()
    .enumerate()
    {
        let bundle = folder.path(&format!("bundle{number_of_case}"));
        done(&[&["inject", &model, "--task", "causal-lm", "--method", "lora", "-o", &bundle, "-q"][..], &options].concat());
        let found = json_of(&["eval", &bundle, "--data", &data, "--threads", "1"]);
        assert!((number(&found["loss"]) - loss).abs() < 1e-5, "{options:?}: {found} instead of {loss}");
        assert!((0.0..=1.0).contains(&number(&found["accuracy"])), "{found}");
        // The gradient is that of this loss.
        let checked = json_of(&["check", &bundle, "--data", &data]);
        assert!(checked.as_array().is_some_and(|rows| rows.iter().all(|row| row["verdict"] == "right")), "{options:?}: {checked}");
        // Batches in parts give the loss of the whole.
        let losses = |more: &[&str]| {
            let fixed = [
                "train",
                &bundle,
                "--data",
                &data,
                "--no-shuffle",
                "--batch-size",
                "2",
                "--max-steps",
                "2",
                "--learning-rate",
                "0.01",
                "--restart",
                "-q",
            ];
            done(&[&fixed[..], more].concat());
            let run = if more.is_empty() { "001" } else { "002" };
            let lines = std::fs::read_to_string(Path::new(&bundle).join("runs").join(run).join("metrics.jsonl")).expect("metrics");
            lines.lines().map(|line| number(&serde_json::from_str::<Value>(line).expect("JSON")["loss"])).collect::<Vec<f64>>()
        };
        let (whole, parts) = (losses(&[]), losses(&["--micro-batch-size", "1"]));
        assert!(
            (whole[0] - loss).abs() < 1e-5 && whole.iter().zip(&parts).all(|(one, other)| (one - other).abs() < 2e-5),
            "{whole:?} {parts:?}"
        );
    }
    let bundle = folder.path("refused");
    refused(
        &["inject", &model, "--task", "causal-lm", "--method", "lora", "--class-weights", "1,2", "-o", &bundle],
        &["one for each token"],
    );
    refused(
        &["inject", &model, "--task", "causal-lm", "--method", "lora", "--class-weights", "balanced", "-o", &bundle],
        &["balanced", "classes"],
    );
}

#[test]
fn balanced_weights_are_those_of_the_training_data() {
    let folder = Folder::with("bert_classifier/dynamo.onnx");
    let model = folder.path("model.onnx");
    let row = |at: usize| json!({"text": words(at), "label": ([0, 0, 0, 1, 1, 2][at % 6])}).to_string() + "\n";
    let data = folder.write("rows.jsonl", &(0..12).map(row).collect::<String>());
    let tokens = folder.write("tokenizer.json", &tokenizer());
    let measured = |weights: &str, name: &str| {
        let bundle = folder.path(name);
        done(&["inject", &model, "--method", "lora", "--class-weights", weights, "-o", &bundle, "-q"]);
        let fixed = ["--data", &data, "--tokenizer", &tokens, "--batch-size", "6", "--threads", "1"];
        done(&[&["train", &bundle, "--no-shuffle", "--max-steps", "2", "--learning-rate", "0.01", "-q"][..], &fixed].concat());
        let lines = std::fs::read_to_string(Path::new(&bundle).join("runs/001/metrics.jsonl")).expect("metrics");
        let losses: Vec<f64> = lines.lines().map(|line| number(&serde_json::from_str::<Value>(line).expect("JSON")["loss"])).collect();
        (losses, number(&json_of(&[&["eval", &bundle][..], &fixed].concat())["loss"]))
    };
    // 12 rows: 12 / (3 * 6), 12 / (3 * 4), 12 / (3 * 2)
    let (balanced, given) = (measured("balanced", "balanced"), measured("0.6666666666666666,1,2", "given"));
    let near = |one: f64, other: f64| (one - other).abs() < 1e-6;
    assert!(balanced.0.iter().zip(&given.0).all(|(one, other)| near(*one, *other)) && near(balanced.1, given.1), "{balanced:?} {given:?}");
}

#[test]
fn rows_weigh_in_the_loss_and_count_alike_in_what_is_measured_beside_it() {
    let folder = Folder::with("bert_classifier/dynamo.onnx");
    let (model, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
    done(&["inject", &model, "--task", "seq-cls", "--method", "lora", "-o", &bundle, "-q"]);
    let measured = |name: &str, weight: fn(usize) -> usize| {
        let row = |at: usize| json!({"input_ids": [2, 5 + at, 9], "label": at % 3, "weight": weight(at)}).to_string() + "\n";
        json_of(&["eval", &bundle, "--data", &folder.write(name, &(0..9).map(row).collect::<String>())])["metrics"].clone()
    };
    let (alike, weighed) = (measured("alike.jsonl", |_| 1), measured("weighed.jsonl", |at| 1 + 9 * (at % 3)));
    assert_ne!(alike["loss"], weighed["loss"]);
    assert!(["accuracy", "f1_macro", "mcc"].iter().all(|name| alike[name] == weighed[name]), "{alike} {weighed}");
}

#[test]
fn preferences_are_compared_with_the_initial_adapter_if_it_is_asked_for() {
    let folder = Folder::with("llama/dynamo.onnx");
    let (model, bundle, tokens) = (folder.path("model.onnx"), folder.path("bundle"), folder.write("tokenizer.json", &tokenizer()));
    let row = |at: usize| {
        json!({"prompt": words(at), "chosen": format!(" {}", words(at + 9)), "rejected": format!(" {}", words(at + 90))}).to_string() + "\n"
    };
    let data = folder.write("rows.jsonl", &(0..6).map(row).collect::<String>());
    done(&["inject", &model, "--task", "preference", "--method", "lora", "--init-lora-weights", "random", "-o", &bundle, "-q"]);
    let loss = |reference: &str| {
        let args = ["eval", &bundle, "--data", &data, "--tokenizer", &tokens, "--reference", reference, "--threads", "1"];
        number(&json_of(&args)["loss"])
    };
    // An adapter is no better than itself.
    assert!((loss("initial") - 2.0_f64.ln()).abs() < 1e-5 && (loss("base") - 2.0_f64.ln()).abs() > 1e-4);
    done(&[
        "train",
        &bundle,
        "--data",
        &data,
        "--tokenizer",
        &tokens,
        "--reference",
        "initial",
        "--max-steps",
        "2",
        "--batch-size",
        "3",
        "-q",
    ]);
    let kept = std::fs::read_to_string(Path::new(&bundle).join("runs/001/reference.txt")).expect("values beside the run");
    assert_eq!(kept.lines().count(), 12);
}

#[test]
fn no_text_comes_twice_into_a_batch() {
    let folder = Folder::with("bert_encoder/dynamo.onnx");
    let (model, bundle, tokens) = (folder.path("model.onnx"), folder.path("bundle"), folder.write("tokenizer.json", &tokenizer()));
    let row = |at: usize| json!({"anchor": words(at), "positive": words(100 + at / 3)}).to_string() + "\n";
    // Rows of three have one positive: a batch takes one of each three, in turn.
    let in_turn = (0..12).map(|at| 3 * (at % 4) + at / 4);
    let data = folder.write("rows.jsonl", &(0..12).map(row).collect::<String>());
    let parted = folder.write("parted.jsonl", &in_turn.map(row).collect::<String>());
    done(&["inject", &model, "--task", "embedding", "--method", "lora", "-o", &bundle, "-q"]);
    let losses = |run: &str, data: &str, more: &[&str]| {
        let fixed = ["train", &bundle, "--data", data, "--tokenizer", &tokens, "--batch-size", "4", "--no-shuffle", "--threads", "1"];
        done(&[&fixed[..], &["--epochs", "1", "--restart", "-q"], more].concat());
        let lines = std::fs::read_to_string(Path::new(&bundle).join("runs").join(run).join("metrics.jsonl")).expect("metrics");
        lines.lines().map(|line| number(&serde_json::from_str::<Value>(line).expect("JSON")["loss"])).collect::<Vec<f64>>()
    };
    let found = losses("001", &data, &["--batch-sampler", "no-duplicates"]);
    let (wanted, in_order) = (losses("002", &parted, &[]), losses("003", &data, &[]));
    assert_eq!(found.len(), 3);
    assert!(found.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6), "{found:?} {wanted:?}");
    assert!((found[0] - in_order[0]).abs() > 1e-3, "{found:?} {in_order:?}");
}
