//! Entities in sequences of tags, and how many were found, as the package seqeval 1.2 counts them (its default mode, after conlleval).

use std::collections::BTreeSet;

use super::{f1, share};

/// The entities of a sequence of tags: kind, first and last token. `B-PER I-PER O` has one, `("PER", 0, 1)`.
///
/// Tags mean what seqeval takes them for (`get_entities` of `metrics/sequence_labeling.py`): the first letter is what stands before the dash, and of a tag
/// without a dash the rest is the kind. So a run of equal tags without a dash, such as `VERB`, is an entity, and what begins with O or a full stop is none.
#[must_use]
pub fn entities<'a>(tags: &[&'a str]) -> BTreeSet<(&'a str, usize, usize)> {
    let mut found = BTreeSet::new();
    let (mut before, mut start) = (Tag { mark: 'O', kind: "" }, 0);
    for (at, tag) in tags.iter().copied().chain(["O"]).enumerate() {
        let tag = Tag::of(tag);
        if before.ends(&tag) {
            found.insert((before.kind, start, at - 1));
        }
        if tag.starts(&before) {
            start = at;
        }
        before = tag;
    }
    found
}

/// A tag, taken apart.
struct Tag<'a> {
    mark: char,
    kind: &'a str,
}

impl<'a> Tag<'a> {
    fn of(tag: &'a str) -> Self {
        let mut letters = tag.chars();
        let (mark, rest) = (letters.next().unwrap_or('O'), letters.as_str());
        let kind = rest.split_once('-').map_or(rest, |(_, kind)| kind);
        Self { mark, kind: if kind.is_empty() { "_" } else { kind } }
    }

    fn is_outside(&self) -> bool {
        matches!(self.mark, 'O' | '.')
    }

    /// Whether an entity that this tag belongs to ends before the next.
    fn ends(&self, next: &Self) -> bool {
        let by_marks = matches!((self.mark, next.mark), ('E' | 'S', _) | ('B' | 'I', 'B' | 'S' | 'O'));
        by_marks || (!self.is_outside() && self.kind != next.kind)
    }

    /// Whether an entity begins at this tag.
    fn starts(&self, before: &Self) -> bool {
        let by_marks = matches!((before.mark, self.mark), (_, 'B' | 'S') | ('E' | 'S' | 'O', 'E' | 'I'));
        by_marks || (!self.is_outside() && self.kind != before.kind)
    }
}

/// Entities found, over any number of sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entities {
    both: usize,
    predicted: usize,
    right: usize,
}

impl Entities {
    /// Counts one sequence.
    pub fn add(&mut self, right: &[&str], predicted: &[&str]) {
        let (right, predicted) = (entities(right), entities(predicted));
        self.both += right.intersection(&predicted).count();
        self.predicted += predicted.len();
        self.right += right.len();
    }

    /// The share of predicted entities that are right.
    #[must_use]
    pub fn precision(&self) -> f64 {
        share(self.both, self.predicted)
    }

    /// The share of right entities that were predicted.
    #[must_use]
    pub fn recall(&self) -> f64 {
        share(self.both, self.right)
    }

    /// The harmonic mean of both.
    #[must_use]
    pub fn f1(&self) -> f64 {
        f1(self.both, self.predicted - self.both, self.right - self.both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_found_as_seqeval_finds_them() {
        for (tags, expected) in [
            (vec!["B-PER", "I-PER", "O", "B-LOC"], vec![("LOC", 3, 3), ("PER", 0, 1)]),
            (vec!["I-PER", "I-LOC", "B-LOC"], vec![("LOC", 1, 1), ("LOC", 2, 2), ("PER", 0, 0)]),
            (vec!["B-PER", "E-PER", "S-LOC", "S-LOC"], vec![("LOC", 2, 2), ("LOC", 3, 3), ("PER", 0, 1)]),
            (vec!["O", "O"], vec![]),
            (vec!["PER", "PER", "O", "LOC"], vec![("ER", 0, 1), ("OC", 3, 3)]),
            (vec!["DET", "NOUN", "NOUN", "VERB"], vec![("ERB", 3, 3), ("ET", 0, 0), ("OUN", 1, 2)]),
            (vec!["B-PER", "L-PER", "U-PER", "O", "U-LOC"], vec![("LOC", 4, 4), ("PER", 0, 2)]),
            (vec![".", "ORG", "X"], vec![]),
        ] {
            assert_eq!(entities(&tags), expected.into_iter().collect(), "{tags:?}");
        }
    }

    #[test]
    fn what_was_found_is_counted_over_sequences() {
        let mut counts = Entities::default();
        counts.add(&["B-PER", "I-PER", "O", "B-LOC"], &["B-PER", "O", "O", "B-LOC"]);
        counts.add(&["B-PER"], &["B-PER"]);
        assert!((counts.precision() - 2.0 / 3.0).abs() < 1e-12 && (counts.recall() - 2.0 / 3.0).abs() < 1e-12);
        assert!((counts.f1() - 2.0 / 3.0).abs() < 1e-12);
        assert!(Entities::default().f1().abs() < 1e-12);
    }
}
