//! Adapters: what is trained while the base stays frozen, and how it is put into a graph.
//!
//! A method writes its part of the graph around the base's nodes, with its trainable tensors as optional inputs ([`Param`]) under
//! PEFT's names and shapes. Nothing here knows of gradients.

mod budget;
pub mod combine;
pub mod config;
mod decoder;
pub mod decomposed;
mod dora;
pub mod dropout;
pub mod encoder;
mod fold;
mod front;
mod ia3;
pub mod init;
pub mod key;
mod linalg;
mod loha;
mod lokr;
mod longer;
mod lora;
mod lora_embedding;
pub mod naming;
pub mod near;
pub mod new_head;
pub mod packing;
mod param;
mod part;
mod pattern;
mod plan;
mod prefix;
mod prompt;
pub mod replace;
mod requantise;
mod rows;
mod scores;
mod tables;
pub mod targets;
mod tokens;
mod trained;
mod unpacked;
mod update;
mod vera;

pub use lora::Site;
pub use param::{Form, PEFT_PREFIX, Param, Params, Role};
pub use part::Purpose;
pub use plan::{Given, Plan};
pub use prefix::of_text as prefix_of_text;
pub use requantise::Requantised;

use ndarray::ArrayView2;

use crate::ir::{DType, Tensor};
use crate::{Error, Result};

/// A float32 matrix as ndarray sees it.
///
/// # Errors
/// A tensor of another rank or type.
pub fn matrix(tensor: &Tensor) -> Result<ndarray::Array2<f32>> {
    let (rows, columns) = match tensor.shape() {
        [rows, columns] => (*rows, *columns),
        other => return Err(Error::mismatch("rank", 2, other.len())),
    };
    let values = tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", DType::F32, tensor.dtype()))?;
    ndarray::Array2::from_shape_vec((rows, columns), values).map_err(|e| Error::invalid(e.to_string()))
}

/// A float32 matrix as a tensor.
#[must_use]
pub fn tensor(matrix: &ArrayView2<'_, f32>) -> Tensor {
    let values: Vec<f32> = matrix.iter().copied().collect();
    Tensor::from_f32(&[matrix.nrows(), matrix.ncols()], &values)
}

/// A float32 matrix with its axes swapped.
fn transposed(tensor_in: &Tensor) -> Result<Tensor> {
    Ok(tensor(&matrix(tensor_in)?.t()))
}
