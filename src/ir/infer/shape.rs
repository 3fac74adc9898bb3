//! Operators that read shapes and give values new ones.

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, MAX_RANK, Shape};
use super::contents::{self, Small};
use super::question::{List, axes_at, length, number};
use super::{Answer, Question, Rule};
use crate::error::Refusal;

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("Expand", expand),
    ("Flatten", flatten),
    ("Reshape", reshape),
    ("Shape", shape),
    ("Size", size),
    ("Squeeze", squeeze),
    ("Tile", tile),
    ("Unsqueeze", unsqueeze),
];

/// The input's elements, type and a new shape.
fn reshaped(q: &Question<'_>, shape: Option<Shape>) -> Answer {
    let contents = shape.as_ref().and_then(|_| q.contents(0)).map(<[Dim]>::to_vec);
    Ok(vec![Fact::partial(q.dtype(0), shape).with_contents(contents)])
}

/// `Shape`, since opset 15 from `start` up to `end`; both are clamped.
fn shape(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::new(DType::I64, vec![q.fresh(0, 0)])]);
    };
    let rank = number(dims.len());
    let clamped = |at: i64| usize::try_from(if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank)).unwrap_or(0);
    let (start, end) = (clamped(q.int("start", 0)), clamped(q.int("end", rank)));
    let part = dims.get(start..end).unwrap_or_default().to_vec();
    Ok(vec![Fact::new(DType::I64, vec![length(part.len())]).with_contents(Some(part))])
}

fn size(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::new(DType::I64, vec![]).with_contents(q.shape(0).map(|dims| vec![Dim::product(dims)]))])
}

/// `Reshape`: the target is an attribute before opset 5.
fn reshape(q: &Question<'_>) -> Answer {
    let target = match q.ints("shape") {
        Some(lengths) => Some(lengths.iter().copied().map(Dim::known).collect()),
        None => q.contents(1).map(<[Dim]>::to_vec),
    };
    let Some(target) = target else {
        let rank = q.rank_told_by(1);
        return reshaped(q, rank.map(|rank| q.fresh_shape(0, rank)));
    };
    reshaped(q, Some(reshape_to(q, &target)?))
}

/// One length of a reshape's result.
enum Length {
    /// What it is.
    Told(Dim),
    /// What the number of elements leaves for it.
    Rest,
}

fn reshape_to(q: &Question<'_>, target: &[Dim]) -> Result<Shape, Refusal> {
    let copies = q.int("allowzero", 0) == 0;
    let mut lengths = Vec::with_capacity(target.len());
    for (axis, wanted) in target.iter().enumerate() {
        lengths.push(match (wanted.as_known(), q.shape(0)) {
            (Some(-1), _) => Length::Rest,
            (Some(0), Some(dims)) if copies => match dims.get(axis) {
                Some(dim) => Length::Told(dim.clone()),
                None => return Err(format!("length 0 at axis {axis} copies a length that {dims:?} does not have").into()),
            },
            (Some(0), None) if copies => Length::Told(q.fresh(0, axis)),
            (Some(n), _) if n < 0 => return Err(format!("length {n} at axis {axis} of the target {target:?}").into()),
            // May turn out to be -1.
            (None, _) if !wanted.is_length() => Length::Rest,
            _ => Length::Told(wanted.clone()),
        });
    }
    let told: Vec<&Dim> = lengths.iter().filter_map(|l| if let Length::Told(dim) = l { Some(dim) } else { None }).collect();
    let open = lengths.len() - told.len();
    let rest = match q.shape(0) {
        Some(dims) if open <= 1 => remaining(dims, &told, open, target)?,
        _ => None,
    };
    Ok(lengths
        .iter()
        .enumerate()
        .map(|(axis, length)| match length {
            Length::Told(dim) => dim.clone(),
            Length::Rest => rest.clone().unwrap_or_else(|| q.fresh(0, axis)),
        })
        .collect())
}

