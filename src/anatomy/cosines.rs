//! Products of vectors whose lengths are known: cosines, and what they are multiplied with.
//!
//! ```text
//! x / |x| · w / |w| · s        a product of normalised features and weights
//! Σ x·y / max(√(Σx² · Σy²), ε) torch's cosine_similarity
//! ```

use crate::ir::Tensor;

use super::alike::{is_equal, is_square};
use super::walk::{NodeRef, ValueRef};

/// Numbers of a constant that are looked at.
const MOST_NUMBERS: usize = 1 << 22;
/// Nodes that are looked behind.
const STEPS: usize = 8;

/// The most that a product of vectors can be, or its negative: the product of their lengths, where those are bounded.
pub(super) fn most(node: NodeRef<'_>) -> Option<f64> {
    let input = |at: usize| node.input(at).ok();
    match node.op() {
        "MatMul" => Some(length(input(0)?, 1, STEPS)? * length(input(1)?, 2, STEPS)?),
        "Gemm" if node.input(2).is_err() => {
            let (a, b) = if node.node().int("transA", 0) == 0 { (1, 1) } else { (2, 1) };
            let of_weights = if node.node().int("transB", 0) == 0 { b + 1 } else { b };
            let scale = node.node().float("alpha", 1.0).abs();
            Some(length(input(0)?, a, STEPS)? * length(input(1)?, of_weights, STEPS)? * f64::from(scale))
        }
        "ReduceSum" => {
            let (axis, product) = (axis(node)?, input(0)?.from(&["Mul"]).ok()?);
            Some(length(product.input(0).ok()?, axis, STEPS)? * length(product.input(1).ok()?, axis, STEPS)?)
        }
        "Div" => {
            let sum = input(0)?.from(&["ReduceSum"]);
            let is_cosine = sum.is_ok_and(|sum| is_over_lengths(sum, node).unwrap_or(false));
            let is_normal = || is_length(input(1)?, input(0)?, 1);
            (is_cosine || is_normal().unwrap_or(false)).then_some(1.0)
        }
        _ => None,
    }
}

/// The largest length, `√Σx²`, of the vectors along an axis, which is counted from the last one: 1.
fn length(value: ValueRef<'_>, axis: usize, steps: usize) -> Option<f64> {
    if let Some(tensor) = value.stored() {
        return longest(tensor, axis);
    }
    let node = value.producer().filter(|_| steps > 0)?;
    let (first, second) = (node.input(0).ok()?, node.input(1).ok());
    let below = |axis: usize| length(first, axis, steps - 1);
    match node.op() {
        "Identity" | "Cast" | "Dropout" => below(axis),
        "Gather" if axis == 1 && from_end(node.node().int("axis", 0), first)? > 1 => below(axis),
        "Transpose" => {
            let rank = first.fact().rank()?;
            let to = rank.checked_sub(axis)?;
            let from = match node.node().ints("perm") {
                Some(perm) => usize::try_from(*perm.get(to)?).ok()?,
                None => rank - 1 - to,
            };
            below(rank.checked_sub(from)?)
        }
        "LpNormalization" => (node.node().int("p", 2) == 2 && from_end(node.node().int("axis", -1), first)? == axis).then_some(1.0),
        "Div" if is_length(second?, first, axis).unwrap_or(false) => Some(1.0),
        "Div" => Some(below(axis)? / second?.number()?.abs()),
        "Mul" => {
            let scaled = |of: ValueRef<'_>, by: ValueRef<'_>| Some(length(of, axis, steps - 1)? * by.number()?.abs());
            scaled(first, second?).or_else(|| scaled(second?, first))
        }
        _ => None,
    }
}

/// Whether a value is the length of the vectors along an axis of another, or more than that.
fn is_length(value: ValueRef<'_>, of: ValueRef<'_>, axis: usize) -> Option<bool> {
    let node = at_least(value).producer()?;
    match node.op() {
        "ReduceL2" => Some(self::axis(node)? == axis && is_equal(node.input(0).ok()?, of)),
        "Sqrt" => is_square_sum(node.input(0).ok()?, of, axis),
        _ => None,
    }
}

