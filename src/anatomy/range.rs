//! Between which numbers a value lies, whatever the graph is fed with: as far as the operators that make it tell.

use std::collections::BTreeMap;
use std::f64::consts::FRAC_PI_2;

use crate::ir::{Graph, ValueId};

use super::alike::{is_equal, is_square};
use super::cosines;
use super::walk::{NodeRef, ValueRef};

/// The lowest and the highest number that a value can have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

/// Any number.
const ANY: Bounds = Bounds { low: f64::NEG_INFINITY, high: f64::INFINITY };

/// Numbers of a constant that are looked at.
const MOST_NUMBERS: usize = 1 << 16;
/// How sure of an answer logits have to be able to be.
const SURE: f64 = 0.999;
/// Values that are looked at before everything is possible.
const MOST_VALUES: usize = 256;

/// Between which numbers a value of the graph lies, whatever it is fed with.
#[must_use]
pub fn bounds(graph: &Graph, value: ValueId) -> Bounds {
    of(graph, value)
}

/// The range of a value.
pub(super) fn of(graph: &Graph, value: ValueId) -> Bounds {
    Search::default().of(ValueRef::new(graph, value))
}

impl Bounds {
    fn new(low: f64, high: f64) -> Self {
        if low.is_nan() || high.is_nan() { ANY } else { Self { low, high } }
    }

    /// Of a function that grows with its argument.
    fn grown(self, by: impl Fn(f64) -> f64) -> Self {
        Self::new(by(self.low), by(self.high))
    }

    /// Whatever lies in one of two.
    fn or(self, other: Self) -> Self {
        Self::new(self.low.min(other.low), self.high.max(other.high))
    }

    fn negated(self) -> Self {
        Self::new(-self.high, -self.low)
    }

    fn absolute(self) -> Self {
        if self.low >= 0.0 {
            self
        } else if self.high <= 0.0 {
            self.negated()
        } else {
            Self::new(0.0, self.high.max(-self.low))
        }
    }

    fn plus(self, other: Self) -> Self {
        Self::new(self.low + other.low, self.high + other.high)
    }

    fn times(self, other: Self) -> Self {
        // Nothing is nothing, however often.
        let product = |a: f64, b: f64| if a == 0.0 || b == 0.0 { 0.0 } else { a * b };
        let all =
            [product(self.low, other.low), product(self.low, other.high), product(self.high, other.low), product(self.high, other.high)];
        Self::new(all.iter().copied().fold(f64::INFINITY, f64::min), all.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }

    /// Of `1 / x`.
    fn reciprocal(self) -> Self {
        if self.low >= 0.0 {
            Self::new(1.0 / self.high, if self.low == 0.0 { f64::INFINITY } else { 1.0 / self.low })
        } else if self.high <= 0.0 {
            self.negated().reciprocal().negated()
        } else {
            ANY
        }
    }

    /// The probability that a softmax of so many of these numbers gives one of them at most.
    #[must_use]
    pub fn surest_of(self, classes: f64) -> f64 {
        ((classes - 1.0) * (self.low - self.high).exp() + 1.0).recip()
    }

    /// Between which probabilities their sigmoids lie.
    #[must_use]
    pub fn sigmoids(self) -> Self {
        self.grown(|x| ((-x).exp() + 1.0).recip())
    }

    /// Whether these can be logits of so many classes, one of which is right.
    ///
    /// Logits that are bounded keep the loss of a row that is right from 0, and are pressed against their bounds (NormFace, Wang et al. 2017, proposition 2). Caps of
    /// language models (`30 tanh(x / 30)`) and scaled cosines (`s = 10` and more) are far from that; a bare `tanh`, a cosine or a clip from -1 to 1 are not.
    #[must_use]
    pub fn may_be_logits_of(self, classes: f64) -> bool {
        self.surest_of(classes) >= SURE
    }

    /// Whether these can be logits of truths, each for itself.
    #[must_use]
    pub fn may_be_logits_of_truths(self) -> bool {
        let Self { low, high } = self.sigmoids();
        low <= 1.0 - SURE && high >= SURE
    }

    /// Whether there is a lowest and a highest number.
    pub(super) fn is_closed(self) -> bool {
        self.low.is_finite() && self.high.is_finite()
    }

    /// Whether these are numbers from 0 to 1, as probabilities are, up to roundings of constants.
    pub(super) fn is_of_probabilities(self) -> bool {
        const ROUNDING: f64 = 1e-3;
        self.low >= -ROUNDING && self.high <= 1.0 + ROUNDING
    }

    /// Whether these are all of the numbers from 0 to 1, up to a guard against logarithms of 0.
    pub(super) fn is_of_all_probabilities(self) -> bool {
        const GUARD: f64 = 1e-2;
        self.is_of_probabilities() && self.low <= GUARD && self.high >= 1.0 - GUARD
    }
}

#[derive(Default)]
struct Search {
    known: BTreeMap<ValueId, Bounds>,
}

impl Search {
    fn of(&mut self, value: ValueRef<'_>) -> Bounds {
        if let Some(known) = self.known.get(&value.id()) {
            return *known;
        }
        if self.known.len() >= MOST_VALUES {
            return ANY;
        }
        self.known.insert(value.id(), ANY);
        let found = match value.producer() {
            Some(node) => self.made_by(node),
            None => stored(value).unwrap_or(ANY),
        };
        self.known.insert(value.id(), found);
        found
    }

