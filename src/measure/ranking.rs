//! Metrics of rankings, as sentence-transformers' `InformationRetrievalEvaluator` and `CrossEncoderRerankingEvaluator` compute them.

use super::float;

/// The places of items, from the highest score to the lowest; equal scores keep their order.
#[must_use]
pub fn ranks(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// One over the place of the first relevant item among the first `k`; 0 where none is (`mrr@k`).
#[must_use]
pub fn reciprocal_rank(relevant: impl IntoIterator<Item = bool>, k: usize) -> f64 {
    relevant.into_iter().take(k).position(|is_relevant| is_relevant).map_or(0.0, |place| 1.0 / float(place + 1))
}

/// The discounted cumulative gain of the first `k` items over the best possible: `Σ gain / log₂(place + 1)`, gains as they are (`ndcg@k`).
///
/// `gains` are those of the items in the order of the ranking; `all` those of every item there is. 0 where no item has a gain.
#[must_use]
pub fn discounted_gain(gains: impl IntoIterator<Item = f64>, all: &[f64], k: usize) -> f64 {
    let discounted = |gains: &mut dyn Iterator<Item = f64>| -> f64 {
        gains.take(k).enumerate().map(|(place, gain)| gain / float(place + 2).log2()).sum()
    };
    let mut best = all.to_vec();
    best.sort_by(|a, b| b.total_cmp(a));
    let ideal = discounted(&mut best.into_iter());
    if ideal > 0.0 { discounted(&mut gains.into_iter()) / ideal } else { 0.0 }
}

/// The area under the curve of precision over recall, as a sum over thresholds: `Σ (Rₙ − Rₙ₋₁)·Pₙ` (`average_precision_score`). Equal scores
/// are one threshold. 0 where nothing is relevant.
#[must_use]
pub fn average_precision(scores: &[f64], relevant: &[bool]) -> f64 {
    let total = relevant.iter().filter(|is_relevant| **is_relevant).count();
    if total == 0 {
        return 0.0;
    }
    let order = ranks(scores);
    let (mut area, mut found, mut found_before) = (0.0, 0, 0);
    for (place, &item) in order.iter().enumerate() {
        found += usize::from(relevant[item]);
        let ends_threshold = order.get(place + 1).is_none_or(|&next| scores[next].total_cmp(&scores[item]).is_ne());
        if ends_threshold {
            area += float(found - found_before) / float(total) * (float(found) / float(place + 1));
            found_before = found;
        }
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
    }

    #[test]
    fn rankings_are_measured_as_the_reference_does() {
        near(reciprocal_rank([false, false, true, true], 10), 1.0 / 3.0);
        near(reciprocal_rank([false, false, true], 2), 0.0);
        near(discounted_gain([0.0, 1.0, 0.0], &[1.0, 0.0, 0.0], 10), 1.0 / 3.0_f64.log2());
        near(
            discounted_gain([3.0, 2.0, 0.0, 1.0], &[0.0, 1.0, 2.0, 3.0], 10),
            (3.0 + 2.0 / 3.0_f64.log2() + 1.0 / 5.0_f64.log2()) / (3.0 + 2.0 / 3.0_f64.log2() + 0.5),
        );
        near(discounted_gain([0.0], &[0.0], 10), 0.0);
        assert_eq!(ranks(&[0.1, 0.9, 0.9, 0.2]), [1, 2, 3, 0]);
    }

    #[test]
    fn average_precision_is_scikit_learn_s() {
        near(average_precision(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]), 0.833_333_333_333_333_3);
        // Equal scores are one threshold.
        near(average_precision(&[0.5, 0.5, 0.5], &[true, false, false]), 1.0 / 3.0);
        near(average_precision(&[0.5], &[false]), 0.0);
    }
}
