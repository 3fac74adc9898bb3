//! Operators that make values out of shapes, numbers or nothing.

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, Shape};
use super::question::length;
use super::{Answer, Question, Rule, contents};
use crate::error::Refusal;
use crate::ir::graph::attr::Attr;

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("BlackmanWindow", window),
    ("Constant", constant),
    ("ConstantOfShape", constant_of_shape),
    ("HammingWindow", window),
    ("HannWindow", window),
    ("MelWeightMatrix", mel_weights),
    ("Multinomial", multinomial),
    ("RandomNormal", random),
    ("RandomUniform", random),
    ("Range", range),
    ("com.microsoft:Range", range),
];

fn constant(q: &Question<'_>) -> Answer {
    let vector = |dtype, count| Fact::new(dtype, vec![length(count)]);
    let fact = match q.attrs.first().map(|(name, value)| (&**name, value)) {
        Some(("value", Attr::Tensor(tensor))) => Fact::of(tensor),
        Some(("value_int", Attr::Int(n))) => Fact::new(DType::I64, vec![]).with_contents(Some(vec![Dim::known(*n)])),
        Some(("value_ints", Attr::Ints(all))) => {
            vector(DType::I64, all.len()).with_contents(Some(all.iter().copied().map(Dim::known).collect()))
        }
        Some(("value_float", _)) => Fact::new(DType::F32, vec![]),
        Some(("value_floats", Attr::Floats(all))) => vector(DType::F32, all.len()),
        Some(("value_string", _)) => Fact::new(DType::String, vec![]),
        Some(("value_strings", Attr::Strs(all))) => vector(DType::String, all.len()),
        _ => Fact::unknown(),
    };
    Ok(vec![fact])
}

/// The shape that an input of whole numbers tells, with fresh lengths for elements that may be negative.
fn shape_in(q: &Question<'_>, input: usize) -> Result<Option<Shape>, Refusal> {
    let Some(elements) = q.contents(input) else {
        return Ok(q.rank_told_by(input).map(|rank| q.fresh_shape(0, rank)));
    };
    if let Some(negative) = elements.iter().find(|dim| dim.as_known().is_some_and(|n| n < 0)) {
        return Err(format!("length {negative} in the shape {elements:?}").into());
    }
    let checked = |(axis, dim): (usize, &Dim)| if dim.is_length() { dim.clone() } else { q.fresh(0, axis) };
    Ok(Some(elements.iter().enumerate().map(checked).collect()))
}

/// Zeros of float32, or the one element of the attribute `value`.
fn constant_of_shape(q: &Question<'_>) -> Answer {
    let shape = shape_in(q, 0)?;
    let Some(Attr::Tensor(value)) = q.attrs.get("value") else {
        return Ok(vec![Fact::partial(Some(DType::F32), shape)]);
    };
    let element = value.to_i64().and_then(|all| all.first().copied());
    let count = shape.as_ref().and_then(contents::sizes).and_then(|sizes| Some(contents::coordinates(&sizes)?.len()));
    let contents = element.zip(count).map(|(n, count)| vec![Dim::known(n); count]);
    Ok(vec![Fact::partial(Some(value.dtype()), shape).with_contents(contents)])
}

/// `start, start + delta, ..`, up to `limit` (not included).
fn range(q: &Question<'_>) -> Answer {
    let dtype = q.dtype(0).or(q.dtype(1)).or(q.dtype(2));
    let delta = if q.given(2) { q.element(2).cloned() } else { Some(Dim::known(1)) };
    let count = match (q.element(0), q.element(1), delta) {
        (Some(start), Some(limit), Some(delta)) => range_length(start, limit, &delta).map(|count| (count, start, delta)),
        _ => None,
    };
    let Some((count, start, delta)) = count else {
        return Ok(vec![Fact::partial(dtype, Some(vec![q.fresh(0, 0)]))]);
    };
    let sizes = contents::sizes(&vec![count.clone()]);
    let places = sizes.and_then(|sizes| contents::coordinates(&sizes));
    let element = |at: &Vec<usize>| start + &(&length(at[0]) * &delta);
    let contents = places.map(|places| places.iter().map(element).collect());
    Ok(vec![Fact::partial(dtype, Some(vec![count])).with_contents(contents)])
}

