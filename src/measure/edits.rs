//! Error rates of recognised text: edits over the length of the reference, as the package jiwer computes them over a whole file.

use super::share;

/// Edits and reference lengths, added up over any number of texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorRate {
    edits: usize,
    length: usize,
}

impl ErrorRate {
    /// Counts one text by words, parted by white space (WER).
    pub fn add_words(&mut self, recognised: &str, right: &str) {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        self.add(&words(recognised), &words(right));
    }

    /// Counts one text by characters, outer white space left out (CER).
    pub fn add_characters(&mut self, recognised: &str, right: &str) {
        let characters = |text: &str| text.trim().chars().collect::<Vec<_>>();
        self.add(&characters(recognised), &characters(right));
    }

    fn add<T: PartialEq>(&mut self, recognised: &[T], right: &[T]) {
        self.edits += distance(recognised, right);
        self.length += right.len();
    }

    /// Edits over reference length; above 1 where more was recognised than there is.
    #[must_use]
    pub fn rate(&self) -> f64 {
        share(self.edits, self.length)
    }
}

/// The fewest insertions, deletions and substitutions from one sequence to the other (Levenshtein), in memory of one row.
fn distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_edits_over_the_reference_s_length() {
        let mut words = ErrorRate::default();
        words.add_words("the cat sat", "the cat sat on mats");
        words.add_words("one two", "two");
        assert!((words.rate() - 3.0 / 6.0).abs() < 1e-12);
        let mut characters = ErrorRate::default();
        characters.add_characters("kitten ", "sitting");
        assert!((characters.rate() - 3.0 / 7.0).abs() < 1e-12);
        assert!(ErrorRate::default().rate().abs() < 1e-12);
    }
}
