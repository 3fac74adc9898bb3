//! Operators that join values, cut them and pad them.

use super::super::dim::Dim;
use super::super::fact::{Fact, Shape};
use super::contents::{self, Small};
use super::elementwise::same_dtype;
use super::question::{List, axes_at, axis_at, length, number};
use super::{Answer, Question, Rule};
use crate::error::Refusal;

pub(super) static TABLE: &[(&str, Rule)] =
    &[("CenterCropPad", center_crop_pad), ("Concat", concat), ("Pad", pad), ("Slice", slice), ("Split", split)];

fn concat(q: &Question<'_>) -> Answer {
    let inputs: Vec<&Fact> = q.inputs.iter().flatten().map(|(fact, _)| *fact).collect();
    let dtype = inputs.iter().try_fold(None, |dtype, fact| same_dtype(dtype, fact.dtype))?;
    let Some(rank) = inputs.iter().find_map(|fact| fact.rank()) else {
        return Ok(vec![Fact::partial(dtype, None)]);
    };
    // The attribute has the default 1 only before opset 4.
    let axis = axis_at(q.int("axis", 1), rank)?;
    let mut shape: Shape = (0..rank).map(|i| joined_length(q, &inputs, i, axis)).collect();
    for fact in &inputs {
        let Some(dims) = &fact.shape else { continue };
        if dims.len() != rank {
            return Err(format!("ranks to join: expected {rank}, found {} ({dims:?})", dims.len()).into());
        }
        for i in (0..rank).filter(|&i| i != axis) {
            if dims[i].surely_differs(&shape[i]) {
                return Err(format!("length of axis {i} to join: expected {}, found {} ({dims:?})", shape[i], dims[i]).into());
            }
            if shape[i].as_known().is_none() && dims[i].as_known().is_some() {
                shape[i] = dims[i].clone();
            }
        }
    }
    let contents = joined_contents(q, &inputs, &shape, axis);
    Ok(vec![Fact::partial(dtype, Some(shape)).with_contents(contents)])
}

fn joined_length(q: &Question<'_>, inputs: &[&Fact], at: usize, axis: usize) -> Dim {
    let lengths = || inputs.iter().map(|fact| fact.shape.as_ref().and_then(|dims| dims.get(at)));
    if at == axis {
        let sum = lengths().try_fold(Dim::known(0), |sum, dim| Some(&sum + dim?));
        return sum.unwrap_or_else(|| q.fresh(0, at));
    }
    lengths().flatten().next().cloned().unwrap_or_else(|| q.fresh(0, at))
}

/// The elements of all inputs; those of vectors that are not followed get fresh names.
fn joined_contents(q: &Question<'_>, inputs: &[&Fact], shape: &Shape, axis: usize) -> Option<Vec<Dim>> {
    if inputs.iter().all(|fact| fact.contents.is_none()) {
        return None;
    }
    let mut parts = Vec::with_capacity(inputs.len());
    let mut named = 0;
    for fact in inputs {
        parts.push(match (Small::of(fact), contents::sizes(fact.shape.as_ref()?)?.as_slice()) {
            (Some(small), _) => small,
            (None, &[count]) if count <= 16 => {
                let elements = (named..named + count).map(|i| q.fresh_element(0, i)).collect();
                named += count;
                Small { shape: vec![count], elements }
            }
            _ => return None,
        });
    }
    let from = |at: &Vec<usize>| {
        let mut at = at.clone();
        for part in &parts {
            if at[axis] < part.shape[axis] {
                return part.at(&at);
            }
            at[axis] -= part.shape[axis];
        }
        None
    };
    contents::coordinates(&contents::sizes(shape)?)?.iter().map(from).collect()
}

