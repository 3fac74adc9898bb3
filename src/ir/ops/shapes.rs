//! Shapes: what asks for lengths, gives a tensor another shape, cuts and joins.

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::Shape;
use super::super::lengths::reshape_lengths;
use super::super::tensor::Tensor;
use crate::error::Error;
use crate::ir::builder::expr::Expr;
use crate::ir::graph::attr::Attr;

impl Expr<'_> {
    /// The lengths of the axes as a vector, int64: a constant where they are known, computed from the inputs where those tell.
    #[must_use]
    pub fn shape(self) -> Self {
        self.dims().and_then(|dims| self.b().shape(&dims)).unwrap_or_else(|| self.unary("Shape"))
    }

    /// The lengths of some axes as a vector, int64: a constant where they are known.
    #[must_use]
    pub fn shape_of_axes(self, axes: &[i64]) -> Self {
        let dims: Shape = axes.iter().map(|&axis| self.dim(axis)).collect();
        self.b().shape(&dims).unwrap_or_else(|| self.shape().gather(self.b().ints(axes), 0))
    }

    /// The length of one axis as a vector of one element, int64.
    #[must_use]
    pub fn length(self, axis: i64) -> Self {
        self.shape_of_axes(&[axis])
    }

    /// The number of elements, int64, rank 0.
    #[must_use]
    pub fn size(self) -> Self {
        match self.dims().and_then(|dims| self.b().shape(&[Dim::product(&dims)])) {
            Some(size) => size.reshape(&[]),
            None => self.unary("Size"),
        }
    }

    /// Another shape: -1 for the length that follows from the others, 0 for the length that is there.
    #[must_use]
    pub fn reshape(self, lengths: &[i64]) -> Self {
        if self.fact().known_shape().is_some_and(|known| known == lengths) {
            return self;
        }
        self.b().op("Reshape", &[self, self.b().ints(lengths)], &[])
    }

    /// Another shape, given as a vector that the graph computes.
    #[must_use]
    pub fn reshape_to(self, lengths: Self) -> Self {
        self.b().op("Reshape", &[self, lengths], &[])
    }

    /// The shape of another value with as many elements.
    #[must_use]
    pub fn reshape_like(self, other: Self) -> Self {
        let dims = other.known_dims();
        if self.dims().as_ref() == Some(&dims) {
            return self;
        }
        match reshape_lengths(&self.known_dims(), &dims) {
            Some(lengths) => self.reshape(&lengths),
            None => self.reshape_to(other.shape()),
        }
    }

    /// Another shape whose lengths are given symbolically; at most one may be unknown.
    #[must_use]
    pub fn reshape_dims(self, dims: &Shape) -> Self {
        if self.dims().as_ref() == Some(dims) {
            return self;
        }
        let Some(lengths) = reshape_lengths(&self.known_dims(), dims) else {
            self.b().fail(Error::graph(format!("a constant shape with more than one unknown length: {dims:?}")));
            return self;
        };
        self.reshape(&lengths)
    }

    /// Adds axes of length 1 at `axes` of the result.
    #[must_use]
    pub fn unsqueeze(self, axes: &[i64]) -> Self {
        self.b().op("Unsqueeze", &[self, self.b().ints(axes)], &[])
    }

    /// Takes axes of length 1 away.
    #[must_use]
    pub fn squeeze(self, axes: &[i64]) -> Self {
        self.b().op("Squeeze", &[self, self.b().ints(axes)], &[])
    }

    /// Repeats axes of length 1 until the shape is that of `other`.
    #[must_use]
    pub fn expand_like(self, other: Self) -> Self {
        if self.dims().is_some() && self.dims() == other.dims() {
            return self;
        }
        self.b().op("Expand", &[self, other.shape()], &[])
    }

    /// Repeats axes of length 1 as often as `lengths`, a vector, says; 1 for those that stay.
    #[must_use]
    pub fn expand(self, lengths: Self) -> Self {
        self.b().op("Expand", &[self, lengths], &[])
    }

    /// A tensor of this shape and type filled with a number.
    #[must_use]
    pub fn filled_like(self, number: f64) -> Self {
        self.shape().filled(number, self.dtype())
    }

    /// A tensor of the shape that `self`, a vector, tells, filled with a number.
    #[must_use]
    pub fn filled(self, number: f64, dtype: DType) -> Self {
        match Tensor::from_f64(dtype, &[1], &[number]) {
            Ok(value) => self.b().op("ConstantOfShape", &[self], &[("value", value.into())]),
            Err(error) => {
                self.b().fail(error);
                self
            }
        }
    }

    /// Zeros of this shape and type.
    #[must_use]
    pub fn zeros_like(self) -> Self {
        self.filled_like(0.0)
    }

    /// The parts from `starts` up to `ends` (not included) of `axes`.
    #[must_use]
    pub fn slice(self, starts: &[i64], ends: &[i64], axes: &[i64]) -> Self {
        let b = self.b();
        self.slice_at(b.ints(starts), b.ints(ends), axes)
    }

    /// The parts from `starts` up to `ends` (not included), vectors that the graph computes.
    #[must_use]
    pub fn slice_at(self, starts: Self, ends: Self, axes: &[i64]) -> Self {
        self.b().op("Slice", &[self, starts, ends, self.b().ints(axes)], &[])
    }

    /// `self`, then `others`, along `axis`.
    #[must_use]
    pub fn concat(self, others: &[Self], axis: i64) -> Self {
        let all: Vec<Self> = std::iter::once(self).chain(others.iter().copied()).collect();
        self.b().op("Concat", &all, &[("axis", Attr::Int(axis))])
    }

    /// Parts of the given lengths along `axis`.
    #[must_use]
    pub fn split(self, lengths: &[i64], axis: i64) -> Vec<Self> {
        let lengths_input = self.b().ints(lengths);
        self.b().op_n("Split", &[Some(self), Some(lengths_input)], &[("axis", Attr::Int(axis))], lengths.len())
    }

    /// Zeros around: `pads` has the number before each of `axes`, then the number after each.
    ///
    /// Numbers for all axes are written, not the input `axes`: ONNX Runtime 1.32 moves transposes through a `Pad` as if it had none.
    #[must_use]
    pub fn pad_at(self, pads: Self, axes: &[i64]) -> Self {
        let b = self.b();
        let (rank, none) = (self.rank(), 2 * axes.len());
        let place = |at: usize| {
            let of_axis = axes.iter().position(|&axis| usize::try_from(axis) == Ok(at % rank));
            of_axis.map_or(none, |place| place + at / rank * axes.len())
        };
        let places: Vec<usize> = (0..2 * rank).map(place).collect();
        let all = match pads.fact().known_contents() {
            Some(known) => b.ints(&places.iter().map(|&place| known.get(place).copied().unwrap_or(0)).collect::<Vec<_>>()),
            None if places.iter().copied().eq(0..none) => pads,
            None => {
                let places: Vec<i64> = places.into_iter().filter_map(|place| i64::try_from(place).ok()).collect();
                pads.concat(&[b.ints(&[0])], 0).gather(b.ints(&places), 0)
            }
        };
        b.op("Pad", &[self, all], &[])
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::{Builder, DType, Dim, ModelInfo};

    #[test]
    fn pads_are_written_for_all_axes() {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::symbol("seq"), Dim::known(4)]);
        let pads = b.input("pads", DType::I64, &[Dim::known(2)]);
        b.output("computed", x.pad_at(pads, &[1]));
        b.output("known", x.pad_at(b.ints(&[0, 3]), &[1]));
        let graph = b.finish().expect("a valid graph");
        let of_pads: Vec<_> = graph.nodes().iter().filter(|node| &*node.op == "Pad").collect();
        assert!(of_pads.iter().all(|node| node.inputs.len() == 2), "no axes: ONNX Runtime 1.32 loses them beside a transpose");
        let known = of_pads.iter().find_map(|node| graph.constant(node.input(1)?)?.to_i64());
        assert_eq!(known, Some(vec![0, 0, 0, 0, 3, 0]));
    }
}
