//! How long rows are that are filled up together.

use std::collections::BTreeMap;

use super::example::{Example, Labels};

/// How long some rows are at most: what short ones are filled up to, also where they are given to the model a few at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Tokens of a text.
    pub tokens: usize,
    /// Labels of a text.
    pub labels: usize,
    /// The length of every axis of the columns that go to the model as they are.
    columns: BTreeMap<String, Vec<usize>>,
}

impl Extent {
    /// The longest of these rows and of their texts.
    pub(super) fn of<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Self {
        let mut extent = Self::default();
        examples.into_iter().for_each(|example| extent.grow(example));
        extent
    }

    fn grow(&mut self, example: &Example) {
        self.tokens = self.tokens.max(example.input_ids.len());
        if let Labels::Tokens(labels) = &example.labels {
            self.labels = self.labels.max(labels.len());
        }
        for (name, numbers) in &example.columns {
            let lengths = self.columns.entry(name.clone()).or_default();
            lengths.resize(lengths.len().max(numbers.shape.len()), 0);
            lengths.iter_mut().zip(&numbers.shape).for_each(|(length, own)| *length = (*length).max(*own));
        }
        example.others.iter().for_each(|other| self.grow(other));
    }

    /// The same with at least so many labels.
    pub(super) fn with_labels(&self, labels: usize) -> Self {
        Self { labels: self.labels.max(labels), ..self.clone() }
    }

    /// How long an axis of a column is at least.
    pub(super) fn of_column(&self, name: &str, axis: usize) -> usize {
        self.columns.get(name).and_then(|lengths| lengths.get(axis)).copied().unwrap_or_default()
    }

    /// The longest signal: a column of one axis that is not the `labels`.
    pub(super) fn of_signals(&self, labels: &str) -> usize {
        let signals = self.columns.iter().filter(|(name, lengths)| *name != labels && lengths.len() == 1);
        signals.map(|(_, lengths)| lengths[0]).max().unwrap_or_default()
    }
}
