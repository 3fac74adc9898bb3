//! Metrics of numbers: errors and correlations. Definitions of scikit-learn (`mean_squared_error`) and SciPy (`scipy.stats.pearsonr`, `spearmanr`).

use super::float;

/// The mean of the squared differences; 0 of nothing.
#[must_use]
pub fn mean_squared_error(predicted: &[f64], right: &[f64]) -> f64 {
    mean(predicted.iter().zip(right).map(|(p, r)| (p - r).powi(2)))
}

/// The mean of the absolute differences; 0 of nothing.
#[must_use]
pub fn mean_absolute_error(predicted: &[f64], right: &[f64]) -> f64 {
    mean(predicted.iter().zip(right).map(|(p, r)| (p - r).abs()))
}

/// Pearson's correlation; none where a side does not vary.
#[must_use]
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let (of_a, of_b) = (mean(a.iter().copied()), mean(b.iter().copied()));
    let centred = || a.iter().zip(b).map(|(a, b)| (a - of_a, b - of_b));
    let (product, aa, bb) = centred().fold((0.0, 0.0, 0.0), |(p, x, y), (a, b)| (p + a * b, x + a * a, y + b * b));
    (aa > 0.0 && bb > 0.0).then(|| product / (aa * bb).sqrt())
}

/// Spearman's correlation: Pearson's of the ranks, equal values sharing their mean rank.
#[must_use]
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&mean_ranks(a), &mean_ranks(b))
}

/// The rank of each value from 1, equal values sharing the mean of theirs (`rankdata`).
fn mean_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = order[start..].iter().take_while(|&&at| values[at].total_cmp(&values[order[start]]).is_eq()).count();
        let rank = float(2 * start + same + 1) / 2.0;
        order[start..start + same].iter().for_each(|&at| ranks[at] = rank);
        start += same;
    }
    ranks
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    sum / float(count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_correlations_are_scipy_s() {
        let (a, b) = ([1.0, 2.0, 2.0, 4.0, -1.0], [0.5, 3.0, 1.0, 3.0, 0.0]);
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
        near(mean_squared_error(&a, &b), 0.85);
        near(mean_absolute_error(&a, &b), 0.9);
        near(pearson(&a, &b).expect("both vary"), 0.827_155_128_171_631_8);
        near(spearman(&a, &b).expect("both vary"), 0.921_052_631_578_947_3);
        assert_eq!(pearson(&a, &[1.0; 5]), None);
    }
}
