//! How fast a machine multiplies matrices in ONNX Runtime.

use std::path::Path;
use std::time::Instant;

use crate::error::Result;
use crate::ir::{Builder, DType, Dim, ModelInfo};
use crate::num;
use crate::onnx::Runnable;
use crate::ort::{Feed, HostTensor, Runtime, Session, Settings};

/// Rows and columns of the matrices: products of this size run at the processor's speed and take a tenth of a second at most.
const SIZE: usize = 1024;
/// The best of so many counts: other work disturbs.
const RUNS: usize = 4;

/// Multiplications and additions a second of products of float32 matrices.
///
/// # Errors
/// If ONNX Runtime refuses.
pub fn matmul_rate(runtime: &Runtime) -> Result<f64> {
    let b = Builder::new(ModelInfo::dialect());
    let size = Dim::from(num::int(SIZE));
    let shape = [size.clone(), size];
    let (x, y) = (b.input("x", DType::F32, &shape), b.input("y", DType::F32, &shape));
    b.output("z", x.matmul(y).sum_all());
    let mut session = Session::open(runtime, Runnable::of(&b.finish()?, Path::new("product.onnx"))?, &Settings::default())?;
    let ones = HostTensor::new([SIZE, SIZE], vec![1_f32; SIZE * SIZE])?;
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let started = Instant::now();
        session.run(&[Feed::host("x", &ones), Feed::host("y", &ones)], &["z"])?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    let size = num::float(SIZE);
    Ok(2.0 * size.powi(3) / best)
}
