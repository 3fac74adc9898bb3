//! Operators that read and write by index, and those whose results' lengths depend on the data.

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, Shape};
use super::contents::{self, Small};
use super::elementwise::first;
use super::question::{axis_at, length};
use super::{Answer, Question, Rule};

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("Compress", compress),
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("NonMaxSuppression", non_max_suppression),
    ("NonZero", non_zero),
    ("OneHot", one_hot),
    ("Scatter", first),
    ("ScatterElements", first),
    ("ScatterND", first),
    ("TensorScatter", first),
    ("TopK", top_k),
    ("Unique", unique),
];

fn gather(q: &Question<'_>) -> Answer {
    let dtype = q.dtype(0);
    let (Some(dims), Some(indices)) = (q.shape(0), q.shape(1)) else {
        return Ok(vec![Fact::partial(dtype, None)]);
    };
    let axis = axis_at(q.int("axis", 0), dims.len())?;
    let shape = [&dims[..axis], indices, &dims[axis + 1..]].concat();
    let contents = gathered(q, &shape, axis);
    Ok(vec![Fact::partial(dtype, Some(shape)).with_contents(contents)])
}

/// The elements that known indices pick.
fn gathered(q: &Question<'_>, shape: &Shape, axis: usize) -> Option<Vec<Dim>> {
    let (data, indices) = (Small::of(q.fact(0)?)?, Small::of(q.fact(1)?)?);
    let middle = indices.shape.len();
    data.pick(&contents::sizes(shape)?, |at| {
        let index = indices.at(&at[axis..axis + middle])?.as_known()?;
        let index = axis_at(index, data.shape[axis]).ok()?;
        Some([&at[..axis], &[index], &at[axis + middle..]].concat())
    })
}

/// The shape of the indices.
fn gather_elements(q: &Question<'_>) -> Answer {
    if let Some(rank) = q.rank(0).or(q.rank(1)) {
        axis_at(q.int("axis", 0), rank)?;
    }
    match (q.rank(0), q.rank(1)) {
        (Some(data), Some(indices)) if data != indices => {
            return Err(format!("rank of the indices: expected {data}, found {indices}").into());
        }
        _ => {}
    }
    let shape = q.shape(1).cloned().or_else(|| q.rank(0).map(|rank| q.fresh_shape(0, rank)));
    Ok(vec![Fact::partial(q.dtype(0), shape)])
}

/// `indices.shape[..-1]`, then what the last axis of the indices leaves of the data's shape.
fn gather_nd(q: &Question<'_>) -> Answer {
    let unknown = Ok(vec![Fact::partial(q.dtype(0), None)]);
    let (Some(dims), Some((depth, places))) = (q.shape(0), q.shape(1).and_then(|shape| shape.split_last())) else {
        return unknown;
    };
    let batch = q.count("batch_dims", 0)?;
    let Some(depth) = depth.as_known().and_then(|n| usize::try_from(n).ok()) else { return unknown };
    match dims.get(batch + depth..) {
        Some(rest) => Ok(vec![Fact::partial(q.dtype(0), Some([places, rest].concat()))]),
        None => Err(format!("indices of {depth} axes after {batch} of a value of rank {}", dims.len()).into()),
    }
}

/// `[rank, count]`; a scalar counts as a vector.
fn non_zero(q: &Question<'_>) -> Answer {
    let rank = q.rank(0).map_or_else(|| q.fresh(0, 0), |rank| length(rank.max(1)));
    Ok(vec![Fact::new(DType::I64, vec![rank, q.fresh(0, 1)])])
}

/// The depth is a scalar, or a vector of one element in older graphs.
fn one_hot(q: &Question<'_>) -> Answer {
    let Some(indices) = q.shape(0) else {
        return Ok(vec![Fact::partial(q.dtype(2), None)]);
    };
    let axis = axis_at(q.int("axis", -1), indices.len() + 1)?;
    let mut shape = indices.clone();
    let depth = q.element(1).filter(|n| n.is_length()).cloned();
    shape.insert(axis, depth.unwrap_or_else(|| q.fresh(0, axis)));
    Ok(vec![Fact::partial(q.dtype(2), Some(shape))])
}

