//! Entities in sequences of tags, and how many were found, as the package seqeval 1.2 counts them (its default mode, after conlleval).

use std::collections::BTreeSet;

use super::{f1, share};

/// The entities of a sequence of tags: kind, first and last token. `B-PER I-PER O` has one, `("PER", 0, 1)`.
///
/// A tag without a dash, such as `O`, is outside. `I-X` behind another kind or behind nothing begins an entity; `E-` and `S-` end one.
#[must_use]
pub fn entities<'a>(tags: &[&'a str]) -> BTreeSet<(&'a str, usize, usize)> {
    let mut found = BTreeSet::new();
    let (mut before, mut kind_before, mut start) = (Mark::Outside, "", 0);
    for (at, tag) in tags.iter().copied().chain(["O"]).enumerate() {
        let (mark, kind) = Mark::of(tag);
        if before.ends(mark, kind_before != kind) {
            found.insert((kind_before, start, at - 1));
        }
        if mark.starts(before, kind_before != kind) {
            start = at;
        }
        (before, kind_before) = (mark, kind);
    }
    found
}

/// What stands before the dash of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Begin,
    Inside,
    End,
    Single,
    Outside,
}

impl Mark {
    fn of(tag: &str) -> (Self, &str) {
        let kind = tag.split_once('-').map_or("", |(_, kind)| kind);
        let mark = match tag.chars().next() {
            Some('B') => Self::Begin,
            Some('I') => Self::Inside,
            Some('E') => Self::End,
            Some('S') => Self::Single,
            _ => Self::Outside,
        };
        (mark, if mark == Self::Outside { "" } else { kind })
    }

    /// Whether an entity that this mark belongs to ends before the next mark.
    fn ends(self, next: Self, is_another_kind: bool) -> bool {
        match (self, next) {
            (Self::Outside, _) => false,
            (Self::End | Self::Single, _) | (_, Self::Begin | Self::Single | Self::Outside) => true,
            _ => is_another_kind,
        }
    }

    /// Whether an entity begins at this mark.
    fn starts(self, before: Self, is_another_kind: bool) -> bool {
        match (before, self) {
            (_, Self::Outside) => false,
            (_, Self::Begin | Self::Single) | (Self::End | Self::Single | Self::Outside, _) => true,
            _ => is_another_kind,
        }
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
