//! Rounding to small integers and back.
//!
//! Rounding has no slope; training through it takes the slope of what it rounds (Bengio et al., Estimating or Propagating Gradients
//! Through Stochastic Neurons, section 4: the straight-through estimator).

use crate::grad::Forward;
use crate::ir::Expr;

/// The scale as it meets the numbers: one for all of them, or one for each place along `axis`.
pub(super) fn scale<'g>(f: &Forward<'g>) -> Expr<'g> {
    let scale = f.x[1];
    match scale.rank() {
        0 => scale,
        1 if scale.dim(0).as_known() == Some(1) => scale.reshape(&[]),
        1 => {
            let axis = f.axis(1);
            let axes: Vec<i64> = (0..f.rank()).filter(|&other| other != axis).collect();
            scale.unsqueeze(&axes)
        }
        _ => f.refuse("in blocks"),
    }
}
