//! Reading and writing by index.

use super::again::{inverse_of, with_attrs_of};
use crate::grad::Forward;
use crate::ir::{Attr, DType, Expr};
use crate::num;

/// The place of each element of `x` in row-major order, in the shape of `x`.
pub(super) fn places(x: Expr<'_>) -> Expr<'_> {
    x.size().range_from(x.b().int(0)).reshape_like(x)
}

/// Adds each element of `dy` to the place of `x` that `places`, of as many elements, names.
pub(super) fn add_at<'g>(x: Expr<'g>, places: Expr<'g>, dy: Expr<'g>) -> Expr<'g> {
    let zeros = x.size().reshape(&[1]).filled(0.0, dy.dtype());
    zeros.scatter_nd_add(places.reshape(&[-1, 1]), dy.reshape(&[-1])).reshape_like(x)
}

/// Adds each part of `dY` to the part of `data` that it was read from.
///
/// Along the first axis these are rows of `ScatterND`; along another, that axis is brought to the front and back. A single index
/// that is known needs no more than zeros around.
pub(super) fn gather<'g>(f: &Forward<'g>) -> Expr<'g> {
    let (data, indices, axis) = (f.x[0], f.x[1], f.axis(0));
    if let (Some([index]), 0) = (f.whole_numbers(1).as_deref(), indices.rank()) {
        return between_zeros(data, f.dy.unsqueeze(&[axis]), axis, *index);
    }
    let (read, rank) = (num::int(indices.rank()), f.rank());
    let dy_to_front: Vec<i64> = (axis..axis + read).chain(0..axis).chain(axis + read..rank - 1 + read).collect();
    let data_to_front: Vec<i64> = std::iter::once(axis).chain(0..axis).chain(axis + 1..rank).collect();
    let shape = data.shape_of_axes(&data_to_front);
    let rows = shape.filled(0.0, f.dy.dtype()).scatter_nd_add(indices.unsqueeze(&[-1]), f.dy.transpose(&dy_to_front));
    rows.transpose(&inverse_of(&data_to_front))
}

/// `part`, of length 1 along `axis`, at `index` of an axis as long as that of `whole`, zeros around it.
fn between_zeros<'g>(whole: Expr<'g>, part: Expr<'g>, axis: i64, index: i64) -> Expr<'g> {
    let b = whole.b();
    let pads = if let Some(length) = whole.dim(axis).as_known() {
        let before = if index < 0 { index + length } else { index };
        b.ints(&[before, length - 1 - before])
    } else {
        let near = b.ints(&[if index < 0 { -1 - index } else { index }]);
        let far = whole.length(axis) - b.ints(&[1]) - near;
        if index < 0 { far.concat(&[near], 0) } else { near.concat(&[far], 0) }
    };
    part.pad_at(pads, &[axis])
}

/// Adds each element of `dY` to the element of `data` that it was read from.
pub(super) fn gather_elements<'g>(f: &Forward<'g>) -> Expr<'g> {
    f.x[0].zeros_like().scatter_elements_add(f.x[1], f.dy, f.int("axis", 0))
}

/// Adds each part of `dY` to the part of `input` that was kept.
pub(super) fn compress<'g>(f: &Forward<'g>) -> Expr<'g> {
    add_at(f.x[0], with_attrs_of(f, &[Some(places(f.x[0])), f.x.get(1)], 1)[0], f.dy)
}

/// Adds each part of `dY` to the part of `data` that it was read from; with batch axes, element by element.
pub(super) fn gather_nd<'g>(f: &Forward<'g>) -> Expr<'g> {
    let (data, indices) = (f.x[0], f.x[1]);
    match f.int("batch_dims", 0) {
        0 => data.zeros_like().scatter_nd_add(indices, f.dy),
        batch => add_at(data, f.b().op("GatherND", &[places(data), indices], &[("batch_dims", Attr::Int(batch))]), f.dy),
    }
}

