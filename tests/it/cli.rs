//! The command line as its users meet it: what works from end to end, and what the typical mistakes say.

use std::path::Path;

use crate::common::{done, fixture, json_of, number, peft_onnx, text};
use serde_json::Value;

/// Runs a command that must fail, and gives its exit code and what it said.
fn failed(args: &[&str]) -> (i32, String) {
    let output = peft_onnx().args(args).output().expect("the binary starts");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_command_explains_itself() {
    for command in [
        "finetune",
        "inspect",
        "inject",
        "plan",
        "train",
        "runs",
        "eval",
        "merge",
        "export",
        "convert",
        "combine",
        "generate",
        "chat",
        #[cfg(feature = "serve")]
        "serve",
        "check",
        "runtime",
        "completions",
    ] {
        let help = done(&[command, "--help"]);
        assert!(help.contains("Usage: peft-onnx ") && help.contains("Examples:"), "{help}");
        assert!(help.contains("--onnxruntime <PATH>"), "{command} has the options of every command");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        &["inject", "model.onnx"][..],
        &["inject", "model.onnx", "--method", "magic"],
        &["inject", "model.onnx", "--method", "lora", "--adapter", "folder"],
        &["train", "bundle"],
        &["train", "bundle", "--data", "x.jsonl", "--batch-size", "0"],
        &["train", "bundle", "--data", "x.jsonl", "--device", "gpu"],
        &["train", "bundle", "--data", "x.jsonl", "--lr-scheduler", "polynomial"],
        &["generate", "model.onnx"],
        &["frobnicate"],
    ] {
        let (code, stderr) = failed(args);
        assert_eq!(code, 2, "peft-onnx {}: {stderr}", args.join(" "));
    }
}

#[test]
fn mistakes_name_the_place_and_say_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("the file is written");
        path
    };
    let (noise, model) = (write("noise.onnx", b"not a model at all"), fixture("llama/dynamo.onnx"));
    let (bundle, other) = (folder.path().join("bundle"), folder.path().join("other"));
    let out = text(&bundle);
    done(&["inject", &model, "--method", "lora", "-o", out]);
    let (empty, wrong) = (write("empty.jsonl", b""), write("wrong.jsonl", b"{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [1, 99, 3]}\n"));
    let rows: [(&[&str], &str); 8] = [
        (&["inspect", "missing.onnx"], "missing.onnx: "),
        (&["inspect", text(&noise)], "noise.onnx: "),
        (&["inject", &model, "--method", "lora", "-o", out], "hint: `--force` replaces it"),
        (&["inject", &model, "--method", "lora", "--target-modules", "q_prj", "-o", text(&other)], "q_proj"),
        (&["train", text(folder.path()), "--data", text(&wrong)], "found a folder with bundles\nhint: name the one that is meant: "),
        (&["train", out, "--data", text(&empty)], "empty.jsonl: no rows in this data file"),
        (&["train", out, "--data", text(&wrong)], "wrong.jsonl: line 2: a number in input_ids: expected 0 to 63, found 99"),
        (&["train", out, "--data", text(&wrong), "--resume"], "there is no run to go on with"),
    ];
    for (args, expected) in rows {
        let (code, stderr) = failed(args);
        assert_eq!(code, 1, "peft-onnx {}: {stderr}", args.join(" "));
        assert!(stderr.starts_with("error: ") && stderr.contains(expected), "peft-onnx {}: {stderr}", args.join(" "));
    }
}