/// `Split`: lengths are an attribute before opset 13, else an input; since opset 18 `num_outputs` may stand for them.
fn split(q: &Question<'_>) -> Answer {
    let dtype = q.dtype(0);
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(dtype, None); q.outputs]);
    };
    let axis = axis_at(q.int("axis", 0), dims.len())?;
    let lengths = match q.list("split", 1) {
        List::Known(lengths) => lengths.into_iter().map(Dim::known).collect(),
        List::Unknown(_) => match q.contents(1) {
            Some(lengths) => lengths.to_vec(),
            None => (0..q.outputs).map(|i| q.fresh(i, axis)).collect(),
        },
        List::Absent => equal_lengths(q, &dims[axis], axis),
    };
    if lengths.len() < q.outputs {
        return Err(format!("lengths of parts: expected {}, found {}", q.outputs, lengths.len()).into());
    }
    let sum = lengths.iter().fold(Dim::known(0), |sum, dim| &sum + dim);
    if sum.surely_differs(&dims[axis]) && q.list("split", 1).is_known() {
        return Err(format!("sum of the parts of axis {axis}: expected {}, found {sum}", dims[axis]).into());
    }
    let mut start = Dim::known(0);
    let mut facts = Vec::with_capacity(q.outputs);
    for (i, part) in lengths.iter().take(q.outputs).enumerate() {
        let part = if part.is_length() { part.clone() } else { q.fresh(i, axis) };
        let shape: Shape = dims.iter().enumerate().map(|(at, dim)| if at == axis { part.clone() } else { dim.clone() }).collect();
        let contents = start.as_known().and_then(|start| cut(q.fact(0)?, &shape, axis, start, 1));
        start = &start + &part;
        facts.push(Fact::partial(dtype, Some(shape)).with_contents(contents));
    }
    Ok(facts)
}

/// Parts of equal length, the last one smaller where they cannot be (opset 18): those that are outputs.
fn equal_lengths(q: &Question<'_>, whole: &Dim, axis: usize) -> Vec<Dim> {
    let count = usize::try_from(q.int("num_outputs", number(q.outputs))).unwrap_or(q.outputs).max(1);
    let (n, shown) = (length(count), count.min(q.outputs));
    if let Some(part) = whole.exact_div(&n) {
        return vec![part; shown];
    }
    match whole.as_known() {
        Some(whole) => {
            let part = whole / number(count) + i64::from(whole % number(count) != 0);
            let length_of = |i: i64| Dim::known(whole.saturating_sub(part.saturating_mul(i)).clamp(0, part.max(0)));
            (0..number(shown)).map(length_of).collect()
        }
        None => (0..shown).map(|i| q.fresh(i, axis)).collect(),
    }
}

/// The elements of a part of `axis` that starts at `start`.
fn cut(fact: &Fact, shape: &Shape, axis: usize, start: i64, step: i64) -> Option<Vec<Dim>> {
    let small = Small::of(fact)?;
    small.pick(&contents::sizes(shape)?, |at| {
        let mut from = at.to_vec();
        from[axis] = usize::try_from(number(at[axis]).checked_mul(step)?.checked_add(start)?).ok()?;
        Some(from)
    })
}

/// One axis of a `Slice`.
struct Cut {
    axis: usize,
    start: Option<Dim>,
    end: Option<Dim>,
    step: Option<i64>,
}

/// `Slice`: everything is an input since opset 10, an attribute before.
fn slice(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(q.dtype(0), None)]);
    };
    let Some(cuts) = cuts(q, dims.len())? else {
        return Ok(vec![Fact::partial(q.dtype(0), Some(q.fresh_shape(0, dims.len())))]);
    };
    let mut fact = Fact::partial(q.dtype(0), Some(dims.clone())).with_contents(q.contents(0).map(<[Dim]>::to_vec));
    for cut_at in &cuts {
        let mut shape = fact.shape.clone().unwrap_or_default();
        let whole = &shape[cut_at.axis];
        let (part, start) = cut_length(q, cut_at, whole);
        shape[cut_at.axis] = part;
        let contents = start.zip(cut_at.step).and_then(|(start, step)| cut(&fact, &shape, cut_at.axis, start, step));
        fact = Fact::partial(fact.dtype, Some(shape)).with_contents(contents);
    }
    Ok(vec![fact])
}

