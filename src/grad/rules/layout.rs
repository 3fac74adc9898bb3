//! What moves elements and leaves them as they are.

use super::again::{inverse_of, with_attrs_of};
use super::index::{add_at, places};
use crate::grad::Forward;
use crate::ir::{Attr, Expr};

/// The permutation that undoes a `Transpose`.
pub(super) fn inverse(f: &Forward<'_>) -> Vec<i64> {
    let reversed: Vec<i64> = (0..f.rank()).rev().collect();
    inverse_of(f.ints("perm").unwrap_or(&reversed))
}

/// Sums the copies: an axis of length `n` repeated `r` times is an axis `[r, n]`.
pub(super) fn tile<'g>(f: &Forward<'g>) -> Expr<'g> {
    let (repeats, lengths) = (f.x[1], f.x[0].shape());
    let axes: Vec<i64> = (0..f.rank()).map(|axis| 2 * axis).collect();
    let apart = repeats.unsqueeze(&[1]).concat(&[lengths.unsqueeze(&[1])], 1).reshape(&[-1]);
    f.dy.reshape_to(apart).sum_away(&axes)
}

/// The part of `dY` that input `input` became.
pub(super) fn concat<'g>(f: &Forward<'g>, input: usize) -> Expr<'g> {
    let axis = f.axis(0);
    let length = |x: &Expr<'g>| x.length(axis);
    let start = f.x.all().iter().take(input).map(length).reduce(|a, b| a + b).unwrap_or_else(|| f.b().ints(&[0]));
    f.dy.slice_at(start, start + f.x[input].length(axis), &[axis])
}

/// `dX` is the concatenation of all `dYᵢ`, zeros for those that nothing depends on.
pub(super) fn split<'g>(f: &Forward<'g>) -> Expr<'g> {
    let parts: Vec<Expr> = f.dys.iter().zip(f.ys.all()).map(|(dy, y)| dy.unwrap_or_else(|| y.zeros_like())).collect();
    parts[0].concat(&parts[1..], f.axis(0))
}

/// Cuts off what was added: a pad of the opposite numbers. Where elements were repeated, each copy's gradient goes to its original.
pub(super) fn pad<'g>(f: &Forward<'g>) -> Expr<'g> {
    if f.str("mode", "constant") != "constant" {
        return add_at(f.x[0], with_attrs_of(f, &[Some(places(f.x[0])), f.x.get(1), None, f.x.get(3)], 1)[0], f.dy);
    }
    let opposite = f.whole_numbers(1).map_or_else(|| -f.x[1], |pads| f.b().ints(&pads.iter().map(|n| -n).collect::<Vec<_>>()));
    match (f.x.get(3), f.whole_numbers(3)) {
        (None, _) => f.b().op("Pad", &[f.dy, opposite], &[]),
        (_, Some(axes)) => f.dy.pad_at(opposite, &axes.into_iter().map(|axis| f.from_first(axis)).collect::<Vec<_>>()),
        _ => f.refuse("its axes are computed by the graph"),
    }
}

/// The operator itself, back to the lengths that were there: what was cut off is padded in the same place.
pub(super) fn center_crop_pad<'g>(f: &Forward<'g>) -> Expr<'g> {
    let axes = f.ints("axes").map_or_else(|| (0..f.rank()).collect(), <[i64]>::to_vec);
    with_attrs_of(f, &[Some(f.dy), Some(f.x[0].shape_of_axes(&axes))], 1)[0]
}

/// Keeps the same triangle.
pub(super) fn trilu<'g>(f: &Forward<'g>) -> Expr<'g> {
    with_attrs_of(f, &[Some(f.dy), f.x.get(1)], 1)[0]
}

/// A cumulative sum from the other end.
pub(super) fn cum_sum<'g>(f: &Forward<'g>) -> Expr<'g> {
    let attrs = [("exclusive", Attr::Int(f.int("exclusive", 0))), ("reverse", Attr::Int(1 - f.int("reverse", 0)))];
    f.b().op("CumSum", &[f.dy, f.x[1]], &attrs)
}

/// The opposite move of blocks.
pub(super) fn depth_to_space<'g>(f: &Forward<'g>) -> Expr<'g> {
    let opposite = if f.op() == "DepthToSpace" { "SpaceToDepth" } else { "DepthToSpace" };
    let block = f.int("blocksize", 1);
    if f.str("mode", "DCR") == "DCR" {
        return f.b().op(opposite, &[f.dy], &[("blocksize", Attr::Int(block))]);
    }
    // Columns before rows of a block: `[n, c, h b, w b]` as `[n, c, h, b, w, b]`.
    let (x, side) = (f.x[0], f.b().ints(&[block]));
    let apart = f.y.shape_of_axes(&[0, 1]).concat(&[x.length(2), side, x.length(3), side], 0);
    f.dy.reshape_to(apart).transpose(&[0, 1, 3, 5, 2, 4]).reshape_like(x)
}

/// The same reversal.
pub(super) fn reverse<'g>(f: &Forward<'g>) -> Expr<'g> {
    with_attrs_of(f, &[Some(f.dy), f.x.get(1)], 1)[0]
}

/// `dX = dY` when nothing is dropped, else `mask ⊙ dY / (1 - ratio)`.
pub(super) fn dropout<'g>(f: &Forward<'g>) -> Expr<'g> {
    let training = f.x.get(2).is_some_and(|_| f.whole_numbers(2) != Some(vec![0]));
    match (training, f.ys.get(1)) {
        (false, _) => f.dy,
        (true, Some(mask)) => f.dy * mask.cast(f.dy.dtype()) / (1.0 - f.x.get(1).unwrap_or_else(|| f.dy.same_type(0.5)).cast(f.dy.dtype())),
        (true, None) => f.refuse("in training mode, and without its mask as an output"),
    }
}
