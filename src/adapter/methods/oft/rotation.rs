//! Rotations of skew-symmetric matrices (Cayley 1846), as graph and in numbers (PEFT `OFTRotationModule._cayley_batch`).

use nalgebra::DMatrix;
use ndarray::{Array2, ArrayView1};

use crate::adapter::params::init;
use crate::adapter::weights::linalg;
use crate::error::{Error, Result};
use crate::ir::{Expr, Tensor};
use crate::num;

/// Steps of Newton's method to the inverse. The error is squared at each, and starts below `s² / (2 + s²)` for a `Q` that stretches nothing more than `s` times:
/// these are enough for float32 up to an `s` of 40, a rotation by 177 degrees.
const STEPS: usize = 14;

/// What is made of a skew-symmetric matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cayley {
    /// `I + 2Q + 2Q² + .. + Qⁿ`.
    Neumann {
        /// How many terms there are.
        terms: usize,
    },
    /// `(I − Q)·(I + Q)⁻¹`.
    Exact,
}

impl Cayley {
    /// The rotations `[blocks, size, size]` of `vectors`, which have what stands above the diagonals, `[blocks, size · (size − 1) / 2]`.
    pub(super) fn rotations(self, vectors: Expr<'_>, blocks: usize, size: usize) -> Expr<'_> {
        let b = vectors.b();
        let (places, signs): (Vec<usize>, Vec<f32>) = skew(size).into_iter().unzip();
        let places: Vec<i64> = places.into_iter().map(num::int).collect();
        let signs = b.constant(Tensor::from_f32(&[signs.len(), 1], &signs));
        let lengths = [blocks, size, size].map(num::int);
        let q = (vectors.t().gather(b.ints(&places), 0) * signs).t().reshape(&lengths);
        let mut ones = vec![0.0; size * size];
        ones.iter_mut().step_by(size + 1).for_each(|one| *one = 1.0);
        let identity = b.constant(Tensor::from_f32(&[1, size, size], &ones));
        match self {
            Self::Neumann { terms } => {
                let (mut sum, mut power) = (identity, q);
                for (times, more) in coefficients(terms) {
                    sum = sum + power * times;
                    if more {
                        power = power.matmul(q);
                    }
                }
                sum
            }
            // (I − Q)·(I + Q)⁻¹ = 2·(I + Q)⁻¹ − I
            Self::Exact => inverse(identity + q, identity, q) * 2.0 - identity,
        }
    }

    /// The rotation of one vector.
    ///
    /// # Errors
    /// Numbers that are none.
    pub(super) fn rotation(self, vector: &ArrayView1<'_, f32>, size: usize) -> Result<Array2<f32>> {
        let skew = skew(size);
        let q = Array2::from_shape_fn((size, size), |(row, column)| {
            let (number, sign) = skew[row * size + column];
            vector[number] * sign
        });
        match self {
            Self::Neumann { terms } => {
                let (mut sum, mut power) = (Array2::eye(size), q.clone());
                for (times, more) in coefficients(terms) {
                    sum = sum + &power * init::narrow(times);
                    if more {
                        power = power.dot(&q);
                    }
                }
                Ok(sum)
            }
            Self::Exact => {
                let identity = DMatrix::identity(size, size);
                let inverse = (&identity + linalg::double(&q.view())).try_inverse();
                let inverse = inverse.ok_or_else(|| Error::invalid("a rotation by numbers that are not finite"))?;
                Ok(linalg::single(&(inverse * 2.0 - identity)))
            }
        }
    }
}

/// For each element of a skew-symmetric block, row by row: the number that it is, and its sign; 0 on the diagonal.
fn skew(size: usize) -> Vec<(usize, f32)> {
    let above = |row: usize, column: usize| row * (2 * size - row - 1) / 2 + column - row - 1;
    let element = |at: usize| match (at / size, at % size) {
        (row, column) if row < column => (above(row, column), 1.0),
        (row, column) if row > column => (above(column, row), -1.0),
        _ => (0, 0.0),
    };
    (0..size * size).map(element).collect()
}

/// What the powers of `Q` from the first on are multiplied with, and whether another one follows; the last term counts once.
fn coefficients(terms: usize) -> Vec<(f64, bool)> {
    let last = match terms {
        0 | 1 => return vec![],
        2 => return vec![(2.0, false)],
        terms => terms.max(4) - 1,
    };
    (1..=last).map(|power| (if power == last { 1.0 } else { 2.0 }, power < last)).collect()
}

/// `M⁻¹` of `M = I + Q`, by Newton's method (Schulz 1933): `X ← X·(2I − M·X)`, from `X = c·Mᵀ`.
///
/// The eigenvalues of `M·Mᵀ = I − Q²` lie between 1 and `1 + s²`, of which `c` is the reciprocal of the middle; `s²` is at most half of the sum of the squares of `Q`, whose
/// singular values come in pairs. Only the last step is differentiated: where `X` is the inverse already, `dX = −X·dM·X`, which is the inverse's own.
fn inverse<'g>(m: Expr<'g>, identity: Expr<'g>, q: Expr<'g>) -> Expr<'g> {
    let twice = identity * 2.0;
    let (fixed, squares) = (m.without_gradient(), q.without_gradient().square().sum(&[1, 2]));
    let step = |x: Expr<'g>, m: Expr<'g>| x.matmul(twice - m.matmul(x));
    let mut x = fixed.t() * (2.0 / (squares * 0.5 + 2.0));
    for _ in 0..STEPS {
        x = step(x, fixed);
    }
    step(x.without_gradient(), m)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vector of four numbers from 2 on: `Q` stretches something about 5 times.
    fn vector() -> Vec<f32> {
        vec![2.0, -1.5, 0.5, 3.0, -2.5, 1.0]
    }

    #[test]
    fn an_exact_rotation_keeps_all_lengths_and_turns_back_what_its_reverse_turns() -> Result<()> {
        let (vector, size) = (vector(), 4);
        let reverse: Vec<f32> = vector.iter().map(|number| -number).collect();
        let of = |vector: &[f32]| Cayley::Exact.rotation(&ArrayView1::from(vector), size);
        let (rotation, back) = (of(&vector)?, of(&reverse)?);
        for product in [rotation.dot(&rotation.t()), rotation.dot(&back)] {
            let far = (product - Array2::<f32>::eye(size)).iter().fold(0.0_f32, |far, number| far.max(number.abs()));
            assert!(far < 1e-6, "{far}");
        }
        Ok(())
    }

    /// For a small `Q` the sum is nearly the exact one of the other sign.
    #[test]
    fn the_sum_of_powers_has_the_other_sign() -> Result<()> {
        let small: Vec<f32> = vector().iter().map(|number| number * 1e-3).collect();
        let reverse: Vec<f32> = small.iter().map(|number| -number).collect();
        let sum = Cayley::Neumann { terms: 5 }.rotation(&ArrayView1::from(&small), 4)?;
        let exact = Cayley::Exact.rotation(&ArrayView1::from(&reverse), 4)?;
        assert!((sum - exact).iter().all(|number| number.abs() < 1e-6));
        Ok(())
    }
}