fn cuts(q: &Question<'_>, rank: usize) -> Result<Option<Vec<Cut>>, Refusal> {
    let bounds = |name: &str, input: usize| match q.ints(name) {
        Some(values) => Some(values.iter().map(|&n| Some(Dim::known(n))).collect::<Vec<_>>()),
        None => q.contents(input).map(|elements| elements.iter().cloned().map(Some).collect()),
    };
    let count = match (bounds("starts", 1), bounds("ends", 2), q.list("axes", 3)) {
        (Some(all), ..) | (_, Some(all), _) => all.len(),
        (.., List::Known(axes)) => axes.len(),
        _ => match q.list("starts", 1) {
            List::Unknown(Some(count)) => count,
            _ => return Ok(None),
        },
    };
    let starts = bounds("starts", 1).unwrap_or_else(|| vec![None; count]);
    let ends = bounds("ends", 2).unwrap_or_else(|| vec![None; count]);
    let axes = match q.list("axes", 3) {
        List::Known(axes) => axes_at(&axes, rank)?,
        List::Absent if count <= rank => (0..count).collect(),
        List::Absent => return Err(format!("{count} axes to slice of a value of rank {rank}").into()),
        List::Unknown(_) => return Ok(None),
    };
    let steps = match q.list("steps", 4) {
        List::Known(steps) => steps.into_iter().map(Some).collect(),
        List::Absent => vec![Some(1); count],
        List::Unknown(_) => vec![None; count],
    };
    if [starts.len(), ends.len(), axes.len(), steps.len()].iter().any(|&n| n != count) {
        return Err(format!(
            "starts, ends, axes and steps: expected as many of each, found {}, {}, {}, {}",
            starts.len(),
            ends.len(),
            axes.len(),
            steps.len()
        )
        .into());
    }
    let all = starts.into_iter().zip(ends).zip(axes).zip(steps);
    Ok(Some(all.map(|(((start, end), axis), step)| Cut { axis, start, end, step }).collect()))
}

/// The length of the part, and where it starts if that is a known number.
fn cut_length(q: &Question<'_>, cut: &Cut, whole: &Dim) -> (Dim, Option<i64>) {
    let unknown = || (q.fresh(0, cut.axis), None);
    let (Some(start), Some(end), Some(step)) = (&cut.start, &cut.end, cut.step) else { return unknown() };
    match (step, start.as_known(), end.as_known(), whole.as_known()) {
        (0, ..) => unknown(),
        (_, Some(start), Some(end), Some(whole)) => known_length(start, end, step, whole),
        (1, ..) => {
            let part = part_length(start, end, whole);
            let start = start.as_known().filter(|&n| n >= 0);
            part.map_or_else(unknown, |part| (part, start))
        }
        (-1, Some(-1), Some(end), None) if end <= -i64::MAX => (whole.clone(), None),
        (2.., Some(0), Some(i64::MAX), None) => ((whole + &Dim::known(step - 1)).floor_div(&Dim::known(step)), None),
        _ => unknown(),
    }
}

fn known_length(start: i64, end: i64, step: i64, whole: i64) -> (Dim, Option<i64>) {
    if whole == 0 {
        return (Dim::known(0), None);
    }
    let (low, high) = if step > 0 { (0, whole) } else { (-1, whole - 1) };
    let place = |at: i64| if at < 0 { at.saturating_add(whole).max(low) } else { at.min(high) };
    let (start, end) = (place(start).max(0), place(end));
    let span = if step > 0 { end - start } else { start - end }.max(0);
    let step = step.checked_abs().unwrap_or(i64::MAX);
    (Dim::known(span / step + i64::from(span % step != 0)), Some(start))
}

