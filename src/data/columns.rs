//! The data inputs of graphs, by their roles: what each is filled with from the rows of a batch, in the type and rank that the graph asks for.

use super::collation::Collation;
use super::elements::{converted_rows, fitting, floats, integers};
use super::example::{Example, IGNORED, Labels, Numbers};
use super::extent::Extent;
use crate::adapter::config::Task;
use crate::anatomy::{Feeding, MaskForm, Modality, Padding, Role};
use crate::error::{Error, Place, Result};
use crate::media::normalised;
use crate::num::single;
use crate::ort::{Axis, ElementType, Elements, HostTensor, Port, Presence};
use crate::train::distillation::{TEACHER_LOGITS, is_of_teacher};
use crate::train::losses::{LABELS, REFERENCE};

/// What hides a key when it is added to scores. A half-precision number can be no smaller than -65,504, and two of these may meet.
const HIDES: f32 = -1e9;
const HIDES_IN_HALF: f32 = -3e4;

/// What a session's input is for; none for inputs that are not data. Names of Hugging Face's models are known where nothing was recognised.
pub(super) fn role(port: &Port, feeding: &Feeding) -> Option<Role> {
    let past = || (port.name.starts_with("past") && port.presence == Presence::Required).then_some(Role::Past);
    feeding.role(&port.name).or_else(past)
}

/// What short rows are filled up with.
#[derive(Clone, Copy)]
enum Fill {
    With(i32),
    /// What is next to it: the row's last number, or its first where it is filled up before.
    Neighbour,
}

/// Where a short row is filled up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    Behind,
}

/// The rows of one batch.
pub(super) struct Rows<'a> {
    examples: &'a [Example],
    task: Task,
    pad: i32,
    decoder_start: i32,
    length: usize,
    label_length: usize,
    /// What columns are filled up to at least.
    least: &'a Extent,
    asks_teacher: bool,
    /// The only length of texts that the model takes.
    only_length: Option<usize>,
    /// Where a text's row is filled up.
    side: Side,
}

impl<'a> Rows<'a> {
    /// Rows that are as long as the longest of them, as a graph insists on, or as what they are a part of.
    pub(super) fn new(examples: &'a [Example], task: Task, collation: &Collation, least: &'a Extent) -> Self {
        let length = collation.feeding.length;
        let label_length = |example: &Example| if let Labels::Tokens(labels) = &example.labels { labels.len() } else { 0 };
        let longest = |of: &dyn Fn(&Example) -> usize| examples.iter().map(of).max().unwrap_or_default();
        let own_lengths = task.labels_texts();
        Self {
            examples,
            task,
            pad: collation.pad,
            decoder_start: collation.decoder_start.unwrap_or(collation.pad),
            length: longest(&|example| example.input_ids.len()).max(length.unwrap_or_default()).max(least.tokens),
            label_length: longest(&label_length).max(length.filter(|_| !own_lengths).unwrap_or_default()).max(least.labels),
            least,
            asks_teacher: collation.asks_teacher,
            only_length: length,
            side: if collation.feeding.padding == Padding::Before { Side::Before } else { Side::Behind },
        }
    }

    /// Whether the rows themselves have what an input of labels asks for.
    pub(super) fn are_labelled_by(&self, name: &str) -> bool {
        let own = |example: &Example| {
            let is_named = name == LABELS && !matches!(&example.labels, Labels::Tokens(labels) if labels.is_empty());
            example.columns.contains_key(name) || (is_named && example.labels != Labels::Column)
        };
        self.examples.iter().all(own)
    }