/// `max(ceil((limit - start) / delta), 0)`
fn range_length(start: &Dim, limit: &Dim, delta: &Dim) -> Option<Dim> {
    let span = limit - start;
    let zero = Dim::known(0);
    match delta.as_known()? {
        0 => None,
        1 => Some(span.larger(&zero)),
        -1 => Some((-&span).larger(&zero)),
        delta => Some((-&(-&span).floor_div(&Dim::known(delta))).larger(&zero)),
    }
}

/// A vector of as many elements as the input says.
fn window(q: &Question<'_>) -> Answer {
    let dtype = q.dtype_attr("output_datatype").unwrap_or(DType::F32);
    let size = q.element(0).filter(|n| n.is_length()).cloned().unwrap_or_else(|| q.fresh(0, 0));
    Ok(vec![Fact::new(dtype, vec![size])])
}

/// `[dft_length / 2 + 1, num_mel_bins]`
fn mel_weights(q: &Question<'_>) -> Answer {
    let dtype = q.dtype_attr("output_datatype").unwrap_or(DType::F32);
    let bins = q.element(0).filter(|n| n.is_length()).cloned().unwrap_or_else(|| q.fresh(0, 1));
    let frequencies = q.element(1).filter(|n| n.is_length()).map(|n| &n.floor_div(&Dim::known(2)) + &Dim::known(1));
    Ok(vec![Fact::new(dtype, vec![frequencies.unwrap_or_else(|| q.fresh(0, 0)), bins])])
}

/// `[batch, sample_size]`
fn multinomial(q: &Question<'_>) -> Answer {
    let batch = q.dim(0, 0).unwrap_or_else(|| q.fresh(0, 0));
    Ok(vec![Fact::new(q.dtype_attr("dtype").unwrap_or(DType::I32), vec![batch, Dim::known(q.int("sample_size", 1))])])
}

/// Shape and type are attributes.
fn random(q: &Question<'_>) -> Answer {
    let shape = q.ints("shape").map(|all| all.iter().copied().map(Dim::known).collect());
    Ok(vec![Fact::partial(Some(q.dtype_attr("dtype").unwrap_or(DType::F32)), shape)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::row;
    use crate::ir::{Attr, Tensor};

    #[test]
    fn values_from_shapes() {
        let ones = [("value", Attr::from(Tensor::from_i64(&[1], &[1])))];
        row("ConstantOfShape", &["int64[2]{batch, 4}"], &[], "float[batch, 4]");
        row("ConstantOfShape", &["int64[1]{3}"], &ones, "int64[3]{1, 1, 1}");
        row("ConstantOfShape", &["int64[2]"], &[], "float[?y.0.0, ?y.0.1]");
        row("ConstantOfShape", &["int64[1]{-2}"], &[], "error: length -2 in the shape [-2]");
        row("Constant", &[], &[("value_ints", Attr::Ints(vec![1, 2]))], "int64[2]{1, 2}");
    }

    #[test]
    fn ranges() {
        row("Range", &["int64{0}", "int64{seq}", "int64{1}"], &[], "int64[seq]");
        row("Range", &["int64{past}", "int64{past + seq}", "int64{1}"], &[], "int64[seq]");
        row("Range", &["int64{1}", "int64{8}", "int64{3}"], &[], "int64[3]{1, 4, 7}");
        row("Range", &["int64{5}", "int64{0}", "int64{-2}"], &[], "int64[3]{5, 3, 1}");
        row("Range", &["float", "float", "float"], &[], "float[?y.0.0]");
    }
}