/// The length of `start..end` of an axis of length `whole`, some of which are symbolic. `None` where the sign of a bound is unknown.
fn part_length(start: &Dim, end: &Dim, whole: &Dim) -> Option<Dim> {
    let zero = Dim::known(0);
    let from_the_last = start.as_known().filter(|&n| n < 0);
    let start = from_front(start, whole)?;
    let to_the_last = end.as_known().is_some_and(|n| n >= i64::from(i32::MAX)) || whole.surely_at_most(end);
    let behind = (whole - &start).larger(&zero);
    if to_the_last {
        return Some(from_the_last.map_or(behind, |n| Dim::known(n.saturating_neg()).smaller(whole)));
    }
    let end = from_front(end, whole)?;
    if end.surely_at_most(whole) {
        return Some((&end - &start).larger(&zero));
    }
    Some((&end - &start).larger(&zero).smaller(&behind))
}

/// A bound as a distance from the front, where its sign is certain.
fn from_front(bound: &Dim, whole: &Dim) -> Option<Dim> {
    if bound.surely_not_negative() {
        return Some(bound.clone());
    }
    // At least the whole length from the back; also right where that length is 0.
    if whole.surely_at_most(&-bound) {
        return Some(Dim::known(0));
    }
    let negative = (&-bound - &Dim::known(1)).surely_not_negative();
    negative.then(|| (whole + bound).larger(&Dim::known(0)))
}

/// `Pad`: pads are an attribute (`paddings` in opset 1) before opset 11, else an input; axes an input since opset 18.
fn pad(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(q.dtype(0), None)]);
    };
    let pads = match q.ints("pads").or_else(|| q.ints("paddings")) {
        Some(pads) => Some(pads.iter().copied().map(Dim::known).collect()),
        None => q.contents(1).map(<[Dim]>::to_vec),
    };
    let axes = match q.list("axes", 3) {
        List::Known(axes) => Some(axes_at(&axes, dims.len())?),
        List::Absent => Some((0..dims.len()).collect()),
        List::Unknown(_) => None,
    };
    let (Some(pads), Some(axes)) = (pads, axes) else {
        return Ok(vec![Fact::partial(q.dtype(0), Some(q.fresh_shape(0, dims.len())))]);
    };
    if pads.len() != 2 * axes.len() {
        return Err(format!("number of pads: expected {}, found {}", 2 * axes.len(), pads.len()).into());
    }
    let mut shape = dims.clone();
    for (i, &axis) in axes.iter().enumerate() {
        shape[axis] = &(&shape[axis] + &pads[i]) + &pads[i + axes.len()];
    }
    Ok(vec![Fact::partial(q.dtype(0), Some(shape))])
}

