//! Weights that a model has once and an exporter wrote twice: folding a transposition makes a copy.

use std::ops::Range;

use crate::ir::{Graph, Tensor};

use super::{Layout, Weight};

/// Whether two weights are one and the same in the model: the same constant, or equal in every element that is looked at.
pub(super) fn are_one(graph: &Graph, a: &Weight, b: &Weight) -> bool {
    if a.value == b.value {
        return a.layout == b.layout && a.part == b.part;
    }
    Matrix::of(graph, a).zip(Matrix::of(graph, b)).is_some_and(|(x, y)| x.agrees(&y))
}

/// A constant matrix, or the part of its outputs that is one weight.
struct Matrix<'g> {
    tensor: &'g Tensor,
    layout: Layout,
    outputs: Range<usize>,
    inputs: usize,
}

impl<'g> Matrix<'g> {
    fn of(graph: &'g Graph, weight: &Weight) -> Option<Self> {
        let tensor = graph.stored(weight.value)?;
        let whole = Self::whole(tensor, weight.layout)?;
        let Some(part) = &weight.part else { return Some(whole) };
        let outputs = usize::try_from(part.start).ok()?..usize::try_from(part.end).ok()?;
        (outputs.end <= whole.outputs.end).then_some(Self { outputs, ..whole })
    }

    fn whole(tensor: &'g Tensor, layout: Layout) -> Option<Self> {
        let &[first, second] = tensor.shape() else { return None };
        let (outputs, inputs) = match layout {
            Layout::OutIn => (first, second),
            Layout::InOut => (second, first),
        };
        Some(Self { tensor, layout, outputs: 0..outputs, inputs })
    }

    /// Looks at a few elements, spread over both axes: two trained matrices never agree in all of them.
    fn agrees(&self, other: &Self) -> bool {
        const LOOK_AT: usize = 8;
        let same_shape = self.outputs.len() == other.outputs.len() && self.inputs == other.inputs;
        if !same_shape || self.tensor.dtype() != other.tensor.dtype() {
            return false;
        }
        let spread = |count: usize| (0..LOOK_AT).map(move |i| i * count.saturating_sub(1) / (LOOK_AT - 1));
        spread(self.outputs.len()).all(|output| {
            spread(self.inputs).all(|input| {
                let (x, y) = (self.element(output, input), other.element(output, input));
                x.is_some() && x == y
            })
        })
    }

    /// The bytes of one element.
    fn element(&self, output: usize, input: usize) -> Option<&[u8]> {
        let (&[_, columns], output) = (self.tensor.shape(), self.outputs.start + output) else { return None };
        let place = match self.layout {
            Layout::OutIn => output * columns + input,
            Layout::InOut => input * columns + output,
        };
        let size = self.tensor.dtype().bytes(1);
        self.tensor.bytes()?.get(place * size..(place + 1) * size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_copy_is_known() {
        let table = Tensor::from_f32(&[3, 2], &[1., 2., 3., 4., 5., 6.]);
        let transposed = Tensor::from_f32(&[2, 3], &[1., 3., 5., 2., 4., 6.]);
        let other = Tensor::from_f32(&[2, 3], &[1., 3., 5., 2., 4., 7.]);
        let agree =
            |a, a_layout, b, b_layout| Matrix::whole(a, a_layout).zip(Matrix::whole(b, b_layout)).is_some_and(|(a, b)| a.agrees(&b));
        assert!(agree(&transposed, Layout::InOut, &table, Layout::OutIn));
        assert!(agree(&table, Layout::OutIn, &table, Layout::OutIn));
        assert!(!agree(&other, Layout::InOut, &table, Layout::OutIn));
        assert!(!agree(&transposed, Layout::OutIn, &table, Layout::OutIn));
    }

    #[test]
    fn a_copy_in_a_packed_weight_is_known() {
        let alone = Tensor::from_f32(&[2, 2], &[1., 2., 3., 4.]);
        let packed = Tensor::from_f32(&[2, 4], &[8., 9., 1., 2., 8., 9., 3., 4.]);
        let part = |outputs| Matrix { outputs, ..Matrix::whole(&packed, Layout::InOut).expect("a matrix") };
        let alone = Matrix::whole(&alone, Layout::InOut).expect("a matrix");
        assert!(alone.agrees(&part(2..4)));
        assert!(!alone.agrees(&part(0..2)));
    }
}
