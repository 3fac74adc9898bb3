//! One row as the numbers that a model takes, and the checks that it can take them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::media_file::{MediaFile, Read};
use super::tokens::Tokens;
pub use crate::contract::IGNORED;
use crate::error::{Error, Place, Result};
use crate::media::{Augmentation, Features};

/// The class of a row that nobody labelled: its teacher alone is learnt from.
pub const UNLABELLED: i32 = i32::MIN;

/// One row as numbers. Columns that are empty take the values that they have by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The line of the data file where the row begins, from 1.
    pub line: usize,
    /// The row's number in the file, which the windows of one text share; several rows may stand in one line.
    pub row: usize,
    /// Token numbers.
    pub input_ids: Vec<i32>,
    /// 1 for tokens to attend to, 0 for padding; all 1 by default.
    pub attention_mask: Vec<i32>,
    /// The segment of each token; all 0 by default.
    pub token_type_ids: Vec<i32>,
    /// The number of the row that each token comes from, where several were put into one; all of one row by default.
    pub segments: Vec<i32>,
    /// What the decoder reads; by default the labels, one place to the right.
    pub decoder_input_ids: Vec<i32>,
    /// An image, already resized and normalised.
    #[serde(skip)]
    pub pixel_values: Option<Pixels>,
    /// A picture or a sound that is read when a batch is made of the row ([`with_media`](Self::with_media)).
    #[serde(skip)]
    pub media: Option<MediaFile>,
    /// The column whose signal is normalised with the zeros that fill it up, as transformers does where no mask tells them apart.
    pub raw_signal: Option<String>,
    /// Columns with the names of the model's own inputs, which go there as they are.
    pub columns: BTreeMap<String, Numbers>,
    /// What the model should answer.
    pub labels: Labels,
    /// What the row weighs in the loss; 1 by default.
    pub weight: Option<f64>,
    /// What each label weighs beside; all 1 by default.
    pub label_weights: Vec<f64>,
    /// The other texts of the row, each an input of its own: positives and negatives behind an anchor, the rejected answer behind the chosen one.
    pub others: Vec<Example>,
    /// The row's texts as they stand in the data, where they are compared with other rows'.
    pub texts: Vec<String>,
    /// What rows belong together to: a query with several passages.
    pub group: Option<String>,
    /// The text that an answer is a part of.
    #[serde(skip)]
    pub context: Option<Arc<Context>>,
    /// Whether the row's texts have more tokens than are here.
    pub is_cut: bool,
}

impl Example {
    /// Whether it is made of its own numbers and texts alone, so that nothing is lost where it is kept as bytes.
    pub(super) fn is_of_numbers(&self) -> bool {
        let own = self.pixel_values.is_none() && self.media.is_none() && self.context.is_none();
        own && self.others.iter().all(Self::is_of_numbers)
    }
}

/// A text of its own.
impl From<Tokens> for Example {
    fn from(tokens: Tokens) -> Self {
        Self { input_ids: tokens.ids, token_type_ids: tokens.segments, is_cut: tokens.are_cut, ..Self::default() }
    }
}

/// A text with answers in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// The text.
    pub text: Arc<str>,
    /// The positions of its tokens in the model's input, and the bytes of the text that each stands for.
    pub spans: Vec<(usize, Range<usize>)>,
    /// The right answers.
    pub answers: Arc<[String]>,
}

/// An answer that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The sum of the scores of its start and its end.
    pub score: f32,
    /// Its place in the text, in bytes.
    pub bytes: Range<usize>,
}

/// Answers with no more tokens than this are looked for, among so many starts and ends (transformers' `postprocess_qa_predictions`).
const LONGEST_ANSWER: usize = 30;
/// How many starts, ends and answers are looked at.
const CANDIDATES: usize = 20;

impl Context {
    /// The answers of the best starts and ends, of scores for each position of the input.
    #[must_use]
    pub fn answers_by(&self, starts: &[f32], ends: &[f32]) -> Vec<Answer> {
        let best = |scores: &[f32]| {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            order.truncate(CANDIDATES);
            order
        };
        let span = |position: usize| self.spans.iter().find(|(at, _)| *at == position).map(|(_, span)| span);
        let (starts_at, ends_at) = (best(starts), best(ends));
        let mut found = vec![];
        for &start in &starts_at {
            for &end in ends_at.iter().filter(|&&end| end >= start && end - start < LONGEST_ANSWER) {
                let Some((from, to)) = span(start).zip(span(end)) else { continue };
                found.push(Answer { score: starts[start] + ends[end], bytes: from.start..to.end });
            }
        }
        found
    }

