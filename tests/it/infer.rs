//! Facts of whole models, and that symbolic answers agree with those for numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use peft_onnx::ir::infer::{Question, infer};
use peft_onnx::ir::{Attr, DType, Dim, Fact};
use proptest::prelude::*;

#[test]
fn every_value_of_the_fixtures_has_a_type_and_all_lengths() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures");
    let models = models(&fixtures);
    assert!(models.len() > 10, "fixtures: {models:?}");
    for path in models {
        let graph = peft_onnx::onnx::read(&path).expect("a fixture can be read");
        for (id, value) in graph.value_ids() {
            // Lengths of what an `If` gives depend on the branch that runs.
            let of_branches = graph.producer(id).is_some_and(|node| &*graph.node(node).op == "If");
            let told = |dims: &Vec<Dim>| of_branches || dims.iter().all(is_told);
            let complete = value.fact.dtype.is_some() && value.fact.shape.as_ref().is_some_and(told);
            assert!(complete, "{}: {}: {}", path.display(), value.name, value.fact);
        }
    }
}

/// Whether a length follows from those of the inputs.
fn is_told(dim: &Dim) -> bool {
    dim.names().iter().all(|name| !name.starts_with('?'))
}

fn models(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<PathBuf> = entries
        .flat_map(|path| match path.extension().is_some_and(|ending| ending == "onnx") {
            true => vec![path],
            false if path.is_dir() => models(&path),
            false => vec![],
        })
        .collect();
    found.sort();
    found
}

/// A node without its graph.
#[derive(Clone, Debug)]
struct Case {
    op: &'static str,
    inputs: Vec<Fact>,
    attrs: IndexMap<Arc<str>, Attr>,
}

impl Case {
    fn new(op: &'static str, inputs: Vec<Fact>, attrs: &[(&str, i64)]) -> Self {
        Self { op, inputs, attrs: attrs.iter().map(|&(name, value)| (Arc::from(name), Attr::Int(value))).collect() }
    }

    fn answer(&self) -> Result<Vec<Fact>, peft_onnx::error::Refusal> {
        infer(&Question {
            op: self.op,
            opset: 18,
            inputs: self.inputs.iter().map(|fact| Some((fact, None))).collect(),
            captured: vec![],
            attrs: &self.attrs,
            outputs: 1,
            symbol: "y",
        })
    }

    fn with(&self, numbers: &BTreeMap<&str, i64>) -> Self {
        Self { inputs: self.inputs.iter().map(|fact| substituted(fact, numbers)).collect(), ..self.clone() }
    }
}

fn substituted(fact: &Fact, numbers: &BTreeMap<&str, i64>) -> Fact {
    let number = |dim: &Dim| dim.substitute(|name| numbers.get(name).map(|&n| Dim::known(n)));
    let all = |dims: &Vec<Dim>| dims.iter().map(number).collect();
    Fact { dtype: fact.dtype, shape: fact.shape.as_ref().map(all), contents: fact.contents.as_ref().map(all) }
}

/// Where a symbolic answer tells a number, the answer for numbers must tell the same.
fn agrees(told: &[Dim], numbers: &[Dim]) -> bool {
    let same = |(a, b): (&Dim, &Dim)| match (a.as_known(), b.as_known()) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    told.len() == numbers.len() && told.iter().zip(numbers).all(same)
}

fn check(case: &Case, numbers: &BTreeMap<&str, i64>) -> Result<(), TestCaseError> {
    // Numbers that do not go together are no counterexample.
    let Ok(concrete) = case.with(numbers).answer() else { return Ok(()) };
    let symbolic = case.answer();
    prop_assert!(symbolic.is_ok(), "{case:?} is refused, {numbers:?} is not: {symbolic:?}");
    for (told, real) in symbolic.unwrap_or_default().iter().map(|fact| substituted(fact, numbers)).zip(&concrete) {
        let pairs = [(&told.shape, &real.shape), (&told.contents, &real.contents)];
        for (told, real) in pairs.into_iter().filter_map(|(a, b)| a.as_ref().zip(b.as_ref())) {
            prop_assert!(agrees(told, real), "{case:?} with {numbers:?}: {told:?} told, {real:?} computed");
        }
    }
    Ok(())
}