/// Whether a value is the sum of the squares along an axis of another, or more than that.
fn is_square_sum(value: ValueRef<'_>, of: ValueRef<'_>, axis: usize) -> Option<bool> {
    let node = at_least(value).producer()?;
    let input = node.input(0).ok()?;
    let is_along = || Some(self::axis(node)? == axis);
    match node.op() {
        "ReduceSumSquare" => Some(is_along()? && is_equal(input, of)),
        "ReduceSum" => {
            let square = input.from(&["Mul", "Pow"]).ok()?;
            let is_of = square.input(0).is_ok_and(|one| is_equal(one, of));
            let squares = if square.is(&["Mul"]) { is_square(square) } else { square.input(1).ok()?.number() == Some(2.0) };
            Some(is_along()? && is_of && squares)
        }
        _ => None,
    }
}

/// `Σ x·y / (|x| |y|)`, as `√(Σx² · Σy²)` or as a product of two lengths.
fn is_over_lengths(sum: NodeRef<'_>, quotient: NodeRef<'_>) -> Option<bool> {
    let (axis, product) = (axis(sum)?, sum.input(0).ok()?.from(&["Mul"]).ok()?);
    let (x, y) = (product.input(0).ok()?, product.input(1).ok()?);
    let below = at_least(quotient.input(1).ok()?);
    let root = below.from(&["Sqrt"]).ok();
    let both = root.map_or(Some(below), |root| root.input(0).ok().map(at_least))?.from(&["Mul"]).ok()?;
    let is = |value: ValueRef<'_>, of: ValueRef<'_>| {
        let found = if root.is_some() { is_square_sum(value, of, axis) } else { is_length(value, of, axis) };
        found == Some(true)
    };
    let (one, other) = (both.input(0).ok()?, both.input(1).ok()?);
    let are = |x: ValueRef<'_>, y: ValueRef<'_>| is(one, x) && is(other, y);
    Some(are(x, y) || are(y, x))
}

/// The value that another is at least, behind guards against dividing by nothing.
fn at_least(value: ValueRef<'_>) -> ValueRef<'_> {
    let mut at = value.behind(&["Identity", "Cast", "Expand", "Unsqueeze"]);
    for _ in 0..STEPS {
        let Some(node) = at.producer().filter(|node| node.is(&["Clip", "Max", "Add"])) else { return at };
        let guarded = match node.op() {
            "Clip" if node.input(2).is_err() => node.input(0).ok(),
            "Clip" => None,
            _ => {
                let is_guard = |other: ValueRef<'_>| other.number().is_some_and(|number| number >= 0.0);
                node.inputs().find(|input| node.inputs().all(|other| other.id() == input.id() || is_guard(other)))
            }
        };
        let Some(guarded) = guarded else { return at };
        at = guarded.behind(&["Identity", "Cast", "Expand", "Unsqueeze"]);
    }
    at
}

/// The one axis that a node sums over, counted from the last one.
fn axis(node: NodeRef<'_>) -> Option<usize> {
    let axes = node.input(1).ok().and_then(|axes| axes.stored()?.to_i64()).or_else(|| node.node().ints("axes").map(<[i64]>::to_vec));
    let [axis] = axes?[..] else { return None };
    from_end(axis, node.input(0).ok()?)
}

fn from_end(axis: i64, of: ValueRef<'_>) -> Option<usize> {
    if axis < 0 { usize::try_from(-axis).ok() } else { of.fact().rank()?.checked_sub(usize::try_from(axis).ok()?) }
}

/// The largest length of the vectors along an axis of a constant.
fn longest(tensor: &Tensor, axis: usize) -> Option<f64> {
    let shape = tensor.shape();
    let at = shape.len().checked_sub(axis)?;
    let (inner, count) = (shape[at + 1..].iter().product::<usize>(), *shape.get(at)?);
    if tensor.len() > MOST_NUMBERS || tensor.is_empty() {
        return None;
    }
    let numbers = tensor.to_f64()?;
    let of_vector =
        |outer: usize, lane: usize| (0..count).map(|place| numbers[(outer * count + place) * inner + lane].powi(2)).sum::<f64>();
    let outers = tensor.len() / (inner * count);
    let squares = (0..outers).flat_map(|outer| (0..inner).map(move |lane| of_vector(outer, lane)));
    squares.reduce(f64::max).map(f64::sqrt)
}
