//! What is known of a value before the graph runs.

use std::fmt;

use crate::error::Refusal;
use crate::num;

use super::dim::Dim;
use super::dtype::DType;
use super::tensor::Tensor;

/// The lengths of a value's axes.
pub type Shape = Vec<Dim>;

/// What is known of a value: element type, shape, and the elements themselves where they are small whole numbers.
///
/// Each part is `None` where it is unknown. A fact never claims what may be false.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fact {
    /// The type of the elements.
    pub dtype: Option<DType>,
    /// The lengths of the axes; `None` if even the rank is unknown.
    pub shape: Option<Shape>,
    /// The elements in row-major order, for small tensors of integers or booleans (shapes, axes, indices).
    pub contents: Option<Vec<Dim>>,
}

/// Tensors with more elements than this are not followed element by element.
pub(super) const MAX_CONTENTS: usize = 256;
/// Elements that are together larger than this, in symbols and terms, are not followed either.
const MAX_CONTENTS_SIZE: usize = 8 * MAX_CONTENTS;
/// Of values with more axes than this the shape is unknown: no exporter writes any, and lists of lengths must not grow with a number in a file.
pub(super) const MAX_RANK: usize = 32;

impl Fact {
    /// A value of which nothing is known.
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }

    /// A value of a known type and shape.
    #[must_use]
    pub fn new(dtype: DType, shape: Shape) -> Self {
        Self::partial(Some(dtype), Some(shape))
    }

    /// A value of a type and shape either of which may be unknown.
    #[must_use]
    pub fn partial(dtype: Option<DType>, shape: Option<Shape>) -> Self {
        Self { dtype, shape: shape.filter(|shape| shape.len() <= MAX_RANK), contents: None }
    }

    /// The same fact with its elements, unless there are too many to follow.
    #[must_use]
    pub fn with_contents(mut self, contents: Option<Vec<Dim>>) -> Self {
        let is_small = |all: &Vec<Dim>| all.len() <= MAX_CONTENTS && all.iter().map(Dim::size).sum::<usize>() <= MAX_CONTENTS_SIZE;
        self.contents = contents.filter(is_small);
        self
    }

    /// What is known of a constant: everything but large contents.
    #[must_use]
    pub fn of(tensor: &Tensor) -> Self {
        let shape = tensor.shape().iter().map(|&n| Dim::known(num::int(n))).collect();
        let small = tensor.len() <= MAX_CONTENTS;
        let contents = small.then(|| tensor.to_i64()).flatten().map(|all| all.into_iter().map(Dim::known).collect());
        Self { contents, ..Self::new(tensor.dtype(), shape) }
    }

    /// The number of axes, if known.
    #[must_use]
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// The elements, if all are known numbers.
    #[must_use]
    pub fn known_contents(&self) -> Option<Vec<i64>> {
        self.contents.as_ref()?.iter().map(Dim::as_known).collect()
    }

    /// The lengths of all axes, if all are known numbers.
    #[must_use]
    pub fn known_shape(&self) -> Option<Vec<i64>> {
        self.shape.as_ref()?.iter().map(Dim::as_known).collect()
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype.map_or("?", DType::name))?;
        match &self.shape {
            None => f.write_str("[...]"),
            Some(shape) if shape.is_empty() => Ok(()),
            Some(shape) => write!(f, "{shape:?}"),
        }
    }
}

/// The shape of an elementwise result of several shapes, by ONNX's multidirectional broadcasting.
///
/// # Errors
/// The two lengths that can never go together.
pub fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Shape, Refusal> {
    let rank = a.len().max(b.len());
    let at = |shape: &[Dim], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(Dim::known(1), |i| shape[i].clone());
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (x, y) if x == y => Ok(x),
            (x, y) if x.as_known() == Some(1) => Ok(y),
            (x, y) if y.as_known() == Some(1) => Ok(x),
            // A length that is known and not 1 wins: the other must be the same or 1.
            (x, y) => match (x.as_known(), y.as_known()) {
                (Some(_), Some(_)) => Err(format!("{a:?} and {b:?} do not broadcast").into()),
                (Some(_), None) => Ok(x),
                (None, Some(_)) => Ok(y),
                // Equal, or one of them 1: that which cannot be longer, if there is one.
                (None, None) if y.surely_at_most(&Dim::known(1)) => Ok(x),
                (None, None) if x.surely_at_most(&Dim::known(1)) => Ok(y),
                (None, None) => Ok(x.larger(&y)),
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_of_one_or_none_is_broadcast_to_the_other() {
        let seq = Dim::symbol("seq");
        let one = Dim::known(1);
        // What MPT's bias has for its queries: the last `seq` of one.
        let last = (&one - &(&one - &seq).larger(&Dim::known(0))).larger(&Dim::known(0));
        for (a, b) in [(&seq, &last), (&last, &seq)] {
            assert_eq!(broadcast(std::slice::from_ref(a), std::slice::from_ref(b)), Ok(Shape::from(vec![seq.clone()])));
        }
    }
}
