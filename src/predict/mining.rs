//! Hard negatives: texts that are near a query and do not answer it, chosen as sentence-transformers' `mine_hard_negatives` chooses them.

use std::collections::BTreeMap;

use indexmap::IndexSet;
use ndarray::{Array2, ArrayView2, Axis};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Predictor;
use crate::error::Result;
use crate::num;

/// Queries whose scores are in memory together.
const QUERIES: usize = 256;

/// Which texts are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Negatives for each pair, at most.
    pub count: usize,
    /// How many of the nearest are left out.
    pub range_min: usize,
    /// How many of the nearest are looked at; as many as the rest asks for by default.
    pub range_max: Option<usize>,
    /// The highest score of a negative.
    pub max_score: Option<f64>,
    /// The lowest.
    pub min_score: Option<f64>,
    /// How far below the positive's score a negative's must be.
    pub absolute_margin: Option<f64>,
    /// The same as a share of the size of the positive's score.
    pub relative_margin: Option<f64>,
    /// Draws among those that are left, from this seed; without it the nearest are taken.
    pub seed: Option<u64>,
}

/// The three nearest, whatever their scores.
impl Default for Choice {
    fn default() -> Self {
        Self {
            count: 3,
            range_min: 0,
            range_max: None,
            max_score: None,
            min_score: None,
            absolute_margin: None,
            relative_margin: None,
            seed: None,
        }
    }
}

/// A query with a text that answers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The query.
    pub anchor: String,
    /// The text.
    pub positive: String,
}

/// A negative and its cosine with the query.
#[derive(Clone, Debug, PartialEq)]
pub struct Negative {
    /// The text.
    pub text: String,
    /// The cosine.
    pub score: f64,
}

/// The negatives of each pair, the nearest first, out of all positives and the texts of a corpus.
///
/// # Errors
/// Texts that the model cannot take.
pub fn negatives(model: &mut Predictor, pairs: &[Pair], corpus: &[String], choice: &Choice) -> Result<Vec<Vec<Negative>>> {
    let texts: IndexSet<&str> = pairs.iter().map(|pair| pair.positive.as_str()).chain(corpus.iter().map(String::as_str)).collect();
    let texts: Vec<&str> = texts.into_iter().collect();
    let queries: Vec<&str> = pairs.iter().map(|pair| pair.anchor.as_str()).collect::<IndexSet<_>>().into_iter().collect();
    let places: BTreeMap<&str, usize> = texts.iter().enumerate().map(|(place, text)| (*text, place)).collect();
    let rows: BTreeMap<&str, usize> = queries.iter().enumerate().map(|(row, query)| (*query, row)).collect();
    // Everything that answers a query is no negative of it, whichever pair it stands in; nor is the query itself.
    let mut positives: Vec<Vec<usize>> = vec![vec![]; queries.len()];
    for Pair { anchor, positive } in pairs {
        positives[rows[anchor.as_str()]].push(places[positive.as_str()]);
    }
    let most = positives.iter().map(Vec::len).max().unwrap_or_default();
    let (of_texts, of_queries) = (unit(model.vectors(&texts, "positive")?), unit(model.vectors(&queries, "anchor")?));
    let mut of_query: Vec<Vec<(usize, f64)>> = vec![];
    // The margin is counted from the farthest text that answers a query, to be on the safe side.
    let mut of_positives: Vec<f64> = vec![];
    for (first, part) in of_queries.axis_chunks_iter(Axis(0), QUERIES).enumerate().map(|(part, rows)| (part * QUERIES, rows)) {
        let scores = part.dot(&of_texts.t());
        for ((row, positives), query) in scores.rows().into_iter().zip(&positives[first..]).zip(&queries[first..]) {
            of_positives.push(positives.iter().map(|&place| f64::from(row[place])).fold(f64::INFINITY, f64::min));
            let answers: Vec<usize> = positives.iter().chain(places.get(query)).copied().collect();
            of_query.push(nearest(row.as_slice().unwrap_or_default(), &answers, choice.looked_at(most).saturating_add(most)));
        }
    }
    let mut random = choice.seed.map(ChaCha8Rng::seed_from_u64);
    let of_pair = |pair: &Pair| {
        let row = rows[pair.anchor.as_str()];
        let chosen = choice.among(&of_query[row], of_positives[row], most, random.as_mut());
        chosen.into_iter().map(|(place, score)| Negative { text: texts[place].to_owned(), score }).collect()
    };
    Ok(pairs.iter().map(of_pair).collect())
}