    /// What an input is filled with: its own column where the data has it, else what its role asks for.
    pub(super) fn fill(&self, port: &Port, role: Role) -> Result<HostTensor> {
        if self.examples.iter().any(|example| example.columns.contains_key(&port.name)) {
            return self.column(port);
        }
        match role {
            Role::InputIds => self.matrix(port, Fill::With(self.pad), |row| row.input_ids.clone()),
            Role::AttentionMask(form) | Role::EncoderAttentionMask(form) if self.length == 0 => {
                let samples = self.examples.iter().map(|row| samples(row, &port.name)).collect::<Result<Vec<_>>>()?;
                let longest = samples.into_iter().max().unwrap_or_default().max(self.least.of_signals(LABELS));
                self.mask(port, form, (longest, Side::Behind), |row| vec![1; self::samples(row, &port.name).unwrap_or_default()])
            }
            Role::AttentionMask(form) | Role::EncoderAttentionMask(form) => self.mask(port, form, (self.length, self.side), Example::mask),
            Role::PositionIds => self.positions(port),
            // What fills a row up belongs to its last segment, so that every position sees something.
            Role::Segments => self.matrix(port, Fill::Neighbour, |row| or_constant(&row.segments, 0, row.input_ids.len())),
            Role::TokenTypeIds => self.matrix(port, Fill::With(0), |row| or_constant(&row.token_type_ids, 0, row.input_ids.len())),
            Role::Lengths => {
                let lengths = self.examples.iter().map(|row| i32::try_from(row.tokens()).unwrap_or(i32::MAX));
                HostTensor::new(vec![self.examples.len(); 1], integers(port, lengths.collect())?)
            }
            Role::Labels => self.labels(port),
            Role::DecoderInputIds => self.label_matrix(port, Fill::With(self.pad), |row| self.decoder_ids(row)),
            // Labels behind the end of a row do not count, and no position looks at later ones.
            Role::DecoderAttentionMask(form) => self.mask(port, form, (self.label_length, Side::Behind), |_| vec![1; self.label_length]),
            Role::PixelValues => self.pixels(port),
            Role::PixelMask => self.pixel_mask(port),
            Role::HeadMask => {
                let shape = port.shape.iter().map(|axis| if let Axis::Known(length) = axis { *length } else { 1 }).collect::<Vec<_>>();
                let count = shape.iter().product();
                HostTensor::new(shape, integers(port, vec![1; count])?)
            }
            Role::UseCacheBranch => Ok(HostTensor::vector(vec![false])),
            Role::Past => Ok(self.empty_past(port)),
            // A loss that somebody wrote reads the label by its column's name.
            Role::Column if ["label", "labels", "score"].contains(&port.name.as_str()) => self.label_of_row(port),
            // What the base alone says of the texts is filled in by who has it.
            Role::Column if port.name == REFERENCE => Ok(HostTensor::zeros(ElementType::Float32, vec![self.examples.len()])),
            // What the teacher says of so many positions is filled in as well.
            Role::Column if self.asks_teacher && is_of_teacher(&port.name) => {
                let length = if self.task == Task::Qa { self.length } else { self.label_length };
                Ok(HostTensor::zeros(ElementType::Float32, vec![self.examples.len(), length, 0]))
            }
            Role::Unread => {
                let length = |(axis, length): (usize, &Axis)| match length {
                    Axis::Known(length) => *length,
                    _ if axis == 0 => self.examples.len(),
                    Axis::Free(_) => 1,
                };
                let shape: Vec<usize> = port.shape.iter().enumerate().map(length).collect();
                Ok(HostTensor::zeros(port.element_type.unwrap_or(ElementType::Float32), shape))
            }
            Role::Column => Err(Error::not_found("column", port.name.clone())
                .with_hint(format!("the model's input {0} is filled from a column {0} of the data", port.name))),
        }
    }

    /// Positions, `[batch, seq]`. A graph that takes one row of them for all, `[seq]` or `[1, seq]`, counts from the first token; one that takes several for
    /// each token, `[3, batch, seq]` for time, rows and columns of pictures, gets each the same, as for texts.
    fn positions(&self, port: &Port) -> Result<HostTensor> {
        let (rows, is_one) = (self.examples.len(), matches!(port.shape.first(), Some(Axis::Known(1))));
        match (port.shape.len(), port.shape.first()) {
            (1, _) => self.shared_positions(port, |length| vec![length]),
            (2, _) if is_one && rows > 1 => self.shared_positions(port, |length| vec![1, length]),
            (3, Some(Axis::Known(each))) => {
                let (length, one) =
                    self.numbers(port, (self.length, self.side), Fill::Neighbour, |row| positions(&row.mask(), &row.segments))?;
                HostTensor::new([*each, rows, length], integers(port, one.repeat(*each))?)
            }
            _ => self.matrix(port, Fill::Neighbour, |row| positions(&row.mask(), &row.segments)),
        }
    }

    fn shared_positions(&self, port: &Port, shape: impl Fn(usize) -> Vec<usize>) -> Result<HostTensor> {
        if let Some(row) = self.examples.iter().find(|row| !row.segments.is_empty()) {
            let error = Error::unsupported("rows that are packed", "the model takes one row of positions for all rows");
            return Err(error
                .at(Place::Line(row.line))
                .with_hint("train without `packing`, or export the model with positions of [batch, seq]"));
        }
        let length = match port.shape.last() {
            Some(Axis::Known(length)) => *length,
            _ => self.length,
        };
        let places = (0..length).map(|place| i32::try_from(place).unwrap_or(i32::MAX)).collect();
        HostTensor::new(shape(length), integers(port, places)?)
    }

