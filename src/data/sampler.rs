//! Which rows come into one batch, beside the order of all rows.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::example::Example;

/// Which rows may be in one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sampler {
    /// Any.
    #[default]
    Any,
    /// None with a text that another one of them has: where the texts of a batch are taken for each other's negatives, such a text would be its own
    /// (sentence-transformers' `NoDuplicatesBatchSampler`).
    NoDuplicates,
}

/// The rows of an epoch in their order, and where its batches end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Epoch {
    pub rows: Vec<usize>,
    ends: Vec<usize>,
}

impl Sampler {
    /// What tells runs with different samplers apart.
    #[must_use]
    pub fn mark(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::NoDuplicates => ", no text twice in a batch",
        }
    }

    /// Parts rows, in the order of an epoch, into batches of a size at most.
    pub(super) fn parted(self, order: Vec<usize>, size: usize, texts: &dyn Fn(usize) -> BTreeSet<u64>) -> Epoch {
        match self {
            Self::Any => {
                let ends = (size..order.len()).step_by(size.max(1)).chain([order.len()]).collect();
                Epoch { rows: order, ends }
            }
            Self::NoDuplicates => without_duplicates(order, size, texts),
        }
    }
}

impl Epoch {
    /// Where the batch ends that begins at a row, or that the row is in.
    pub(super) fn end(&self, position: usize) -> usize {
        self.ends.iter().copied().find(|end| *end > position).unwrap_or(self.rows.len())
    }
}

/// Each batch takes the next rows that have no text of it; those that were passed over come first in the next one.
fn without_duplicates(order: Vec<usize>, size: usize, texts: &dyn Fn(usize) -> BTreeSet<u64>) -> Epoch {
    let mut waiting: VecDeque<usize> = order.into();
    let mut epoch = Epoch::default();
    while !waiting.is_empty() {
        let (mut seen, mut passed, mut count) = (BTreeSet::new(), vec![], 0);
        while count < size {
            let Some(row) = waiting.pop_front() else { break };
            let own = texts(row);
            if own.is_disjoint(&seen) {
                seen.extend(own);
                epoch.rows.push(row);
                count += 1;
            } else {
                passed.push(row);
            }
        }
        passed.into_iter().rev().for_each(|row| waiting.push_front(row));
        epoch.ends.push(epoch.rows.len());
    }
    epoch
}

impl Example {
    /// Marks of the texts of a row.
    pub(super) fn text_marks(&self) -> BTreeSet<u64> {
        if !self.texts.is_empty() {
            return self.texts.iter().map(|text| xxh3_64(text.as_bytes())).collect();
        }
        let mark = |example: &Self| xxh3_64(&example.input_ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
        std::iter::once(self).chain(&self.others).map(mark).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_comes_twice_into_a_batch_and_every_row_comes_once() {
        // Rows 0 and 1 share a text, as do 1 and 4.
        let texts: [&[u64]; 6] = [&[1, 10], &[1, 11], &[2, 12], &[3, 13], &[11, 14], &[4, 15]];
        let of_row = |row: usize| texts[row].iter().copied().collect();
        let epoch = Sampler::NoDuplicates.parted((0..6).collect(), 3, &of_row);
        assert_eq!((epoch.rows.as_slice(), epoch.ends.as_slice()), (&[0, 2, 3, 1, 5, 4][..], &[3, 5, 6][..]));
        assert_eq!([0, 2, 3, 4, 5].map(|at| epoch.end(at)), [3, 3, 5, 5, 6]);
        let plain = Sampler::Any.parted((0..5).collect(), 2, &of_row);
        assert_eq!((plain.rows, plain.ends), (vec![0, 1, 2, 3, 4], vec![2, 4, 5]));
    }

    #[test]
    fn rows_of_one_text_are_batches_of_their_own() {
        let epoch = Sampler::NoDuplicates.parted((0..4).collect(), 4, &|_| [7].into());
        assert_eq!((epoch.rows, epoch.ends), (vec![0, 1, 2, 3], vec![1, 2, 3, 4]));
    }
}