#[test]
fn a_method_that_does_not_fit_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("bundle");
    let (gpt2, llama) = (fixture("gpt2/torchscript.onnx"), fixture("llama/dynamo.onnx"));
    let rows: [(&str, &[&str], &str); 9] = [
        (
            &gpt2,
            &["prompt_tuning", "--num-virtual-tokens", "64"],
            "num_virtual_tokens: expected fewer than the model's 64 positions, found 64",
        ),
        (
            &gpt2,
            &["p_tuning_v2", "--num-virtual-tokens", "70"],
            "num_virtual_tokens: expected fewer than the model's 64 positions, found 70",
        ),
        (&gpt2, &["trainable_tokens", "--trainable-token-indices", "64"], "row of trainable_token_indices: expected below 64, found 64"),
        (&gpt2, &["trainable_tokens"], "number of token_indices: expected at least 1, found 0"),
        (&llama, &["lora", "--init-lora-weights", "pissa", "--rank", "40"], "q_proj: rank: expected 32 at most, found 40"),
        (&llama, &["lora", "--init-lora-weights", "olora", "--use-dora"], "has neither magnitudes (use_dora) nor lora_bias"),
        (&llama, &["p_tuning_v2", "--prompt-init-text", "hello"], "there is no tokenizer beside the model"),
        (&llama, &["p_tuning_v2", "--prompt-init", "vocab"], "a prefix starts from random numbers or a text"),
        (&llama, &["lora", "--target-modules", "q_proj", "--modules-to-save", "q_proj"], "no module matches the targets \"q_proj\""),
    ];
    for (model, options, expected) in rows {
        let (code, stderr) = failed(&[&["inject", model, "-o", text(&bundle), "--method"][..], options].concat());
        assert!(code == 1 && stderr.starts_with("error: ") && stderr.contains(expected), "{options:?}: {stderr}");
        assert!(!bundle.exists(), "{options:?} leaves nothing");
    }
    // Rows that leave no room for the virtual tokens.
    done(&["inject", &gpt2, "-o", text(&bundle), "--method", "prompt_tuning", "--num-virtual-tokens", "60"]);
    let data = folder.path().join("long.jsonl");
    std::fs::write(&data, b"{\"input_ids\": [5, 6, 7, 8, 9, 10]}\n").expect("the file is written");
    let (_, stderr) = failed(&["train", text(&bundle), "--data", text(&data), "--max-steps", "1"]);
    assert!(
        stderr.contains("tokens in this row: expected at most 4, the model's 64 positions less 60 virtual tokens, found 6"),
        "{stderr}"
    );
}

#[test]
fn from_a_model_to_a_tuned_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bundle, merged, adapter) = (folder.path().join("bundle"), folder.path().join("tuned.onnx"), folder.path().join("adapter"));
    let (bundle, merged, adapter) = (text(&bundle), text(&merged), text(&adapter));
    let (model, case) = (fixture("llama/dynamo.onnx"), fixture("llama/cases/lora_qv"));
    let data = format!("{case}/train.jsonl");

    let seen = json_of(&["inspect", &model]);
    assert_eq!((seen["task"].as_str(), seen["layers"].as_u64()), (Some("causal-lm"), Some(2)));
    let injected = json_of(&["inject", &model, "--adapter", &format!("{case}/adapter_init"), "-o", bundle]);
    assert_eq!(injected["trainable"].as_u64(), Some(896));

    let before = json_of(&["eval", bundle, "--data", &data]);
    let options = ["--batch-size", "3", "--max-steps", "6", "--learning-rate", "0.01", "--weight-decay", "0.01"];
    let more = ["--lr-scheduler", "constant", "--max-grad-norm", "0", "--no-shuffle", "--quiet"];
    let trained = json_of(&[&["train", bundle, "--data", &data][..], &options, &more].concat());
    assert_eq!(trained["steps"].as_u64(), Some(6));
    let expected: Value =
        serde_json::from_slice(&std::fs::read(format!("{case}/expected.json")).expect("the case has its losses")).expect("JSON");
    let metrics = std::fs::read_to_string(folder.path().join("bundle/metrics.jsonl")).expect("there are metrics");
    for (line, loss) in metrics.lines().zip(expected["losses"].as_array().expect("a list")) {
        let line: Value = serde_json::from_str(line).expect("a line is JSON");
        assert!((number(&line["loss"]) / number(loss) - 1.0).abs() < 2e-4, "{line}, PEFT's loss is {loss}");
    }

    let after = json_of(&["eval", bundle, "--data", &data]);
    assert!(number(&after["loss"]) < number(&before["loss"]), "{before} {after}");
    let verified = json_of(&["merge", bundle, "-o", merged]);
    assert!(number(&verified["verified"]["relative"]) < 1e-4, "{verified}");
    let of_merged = json_of(&["eval", merged, "--data", &data]);
    assert!((number(&of_merged["loss"]) - number(&after["loss"])).abs() < 1e-4, "{after} {of_merged}");
    let checked = json_of(&["check", bundle, "--data", &data]);
    assert!(checked.as_array().is_some_and(|rows| rows.len() > 4));
    done(&["export", bundle, "--format", "peft", "-o", adapter]);
    assert!(Path::new(adapter).join("adapter_config.json").exists());
}

