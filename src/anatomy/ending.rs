//! What a graph makes of its scores before it gives them: probabilities in any spelling, or something that is no score at all.
//!
//! ```text
//! last projection → [bias, scale, cap]* → scores → Softmax | LogSoftmax | exp(x - max) / sum | Sigmoid | 1 / (1 + exp(-x)) → [views]* → output
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::ir::{Graph, Tensor, Trait, ValueId};
use crate::num;

use super::walk::{NodeRef, ValueRef};

/// How scores become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Squash {
    /// One of several classes: probabilities, or their logarithms, that sum to one over the last axis.
    Softmax,
    /// The same over another axis, which is not that of the classes.
    SoftmaxElsewhere,
    /// Each class for itself.
    Sigmoid,
    /// Probabilities that come from no one row of scores as its classes stand: of several predictions together, or changed after they were made.
    Mixed,
    /// None that is known, but all that the graph gives lies from 0 to 1.
    Bounded,
}

/// Probabilities at the end of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probabilities {
    /// How they are made of scores.
    pub squash: Squash,
    /// The node that makes them.
    pub node: String,
}

/// Scores, and the probabilities that are made of them.
pub(super) struct Behind {
    pub(super) scores: ValueId,
    pub(super) made: Option<Probabilities>,
}

/// Steps that are walked before the search gives up.
const MAX_STEPS: usize = 32;

/// Operators that show the same numbers in another order, shape or type, or some of them.
const VIEWS: &[&str] = &[
    "Identity",
    "Cast",
    "CastLike",
    "Dropout",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Transpose",
    "Slice",
    "Gather",
    "GatherElements",
    "Split",
    "Expand",
];

/// The scores that an output is made of; the output itself where it is neither made of probabilities nor a choice among classes.
pub(super) fn behind(graph: &Graph, output: ValueId) -> Behind {
    let end = ValueRef::new(graph, output);
    let known = RefCell::default();
    match search(end, Steps { left: MAX_STEPS, known: &known }) {
        Some(Found { scores, squash: Some(squash), node, is_turned }) => {
            let squash = if is_turned { Squash::Mixed } else { squash };
            Behind { scores: scores.id(), made: Some(Probabilities { squash, node: node.label() }) }
        }
        Some(Found { scores, squash: None, .. }) => Behind { scores: scores.id(), made: None },
        None => Behind { scores: output, made: None },
    }
}

/// The scores that an output is made of, as its places stand: the output itself where it is no probability.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) where it is made of probabilities behind which there are no such scores.
pub fn scores_of(graph: &Graph, output: ValueId) -> Result<ValueId> {
    let Behind { scores, made: Some(made) } = behind(graph, output) else { return Ok(output) };
    let rank = |id: ValueId| graph.fact(id).rank();
    if made.squash == Squash::Softmax && rank(scores) == rank(output) {
        return Ok(scores);
    }
    let why = format!("it gives probabilities, made by {}, and there are no scores behind them", made.node);
    Err(Error::unsupported(format!("a loss of {}", graph.value_name(output)), why).with_hint("export the model so that it gives logits"))
}

/// The steps that are left, and what was found so far: ways that meet again are walked once.
#[derive(Clone, Copy)]
struct Steps<'s, 'g> {
    left: usize,
    known: &'s RefCell<BTreeMap<(ValueId, usize), Option<Found<'g>>>>,
}

impl Steps<'_, '_> {
    fn less(self) -> Self {
        Self { left: self.left - 1, ..self }
    }
}

#[derive(Clone, Copy)]
struct Found<'g> {
    scores: ValueRef<'g>,
    squash: Option<Squash>,
    node: NodeRef<'g>,
    /// Whether these are what is missing from a probability to 1.
    is_turned: bool,
}

impl<'g> Found<'g> {
    fn new(scores: ValueRef<'g>, squash: Squash, node: NodeRef<'g>) -> Self {
        Self { scores, squash: Some(squash), node, is_turned: false }
    }

    /// The same, no more as the classes of the scores stand.
    fn mixed(self) -> Self {
        Self { squash: self.squash.map(|_| Squash::Mixed), ..self }
    }

    /// What is missing to 1, or the negative.
    fn turned(self) -> Self {
        Self { is_turned: !self.is_turned, ..self }
    }

    fn sigmoid(scores: ValueRef<'g>, node: NodeRef<'g>) -> Self {
        Self::new(scores, Squash::Sigmoid, node)
    }