/// What the number of elements of `dims` leaves when `told` are taken out of it.
fn remaining(dims: &Shape, told: &[&Dim], open: usize, target: &[Dim]) -> Result<Option<Dim>, Refusal> {
    let (mut have, mut taken) = (dims.clone(), vec![]);
    // Lengths that stand on both sides fall out, so that less has to be divided.
    for &dim in told {
        match have.iter().position(|other| other == dim && other.as_known() != Some(0)) {
            Some(at) => drop(have.remove(at)),
            None => taken.push(dim.clone()),
        }
    }
    let (have, taken) = (Dim::product(&have), Dim::product(&taken));
    let impossible = || Err(format!("a value of shape {dims:?} cannot be reshaped to {target:?}").into());
    match (open, have.as_known(), taken.as_known()) {
        (0, ..) if have.surely_differs(&taken) => impossible(),
        (0, ..) | (_, _, Some(0)) => Ok(None),
        (_, Some(a), Some(b)) if a.checked_rem(b) != Some(0) => impossible(),
        _ => Ok(Some(have.floor_div(&taken))),
    }
}

fn flatten(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return reshaped(q, Some(q.fresh_shape(0, 2)));
    };
    let (axis, rank) = (q.int("axis", 1), number(dims.len()));
    let at = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&at| at <= dims.len());
    let Some(at) = at else { return Err(format!("axis {axis} of a value of rank {rank}").into()) };
    reshaped(q, Some(vec![Dim::product(&dims[..at]), Dim::product(&dims[at..])]))
}

/// `Squeeze`: axes are an input since opset 13. Without any, all axes of length 1 go, which must be known for certain.
fn squeeze(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else { return reshaped(q, None) };
    let axes = match q.list("axes", 1) {
        List::Known(axes) => axes_at(&axes, dims.len())?,
        List::Unknown(count) => {
            return reshaped(q, count.and_then(|n| dims.len().checked_sub(n)).map(|rank| q.fresh_shape(0, rank)));
        }
        List::Absent => {
            if dims.iter().any(|dim| dim.as_known().is_none()) {
                return reshaped(q, None);
            }
            (0..dims.len()).filter(|&axis| dims[axis].as_known() == Some(1)).collect()
        }
    };
    if let Some(axis) = axes.iter().find(|&&axis| dims[axis].surely_differs(&Dim::known(1))) {
        return Err(format!("axis {axis} to squeeze: expected length 1, found {} ({dims:?})", dims[*axis]).into());
    }
    reshaped(q, Some((0..dims.len()).filter(|axis| !axes.contains(axis)).map(|axis| dims[axis].clone()).collect()))
}

/// `Unsqueeze`: axes of the result; an input since opset 13.
fn unsqueeze(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else { return reshaped(q, None) };
    let axes = match q.list("axes", 1) {
        List::Known(axes) => axes,
        List::Unknown(count) => return reshaped(q, count.map(|n| q.fresh_shape(0, dims.len() + n))),
        List::Absent => return Err("no axes are given".into()),
    };
    let rank = dims.len() + axes.len();
    if rank > MAX_RANK {
        return reshaped(q, None);
    }
    let axes = axes_at(&axes, rank)?;
    let mut rest = dims.iter();
    let one_or_next = |axis| if axes.contains(&axis) { Some(Dim::known(1)) } else { rest.next().cloned() };
    let shape: Option<Shape> = (0..rank).map(one_or_next).collect();
    match shape {
        Some(shape) if rest.next().is_none() => reshaped(q, Some(shape)),
        _ => Err(format!("an axis is named twice in {axes:?}").into()),
    }
}