#[test]
fn a_pipe_that_is_closed_ends_a_command_without_noise() {
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("peft-onnx"))
        .args(["inspect", &fixture("llama/dynamo.onnx"), "--text"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the binary ends");
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(141), &b""[..]));
}

#[test]
fn an_interrupted_run_with_dropout_goes_on_bit_by_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, parted) = (folder.path().join("whole"), folder.path().join("parted"));
    let data = fixture("llama/cases/lora_qv/train.jsonl");
    for bundle in [&whole, &parted] {
        done(&["inject", &fixture("llama/dynamo.onnx"), "--method", "lora", "--dropout", "0.2", "-o", text(bundle)]);
    }
    let train = |bundle: &Path, steps: &str, more: &[&str]| {
        let options = ["--batch-size", "2", "--gradient-accumulation-steps", "2", "--lr-scheduler", "constant", "--max-steps", steps];
        done(&[&["train", text(bundle), "--data", &data][..], &options, more].concat());
    };
    train(&whole, "6", &[]);
    train(&parted, "2", &[]);
    train(&parted, "6", &["--resume"]);
    for file in ["adapter_model.safetensors", "checkpoints/step-6/state.safetensors"] {
        let [whole, parted] = [&whole, &parted].map(|bundle| std::fs::read(bundle.join(file)).expect("the run wrote it"));
        assert_eq!(whole, parted, "{file}");
    }
    // Another seed drops other elements.
    train(&parted, "6", &["--seed", "7", "--no-shuffle", "--restart"]);
    train(&whole, "6", &["--seed", "8", "--no-shuffle", "--restart"]);
    let [whole, parted] = [&whole, &parted].map(|bundle| std::fs::read(bundle.join("adapter_model.safetensors")).expect("it is there"));
    assert_ne!(whole, parted);
}

/// A bundle's path may start anywhere: the base's weights are inside the base's file, so they are inside the merged one.
#[test]
fn a_model_merged_from_a_relative_path_needs_nothing_of_its_bundle() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(fixture("llama/torchscript.onnx"), folder.path().join("model.onnx")).expect("the fixture is there");
    for args in [&["inject", "model.onnx", "--method", "lora", "-o", "bundle"][..], &["merge", "bundle", "-o", "merged.onnx"]] {
        peft_onnx().args(args).current_dir(folder.path()).assert().success();
    }
    std::fs::remove_dir_all(folder.path().join("bundle")).expect("the bundle was there");
    peft_onnx().args(["inspect", "merged.onnx"]).current_dir(folder.path()).assert().success();
    assert!(!folder.path().join("merged.onnx.data").exists());
}

