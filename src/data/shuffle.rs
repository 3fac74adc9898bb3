//! In which order rows are read: file order, or a permutation of each epoch that follows from the seed and the epoch alone.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// The order of the rows of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// As in the file.
    File,
    /// A permutation drawn anew for each epoch.
    Shuffled {
        /// Decides all permutations.
        seed: u64,
    },
    /// The same, but that rows of about the same length come together.
    ByLength {
        /// Decides all permutations.
        seed: u64,
    },
}

/// A place in the endless sequence of epochs: the next row to be read. With the [`Order`] it is all that a resumed run needs to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    /// The epoch, from 0.
    pub epoch: u64,
    /// How many rows of the epoch have been read.
    pub position: usize,
}

impl Order {
    /// What decides permutations; none where there are none.
    #[must_use]
    pub fn seed(self) -> Option<u64> {
        match self {
            Self::File => None,
            Self::Shuffled { seed } | Self::ByLength { seed } => Some(seed),
        }
    }

    /// The rows of an epoch, in the order in which they are read.
    #[must_use]
    pub fn rows(self, count: usize, epoch: u64) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..count).collect();
        if let Some(seed) = self.seed() {
            shuffle(&mut rows, &mut generator(Use::RowOrder, seed, epoch));
        }
        rows
    }
}

/// A permutation that follows from what it is for and from the seed.
pub(super) fn permutation(purpose: Use, seed: u64, count: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..count).collect();
    shuffle(&mut rows, &mut generator(purpose, seed, 0));
    rows
}

fn shuffle(rows: &mut [usize], random: &mut ChaCha8Rng) {
    for last in (1..rows.len()).rev() {
        rows.swap(last, below(random, last + 1));
    }
}

/// Rows of so many batches are sorted by length together: enough for batches of one length, few enough that batches differ from epoch to epoch (`get_length_grouped_indices` of Hugging Face's `trainer_pt_utils.py`).
const BATCHES_SORTED_TOGETHER: usize = 50;

/// Shuffled rows in another order, in which those of each batch are of about one length. Batches come in random order, but the one with the
/// longest row is the first: what memory a run needs is known after its first step. A batch that is not full is the last.
pub(super) fn by_length(mut rows: Vec<usize>, length: impl Fn(usize) -> usize, batch: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let batch = batch.max(1);
    let full = rows.len() - rows.len() % batch;
    if full == 0 {
        return rows;
    }
    let longest = (0..rows.len()).max_by_key(|&at| (length(rows[at]), std::cmp::Reverse(at))).unwrap_or_default();
    rows.swap(0, longest);
    for part in rows[..full].chunks_mut(batch * BATCHES_SORTED_TOGETHER) {
        part.sort_by_key(|&row| std::cmp::Reverse(length(row)));
    }
    let mut batches: Vec<&[usize]> = rows[..full].chunks(batch).collect();
    let mut random = generator(Use::BatchOrder, seed, epoch);
    for last in (2..batches.len()).rev() {
        batches.swap(last, 1 + below(&mut random, last));
    }
    batches.concat().into_iter().chain(rows[full..].iter().copied()).collect()
}

/// What random numbers are for, so that two uses of the same seed have nothing to do with each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    RowOrder,
    Hiding,
    HeldOut,
    BatchOrder,
    Augmentation,
}

/// A generator that depends on its arguments alone. The algorithm and the way numbers are drawn from it are fixed here: a run that was begun
/// with one version of this program must be continued the same way by another.
pub(super) fn generator(purpose: Use, seed: u64, index: u64) -> ChaCha8Rng {
    let purpose: u64 = match purpose {
        Use::RowOrder => 0,
        Use::Hiding => 1,
        Use::HeldOut => 2,
        Use::BatchOrder => 3,
        Use::Augmentation => 4,
    };
    let mut key = [0; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([seed, index, purpose]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// A number below `bound`, each as probable as the others.
pub(super) fn below(random: &mut ChaCha8Rng, bound: usize) -> usize {
    let bound = u64::try_from(bound).expect("lengths fit into 64 bits");
    // The largest multiple of the bound: what lies above would make the small remainders more probable.
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let drawn = random.next_u64();
        if drawn < limit {
            return usize::try_from(drawn % bound).expect("a remainder is below the bound, which was a usize");
        }
    }
}

/// A number from 0 to 1, 1 left out, of 32 random bits.
pub(super) fn share(random: &mut ChaCha8Rng) -> f64 {
    f64::from(random.next_u32()) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_depends_on_seed_and_epoch_alone() {
        let order = Order::Shuffled { seed: 7 };
        assert_eq!(order.rows(100, 3), order.rows(100, 3));
        assert_ne!(order.rows(100, 3), order.rows(100, 4));
        assert_ne!(order.rows(100, 3), Order::Shuffled { seed: 8 }.rows(100, 3));
        assert_eq!(Order::File.rows(4, 9), [0, 1, 2, 3]);
    }

    #[test]
    fn rows_of_one_length_come_together_and_the_longest_first() {
        let length = |row: usize| [5, 40, 7, 39, 6, 80, 41, 8, 90, 9, 4][row];
        let order = Order::ByLength { seed: 3 };
        for epoch in 0..5 {
            let rows = by_length(order.rows(11, epoch), length, 2, 3, epoch);
            assert_eq!(rows, by_length(order.rows(11, epoch), length, 2, 3, epoch));
            assert_eq!(rows[0], 8, "the longest row");
            let mut sorted = rows.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..11).collect::<Vec<_>>());
            let spread = |rows: &[usize]| rows.chunks(2).map(|pair| length(pair[0]).abs_diff(length(pair[pair.len() - 1]))).sum::<usize>();
            assert!(spread(&rows) < spread(&Order::Shuffled { seed: 3 }.rows(11, epoch)), "{rows:?}");
        }
        assert_ne!(by_length(order.rows(11, 0), length, 2, 3, 0), by_length(order.rows(11, 1), length, 2, 3, 1));
        assert_eq!(by_length(vec![2, 0, 1], length, 8, 3, 0), [2, 0, 1], "one batch, not full");
    }

    #[test]
    fn every_row_is_read_once_an_epoch() {
        for count in [0, 1, 2, 17, 1000] {
            let mut rows = Order::Shuffled { seed: 1 }.rows(count, 0);
            rows.sort_unstable();
            assert_eq!(rows, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_order_is_the_same_in_every_version() {
        assert_eq!(Order::Shuffled { seed: 42 }.rows(8, 0), [3, 6, 0, 4, 5, 2, 1, 7]);
    }

    #[test]
    fn all_orders_are_about_as_frequent() {
        let mut seen = std::collections::BTreeMap::<_, usize>::new();
        for seed in 0..6000 {
            *seen.entry(Order::Shuffled { seed }.rows(3, 0)).or_default() += 1;
        }
        // 1000 each, standard deviation 29.
        assert!(seen.len() == 6 && seen.values().all(|count| (850..1150).contains(count)), "{seen:?}");
    }
}
