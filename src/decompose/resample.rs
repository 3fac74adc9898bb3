//! Resampling by cubic polynomials as products with a matrix along each axis.
//!
//! ONNX Runtime turns what a `Transpose` gives to a `Resize` after the `Resize`, and has no kernel for cubic ones that resample another axis than
//! the last two. Where constants are folded first, as tables of positions in images are up to a limit, nobody sees that.

use super::{Fused, Outputs};
use crate::error::Refusal;
use crate::ir::{Attr, Expr};

/// `Y` of `X` `[batch, channels, height, width]`: what the operator makes of the unit vectors of height and width, times `X`.
pub(super) fn cubic<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let is_text = |name: &str, wanted: &str| matches!(f.node.attrs.get(name), Some(Attr::Str(text)) if &**text == wanted.as_bytes());
    if !is_text("mode", "cubic") || is_text("coordinate_transformation_mode", "tf_crop_and_resize") || f.node.attrs.contains_key("axes") {
        return Err("not a cubic one of whole images".into());
    }
    let (x, y) = (f.x(0)?, f.b.expr(f.node.output(0).ok_or("it has no output")?));
    if x.rank() != 4 || !x.dtype().is_float() {
        return Err("its input is not [batch, channels, height, width]".into());
    }
    let scales = f.given(2).filter(|_| f.given(3).is_none()).map(|scales| f.b.constant_of(scales.id()).and_then(|scales| scales.to_f64()));
    let stays = |axis: i64, place: usize| match &scales {
        None => x.dim(axis) == y.dim(axis),
        Some(scales) => scales.as_ref().and_then(|scales| scales.get(place)) == Some(&1.0),
    };
    if !(stays(0, 0) && stays(1, 1)) {
        return Err("it resamples other axes than height and width".into());
    }
    let (rows, columns) = (matrix(f, x, y, 2), matrix(f, x, y, 3));
    Ok(vec![Some(rows.t().matmul(x).matmul(columns))])
}

/// What the operator makes of the unit vectors of an axis, `[length before, length after]`.
fn matrix<'g>(f: &Fused<'g>, x: Expr<'g>, y: Expr<'g>, axis: i64) -> Expr<'g> {
    let before = x.length(axis);
    let units = f.b.op("EyeLike", &[before.concat(&[before], 0).filled(0.0, x.dtype())], &[]);
    let (scales, sizes) = match (f.given(2), f.given(3)) {
        (Some(scales), None) => (Some(scales.same_type(1.0).reshape(&[1]).concat(&[scales.slice(&[axis], &[axis + 1], &[0])], 0)), None),
        (_, sizes) => {
            let after = sizes.map_or_else(|| y.length(axis), |sizes| sizes.slice(&[axis], &[axis + 1], &[0]));
            (None, Some(before.concat(&[after], 0)))
        }
    };
    let attrs: Vec<(&str, Attr)> = f.node.attrs.iter().map(|(name, value)| (&**name, value.clone())).collect();
    f.b.op_n("Resize", &[Some(units), None, scales, sizes], &attrs, 1)[0]
}
