//! Trains with a loss of one's own, the focal loss (Lin et al. 2017, equation 4): `cargo run --example loss_of_ones_own`.
//!
//! A loss is a graph: its inputs are outputs of the model and columns of the data by their names, its output is `loss`.

use std::path::Path;

use peft_onnx::data::Order;
use peft_onnx::export::objective::LossRequest;
use peft_onnx::ir::{Builder, DType, Dim, Graph, ModelInfo};
use peft_onnx::training::{Optimizer, Source};
use peft_onnx::{Bundle, Injection, Model, Trainer, TrainerOptions};
use serde_json::json;

/// `-(1 - p)² log p`, of the probability `p` of each row's class; the mean over the rows.
fn focal_loss(classes: i64) -> peft_onnx::Result<Graph> {
    let b = Builder::new(ModelInfo::dialect());
    let batch = Dim::symbol("batch");
    let logits = b.input("logits", DType::F32, &[batch.clone(), Dim::known(classes)]);
    let labels = b.input("labels", DType::I64, &[batch]);
    let of_class = logits.log_softmax(1).gather_elements(labels.unsqueeze(&[1]), 1);
    let miss = 1.0 - of_class.exp();
    b.output("loss", (-(miss * miss * of_class)).mean(&[0, 1]));
    b.finish()
}

fn main() -> peft_onnx::Result<()> {
    let model = Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures/bert_classifier/torchscript.onnx"))?;
    let loss = LossRequest { graph: Some(focal_loss(3)?.into()), ..LossRequest::default() };
    let bundle = Bundle::of(&model, &Injection { loss, ..Injection::default() })?;

    let source = Source::with_tokenizer(&bundle, None)?;
    let rows = (0..12).map(|row| json!({"input_ids": [2, 10 + row, 20 + 3 * (row % 3), 30, 3], "label": row % 3}));
    let dataset = source.rows_to_learn(rows)?;
    let optimizer = Optimizer { learning_rate: 1e-2, ..Optimizer::default() };
    let mut trainer = Trainer::new(&bundle, &TrainerOptions { optimizer, ..TrainerOptions::default() })?;
    let mut batches = trainer.batches(&source, &dataset, 12, Order::File)?;
    let losses = (0..20).map(|_| Ok(trainer.step(&batches.next_batch()?)?.loss)).collect::<peft_onnx::Result<Vec<f32>>>()?;
    println!("focal loss {:.4} -> {:.4}", losses[0], losses[losses.len() - 1]);
    assert!(losses[losses.len() - 1] < losses[0]);
    Ok(())
}
