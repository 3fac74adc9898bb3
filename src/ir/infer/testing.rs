//! Tests of rules as rows: operator, inputs, attributes, expected outputs, all as text.

use std::sync::Arc;

use indexmap::IndexMap;

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, Shape};
use super::{Question, infer};
use crate::ir::DIALECT;
use crate::ir::graph::attr::Attr;

/// The outputs' facts as text, or the error, in the dialect spoken inside.
pub(super) fn answer(op: &str, inputs: &[&str], attrs: &[(&str, Attr)]) -> String {
    answer_at(DIALECT, op, inputs, attrs)
}

/// The outputs' facts as text, or the error. `"int64[2]{batch, 4}"` is an input with its elements, `""` one that was left out.
pub(super) fn answer_at(opset: i64, op: &str, inputs: &[&str], attrs: &[(&str, Attr)]) -> String {
    let outputs = attrs.iter().find(|(name, _)| *name == "outputs").and_then(|(_, n)| n.as_int()).unwrap_or(1);
    let attrs: IndexMap<Arc<str>, Attr> = attrs.iter().map(|(name, value)| (Arc::from(*name), value.clone())).collect();
    let facts: Vec<Option<Fact>> = inputs.iter().map(|text| (!text.is_empty()).then(|| fact(text))).collect();
    let question = Question {
        op,
        opset,
        inputs: facts.iter().map(|fact| fact.as_ref().map(|fact| (fact, None))).collect(),
        captured: vec![],
        attrs: &attrs,
        outputs: usize::try_from(outputs).expect("a number of outputs"),
        symbol: "y",
    };
    match infer(&question) {
        Ok(facts) => facts.iter().map(print).collect::<Vec<_>>().join(" "),
        Err(why) => format!("error: {why}"),
    }
}

/// Fails unless the operator's outputs are as expected.
#[track_caller]
pub(super) fn row(op: &str, inputs: &[&str], attrs: &[(&str, Attr)], expected: &str) {
    assert_eq!(answer(op, inputs, attrs), expected, "{op} of {inputs:?}");
}

/// As [`row`], in an older form.
#[track_caller]
pub(super) fn row_at(opset: i64, op: &str, inputs: &[&str], attrs: &[(&str, Attr)], expected: &str) {
    assert_eq!(answer_at(opset, op, inputs, attrs), expected, "{op} of opset {opset} of {inputs:?}");
}

fn print(fact: &Fact) -> String {
    match &fact.contents {
        None => fact.to_string(),
        Some(elements) => format!("{fact}{{{}}}", elements.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// A fact from text: `float[batch, 2*seq + 1]`, `int64{3}`, `?[...]`, `int64[2]{batch, -1}`.
pub(super) fn fact(text: &str) -> Fact {
    let (text, contents) = match text.split_once('{') {
        Some((text, rest)) => (text, Some(dims(rest.trim_end_matches('}')))),
        None => (text, None),
    };
    let (name, shape) = match text.split_once('[') {
        Some((name, "...]")) => (name, None),
        Some((name, rest)) => (name, Some(dims(rest.trim_end_matches(']')))),
        None => (text, Some(vec![])),
    };
    let dtype = (1..=26).filter_map(DType::from_code).find(|dtype| dtype.name() == name);
    assert!(dtype.is_some() || name == "?", "a type: {name}");
    Fact::partial(dtype, shape).with_contents(contents)
}

fn dims(text: &str) -> Shape {
    if text.trim().is_empty() { vec![] } else { text.split(',').map(dim).collect() }
}

/// A polynomial; `#n` is a number that may be negative.
fn dim(text: &str) -> Dim {
    let spaced = text.replace('-', "+-").replace(' ', "");
    let sum = spaced.split('+').filter(|term| !term.is_empty()).map(|term| {
        let (sign, term) = term.strip_prefix('-').map_or((1, term), |term| (-1, term));
        term.split('*').fold(Dim::known(sign), |product, factor| &product * &factor_of(factor))
    });
    sum.fold(Dim::known(0), |a, b| &a + &b)
}

fn factor_of(text: &str) -> Dim {
    match (text.parse(), text.strip_prefix('#')) {
        (Ok(known), _) => Dim::known(known),
        (_, Some(name)) => Dim::number(name),
        _ => Dim::symbol(text),
    }
}
