//! What is a process's own: some of the parts of a step, some of the numbers of a vector.

use std::ops::Range;

/// Which parts of a step a process computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The number of the process, from 0.
    pub rank: usize,
    /// How many processes there are.
    pub size: usize,
}

impl Share {
    /// That of one process.
    pub const ALL: Self = Self { rank: 0, size: 1 };

    /// Whether the part of a number is this process's.
    #[must_use]
    pub fn has(self, number: usize) -> bool {
        number % self.size.max(1) == self.rank
    }
}

/// The parts of a vector, by rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    lengths: Vec<usize>,
    own: Range<usize>,
}

impl Parts {
    /// A vector of `count` numbers in parts as equal as can be, as the process of a share sees them.
    #[must_use]
    pub fn of(count: usize, share: Share) -> Self {
        let start = |rank: usize| rank * (count / share.size.max(1)) + rank.min(count % share.size.max(1));
        let lengths = (0..share.size).map(|rank| start(rank + 1) - start(rank)).collect();
        Self { lengths, own: start(share.rank)..start(share.rank + 1) }
    }

    /// Where this process's own part lies.
    #[must_use]
    pub fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    /// The length of each process's part, by rank.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The numbers of the whole vector.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lengths.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_equal_as_can_be_and_nothing_is_left_out() {
        for (count, size) in [(10, 3), (3, 3), (2, 3), (7, 1), (1_000_001, 8)] {
            let all: Vec<Parts> = (0..size).map(|rank| Parts::of(count, Share { rank, size })).collect();
            let mut end = 0;
            for (rank, parts) in all.iter().enumerate() {
                assert_eq!((parts.own().start, parts.own().len()), (end, parts.lengths()[rank]), "{count} among {size}");
                end = parts.own().end;
                assert_eq!(parts.lengths(), all[0].lengths());
            }
            assert_eq!((end, all[0].count()), (count, count));
            let (least, most) = (all[0].lengths().iter().min(), all[0].lengths().iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));
        }
    }
}
