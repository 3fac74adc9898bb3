//! `check`: the gradient beside differences of the loss, of bundles that were trained.

use crate::common::{Folder, done, fixture};

#[test]
fn what_gradients_do_not_pass_is_held_where_it_is_compared() {
    const LLAMA: &str = "llama/dynamo.onnx";
    // The norms of DoRA move with the adapter, and count as constants in its gradient.
    let rows: [(&str, &[&str]); 2] = [(LLAMA, &["--use-dora"]), (LLAMA, &["--use-dora", "--recompute", "layer"])];
    for (model, options) in rows {
        let folder = Folder::empty();
        let bundle = folder.path("bundle");
        done(&[&["inject", &fixture(model), "--method", "lora", "-o", &bundle], options].concat());
        let data = fixture("llama/cases/lora_qv/train.jsonl");
        done(&["train", &bundle, "--data", &data, "--batch-size", "2", "--max-steps", "3", "--learning-rate", "0.01", "--quiet"]);
        let table = done(&["check", &bundle]);
        assert!(table.contains("magnitude") && !table.contains("WRONG"), "{options:?}\n{table}");
    }
}

/// Rows that `check` makes up fit each other: symbols to frames, tokens to what is asked of them. What kinks do to differences is small beside the gradient.
#[test]
fn every_bundle_is_checked_without_data() {
    let ctc = [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", "wav2vec2_ctc", "model.onnx"].iter().collect::<std::path::PathBuf>();
    let rows: [(String, &[&str]); 7] = [
        (ctc.display().to_string(), &["--method", "lora", "--task", "ctc"]),
        (ctc.display().to_string(), &["--method", "head", "--task", "ctc"]),
        (fixture("t5/dynamo.onnx"), &["--method", "lora"]),
        (fixture("t5/dynamo.onnx"), &["--method", "prompt_tuning"]),
        (fixture("t5/dynamo.onnx"), &["--method", "ia3"]),
        (fixture("bart/dynamo.onnx"), &["--method", "lora"]),
        (fixture("vit_classifier/dynamo.onnx"), &["--method", "lora"]),
    ];
    for (model, options) in rows {
        let folder = Folder::empty();
        let bundle = folder.path("bundle");
        done(&[&["inject", &model, "-o", &bundle, "-q"], options].concat());
        for batch_size in ["1", "3"] {
            let table = done(&["check", &bundle, "--batch-size", batch_size]);
            assert!(!table.contains("WRONG"), "{model} {options:?}\n{table}");
        }
    }
}
