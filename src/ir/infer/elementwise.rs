//! Operators that compute each element from the elements at the same place.

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, MAX_CONTENTS, Shape, broadcast};
use super::contents::{self, Small};
use super::numbers::{decided, fits, on_numbers};
use super::question::axis_at;
use super::{Answer, Question, Rule};
use crate::error::Refusal;

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("Abs", unary),
    ("Acos", unary),
    ("Acosh", unary),
    ("Add", arithmetic),
    ("And", logic),
    ("Asin", unary),
    ("Asinh", unary),
    ("Atan", unary),
    ("Atanh", unary),
    ("Bernoulli", like_with_dtype),
    ("BitCast", bit_cast),
    ("BitShift", arithmetic),
    ("BitwiseAnd", arithmetic),
    ("BitwiseNot", unary),
    ("BitwiseOr", arithmetic),
    ("BitwiseXor", arithmetic),
    ("Cast", cast),
    ("CastLike", cast_like),
    ("Ceil", unary),
    ("Celu", unary),
    ("Clip", clip),
    ("Cos", unary),
    ("Cosh", unary),
    ("CumProd", along_axis_input),
    ("CumSum", along_axis_input),
    ("Div", arithmetic),
    ("Dropout", dropout),
    ("Elu", unary),
    ("Equal", comparison),
    ("Erf", unary),
    ("Exp", unary),
    ("EyeLike", like_with_dtype),
    ("Floor", unary),
    ("Gelu", unary),
    ("Greater", comparison),
    ("GreaterOrEqual", comparison),
    ("HardSigmoid", unary),
    ("HardSwish", unary),
    ("Hardmax", along_axis),
    ("Identity", unary),
    ("IsInf", predicate),
    ("IsNaN", predicate),
    ("LeakyRelu", unary),
    ("Less", comparison),
    ("LessOrEqual", comparison),
    ("Log", unary),
    ("LogSoftmax", along_axis),
    ("Max", variadic),
    ("Mean", variadic),
    ("Min", variadic),
    ("Mish", unary),
    ("Mod", arithmetic),
    ("Mul", arithmetic),
    ("Neg", unary),
    ("Not", predicate),
    ("Or", logic),
    ("PRelu", unary),
    ("Pow", power),
    ("RandomNormalLike", like_with_dtype),
    ("RandomUniformLike", like_with_dtype),
    ("Reciprocal", unary),
    ("Relu", unary),
    ("Round", unary),
    ("Selu", unary),
    ("Shrink", unary),
    ("Sigmoid", unary),
    ("Sign", unary),
    ("Sin", unary),
    ("Sinh", unary),
    ("Softmax", along_axis),
    ("Softplus", unary),
    ("Softsign", unary),
    ("Sqrt", unary),
    ("Sub", arithmetic),
    ("Sum", variadic),
    ("Swish", unary),
    ("Tan", unary),
    ("Tanh", unary),
    ("ThresholdedRelu", unary),
    ("Where", where_),
    ("Xor", logic),
    ("com.microsoft:BiasGelu", first),
    ("com.microsoft:FastGelu", first),
    ("com.microsoft:Gelu", unary),
    ("com.microsoft:QuickGelu", unary),
];

/// The shape and type of the first input.
pub(super) fn unary(q: &Question<'_>) -> Answer {
    let x = q.fact(0).cloned().unwrap_or_default();
    let contents = same_place(q, |operands| on_numbers(q.op, operands));
    Ok(vec![Fact::partial(x.dtype, x.shape).with_contents(contents)])
}

/// Bounds are inputs since opset 11; either may be left out.
fn clip(q: &Question<'_>) -> Answer {
    let contents = same_place(q, |operands| match (operands, q.given(1), q.given(2)) {
        ([x], false, false) if q.opset >= 11 => Some(x.clone()),
        ([x, low], true, false) => Some(x.larger(low)),
        ([x, high], false, true) => Some(x.smaller(high)),
        ([x, low, high], true, true) => Some(x.larger(low).smaller(high)),
        _ => None,
    });
    Ok(vec![Fact::partial(q.dtype(0), q.shape(0).cloned()).with_contents(contents)])
}

/// As [`unary`], with an axis attribute that must be there.
fn along_axis(q: &Question<'_>) -> Answer {
    if let (Some(axis), Some(rank)) = (q.attr_int("axis"), q.rank(0)) {
        // Before opset 13, an axis equal to the rank flattened everything into rows of length 1.
        let last = if q.opset < 13 { rank + 1 } else { rank };
        axis_at(axis, last.max(1))?;
    }
    unary(q)
}

/// As [`unary`], with an axis input that must be there.
fn along_axis_input(q: &Question<'_>) -> Answer {
    if let (Some(axis), Some(rank)) = (q.element(1).and_then(Dim::as_known), q.rank(0)) {
        axis_at(axis, rank)?;
    }
    first(q)
}

/// The type and shape of the first input, and nothing of its elements.
pub(super) fn first(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(q.dtype(0), q.shape(0).cloned())])
}

