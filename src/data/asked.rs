//! Files of rows that are to be answered: read a few rows at a time, without labels, and with all columns that they have.

use std::path::Path;

use super::encoder::Encoder;
use super::fields::Fields;
use super::reading::Reading;
use super::record::{Record, RowFile};
use super::roles;
use super::rows::{self, Question};
use crate::error::{Context, Place, Result};

/// A row of a file, and what a model reads of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The line in the file where the row begins, from 1.
    pub line: usize,
    /// The row's columns as the file has them.
    pub fields: Fields,
    /// What the model runs on.
    pub question: Question,
}

/// Reads a file of rows without labels, and hands them on in their order, `count` at a time.
///
/// # Errors
/// With file and line, as [`Dataset::read`](super::Dataset::read); whatever `answer` returns.
pub fn ask(path: &Path, reading: &Reading<'_>, count: usize, answer: &mut dyn FnMut(Vec<Asked>) -> Result<()>) -> Result<()> {
    let file = RowFile::open(path)?;
    let survey = file.survey()?;
    let columns = roles::assign(&survey, path, reading).in_file(path)?;
    let encoder = Encoder::new(reading, Some(reading.class_names), path);
    let mut waiting = vec![];
    // What goes wrong with the answers has nothing to do with the file.
    let mut failed = None;
    let read = file.each(&mut |record| {
        waiting.push(asked(record, &columns, &encoder, reading)?);
        if waiting.len() < count.max(1) {
            return Ok(());
        }
        answer(std::mem::take(&mut waiting)).map_err(|error| {
            let told = crate::Error::invalid("the rows were not answered");
            failed = Some(error);
            told
        })
    });
    match failed {
        Some(error) => Err(error),
        None => read.and_then(|()| if waiting.is_empty() { Ok(()) } else { answer(waiting) }),
    }
}

/// Reads some rows of a file, by their numbers from 1, as [`ask`] reads all.
///
/// # Errors
/// As [`ask`], of these rows.
pub fn ask_some(path: &Path, reading: &Reading<'_>, numbers: &[usize]) -> Result<Vec<Asked>> {
    let file = RowFile::open(path)?;
    let columns = roles::assign(&file.survey()?, path, reading).in_file(path)?;
    let encoder = Encoder::new(reading, Some(reading.class_names), path);
    let (mut number, mut found) = (0, vec![]);
    file.each(&mut |record| {
        number += 1;
        if numbers.contains(&number) {
            found.push(asked(record, &columns, &encoder, reading)?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// A row of a file as it is asked about.
fn asked(record: Record, columns: &roles::Assigned<'_>, encoder: &Encoder<'_>, reading: &Reading<'_>) -> Result<Asked> {
    let mut read = record.clone();
    columns.read(&mut read)?;
    let Record { line, fields } = record;
    let question = rows::question(&read.fields, encoder).and_then(|question| question.fitted(line, reading)).at(Place::Line(line))?;
    Ok(Asked { line, fields, question })
}

/// A row of columns under the names of their roles, which belongs to no file.
///
/// # Errors
/// A row that the model cannot take; no tokenizer.
pub fn ask_row(fields: Fields, reading: &Reading<'_>) -> Result<Asked> {
    let encoder = Encoder::new(reading, Some(reading.class_names), Path::new(""));
    let question = rows::question(&fields, &encoder)?.fitted(0, reading)?;
    Ok(Asked { line: 0, fields, question })
}

/// Reads the rows of a file as they are, with the names of their roles; `visit` gets each with its line and its own columns.
///
/// # Errors
/// With file and line, what cannot be read; what `visit` returns.
pub fn each_row(path: &Path, reading: &Reading<'_>, visit: &mut dyn FnMut(usize, Fields, Fields) -> Result<()>) -> Result<()> {
    let file = RowFile::open(path)?;
    let survey = file.survey()?;
    let columns = roles::assign(&survey, path, reading).in_file(path)?;
    file.each(&mut |record| {
        let mut read = record.clone();
        columns.read(&mut read)?;
        visit(record.line, record.fields, read.fields).at(Place::Line(record.line))
    })
}