/// `CenterCropPad`: the lengths that an input tells, on all axes or on some.
fn center_crop_pad(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(q.dtype(0), None)]);
    };
    let axes = match q.ints("axes") {
        Some(axes) => axes_at(axes, dims.len())?,
        None => (0..dims.len()).collect(),
    };
    let mut shape = dims.clone();
    for (i, &axis) in axes.iter().enumerate() {
        let told = q.contents(1).and_then(|lengths| lengths.get(i)).filter(|n| n.is_length());
        shape[axis] = told.cloned().unwrap_or_else(|| q.fresh(0, axis));
    }
    Ok(vec![Fact::partial(q.dtype(0), Some(shape))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{row, row_at};
    use crate::ir::Attr;

    const END: &str = "int64[1]{9223372036854775807}";
    const AXIS: fn(i64) -> [(&'static str, Attr); 1] = |axis| [("axis", Attr::Int(axis))];

    #[test]
    fn joining() {
        row("Concat", &["int64[1]{batch}", "int64[2]{4, -1}"], &AXIS(0), "int64[3]{batch, 4, -1}");
        row("Concat", &["int64[1]{batch}", "int64[1]", "int64[1]"], &AXIS(0), "int64[3]{batch, ?y.0[0], ?y.0[1]}");
        row("Concat", &["float[b, h, past, 8]", "float[b, h, seq, 8]"], &AXIS(-2), "float[b, h, past + seq, 8]");
        row("Concat", &["float[b, 3]", "float[2, 5]"], &AXIS(1), "float[2, 8]");
        row("Concat", &["float[4, 3]", "float[2, 5]"], &AXIS(1), "error: length of axis 0 to join: expected 4, found 2 ([2, 5])");
        row("Concat", &["float[4]", "float[...]"], &AXIS(0), "float[?y.0.0]");
    }

    #[test]
    fn cutting() {
        row("Slice", &["int64[3]{a, b, 4}", "int64[1]{-2}", END], &[], "int64[2]{b, 4}");
        row("Slice", &["int64[4]{a, b, c, d}", "int64[1]{3}", "int64[1]{-9}", "int64[1]{0}", "int64[1]{-2}"], &[], "int64[2]{d, b}");
        row("Slice", &["float[b, s]", "int64[1]{0}", "int64[1]{s}", "int64[1]{1}"], &[], "float[b, s]");
        row("Slice", &["float[1, 512]", "int64[1]{0}", "int64[1]{s}", "int64[1]{1}"], &[], "float[1, min(512, s)]");
        row("Slice", &["float[1, 9]", "int64[1]{p}", "int64[1]{p + s}", "int64[1]{1}"], &[], "float[1, min(s, max(0, -p + 9))]");
        row("Slice", &["float[b, s, 8]", "int64[1]{4}", END, "int64[1]{-1}"], &[], "float[b, s, 4]");
        row("Slice", &["float[b, s]", "int64[1]", "int64[1]", "int64[1]{1}"], &[], "float[b, ?y.0.1]");
        row("Slice", &["float[b, s]", "int64[1]{-s}", END, "int64[1]{1}"], &[], "float[b, s]");
        row("Slice", &["float[b, s]", "int64[1]{#n}", END, "int64[1]{1}"], &[], "float[b, ?y.0.1]");
        let old = [("starts", Attr::Ints(vec![1])), ("ends", Attr::Ints(vec![-1])), ("axes", Attr::Ints(vec![1]))];
        row_at(9, "Slice", &["float[b, 6]"], &old, "float[b, 4]");
    }

    #[test]
    fn splitting() {
        let two = |mut attrs: Vec<(&'static str, Attr)>| {
            attrs.push(("outputs", Attr::Int(2)));
            attrs
        };
        row("Split", &["float[b, 6]", "int64[2]{2, 4}"], &two(AXIS(1).to_vec()), "float[b, 2] float[b, 4]");
        row("Split", &["float[b, 6]"], &two(AXIS(-1).to_vec()), "float[b, 3] float[b, 3]");
        row("Split", &["float[7]"], &two(vec![("num_outputs", Attr::Int(2))]), "float[4] float[3]");
        row("Split", &["int64[2]{a, b}"], &two(vec![]), "int64[1]{a} int64[1]{b}");
        for count in [1 << 40, 1 << 62, i64::MAX] {
            row("Split", &["float[7]"], &two(vec![("num_outputs", Attr::Int(count))]), "float[1] float[1]");
            row("Split", &["float[n]"], &two(vec![("num_outputs", Attr::Int(count))]), "float[?y.0.0] float[?y.1.0]");
        }
        row("Split", &["float[6]", "int64[2]{2, 3}"], &two(vec![]), "error: sum of the parts of axis 0: expected 6, found 5");
        row_at(11, "Split", &["float[6]"], &two(vec![("split", Attr::Ints(vec![1, 5]))]), "float[1] float[5]");
    }

    #[test]
    fn padding() {
        row("Pad", &["float[b, s]", "int64[4]{0, 1, 0, 2}"], &[], "float[b, s + 3]");
        row("Pad", &["float[b, s]", "int64[2]{1, n}", "", "int64[1]{-1}"], &[], "float[b, n + s + 1]");
        row("Pad", &["float[b, s]", "int64[3]{1, 1, 1}"], &[], "error: number of pads: expected 4, found 3");
    }
}
