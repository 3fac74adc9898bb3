//! Differentiates a hand-made graph: `cargo run --example gradient_of_a_graph --no-default-features`.

use peft_onnx::grad;
use peft_onnx::ir::{Builder, DType, Dim, ModelInfo};
use peft_onnx::onnx;

fn main() -> peft_onnx::Result<()> {
    // loss = Σ (x · w - y)²
    let b = Builder::new(ModelInfo::dialect());
    let batch = Dim::symbol("batch");
    let x = b.input("x", DType::F32, &[batch.clone(), Dim::known(3)]);
    let y = b.input("y", DType::F32, &[batch, Dim::known(2)]);
    let w = b.input("w", DType::F32, &[Dim::known(3), Dim::known(2)]);
    let loss = (x.matmul(w) - y).square().sum_all();

    let gradients = grad::gradients(&b, loss, &[w])?;
    b.output("loss", loss);
    b.output("w_grad", gradients[0]);
    let graph = b.finish()?;
    print!("{graph}");
    println!("as a file: {} bytes", onnx::to_bytes(&graph)?.len());
    Ok(())
}
