//! Weights that a model has once and an exporter wrote twice: folding a transposition makes a copy.

use crate::ir::{Graph, Tensor};

use super::{Layout, Weight};

/// Whether two weights are one and the same in the model: the same constant, or equal in every element that is looked at.
pub(super) fn are_one(graph: &Graph, a: &Weight, b: &Weight) -> bool {
    if a.part != b.part {
        return false;
    }
    if a.value == b.value {
        return a.layout == b.layout;
    }
    let stored = |weight: &Weight| graph.initializer(weight.value).or_else(|| graph.constant(weight.value));
    stored(a).zip(stored(b)).is_some_and(|(x, y)| agree(x, a.layout, y, b.layout))
}

/// Looks at a few elements, spread over both axes: two trained matrices never agree in all of them.
fn agree(a: &Tensor, a_layout: Layout, b: &Tensor, b_layout: Layout) -> bool {
    const LOOK_AT: usize = 8;
    let (Some(outputs), Some(inputs)) = (length(a, a_layout, Side::Outputs), length(a, a_layout, Side::Inputs)) else { return false };
    let same_shape = length(b, b_layout, Side::Outputs) == Some(outputs) && length(b, b_layout, Side::Inputs) == Some(inputs);
    if !same_shape || a.dtype() != b.dtype() {
        return false;
    }
    let spread = |count: usize| (0..LOOK_AT).map(move |i| i * count.saturating_sub(1) / (LOOK_AT - 1));
    spread(outputs).all(|output| {
        spread(inputs).all(|input| {
            let (x, y) = (element(a, a_layout, output, input), element(b, b_layout, output, input));
            x.is_some() && x == y
        })
    })
}

#[derive(Clone, Copy)]
enum Side {
    Outputs,
    Inputs,
}

fn length(tensor: &Tensor, layout: Layout, side: Side) -> Option<usize> {
    let &[first, second] = tensor.shape() else { return None };
    Some(match (layout, side) {
        (Layout::OutIn, Side::Outputs) | (Layout::InOut, Side::Inputs) => first,
        (Layout::OutIn, Side::Inputs) | (Layout::InOut, Side::Outputs) => second,
    })
}

/// The bytes of one element.
fn element(tensor: &Tensor, layout: Layout, output: usize, input: usize) -> Option<&[u8]> {
    let &[_, columns] = tensor.shape() else { return None };
    let place = match layout {
        Layout::OutIn => output * columns + input,
        Layout::InOut => input * columns + output,
    };
    let size = tensor.dtype().bytes(1);
    tensor.bytes()?.get(place * size..(place + 1) * size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_copy_is_known() {
        let table = Tensor::from_f32(&[3, 2], &[1., 2., 3., 4., 5., 6.]);
        let transposed = Tensor::from_f32(&[2, 3], &[1., 3., 5., 2., 4., 6.]);
        let other = Tensor::from_f32(&[2, 3], &[1., 3., 5., 2., 4., 7.]);
        assert!(agree(&transposed, Layout::InOut, &table, Layout::OutIn));
        assert!(agree(&table, Layout::OutIn, &table, Layout::OutIn));
        assert!(!agree(&other, Layout::InOut, &table, Layout::OutIn));
        assert!(!agree(&transposed, Layout::OutIn, &table, Layout::OutIn));
    }
}