/// `k` is an attribute before opset 10.
fn top_k(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(q.dtype(0), None), Fact::partial(Some(DType::I64), None)]);
    };
    let axis = axis_at(q.int("axis", -1), dims.len())?;
    let mut shape = dims.clone();
    let k = q.attr_int("k").map(Dim::known).or_else(|| q.element(1).filter(|n| n.is_length()).cloned());
    shape[axis] = k.unwrap_or_else(|| q.fresh(0, axis));
    Ok(vec![Fact::partial(q.dtype(0), Some(shape.clone())), Fact::new(DType::I64, shape)])
}

/// Without an axis the input counts as a vector.
fn unique(q: &Question<'_>) -> Answer {
    let count = q.fresh(0, 0);
    let values = match (q.attr_int("axis"), q.shape(0)) {
        (None, _) => Some(vec![count.clone()]),
        (Some(_), None) => None,
        (Some(axis), Some(dims)) => {
            let mut shape = dims.clone();
            shape[axis_at(axis, dims.len())?] = count.clone();
            Some(shape)
        }
    };
    let all = match (q.attr_int("axis"), q.shape(0)) {
        (None, Some(dims)) => Dim::product(dims),
        (Some(axis), Some(_)) => q.dim(0, axis).unwrap_or_else(|| q.fresh(2, 0)),
        _ => q.fresh(2, 0),
    };
    let places = |n: &Dim| Fact::new(DType::I64, vec![n.clone()]);
    Ok(vec![Fact::partial(q.dtype(0), values), places(&count), places(&all), places(&count)])
}

fn compress(q: &Question<'_>) -> Answer {
    let shape = match (q.attr_int("axis"), q.shape(0)) {
        (None, _) => Some(vec![q.fresh(0, 0)]),
        (Some(_), None) => None,
        (Some(axis), Some(dims)) => {
            let at = axis_at(axis, dims.len())?;
            let mut shape = dims.clone();
            shape[at] = q.fresh(0, at);
            Some(shape)
        }
    };
    Ok(vec![Fact::partial(q.dtype(0), shape)])
}

/// `[selected, 3]`
fn non_max_suppression(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::new(DType::I64, vec![q.fresh(0, 0), Dim::known(3)])])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{row, row_at};
    use crate::ir::Attr;

    #[test]
    fn gathering() {
        row("Gather", &["int64[3]{batch, seq, 4}", "int64{1}"], &[], "int64{seq}");
        row("Gather", &["int64[3]{batch, seq, 4}", "int64[2]{-1, 0}"], &[], "int64[2]{4, batch}");
        row("Gather", &["float[1000, 64]", "int64[batch, seq]"], &[], "float[batch, seq, 64]");
        row("Gather", &["float[batch, seq, 64]", "int64"], &[("axis", Attr::Int(1))], "float[batch, 64]");
        row("Gather", &["float[4]", "int64"], &[("axis", Attr::Int(1))], "error: axis 1 of a value of rank 1");
        row("GatherElements", &["float[b, v]", "int64[b, 1]"], &[("axis", Attr::Int(-1))], "float[b, 1]");
        row("GatherND", &["float[b, s, 64]", "int64[n, 2]"], &[], "float[n, 64]");
        row("GatherND", &["float[b, s, 64]", "int64[b, n, 1]"], &[("batch_dims", Attr::Int(1))], "float[b, n, 64]");
        row("ScatterND", &["float[a, b]", "int64[n, 1]", "float[n, b]"], &[], "float[a, b]");
    }

    #[test]
    fn lengths_that_depend_on_data() {
        row("NonZero", &["bool[a, b]"], &[], "int64[2, ?y.0.1]");
        row("TopK", &["float[b, v]", "int64[1]{5}"], &[], "float[b, 5] int64[b, 5]");
        row_at(9, "TopK", &["float[b, v]"], &[("k", Attr::Int(2))], "float[b, 2] int64[b, 2]");
        row("OneHot", &["int64[b]", "int64{10}", "float[2]"], &[], "float[b, 10]");
        row("Unique", &["int64[b, s]"], &[], "int64[?y.0.0] int64[?y.0.0] int64[b*s] int64[?y.0.0]");
        row("Compress", &["float[a, b]", "bool[a]"], &[("axis", Attr::Int(0))], "float[?y.0.0, b]");
    }
}
