//! Norms with what is added before them.

use super::{Fused, Outputs};
use crate::error::Refusal;
use crate::ir::{Attr, Expr};

/// ONNX Runtime's own default; the operators' pages do not say it (`contrib_ops/cpu/skip_layer_norm.cc`).
const EPSILON: f64 = 1e-12;

/// `s = x + bias + skip`, `y = LayerNorm(s)`; inputs `x`, `skip`, `gamma`, `beta`, `bias`, outputs `y`, mean, deviation, `s`.
pub(super) fn skip_layer<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let sum = skipped(f, 4)?;
    Ok(vec![Some(layer_norm(f, sum, 2)?), None, None, Some(sum)])
}

/// `s = x + bias + skip`, `y = s / rms(s) ⊙ gamma`; inputs `x`, `skip`, `gamma`, `bias`, outputs `y`, mean, deviation, `s`.
pub(super) fn skip_rms<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let sum = skipped(f, 3)?;
    Ok(vec![Some(rms_norm(f, sum, f.x(2)?)), None, None, Some(sum)])
}

/// The same operator under the name that the runtime knows it by.
pub(super) fn rms<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    Ok(vec![Some(rms_norm(f, f.x(0)?, f.x(1)?))])
}

/// The bias belongs to the product before it, so it is added to that first.
fn skipped<'g>(f: &Fused<'g>, bias: usize) -> Result<Expr<'g>, Refusal> {
    let x = f.x(0)?;
    Ok(f.given(bias).map_or(x, |bias| x + bias) + f.x(1)?)
}

/// `LayerNorm(word[ids] + position[positions] + segment[segments])`, the number of tokens of each row, and the sum of embeddings.
///
/// Inputs: `ids`, `segments`, tables of words, positions and segments, `gamma`, `beta`, mask, positions.
pub(super) fn embeddings<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let (ids, b) = (f.x(0)?, f.b);
    let position = match f.given(8) {
        Some(positions) => f.x(3)?.gather(positions, 0),
        None => f.x(3)?.gather(ids.length(1).squeeze(&[0]).range_from(b.int(0)), 0),
    };
    let mut sum = f.x(2)?.gather(ids, 0) + position;
    if let (Some(segments), Some(table)) = (f.given(1), f.given(4)) {
        sum = sum + table.gather(segments, 0);
    }
    let counts = match f.given(7) {
        Some(mask) => mask.sum_away(&[1]),
        None => ids.length(0).filled(0.0, crate::ir::DType::I32),
    };
    Ok(vec![Some(layer_norm(f, sum, 5)?), Some(counts), Some(sum)])
}

/// The scale is input `scale` of the fused node, the bias the one behind it.
fn layer_norm<'g>(f: &Fused<'g>, x: Expr<'g>, scale: usize) -> Result<Expr<'g>, Refusal> {
    Ok(f.b.op_n("LayerNormalization", &[Some(x), Some(f.x(scale)?), f.given(scale + 1)], &attrs(f), 1)[0])
}

fn rms_norm<'g>(f: &Fused<'g>, x: Expr<'g>, scale: Expr<'g>) -> Expr<'g> {
    f.b.op("SimplifiedLayerNormalization", &[x, scale], &attrs(f))
}

fn attrs(f: &Fused<'_>) -> [(&'static str, Attr); 2] {
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "attributes are float32")]
    let epsilon = f.float("epsilon", EPSILON) as f32;
    [("axis", Attr::Int(-1)), ("epsilon", Attr::Float(epsilon))]
}
