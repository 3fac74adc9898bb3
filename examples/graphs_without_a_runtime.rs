//! Puts an adapter into a model and writes the graphs that train and run it, without ONNX Runtime:
//! `cargo run --example graphs_without_a_runtime --no-default-features`.

use std::path::{Path, PathBuf};

use peft_onnx::adapter::Method;
use peft_onnx::adapter::methods::lora::LoraConfig;
use peft_onnx::export::bundle::{self, Existing};
use peft_onnx::export::{AdapterSource, Injection};
use peft_onnx::{Bundle, Model};

fn main() -> peft_onnx::Result<()> {
    let model = Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures/llama/torchscript.onnx"))?;
    for projection in &model.anatomy().projections {
        println!("{}: {} -> {}", projection.module, projection.in_features, projection.out_features);
    }
    let method = Method::from(LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() });
    let injection = Injection { adapter: AdapterSource::Fresh(method), ..Injection::default() };

    // As values: graphs to look at, change or write where one likes.
    let in_memory = Bundle::of(&model, &injection)?;
    let training = in_memory.graph("training")?;
    println!("the training graph has {} nodes", training.nodes().len());

    // As a folder, which refers to the model's file: what `peft-onnx inject` writes.
    if let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) {
        let injected = bundle::write(model, &injection, &folder, Existing::Replace)?;
        println!("{} modules have a branch", injected.targets.len());
    }
    Ok(())
}
