//! What the engine is asked to do.

use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::refusal::Refusal;
use crate::data::{Asked, Fields};
use crate::generate::Sampling;

/// Work for the engine; its results go back by `reply`. Whoever drops the receiver gives the work up.
pub(super) enum Job {
    Write(Write),
    Answer(Answer),
}

/// A text to be written.
pub(super) struct Write {
    /// The model that is asked, by name.
    pub model: String,
    pub prompt: Vec<i32>,
    pub new_tokens: usize,
    pub sampling: Sampling,
    /// Texts before which the answer ends.
    pub stops: Vec<String>,
    pub ends: Instant,
    pub reply: UnboundedSender<Result<Piece, Refusal>>,
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// What follows.
    Text(String),
    /// The end: the rest, the number of all tokens that were written, and why no more come.
    End { rest: String, tokens: usize, reason: Reason },
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The model ended it, or a text that ends it came.
    Stop,
    /// It is as long as it may be.
    Length,
}

impl Reason {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// What is wanted of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Vectors,
    Answers,
}

/// Rows to be answered.
pub(super) struct Answer {
    /// The model that is asked, by name.
    pub model: String,
    pub rows: Vec<Fields>,
    pub wanted: Wanted,
    pub ends: Instant,
    pub reply: UnboundedSender<Result<Answered, Refusal>>,
}

/// Rows, answered.
pub(super) struct Answered {
    pub rows: AnsweredRows,
    /// Tokens of all rows.
    pub tokens: usize,
    /// The names of the model's classes in the order of their numbers, where they are known.
    pub class_names: Vec<String>,
}

pub(super) enum AnsweredRows {
    Vectors(Vec<Vec<f32>>),
    Answers(Vec<Fields>),
}

/// Rows as the model reads them.
pub(super) fn tokens(asked: &[Asked]) -> usize {
    asked.iter().flat_map(|row| &row.question.parts).map(|(_, example)| example.input_ids.len()).sum()
}
