//! Resampling of images.

use crate::grad::Forward;
use crate::ir::{Attr, Expr};
use crate::num;

/// `dX = Mᵀ dY` along each axis: `Resize` is a matrix along each axis it resamples, whose columns are what it makes of unit vectors.
pub(super) fn resize<'g>(f: &Forward<'g>) -> Expr<'g> {
    if f.str("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize" {
        return f.refuse("coordinate_transformation_mode = \"tf_crop_and_resize\"");
    }
    if f.str("keep_aspect_ratio_policy", "stretch") != "stretch" {
        return f.refuse("keep_aspect_ratio_policy other than \"stretch\"");
    }
    let axes = f.ints("axes").map_or_else(|| (0..f.rank()).collect(), <[i64]>::to_vec);
    let scales = f.x.get(2).and_then(|scales| f.b().constant_of(scales.id())?.to_f64());
    (0..).zip(axes).fold(f.dy, |dx, (place, axis)| {
        let axis = f.from_first(axis);
        let same_length = f.x[0].dim(axis) == f.y.dim(axis);
        let stays = match (f.x.get(3), &scales) {
            (Some(_), _) => same_length,
            (None, Some(scales)) => usize::try_from(place).ok().and_then(|place| scales.get(place)) == Some(&1.0),
            (None, None) => false,
        };
        if stays { dx } else { along(dx, axis, matrix(f, axis, place)) }
    })
}

/// What the operator makes of the unit vectors of an axis, `[length after, length before]`. `place` is that of the axis among those with a
/// scale or a size.
fn matrix<'g>(f: &Forward<'g>, axis: i64, place: i64) -> Expr<'g> {
    let b = f.b();
    let before = f.x[0].length(axis);
    let units = b.op("EyeLike", &[before.concat(&[before], 0).filled(0.0, f.dy.dtype())], &[]);
    let (scales, sizes) = match f.x.get(3) {
        Some(_) => (None, Some(f.y.length(axis).concat(&[before], 0))),
        None => {
            (f.x.get(2).map(|scales| scales.slice(&[place], &[place + 1], &[0]).concat(&[scales.same_type(1.0).reshape(&[1])], 0)), None)
        }
    };
    let is_kept = |name: &str| !matches!(name, "axes" | "keep_aspect_ratio_policy");
    let attrs: Vec<(&str, Attr)> =
        f.node().attrs.iter().map(|(name, value)| (&**name, value.clone())).filter(|(name, _)| is_kept(name)).collect();
    b.op_n("Resize", &[Some(units), None, scales, sizes], &attrs, 1)[0]
}

/// The product of the vectors along an axis with a matrix on their right.
fn along<'g>(x: Expr<'g>, axis: i64, matrix: Expr<'g>) -> Expr<'g> {
    let last = num::int(x.rank()) - 1;
    match last - axis {
        0 => x.matmul(matrix),
        1 => matrix.t().matmul(x),
        _ => {
            let exchange: Vec<i64> = (0..=last)
                .map(|at| {
                    if at == axis {
                        last
                    } else if at == last {
                        axis
                    } else {
                        at
                    }
                })
                .collect();
            x.transpose(&exchange).matmul(matrix).transpose(&exchange)
        }
    }
}
