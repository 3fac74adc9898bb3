//! How ONNX Runtime's arena on the CPU keeps what values take: it never gives memory back, reuses the smallest piece that is large enough, and grows by regions that
//! double (`BFCArena` with `kNextPowerOfTwo`), as `ort::arena` sets it up. Memory counts that was written to: the rest of a region is the system's. A region has a table
//! of its units, which is written to as a whole.

use std::collections::{BTreeMap, BTreeSet};

/// Pieces are multiples of this many bytes.
const UNIT: u64 = 256;
/// Bytes that a region's table has for each of its units (`AllocationRegion::handles_`): a thirty-second of the region in all.
const OF_UNIT: u64 = 8;
/// Bytes of the first region: few, for the sake of its table.
pub const FIRST_REGION: u64 = 64 << 20;
/// Regions double up to this many bytes: more than anybody has, so that no two are of one size. Of two free ones of one size the arena takes the one with
/// the lower address, which is mostly the newer: in the end all pages of both are written to.
pub const LARGEST_REGION: u64 = 1 << 40;
/// A piece is parted if it is twice as large as what was asked for, or so many bytes larger.
pub const MOST_DEAD: u64 = 1 << 20;
/// More than any machine has: what a file says is larger counts as so many bytes.
const MOST: u64 = 1 << 44;
/// Bytes of a page of the system's memory.
const PAGE: u64 = 4096;

/// A piece of memory, by its number.
pub(super) type Piece = usize;

/// A part of a region, in use or free.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// Where it begins, counted over all regions.
    start: u64,
    size: u64,
    is_free: bool,
    before: Option<Piece>,
    behind: Option<Piece>,
}

/// An arena.
#[derive(Debug)]
pub(super) struct Arena {
    chunks: Vec<Chunk>,
    /// Free chunks by size and place.
    free: BTreeSet<(u64, u64, Piece)>,
    next_region: u64,
    end: u64,
    /// The pages that were written to: the first of each row of them, and the one behind its last.
    pages: BTreeMap<u64, u64>,
    /// Bytes of these pages, and of the regions' tables.
    written: u64,
}

impl Arena {
    pub(super) fn new() -> Self {
        Self { chunks: vec![], free: BTreeSet::new(), next_region: FIRST_REGION, end: 0, pages: BTreeMap::new(), written: 0 }
    }

    /// Takes memory, and writes to it.
    pub(super) fn take(&mut self, bytes: u64) -> Piece {
        let bytes = bytes.min(MOST);
        let size = bytes.max(1).next_multiple_of(UNIT);
        let found = self.free.range((size, 0, 0)..).next().copied();
        let (found_size, start, piece) = found.unwrap_or_else(|| self.extended(size));
        self.free.remove(&(found_size, start, piece));
        if found_size >= 2 * size || found_size - size >= MOST_DEAD {
            self.part(piece, size);
        }
        self.chunks[piece].is_free = false;
        self.write(start, bytes);
        piece
    }

    /// Gives memory back, which others may take then.
    pub(super) fn give_back(&mut self, piece: Piece) {
        self.chunks[piece].is_free = true;
        let mut whole = piece;
        if let Some(behind) = self.chunks[piece].behind.filter(|&behind| self.chunks[behind].is_free) {
            self.forget(behind);
            self.join(piece, behind);
        }
        if let Some(before) = self.chunks[piece].before.filter(|&before| self.chunks[before].is_free) {
            self.forget(before);
            self.join(before, piece);
            whole = before;
        }
        let Chunk { start, size, .. } = self.chunks[whole];
        self.free.insert((size, start, whole));
    }

