//! Tensors of one shape combined number by number.

use ndarray::{Array2, Zip};
use rand::RngExt;

use super::{Majority, Merging, Pruning, Recipe};
use crate::adapter::params::init;

/// Leaves numbers out of each tensor, and combines what stays. `name` seeds which elements are left out.
pub(super) fn combine(mut tensors: Vec<Array2<f32>>, weights: &[f32], recipe: &Recipe, name: &str) -> Array2<f32> {
    let density = recipe.density();
    if density < 1.0 {
        for (place, tensor) in tensors.iter_mut().enumerate() {
            match recipe.technique.pruning {
                Pruning::None => {}
                Pruning::Magnitude => keep_largest(tensor, density),
                Pruning::Random => keep_some(tensor, density, recipe.seed, &format!("{name}.{place}")),
            }
        }
    }
    let majority = (recipe.technique.merging == Merging::Majority).then(|| signs(&tensors, recipe.majority));
    let mut sum = Array2::<f32>::zeros(tensors[0].dim());
    let mut counts = Array2::<f32>::zeros(tensors[0].dim());
    for (tensor, weight) in tensors.iter().zip(weights) {
        match &majority {
            None => sum.scaled_add(*weight, tensor),
            Some(signs) => Zip::from(&mut sum).and(&mut counts).and(tensor).and(signs).for_each(|sum, count, number, sign| {
                if number * sign > 0.0 {
                    *sum += number * weight;
                    *count += 1.0;
                }
            }),
        }
    }
    if majority.is_some() {
        sum /= &counts.mapv(|count| count.max(1.0));
    }
    sum
}

/// Sets all but the `density · count` largest numbers to zero; of equal ones the first stay.
fn keep_largest(tensor: &mut Array2<f32>, density: f64) {
    let kept = share(tensor.len(), density);
    let mut order: Vec<(usize, f32)> = tensor.iter().map(|number| number.abs()).enumerate().collect();
    order.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let mut left_out = vec![true; tensor.len()];
    order.iter().take(kept).for_each(|(place, _)| left_out[*place] = false);
    tensor.iter_mut().zip(left_out).filter(|(_, left_out)| *left_out).for_each(|(number, _)| *number = 0.0);
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a tensor's length, cut off as PEFT does"
)]
fn share(length: usize, density: f64) -> usize {
    (density * length as f64) as usize
}

/// Keeps each number with the probability `density`, divided by it.
fn keep_some(tensor: &mut Array2<f32>, density: f64, seed: u64, name: &str) {
    let mut rng = init::generator(seed, name);
    let density32 = init::narrow(density);
    tensor.mapv_inplace(|number| if rng.random::<f64>() < density { number / density32 } else { 0.0 });
}

/// The sign that the majority has, +1 where there is none.
fn signs(tensors: &[Array2<f32>], majority: Majority) -> Array2<f32> {
    let vote = |number: f32| match majority {
        Majority::Total => number,
        Majority::Frequency if number == 0.0 => 0.0,
        Majority::Frequency => number.signum(),
    };
    let mut sum = Array2::<f32>::zeros(tensors[0].dim());
    for tensor in tensors {
        Zip::from(&mut sum).and(tensor).for_each(|sum, number| *sum += vote(*number));
    }
    sum.mapv(|sum| if sum >= 0.0 { 1.0 } else { -1.0 })
}