    /// The text of an answer.
    #[must_use]
    pub fn text_of(&self, answer: &Answer) -> &str {
        self.text.get(answer.bytes.clone()).unwrap_or_default()
    }
}

impl Answer {
    /// The best of those of all windows of a text, the best first.
    #[must_use]
    pub fn best(mut found: Vec<Self>) -> Vec<Self> {
        // Stable: of equal ones the first that was found.
        found.sort_by(|one, other| other.score.total_cmp(&one.score));
        found.truncate(CANDIDATES);
        found
    }
}

/// Numbers of a row, of any rank.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// The length of every axis; none for a single number.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: Vec<f64>,
}

impl Numbers {
    /// The same numbers with zeros behind them on every axis, up to these lengths.
    pub(super) fn filled_to(&self, lengths: &[usize]) -> Vec<f64> {
        let (Some((&own, own_rest)), Some((&length, rest))) = (self.shape.split_first(), lengths.split_first()) else {
            return self.values.clone();
        };
        let size: usize = own_rest.iter().product();
        let parts = (0..own).map(|at| Self { shape: own_rest.to_vec(), values: self.values[at * size..(at + 1) * size].to_vec() });
        let mut filled: Vec<f64> = parts.flat_map(|part| part.filled_to(rest)).collect();
        filled.resize(length * rest.iter().product::<usize>(), 0.0);
        filled
    }

    /// The same with zeros before them on the first axis.
    pub(super) fn filled_before(&self, lengths: &[usize]) -> Vec<f64> {
        let own: Vec<usize> = self.shape.first().into_iter().chain(lengths.iter().skip(1)).copied().collect();
        let missing = lengths.iter().product::<usize>() - own.iter().product::<usize>();
        std::iter::repeat_n(0.0, missing).chain(self.filled_to(&own)).collect()
    }
}

/// An image as numbers, such as `[channels, height, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// The length of every axis.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: Vec<f32>,
}

/// What a model should answer to a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Labels {
    /// A token or class for each token; [`IGNORED`] where none counts.
    Tokens(Vec<i32>),
    /// A class for the whole row.
    Class(i32),
    /// The tokens that will be hidden when the row is read, anew in every epoch.
    Hidden,
    /// Numbers in a column of the loss's own.
    Column,
    /// The row's own place in its batch: its positive's among all others.
    Row,
}

impl Default for Labels {
    fn default() -> Self {
        Self::Tokens(vec![])
    }
}

/// What numbers a model takes; an absent limit is not checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The longest row, in tokens.
    pub positions: Option<usize>,
    /// Positions of the model that an adapter's virtual tokens take, which `positions` are less by.
    pub virtual_tokens: usize,
    /// Positions in front of those that have labels, in a graph for training: those of virtual tokens that stand among the tokens.
    pub positions_without_label: usize,
    /// How many tokens there are.
    pub vocabulary: Option<usize>,
    /// How many classes there are.
    pub classes: Option<usize>,
}

impl Example {
    /// The row with the picture or the sound that it names in its columns.
    ///
    /// # Errors
    /// With the row's line, a file that cannot be read to its end.
    pub fn with_media(self) -> Result<Self> {
        self.with_media_changed(Augmentation::default(), &mut || 0.0)
    }