/// `ddata = dY`, with zeros where elements were replaced.
pub(super) fn scatter_data<'g>(f: &Forward<'g>) -> Expr<'g> {
    let nothing = f.x[2].zeros_like();
    match (f.str("reduction", "none"), f.op()) {
        ("add", _) => f.dy,
        ("none", "ScatterND") => f.b().op("ScatterND", &[f.dy, f.x[1], nothing], &[]),
        ("none", _) => f.b().op("ScatterElements", &[f.dy, f.x[1], nothing], &[("axis", Attr::Int(f.int("axis", 0)))]),
        (other, _) => f.refuse(format!("reduction = {other:?}")),
    }
}

/// `dupdates` is what stands in `dY` where they went. (Two updates of one place, without a reduction, have no order in ONNX.)
pub(super) fn scatter_updates<'g>(f: &Forward<'g>) -> Expr<'g> {
    match (f.str("reduction", "none"), f.op()) {
        ("add" | "none", "ScatterND") => f.b().op("GatherND", &[f.dy, f.x[1]], &[]),
        ("add" | "none", _) => f.dy.gather_elements(f.x[1], f.int("axis", 0)),
        (other, _) => f.refuse(format!("reduction = {other:?}")),
    }
}

/// Adds each element of `dY` to the element it was chosen from.
pub(super) fn top_k<'g>(f: &Forward<'g>) -> Expr<'g> {
    f.x[0].zeros_like().scatter_elements_add(f.ys[1], f.dy, f.int("axis", -1))
}

/// Zeros around `dY`, in place of what was cut off. With steps, each element goes back to its place.
pub(super) fn slice<'g>(f: &Forward<'g>) -> Expr<'g> {
    let x = f.x[0];
    let steps = f.x.get(4).map(|_| f.whole_numbers(4));
    if !steps.is_none_or(|steps| steps.is_some_and(|steps| steps.iter().all(|&step| step == 1))) {
        let inputs: Vec<_> = std::iter::once(Some(places(x))).chain((1..=4).map(|i| f.x.get(i))).collect();
        return add_at(x, f.b().op_n("Slice", &inputs, &[], 1)[0], f.dy);
    }
    let axes = match (f.x.get(3), f.whole_numbers(3), f.x[1].dim(0).as_known()) {
        (Some(_), Some(axes), _) => axes,
        (None, _, Some(count)) => (0..count).collect(),
        _ => {
            f.refuse("its axes are computed by the graph");
            return x;
        }
    };
    let axes: Vec<i64> = axes.into_iter().map(|axis| f.from_first(axis)).collect();
    f.dy.pad_at(known_pads(f, &axes).unwrap_or_else(|| computed_pads(f, &axes)), &axes)
}

/// What a `Slice` cuts off before and after, where facts tell.
fn known_pads<'g>(f: &Forward<'g>, axes: &[i64]) -> Option<Expr<'g>> {
    let starts = f.whole_numbers(1)?;
    let (mut before, mut after) = (vec![], vec![]);
    for (&axis, &start) in axes.iter().zip(&starts) {
        let (length, left) = (f.x[0].dim(axis), f.y.dim(axis));
        let first = match length.as_known() {
            Some(length) => (if start < 0 { start + length } else { start }).clamp(0, length),
            // Lengths that were inferred already hold the cut.
            None if start >= 0 => start,
            None => return None,
        };
        before.push(first);
        after.push((&(&length - &left) - &first.into()).as_known().filter(|&n| n >= 0)?);
    }
    Some(f.b().ints(&[before, after].concat()))
}

/// The same, computed by the graph.
fn computed_pads<'g>(f: &Forward<'g>, axes: &[i64]) -> Expr<'g> {
    let b = f.b();
    let (lengths, left) = (f.x[0].shape_of_axes(axes), f.y.shape_of_axes(axes));
    let starts = f.x[1].cast(DType::I64);
    let zero = b.ints(&[0]);
    let before = starts.less(zero).where_(starts + lengths, starts).max(zero).min(lengths);
    before.concat(&[lengths - before - left], 0)
}
