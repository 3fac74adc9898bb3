//! How far a text that was heard is from the one that was said.

use super::share;

/// Words and characters that were got wrong, as jiwer counts them: insertions, deletions and replacements of the fewest, over what there is in the
/// references.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorRate {
    wrong_words: usize,
    words: usize,
    wrong_characters: usize,
    characters: usize,
}

impl ErrorRate {
    /// Adds a text that was heard. Spaces around it do not count, nor do more than one between words.
    pub fn add(&mut self, said: &str, heard: &str) {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let characters = |text: &str| text.trim().chars().collect::<Vec<_>>();
        self.wrong_words += strsim::generic_levenshtein(&words(said), &words(heard));
        self.words += words(said).len();
        self.wrong_characters += strsim::generic_levenshtein(&characters(said), &characters(heard));
        self.characters += characters(said).len();
    }

    /// Wrong words over words; above 1 where more are heard than were said.
    #[must_use]
    pub fn words(&self) -> f64 {
        share(self.wrong_words, self.words)
    }

    /// Wrong characters over characters, those between words among them.
    #[must_use]
    pub fn characters(&self) -> f64 {
        share(self.wrong_characters, self.characters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_all_texts_together() {
        // jiwer 4: wer and cer of these references and hypotheses.
        let mut rate = ErrorRate::default();
        rate.add("the old film", " the  cold film ");
        rate.add("a", "a b c");
        assert_eq!((rate.wrong_words, rate.words), (3, 4));
        assert!((rate.words() - 0.75).abs() < 1e-12);
        assert_eq!((rate.wrong_characters, rate.characters), (6, 13));
        assert!(ErrorRate::default().words().abs() < 1e-12);
    }
}
