//! Tensors to messages and back.

use bytes::Bytes;

use super::proto::TensorProto;
use crate::error::{Error, Result};
use crate::ir::{DType, Tensor};

/// The type and the lengths that a message claims, whatever its data is.
pub(super) fn form(proto: &TensorProto) -> Result<(DType, Vec<usize>)> {
    let code = proto.data_type();
    let dtype = DType::from_code(code)
        .ok_or_else(|| Error::unsupported(format!("element type {code}"), "it is not one that ONNX had when this was written"))?;
    Ok((dtype, lengths(&proto.dims)?))
}

/// The lengths of axes, none of them negative.
pub(super) fn lengths(dims: &[i64]) -> Result<Vec<usize>> {
    let length = |&dim: &i64| usize::try_from(dim).map_err(|_| Error::mismatch("length of an axis", "at least 0", dim));
    dims.iter().map(length).collect()
}

/// The number of elements.
pub(super) fn count(shape: &[usize]) -> Result<usize> {
    let product = shape.iter().try_fold(1_usize, |product, &length| product.checked_mul(length));
    product.ok_or_else(|| Error::invalid(format!("shape {shape:?} overflows")))
}

/// A tensor whose data is in its message. Raw data is not copied.
pub(super) fn inline(proto: &TensorProto) -> Result<Tensor> {
    let (dtype, shape) = form(proto)?;
    count(&shape)?;
    match (&proto.raw_data, dtype) {
        (_, DType::String) => Tensor::strings(shape, proto.string_data.clone()),
        (Some(raw), _) if !raw.is_empty() => Tensor::new(dtype, shape, raw.clone()),
        _ => Tensor::new(dtype, shape, typed_data(proto, dtype)),
    }
}

/// The raw form of the typed field that ONNX prescribes for a type.
fn typed_data(proto: &TensorProto, dtype: DType) -> Bytes {
    let bytes: Vec<u8> = match dtype {
        DType::F32 | DType::Complex64 => proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F64 | DType::Complex128 => proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U64 => proto.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U32 => proto.uint64_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(4)).collect(),
        // Each entry has one element in its low bytes, or a byte of packed ones.
        _ => {
            let width = dtype.bits().div_ceil(8);
            proto.int32_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(width)).collect()
        }
    };
    bytes.into()
}

/// Type and lengths of a tensor as a message without data.
pub(super) fn header(name: &str, tensor: &Tensor) -> TensorProto {
    let dims = tensor.shape().iter().map(|&length| i64::try_from(length).expect("lengths came from an i64 or from memory")).collect();
    let name = (!name.is_empty()).then(|| name.to_owned());
    TensorProto { dims, data_type: Some(tensor.dtype().code()), name, ..TensorProto::default() }
}

/// A tensor with its data in the message. Raw data is shared, not copied.
pub(super) fn to_inline(name: &str, tensor: &Tensor) -> TensorProto {
    let strings = tensor.as_strings().map(<[Bytes]>::to_vec).unwrap_or_default();
    TensorProto { raw_data: tensor.bytes().cloned(), string_data: strings, ..header(name, tensor) }
}
