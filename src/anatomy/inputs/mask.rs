//! What a mask's numbers mean, found out by following one number through the graph: with which does it hide keys, with which not?

use std::collections::{BTreeMap, BTreeSet};

use crate::ir::{Attr, DType, Graph, Node, Tensor, Trait, ValueId};

use super::super::walk::ValueRef;
use super::super::{Attention, Mask, MaskForm, Masking};

/// What is added to scores, or more, masks nothing.
const HARMLESS: f64 = -1.0;
/// What is added to scores, or less, masks a key.
const MASKING: f64 = -30.0;

/// Constants with more numbers are not looked through.
const LARGE: usize = 1 << 20;

/// Operators that only move numbers.
const MOVING: &[&str] = &[
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "ReduceMax",
    "ReduceMin",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// Operators whose numbers are followed, beside those that only move them.
const FOLLOWED: &[&str] = &[
    "Add",
    "And",
    "Cast",
    "Clip",
    "Concat",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Exp",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Log",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Sqrt",
    "Sub",
    "Sum",
    "Trilu",
    "Where",
];

/// The form of a mask that hides keys of an attention; none if the input hides none, or it is not told how.
pub(super) fn form(graph: &Graph, attention: &Attention, input: ValueId) -> Option<MaskForm> {
    let masks: Vec<&Mask> = attention.masks.iter().filter(|mask| reaches(graph, input, mask.value)).collect();
    let is_number = graph.fact(input).dtype.is_some_and(DType::is_float);
    let forms = [(MaskForm::Seen, 1.0, 0.0), (MaskForm::Hidden, 0.0, 1.0), (MaskForm::Added, 0.0, -1e9)];
    let fits = |&(form, seen, hidden): &(MaskForm, f64, f64)| {
        (form != MaskForm::Added || is_number)
            && masks.iter().any(|mask| effect(graph, **mask, input, hidden) == Some(Effect::Hides))
            && masks.iter().all(|mask| effect(graph, **mask, input, seen) != Some(Effect::Hides))
    };
    forms.iter().find(|form| fits(form)).map(|(form, ..)| *form)
}

/// Whether a value is made from an input, by anything but what a network computes: scores that are added to others may be made from hidden states
/// (the gated position bias of WavLM), whose input is no mask.
pub(super) fn reaches(graph: &Graph, input: ValueId, value: ValueId) -> bool {
    let (mut waiting, mut seen) = (vec![value], BTreeSet::new());
    while let Some(id) = waiting.pop() {
        if id == input {
            return true;
        }
        // Lengths are not made from what is in a tensor.
        let maker =
            graph.producer(id).map(|node| graph.node(node)).filter(|node| !Trait::Lengths.is_of(&node.op) && !computes(graph, node));
        waiting.extend(maker.into_iter().flat_map(Node::reads).filter(|&read| seen.insert(read)));
    }
    false
}

/// Whether a node makes hidden states: a convolution, a normalisation, or a product with weights.
fn computes(graph: &Graph, node: &Node) -> bool {
    const STATES: &[&str] = &["Conv", "Softmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "LSTM", "GRU"];
    let is_weight = |id: ValueId| ValueRef::new(graph, id).behind(&["Transpose", "Cast", "DequantizeLinear"]).is_constant();
    let is_product = ["MatMul", "Gemm", "com.microsoft:FusedMatMul"].contains(&&*node.op);
    STATES.contains(&&*node.op) || (is_product && node.inputs.len() >= 2 && node.reads().take(2).any(is_weight))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// No key is seen, whatever else is fed.
    Hides,
    /// Some keys may be seen.
    Shows,
}

fn effect(graph: &Graph, mask: Mask, input: ValueId, number: f64) -> Option<Effect> {
    let Range { low, high } = Follow { graph, input, number, known: BTreeMap::new() }.range(mask.value)?;
    let hides = match mask.kind {
        Masking::Added => high <= MASKING,
        Masking::Subtracted => low >= -MASKING,
        Masking::KeptWhere => high == 0.0,
        Masking::MaskedWhere => low > 0.0 || high < 0.0,
    };
    let is_between = mask.kind == Masking::Added && high < HARMLESS && high > MASKING;
    (!is_between).then_some(if hides { Effect::Hides } else { Effect::Shows })
}

/// The numbers that a tensor may have.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    low: f64,
    high: f64,
}

const TRUTH: Range = Range { low: 0.0, high: 1.0 };

impl Range {
    fn of(number: f64) -> Self {
        Self { low: number, high: number }
    }

    fn with(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    fn truth(is: Option<bool>) -> Self {
        is.map_or(TRUTH, |is| Self::of(f64::from(u8::from(is))))
    }

    /// Whether it is no zero, where that is certain.
    fn is_true(self) -> Option<bool> {
        if self == Self::of(0.0) {
            return Some(false);
        }
        (self.low > 0.0 || self.high < 0.0).then_some(true)
    }

    /// What a function of two numbers makes at the ends, which are where its extremes are.
    fn ends(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Option<Self> {
        let all = [f(self.low, other.low), f(self.low, other.high), f(self.high, other.low), f(self.high, other.high)];
        let ends = all.into_iter().map(Self::of).reduce(Self::with);
        ends.filter(|_| all.iter().all(|number| !number.is_nan()))
    }

    fn each(self, f: impl Fn(f64) -> f64) -> Option<Self> {
        self.ends(self, |a, _| f(a))
    }
}

/// One number, fed everywhere into one input, on its way through the graph.
struct Follow<'g> {
    graph: &'g Graph,
    input: ValueId,
    number: f64,
    known: BTreeMap<ValueId, Option<Range>>,
}

impl Follow<'_> {
    /// The range of a value; none if it may be anything.
    fn range(&mut self, value: ValueId) -> Option<Range> {
        // Graphs are deep: what a value is made of is looked at before it, without a call inside a call for each.
        let mut waiting = vec![value];
        while let Some(&id) = waiting.last() {
            if self.known.contains_key(&id) {
                waiting.pop();
                continue;
            }
            let node = self.graph.producer(id).map(|node| self.graph.node(node));
            let followed = node.filter(|node| id != self.input && (MOVING.contains(&&*node.op) || FOLLOWED.contains(&&*node.op)));
            let reads = followed.into_iter().flat_map(Node::reads);
            let missing: Vec<ValueId> = reads.filter(|read| !self.known.contains_key(read)).collect();
            if missing.is_empty() {
                let range = if id == self.input { Some(Range::of(self.number)) } else { self.made(id, followed) };
                self.known.insert(id, range);
                waiting.pop();
            } else {
                waiting.extend(missing);
            }
        }
        self.known.get(&value).copied().flatten()
    }

    fn made(&self, id: ValueId, node: Option<&Node>) -> Option<Range> {
        if let Some(tensor) = self.graph.stored(id) {
            return numbers(tensor);
        }
        let is_truth = self.graph.fact(id).dtype == Some(DType::Bool);
        let anything = is_truth.then_some(TRUTH);
        node.and_then(|node| self.of_node(node)).or(anything)
    }

    fn of_node(&self, node: &Node) -> Option<Range> {
        let input = |at: usize| node.input(at).and_then(|id| self.known.get(&id).copied().flatten());
        let truth = |at: usize| input(at).and_then(Range::is_true);
        let both = |f: fn(f64, f64) -> f64| input(0)?.ends(input(1)?, f);
        match &*node.op {
            op if MOVING.contains(&op) => input(0),
            "Concat" | "Trilu" => {
                let all: Option<Vec<Range>> = node
                    .reads()
                    .take(if &*node.op == "Trilu" { 1 } else { usize::MAX })
                    .map(|id| self.known.get(&id).copied().flatten())
                    .collect();
                let zero = (&*node.op == "Trilu").then(|| Range::of(0.0));
                all?.into_iter().chain(zero).reduce(Range::with)
            }
            "Cast" => match i32::try_from(node.int("to", 0)).ok().and_then(DType::from_code) {
                Some(DType::Bool) => Some(Range::truth(truth(0))),
                _ => input(0),
            },
            "Not" => Some(Range::truth(truth(0).map(|is| !is))),
            "And" => Some(Range::truth(if [truth(0), truth(1)].contains(&Some(false)) {
                Some(false)
            } else {
                truth(0).zip(truth(1)).map(|(a, b)| a && b)
            })),
            "Or" => Some(Range::truth(if [truth(0), truth(1)].contains(&Some(true)) {
                Some(true)
            } else {
                truth(0).zip(truth(1)).map(|(a, b)| a || b)
            })),
            "Equal" => Some(Range::truth(input(0).zip(input(1)).and_then(|(a, b)| equal(a, b)))),
            "Less" | "GreaterOrEqual" | "Greater" | "LessOrEqual" => {
                let is = input(0).zip(input(1)).and_then(|(a, b)| compared(&node.op, a, b));
                Some(Range::truth(is))
            }
            "Where" => match truth(0) {
                Some(is) => input(if is { 1 } else { 2 }),
                None => Some(input(1)?.with(input(2)?)),
            },
            "Add" | "Sum" if node.inputs.len() == 2 => both(|a, b| a + b),
            "Sub" => both(|a, b| a - b),
            "Mul" => both(|a, b| if a == 0.0 || b == 0.0 { 0.0 } else { a * b }),
            "Div" => both(|a, b| a / b),
            "Max" if node.inputs.len() == 2 => both(f64::max),
            "Min" if node.inputs.len() == 2 => both(f64::min),
            "Neg" => input(0)?.each(|a| -a),
            "Log" => input(0)?.each(f64::ln),
            "Exp" => input(0)?.each(f64::exp),
            "Sqrt" => input(0)?.each(f64::sqrt),
            "Clip" => {
                let (low, high) = (input(1).map_or(f64::NEG_INFINITY, |r| r.low), input(2).map_or(f64::INFINITY, |r| r.high));
                input(0)?.each(|a| a.max(low).min(high))
            }
            "ConstantOfShape" => match node.attrs.get("value") {
                Some(Attr::Tensor(tensor)) => numbers(tensor),
                _ => Some(Range::of(0.0)),
            },
            _ => None,
        }
    }
}

fn equal(a: Range, b: Range) -> Option<bool> {
    if a.low > b.high || b.low > a.high {
        return Some(false);
    }
    (a.low >= a.high && a == b).then_some(true)
}

fn compared(op: &str, a: Range, b: Range) -> Option<bool> {
    let less = |a: Range, b: Range| if a.high < b.low { Some(true) } else { (a.low >= b.high).then_some(false) };
    match op {
        "Less" => less(a, b),
        "GreaterOrEqual" => less(a, b).map(|is| !is),
        "Greater" => less(b, a),
        _ => less(b, a).map(|is| !is),
    }
}

fn numbers(tensor: &Tensor) -> Option<Range> {
    if tensor.len() > LARGE {
        return None;
    }
    let values: Vec<f64> = match tensor.to_f32() {
        Some(values) => values.into_iter().map(f64::from).collect(),
        None => tensor.to_i64()?.into_iter().map(exact).collect(),
    };
    values.into_iter().map(Range::of).reduce(Range::with)
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "what is compared is far from 2^53")]
fn exact(number: i64) -> f64 {
    number as f64
}
