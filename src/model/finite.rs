//! Numbers that are none among the weights of a model.

use crate::error::{Error, ErrorKind, Place, Result};
use crate::ir::{DType, Graph, Tensor, ValueId};

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

/// Refuses what folding made of weights, where that has numbers that are NaN or infinite: sums and products may leave the range of their type.
///
/// # Errors
/// [`Diverged`](ErrorKind::Diverged) with the first tensor and the count of all.
pub fn still(before: &Graph, after: &Graph) -> Result<()> {
    let address = |tensor: &Tensor| tensor.bytes().map(|bytes| bytes.as_ptr());
    let is_new = |id: ValueId, tensor: &Tensor| match before.initializer(id) {
        Some(old) => address(old) != address(tensor) && not_finite(old).is_none(),
        None => true,
    };
    let changed = after.initializers().filter(|(id, tensor)| is_new(*id, tensor));
    // What was a weight is no mask now.
    let count = |id: ValueId, tensor: &Tensor| if before.initializer(id).is_some() { any_not_finite(tensor) } else { not_finite(tensor) };
    let bad: Vec<(ValueId, usize, &Tensor)> = changed.filter_map(|(id, tensor)| Some((id, count(id, tensor)?, tensor))).collect();
    let Some((first, count, tensor)) = bad.first() else { return Ok(()) };
    let others = if bad.len() > 1 { format!("; {} more tensors have such numbers", bad.len() - 1) } else { String::new() };
    let what = format!(
        "{count} of {} numbers are not finite (NaN or infinite) with the adapter folded in, as {}{others}",
        tensor.len(),
        tensor.dtype()
    );
    let hint = match tensor.dtype() {
        DType::F16 => {
            "float16 holds numbers up to 65,504: merge into the model before it was converted, or `export` the inference graph, which has the adapter beside the weights"
        }
        _ => "the training left the range of numbers: take an earlier checkpoint, or train again with a smaller `learning_rate`",
    };
    Err(Error::from(ErrorKind::Diverged(what)).at(Place::Tensor(after.value_name(*first).to_owned())).with_hint(hint))
}

/// How many numbers of a tensor are not finite, if any are.
fn not_finite(tensor: &Tensor) -> Option<usize> {
    if !has_any(tensor)? {
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

/// The same, of a tensor that is no mask.
fn any_not_finite(tensor: &Tensor) -> Option<usize> {
    let values = tensor.to_f32().filter(|_| has_any(tensor) == Some(true))?;
    Some(values.into_iter().filter(|value| !value.is_finite()).count())
}

/// Whether a number of a tensor of floats is not finite: all bits of its exponent are set.
fn has_any(tensor: &Tensor) -> Option<bool> {
    let bytes = tensor.bytes()?;
    // Numbers of a block are looked at without a branch between them, so that processors take many at a time.
    let any = |is_bad: fn(&[u8]) -> bool| bytes.chunks(BLOCK).any(is_bad);
    match tensor.dtype() {
        DType::F32 => Some(any(|block| block.chunks_exact(4).fold(false, |bad, x| bad | is_full(x[2], x[3], 0x7f80)))),
        DType::F16 => Some(any(|block| block.chunks_exact(2).fold(false, |bad, x| bad | is_full(x[0], x[1], 0x7c00)))),
        DType::BF16 => Some(any(|block| block.chunks_exact(2).fold(false, |bad, x| bad | is_full(x[0], x[1], 0x7f80)))),
        DType::F64 => Some(any(|block| block.chunks_exact(8).fold(false, |bad, x| bad | is_full(x[6], x[7], 0x7ff0)))),
        _ => None,
    }
}

/// Bytes of a block: a multiple of every type's.
const BLOCK: usize = 4096;

/// Whether the two highest bytes of a number have all bits of its exponent.
fn is_full(low: u8, high: u8, exponent: u16) -> bool {
    u16::from_le_bytes([low, high]) & exponent == exponent
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
            for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
                let values: Vec<f64> = values.iter().map(|&value| value.into()).collect();
                let tensor = Tensor::from_f64(dtype, &[values.len()], &values).expect("floats");
                assert_eq!(not_finite(&tensor), expected, "{dtype} {values:?}");
            }
        }
    }
}
