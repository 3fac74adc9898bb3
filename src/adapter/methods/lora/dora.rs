//! DoRA: `y = m · (W + scaling · B·A)·x / ‖W + scaling · B·A‖` with a norm for each output, which gradient does not pass (Liu et al., DoRA,
//! section 4.3; PEFT `tuners/lora/dora.py`).

use ndarray::{Array2, Axis};

use super::MAGNITUDE;
use super::branches::delta;
use crate::adapter::methods::branch::{product, stored_weight};
use crate::adapter::params::Params;
use crate::adapter::part::Change;
use crate::adapter::weights::fold;
use crate::anatomy::{Layout, Projection};
use crate::error::Place;
use crate::ir::{Expr, Graph, Tensor};
use crate::{Error, Result};

/// The magnitude of one module's weight.
#[derive(Clone, Copy)]
pub(crate) struct Dora<'g> {
    /// The frozen weight, float32, as it is stored.
    weight: Expr<'g>,
    /// `m / ‖W + scaling · B·A‖`, `[out_features]`.
    factor: Expr<'g>,
}

impl<'g> Dora<'g> {
    pub(crate) fn new(params: &Params<'g>, graph: &Graph, projection: &Projection, a: Expr<'g>, b: Expr<'g>, scaling: f64) -> Self {
        let module = &projection.module;
        let builder = a.b();
        if let Err(error) = fold::is_stored_as_floats(graph, projection.weight.value) {
            builder.fail(error.at(Place::Tensor(module.clone())));
            // Values of the weight may not even be there.
            return Self { weight: builder.unknown(), factor: builder.unknown() };
        }
        let magnitude = params.of(module, MAGNITUDE, || match norms_of_base(graph, projection, a, b, scaling) {
            Ok(norms) => norms,
            Err(error) => {
                builder.fail(error.at(Place::Tensor(module.clone())));
                Tensor::from_f32(&[0], &[])
            }
        });
        builder.scoped(&format!("dora/{module}"), || {
            let weight = stored_weight(builder, projection);
            let (update, axis) = match projection.weight.layout {
                Layout::OutIn => (b.matmul(a), 1),
                Layout::InOut => (a.t().matmul(b.t()), 0),
            };
            let norm = (weight + update * scaling).square().sum_away(&[axis]).sqrt().without_gradient();
            Self { weight, factor: magnitude / norm }
        })
    }

    /// What is added to the module's output: `(factor - 1) · W·x + factor · up`, where `up` is LoRA's update of the same `x`.
    pub(crate) fn change(self, projection: &Projection, x: Expr<'g>, up: Expr<'g>, is_dropped: bool) -> Expr<'g> {
        let b = x.b();
        let base = if is_dropped {
            match projection.weight.layout {
                Layout::OutIn => x.matmul(self.weight.t()),
                Layout::InOut => x.matmul(self.weight),
            }
        } else {
            product(b, projection)
        };
        (self.factor + -1.0) * base + self.factor * up
    }
}

/// The norms of the base's weight with a fresh adapter's update, which is zero unless both factors are random.
fn norms_of_base(graph: &Graph, projection: &Projection, a: Expr<'_>, b: Expr<'_>, scaling: f64) -> Result<Tensor> {
    let weight = fold::finite_weight_of(graph, projection)?;
    let initial = |factor: Expr<'_>| factor.b().initial(factor.id()).ok_or_else(|| Error::not_found("tensor", factor.name().to_string()));
    let adapted = weight + delta(&initial(a)?, &initial(b)?, scaling)?;
    let norms = norms(&adapted);
    Ok(Tensor::from_f32(&[norms.len()], &norms))
}

fn norms(weight: &Array2<f32>) -> Vec<f32> {
    weight.axis_iter(Axis(0)).map(|row| row.dot(&row).sqrt()).collect()
}

/// The weight that stands for `weight` `[out_features, in_features]`, base and update together, with its magnitude.
///
/// # Errors
/// A magnitude of another length.
pub(crate) fn folded(weight: &Array2<f32>, magnitude: &[f32]) -> Result<Array2<f32>> {
    Ok(weight * &ndarray::ArrayView1::from(&factors(weight, magnitude)?).insert_axis(Axis(1)))
}

/// What the magnitude makes of each output of `weight`, base and update together.
fn factors(weight: &Array2<f32>, magnitude: &[f32]) -> Result<Vec<f32>> {
    if magnitude.len() != weight.nrows() {
        return Err(Error::mismatch("length of the magnitude", weight.nrows(), magnitude.len()));
    }
    Ok(magnitude.iter().zip(norms(weight)).map(|(magnitude, norm)| magnitude / norm).collect())
}

/// LoRA's update of a base's weight with a magnitude: `f ⊙ (W + b·a)·x + f ⊙ shift` is `W·x + (f − 1) ⊙ W·x + (f ⊙ b)·a·x + f ⊙ shift`.
///
/// # Errors
/// A magnitude of another length.
pub(crate) fn change(weight: &Array2<f32>, update: Change, magnitude: &[f32]) -> Result<Change> {
    let factors = factors(&(weight + update.b.dot(&update.a)), magnitude)?;
    let shift = update.shift.map(|shift| shift.iter().zip(&factors).map(|(shift, factor)| shift * factor).collect());
    let b = update.b * ndarray::ArrayView1::from(&factors).insert_axis(Axis(1));
    Ok(Change { a: update.a, b, gain: Some(factors.iter().map(|factor| factor - 1.0).collect()), shift })
}
