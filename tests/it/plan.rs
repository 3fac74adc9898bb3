//! What a step needs, told before it is made.

use serde_json::Value;

use crate::common::{Folder, done, fixture, json_of};

/// The plan of one batch.
fn need(bundle: &str, rows: u64, tokens: u64) -> Value {
    let (rows, tokens) = (rows.to_string(), tokens.to_string());
    json_of(&["plan", bundle, "--batch-size", &rows, "--max-length", &tokens])["plan"][0].clone()
}

#[test]
fn memory_and_arithmetic_grow_with_the_batch_and_recomputing_takes_less() {
    let folder = Folder::empty();
    let model = fixture("llama/torchscript.onnx");
    let bundles = ["none", "layer"].map(|choice| {
        let bundle = folder.path(choice);
        done(&["inject", &model, "--method", "lora", "--recompute", choice, "--quiet", "-o", &bundle]);
        bundle
    });
    let [of_none, of_layer] = bundles.each_ref().map(|bundle| need(bundle, 4, 32));
    let bytes = |plan: &Value| plan["value_bytes"].as_u64().expect("bytes");
    let twice = need(&bundles[0], 8, 32);
    assert!(bytes(&twice) > bytes(&of_none) * 3 / 2 && bytes(&twice) < bytes(&of_none) * 5 / 2, "{of_none} {twice}");
    assert!(twice["flops"].as_f64() > of_none["flops"].as_f64(), "{of_none} {twice}");
    assert!(bytes(&of_layer) < bytes(&of_none), "{of_none} {of_layer}");
}

#[test]
fn the_largest_batch_that_fits_is_the_largest() {
    let folder = Folder::empty();
    let (bundle, model) = (folder.path("bundle"), fixture("llama/torchscript.onnx"));
    done(&["inject", &model, "--method", "lora", "--quiet", "-o", &bundle]);
    let memory = "120MB";
    let plan = json_of(&["plan", &bundle, "--max-length", "32", "--memory", memory]);
    let rows = plan["largest_batch"][0]["rows"].as_u64().expect("some rows fit");
    let bytes = |rows: u64| need(&bundle, rows, 32)["bytes"].as_u64().expect("bytes");
    assert!(bytes(rows) <= 120_000_000 && bytes(rows + 1) > 120_000_000, "{rows}: {}, {}", bytes(rows), bytes(rows + 1));
}

#[test]
fn half_precision_takes_less_for_values_and_keeps_the_weights_that_it_casts() {
    let folder = Folder::empty();
    let (bundle, model) = (folder.path("bundle"), fixture("llama/torchscript.onnx"));
    done(&["inject", &model, "--method", "lora", "--quiet", "-o", &bundle]);
    let values = |precision: &str, rows: &str| {
        let plan = json_of(&["plan", &bundle, "--batch-size", rows, "--max-length", "32", "--precision", precision]);
        assert_eq!(plan["precision"], precision);
        plan["plan"][0]["value_bytes"].as_u64().expect("bytes")
    };
    let [float32, bf16] = ["float32", "bf16"].map(|precision| values(precision, "16"));
    assert!(bf16 < float32, "{bf16} {float32}");
    // What one row more takes is less; what no row takes is more: the weights.
    let [of_float32, of_bf16] = ["float32", "bf16"].map(|precision| values(precision, "17"));
    let weights = |sixteen: u64, seventeen: u64| i128::from(sixteen) - 16 * (i128::from(seventeen) - i128::from(sixteen));
    assert!(weights(bf16, of_bf16) > weights(float32, of_float32), "{bf16} {of_bf16} {float32} {of_float32}");
}