    /// Bytes of memory that was ever written to.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    fn extended(&mut self, size: u64) -> (u64, u64, Piece) {
        let is_enough = size <= self.next_region;
        while size > self.next_region {
            self.next_region *= 2;
        }
        let region = self.next_region;
        if is_enough {
            self.next_region = (2 * region).min(LARGEST_REGION.max(region));
        }
        let start = self.end;
        self.end += region;
        self.written += region / UNIT * OF_UNIT;
        let piece = self.chunks.len();
        self.chunks.push(Chunk { start, size: region, is_free: true, before: None, behind: None });
        self.free.insert((region, start, piece));
        (region, start, piece)
    }

    /// Leaves so much of a piece; the rest is free.
    fn part(&mut self, piece: Piece, size: u64) {
        let Chunk { start, size: whole, behind, .. } = self.chunks[piece];
        let rest = self.chunks.len();
        self.chunks.push(Chunk { start: start + size, size: whole - size, is_free: true, before: Some(piece), behind });
        if let Some(behind) = behind {
            self.chunks[behind].before = Some(rest);
        }
        self.chunks[piece].size = size;
        self.chunks[piece].behind = Some(rest);
        self.free.insert((whole - size, start + size, rest));
    }

    fn join(&mut self, piece: Piece, behind: Piece) {
        let Chunk { size, behind: next, .. } = self.chunks[behind];
        self.chunks[piece].size += size;
        self.chunks[piece].behind = next;
        if let Some(next) = next {
            self.chunks[next].before = Some(piece);
        }
    }

    fn forget(&mut self, piece: Piece) {
        let Chunk { start, size, .. } = self.chunks[piece];
        self.free.remove(&(size, start, piece));
    }

    fn write(&mut self, start: u64, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let (mut first, mut end) = (start / PAGE, (start + bytes - 1) / PAGE + 1);
        let mut before = 0;
        // Rows that it touches become one with it.
        while let Some((&from, &to)) = self.pages.range(..=end).next_back().filter(|(_, to)| **to >= first) {
            self.pages.remove(&from);
            before += to - from;
            (first, end) = (first.min(from), end.max(to));
        }
        self.pages.insert(first, end);
        self.written += (end - first - before) * PAGE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;
    /// The table of the first region.
    const TABLE: u64 = 2 * MB;

    #[test]
    fn what_was_given_back_is_taken_again_and_stays() {
        let mut arena = Arena::new();
        let (first, last) = (arena.take(10 * MB), arena.take(2 * MB));
        arena.give_back(first);
        let (a, b) = (arena.take(4 * MB), arena.take(5 * MB));
        assert_eq!(arena.written(), TABLE + 12 * MB, "both are where the first was");
        arena.give_back(a);
        let c = arena.take(6 * MB);
        assert_eq!(arena.written(), TABLE + 18 * MB, "the hole is too small");
        for piece in [b, c, last] {
            arena.give_back(piece);
        }
        arena.take(18 * MB);
        assert_eq!(arena.written(), TABLE + 18 * MB, "what is free side by side is one");
    }

    #[test]
    fn values_beyond_any_memory_are_counted_and_not_asked_for() {
        let mut arena = Arena::new();
        for bytes in [u64::MAX, 1 << 63, 1 << 50] {
            let piece = arena.take(bytes);
            arena.give_back(piece);
        }
        assert!(arena.written() >= MOST, "{}", arena.written());
    }

    #[test]
    fn a_little_that_is_left_of_a_piece_is_nobodys() {
        let mut arena = Arena::new();
        let (hole, _behind) = (arena.take(MB), arena.take(MB));
        arena.give_back(hole);
        arena.take(600 << 10);
        arena.take(300 << 10);
        assert_eq!(arena.written(), TABLE + 2 * MB + (300 << 10), "the hole was not parted");
    }

    #[test]
    fn pages_that_are_written_to_twice_count_once() {
        let mut arena = Arena::new();
        for (start, pages, all) in
            [(0, 1, 1), (4, 2, 3), (2, 1, 4), (1, 4, 6), (0, 6, 6), (100, 1, 7), (3, 200, 203), (1 << 40, 1 << 40, (1 << 40) + 203)]
        {
            arena.write(start * PAGE, pages * PAGE);
            assert_eq!(arena.written(), all * PAGE, "{pages} from {start}");
        }
    }

    #[test]
    fn only_what_is_written_to_counts() {
        let mut arena = Arena::new();
        arena.take(50 * MB);
        arena.take(1);
        assert_eq!(arena.written(), TABLE + 50 * MB + PAGE);
        arena.take(3 << 30);
        let tables = TABLE + (4 << 30) / 32;
        assert_eq!(arena.written(), tables + 50 * MB + PAGE + (3 << 30), "in a region of its own");
    }
}
