//! The rows of a file as numbers: read one after another, made examples by several threads, and packed in the file's order.

use std::path::Path;

use serde_json::Value;

use super::classes::{self, Settled};
use super::encode::encode_all;
use super::encoder::Encoder;
use super::example::{Example, Labels};
use super::examples::{Examples, Packer};
use super::fields::Fields;
use super::fit::shortened;
use super::reading::Reading;
use super::record::{Record, RowFile};
use super::roles;
use crate::adapter::config::Task;
use crate::error::{Context, Error, Place, Result};
use crate::num;
use crate::work::{self, Pace};

/// Rows of about so many bytes are one piece of work.
const PIECE: usize = 32 << 10;
/// Pieces of a thread that are on their way.
const PIECES: usize = 4;
/// Fewer rows than these are read before threads have started.
const FEW: usize = 64;

/// The rows of a file as numbers.
pub(super) struct Encoded {
    pub examples: Examples,
    pub class_names: Option<Vec<String>>,
    /// Rows of the file.
    pub rows: usize,
    /// Examples that were cut.
    pub cut: usize,
}

impl Encoded {
    /// Reads a file's rows.
    ///
    /// # Errors
    /// With file and line, what cannot be read, or what the model cannot take.
    pub(super) fn of(file: &RowFile, path: &Path, reading: &Reading<'_>) -> Result<Self> {
        let survey = file.survey()?;
        let mut columns = roles::assign(&survey, path, reading).in_file(path)?;
        let mut labels = classes::Labels::new(reading);
        file.each(&mut |mut record| {
            columns.read(&mut record)?;
            columns.note(&record)?;
            labels.add(&record)
        })?;
        columns.tell();
        let labels = labels.settle().in_file(path)?;
        let class_names = labels.names.clone();
        let encoder = Encoder::new(reading, class_names.as_deref(), path);
        let mut kept = Kept { reading, packer: Packer::default(), first: None, cut: 0 };
        let make = |rows: Vec<Row>| rows.into_iter().map(|row| row.made(&labels, &encoder)).collect::<Vec<_>>();
        let mut keep = |made: Vec<Result<Made>>| made.into_iter().try_for_each(|made| kept.add(made?));
        let threads = if survey.rows < FEW { 1 } else { reading.threads() };
        let (mut row, mut pace) = (0, Pace::of(num::wide(survey.rows)));
        work::in_order(threads, threads * PIECES * PIECE, &make, &mut keep, |give| {
            let (mut piece, mut bytes) = (vec![], 0);
            let read = file.show(&mut |mut record| {
                columns.read(&mut record)?;
                row += 1;
                bytes += size_of_all(&record.fields);
                piece.push(Row { number: row, record });
                if bytes >= PIECE {
                    give(std::mem::take(&mut piece), std::mem::take(&mut bytes))?;
                    tell(&mut pace, path, row, survey.rows);
                }
                Ok(())
            });
            // The rows before one that cannot be read come before it.
            give(piece, bytes)?;
            read
        })
        .in_file(path)?;
        encoder.tell(path);
        let Kept { packer, cut, .. } = kept;
        Ok(Self { examples: packer.finish()?, class_names, rows: survey.rows, cut })
    }
}

/// Says now and then how far the reading is.
fn tell(pace: &mut Pace, path: &Path, done: usize, all: usize) {
    if let Some(left) = pace.due(num::wide(done)) {
        tracing::info!(target: work::PROGRESS, "{}: {done} of {all} rows are read, about {} s left", path.display(), left.as_secs().max(1));
    }
}

/// What the values of a row take, roughly, in bytes.
fn size_of_all(fields: &Fields) -> usize {
    fields.iter().map(|(name, value)| name.len() + size_of_value(value)).sum()
}

fn size_of_value(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(size_of_value).sum(),
            Value::Object(fields) => size_of_all(fields),
        }
}

/// A row of a file, with its number there.
struct Row {
    number: usize,
    record: Record,
}

/// A row as examples, each with whether it was cut.
struct Made(Vec<(Example, bool)>);

impl Row {
    /// The row as what the model can take: an example, or one for each window of its text.
    ///
    /// # Errors
    /// With the line, why it cannot.
    fn made(self, labels: &Settled<'_>, encoder: &Encoder<'_>) -> Result<Made> {
        let Record { line, mut fields } = self.record;
        let found = labels.write(&mut fields).and_then(|()| encode_all(encoder, &fields)).at(Place::Line(line))?;
        let fit = |example| fitted(Example { line, row: self.number, ..example }, encoder.reading).at(Place::Line(line));
        found.into_iter().map(fit).collect::<Result<_>>().map(Made)
    }
}

/// What is kept of the rows.
struct Kept<'a> {
    reading: &'a Reading<'a>,
    packer: Packer,
    /// The first example, which says how many texts a row has.
    first: Option<Example>,
    /// Examples that were cut.
    cut: usize,
}

impl Kept<'_> {
    fn add(&mut self, Made(examples): Made) -> Result<()> {
        // Windows of one text are answered together.
        let group = (self.reading.task == Task::Qa).then(|| self.packer.len().to_string());
        for (example, is_cut) in examples {
            let example = Example { group: group.clone().or(example.group), ..example };
            self.cut += usize::from(is_cut);
            if self.reading.task == Task::Embedding {
                let first = self.first.get_or_insert_with(|| example.clone());
                has_as_many_texts(&example, first).at(Place::Line(example.line))?;
            }
            self.packer.push(example)?;
        }
        Ok(())
    }
}

/// Checks that a row has as many texts as the first one: those of a batch are stacked.
fn has_as_many_texts(example: &Example, first: &Example) -> Result<()> {
    let (texts, expected) = (example.others.len() + 1, first.others.len() + 1);
    if texts == expected {
        return Ok(());
    }
    let error = Error::mismatch("texts in this row", format!("{expected}, as in line {}", first.line), texts);
    Err(error.with_hint(
        "every row has the same columns of texts, also negative, or negative_1 and so on: fill what is missing, leave the row out, or `map negative=ignore`",
    ))
}

/// An example that the model can take, cut if it was asked for, and whether it was.
fn fitted(mut example: Example, reading: &Reading<'_>) -> Result<(Example, bool)> {
    let Reading { task, limits, .. } = reading;
    let label_limit = match reading.hard_prompt {
        Some(prompt) => Some(prompt.labels.len()),
        None if *task == Task::TokenCls => limits.classes,
        None => limits.vocabulary,
    };
    example.check(limits, label_limit, task.labels_texts())?;
    if example.pixel_values.is_none() && example.media.is_none() && example.columns.is_empty() && example.input_ids.is_empty() {
        return Err(Error::invalid("this row has no tokens"));
    }
    let is_shortened = shortened(&mut example, reading)?;
    // A row that grew by the token of its end has room for as many again.
    example.input_ids.shrink_to_fit();
    if let Labels::Tokens(labels) = &mut example.labels {
        labels.shrink_to_fit();
    }
    let is_cut = example.is_cut || example.others.iter().any(|other| other.is_cut);
    Ok((example, is_shortened || is_cut))
}
