//! Fine-tunes a classifier: `cargo run --example finetune_classifier`.
//!
//! Everything stays in memory; only the model is read from a file, and with a folder as an argument the tuned model and the adapter are written there.

use std::path::Path;

use peft_onnx::data::Order;
use peft_onnx::training::{Optimizer, Source};
use peft_onnx::{Bundle, Injection, Model, Trainer, TrainerOptions, onnx};
use serde_json::json;

fn main() -> peft_onnx::Result<()> {
    let model = Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures/bert_classifier/torchscript.onnx"))?;

    // A fresh LoRA of rank 8 on the attention's queries and values: PEFT's defaults for BERT.
    let bundle = Bundle::of(&model, &Injection::default())?;
    println!("{} parameters are trained, of {}", bundle.manifest().trainable_count, bundle.manifest().base_count);

    // Rows are what a line of a data file would be. With `Tokenizer::from_bytes` they may be {"text", "label"}.
    let source = Source::with_tokenizer(&bundle, None)?;
    let rows = (0..12).map(|row| json!({"input_ids": [2, 10 + row, 20 + 3 * (row % 3), 30, 3], "label": row % 3}));
    let dataset = source.rows_to_learn(rows)?;

    let optimizer = Optimizer { learning_rate: 1e-2, ..Optimizer::default() };
    let mut trainer = Trainer::new(&bundle, &TrainerOptions { optimizer, ..TrainerOptions::default() })?;
    let mut batches = trainer.batches(&source, &dataset, 4, Order::Shuffled { seed: 1 })?;
    let mut losses = vec![];
    for _ in 0..30 {
        let step = trainer.step(&batches.next_batch()?)?;
        losses.push(step.loss);
    }
    println!("loss {:.4} -> {:.4}", losses[0], losses[losses.len() - 1]);
    assert!(losses[losses.len() - 1] < losses[0]);

    let tuned = trainer.bundle()?;
    let merged = onnx::to_bytes(&tuned.merged()?)?;
    println!("the merged model has {} bytes", merged.len());
    if let Some(folder) = std::env::args_os().nth(1) {
        let folder = Path::new(&folder);
        peft_onnx::peft::write(folder, &trainer.adapter()?)?;
        std::fs::write(folder.join("tuned.onnx"), merged)?;
    }
    Ok(())
}
