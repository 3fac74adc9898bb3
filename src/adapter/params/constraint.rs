//! Tensors whose rows stay within a norm (constrained OFT): a row that is longer is scaled down to it, whenever the adapter is used and before every
//! step of the optimizer, as PEFT writes it into the parameter at every forward pass (`OFTRotationModule.forward`).

use std::ops::Range;

use ndarray::Array2;

use crate::adapter::params::init::narrow;
use crate::ir::Expr;
use crate::num;

/// A trained tensor with rows of bounded norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Constraint {
    /// Its place in the trainable vector.
    pub place: Range<usize>,
    /// How many rows it has.
    pub rows: usize,
    /// The largest norm of a row.
    pub norm: f64,
}

impl Constraint {
    /// The trainable vector `[N]`, float32, with the rows of every constrained tensor within their norms. The constraints are in the vector's order.
    #[must_use]
    pub fn all_kept<'g>(constraints: &[Self], vector: Expr<'g>) -> Expr<'g> {
        let part = |place: Range<usize>| vector.slice(&[num::int(place.start)], &[num::int(place.end)], &[0]);
        let (mut parts, mut done) = (vec![], 0);
        for Self { place, rows, norm } in constraints {
            if done < place.start {
                parts.push(part(done..place.start));
            }
            parts.push(within(part(place.clone()).reshape(&[num::int(*rows), -1]), *norm).reshape(&[-1]));
            done = place.end;
        }
        let Some((first, others)) = parts.split_first() else { return vector };
        let rest = vector.slice(&[num::int(done)], &[i64::MAX], &[0]);
        first.concat(&[others, &[rest]].concat(), 0)
    }
}

/// The rows of a matrix, each scaled down to a norm if it is longer: the nearest point of the ball.
#[must_use]
pub fn within(rows: Expr<'_>, norm: f64) -> Expr<'_> {
    let found = rows.square().sum(&[1]).sqrt();
    found.greater(found.same_type(norm)).where_(rows * (norm / found), rows)
}

/// The same of numbers.
pub fn keep(rows: &mut Array2<f32>, norm: f64) {
    for mut row in rows.rows_mut() {
        let found = row.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
        if found > norm {
            row.mapv_inplace(|number| narrow(f64::from(number) * (norm / found)));
        }
    }
}
