//! Vectors of texts: searched among, compared in pairs with a number, or with a teacher's.

use std::collections::BTreeMap;

use super::{DEPTH, Metrics};
use crate::data::Example;
use crate::measure;
use crate::train::losses::LABELS;

/// Vectors of texts, gathered to search among all of them.
#[derive(Default)]
pub(super) struct Vectors {
    anchors: Vec<Vec<f32>>,
    /// The place of each anchor's own positive among `others`.
    own: Vec<usize>,
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
                    self.own.push(known);
                    self.anchors.push(text(0).to_vec());
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
        let (mut first, mut among, mut reciprocal, mut gain) = (0, 0, 0.0, 0.0);
        for (anchor, own) in self.anchors.iter().zip(&self.own) {
            let scores: Vec<f64> = self.others.iter().map(|other| cosine(anchor, other)).collect();
            let ranked = measure::ranks(&scores);
            let place = ranked.iter().position(|place| place == own).unwrap_or(usize::MAX);
            first += usize::from(place == 0);
            among += usize::from(place < DEPTH);
            reciprocal += measure::reciprocal_rank(ranked.iter().map(|place| place == own), DEPTH);
            gain += measure::discounted_gain(ranked.iter().map(|place| f64::from(u8::from(place == own))), &[1.0], DEPTH);
        }
        let count = measure::float(self.anchors.len().max(1));
        let mut metrics = vec![
            ("recall@1", measure::float(first) / count),
            ("recall@10", measure::float(among) / count),
            ("mrr@10", reciprocal / count),
            ("ndcg@10", gain / count),
        ];
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
