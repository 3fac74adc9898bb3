//! The data inputs of graphs, by name: what each is filled with from the rows of a batch, in the type and rank that the graph asks for.

use super::batch::Filling;
use super::example::{Example, IGNORED, Labels};
use crate::error::{Error, Place, Result};
use crate::runtime::session::{Axis, Port, Presence};
use crate::runtime::{ElementType, Elements, HostTensor};

/// How a data input is filled from the rows of a batch.
pub(super) type Column = fn(&Rows<'_>, &Port) -> Result<HostTensor>;

/// The data inputs that graphs have, by the names that exporters give them.
const COLUMNS: [(&str, Column); 10] = [
    ("input_ids", |rows, port| rows.matrix(port, Fill::With(rows.pad), |row| row.input_ids.clone())),
    ("attention_mask", |rows, port| rows.matrix(port, Fill::With(0), Example::mask)),
    ("position_ids", |rows, port| rows.matrix(port, Fill::LastOfRow, |row| positions(&row.mask()))),
    ("token_type_ids", |rows, port| rows.matrix(port, Fill::With(0), |row| or_constant(&row.token_type_ids, 0, row.input_ids.len()))),
    ("labels", |rows, port| rows.labels(port)),
    ("decoder_input_ids", |rows, port| rows.label_matrix(port, Fill::With(rows.pad), |row| rows.decoder_ids(row))),
    ("decoder_attention_mask", |rows, port| rows.label_matrix(port, Fill::With(1), |_| vec![])),
    ("encoder_attention_mask", |rows, port| rows.matrix(port, Fill::With(0), Example::mask)),
    ("pixel_values", |rows, port| rows.pixels(port)),
    ("use_cache_branch", |_, _| Ok(HostTensor::vector(vec![false]))),
];

/// How a data input is filled; none for inputs that are not data.
pub(super) fn column(port: &Port) -> Option<Column> {
    let known = COLUMNS.iter().find(|(name, _)| *name == port.name).map(|(_, column)| *column);
    let is_past = port.presence == Presence::Required && port.name.starts_with("past");
    let past: Column = |rows, port| Ok(rows.empty_past(port));
    known.or(is_past.then_some(past))
}

/// What short rows are filled up with.
#[derive(Clone, Copy)]
enum Fill {
    With(i32),
    LastOfRow,
}

/// The rows of one batch.
pub(super) struct Rows<'a> {
    examples: &'a [Example],
    pad: i32,
    decoder_start: i32,
    length: usize,
    label_length: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(examples: &'a [Example], filling: &Filling) -> Self {
        let label_length = |example: &Example| if let Labels::Tokens(labels) = &example.labels { labels.len() } else { 0 };
        Self {
            examples,
            pad: filling.pad,
            decoder_start: filling.decoder_start.unwrap_or(filling.pad),
            length: examples.iter().map(|example| example.input_ids.len()).max().unwrap_or_default(),
            label_length: examples.iter().map(label_length).max().unwrap_or_default(),
        }
    }

    /// `[batch, longest row]`.
    fn matrix(&self, port: &Port, fill: Fill, row_of: impl Fn(&Example) -> Vec<i32>) -> Result<HostTensor> {
        self.filled(port, self.length, fill, row_of)
    }

    /// `[batch, most labels]`.
    fn label_matrix(&self, port: &Port, fill: Fill, row_of: impl Fn(&Example) -> Vec<i32>) -> Result<HostTensor> {
        self.filled(port, self.label_length, fill, row_of)
    }

    fn filled(&self, port: &Port, length: usize, fill: Fill, row_of: impl Fn(&Example) -> Vec<i32>) -> Result<HostTensor> {
        let mut values = Vec::with_capacity(self.examples.len() * length);
        for example in self.examples {
            let row = row_of(example);
            let fill = match fill {
                Fill::With(number) => number,
                Fill::LastOfRow => row.last().copied().unwrap_or_default(),
            };
            let missing = length.saturating_sub(row.len());
            values.extend(row);
            values.extend(std::iter::repeat_n(fill, missing));
        }
        HostTensor::new([self.examples.len(), length], integers(port, values)?)
    }

    fn labels(&self, port: &Port) -> Result<HostTensor> {
        let class = |example: &Example| match example.labels {
            Labels::Class(class) => Ok(class),
            _ => Err(Error::mismatch("label", "a class for the row", "labels for its tokens").at(Place::Line(example.line))),
        };
        if port.shape.len() == 1 {
            let classes = self.examples.iter().map(class).collect::<Result<Vec<_>>>()?;
            return HostTensor::new([self.examples.len()], integers(port, classes)?);
        }
        if let Some(example) = self.examples.iter().find(|example| !matches!(example.labels, Labels::Tokens(_))) {
            return Err(Error::mismatch("labels", "one for each token", "a class for the row").at(Place::Line(example.line)));
        }
        self.label_matrix(
            port,
            Fill::With(IGNORED),
            |example| if let Labels::Tokens(labels) = &example.labels { labels.clone() } else { vec![] },
        )
    }

    fn decoder_ids(&self, example: &Example) -> Vec<i32> {
        match &example.labels {
            Labels::Tokens(labels) if example.decoder_input_ids.is_empty() => {
                let moved =
                    labels.iter().take(labels.len().saturating_sub(1)).map(|label| if *label == IGNORED { self.pad } else { *label });
                std::iter::once(self.decoder_start).chain(moved).collect()
            }
            _ => example.decoder_input_ids.clone(),
        }
    }

    fn pixels(&self, port: &Port) -> Result<HostTensor> {
        let mut shape: Option<&[usize]> = None;
        let mut values = vec![];
        for example in self.examples {
            let pixels =
                example.pixel_values.as_ref().ok_or_else(|| Error::not_found("column", "pixel_values").at(Place::Line(example.line)))?;
            let first = *shape.get_or_insert(&pixels.shape);
            if first != pixels.shape {
                let error = Error::mismatch("shape of an image", format!("{first:?}, as in the same batch"), format!("{:?}", pixels.shape));
                return Err(error.at(Place::Line(example.line)));
            }
            values.extend_from_slice(&pixels.values);
        }
        let shape: Vec<usize> = std::iter::once(self.examples.len()).chain(shape.unwrap_or_default().iter().copied()).collect();
        HostTensor::new(shape, floats(port, values)?)
    }

    /// A cache of length 0: the first free axis is the batch, the other ones are the past.
    fn empty_past(&self, port: &Port) -> HostTensor {
        let mut free = std::iter::once(self.examples.len()).chain(std::iter::repeat(0));
        let shape = port.shape.iter().map(|axis| match axis {
            Axis::Known(length) => Some(*length),
            Axis::Free(_) => free.next(),
        });
        let shape: Vec<usize> = shape.map(Option::unwrap_or_default).collect();
        HostTensor::zeros(port.element_type.unwrap_or(ElementType::Float32), shape)
    }
}

