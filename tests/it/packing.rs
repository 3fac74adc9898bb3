//! Rows that are packed attend to themselves alone: losses and gradients are those of separate rows.

use serde_json::{Value, json};

use crate::common::{Folder, done, fixture, number, refused};

/// Rows of tokens of different lengths; the first ones of each are not learnt.
fn rows(folder: &Folder) -> String {
    let row = |length: usize| {
        let ids: Vec<usize> = (0..length).map(|at| (at * at * 5 + at * 3 + length) % 60 + 3).collect();
        let labels: Vec<i64> =
            ids.iter().enumerate().map(|(at, &id)| if at < length / 3 { -100 } else { i64::try_from(id).expect("small") }).collect();
        json!({"input_ids": ids, "attention_mask": vec![1; length], "labels": labels}).to_string()
    };
    let lines: Vec<String> = [5, 17, 9, 3, 12, 8].into_iter().map(row).collect();
    folder.write("rows.jsonl", &lines.join("\n"))
}

/// Losses and norms of gradients of three steps, each of all rows.
fn steps(bundle: &str, data: &str, options: &[&str]) -> Vec<(f64, f64)> {
    let common =
        ["train", bundle, "--data", data, "--restart", "--no-shuffle", "--batch-size", "6", "--max-steps", "3", "--run", options[0]];
    done(&[&common[..], &["--quiet", "--learning-rate", "0.01"], &options[1..]].concat());
    let metrics = std::fs::read_to_string(format!("{bundle}/runs/{}/metrics.jsonl", options[0])).expect("metrics are there");
    let of_line = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        (number(&line["loss"]), number(&line["grad_norm"]))
    };
    metrics.lines().filter(|line| line.contains("grad_norm")).map(of_line).collect()
}

#[test]
fn packed_rows_have_the_losses_and_gradients_of_separate_ones() {
    for (model, options) in [
        ("llama/torchscript.onnx", &["--method", "lora", "--target-modules", "all-linear"][..]),
        ("llama/dynamo.onnx", &["--method", "ia3", "--recompute", "layer"]),
        ("llama/optimum_cache.onnx", &["--method", "lora", "--recompute", "attention"]),
        ("qwen2/torchscript.onnx", &["--method", "lora", "--target-modules", "k_proj,o_proj"]),
        ("qwen2/dynamo.onnx", &["--method", "lora", "--use-dora", "--target-modules", "q_proj"]),
    ] {
        let folder = Folder::empty();
        let (bundle, data, model_file) = (folder.path("bundle"), rows(&folder), fixture(model));
        done(&[&["inject", &model_file, "--quiet", "-o", &bundle], options].concat());
        let separate = steps(&bundle, &data, &["separate"]);
        let packed = steps(&bundle, &data, &["packed", "--packing", "--max-length", "20"]);
        assert_eq!(separate.len(), 3, "{model}");
        let near = |a: f64, b: f64| (a - b).abs() <= 2e-4 * a.abs();
        let is_same = separate.iter().zip(&packed).all(|(a, b)| near(a.0, b.0) && near(a.1, b.1));
        assert!(is_same && packed.len() == 3, "{model}: {separate:?}, packed {packed:?}");
        // Rows that see each other have other losses: the comparison can fail.
        let wrapped = steps(&bundle, &data, &["wrapped", "--packing", "--packing-strategy", "wrapped", "--max-length", "20"]);
        assert!(!near(separate[0].1, wrapped[0].1), "{model}: {separate:?}, wrapped {wrapped:?}");
    }
}

#[test]
fn rows_are_not_packed_where_they_could_not_be_kept_apart() {
    let virtual_tokens = ["`--packing` with this bundle", "virtual tokens stand before each row", "hint: "];
    for (model, options, expected) in [
        ("llama/torchscript.onnx", &["--method", "prompt_tuning", "--num-virtual-tokens", "2"][..], virtual_tokens),
        ("llama/torchscript.onnx", &["--method", "p_tuning_v2", "--num-virtual-tokens", "2"], virtual_tokens),
        ("llama_classifier/torchscript.onnx", &["--method", "lora"], ["--packing: expected a task", "causal-lm, masked-lm", "hint: "]),
    ] {
        let folder = Folder::empty();
        let (bundle, data, model_file) = (folder.path("bundle"), rows(&folder), fixture(model));
        done(&[&["inject", &model_file, "--quiet", "-o", &bundle], options].concat());
        refused(&["train", &bundle, "--data", &data, "--packing", "--max-length", "20"], &expected);
    }
}
