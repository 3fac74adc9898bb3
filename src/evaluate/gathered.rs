//! A batch whose texts were encoded in parts, as the loss that compares all of them reads it.

use crate::data::{Example, Labels};
use crate::error::{Error, Result};
use crate::num::{self, single};
use crate::ort::{Feed, HostTensor, Session};
use crate::parallel::{Reader, Writer};
use crate::train::cached::VECTORS;
use crate::train::losses::LABELS;
use crate::train::weights::WEIGHTS;

/// What the graph of a loss reads of rows beside their vectors.
#[must_use]
pub fn columns(loss: &Session) -> Vec<String> {
    loss.inputs().iter().map(|port| port.name.clone()).filter(|name| name != VECTORS).collect()
}

/// These outputs of the graph of a loss, of all parts of a batch.
///
/// # Errors
/// Rows of different numbers of texts, or if ONNX Runtime refuses.
pub fn run(loss: &mut Session, all: &[Encoded], outputs: &[&str]) -> Result<Vec<HostTensor>> {
    let whole = joined(all)?;
    let named = columns(loss).into_iter().enumerate();
    let named = named.map(|(at, name)| Ok((name, column(all, at)?))).collect::<Result<Vec<_>>>()?;
    let feeds: Vec<Feed<'_>> =
        std::iter::once(Feed::host(VECTORS, &whole)).chain(named.iter().map(|(name, values)| Feed::host(name, values))).collect();
    loss.run(&feeds, outputs)
}

/// The vectors of a part's texts.
pub struct Encoded {
    /// Which of the parts of the step it is.
    pub number: usize,
    /// Its rows.
    pub rows: usize,
    /// Numbers of a vector.
    pub width: usize,
    /// `[texts, rows, width]`.
    vectors: Vec<f32>,
    /// Each column that the loss reads, a number for each row; none where a row's is its place in the batch.
    columns: Vec<Vec<f32>>,
    /// What the adapter adds to the loss, of every part the same number; none of an adapter that adds nothing.
    pub penalty: Vec<f32>,
}

impl Encoded {
    /// Of the rows of a part; `columns` are what the loss reads beside.
    ///
    /// # Errors
    /// Vectors that are not those of the rows; rows without such a column.
    pub fn of(number: usize, rows: &[Example], vectors: &HostTensor, columns: &[String]) -> Result<Self> {
        let width = vectors.shape().last().copied().filter(|width| *width > 0);
        let width = width.ok_or_else(|| Error::mismatch("axes of embeddings", 2, vectors.shape().len()))?;
        let columns = columns.iter().map(|name| numbers(rows, name)).collect::<Result<_>>()?;
        let (vectors, rows) = (vectors.to_f32()?, rows.len());
        if vectors.len() % (rows * width).max(1) != 0 {
            return Err(Error::mismatch("numbers of a part's embeddings", format!("{width} for each text of {rows} rows"), vectors.len()));
        }
        Ok(Self { number, rows, width, vectors, columns, penalty: vec![] })
    }

    /// Texts of each row.
    #[must_use]
    pub fn texts(&self) -> usize {
        self.vectors.len() / (self.rows * self.width).max(1)
    }

    /// As processes give it to each other.
    #[must_use]
    pub fn write(&self, out: Writer) -> Writer {
        let out = out.counts(&[self.number, self.rows, self.width]).numbers(&self.vectors).numbers(&self.penalty);
        self.columns.iter().fold(out, |out, column| out.numbers(column))
    }

    /// What [`write`](Self::write) wrote, with so many columns.
    ///
    /// # Errors
    /// Bytes that are something else.
    pub fn read(reader: &mut Reader<'_>, columns: usize) -> Result<Self> {
        let facts = reader.counts()?;
        let [number, rows, width] = facts[..] else { return Err(Error::mismatch("facts of a part", 3, facts.len())) };
        let (vectors, penalty) = (reader.numbers()?, reader.numbers()?);
        Ok(Self { number, rows, width, vectors, columns: (0..columns).map(|_| reader.numbers()).collect::<Result<_>>()?, penalty })
    }

    /// The vectors of its texts of a place.
    fn of_text(&self, text: usize) -> &[f32] {
        let size = self.rows * self.width;
        &self.vectors[text * size..(text + 1) * size]
    }
}

/// A number of each row for an input of the loss: what it weighs, or its column's; none where labels are the rows' places.
fn numbers(rows: &[Example], input: &str) -> Result<Vec<f32>> {
    if input == WEIGHTS {
        return Ok(rows.iter().map(|row| single(row.weight())).collect());
    }
    if input == LABELS && rows.iter().all(|row| row.labels == Labels::Row) {
        return Ok(vec![]);
    }
    let number = |row: &Example| row.columns.get(input)?.values.first().copied().map(single);
    rows.iter().map(number).collect::<Option<_>>().ok_or_else(|| Error::not_found("column", input))
}

/// The vectors of all parts as the whole batch has them: all first texts, then all second ones, and so on.
fn joined(parts: &[Encoded]) -> Result<HostTensor> {
    let (texts, width) = parts.first().map_or((1, 1), |part| (part.texts(), part.width));
    if let Some(other) = parts.iter().find(|part| (part.texts(), part.width) != (texts, width)) {
        return Err(Error::mismatch("texts of a row", texts, other.texts()));
    }
    let whole: Vec<f32> = (0..texts).flat_map(|text| parts.iter().flat_map(move |part| part.of_text(text)).copied()).collect();
    HostTensor::new(vec![whole.len() / width, width], whole)
}

/// A column of all parts: the rows' own places, or their numbers.
fn column(parts: &[Encoded], at: usize) -> Result<HostTensor> {
    let count = parts.iter().map(|part| part.rows).sum();
    if parts.iter().all(|part| part.columns[at].is_empty()) {
        let places: Vec<i64> = (0..count).map(num::int).collect();
        return HostTensor::new([count], places);
    }
    HostTensor::new([count], parts.iter().flat_map(|part| part.columns[at].iter().copied()).collect::<Vec<f32>>())
}