    /// Scores under a softmax: before views that stand between them and their classes' last axis.
    fn softmax(scores: ValueRef<'g>, axis: Option<i64>, node: NodeRef<'g>) -> Self {
        let Some(rank) = scores.fact().rank() else { return Self::new(scores, Squash::Softmax, node) };
        let axis = axis.and_then(|axis| usize::try_from(if axis < 0 { axis + num::int(rank) } else { axis }).ok());
        match axis.and_then(|axis| last_axis(scores, axis)) {
            Some(scores) => Self::new(scores, Squash::Softmax, node),
            None => Self::new(scores, Squash::SoftmaxElsewhere, node),
        }
    }
}

/// The value from which on `axis` is the last one, behind transpositions.
fn last_axis(scores: ValueRef<'_>, mut axis: usize) -> Option<ValueRef<'_>> {
    let mut at = scores;
    loop {
        let rank = at.fact().rank()?;
        if axis + 1 == rank {
            return Some(at);
        }
        // An axis of one score behind it does not matter.
        if (axis + 1..rank).all(|behind| at.length(behind) == Some(1)) {
            return Some(at);
        }
        let node = at.from(&["Transpose", "Identity", "Cast"]).ok()?;
        if node.is(&["Transpose"]) {
            axis = usize::try_from(*node.node().ints("perm")?.get(axis)?).ok()?;
        }
        at = node.input(0).ok()?;
    }
}

fn search<'g>(value: ValueRef<'g>, steps: Steps<'_, 'g>) -> Option<Found<'g>> {
    let node = value.producer().filter(|_| steps.left > 0)?;
    let place = (value.id(), steps.left);
    if let Some(known) = steps.known.borrow().get(&place) {
        return *known;
    }
    let found = behind_node(value, node, steps);
    steps.known.borrow_mut().insert(place, found);
    found
}

fn behind_node<'g>(value: ValueRef<'g>, node: NodeRef<'g>, steps: Steps<'_, 'g>) -> Option<Found<'g>> {
    let next = |input: usize| search(node.input(input).ok()?, steps.less());
    match node.op() {
        "Softmax" | "LogSoftmax" => Some(Found::softmax(node.input(0).ok()?, Some(node.node().int("axis", -1)), node)),
        "Sigmoid" => Some(Found::sigmoid(node.input(0).ok()?, node)),
        // Numbers between 0 and 1 that are no function of scores with a loss of its own.
        "HardSigmoid" | "Erf" => Some(Found::new(node.input(0).ok()?, Squash::Mixed, node)),
        "Gather" | "GatherElements" | "Slice" | "Split" => {
            next(0).map(|found| if found.squash.is_some() && changes_places(value, node) { found.mixed() } else { found })
        }
        op if VIEWS.contains(&op) || op == "Clip" => next(0),
        op if Trait::Choice.is_of(op) => chosen(node, steps),
        "Log" => next(0),
        // Probabilities of their logarithms.
        "Exp" => next(0).filter(|found| found.squash.is_some()),
        "Neg" => log_sigmoid(node).or_else(|| next(0).filter(|found| found.squash.is_some()).map(Found::turned)),
        "Reciprocal" => sigmoid_below(node.input(0).ok()?, node),
        "Div" => quotient(node, steps),
        "Mul" => quotient_by_reciprocal(node).or_else(|| beside_a_constant(node, steps)),
        "Sub" => log_softmax(node).or_else(|| sigmoid_of_tanh(node)).or_else(|| {
            let is_from_a_constant = node.input(0).ok()?.is_constant();
            beside_a_constant(node, steps).map(|found| if is_from_a_constant { found.turned() } else { found })
        }),
        "Add" => sigmoid_of_tanh(node).or_else(|| beside_a_constant(node, steps)),
        "Max" | "Min" => beside_a_constant(node, steps),
        "Where" => next(1).or_else(|| next(2)).filter(|found| found.squash.is_some()),
        "Concat" => joined(node, steps),
        "ReduceMean" | "ReduceSum" => next(0).map(Found::mixed),
        _ => None,
    }
}

/// What a choice is made among: probabilities, or scores themselves.
fn chosen<'g>(node: NodeRef<'g>, steps: Steps<'_, 'g>) -> Option<Found<'g>> {
    let among = node.input(0).ok()?;
    let below = search(among, steps.less());
    below.or_else(|| node.is(&["ArgMax", "TopK", "Hardmax"]).then_some(Found { scores: among, squash: None, node, is_turned: false }))
}

