//! Vectors of texts: searched among, compared in pairs with a number, or with a teacher's.

use std::collections::{BTreeMap, BTreeSet};

use super::{DEPTH, Metrics};
use crate::data::Example;
use crate::measure;
use crate::train::losses::LABELS;

/// Vectors of texts, gathered to search among all of them.
#[derive(Default)]
pub(super) struct Vectors {
    /// Every anchor once.
    anchors: Vec<Vec<f32>>,
    /// The places of each anchor's positives among `others`.
    right: Vec<BTreeSet<usize>>,
    anchor_places: BTreeMap<String, usize>,
    /// Every positive and negative once.
    others: Vec<Vec<f32>>,
    places: BTreeMap<String, usize>,
    /// Cosines of pairs, and how alike they should be.
    pairs: Vec<(f64, f64)>,
    nearer: usize,
    triplets: usize,
    /// Cosines of vectors with a teacher's.
    taught: Vec<f64>,
}

impl Vectors {
    pub(super) fn add<'v>(&mut self, rows: &[Example], vector: &dyn Fn(usize) -> &'v [f32]) {
        for (at, row) in rows.iter().enumerate() {
            let text = |place: usize| vector(place * rows.len() + at);
            if let Some(label) = row.columns.get(LABELS).filter(|label| label.shape.len() == 2) {
                let [own, width] = label.shape[..] else { continue };
                let of_text = |place: usize| &label.values[if own > 1 { place * width..(place + 1) * width } else { 0..width }];
                self.taught.extend((0..=row.others.len()).map(|place| cosine(text(place), of_text(place))));
                continue;
            }
            if let Some(score) = row.columns.get(LABELS).and_then(|label| label.values.first()).filter(|_| row.others.len() == 1) {
                self.pairs.push((cosine(text(0), text(1)), *score));
                continue;
            }
            for (place, name) in row.texts.iter().enumerate().skip(1) {
                let fresh = self.others.len();
                let known = *self.places.entry(name.clone()).or_insert(fresh);
                if known == fresh {
                    self.others.push(text(place).to_vec());
                }
                if place == 1 {
                    let fresh = self.anchors.len();
                    let anchor = *self.anchor_places.entry(row.texts[0].clone()).or_insert(fresh);
                    if anchor == fresh {
                        self.anchors.push(text(0).to_vec());
                        self.right.push(BTreeSet::new());
                    }
                    self.right[anchor].insert(known);
                } else {
                    self.triplets += 1;
                    self.nearer += usize::from(cosine(text(0), text(1)) > cosine(text(0), text(place)));
                }
            }
        }
    }

    pub(super) fn metrics(&self) -> Metrics {
        if !self.taught.is_empty() {
            return vec![("cosine", self.taught.iter().sum::<f64>() / measure::float(self.taught.len()))];
        }
        if !self.pairs.is_empty() {
            let (found, wanted): (Vec<f64>, Vec<f64>) = self.pairs.iter().copied().unzip();
            let spearman = measure::spearman(&found, &wanted).map(|value| ("spearman", value));
            return spearman.into_iter().chain(measure::pearson(&found, &wanted).map(|value| ("pearson", value))).collect();
        }
        // As sentence-transformers' `InformationRetrievalEvaluator`: a question counts once, however many answers it has.
        let (mut first, mut among, mut reciprocal, mut gain) = (0.0, 0.0, 0.0, 0.0);
        for (anchor, right) in self.anchors.iter().zip(&self.right) {
            let scores: Vec<f64> = self.others.iter().map(|other| cosine(anchor, other)).collect();
            let found: Vec<bool> = measure::ranks(&scores).iter().take(DEPTH).map(|place| right.contains(place)).collect();
            let recall = |depth: usize| measure::float(found.iter().take(depth).filter(|is_right| **is_right).count());
            first += recall(1) / measure::float(right.len());
            among += recall(DEPTH) / measure::float(right.len());
            reciprocal += measure::reciprocal_rank(found.iter().copied(), DEPTH);
            gain += measure::discounted_gain(found.iter().map(|is_right| f64::from(u8::from(*is_right))), &vec![1.0; right.len()], DEPTH);
        }
        let count = measure::float(self.anchors.len().max(1));
        let mut metrics =
            vec![("recall@1", first / count), ("recall@10", among / count), ("mrr@10", reciprocal / count), ("ndcg@10", gain / count)];
        if self.triplets > 0 {
            metrics.push(("triplet_accuracy", measure::float(self.nearer) / measure::float(self.triplets)));
        }
        metrics
    }
}

fn cosine<B: Copy + Into<f64>>(a: &[f32], b: &[B]) -> f64 {
    let squares = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>();
    let product: f64 = a.iter().zip(b).map(|(x, y)| f64::from(*x) * (*y).into()).sum();
    let lengths = (squares(&mut a.iter().map(|x| f64::from(*x))) * squares(&mut b.iter().map(|y| (*y).into()))).sqrt();
    if lengths > 0.0 { product / lengths } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_with_several_answers_counts_once_and_all_of_them_are_right() {
        let row = |anchor: &str, positive: &str| Example { texts: vec![anchor.to_owned(), positive.to_owned()], ..Example::default() };
        let rows = [("q", "a"), ("q", "b"), ("q", "c"), ("r", "d")].map(|(anchor, positive)| row(anchor, positive));
        // Cosines with `q`, and with `r` at a right angle to it: of the anchors, then of the positives.
        let all = [1.0, 1.0, 1.0, 0.0, 0.9, 0.8, 0.7, 0.6_f32].map(|cosine| vec![cosine, (1.0 - cosine * cosine).sqrt()]);
        let mut vectors = Vectors::default();
        vectors.add(&rows, &|text| &all[text]);
        let metrics: BTreeMap<&str, f64> = vectors.metrics().into_iter().collect();
        // Of `q` one of three is first, all are among ten; the answer of `r` is its nearest.
        let wanted = [("recall@1", f64::midpoint(1.0 / 3.0, 1.0)), ("recall@10", 1.0), ("mrr@10", 1.0), ("ndcg@10", 1.0)];
        assert!(wanted.iter().all(|(name, value)| (metrics[name] - value).abs() < 1e-9), "{metrics:?}");
    }
}