    fn input(&mut self, node: NodeRef<'_>, at: usize) -> Bounds {
        node.input(at).map_or(ANY, |input| self.of(input))
    }

    fn all(&mut self, node: NodeRef<'_>) -> Vec<Bounds> {
        node.inputs().map(|input| self.of(input)).collect()
    }

    fn made_by(&mut self, node: NodeRef<'_>) -> Bounds {
        let within = Bounds::new;
        if let Some(most) = cosines::most(node) {
            return within(-most, most);
        }
        match node.op() {
            "Sigmoid" | "HardSigmoid" | "Softmax" | "Not" | "And" | "Or" | "Equal" | "Greater" | "GreaterOrEqual" | "Less"
            | "LessOrEqual" => within(0.0, 1.0),
            "Tanh" | "Softsign" | "Erf" | "Sin" | "Cos" | "Sign" => within(-1.0, 1.0),
            "Atan" => within(-FRAC_PI_2, FRAC_PI_2),
            "LogSoftmax" => within(f64::NEG_INFINITY, 0.0),
            "Softplus" => within(0.0, f64::INFINITY),
            "Identity" | "Cast" | "CastLike" | "Dropout" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Transpose" | "Slice"
            | "Gather" | "GatherElements" | "Split" | "Expand" | "ReduceMean" | "ReduceMax" | "ReduceMin" => self.input(node, 0),
            "Relu" => self.input(node, 0).grown(|x| x.max(0.0)),
            "Abs" => self.input(node, 0).absolute(),
            "Neg" => self.input(node, 0).negated(),
            "Exp" => self.input(node, 0).grown(f64::exp),
            "Log" => self.input(node, 0).grown(|x| x.max(0.0).ln()),
            "Sqrt" => self.input(node, 0).grown(|x| x.max(0.0).sqrt()),
            "Floor" => self.input(node, 0).grown(f64::floor),
            "Ceil" => self.input(node, 0).grown(f64::ceil),
            "Round" => self.input(node, 0).grown(f64::round_ties_even),
            "Reciprocal" => self.input(node, 0).reciprocal(),
            "ReduceSum" | "ReduceL1" | "ReduceL2" if self.input(node, 0).low >= 0.0 || node.op() != "ReduceSum" => {
                within(0.0, f64::INFINITY)
            }
            "Clip" => self.clipped(node),
            "Add" => self.input(node, 0).plus(self.input(node, 1)),
            "Sub" => self.input(node, 0).plus(self.input(node, 1).negated()),
            "Mul" if is_square(node) => self.input(node, 0).absolute().grown(|x| x * x),
            "Mul" => self.input(node, 0).times(self.input(node, 1)),
            "Div" => self.quotient(node),
            "Pow" => self.power(node),
            "LpNormalization" => {
                let low = if self.input(node, 0).low >= 0.0 { 0.0 } else { -1.0 };
                within(low, 1.0)
            }
            "Min" => self.all(node).into_iter().reduce(|a, b| within(a.low.min(b.low), a.high.min(b.high))).unwrap_or(ANY),
            "Max" => self.all(node).into_iter().reduce(|a, b| within(a.low.max(b.low), a.high.max(b.high))).unwrap_or(ANY),
            "Mean" | "Concat" => self.all(node).into_iter().reduce(Bounds::or).unwrap_or(ANY),
            "Where" => self.input(node, 1).or(self.input(node, 2)),
            _ => node.output(0).ok().and_then(stored).unwrap_or(ANY),
        }
    }