/// `e / sum(e)`, `1 / (1 + exp(-x))`, or a quotient by a number.
fn quotient<'g>(node: NodeRef<'g>, steps: Steps<'_, 'g>) -> Option<Found<'g>> {
    let (above, below) = (node.input(0).ok()?, node.input(1).ok()?);
    if above.number().is_some() || (above.is_constant() && below.number().is_none()) {
        return sigmoid_below(below, node);
    }
    if below.is_constant() {
        return beside_a_constant(node, steps);
    }
    if below.number().is_some() {
        return search(above, steps.less()).filter(|found| found.squash.is_some());
    }
    let own = same(above);
    // e / (e + 1)
    if let Some(found) = sigmoid_quotient(own, below, node) {
        return Some(found);
    }
    normalised(own, below, node)
}

/// `e / sum(e)` as scores under a softmax.
fn normalised<'g>(e: ValueRef<'g>, sum: ValueRef<'g>, node: NodeRef<'g>) -> Option<Found<'g>> {
    let (summed, axis) = sum_of(sum)?;
    if same(summed).id() != e.id() {
        return None;
    }
    let power = e.from(&["Exp", "Pow"]).ok()?;
    if power.is(&["Exp"]) {
        return Some(Found::softmax(unshifted(power.input(0).ok()?), axis, node));
    }
    let (base, exponent) = (power.input(0).ok()?.number()?, unshifted(power.input(1).ok()?));
    let is_e = (base - std::f64::consts::E).abs() < 1e-5;
    Some(if is_e { Found::softmax(exponent, axis, node) } else { Found::new(exponent, Squash::Mixed, node) })
}

/// What is summed, and over which axis.
fn sum_of(value: ValueRef<'_>) -> Option<(ValueRef<'_>, Option<i64>)> {
    let mut at = same(value);
    loop {
        let node = at.producer()?;
        match node.op() {
            "ReduceSum" | "ReduceL1" => {
                let axes =
                    node.input(1).ok().and_then(|axes| axes.stored()?.to_i64()).or_else(|| node.node().ints("axes").map(<[i64]>::to_vec));
                let axis = axes.as_deref().and_then(<[i64]>::first).copied();
                return Some((node.input(0).ok()?, axis));
            }
            // A guard against a division by zero.
            "Add" | "Max" => {
                let varying = node.inputs().find(|input| !input.is_constant())?;
                at = same(varying);
            }
            "Clip" => at = same(node.input(0).ok()?),
            _ => return None,
        }
    }
}