/// Booleans of the shape of the first input.
fn predicate(q: &Question<'_>) -> Answer {
    let contents = same_place(q, |operands| on_numbers(q.op, operands));
    Ok(vec![Fact::partial(Some(DType::Bool), q.shape(0).cloned()).with_contents(contents)])
}

/// Operands of one type, which is also the result's.
fn arithmetic(q: &Question<'_>) -> Answer {
    let dtype = common_dtype(q)?;
    Ok(vec![broadcast_result(q, dtype)?])
}

/// Operands of one type; any number of them.
fn variadic(q: &Question<'_>) -> Answer {
    arithmetic(q)
}

/// The exponent may have a type of its own.
fn power(q: &Question<'_>) -> Answer {
    Ok(vec![broadcast_result(q, q.dtype(0))?])
}

fn comparison(q: &Question<'_>) -> Answer {
    common_dtype(q)?;
    Ok(vec![broadcast_result(q, Some(DType::Bool))?])
}

fn logic(q: &Question<'_>) -> Answer {
    Ok(vec![broadcast_result(q, Some(DType::Bool))?])
}

fn where_(q: &Question<'_>) -> Answer {
    let dtype = same_dtype(q.dtype(1), q.dtype(2))?;
    Ok(vec![broadcast_result(q, dtype)?])
}

fn broadcast_result(q: &Question<'_>, dtype: Option<DType>) -> Result<Fact, Refusal> {
    // Before opset 7 the second operand was stretched to the first, from an axis that an attribute names.
    if q.opset < 7 && !q.op.contains(':') && !matches!(q.op, "Sum" | "Max" | "Min" | "Mean") {
        return Ok(Fact::partial(dtype, q.shape(0).cloned()));
    }
    let contents = same_place(q, |operands| on_numbers(q.op, operands));
    Ok(Fact::partial(dtype, broadcast_inputs(q)?).with_contents(contents))
}

/// The shape that all inputs broadcast to.
pub(super) fn broadcast_inputs(q: &Question<'_>) -> Result<Option<Shape>, Refusal> {
    let mut shape = Some(vec![]);
    for (fact, _) in q.inputs.iter().flatten() {
        shape = match (shape, &fact.shape) {
            (Some(a), Some(b)) => Some(broadcast(&a, b)?),
            _ => None,
        };
    }
    Ok(shape)
}

fn common_dtype(q: &Question<'_>) -> Result<Option<DType>, Refusal> {
    q.inputs.iter().flatten().try_fold(None, |dtype, (fact, _)| same_dtype(dtype, fact.dtype))
}

/// The type of two values that must have the same.
pub(super) fn same_dtype(a: Option<DType>, b: Option<DType>) -> Result<Option<DType>, Refusal> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => Err(format!("operands of one type expected, found {a} and {b}").into()),
        _ => Ok(a.or(b)),
    }
}

/// The elements of an elementwise result, where those of all operands are followed.
fn same_place(q: &Question<'_>, compute: impl Fn(&[Dim]) -> Option<Dim>) -> Option<Vec<Dim>> {
    let facts: Vec<&Fact> = q.inputs.iter().flatten().map(|(fact, _)| *fact).collect();
    if facts.iter().any(|fact| fact.dtype.is_none_or(DType::is_float)) {
        return None;
    }
    let compute = |operands: &[Dim]| compute(operands).filter(|element| fits(element, facts.last().and_then(|f| f.dtype)));
    match (q.op, facts.as_slice()) {
        // Where both sides agree, the condition need not be known.
        ("Where", [condition, x, y]) if condition.contents.is_none() => {
            let agree = |operands: &[Dim]| (operands[0] == operands[1]).then(|| operands[0].clone());
            let small = condition.shape.as_ref().and_then(contents::sizes)?;
            let count = contents::count(&small).filter(|&count| count <= MAX_CONTENTS)?;
            let shape = small.iter().map(|&n| super::question::length(n)).collect();
            let zeros = Fact::partial(None, Some(shape)).with_contents(Some(vec![Dim::known(0); count]));
            contents::elementwise(&[&zeros, x, y], |operands| agree(&operands[1..]), |i| q.fresh_element(0, i))
        }
        _ => contents::elementwise(&facts, compute, |i| q.fresh_element(0, i)),
    }
}

fn cast(q: &Question<'_>) -> Answer {
    Ok(vec![cast_to(q, q.dtype_attr("to"))])
}

fn cast_like(q: &Question<'_>) -> Answer {
    Ok(vec![cast_to(q, q.dtype(1))])
}

/// The first input in another type. The elements stay known between types of whole numbers.
fn cast_to(q: &Question<'_>, to: Option<DType>) -> Fact {
    let convert = |(i, element): (usize, Dim)| {
        let converted = match to {
            Some(DType::Bool) => decided(element.surely_differs(&Dim::known(0)), element == Dim::known(0)),
            _ => Some(element).filter(|element| fits(element, to)),
        };
        converted.unwrap_or_else(|| q.fresh_element(0, i))
    };
    let followed = to.is_some_and(|to| !to.is_float() && to != DType::String);
    let small = q.fact(0).filter(|_| followed).and_then(Small::of);
    let contents = small.map(|small| small.elements.into_iter().enumerate().map(convert).collect());
    Fact::partial(to, q.shape(0).cloned()).with_contents(contents)
}

