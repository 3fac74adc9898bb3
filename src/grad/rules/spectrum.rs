//! The discrete Fourier transform.

use crate::grad::Forward;
use crate::ir::{Attr, Expr};

/// `dX = F̄ dY`: the transform's matrix is symmetric, so its adjoint is its conjugate, which is the inverse transform but for the factor
/// `1/N`. Numbers that are real have the real part alone; one-sided spectra are completed by zeros. (DFT-17, DFT-20)
pub(super) fn dft<'g>(f: &Forward<'g>) -> Expr<'g> {
    let (x, inverse, one_sided) = (f.x[0], f.int("inverse", 0) != 0, f.int("onesided", 0) != 0);
    let Some(axis) = axis(f) else { return f.refuse("its axis is computed by the graph") };
    let (before, after) = (x.dim(axis), f.y.dim(axis));
    if one_sided && inverse {
        return f.refuse("the inverse of a one-sided spectrum");
    }
    if !one_sided && before != after || one_sided && f.x.get(1).is_some() {
        return f.refuse("with a length other than the input's");
    }
    let all = x.length(axis);
    let dy = if one_sided { f.dy.pad_at(f.b().ints(&[0]).concat(&[all - f.y.length(axis)], 0), &[axis]) } else { f.dy };
    let opposite = transformed(f, dy, axis, i64::from(!inverse));
    let count = all.squeeze(&[0]).cast(f.dy.dtype());
    let dx = if inverse { opposite / count } else { opposite * count };
    match x.dim(-1).as_known() {
        Some(1) => dx.slice(&[0], &[1], &[-1]),
        _ => dx,
    }
}

/// The axis, counted from the first: an attribute before opset 20, then an input.
fn axis(f: &Forward<'_>) -> Option<i64> {
    let axis = match (f.b().model().opset() < 20, f.x.get(2)) {
        (true, _) => f.int("axis", 1),
        (false, None) => -2,
        (false, Some(_)) => *f.whole_numbers(2)?.first()?,
    };
    Some(f.from_first(axis))
}

fn transformed<'g>(f: &Forward<'g>, value: Expr<'g>, axis: i64, inverse: i64) -> Expr<'g> {
    let b = f.b();
    let inverse = ("inverse", Attr::Int(inverse));
    if b.model().opset() < 20 {
        return b.op("DFT", &[value], &[("axis", Attr::Int(axis)), inverse]);
    }
    b.op_n("DFT", &[Some(value), None, Some(b.int(axis))], &[inverse], 1)[0]
}
