//! Reductions, and what normalizes by one.

use crate::grad::Forward;
use crate::ir::{Attr, Dim, Expr};

/// The axes that are reduced, or `None` if only the running graph knows.
fn reduced(f: &Forward<'_>) -> Option<Vec<i64>> {
    let axes = f.x.get(1).map_or(Some(vec![]), |_| f.whole_numbers(1))?;
    let all = axes.is_empty() && f.int("noop_with_empty_axes", 0) == 0;
    Some(if all { (0..f.rank()).collect() } else { axes })
}

/// `value`, shaped as the output, with the reduced axes back as axes of length 1.
pub(super) fn kept<'g>(f: &Forward<'g>, value: Expr<'g>) -> Expr<'g> {
    // A value of rank 0 broadcasts to everything as it is.
    if f.int("keepdims", 1) == 1 || f.y.rank() == 0 {
        return value;
    }
    match reduced(f) {
        Some(axes) if axes.is_empty() => value,
        Some(axes) => value.unsqueeze(&axes),
        None => f.refuse("its axes are computed by the graph and not kept"),
    }
}

/// The number of elements that go into one of the output.
pub(super) fn count<'g>(f: &Forward<'g>) -> Expr<'g> {
    let (all, left) = (f.x[0].known_dims(), f.y.known_dims());
    match Dim::product(&all).exact_div(&Dim::product(&left)).and_then(|n| n.as_known()).and_then(|n| i32::try_from(n).ok()) {
        Some(known) => f.dy.same_type(f64::from(known)),
        None => (f.x[0].size() / f.y.size()).cast(f.dy.dtype()),
    }
}

/// `dX = dY / k` at the `k` elements that equal the extremum, else 0.
pub(super) fn reduce_extremum<'g>(f: &Forward<'g>) -> Expr<'g> {
    let chosen = f.x[0].equal(kept(f, f.y)).cast(f.dy.dtype());
    match reduced(f) {
        Some(axes) => chosen * (kept(f, f.dy) / chosen.sum(&axes)),
        None => f.refuse("its axes are computed by the graph"),
    }
}

/// `dX = dY / k` at the `k` elements of a channel that equal its maximum, else 0.
pub(super) fn global_max_pool<'g>(f: &Forward<'g>) -> Expr<'g> {
    let chosen = f.x[0].equal(f.y).cast(f.dy.dtype());
    let axes: Vec<i64> = (2..f.rank()).collect();
    chosen * (f.dy / chosen.sum(&axes))
}

/// `dxᵢ = dY ∏ⱼ≠ᵢ xⱼ`: the product of what is not zero, over `xᵢ`, where no other element is zero; else 0.
pub(super) fn reduce_prod<'g>(f: &Forward<'g>) -> Expr<'g> {
    let Some(axes) = reduced(f) else { return f.refuse("its axes are computed by the graph") };
    if axes.is_empty() {
        return f.dy;
    }
    let (x, zero) = (f.x[0], f.x[0].same_type(0.0));
    let is_zero = x.equal(zero);
    let nonzero = is_zero.where_(x.same_type(1.0), x);
    let zeros = is_zero.cast(x.dtype());
    let others_zero = zeros.sum(&axes) - zeros;
    let product = x.b().op("ReduceProd", &[nonzero, x.b().ints(&axes)], &[("keepdims", Attr::Int(1))]);
    kept(f, f.dy) * others_zero.greater(x.same_type(0.5)).where_(zero, product / nonzero)
}

/// `dX = dY ⊙ X / Y`, and 0 where `Y` is 0.
pub(super) fn reduce_l2<'g>(f: &Forward<'g>) -> Expr<'g> {
    let zero = f.y.same_type(0.0);
    kept(f, f.y.equal(zero).where_(zero, f.dy / f.y)) * f.x[0]
}

/// `dX = Y ⊙ (dY - Σ dY ⊙ Y)`, the sum along `axis`.
pub(super) fn softmax<'g>(f: &Forward<'g>) -> Expr<'g> {
    f.y * (f.dy - (f.dy * f.y).sum(&[f.int("axis", -1)]))
}

/// `dX = dY - e^Y ⊙ Σ dY`, the sum along `axis`.
pub(super) fn log_softmax<'g>(f: &Forward<'g>) -> Expr<'g> {
    f.dy - f.y.exp() * f.dy.sum(&[f.int("axis", -1)])
}
