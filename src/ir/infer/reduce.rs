//! Reductions.

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, Shape};
use super::contents::{self, Small};
use super::question::{List, axes_at, axis_at};
use super::{Answer, Question, Rule};

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("ArgMax", arg),
    ("ArgMin", arg),
    ("ReduceL1", reduce),
    ("ReduceL2", reduce),
    ("ReduceLogSum", reduce),
    ("ReduceLogSumExp", reduce),
    ("ReduceMax", reduce),
    ("ReduceMean", reduce),
    ("ReduceMin", reduce),
    ("ReduceProd", reduce),
    ("ReduceSum", reduce),
    ("ReduceSumSquare", reduce),
];

/// The place of an extreme along one axis, int64.
fn arg(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(Some(DType::I64), None)]);
    };
    let axis = axis_at(q.int("axis", 0), dims.len())?;
    Ok(vec![Fact::new(DType::I64, without(dims, &[axis], q.int("keepdims", 1)))])
}

fn without(dims: &Shape, axes: &[usize], keep: i64) -> Shape {
    let gone = |axis: usize| axes.contains(&axis);
    match keep {
        0 => (0..dims.len()).filter(|&axis| !gone(axis)).map(|axis| dims[axis].clone()).collect(),
        _ => (0..dims.len()).map(|axis| if gone(axis) { Dim::known(1) } else { dims[axis].clone() }).collect(),
    }
}

/// Axes are an input since opset 13 for `ReduceSum`, 18 for the others; none are all, unless `noop_with_empty_axes` says otherwise.
fn reduce(q: &Question<'_>) -> Answer {
    let dtype = q.dtype(0);
    let keep = q.int("keepdims", 1);
    let Some(dims) = q.shape(0) else {
        let all = matches!(q.list("axes", 1), List::Absent) && keep == 0 && q.int("noop_with_empty_axes", 0) == 0;
        return Ok(vec![Fact::partial(dtype, all.then(Vec::new))]);
    };
    let axes = match q.list("axes", 1) {
        List::Known(axes) if !axes.is_empty() => axes_at(&axes, dims.len())?,
        List::Known(_) | List::Absent if q.int("noop_with_empty_axes", 0) != 0 => vec![],
        List::Known(_) | List::Absent => (0..dims.len()).collect(),
        List::Unknown(count) => return Ok(vec![Fact::partial(dtype, unknown_axes(q, dims, count, keep))]),
    };
    let shape = without(dims, &axes, keep);
    let contents = reduced(q, dims, &axes, &shape, keep);
    Ok(vec![Fact::partial(dtype, Some(shape)).with_contents(contents)])
}

fn unknown_axes(q: &Question<'_>, dims: &Shape, count: Option<usize>, keep: i64) -> Option<Shape> {
    match (keep, count) {
        (0, Some(count)) if count > 0 => Some(q.fresh_shape(0, dims.len().checked_sub(count)?)),
        (0, _) => None,
        // Length 1 stays 1 whether it is reduced or not.
        _ => {
            let one = |(axis, dim): (usize, &Dim)| if dim.as_known() == Some(1) { dim.clone() } else { q.fresh(0, axis) };
            Some(dims.iter().enumerate().map(one).collect())
        }
    }
}

/// The sums, products or extremes of elements that are followed.
fn reduced(q: &Question<'_>, dims: &Shape, axes: &[usize], shape: &Shape, keep: i64) -> Option<Vec<Dim>> {
    let join: fn(&Dim, &Dim) -> Dim = match q.op {
        "ReduceSum" => |a, b| a + b,
        "ReduceProd" => |a, b| a * b,
        "ReduceMax" => Dim::larger,
        "ReduceMin" => Dim::smaller,
        _ => return None,
    };
    let small = Small::of(q.fact(0)?)?;
    let inside: Vec<usize> = axes.iter().map(|&axis| small.shape[axis]).collect();
    let inside = contents::coordinates(&inside)?;
    let one = |at: &Vec<usize>| {
        let mut kept = at.iter();
        let base: Vec<usize> = (0..dims.len())
            .map(|axis| match (axes.contains(&axis), keep) {
                (true, 0) => Some(0),
                _ => kept.next().copied(),
            })
            .collect::<Option<_>>()?;
        let elements = inside.iter().map(|inner| {
            let mut from = base.clone();
            axes.iter().zip(inner).for_each(|(&axis, &c)| from[axis] = c);
            small.at(&from)
        });
        let all: Vec<Dim> = elements.collect::<Option<_>>()?;
        match (all.split_first(), q.op) {
            (Some((first, rest)), _) => Some(rest.iter().fold(first.clone(), |a, b| join(&a, b))),
            (None, "ReduceSum") => Some(Dim::known(0)),
            (None, "ReduceProd") => Some(Dim::known(1)),
            (None, _) => None,
        }
    };
    contents::coordinates(&contents::sizes(shape)?)?.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{row, row_at};
    use crate::ir::Attr;

    #[test]
    fn reductions() {
        let drop = [("keepdims", Attr::Int(0))];
        row("ReduceMean", &["float[b, s, 64]", "int64[1]{-1}"], &[], "float[b, s, 1]");
        row_at(17, "ReduceMean", &["float[b, s, 64]"], &[("axes", Attr::Ints(vec![-1])), ("keepdims", Attr::Int(0))], "float[b, s]");
        row("ReduceSum", &["float[b, s]"], &drop, "float");
        row("ReduceSum", &["float[b, s]"], &[("noop_with_empty_axes", Attr::Int(1))], "float[b, s]");
        row("ReduceSum", &["float[b, s, 1]", "int64[n]"], &[], "float[?y.0.0, ?y.0.1, 1]");
        row("ReduceSum", &["float[b, s]", "int64[1]"], &drop, "float[?y.0.0]");
        row("ReduceProd", &["int64[3]{b, s, 4}"], &drop, "int64{4*b*s}");
        row("ReduceMax", &["int64[2]{0, s}", "int64[1]{0}"], &[], "int64[1]{s}");
        row("ReduceSum", &["float[b]", "int64[1]{3}"], &[], "error: axis 3 of a value of rank 1");
        row("ArgMax", &["float[b, v]"], &[("axis", Attr::Int(-1)), ("keepdims", Attr::Int(0))], "int64[b]");
    }
}