/// So many of the texts nearest to a query, the nearest first, without those that answer it.
fn nearest(scores: &[f32], answers: &[usize], count: usize) -> Vec<(usize, f64)> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|&one, &other| scores[other].total_cmp(&scores[one]));
    places.truncate(count);
    places.retain(|place| !answers.contains(place));
    places.into_iter().map(|place| (place, f64::from(scores[place]))).collect()
}

impl Choice {
    /// How many are looked at, where a query has up to `most` texts that answer it.
    fn looked_at(&self, most: usize) -> usize {
        // Where some may be too near, more are looked at than are taken.
        let filters = self.absolute_margin.is_some() || self.relative_margin.is_some() || self.max_score.is_some();
        let wanted = if filters { self.count.saturating_mul(10) } else { self.count };
        self.range_max.unwrap_or_else(|| self.range_min.saturating_add(wanted).saturating_add(most))
    }

    /// Those that are taken of a query's candidates, where the farthest text that answers it has this score.
    fn among(&self, candidates: &[(usize, f64)], positive: f64, most: usize, random: Option<&mut ChaCha8Rng>) -> Vec<(usize, f64)> {
        let is_taken = |&&(_, score): &&(usize, f64)| {
            self.max_score.is_none_or(|most| score <= most)
                && self.min_score.is_none_or(|least| score >= least)
                && self.absolute_margin.is_none_or(|margin| score + margin <= positive)
                && self.relative_margin.is_none_or(|margin| score <= positive - positive.abs() * margin)
        };
        let left = candidates.iter().filter(is_taken).take(self.looked_at(most)).skip(self.range_min);
        let mut left: Vec<(usize, f64)> = left.copied().collect();
        if let Some(random) = random {
            while left.len() > self.count {
                let bound = num::wide(left.len());
                left.remove(usize::try_from(random.next_u64() % bound).unwrap_or_default());
            }
        }
        left.truncate(self.count);
        left
    }
}

/// Vectors of length 1, as rows.
fn unit(vectors: Vec<Vec<f32>>) -> Array2<f32> {
    let width = vectors.first().map_or(0, Vec::len);
    let values: Vec<f32> = vectors.into_iter().flat_map(|vector| directed(&vector)).collect();
    let rows = values.len() / width.max(1);
    ArrayView2::from_shape((rows, width), &values).map(|view| view.to_owned()).unwrap_or_default()
}

fn directed(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter().map(|x| x / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Choice = Choice {
        count: 2,
        range_min: 0,
        range_max: None,
        max_score: None,
        min_score: None,
        absolute_margin: None,
        relative_margin: None,
        seed: None,
    };

    #[test]
    fn negatives_are_the_nearest_that_are_no_positives_within_margins() {
        let scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.1];
        // Text 1 is the positive, with a score of 0.8.
        let taken = |choice: &Choice| {
            let chosen = choice.among(&nearest(&scores, &[1], choice.looked_at(1) + 1), 0.8, 1, None);
            chosen.into_iter().map(|(place, _)| place).collect::<Vec<_>>()
        };
        for (choice, expected) in [
            (PLAIN, vec![0, 2]),
            (Choice { range_min: 1, ..PLAIN }, vec![2, 3]),
            (Choice { range_max: Some(1), ..PLAIN }, vec![0]),
            (Choice { max_score: Some(0.65), ..PLAIN }, vec![3, 4]),
            (Choice { absolute_margin: Some(0.15), ..PLAIN }, vec![3, 4]),
            (Choice { relative_margin: Some(0.05), ..PLAIN }, vec![2, 3]),
            (Choice { absolute_margin: Some(0.0), min_score: Some(0.55), ..PLAIN }, vec![2, 3]),
            (Choice { count: 9, ..PLAIN }, vec![0, 2, 3, 4, 5]),
        ] {
            assert_eq!(taken(&choice), expected, "{choice:?}");
        }
    }

    #[test]
    fn drawn_negatives_depend_on_the_seed_and_keep_their_order() {
        let candidates: Vec<(usize, f64)> = (0..20_u8).map(|at| (usize::from(at), 1.0 - f64::from(at) / 20.0)).collect();
        let drawn =
            |seed| Choice { count: 5, range_max: Some(20), ..PLAIN }.among(&candidates, 1.0, 1, Some(&mut ChaCha8Rng::seed_from_u64(seed)));
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert!(drawn(3).len() == 5 && drawn(3).windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
