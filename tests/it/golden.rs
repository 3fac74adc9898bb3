//! What each method writes into a graph, word for word: a change of these texts is a change of every model that users make.
//!
//! Of the inference graph, the lines of the first layer that the base does not have; of the optimizer, everything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use peft_onnx::ir::Graph;
use peft_onnx::onnx;

fn fixture(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "models/fixtures", path].iter().collect()
}

fn inject(model: &str, options: &[&str], bundle: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peft-onnx"));
    command.args(["inject", &fixture(model).display().to_string(), "--quiet", "-o"]).arg(bundle).args(options);
    let output = command.output().expect("the binary starts");
    assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The graph's text, a line each, without the data of weights.
fn lines(graph: &Graph) -> Vec<String> {
    graph.to_string().lines().map(|line| line.trim().to_owned()).collect()
}

fn read(path: &Path) -> Graph {
    onnx::read(path).unwrap_or_else(|error| panic!("{error}"))
}

/// The nodes that are new against the base, up to those of the second layer.
fn new_nodes(model: &str, bundle: &Path) -> String {
    let raised = onnx::raise(&read(&fixture(model))).unwrap_or_else(|error| panic!("{error}"));
    let base: BTreeSet<String> = lines(&raised).into_iter().collect();
    let new = lines(&read(&bundle.join("inference.onnx"))).into_iter().filter(|line| line.contains(" = ") && !base.contains(line));
    let of_others =
        |line: &String| ["layers.1.", "layers.1/", "h.1.", "h.1/", "layer.1.", "layer.1/"].iter().any(|layer| line.contains(layer));
    new.filter(|line| !of_others(line)).collect::<Vec<_>>().join("\n")
}

/// The base, the options of `inject` and the name of the text.
const GOLDEN: &[(&str, &str, &[&str])] = &[
    ("lora", "llama/torchscript.onnx", &["--method", "lora", "--rank", "4", "--target-modules", "q_proj"]),
    ("lora_on_conv1d_with_bias", "gpt2/torchscript.onnx", &["--method", "lora", "--target-modules", "c_attn", "--bias", "lora_only"]),
    ("dora", "llama/torchscript.onnx", &["--method", "lora", "--use-dora", "--target-modules", "v_proj"]),
    ("ia3", "llama/torchscript.onnx", &["--method", "ia3"]),
    ("prompt_tuning", "llama/torchscript.onnx", &["--method", "prompt_tuning", "--num-virtual-tokens", "4"]),
    ("p_tuning_v2", "llama/torchscript.onnx", &["--method", "p_tuning_v2", "--num-virtual-tokens", "4"]),
    ("prefix_with_cache", "llama/optimum_cache.onnx", &["--method", "p_tuning_v2", "--num-virtual-tokens", "4"]),
];

#[test]
fn what_methods_write_is_what_was_reviewed() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, model, options) in GOLDEN {
        let bundle = folder.path().join(name);
        inject(model, options, &bundle);
        insta::assert_snapshot!(*name, new_nodes(model, &bundle));
    }
}

#[test]
fn the_optimizer_is_what_was_reviewed() {
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("bundle");
    inject("llama/torchscript.onnx", &["--method", "lora", "--rank", "4", "--target-modules", "q_proj"], &bundle);
    insta::assert_snapshot!("update", lines(&read(&bundle.join("update.onnx"))).join("\n"));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let bundles = ["one", "two"].map(|name| folder.path().join(name));
    for bundle in &bundles {
        inject("llama/torchscript.onnx", &["--method", "lora"], bundle);
    }
    for file in ["training.onnx", "gradient.onnx", "update.onnx", "evaluation.onnx", "inference.onnx", "adapter_model.safetensors"] {
        let [one, two] = bundles.each_ref().map(|bundle| std::fs::read(bundle.join(file)).expect("a bundle has it"));
        assert!(one == two, "{file} differs");
    }
}
