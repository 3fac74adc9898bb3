//! Many examples in little memory: each packed into a few bytes a token, in memory while they are few, else in a file without a name, which is mapped.
//! Two numbers a row stay, however long the rows are.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};

use bytes::Bytes;

use super::example::Example;
use crate::error::{Error, Result};
use crate::files;

/// Packed examples of up to this size are kept in memory, in bytes.
const IN_MEMORY: usize = 8 << 20;

/// Examples in their order.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    slots: Vec<Slot>,
    packed: Bytes,
}

/// Where an example is.
#[derive(Clone, Debug)]
enum Slot {
    /// From this byte on.
    Packed(usize),
    /// Here: one that refers to more than its own numbers, or that was changed.
    Whole(Box<Example>),
}

impl Examples {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The example of a row.
    ///
    /// # Panics
    /// If there are no so many rows.
    #[must_use]
    pub fn get(&self, row: usize) -> Cow<'_, Example> {
        match &self.slots[row] {
            Slot::Whole(example) => Cow::Borrowed(example),
            Slot::Packed(at) => {
                let (example, _) = postcard::take_from_bytes(&self.packed[*at..]).expect("what was packed here is unpacked");
                Cow::Owned(example)
            }
        }
    }

    /// All examples in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Cow<'_, Example>> + Clone {
        (0..self.len()).map(|row| self.get(row))
    }

    /// Puts another example in a row's place.
    ///
    /// # Panics
    /// If there are no so many rows.
    pub fn set(&mut self, row: usize, example: Example) {
        self.slots[row] = Slot::Whole(Box::new(example));
    }

    /// Forgets all but the first so many.
    pub fn truncate(&mut self, count: usize) {
        self.slots.truncate(count);
    }

    /// The examples of which `is_first` says so, and the others, each in their order.
    #[must_use]
    pub(super) fn parted(&self, is_first: impl Fn(usize) -> bool) -> (Self, Self) {
        let of = |wanted: bool| {
            let slots = self.slots.iter().enumerate().filter(|(row, _)| is_first(*row) == wanted).map(|(_, slot)| slot.clone());
            Self { slots: slots.collect(), packed: self.packed.clone() }
        };
        (of(true), of(false))
    }
}

impl PartialEq for Examples {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().zip(other.iter()).all(|(one, other)| one == other)
    }
}

impl From<Vec<Example>> for Examples {
    fn from(examples: Vec<Example>) -> Self {
        Self { slots: examples.into_iter().map(|example| Slot::Whole(Box::new(example))).collect(), packed: Bytes::new() }
    }
}

/// Examples that are being read.
#[derive(Default)]
pub(super) struct Packer {
    slots: Vec<Slot>,
    /// What is packed and not in the file.
    memory: Vec<u8>,
    file: Option<BufWriter<File>>,
    /// What is packed.
    length: usize,
}

impl Packer {
    /// Adds an example behind the others.
    ///
    /// # Errors
    /// If the temporary file cannot be written.
    pub(super) fn push(&mut self, example: Example) -> Result<()> {
        if !example.is_of_numbers() {
            self.slots.push(Slot::Whole(Box::new(example)));
            return Ok(());
        }
        let bytes = postcard::to_stdvec(&example).map_err(|error| Error::invalid(format!("a row cannot be kept: {error}")))?;
        self.slots.push(Slot::Packed(self.length));
        self.length += bytes.len();
        match &mut self.file {
            Some(file) => file.write_all(&bytes)?,
            None => self.memory.extend(bytes),
        }
        if self.file.is_none() && self.memory.len() > IN_MEMORY {
            // A file without a name: nothing is left of it however the process ends.
            let mut file = BufWriter::new(tempfile::tempfile()?);
            file.write_all(&std::mem::take(&mut self.memory))?;
            self.file = Some(file);
        }
        Ok(())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// All of them, to be read.
    ///
    /// # Errors
    /// If the temporary file cannot be written or mapped.
    pub(super) fn finish(self) -> Result<Examples> {
        let packed = match self.file {
            None => self.memory.into(),
            Some(file) => files::map_open(&file.into_inner().map_err(std::io::IntoInnerError::into_error)?)?,
        };
        Ok(Examples { slots: self.slots, packed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Labels, Numbers};

    #[test]
    fn examples_come_back_as_they_were_from_memory_and_from_a_file() -> Result<()> {
        let example = |at: i32, length: usize| Example {
            line: 7,
            row: 3,
            input_ids: vec![at; length],
            labels: Labels::Tokens(vec![-100, at]),
            columns: [("score".to_owned(), Numbers { shape: vec![2], values: vec![0.1, -1e300] })].into(),
            weight: Some(0.5),
            texts: vec!["ein Satz".to_owned()],
            others: vec![Example { input_ids: vec![1, i32::MAX], labels: Labels::Hidden, ..Example::default() }],
            group: Some("q".to_owned()),
            is_cut: true,
            ..Example::default()
        };
        for length in [3, 12_000_000] {
            let all: Vec<Example> = (0..6).map(|at| example(at, length)).collect();
            let mut packer = Packer::default();
            for example in &all {
                packer.push(example.clone())?;
            }
            assert_eq!(packer.file.is_some(), length > 3, "{} bytes", packer.length);
            let mut examples = packer.finish()?;
            assert!(examples == Examples::from(all.clone()));
            let (odd, even) = examples.parted(|row| row % 2 == 1);
            assert!(odd.len() == 3 && *odd.get(1) == all[3] && *even.get(2) == all[4]);
            examples.set(2, example(9, 1));
            examples.truncate(4);
            assert!(examples.len() == 4 && examples.get(2).input_ids == [9] && *examples.get(3) == all[3]);
        }
        Ok(())
    }
}
