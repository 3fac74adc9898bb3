//! Bases with numbers that are not finite: what is computed from them is refused, what is written of them says so.

use std::path::Path;

use crate::common::{Folder, fixture, refused, run};
use peft_onnx::ir::{Builder, DType, Tensor};
use peft_onnx::onnx::{self, WriteOptions};

/// A small language model with one NaN in the weight of a module.
fn broken(folder: &Folder, module: &str) -> String {
    let graph = onnx::read(Path::new(&fixture("llama/torchscript.onnx"))).expect("a model");
    let b = Builder::on(&graph);
    let anatomy = peft_onnx::anatomy::read(&graph);
    let projection = anatomy.projections.iter().find(|projection| projection.module.ends_with(module)).expect("the module is there");
    let weight = graph.initializer(projection.weight.value).expect("a constant");
    let mut numbers = weight.to_f64().expect("floats");
    numbers[3] = f64::NAN;
    b.store(projection.weight.value, Tensor::from_f64(DType::F32, weight.shape(), &numbers).expect("floats"));
    let path = folder.path("broken.onnx");
    onnx::write(&b.finish().expect("a graph"), Path::new(&path), &WriteOptions::default()).expect("it is written");
    path
}

#[test]
fn what_starts_from_a_weight_that_is_not_finite_is_refused() {
    let folder = Folder::empty();
    let base = broken(&folder, "layers.0.self_attn.q_proj");
    let rows: [&[&str]; 4] =
        [&["--use-dora"], &["--init-lora-weights", "pissa"], &["--init-lora-weights", "pissa_niter_4"], &["--init-lora-weights", "olora"]];
    for options in rows {
        let inject = ["inject", &base, "--method", "lora", "--rank", "2", "-o", &folder.path("bundle")];
        refused(&[&inject[..], options].concat(), &["layers.0.self_attn.q_proj", "finite"]);
    }
}

#[test]
fn a_model_that_is_written_with_numbers_that_are_not_finite_says_so() {
    let folder = Folder::empty();
    let base = broken(&folder, "layers.0.self_attn.q_proj");
    let (success, stdout, stderr) = run(&["convert", &base, "-o", &folder.path("written.onnx")]);
    assert!(success && stderr.contains("1 of 1024 numbers are not finite"), "{stdout}{stderr}");
}
