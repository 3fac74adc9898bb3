//! Numbers that are none among the weights of a model.

use crate::ir::{DType, Graph, Tensor};

/// Says which weights of a model have numbers that are NaN or infinite. A mask, whose infinite numbers stand beside one other, has none.
pub fn warn(graph: &Graph) {
    let found: Vec<(&str, usize, usize)> =
        graph.initializers().filter_map(|(id, tensor)| Some((graph.value_name(id), not_finite(tensor)?, tensor.len()))).collect();
    for (name, count, of) in found.iter().take(5) {
        tracing::warn!(
            "tensor {name}: {count} of {of} numbers are not finite (NaN or infinite), and neither is what is computed from them"
        );
    }
    if found.len() > 5 {
        tracing::warn!("and {} more tensors with numbers that are not finite", found.len() - 5);
    }
}

/// How many numbers of a tensor are not finite, if any are.
fn not_finite(tensor: &Tensor) -> Option<usize> {
    if !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16 | DType::F64) {
        return None;
    }
    let (mut bad, mut is_nan, mut other, mut is_mask) = (0, false, None, true);
    for value in tensor.to_f32()? {
        if value.is_finite() {
            is_mask &= other.get_or_insert(value.to_bits()) == &value.to_bits();
        } else {
            bad += 1;
            is_nan |= value.is_nan();
        }
    }
    (bad > 0 && (is_nan || !is_mask)).then_some(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_no_broken_weights() {
        let rows: [(&[f32], Option<usize>); 5] = [
            (&[1.0, 2.0], None),
            (&[0.0, f32::NEG_INFINITY, 0.0], None),
            (&[f32::NEG_INFINITY; 2], None),
            (&[0.5, f32::INFINITY, 2.0], Some(1)),
            (&[0.0, f32::NAN, f32::NEG_INFINITY], Some(2)),
        ];
        for (values, expected) in rows {
            assert_eq!(not_finite(&Tensor::from_f32(&[values.len()], values)), expected, "{values:?}");
        }
    }
}
