//! Numbers of answers: probabilities, and how they are written.

use serde_json::Value;

/// A single-precision number with the digits that it has, no more.
pub(super) fn json(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// A number that was computed of single-precision ones: seven digits behind the point are more than it has.
pub(super) fn rounded(number: f64) -> Value {
    let rounded = (number * 1e7).round() / 1e7;
    Value::from(if rounded.is_finite() { rounded } else { number })
}

/// `eˣ / Σ eˣ`
pub(super) fn softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|logit| f64::from(logit - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// `1 / (1 + e⁻ˣ)`
pub(super) fn sigmoid(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}

/// The first of the largest; none where one of them is no number.
pub(super) fn largest(values: &[f64]) -> Option<usize> {
    let first = |best: (usize, f64), (at, &value): (usize, &f64)| if value > best.1 { (at, value) } else { best };
    let are_numbers = !values.iter().any(|value| value.is_nan());
    are_numbers.then(|| values.iter().enumerate().fold((0, f64::NEG_INFINITY), first).0)
}

/// The places of numbers, from the largest to the smallest.
pub(super) fn order(values: &[f64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|&one, &other| values[other].total_cmp(&values[one]));
    places
}

/// The cosine of two vectors; 0 where one has no direction.
pub(super) fn cosine(one: &[f32], other: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let lengths = (product(one, one) * product(other, other)).sqrt();
    if lengths > 0.0 { product(one, other) / lengths } else { 0.0 }
}
