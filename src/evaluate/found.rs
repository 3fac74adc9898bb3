//! What a batch gives to an evaluation, and how processes give it to each other.

use super::reference;
use crate::data::Example;
use crate::error::Result;
use crate::ort::HostTensor;
use crate::parallel::{Ranks, Reader, Writer};

/// Sums over the labels that count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    pub loss: f64,
    pub labels: f64,
    /// None where predictions are no classes.
    pub correct: Option<f64>,
    /// Added up over rows, where there is a teacher.
    pub divergence: f64,
}

impl Sums {
    /// These and those of other rows.
    pub(super) fn with(self, other: &Self) -> Self {
        Self {
            loss: self.loss + other.loss,
            labels: self.labels + other.labels,
            correct: other.correct.map(|correct| self.correct.unwrap_or_default() + correct),
            divergence: self.divergence + other.divergence,
        }
    }
}

/// What one batch gives.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BatchResult {
    pub sums: Sums,
    pub tokens: usize,
    /// What metrics are measured with.
    pub predictions: Vec<HostTensor>,
    /// What a reference said of the texts of its rows.
    pub compared: Vec<f32>,
}

impl BatchResult {
    /// The rows that it is of, with what the reference said.
    pub(super) fn completed(&self, mut rows: Vec<Example>) -> Vec<Example> {
        if !self.compared.is_empty() {
            reference::note(&mut rows, &self.compared);
        }
        rows
    }

    /// The lines of the rows whose loss is no number: of those of the batch, where predictions tell, the ones that have none.
    pub(super) fn rows_without_numbers(&self, rows: &[Example]) -> Vec<usize> {
        if !self.sums.loss.is_nan() {
            return vec![];
        }
        let values = self.predictions.first().and_then(|tensor| tensor.to_f32().ok()).unwrap_or_default();
        let width = values.len() / rows.len().max(1);
        let lines =
            |is_one: &dyn Fn(usize) -> bool| rows.iter().enumerate().filter(|(at, _)| is_one(*at)).map(|(_, row)| row.line).collect();
        let told: Vec<usize> = lines(&|at| values[at * width..(at + 1) * width].iter().any(|value| value.is_nan()));
        if told.is_empty() { lines(&|_| true) } else { told }
    }

    fn write(&self, out: Writer) -> Result<Writer> {
        let Sums { loss, labels, correct, divergence } = self.sums;
        // A count is never negative.
        let out = out.number(loss).number(labels).number(correct.unwrap_or(-1.0)).number(divergence).count(self.tokens);
        let out = out.numbers(&self.compared).count(self.predictions.len());
        self.predictions.iter().try_fold(out, |out, tensor| Ok(out.counts(tensor.shape()).numbers(&tensor.to_f32()?)))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut number = || reader.number();
        let sums =
            Sums { loss: number()?, labels: number()?, correct: Some(number()?).filter(|correct| *correct >= 0.0), divergence: number()? };
        let (tokens, compared) = (reader.count()?, reader.numbers()?);
        let predictions = (0..reader.count()?).map(|_| HostTensor::new(reader.counts()?, reader.numbers()?)).collect::<Result<_>>()?;
        Ok(Self { sums, tokens, predictions, compared })
    }
}

/// What the batches of all processes give, in the order of the batches: each process has one at most.
pub(super) fn exchanged(ranks: &Ranks<'_>, own: Result<Vec<BatchResult>>) -> Result<Vec<BatchResult>> {
    if !ranks.are_several() {
        return own;
    }
    let written = own.and_then(|parts| parts.iter().try_fold(Writer::default(), |out, part| part.write(out)).map(Writer::finish));
    let mut all = vec![];
    for bytes in &ranks.gather(written)? {
        let mut reader = Reader::new(bytes);
        while !reader.is_at_end() {
            all.push(BatchResult::read(&mut reader)?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_batch_gives_comes_as_it_was() -> Result<()> {
        let predictions = vec![HostTensor::new([2, 1], vec![0.5_f32, -1.0])?, HostTensor::new([2], vec![1.0_f32, f32::MIN])?];
        for correct in [None, Some(0.0), Some(2.0)] {
            let sums = Sums { loss: 0.1, labels: 3.0, correct, divergence: -0.25 };
            let found = BatchResult { sums, tokens: 7, predictions: predictions.clone(), compared: vec![-3.5] };
            let bytes = found.write(Writer::default())?.finish();
            assert_eq!(BatchResult::read(&mut Reader::new(&bytes))?, found);
            assert!(BatchResult::read(&mut Reader::new(&bytes[..bytes.len() - 1])).is_err());
        }
        Ok(())
    }
}