/// A new head on bodies that give hidden states, with methods that change modules or put tokens in front: trained, merged, injected again.
#[test]
fn a_new_head_is_trained_with_any_method() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (bundle, merged, again, tokens) = (path("bundle"), path("merged.onnx"), path("again"), path("tokens.jsonl"));
    let rows = |label: &str| {
        let row = |n: i64| format!("{{\"input_ids\": [{}, 9, 17, {}], {label}}}\n", 5 + n % 3, 6 + n);
        (0..6).map(row).collect::<String>()
    };
    std::fs::write(&tokens, rows("\"labels\": [0, 1, -100, 2]")).expect("the file is written");
    let texts = fixture("bert_encoder/cases/head_mean/train.jsonl");
    let struck: [(&str, &[&str], &str); 6] = [
        ("bert_encoder/dynamo.onnx", &["--method", "head", "--head-layers", "8,4", "--pooling", "cls"], &texts),
        ("bert_encoder/torchscript.onnx", &["--method", "prompt_tuning", "--num-virtual-tokens", "3"], &texts),
        ("bert_encoder/torchscript.onnx", &["--method", "lora", "--task", "token-cls"], &tokens),
        ("bert_classifier/torchscript_opset12.onnx", &["--method", "p_tuning_v2", "--pooling", "mean"], &texts),
        ("gpt2/dynamo.onnx", &["--method", "ia3"], &texts),
        ("llama/optimum_cache.onnx", &["--method", "prefix_tuning", "--head-layers", "6"], &texts),
    ];
    for (model, options, data) in struck {
        let named = |line: &str| format!("{model} {options:?}: {line}");
        done(&[&["inject", &fixture(model), "--num-labels", "3", "-o", &bundle, "--force"][..], options].concat());
        let more = ["--learning-rate", "0.02", "--lr-scheduler", "constant", "--no-shuffle", "--quiet"];
        let train =
            |steps: &str, last: &[&str]| done(&[&["train", &bundle, "--data", data, "--max-steps", steps][..], &more, last].concat());
        let before = json_of(&["eval", &bundle, "--data", data]);
        train("4", &[]);
        train("25", &["--resume"]);
        let after = json_of(&["eval", &bundle, "--data", data]);
        assert!(number(&after["loss"]) < 0.9 * number(&before["loss"]), "{}", named(&format!("{before} {after}")));
        let verified = json_of(&["merge", &bundle, "-o", &merged, "--force"]);
        assert!(number(&verified["verified"]["relative"]) < 1e-4, "{}", named(&verified.to_string()));
        let of_merged = json_of(&["eval", &merged, "--data", data]);
        assert!((number(&of_merged["loss"]) - number(&after["loss"])).abs() < 1e-4, "{}", named(&of_merged.to_string()));
        done(&["inject", &fixture(model), "--adapter", &bundle, "-o", &again, "--force"]);
        let injected = json_of(&["eval", &again, "--data", data]);
        assert!((number(&injected["loss"]) - number(&after["loss"])).abs() < 1e-6, "{}", named(&injected.to_string()));
    }
}

#[test]
fn what_a_new_head_cannot_stand_on_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("bundle");
    let encoder = fixture("bert_encoder/dynamo.onnx");
    let rows: [(&[&str], &str); 7] = [
        (&["--method", "trainable_tokens", "--trainable-token-indices", "5", "--num-labels", "2"], "classifier would stay random"),
        (&["--method", "head"], "`--num-labels N` puts a classifier on the model's body"),
        (&["--method", "head", "--num-labels", "1"], "num_labels: expected at least 2 classes for seq-cls, found 1"),
        (&["--method", "head", "--num-labels", "2", "--head-layers", "8,0"], "width of a head's layer: expected at least 1"),
        (&["--method", "head", "--num-labels", "2", "--task", "causal-lm"], "hint: leave `--num-labels` out to keep the model's own head"),
        (&["--method", "lora", "--num-labels", "2", "--task", "token-cls", "--pooling", "mean"], "hint: each token has a class of its own"),
        (&["--method", "lora", "--num-labels", "2", "--pooling", "max"], "cls, mean, last or none"),
    ];
    for (options, expected) in rows {
        let (code, stderr) = failed(&[&["inject", &encoder, "-o", text(&out)][..], options].concat());
        assert!(code > 0 && stderr.contains(expected), "{options:?}: {stderr}");
    }
}