    fn clipped(&mut self, node: NodeRef<'_>) -> Bounds {
        let mut bound = |at: usize, none: f64| if node.input(at).is_ok() { self.input(node, at) } else { Bounds::new(none, none) };
        let (least, most) = (bound(1, f64::NEG_INFINITY), bound(2, f64::INFINITY));
        let of = self.input(node, 0);
        Bounds::new(of.low.max(least.low).min(most.high), of.high.max(least.high).min(most.high))
    }

    fn power(&mut self, node: NodeRef<'_>) -> Bounds {
        let base = self.input(node, 0);
        match node.input(1).ok().and_then(ValueRef::number) {
            Some(exponent) if exponent > 0.0 && exponent % 2.0 == 0.0 => base.absolute().grown(|x| x.powf(exponent)),
            Some(exponent) if exponent > 0.0 && base.low >= 0.0 => base.grown(|x| x.powf(exponent)),
            _ => ANY,
        }
    }

    fn quotient(&mut self, node: NodeRef<'_>) -> Bounds {
        let (above, below) = (self.input(node, 0), self.input(node, 1));
        let any = above.times(below.reciprocal());
        match self.is_within(node) {
            Some(true) => Bounds::new(any.low.max(if above.low >= 0.0 { 0.0 } else { -1.0 }), any.high.min(1.0)),
            _ => any,
        }
    }

    /// Whether what is divided by is at least as large as what is divided: `x / (1 + |x|)`, `x / sqrt(1 + x²)`, `x / sum(x)` of what is not negative.
    fn is_within(&mut self, node: NodeRef<'_>) -> Option<bool> {
        let (above, below) = (node.input(0).ok()?, node.input(1).ok()?);
        let is_positive = self.of(above).low >= 0.0;
        let is_own = |value: ValueRef<'_>| is_equal(value, above);
        let maker = same(below).producer()?;
        if maker.is(&["ReduceSum"]) {
            return Some(is_positive && maker.input(0).is_ok_and(is_own));
        }
        let is_root = maker.is(&["Sqrt"]);
        let add = if is_root { same(maker.input(0).ok()?).producer()? } else { maker };
        if !add.is(&["Add"]) {
            return Some(false);
        }
        let is_size = |value: ValueRef<'_>| {
            let Some(maker) = value.producer() else { return false };
            let has_own = maker.input(0).is_ok_and(is_own);
            match maker.op() {
                "Abs" => !is_root && has_own,
                "Mul" => is_root && has_own && is_square(maker),
                "Pow" => is_root && has_own && maker.input(1).ok().and_then(ValueRef::number) == Some(2.0),
                _ => false,
            }
        };
        let (first, second) = (add.input(0).ok()?, add.input(1).ok()?);
        let mut fits = |one: ValueRef<'_>, other: ValueRef<'_>| {
            (is_size(one) || (!is_root && is_positive && is_own(one))) && self.of(other).low >= 0.0
        };
        Some(fits(first, second) || fits(second, first))
    }
}