/// `Expand`: broadcasts with a shape that an input tells.
fn expand(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(q.dtype(0), None)]);
    };
    let Some(target) = q.contents(1) else {
        let wanted = q.rank_told_by(1);
        let shape = wanted.map(|wanted| expand_unknown(q, dims, wanted.max(dims.len())));
        return Ok(vec![Fact::partial(q.dtype(0), shape)]);
    };
    let rank = dims.len().max(target.len());
    let padded = |shape: &[Dim], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(Dim::known(1), |at| shape[at].clone());
    let mut shape = Vec::with_capacity(rank);
    for axis in 0..rank {
        let (have, want) = (padded(dims, axis), padded(target, axis));
        shape.push(match (have.as_known(), want.is_length()) {
            (Some(n), false) if n != 1 => have,
            (_, false) => q.fresh(0, axis),
            _ => super::super::fact::broadcast(&[have], &[want])?.remove(0),
        });
    }
    let sizes = contents::sizes(&shape);
    let small = q.fact(0).and_then(Small::of);
    let contents = small.zip(sizes).and_then(|(small, sizes)| {
        small.pick(&sizes, |at| {
            let own = &at[at.len() - small.shape.len()..];
            Some(own.iter().zip(&small.shape).map(|(&c, &n)| if n == 1 { 0 } else { c }).collect())
        })
    });
    Ok(vec![Fact::partial(q.dtype(0), Some(shape)).with_contents(contents)])
}

/// Lengths that are known and not 1 stay as they are.
fn expand_unknown(q: &Question<'_>, dims: &Shape, rank: usize) -> Shape {
    let have = |axis: usize| (axis + dims.len()).checked_sub(rank).map(|at| dims[at].clone());
    let one = |axis| have(axis).filter(|dim| dim.as_known().is_some_and(|n| n != 1)).unwrap_or_else(|| q.fresh(0, axis));
    (0..rank).map(one).collect()
}

