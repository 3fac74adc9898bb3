//! ONNX's operators as methods of [`Expr`], and the idioms that rules, losses and adapters are written in.
//!
//! Every method's fact comes from the table in [`infer`](super::infer); nothing here computes shapes of results.

mod shapes;

use crate::num;

use super::builder::NodeSpec;
use super::builder::expr::Expr;
use super::dim::Dim;
use super::dtype::DType;
use super::graph::NO_GRADIENT;
use super::graph::attr::Attr;
use super::lengths::reshape_lengths;

macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident $op:literal),* $(,)?) => {
        $($(#[$doc])* #[must_use] pub fn $method(self) -> Self { self.unary($op) })*
    };
}

macro_rules! binary {
    ($($(#[$doc:meta])* $method:ident $op:literal),* $(,)?) => {
        $($(#[$doc])* #[must_use] pub fn $method(self, other: Self) -> Self { self.binary($op, other) })*
    };
}

/// Elementwise operators, named as ONNX names them.
impl Expr<'_> {
    unary! {
        /// `|x|`
        abs "Abs",
        /// `cos x`
        cos "Cos",
        /// `cosh x`
        cosh "Cosh",
        /// `sin x`
        sin "Sin",
        /// `sinh x`
        sinh "Sinh",
        /// `ln(1 + eˣ)`
        softplus "Softplus",
        /// `eˣ`
        exp "Exp",
        /// `erf x`
        erf "Erf",
        /// `ln x`
        log "Log",
        /// The same value.
        identity "Identity",
        /// True where `x` is false.
        logical_not "Not",
        /// `1 / x`
        reciprocal "Reciprocal",
        /// `1 / (1 + e⁻ˣ)`
        sigmoid "Sigmoid",
        /// -1, 0 or 1.
        sign "Sign",
        /// `√x`
        sqrt "Sqrt",
        /// `tanh x`
        tanh "Tanh",
        /// The largest whole number not above `x`.
        floor "Floor",
    }

    binary! {
        /// `xʸ`
        pow "Pow",
        /// Whether elements are equal.
        equal "Equal",
        /// Whether `x > y`.
        greater "Greater",
        /// Whether `x ≥ y`.
        greater_or_equal "GreaterOrEqual",
        /// Whether `x < y`.
        less "Less",
        /// Both.
        and "And",
        /// Either.
        or "Or",
        /// The remainder of whole numbers, with the sign of the divisor.
        modulo "Mod",
        /// The larger.
        max "Max",
        /// The smaller.
        min "Min",
        /// The product of matrices; leading axes broadcast.
        matmul "MatMul",
    }

    /// `x²`
    #[must_use]
    pub fn square(self) -> Self {
        self * self
    }

    /// The same numbers in another type.
    #[must_use]
    pub fn cast(self, to: DType) -> Self {
        if self.fact().dtype == Some(to) {
            return self;
        }
        self.b().op("Cast", &[self], &[("to", Attr::Int(to.code().into()))])
    }

    /// The same value, as a constant to gradients: an `Identity` that says so ([`NO_GRADIENT`]).
    #[must_use]
    pub fn without_gradient(self) -> Self {
        let spec = NodeSpec {
            op: "Identity".into(),
            inputs: vec![Some(self.id())],
            outputs: vec![Some("".into())],
            metadata: vec![(NO_GRADIENT.into(), "".into())],
            ..NodeSpec::default()
        };
        self.b().node(spec)[0].unwrap_or(self)
    }

    /// `value`, with the gradient of `self`, whose shape and type it has: to gradients the two are the same (Bengio et al., Estimating or Propagating
    /// Gradients Through Stochastic Neurons, section 4: the straight-through estimator).
    #[must_use]
    pub fn straight_through(self, value: Self) -> Self {
        value.without_gradient() + (self - self.without_gradient())
    }

    /// `x` where `self` is true, else `y`.
    #[must_use]
    pub fn where_(self, x: Self, y: Self) -> Self {
        self.b().op("Where", &[self, x, y], &[])
    }
}

/// Matrices.
impl Expr<'_> {
    /// `αA·B` for matrices, either of them transposed first as `trans_a` and `trans_b` say. One `Gemm` never copies a transposed weight.
    #[must_use]
    pub fn gemm(self, trans_a: Transposed, other: Self, trans_b: Transposed) -> Self {
        let attrs = [("transA", trans_a), ("transB", trans_b)];
        let attrs: Vec<_> = attrs.into_iter().filter(|(_, t)| *t == Transposed::Yes).map(|(name, _)| (name, Attr::Int(1))).collect();
        self.b().op("Gemm", &[self, other], &attrs)
    }

    /// Swaps the last two axes.
    #[must_use]
    pub fn t(self) -> Self {
        let rank = i64::try_from(self.rank()).unwrap_or(2).max(2);
        let perm: Vec<i64> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
        self.transpose(&perm)
    }

    /// Puts axis `perm[i]` of `self` at place `i`.
    #[must_use]
    pub fn transpose(self, perm: &[i64]) -> Self {
        if perm.iter().zip(0..).all(|(&p, i)| p == i) {
            return self;
        }
        self.b().op("Transpose", &[self], &[("perm", perm.into())])
    }

    /// Joins all axes but the last: `[.., n]` to `[rows, n]`.
    #[must_use]
    pub fn rows(self) -> Self {
        let dims = self.known_dims();
        match dims.split_last() {
            Some((_, rows)) if rows.len() == 1 => self,
            Some((last, rows)) => match reshape_lengths(&dims, &vec![Dim::product(rows), last.clone()]) {
                Some(lengths) => self.reshape(&lengths),
                None => self.b().op("Flatten", &[self], &[("axis", Attr::Int(-1))]),
            },
            None => self.reshape(&[1, 1]),
        }
    }
}

/// Whether an operand of [`Expr::gemm`] is transposed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transposed {
    /// As it is.
    No,
    /// With its two axes swapped.
    Yes,
}

/// Reductions.
impl Expr<'_> {
    fn reduce(self, op: &str, axes: &[i64], keep: i64) -> Self {
        if axes.is_empty() {
            return self;
        }
        let axes = self.b().ints(axes);
        self.b().op(op, &[self, axes], &[("keepdims", Attr::Int(keep))])
    }

    /// The sum along `axes`, each kept with length 1.
    #[must_use]
    pub fn sum(self, axes: &[i64]) -> Self {
        self.reduce("ReduceSum", axes, 1)
    }

    /// The sum along `axes`, which are gone afterwards.
    #[must_use]
    pub fn sum_away(self, axes: &[i64]) -> Self {
        self.reduce("ReduceSum", axes, 0)
    }

    /// The sum of all elements, rank 0.
    #[must_use]
    pub fn sum_all(self) -> Self {
        self.b().op("ReduceSum", &[self], &[("keepdims", Attr::Int(0))])
    }

    /// The mean along `axes`, each kept with length 1.
    #[must_use]
    pub fn mean(self, axes: &[i64]) -> Self {
        self.reduce("ReduceMean", axes, 1)
    }

    /// The largest element along `axis`, which is kept with length 1.
    #[must_use]
    pub fn reduce_max(self, axis: i64) -> Self {
        self.reduce("ReduceMax", &[axis], 1)
    }

    /// The place of the largest element along `axis`, int64, the axis gone.
    #[must_use]
    pub fn argmax(self, axis: i64) -> Self {
        self.b().op("ArgMax", &[self], &[("axis", Attr::Int(axis)), ("keepdims", Attr::Int(0))])
    }

    /// `eˣ / Σ eˣ` along `axis`.
    #[must_use]
    pub fn softmax(self, axis: i64) -> Self {
        self.b().op("Softmax", &[self], &[("axis", Attr::Int(axis))])
    }

    /// `x - ln Σ eˣ` along `axis`.
    #[must_use]
    pub fn log_softmax(self, axis: i64) -> Self {
        self.b().op("LogSoftmax", &[self], &[("axis", Attr::Int(axis))])
    }

    /// Sums the axes along which a value shaped as `target` was broadcast to get `self`.
    ///
    /// Where facts do not tell which axes those are, the graph finds out when it runs.
    #[must_use]
    pub fn sum_to(self, target: Self) -> Self {
        let (from, to) = (self.known_dims(), target.known_dims());
        if from == to {
            return self;
        }
        let lead = from.len().saturating_sub(to.len());
        let leading: Vec<i64> = (0..num::int(lead)).collect();
        let summed = self.sum_away(&leading);
        let rest = &from[lead..];
        let stretched = |(have, want): (&Dim, &Dim)| match (have == want, want.as_known()) {
            (false, Some(1)) => Stretched::Yes,
            (false, None) => Stretched::Perhaps,
            _ => Stretched::No,
        };
        let axes: Vec<Stretched> = rest.iter().zip(&to).map(stretched).collect();
        if axes.contains(&Stretched::Perhaps) {
            return summed.sum_axes_that_differ(target);
        }
        let axes: Vec<i64> = (0..).zip(axes).filter(|(_, s)| *s == Stretched::Yes).map(|(i, _)| i).collect();
        summed.sum(&axes)
    }

    /// Sums the axes that have length 1 in `target`, looking at both shapes when the graph runs. Ranks are equal.
    fn sum_axes_that_differ(self, target: Self) -> Self {
        let (have, want) = (self.shape(), target.shape());
        let stretched = have.equal(want).logical_not();
        let axes = stretched.nonzero().reshape(&[-1]);
        let summed = self.b().op("ReduceSum", &[self, axes], &[("keepdims", Attr::Int(1)), ("noop_with_empty_axes", Attr::Int(1))]);
        if let Some(shape) = target.dims() {
            self.b().assume(summed.id(), super::fact::Fact::new(self.dtype(), shape));
        }
        summed
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stretched {
    Yes,
    No,
    Perhaps,
}

/// Reading and writing by index.
impl Expr<'_> {
    /// The parts of `axis` that `indices` names; the axis becomes the axes of `indices`.
    #[must_use]
    pub fn gather(self, indices: Self, axis: i64) -> Self {
        self.b().op("Gather", &[self, indices], &[("axis", Attr::Int(axis))])
    }

    /// For each index, the element at it along `axis`, all other coordinates being the index's own.
    #[must_use]
    pub fn gather_elements(self, indices: Self, axis: i64) -> Self {
        self.b().op("GatherElements", &[self, indices], &[("axis", Attr::Int(axis))])
    }

    /// Adds `updates` to the parts that `indices` (`[.., depth]`) names; a part named twice gets both. (`ScatterND-16`)
    #[must_use]
    pub fn scatter_nd_add(self, indices: Self, updates: Self) -> Self {
        let attrs = [("reduction", "add".into())];
        self.in_float32(updates, |data, updates| data.b().op("ScatterND", &[data, indices, updates], &attrs))
    }

    /// Adds `updates` to the elements at `indices` along `axis`; an element named twice gets both. (`ScatterElements-16`)
    #[must_use]
    pub fn scatter_elements_add(self, indices: Self, updates: Self, axis: i64) -> Self {
        let attrs = [("axis", Attr::Int(axis)), ("reduction", "add".into())];
        self.in_float32(updates, |data, updates| data.b().op("ScatterElements", &[data, indices, updates], &attrs))
    }

    /// What `write` makes of two values, computed in float32 where they are of half precision: ONNX Runtime's processor does not add
    /// such numbers by index.
    fn in_float32(self, other: Self, write: impl FnOnce(Self, Self) -> Self) -> Self {
        match self.dtype() {
            half @ (DType::F16 | DType::BF16) => write(self.cast(DType::F32), other.cast(DType::F32)).cast(half),
            _ => write(self, other),
        }
    }

    /// Where the elements that are not zero stand: `[rank, count]`, int64.
    #[must_use]
    pub fn nonzero(self) -> Self {
        self.unary("NonZero")
    }

    /// `start, start + 1, ..`, up to `self` (not included); all rank 0.
    #[must_use]
    pub fn range_from(self, start: Self) -> Self {
        let b = self.b();
        b.op("Range", &[start, self, b.number(1.0, self.dtype())], &[])
    }
}
