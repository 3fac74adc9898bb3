//! Operators that round to small integers and back.

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, broadcast};
use super::elementwise::first;
use super::linear::product;
use super::{Answer, Question, Rule};

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("DequantizeLinear", dequantize),
    ("DynamicQuantizeLinear", dynamic_quantize),
    ("QuantizeLinear", quantize),
    ("com.microsoft:DequantizeLinear", dequantize),
    ("com.microsoft:GatherBlockQuantized", gather_blocks),
    ("com.microsoft:MatMulBnb4", matmul_bnb4),
    ("com.microsoft:MatMulNBits", matmul_blocks),
    ("com.microsoft:QGemm", q_gemm),
    ("com.microsoft:QLinearAdd", q_binary),
    ("com.microsoft:QLinearLeakyRelu", first),
    ("com.microsoft:QLinearMul", q_binary),
    ("com.microsoft:QLinearSigmoid", first),
    ("com.microsoft:QLinearSoftmax", first),
    ("com.microsoft:QuantizeLinear", quantize),
];

/// The type is an attribute (opset 21), else the zero point's, else unsigned bytes.
fn quantize(q: &Question<'_>) -> Answer {
    let told = q.dtype_attr("output_dtype");
    let dtype = told.or(if q.given(2) { q.dtype(2) } else { Some(DType::U8) });
    Ok(vec![Fact::partial(dtype, q.shape(0).cloned())])
}

/// The type is an attribute (opset 23), else the scale's; before opset 19 it was always float32, as the scale's.
fn dequantize(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(q.dtype_attr("output_dtype").or(q.dtype(1)), q.shape(0).cloned())])
}

/// Bytes, their scale and their zero point.
fn dynamic_quantize(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(Some(DType::U8), q.shape(0).cloned()), Fact::new(DType::F32, vec![]), Fact::new(DType::U8, vec![])])
}

/// `[.., K] · [K, N]` with a packed weight whose lengths are attributes.
fn matmul_blocks(q: &Question<'_>) -> Answer {
    let (Some(dims), Some(rows), Some(columns)) = (q.shape(0), q.attr_int("K"), q.attr_int("N")) else {
        return Ok(vec![Fact::partial(q.dtype(0), None)]);
    };
    let shape = product(dims, &vec![Dim::known(rows), Dim::known(columns)])?;
    Ok(vec![Fact::partial(q.dtype(0), Some(shape))])
}

/// As [`matmul_blocks`]; with `transB` 0 the packed weight is used the other way round.
fn matmul_bnb4(q: &Question<'_>) -> Answer {
    if q.int("transB", 1) == 0 {
        return Ok(vec![Fact::partial(q.dtype(0), q.rank(0).map(|rank| q.fresh_shape(0, rank)))]);
    }
    matmul_blocks(q)
}

/// Rows of a table that is packed along its last axis, in the type of the scales.
fn gather_blocks(q: &Question<'_>) -> Answer {
    let (Some(data), Some(indices)) = (q.shape(0), q.shape(1)) else {
        return Ok(vec![Fact::partial(q.dtype(2), None)]);
    };
    let mut data = data.clone();
    // Bytes hold `8 / bits` numbers; the types of 4 bits hold one each.
    let each = if q.dtype(0) == Some(DType::U8) { 8 / q.int("bits", 4).clamp(1, 8) } else { 1 };
    if let Some(last) = data.last_mut() {
        *last = &*last * &Dim::known(each);
    }
    let axis = super::question::axis_at(q.int("gather_axis", 0), data.len())?;
    Ok(vec![Fact::partial(q.dtype(2), Some([&data[..axis], indices, &data[axis + 1..]].concat()))])
}

/// Each operand is followed by its scale and zero point.
fn q_binary(q: &Question<'_>) -> Answer {
    let shape = match (q.shape(0), q.shape(3)) {
        (Some(a), Some(b)) => Some(broadcast(a, b)?),
        _ => None,
    };
    Ok(vec![Fact::partial(q.dtype(0), shape)])
}

/// As `Gemm`, each operand followed by its scale and zero point; float32 unless a zero point for the result is given.
fn q_gemm(q: &Question<'_>) -> Answer {
    let dtype = if q.given(8) { q.dtype(8) } else { Some(DType::F32) };
    let turned = |input: usize, name: &str| {
        let mut dims = q.shape(input).cloned()?;
        if q.int(name, 0) != 0 {
            dims.reverse();
        }
        Some(dims)
    };
    let shape = match (turned(0, "transA"), turned(3, "transB")) {
        (Some(a), Some(b)) => Some(product(&a, &b)?),
        _ => None,
    };
    Ok(vec![Fact::partial(dtype, shape)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::row;
    use crate::ir::Attr;

    #[test]
    fn rounding() {
        row("QuantizeLinear", &["float[b, s]", "float", "int8"], &[], "int8[b, s]");
        row("QuantizeLinear", &["float[b, s]", "float"], &[], "uint8[b, s]");
        row("DequantizeLinear", &["int4[64, 32]", "float16[2, 32]"], &[("block_size", Attr::Int(32))], "float16[64, 32]");
        row("DynamicQuantizeLinear", &["float[b, s]"], &[], "uint8[b, s] float uint8");
        row("MatMulInteger", &["uint8[b, s, 64]", "int8[64, 32]"], &[], "int32[b, s, 32]");
    }

    #[test]
    fn packed_weights() {
        let size = [("K", Attr::Int(64)), ("N", Attr::Int(32))];
        row("com.microsoft:MatMulNBits", &["float[b, s, 64]", "uint8[32, 2, 16]", "float[64]"], &size, "float[b, s, 32]");
        let table = ["uint8[100, 32]", "int64[b, s]", "float16[100, 2]"];
        row("com.microsoft:GatherBlockQuantized", &table, &[("bits", Attr::Int(4))], "float16[b, s, 64]");
    }
}
