//! Numbers as bytes, and back: what processes of one run, which are the same program on the same kind of machine, give each other.

use crate::error::{Error, Result};
use crate::num;

/// Numbers one behind the other, as bytes.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Appends a count.
    #[must_use]
    pub fn count(mut self, count: usize) -> Self {
        self.0.extend(num::wide(count).to_le_bytes());
        self
    }

    /// Appends a number.
    #[must_use]
    pub fn number(mut self, number: f64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    /// Appends numbers, and how many there are.
    #[must_use]
    pub fn numbers(self, numbers: &[f32]) -> Self {
        let mut with_count = self.count(numbers.len());
        with_count.0.extend_from_slice(bytemuck::cast_slice(numbers));
        with_count
    }

    /// Appends counts, and how many there are.
    #[must_use]
    pub fn counts(self, counts: &[usize]) -> Self {
        counts.iter().fold(self.count(counts.len()), |out, count| out.count(*count))
    }

    /// All of it.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads what a [`Writer`] wrote, in the same order.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether all was read.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    fn eight(&mut self) -> Result<[u8; 8]> {
        let (first, rest) = self.0.split_first_chunk().ok_or_else(short)?;
        self.0 = rest;
        Ok(*first)
    }

    /// The next count.
    ///
    /// # Errors
    /// If there is none.
    pub fn count(&mut self) -> Result<usize> {
        usize::try_from(u64::from_le_bytes(self.eight()?)).map_err(|_| short())
    }

    /// The next number.
    ///
    /// # Errors
    /// If there is none.
    pub fn number(&mut self) -> Result<f64> {
        self.eight().map(f64::from_le_bytes)
    }

    /// The next numbers.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn numbers(&mut self) -> Result<Vec<f32>> {
        let length = self.count()?.checked_mul(size_of::<f32>()).ok_or_else(short)?;
        let (own, rest) = self.0.split_at_checked(length).ok_or_else(short)?;
        self.0 = rest;
        Ok(bytemuck::pod_collect_to_vec(own))
    }

    /// The next counts.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn counts(&mut self) -> Result<Vec<usize>> {
        (0..self.count()?).map(|_| self.count()).collect()
    }
}

fn short() -> Error {
    Error::invalid("a process of this run gave less than was expected of it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() -> Result<()> {
        let bytes = Writer::default().count(7).numbers(&[0.1, f32::NAN]).number(-2.5).counts(&[3, 4]).finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.count()?, 7);
        assert_eq!(reader.numbers()?.map_bits(), [0.1_f32.to_bits(), f32::NAN.to_bits()]);
        assert_eq!((reader.number()?.to_bits(), reader.counts()?), ((-2.5_f64).to_bits(), vec![3, 4]));
        assert!(reader.is_at_end() && reader.count().is_err());
        assert!(Reader::new(&bytes[..20]).clone().numbers().is_err());
        Ok(())
    }

    trait Bits {
        fn map_bits(self) -> Vec<u32>;
    }

    impl Bits for Vec<f32> {
        fn map_bits(self) -> Vec<u32> {
            self.into_iter().map(f32::to_bits).collect()
        }
    }
}