/// `BitCast`: the same bytes; lengths stay where elements have as many bits.
fn bit_cast(q: &Question<'_>) -> Answer {
    let to = q.dtype_attr("to");
    Ok(vec![Fact::partial(to, q.shape(0).cloned())])
}

/// The shape of the input, the type of the attribute if there is one.
fn like_with_dtype(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(q.dtype_attr("dtype").or(q.dtype(0)), q.shape(0).cloned())])
}

/// The second output is the mask: booleans since opset 10.
fn dropout(q: &Question<'_>) -> Answer {
    let x = q.fact(0).cloned().unwrap_or_default();
    let mask = if q.opset < 10 { x.dtype } else { Some(DType::Bool) };
    Ok(vec![Fact::partial(x.dtype, x.shape.clone()), Fact::partial(mask, x.shape)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{row, row_at};
    use crate::ir::Attr;

    #[test]
    fn shapes_beyond_memory_are_not_followed() {
        row("Where", &["bool[1099511627776]", "int64{1}", "int64{2}"], &[], "int64[1099511627776]");
        row("Equal", &["int64[4294967296, 4294967296]{1}", "int64{1}"], &[], "bool[4294967296, 4294967296]");
    }

    #[test]
    fn broadcasting() {
        row("Add", &["float[batch, seq, 64]", "float[64]"], &[], "float[batch, seq, 64]");
        row("Mul", &["float[batch, 1]", "float[seq]"], &[], "float[batch, seq]");
        row("Add", &["float[3]", "float[4]"], &[], "error: [3] and [4] do not broadcast");
        row("Add", &["float", "float16"], &[], "error: operands of one type expected, found float and float16");
        row("Pow", &["float[n]", "int64"], &[], "float[n]");
        row("Less", &["float[n, 1]", "float[m]"], &[], "bool[n, m]");
        row("Add", &["float[1, min]", "?[...]"], &[], "float[...]");
        row("Where", &["bool[s, t]", "float", "float[b, 1, 1]"], &[], "float[b, s, t]");
        row_at(6, "Add", &["float[a, b, c]", "float[b]"], &[("broadcast", Attr::Int(1)), ("axis", Attr::Int(1))], "float[a, b, c]");
    }

    #[test]
    fn arithmetic_of_contents() {
        row("Add", &["int64{past}", "int64{seq}"], &[], "int64{past + seq}");
        row("Mul", &["int64[2]{a, 2}", "int64{4}"], &[], "int64[2]{4*a, 8}");
        row("Div", &["int64{8*a}", "int64{4}"], &[], "int64{2*a}");
        row("Div", &["int64{-7}", "int64{2}"], &[], "int64{-3}");
        row("Div", &["int64{#n}", "int64{2}"], &[], "int64{?y.0[0]}");
        row("Max", &["int64{a}", "int64{0}"], &[], "int64{a}");
        row("Clip", &["int64{a}", "int64{0}"], &[], "int64{a}");
        row("Neg", &["int64{a}"], &[], "int64{-a}");
        row("Equal", &["int64[3]{a, -1, #n}", "int64{-1}"], &[], "bool[3]{0, 1, ?y.0[2]}");
        row("Where", &["bool[3]{0, 1, #c}", "int64[3]{1, 1, n}", "int64[3]{a, b, n}"], &[], "int64[3]{a, 1, n}");
        row("Where", &["bool[2]", "int64[2]{1, n}", "int64[2]{a, n}"], &[], "int64[2]{?y.0[0], n}");
        row("Add", &["int64{9223372036854775807}", "int64{1}"], &[], "int64{?y.0[0]}");
    }

    #[test]
    fn casts_keep_whole_numbers() {
        let to = |code| [("to", Attr::Int(code))];
        row("Cast", &["int64[2]{a, 3}"], &to(6), "int32[2]{a, 3}");
        row("Cast", &["int64[2]{a, 3}"], &to(1), "float[2]");
        row("Cast", &["int64[2]{0, 3}"], &to(9), "bool[2]{0, 1}");
        row("Cast", &["int64[1]{9223372036854775807}"], &to(6), "int32[1]{?y.0[0]}");
        row("CastLike", &["float[a]", "float16"], &[], "float16[a]");
    }

    #[test]
    fn shapes_that_stay() {
        row("Softmax", &["float[b, h, s, t]"], &[("axis", Attr::Int(-1))], "float[b, h, s, t]");
        row("Softmax", &["float[b]"], &[("axis", Attr::Int(2))], "error: axis 2 of a value of rank 1");
        row("IsNaN", &["float[b]"], &[], "bool[b]");
        row("Dropout", &["float[b]"], &[], "float[b] bool[b]");
    }
}
