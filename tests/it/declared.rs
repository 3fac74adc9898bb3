//! What a model's folder and an adapter's folder say of a task.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Folder, done};

fn task_of(bundle: &str) -> Value {
    let manifest = std::fs::read(Path::new(bundle).join("peft-onnx.json")).expect("a bundle");
    serde_json::from_slice::<Value>(&manifest).expect("JSON")["task"].clone()
}

/// PEFT has one task type for all classifiers of texts: which of them is meant, the model's folder says, or the bundle that the adapter is of.
#[test]
fn an_adapter_of_a_classifier_is_trained_for_the_kind_of_labels_that_the_models_folder_names() {
    let folder = Folder::with("bert_classifier/torchscript.onnx");
    let (model, first, adapter) = (folder.path("model.onnx"), folder.path("first"), folder.path("adapter"));
    done(&["inject", &model, "--method", "lora", "--task", "multi-label", "-o", &first, "-q"]);
    std::fs::create_dir(&adapter).expect("a folder");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(Path::new(&first).join(file), Path::new(&adapter).join(file)).expect("PEFT's files");
    }
    for (declared, from, more, expected) in [
        (None, &adapter, &[][..], "seq-cls"),
        (None, &first, &[], "multi-label"),
        (Some("multi_label_classification"), &adapter, &[], "multi-label"),
        (Some("regression"), &adapter, &[], "regression"),
        (Some("regression"), &adapter, &["--task", "seq-cls"], "seq-cls"),
    ] {
        folder.write("config.json", &declared.map_or_else(|| json!({}), |kind| json!({"problem_type": kind})).to_string());
        let bundle = folder.path("second");
        done(&[&["inject", &model, "--adapter", from, "-o", &bundle, "-q", "--force"][..], more].concat());
        assert_eq!(task_of(&bundle), expected, "{declared:?}, {more:?}");
    }
}