    /// What rows weigh, `[batch]`, or their labels, `[batch, most labels]`.
    pub(super) fn weights(&self, port: &Port) -> Result<HostTensor> {
        if port.shape.len() < 2 {
            let weights = self.examples.iter().map(Example::weight).map(single);
            return HostTensor::new([self.examples.len()], Elements::Float32(weights.collect()));
        }
        let filled = |example: &Example| {
            let own = example.weights_of_labels();
            let missing = self.label_length.max(own.len()) - own.len();
            let is_before = self.side == Side::Before && !self.task.labels_texts();
            let (before, behind) = if is_before { (missing, 0) } else { (0, missing) };
            let ones = |count: usize| std::iter::repeat_n(1.0, count);
            ones(before).chain(own).chain(ones(behind)).map(single).collect::<Vec<f32>>()
        };
        HostTensor::new([self.examples.len(), self.label_length], Elements::Float32(self.examples.iter().flat_map(filled).collect()))
    }

    /// `[batch, longest row]`.
    fn matrix(&self, port: &Port, fill: Fill, row_of: impl Fn(&Example) -> Vec<i32>) -> Result<HostTensor> {
        self.filled(port, (self.length, self.side), fill, row_of)
    }

    /// `[batch, most labels]`.
    fn label_matrix(&self, port: &Port, fill: Fill, row_of: impl Fn(&Example) -> Vec<i32>) -> Result<HostTensor> {
        // Labels of a text's own tokens stand where these stand.
        let side = if self.task.labels_texts() { Side::Behind } else { self.side };
        self.filled(port, (self.label_length, side), fill, row_of)
    }

    fn filled(&self, port: &Port, length: (usize, Side), fill: Fill, row_of: impl Fn(&Example) -> Vec<i32>) -> Result<HostTensor> {
        let (length, values) = self.numbers(port, length, fill, row_of)?;
        HostTensor::new([self.examples.len(), length], integers(port, values)?)
    }

    /// Rows of one length, one after another: the input's own length if it has but one.
    fn numbers(
        &self,
        port: &Port,
        (length, side): (usize, Side),
        fill: Fill,
        row_of: impl Fn(&Example) -> Vec<i32>,
    ) -> Result<(usize, Vec<i32>)> {
        let length = match port.shape.get(1) {
            Some(Axis::Known(known)) if port.shape.len() == 2 => *known,
            _ => length,
        };
        let mut values = Vec::with_capacity(self.examples.len() * length);
        for example in self.examples {
            let row = row_of(example);
            let fill = match fill {
                Fill::With(number) => number,
                Fill::Neighbour if side == Side::Before => row.first().copied().unwrap_or_default(),
                Fill::Neighbour => row.last().copied().unwrap_or_default(),
            };
            let Some(missing) = length.checked_sub(row.len()) else {
                let error = Error::mismatch("tokens in this row", format!("at most {length}, the model's only length"), row.len());
                return Err(error.at(Place::Line(example.line)).with_hint(format!("`max_length {length}` cuts longer rows")));
            };
            let (before, behind) = if side == Side::Before { (missing, 0) } else { (0, missing) };
            values.extend(std::iter::repeat_n(fill, before));
            values.extend(row);
            values.extend(std::iter::repeat_n(fill, behind));
        }
        Ok((length, values))
    }

    /// A mask in the form and rank that the graph asks for: `[batch, keys]`, or `[batch, (heads or 1,) (queries or 1,) keys]`.
    fn mask(&self, port: &Port, form: MaskForm, length: (usize, Side), row_of: impl Fn(&Example) -> Vec<i32>) -> Result<HostTensor> {
        let (length, seen) = self.numbers(port, length, Fill::With(0), row_of)?;
        let rank = port.shape.len();
        let axis = |at: usize, free: usize| if let Some(Axis::Known(known)) = port.shape.get(at) { *known } else { free };
        let (heads, queries) = match rank {
            0..=2 => (1, 1),
            3 => (1, axis(1, length)),
            _ => (axis(1, 1), axis(2, length)),
        };
        // A mask for each query of a model that writes says itself that later tokens are not seen.
        let later_hidden = queries > 1 && self.task == Task::CausalLm;
        let mut values = Vec::with_capacity(seen.len() * heads * queries);
        for row in seen.chunks_exact(length.max(1)) {
            for query in (0..heads).flat_map(|_| 0..queries) {
                values.extend(row.iter().enumerate().map(|(key, seen)| *seen != 0 && !(later_hidden && key > query)));
            }
        }
        let rows = self.examples.len();
        let shape = match rank {
            0..=2 => vec![rows, length],
            3 => vec![rows, queries, length],
            _ => vec![rows, heads, queries, length],
        };
        HostTensor::new(shape, mask_values(port, form, values)?)
    }

