//! Float32 tensors as matrices.

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

/// A matrix of floats with its axes swapped, of the same type.
pub(crate) fn transposed(tensor_in: &Tensor) -> Result<Tensor> {
    let values = tensor_in.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor_in.dtype()))?;
    let turned = tensor(&matrix(&Tensor::from_f32(tensor_in.shape(), &values))?.t());
    match turned.to_f64() {
        Some(values) if tensor_in.dtype() != DType::F32 => Tensor::from_f64(tensor_in.dtype(), turned.shape(), &values),
        _ => Ok(turned),
    }
}