    /// The same, a picture augmented; `random` draws numbers from 0 to 1, 1 left out.
    pub(super) fn with_media_changed(mut self, augmentation: Augmentation, random: &mut dyn FnMut() -> f64) -> Result<Self> {
        let Some(file) = self.media.take() else {
            if augmentation.is_none() {
                return Ok(self);
            }
            let error = Error::mismatch("the row", "a picture's file, which `augment` changes", "numbers").at(Place::Line(self.line));
            return Err(error.with_hint("name pictures in a column `image`, or leave `augment` out"));
        };
        match file.read(augmentation, random).map_err(|error| error.at(Place::Line(self.line)))? {
            Read::Pixels(Features { shape, values }) => self.pixel_values = Some(Pixels { shape, values }),
            Read::Sound { features: Features { shape, values }, input, mask, is_raw } => {
                self.raw_signal = is_raw.then(|| input.to_string());
                // Of a spectrogram the last axis is time.
                let seen = shape.last().copied().unwrap_or_default();
                let seen = mask.map(|mask| (mask.to_string(), Numbers { shape: vec![seen], values: vec![1.0; seen] }));
                let numbers = Numbers { shape, values: values.into_iter().map(f64::from).collect() };
                self.columns.extend([(input.to_string(), numbers)].into_iter().chain(seen));
            }
        }
        Ok(self)
    }

    /// Checks that columns go together and numbers are in range. `label_limit` is what token labels must be below.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) with the column.
    pub(super) fn check(&self, limits: &Limits, label_limit: Option<usize>, has_own_length: bool) -> Result<()> {
        let length = self.input_ids.len();
        let beside: [(&'static str, &[i32]); 2] = [("attention_mask", &self.attention_mask), ("token_type_ids", &self.token_type_ids)];
        for (name, column) in beside {
            same_length(name, column, length)?;
        }
        in_range("input_ids", &self.input_ids, limits.vocabulary)?;
        in_range("decoder_input_ids", &self.decoder_input_ids, limits.vocabulary)?;
        in_range("attention_mask", &self.attention_mask, Some(2))?;
        in_range("token_type_ids", &self.token_type_ids, None)?;
        match &self.labels {
            Labels::Tokens(labels) => {
                if !has_own_length {
                    same_length("labels", labels, length)?;
                }
                let counted: Vec<i32> = labels.iter().copied().filter(|label| *label != IGNORED).collect();
                in_range("labels", &counted, label_limit)?;
                same_length("decoder_input_ids", &self.decoder_input_ids, labels.len())
            }
            Labels::Class(class) if *class != UNLABELLED => in_range("label", &[*class], limits.classes).map_err(|error| {
                error.with_hint("classes are numbered from 0 on; of data whose classes begin at 1, take 1 from each label")
            }),
            Labels::Class(_) | Labels::Hidden | Labels::Column | Labels::Row => Ok(()),
        }?;
        self.others.iter().try_for_each(|other| other.check(limits, label_limit, has_own_length))
    }

    /// A row like this one of which nothing counts, to fill up a batch.
    pub(super) fn filler(&self) -> Self {
        let labels = match &self.labels {
            Labels::Tokens(labels) => Labels::Tokens(vec![IGNORED; labels.len()]),
            Labels::Class(_) | Labels::Hidden => Labels::Class(IGNORED),
            other @ (Labels::Column | Labels::Row) => other.clone(),
        };
        // Numbers have none that does not count: the row weighs nothing.
        let weight = if labels == Labels::Column { Some(0.0) } else { self.weight };
        Self { labels, weight, ..self.clone() }
    }

    /// Tokens that are attended to.
    #[must_use]
    pub fn tokens(&self) -> usize {
        if self.attention_mask.is_empty() { self.input_ids.len() } else { self.attention_mask.iter().filter(|mask| **mask != 0).count() }
    }
}

fn same_length(name: &'static str, column: &[i32], length: usize) -> Result<()> {
    if column.is_empty() || column.len() == length {
        return Ok(());
    }
    Err(Error::mismatch(format!("length of {name}"), length, column.len()))
}

fn in_range(name: &'static str, column: &[i32], limit: Option<usize>) -> Result<()> {
    let is_inside = |number: i32| usize::try_from(number).is_ok_and(|number| limit.is_none_or(|limit| number < limit));
    match column.iter().find(|number| !is_inside(**number)) {
        None => Ok(()),
        Some(number) => {
            let expected = limit.map_or_else(|| "0 or more".to_owned(), |limit| format!("0 to {}", limit.saturating_sub(1)));
            let error = Error::mismatch(format!("a number in {name}"), expected, number);
            Err(error.with_hint("is the tokenizer that of the model, and are labels numbered from 0 on?"))
        }
    }
}