impl Example {
    fn mask(&self) -> Vec<i32> {
        or_constant(&self.attention_mask, 1, self.input_ids.len())
    }
}

fn or_constant(column: &[i32], value: i32, length: usize) -> Vec<i32> {
    if column.is_empty() { vec![value; length] } else { column.to_vec() }
}

/// `max(cumsum(mask) - 1, 0)`: behind the end of a row the sum does not grow, so that the last position is repeated.
fn positions(mask: &[i32]) -> Vec<i32> {
    let sums = mask.iter().scan(0, |sum, mask| {
        *sum += i32::from(*mask != 0);
        Some((*sum - 1).max(0))
    });
    sums.collect()
}

/// Whole numbers in the type that an input asks for; exporters differ in it.
fn integers(port: &Port, values: Vec<i32>) -> Result<Elements> {
    match port.element_type {
        Some(ElementType::Int64) => Ok(Elements::Int64(values.into_iter().map(i64::from).collect())),
        Some(ElementType::Int32) => Ok(Elements::Int32(values)),
        Some(ElementType::Bool) => Ok(Elements::Bool(values.into_iter().map(|value| value != 0).collect())),
        // A mask of floats: ids and labels are never that.
        _ => {
            let float = |value: i32| i16::try_from(value).map(f32::from);
            let values: Result<Vec<f32>, _> = values.into_iter().map(float).collect();
            floats(port, values.map_err(|_| Error::mismatch("element type", "an integer type", "a float type"))?)
        }
    }
}

fn floats(port: &Port, values: Vec<f32>) -> Result<Elements> {
    match port.element_type {
        Some(ElementType::Float32) => Ok(Elements::Float32(values)),
        Some(ElementType::Float16) => Ok(Elements::Float16(values.into_iter().map(half::f16::from_f32).collect())),
        Some(ElementType::BFloat16) => Ok(Elements::BFloat16(values.into_iter().map(half::bf16::from_f32).collect())),
        other => {
            Err(Error::mismatch("element type", "a float type", other.map_or_else(|| "another".to_owned(), |other| other.to_string())))
        }
    }
}