    fn labels(&self, port: &Port) -> Result<HostTensor> {
        if self.examples.iter().all(|example| example.labels == Labels::Row) {
            let places = (0..self.examples.len()).map(|place| i32::try_from(place).unwrap_or(i32::MAX));
            return HostTensor::new([self.examples.len()], integers(port, places.collect())?);
        }
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
        self.labels_of_tokens(port)
    }

    fn labels_of_tokens(&self, port: &Port) -> Result<HostTensor> {
        self.label_matrix(
            port,
            Fill::With(IGNORED),
            |example| if let Labels::Tokens(labels) = &example.labels { labels.clone() } else { vec![] },
        )
    }

    /// The label of each row as it is: its class, or its numbers; those of its tokens where it has such.
    fn label_of_row(&self, port: &Port) -> Result<HostTensor> {
        let has_own = |example: &Example| matches!(&example.labels, Labels::Tokens(labels) if !labels.is_empty());
        if port.shape.len() > 1 && self.examples.iter().all(has_own) {
            return self.labels_of_tokens(port);
        }
        let (mut values, mut each) = (vec![], None);
        for example in self.examples {
            let before = values.len();
            match (&example.labels, example.columns.get(LABELS)) {
                (Labels::Class(class), _) => values.push(f64::from(*class)),
                (_, Some(numbers)) => values.extend(&numbers.values),
                _ => return Err(Error::not_found("column", "label").at(Place::Line(example.line))),
            }
            let (count, wanted) = (values.len() - before, *each.get_or_insert(values.len() - before));
            if count != wanted {
                let error = Error::mismatch("numbers in label", format!("{wanted}, as in the same batch"), count);
                return Err(error.at(Place::Line(example.line)).with_hint("a label has as many numbers in each row"));
            }
        }
        let (rows, each) = (self.examples.len(), each.unwrap_or_default());
        let shape = if port.shape.len() < 2 && each == 1 { vec![rows] } else { vec![rows, each] };
        let lines: Vec<usize> = self.examples.iter().map(|example| example.line).collect();
        HostTensor::new(shape, converted_rows(port, &values, &lines)?)
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
        HostTensor::new(self.of_pictures(port, shape.unwrap_or_default()), floats(port, values)?)
    }

    /// Pictures fill their frame: all their pixels are there.
    fn pixel_mask(&self, port: &Port) -> Result<HostTensor> {
        let size = self.examples.iter().find_map(|example| example.pixel_values.as_ref()).map_or(&[][..], |pixels| &pixels.shape[..]);
        let shape = self.of_pictures(port, size.get(1..).unwrap_or_default());
        let count = shape.iter().product();
        HostTensor::new(shape, integers(port, vec![1; count])?)
    }

    /// The axes of an input for one picture a row, whose own axes these are; some graphs have an axis for the pictures of a row.
    fn of_pictures(&self, port: &Port, own: &[usize]) -> Vec<usize> {
        let one = port.shape.len().saturating_sub(1 + own.len());
        std::iter::once(self.examples.len()).chain(std::iter::repeat_n(1, one)).chain(own.iter().copied()).collect()
    }

