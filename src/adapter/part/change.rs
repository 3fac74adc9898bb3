//! What an adapter makes of projections, where that is an update of low rank: the form in which adapters of several methods are the same.

use std::ops::Range;

use ndarray::{Array2, Axis, concatenate, s};

use crate::adapter::targets::split_modules;
use crate::{Error, Result};

/// An update of one projection `y = W·x + bias`: what it gives is `y + gain ⊙ W·x + b·a·x + shift`.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// `[rank, in_features]`
    pub a: Array2<f32>,
    /// `[out_features, rank]`, with the scale.
    pub b: Array2<f32>,
    /// What is added of the product with the base's weight, `[out_features]`; none where the method leaves it.
    pub gain: Option<Vec<f32>>,
    /// What is added, `[out_features]`.
    pub shift: Option<Vec<f32>>,
}

impl Change {
    /// `b·a·x` alone.
    #[must_use]
    pub fn product(a: Array2<f32>, b: Array2<f32>) -> Self {
        Self { a, b, gain: None, shift: None }
    }

    /// A matrix `[out_features, in_features]` that is added to the weight: no product of smaller ones, so one of its factors is the identity.
    #[must_use]
    pub fn whole(added: Array2<f32>) -> Self {
        let (outputs, inputs) = added.dim();
        if outputs <= inputs { Self::product(added, Array2::eye(outputs)) } else { Self::product(Array2::eye(inputs), added) }
    }

    /// What is added alone, of a projection with so many inputs.
    #[must_use]
    pub fn shifted(shift: Vec<f32>, in_features: usize) -> Self {
        let outputs = shift.len();
        Self { shift: Some(shift), ..Self::product(Array2::zeros((0, in_features)), Array2::zeros((outputs, 0))) }
    }

    /// Length of the inner axis.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.a.nrows()
    }

    /// The part of it that some rows of the module's weight have.
    #[must_use]
    pub(crate) fn of_rows(self, rows: Option<&Range<i64>>) -> Self {
        let Some(rows) = rows.map(split_modules::places) else { return self };
        let part = |all: Vec<f32>| all[rows.clone()].to_vec();
        Self { b: self.b.slice(s![rows.clone(), ..]).to_owned(), gain: self.gain.map(part), shift: self.shift.map(part), ..self }
    }

    /// This and another update of the same projection.
    ///
    /// # Errors
    /// Updates of other shapes; two that both change what the base's weight gives.
    pub fn and(self, other: Self) -> Result<Self> {
        let joined = |axis, one: &Array2<f32>, two: &Array2<f32>| {
            concatenate(Axis(axis), &[one.view(), two.view()]).map_err(|error| Error::invalid(error.to_string()))
        };
        let gain = match (self.gain, other.gain) {
            (Some(_), Some(_)) => return Err(Error::invalid("two parts of an adapter both scale one projection")),
            (one, two) => one.or(two),
        };
        let shift = match (self.shift, other.shift) {
            (Some(one), Some(two)) => Some(one.iter().zip(two).map(|(one, two)| one + two).collect()),
            (one, two) => one.or(two),
        };
        Ok(Self { a: joined(0, &self.a, &other.a)?, b: joined(1, &self.b, &other.b)?, gain, shift })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_whole_matrix_is_a_product_with_the_identity_on_its_narrow_side() {
        for matrix in [array![[1.0, 2.0, 3.0]], array![[1.0], [2.0], [3.0]], array![[1.0, 2.0], [3.0, 4.0]]] {
            let change = Change::whole(matrix.clone());
            assert_eq!(change.b.dot(&change.a), matrix);
            assert_eq!(change.rank(), matrix.nrows().min(matrix.ncols()));
        }
    }

    #[test]
    fn two_updates_of_a_projection_add_up() {
        let one = Change::product(array![[1.0, 2.0]], array![[1.0], [0.0]]);
        let two = Change { shift: Some(vec![1.0, 2.0]), ..Change::product(array![[0.0, 1.0]], array![[3.0], [1.0]]) };
        let both = one.clone().and(two.clone()).and_then(|sum| sum.and(Change::shifted(vec![1.0, 1.0], 2))).expect("they go together");
        assert_eq!(both.b.dot(&both.a), one.b.dot(&one.a) + two.b.dot(&two.a));
        assert_eq!((both.rank(), both.shift), (2, Some(vec![2.0, 3.0])));
        let scaled = Change { gain: Some(vec![0.5, 0.5]), ..one };
        assert!(scaled.clone().and(scaled).is_err());
    }
}