/// The scores before their largest was subtracted.
fn unshifted(exponent: ValueRef<'_>) -> ValueRef<'_> {
    let shifted = same(exponent).from(&["Sub"]).ok().and_then(|sub| Some((sub.input(0).ok()?, same(sub.input(1).ok()?))));
    match shifted {
        Some((scores, largest)) if largest.from(&["ReduceMax", "ReduceLogSumExp", "TopK"]).is_ok() => scores,
        _ => exponent,
    }
}

/// `x - logsumexp(x)`, `z - log(sum(exp(z)))`.
fn log_softmax(node: NodeRef<'_>) -> Option<Found<'_>> {
    let (scores, subtracted) = (node.input(0).ok()?, same(node.input(1).ok()?));
    let from = subtracted.producer()?;
    if from.is(&["ReduceLogSumExp"]) {
        let axes = from.input(1).ok().and_then(|axes| axes.stored()?.to_i64()).or_else(|| from.node().ints("axes").map(<[i64]>::to_vec));
        return Some(Found::softmax(scores, axes.as_deref().and_then(<[i64]>::first).copied(), node));
    }
    if !from.is(&["Log"]) {
        return None;
    }
    let (summed, axis) = sum_of(from.input(0).ok()?)?;
    let exponent = same(summed).from(&["Exp"]).ok()?.input(0).ok()?;
    (same(exponent).id() == same(scores).id()).then(|| Found::softmax(unshifted(scores), axis, node))
}

/// `e * (1 / sum(e))`.
fn quotient_by_reciprocal(node: NodeRef<'_>) -> Option<Found<'_>> {
    let (a, b) = (node.input(0).ok()?, node.input(1).ok()?);
    let one = |e: ValueRef<'_>, other: ValueRef<'_>| Some((same(e).id(), same(other).from(&["Reciprocal"]).ok()?.input(0).ok()?.id()));
    let graph = node.graph();
    let (e, sum) = one(a, b).or_else(|| one(b, a))?;
    normalised(ValueRef::new(graph, e), ValueRef::new(graph, sum), node)
}

/// `1 + exp(-x)`, below a quotient.
fn sigmoid_below<'g>(below: ValueRef<'g>, node: NodeRef<'g>) -> Option<Found<'g>> {
    let add = same(below).from(&["Add"]).ok()?;
    let exponent = same(add.inputs().find_map(|input| exponent(same(input)))?);
    let is_one = add.inputs().any(|input| input.number().is_some_and(|number| (number - 1.0).abs() < 1e-6));
    is_one.then(|| match negated(exponent) {
        Some(scores) => Found::sigmoid(scores, node),
        // The probability of -x.
        None => Found::sigmoid(exponent, node).turned(),
    })
}

/// `x`, of `exp(x)` or `e^x`.
fn exponent(power: ValueRef<'_>) -> Option<ValueRef<'_>> {
    let node = power.from(&["Exp", "Pow"]).ok()?;
    if node.is(&["Exp"]) {
        return node.input(0).ok();
    }
    let base = node.input(0).ok()?.number()?;
    (base - std::f64::consts::E).abs().lt(&1e-5).then(|| node.input(1).ok()).flatten()
}

/// `x`, of `-x` in any spelling.
fn negated(value: ValueRef<'_>) -> Option<ValueRef<'_>> {
    let node = same(value).from(&["Neg", "Mul", "Div", "Sub"]).ok()?;
    let is =
        |input: usize, number: f64| node.input(input).ok().and_then(ValueRef::number).is_some_and(|found| (found - number).abs() < 1e-6);
    let negated = match node.op() {
        "Neg" => 0,
        "Sub" if is(0, 0.0) => 1,
        "Div" | "Mul" if is(1, -1.0) => 0,
        "Mul" if is(0, -1.0) => 1,
        _ => return None,
    };
    node.input(negated).ok()
}

/// `-softplus(-x)`, the logarithm of a sigmoid: under a `Neg`.
fn log_sigmoid(node: NodeRef<'_>) -> Option<Found<'_>> {
    let softplus = same(node.input(0).ok()?).from(&["Softplus"]).ok()?;
    let below = softplus.input(0).ok()?;
    Some(match negated(below) {
        Some(scores) => Found::sigmoid(scores, node),
        None => Found::sigmoid(below, node).turned(),
    })
}

/// `e / (e + 1)`.
fn sigmoid_quotient<'g>(e: ValueRef<'g>, below: ValueRef<'g>, node: NodeRef<'g>) -> Option<Found<'g>> {
    let exp = e.from(&["Exp"]).ok()?;
    let add = same(below).from(&["Add"]).ok()?;
    let is_own = add.inputs().any(|input| same(input).id() == e.id());
    let is_one = add.inputs().any(|input| input.number().is_some_and(|number| (number - 1.0).abs() < 1e-6));
    (is_own && is_one).then(|| exp.input(0).ok()).flatten().map(|scores| Found::sigmoid(scores, node))
}

/// `1 + tanh(x / 2)`, half of which is a sigmoid, or `1/2 + tanh(x / 2) / 2`.
fn sigmoid_of_tanh(node: NodeRef<'_>) -> Option<Found<'_>> {
    let near = |number: f64, wanted: f64| (number - wanted).abs() < 1e-6;
    let sign = if node.is(&["Sub"]) { -1.0 } else { 1.0 };
    let is_number = |number: f64| near(sign * number, 1.0) || near(sign * number, 0.5);
    node.inputs().find(|input| input.number().is_some_and(is_number))?;
    let other = same(node.inputs().find(|input| input.number().is_none())?);
    let scaled = other.from(&["Mul", "Div"]).ok().and_then(|mul| mul.inputs().find(|input| input.number().is_none()));
    let tanh = same(scaled.unwrap_or(other)).from(&["Tanh"]).ok()?;
    let half = same(tanh.input(0).ok()?);
    let halved = half.from(&["Mul", "Div"]).ok().and_then(|node| {
        let wanted = if node.is(&["Mul"]) { 0.5 } else { 2.0 };
        node.inputs().find(|input| input.number().is_some_and(|number| near(number, wanted)))?;
        node.inputs().find(|input| input.number().is_none())
    });
    Some(match halved {
        Some(scores) => Found::sigmoid(scores, node),
        // The probability of scores that are no value of the graph.
        None => Found::new(half, Squash::Mixed, node),
    })
}

/// Probabilities that are scaled, shifted or bounded by a constant: all alike, or those of each class by a number of its own.
fn beside_a_constant<'g>(node: NodeRef<'g>, steps: Steps<'_, 'g>) -> Option<Found<'g>> {
    let mut varying = node.inputs().filter(|input| !input.is_constant());
    let (only, None) = (varying.next()?, varying.next()) else { return None };
    let found = search(only, steps.less()).filter(|found| found.squash.is_some())?;
    let constant = node.inputs().find(|input| input.is_constant())?;
    let numbers = constant.stored().and_then(Tensor::to_f32).unwrap_or_default();
    let is_one = numbers.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits());
    let scales = node.is(&["Mul", "Div"]);
    Some(match numbers.first() {
        Some(_) if scales && !is_one => found.mixed(),
        Some(&number) if scales && number < 0.0 => found.turned(),
        _ => found,
    })
}

/// `[1 - p, p]`, or the parts of probabilities that were split, in their order; what else is joined with probabilities makes them those of several
/// predictions, or of classes in another order.
fn joined<'g>(node: NodeRef<'g>, steps: Steps<'_, 'g>) -> Option<Found<'g>> {
    let parts = || node.inputs().map(|input| same(input));
    let found: Vec<Option<Found<'g>>> = node.inputs().map(|input| search(input, steps.less())).collect();
    let scores: BTreeSet<Option<ValueId>> = found.iter().map(|found| found.as_ref().map(|found| found.scores.id())).collect();
    let turned: Vec<bool> = found.iter().flatten().map(|found| found.is_turned).collect();
    let first = found.into_iter().flatten().find(|found| found.squash.is_some())?;
    let are_of_one = scores.len() == 1;
    let is_pair = are_of_one && turned == [true, false] && first.squash == Some(Squash::Sigmoid);
    let split = parts().next()?.from(&["Split"]).ok();
    let are_in_order = split.is_some_and(|split| split.node().writes().eq(parts().map(ValueRef::id)));
    match split.filter(|_| are_of_one && are_in_order) {
        Some(split) => search(split.input(0).ok()?, steps.less()),
        None => Some(if is_pair { Found { is_turned: false, ..first } } else { first.mixed() }),
    }
}