fn tile(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(q.dtype(0), None)]);
    };
    // Before opset 6 the second input was one number of tiles, for the axis in the third.
    let repeats = q.contents(1).filter(|_| !q.given(2));
    let Some(repeats) = repeats else {
        return Ok(vec![Fact::partial(q.dtype(0), Some(q.fresh_shape(0, dims.len())))]);
    };
    if repeats.len() != dims.len() {
        return Err(format!("repeats: expected {} numbers, found {}", dims.len(), repeats.len()).into());
    }
    let times = |(axis, (dim, n)): (usize, (&Dim, &Dim))| if n.is_length() { dim * n } else { q.fresh(0, axis) };
    let shape: Shape = dims.iter().zip(repeats).enumerate().map(times).collect();
    let small = q.fact(0).and_then(Small::of);
    let contents = small
        .zip(contents::sizes(&shape))
        .and_then(|(small, sizes)| small.pick(&sizes, |at| Some(at.iter().zip(&small.shape).map(|(c, n)| c % n).collect())));
    Ok(vec![Fact::partial(q.dtype(0), Some(shape)).with_contents(contents)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{row, row_at};
    use crate::ir::Attr;

    #[test]
    fn shapes_become_contents() {
        row("Shape", &["float[batch, seq, 64]"], &[], "int64[3]{batch, seq, 64}");
        row("Shape", &["float[batch, seq, 64]"], &[("start", Attr::Int(-2))], "int64[2]{seq, 64}");
        row("Shape", &["float[batch, seq, 64]"], &[("start", Attr::Int(1)), ("end", Attr::Int(-1))], "int64[1]{seq}");
        row("Shape", &["float[batch]"], &[("start", Attr::Int(9))], "int64[0]{}");
        row("Shape", &["float[...]"], &[], "int64[?y.0.0]");
        row("Size", &["float[batch, 4]"], &[], "int64{4*batch}");
    }

    #[test]
    fn reshape_solves_for_one_length() {
        row("Reshape", &["float[batch*seq, 576]", "int64[3]{batch, seq, -1}"], &[], "float[batch, seq, 576]");
        row("Reshape", &["float[batch, seq, 576]", "int64[4]{0, 0, 9, -1}"], &[], "float[batch, seq, 9, 64]");
        row("Reshape", &["float[batch, seq, 9, 64]", "int64[4]{-1, 1, seq, 64}"], &[], "float[9*batch, 1, seq, 64]");
        row("Reshape", &["float[batch, past + seq, 8]", "int64[2]{batch*past + batch*seq, -1}"], &[], "float[batch*past + batch*seq, 8]");
        row("Reshape", &["float[batch, seq]", "int64[1]{-1}"], &[], "float[batch*seq]");
        row("Reshape", &["float[6]", "int64[0]{}"], &[], "error: a value of shape [6] cannot be reshaped to []");
        row("Reshape", &["float[7]", "int64[2]{2, -1}"], &[], "error: a value of shape [7] cannot be reshaped to [2, -1]");
        row("Reshape", &["float[2]", "int64[2]{2, 0}"], &[], "error: length 0 at axis 1 copies a length that [2] does not have");
    }

    #[test]
    fn reshape_of_what_is_not_known() {
        row("Reshape", &["float[batch, 12]", "int64[3]"], &[], "float[?y.0.0, ?y.0.1, ?y.0.2]");
        row("Reshape", &["float[batch, 12]", "int64[n]"], &[], "float[...]");
        row("Reshape", &["float[...]", "int64[3]{0, -1, 4}"], &[], "float[?y.0.0, ?y.0.1, 4]");
        row("Reshape", &["float[batch, 12]", "int64[2]{#n, 3}"], &[], "float[4*batch, 3]");
        row("Reshape", &["float[batch, 12]", "int64[2]{#n, -1}"], &[], "float[?y.0.0, ?y.0.1]");
        row("Reshape", &["float[batch, 12]", "int64[2]{0, 7}"], &[("allowzero", Attr::Int(1))], "float[0, 7]");
        row_at(4, "Reshape", &["float[batch, 12]"], &[("shape", Attr::Ints(vec![0, 3, -1]))], "float[batch, 3, 4]");
    }

    #[test]
    fn axes_of_length_one_come_and_go() {
        row("Unsqueeze", &["int64{batch}", "int64[1]{0}"], &[], "int64[1]{batch}");
        row("Unsqueeze", &["float[a, b]", "int64[2]{0, -1}"], &[], "float[1, a, b, 1]");
        row("Unsqueeze", &["float[a]", "int64[2]{0, 0}"], &[], "error: an axis is named twice in [0, 0]");
        row_at(11, "Unsqueeze", &["float[a]"], &[("axes", Attr::Ints(vec![1]))], "float[a, 1]");
        row("Squeeze", &["float[1, a, 1]", "int64[1]{-1}"], &[], "float[1, a]");
        row("Squeeze", &["float[1, 2, 1]"], &[], "float[2]");
        row("Squeeze", &["float[1, a, 1]"], &[], "float[...]");
        row("Squeeze", &["float[3]", "int64[1]{0}"], &[], "error: axis 0 to squeeze: expected length 1, found 3 ([3])");
        row("Flatten", &["float[a, 2, 3]"], &[], "float[a, 6]");
        row("Flatten", &["float[a, 2, 3]"], &[("axis", Attr::Int(-1))], "float[2*a, 3]");
    }

    #[test]
    fn ranks_beyond_reason_are_unknown() {
        for count in ["33", "1125899906842624", "9223372036854775807"] {
            let list = format!("int64[{count}]");
            row("Reshape", &["float[a, b]", &list], &[], "float[...]");
            row("Unsqueeze", &["float[a, b]", &list], &[], "float[...]");
            row("Squeeze", &["float[a, b]", &list], &[], "float[...]");
            row("Expand", &["float[a, b]", &list], &[], "float[...]");
            row("ConstantOfShape", &[&list], &[], "float[...]");
        }
        row_at(11, "Unsqueeze", &["float[a]"], &[("axes", Attr::Ints((0..1 << 20).collect()))], "float[...]");
    }

    #[test]
    fn stretching() {
        row("Expand", &["float[1, 4]", "int64[3]{batch, seq, 1}"], &[], "float[batch, seq, 4]");
        row("Expand", &["int64[1]{7}", "int64[1]{3}"], &[], "int64[3]{7, 7, 7}");
        row("Expand", &["float[1, 4]", "int64[3]"], &[], "float[?y.0.0, ?y.0.1, 4]");
        row("Tile", &["int64[2]{a, b}", "int64[1]{2}"], &[], "int64[4]{a, b, a, b}");
        row("Tile", &["float[a, 2]", "int64[2]{n, 3}"], &[], "float[a*n, 6]");
    }
}