    /// The data's own column for an input: rows of any rank, filled up with zeros to the longest of each axis, tokens' axes to the tokens' length.
    fn column(&self, port: &Port) -> Result<HostTensor> {
        let rank = port.shape.len().saturating_sub(1);
        let mut rows = vec![];
        for example in self.examples {
            let found = example.columns.get(&port.name);
            let found = found.ok_or_else(|| {
                let error = Error::not_found("column", port.name.clone()).at(Place::Line(example.line));
                error.with_hint(format!(
                    "other rows have {0}: every row needs what the model reads; give this one its {0} or leave it out",
                    port.name
                ))
            })?;
            // A number where one number in a row is asked for.
            let found = if found.shape.is_empty() && rank == 1 { Numbers { shape: vec![1], ..found.clone() } } else { found.clone() };
            if found.shape.len() != rank {
                let error = Error::mismatch(format!("axes of {}", port.name), rank, found.shape.len()).at(Place::Line(example.line));
                return Err(error.with_hint("a row has a number for no axis, a list for one, lists in a list for two"));
            }
            rows.push(found);
        }
        let of_tokens = |axis: usize| {
            let lengths = self.examples.iter().zip(&rows);
            axis == 0 && self.length > 0 && { lengths }.all(|(example, row)| example.input_ids.len() == row.shape[0])
        };
        let lengths: Vec<usize> = (0..rank)
            .map(|axis| match &port.shape[axis + 1] {
                Axis::Known(known) => *known,
                Axis::Free(_) if of_tokens(axis) => self.length,
                Axis::Free(_) => {
                    rows.iter().map(|row| row.shape[axis]).max().unwrap_or_default().max(self.least.of_column(&port.name, axis))
                }
            })
            .collect();
        let mut values = vec![];
        for (row, example) in rows.iter().zip(self.examples) {
            // Short rows are filled up with zeros, which no label has.
            let is_whole = |axis: usize| port.name == LABELS || (port.name == TEACHER_LOGITS && axis + 1 == rank);
            let is_known = |axis: usize| matches!(port.shape[axis + 1], Axis::Known(_)) && is_whole(axis);
            if let Some(axis) = (0..rank).find(|&axis| is_known(axis) && row.shape[axis] != lengths[axis]) {
                let named = if port.name == LABELS { "label" } else { TEACHER_LOGITS };
                let error =
                    Error::mismatch(format!("numbers in {named}"), format!("{}, as the model gives", lengths[axis]), row.shape[axis]);
                return Err(error
                    .at(Place::Line(example.line))
                    .with_hint("a teacher whose answers are compared gives as many numbers as the model"));
            }
            fitting(port, row, &lengths, |axis| self.is_filled_up(example, row, axis, lengths[axis]))
                .map_err(|error| error.at(Place::Line(example.line)))?;
            let filled = if self.side == Side::Before && lengths.first() == Some(&self.length) && of_tokens(0) {
                row.filled_before(&lengths)
            } else {
                row.filled_to(&lengths)
            };
            let is_raw = example.raw_signal.as_ref() == Some(&port.name);
            values.extend(if is_raw { normalised(filled.iter().copied()) } else { filled });
        }
        let shape: Vec<usize> = std::iter::once(self.examples.len()).chain(lengths).collect();
        let lines: Vec<usize> = self.examples.iter().map(|example| example.line).collect();
        HostTensor::new(shape, converted_rows(port, &values, &lines)?)
    }

    /// Whether zeros may stand for what a row lacks on an axis whose length is declared: tokens where the model takes texts of one length, and sound.
    fn is_filled_up(&self, example: &Example, row: &Numbers, axis: usize, length: usize) -> bool {
        let of_tokens = axis == 0 && self.only_length == Some(length) && example.input_ids.len() == row.shape[0];
        of_tokens || (self.task.row().modality == Modality::Sound && axis + 1 == row.shape.len())
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

/// How long a row without tokens is: as its one input of one axis, a signal.
fn samples(row: &Example, mask: &str) -> Result<usize> {
    let signals = row.columns.iter().filter(|(name, numbers)| *name != LABELS && numbers.shape.len() == 1);
    let mut lengths: Vec<usize> = signals.map(|(_, numbers)| numbers.values.len()).collect();
    lengths.sort_unstable();
    lengths.dedup();
    if let [length] = lengths[..] {
        return Ok(length);
    }
    let error = Error::not_found("column", mask.to_owned()).at(Place::Line(row.line));
    Err(error.with_hint(format!("rows without tokens say in a column {mask} which of their positions are there")))
}

fn or_constant(column: &[i32], value: i32, length: usize) -> Vec<i32> {
    if column.is_empty() { vec![value; length] } else { column.to_vec() }
}

/// `max(cumsum(mask) - 1, 0)`: behind the end of a row the sum does not grow, so that the last position is repeated. Each segment begins at 0.
fn positions(mask: &[i32], segments: &[i32]) -> Vec<i32> {
    let mut sum = 0;
    let places = mask.iter().enumerate().map(|(at, mask)| {
        let begins = at > 0 && segments.get(at) != segments.get(at - 1);
        sum = if begins { 0 } else { sum } + i32::from(*mask != 0);
        (sum - 1).max(0)
    });
    places.collect()
}

/// Which keys are seen, as the numbers that a form of mask has for that.
fn mask_values(port: &Port, form: MaskForm, seen: Vec<bool>) -> Result<Elements> {
    match form {
        MaskForm::Seen => integers(port, seen.into_iter().map(i32::from).collect()),
        MaskForm::Hidden => integers(port, seen.into_iter().map(|seen| i32::from(!seen)).collect()),
        MaskForm::Added => {
            let hides = if port.element_type == Some(ElementType::Float16) { HIDES_IN_HALF } else { HIDES };
            floats(port, seen.into_iter().map(|seen| if seen { 0.0 } else { hides }).collect())
        }
    }
}