fn same(value: ValueRef<'_>) -> ValueRef<'_> {
    value.behind(&["Identity", "Cast", "Reshape", "Expand", "Unsqueeze", "Squeeze"])
}

/// The range of a constant's numbers.
fn stored(value: ValueRef<'_>) -> Option<Bounds> {
    let tensor = value.stored().filter(|tensor| tensor.shape().iter().product::<usize>() <= MOST_NUMBERS)?;
    let numbers = tensor.to_f64()?;
    let low = numbers.iter().copied().reduce(f64::min)?;
    numbers.iter().copied().reduce(f64::max).map(|high| Bounds::new(low, high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, DType, Dim, Expr, ModelInfo, Tensor};

    #[test]
    fn operators_tell_between_which_numbers_their_outputs_lie() {
        const INFINITE: f64 = f64::INFINITY;
        type Write = for<'g> fn(&'g Builder, Expr<'g>) -> Expr<'g>;
        fn unit(b: &Builder) -> Expr<'_> {
            b.initializer("unit", Tensor::from_f32(&[3, 3], &[0.0, 0.0, -1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]))
        }
        fn op<'g>(b: &'g Builder, op: &str, x: Expr<'g>) -> Expr<'g> {
            b.op(op, &[x], &[])
        }
        let rows: &[(&str, Write, f64, f64)] = &[
            ("anything", |_, x| x, -INFINITE, INFINITE),
            ("a sum", |_, x| x.sigmoid() + x.tanh(), -1.0, 2.0),
            ("a difference", |_, x| x.sigmoid() - x.tanh(), -1.0, 2.0),
            ("a product with a negative", |_, x| x.sigmoid() * -2.0, -2.0, 0.0),
            ("a square", |_, x| x * x, 0.0, INFINITE),
            ("an even power", |b, x| b.op("Pow", &[x.tanh(), b.number(2.0, DType::F32)], &[]), 0.0, 1.0),
            ("a quotient", |b, x| b.number(1.0, DType::F32) / (x.sigmoid() + 1.0), 0.5, 1.0),
            ("a quotient by what may be nothing", |b, x| b.number(1.0, DType::F32) / x.tanh(), -INFINITE, INFINITE),
            ("a softsign", |b, x| x / (op(b, "Abs", x) + 1.0), -1.0, 1.0),
            ("x / sqrt(1 + x²)", |b, x| x / op(b, "Sqrt", x * x + 1.0), -1.0, 1.0),
            ("x / (1 + x)", |_, x| x / (x + 1.0), -INFINITE, INFINITE),
            ("an exponential", |b, x| (-op(b, "Relu", x)).exp(), 0.0, 1.0),
            ("a logarithm", |b, x| op(b, "Log", x.sigmoid()), -INFINITE, 0.0),
            ("a clip of one side", |b, x| b.op("Clip", &[x, b.number(-2.0, DType::F32)], &[]), -2.0, INFINITE),
            ("a cosine with weights", |b, x| b.op("LpNormalization", &[x], &[]).matmul(unit(b)), -1.0, 1.0),
            ("a scaled cosine", |b, x| x / b.op("ReduceL2", &[x, b.ints(&[-1])], &[]) * 8.0 * 1.0, -8.0, 8.0),
            (
                "a cosine of two, with a guard",
                |b, x| {
                    let y = op(b, "Sin", x);
                    let lengths = op(b, "Sqrt", (x * x).sum(&[-1]) * (y * y).sum(&[-1]));
                    (x * y).sum(&[-1]) / lengths.max(b.number(1e-8, DType::F32))
                },
                -1.0,
                1.0,
            ),
            (
                "a product with weights of length 1, with a guard",
                |b, x| (x / op(b, "Sqrt", x.square().sum(&[-1]) + 1e-12)).matmul(unit(b).t()) * 20.0,
                -20.0,
                20.0,
            ),
            ("one or the other", |b, x| x.sigmoid().concat(&[b.constant(Tensor::from_f32(&[1, 2], &[-3.0, 2.0]))], -1), -3.0, 2.0),
        ];
        for (what, write, low, high) in rows {
            let b = Builder::new(ModelInfo::dialect());
            let x = b.input("x", DType::F32, &[Dim::known(1), Dim::known(3)]);
            b.output("y", write(&b, x));
            let graph = b.finish().expect("a valid graph");
            assert_eq!(of(&graph, graph.outputs()[0]), Bounds::new(*low, *high), "{what}");
        }
    }
}