/// Lengths made of `a`, `b` and numbers.
fn length() -> impl Strategy<Value = Dim> {
    let leaf = prop_oneof![
        3 => prop_oneof![Just("a"), Just("b")].prop_map(Dim::symbol),
        2 => (1..6_i64).prop_map(Dim::known),
    ];
    leaf.prop_recursive(2, 4, 2, |inner| {
        prop_oneof![(inner.clone(), inner.clone()).prop_map(|(x, y)| &x + &y), (inner.clone(), inner).prop_map(|(x, y)| &x * &y),]
    })
}

/// Elements, some of them negative.
fn element() -> impl Strategy<Value = Dim> {
    prop_oneof![3 => length(), 1 => length().prop_map(|dim| -&dim), 1 => (-3..4_i64).prop_map(Dim::known), 1 => (length(), length()).prop_map(|(x, y)| &x - &y)]
}

fn shape(ranks: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Dim>> {
    prop::collection::vec(length(), ranks)
}

fn value(shape: Vec<Dim>) -> Fact {
    Fact::new(DType::F32, shape)
}

fn vector(elements: Vec<Dim>) -> Fact {
    let count = i64::try_from(elements.len()).expect("a short vector");
    Fact::new(DType::I64, vec![Dim::known(count)]).with_contents(Some(elements))
}

fn case() -> impl Strategy<Value = Case> {
    let binary = prop::sample::select(vec!["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Equal", "Less", "GreaterOrEqual"]);
    let elements = || prop::collection::vec(element(), 3);
    prop_oneof![
        (shape(0..4), shape(0..4)).prop_map(|(a, b)| Case::new("Mul", vec![value(a), value(b)], &[])),
        (shape(1..4), shape(1..4)).prop_map(|(a, b)| Case::new("MatMul", vec![value(a), value(b)], &[])),
        (shape(0..4), shape(0..4)).prop_map(|(a, b)| Case::new("Expand", vec![value(a), vector(b)], &[])),
        (shape(2..4), shape(2..4)).prop_map(|(a, b)| Case::new("Concat", vec![value(a), value(b)], &[("axis", -1)])),
        (shape(1..4), element(), element(), -2..3_i64).prop_map(|(dims, from, to, step)| {
            Case::new(
                "Slice",
                vec![value(dims), vector(vec![from]), vector(vec![to]), vector(vec![Dim::known(0)]), vector(vec![Dim::known(step)])],
                &[],
            )
        }),
        (shape(1..4), shape(0..3), 0..3_usize).prop_map(|(dims, mut target, at)| {
            target.insert(at.min(target.len()), Dim::known(-1));
            Case::new("Reshape", vec![value(dims), vector(target)], &[])
        }),
        (element(), element(), -2..3_i64).prop_map(|(start, limit, step)| {
            let scalar = |element| Fact::new(DType::I64, vec![]).with_contents(Some(vec![element]));
            Case::new("Range", vec![scalar(start), scalar(limit), scalar(Dim::known(step))], &[])
        }),
        (binary, elements(), elements()).prop_map(|(op, a, b)| Case::new(op, vec![vector(a), vector(b)], &[])),
        elements().prop_map(|a| Case::new("ReduceProd", vec![vector(a)], &[("keepdims", 0)])),
        (elements(), elements()).prop_map(|(a, b)| {
            let condition = Fact::new(DType::Bool, vec![Dim::known(3)]);
            Case::new("Where", vec![condition, vector(a), vector(b)], &[])
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]
    #[test]
    fn symbolic_answers_are_those_for_numbers(case in case(), a in 1..7_i64, b in 1..7_i64) {
        check(&case, &BTreeMap::from([("a", a), ("b", b)]))?;
    }

    #[test]
    fn dividing_undoes_multiplying(x in length(), y in length()) {
        prop_assert_eq!((&x * &y).exact_div(&y), Some(x));
    }

    #[test]
    fn certain_comparisons_hold(x in element(), y in element(), a in 0..7_i64, b in 0..7_i64) {
        let number = |dim: &Dim| dim.substitute(|name| Some(Dim::known(if name == "a" { a } else { b }))).as_known();
        let (p, q) = (number(&x).expect("a number"), number(&y).expect("a number"));
        prop_assert!(!x.surely_at_most(&y) || p <= q);
        prop_assert!(!x.surely_differs(&y) || p != q);
        prop_assert_eq!(number(&x.larger(&y)), Some(p.max(q)));
        prop_assert_eq!(number(&x.smaller(&y)), Some(p.min(q)));
    }
}
