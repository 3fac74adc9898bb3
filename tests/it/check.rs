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