/// Whether what is taken of probabilities are several classes in other places than their scores have. One class alone is that of its place; other
/// axes are those of tokens and rows.
fn changes_places(taken: ValueRef<'_>, node: NodeRef<'_>) -> bool {
    let Ok(from) = node.input(0) else { return false };
    let (Some(rank), Some(classes)) = (from.fact().rank(), from.fact().shape.as_ref().and_then(|shape| shape.last()?.as_known())) else {
        return false;
    };
    let is_last = |axis: i64| axis == -1 || axis + 1 == num::int(rank);
    let numbers = |input: usize| node.input(input).ok()?.stored()?.to_i64();
    match node.op() {
        "Gather" | "GatherElements" if is_last(node.node().int("axis", 0)) => {
            let Some(places) = numbers(1) else { return true };
            places.len() > 1 && !places.iter().map(|place| place.rem_euclid(classes.max(1))).eq(0..classes.min(num::int(places.len())))
        }
        "Slice" => {
            let axes = numbers(3).or_else(|| node.node().ints("axes").map(<[i64]>::to_vec));
            let at = match &axes {
                Some(axes) => axes.iter().position(|&axis| is_last(axis)),
                None => Some(rank - 1),
            };
            let Some(at) = at else { return false };
            let starts = numbers(1).or_else(|| node.node().ints("starts").map(<[i64]>::to_vec));
            let step = numbers(4).and_then(|steps| steps.get(at).copied()).unwrap_or(1);
            let is_from_first = starts.and_then(|starts| starts.get(at).copied()).is_some_and(|start| start == 0 || start <= -classes);
            taken.length(taken.fact().rank().unwrap_or(rank) - 1) != Some(1) && !(is_from_first && step == 1)
        }
        "Split" if is_last(node.node().int("axis", 0)) => {
            let is_first = node.node().output(0) == Some(taken.id());
            !is_first && taken.length(rank - 1) != Some(1)
        }
        _ => false,
    }
}

/// The same numbers behind operators that only change their type and shape.
fn same(value: ValueRef<'_>) -> ValueRef<'_> {
    value.behind(&["Identity", "Cast", "Reshape", "Expand", "Unsqueeze", "Squeeze"])
}
