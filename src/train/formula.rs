//! What a task minimises, where that is a formula of [`losses`]: the model's outputs that it reads, its labels as inputs, and its options.

use std::collections::BTreeMap;

use super::class_terms::{ClassTerms, Weights};
use super::distillation::{self, Distillation, Diverged, Divergence};
use super::losses::{self, Axis, Column, Reads, Row, Sum};
use super::pooling::SentenceVector;
use super::weights;
use crate::contract::IGNORED;
use crate::ir::{Builder, DType, Dim, Expr, ValueId};
use crate::{Error, Result, num};

/// A loss that is a formula.
#[derive(Clone, Debug)]
pub struct Formula {
    /// The loss.
    pub loss: &'static losses::Row,
    /// All its options.
    pub options: BTreeMap<String, f64>,
    /// The values of the graph that it reads: logits; starts and ends; states of tokens or a vector for each text.
    pub outputs: Vec<ValueId>,
    /// How a text's vector is made, for losses of vectors.
    pub vector: Option<SentenceVector>,
    /// Lengths at which vectors are compared as well, each cut to its first numbers (Kusupati et al. 2022, Matryoshka).
    pub matryoshka: Vec<i64>,
    /// What goes with a cross-entropy.
    pub classes: ClassTerms,
    /// A teacher to learn from beside the labels.
    pub distillation: Option<Distillation>,
}

/// What evaluation calls the number of frames that are each row's own, int64 `[batch]`.
pub const FRAMES: &str = "frames";

/// What of a model a formula reads.
pub(super) struct Given<'g> {
    /// Its outputs.
    pub outputs: Vec<Expr<'g>>,
    /// The mask of positions, `[texts, seq]`.
    pub mask: Option<Expr<'g>>,
    /// The number of frames of each row, int64 `[batch]`; all if nothing tells.
    pub frames: Option<Expr<'g>>,
}

/// A formula's value in a graph, and what evaluation measures with.
pub(super) struct Written<'g> {
    pub sum: Sum<'g>,
    /// A second term, which is divided by a number of its own.
    pub beside: Option<Sum<'g>>,
    /// What the loss read, by the names that evaluation gives it.
    pub predictions: Vec<(&'static str, Expr<'g>)>,
    /// The divergence from the teacher, added up over what `sum` counts.
    pub divergence: Option<Expr<'g>>,
}

impl Formula {
    /// Writes the loss behind a model whose data inputs are `like` (`[texts, seq]` for texts) and whose outputs are `given`; of frames, `frames` tells
    /// how many each row has, int64 `[batch]`.
    pub(super) fn write<'g>(&self, b: &'g Builder, given: Given<'g>, like: &[Dim]) -> Result<Written<'g>> {
        let Given { outputs, mask, frames } = given;
        self.of(b, &self.pooled(outputs, mask), frames, like)
    }

    /// What the loss reads, of what the model gives: vectors of texts where these are of tokens.
    pub(super) fn pooled<'g>(&self, given: Vec<Expr<'g>>, mask: Option<Expr<'g>>) -> Vec<Expr<'g>> {
        match self.vector {
            Some(vector) => given.into_iter().map(|states| vector.write(states.cast(DType::F32), mask)).collect(),
            None => given,
        }
    }

    /// How much likelier each text's completion is than the reference had it, as a logarithm, `[texts, 1]`, of the log-probabilities of its tokens.
    pub(super) fn log_ratios<'g>(&self, b: &'g Builder, tokens: Expr<'g>, like: &[Dim]) -> Result<Expr<'g>> {
        let completion = self.column(b, &losses::COMPLETIONS, like, None)?;
        let reference = self.column(b, &losses::REFERENCES, like, None)?;
        Ok(b.scoped("loss", || losses::log_ratios(tokens, completion, reference).unsqueeze(&[-1])))
    }

    /// Writes the loss behind what it reads.
    pub(super) fn of_outputs<'g>(&self, b: &'g Builder, outputs: &[Expr<'g>], like: &[Dim]) -> Result<Written<'g>> {
        self.of(b, outputs, None, like)
    }

    fn of<'g>(&self, b: &'g Builder, outputs: &[Expr<'g>], frames: Option<Expr<'g>>, like: &[Dim]) -> Result<Written<'g>> {
        let classes = outputs.first().map(|output| output.dim(-1));
        let columns = self.loss.columns.iter().map(|column| self.column(b, column, like, classes.as_ref()));
        let columns = columns.chain(frames.map(Ok)).collect::<Result<Vec<_>>>()?;
        let of_rows = self.loss.weighs_alike.is_none().then(|| weights::weights(b, 1));
        let names = self.loss.reads.names();
        let predictions = names.iter().copied().zip(outputs.iter().copied()).chain(frames.map(|frames| (FRAMES, frames))).collect();
        let Some(distillation) = self.distillation else {
            let sum = self.summed(b, outputs, &columns, of_rows);
            let beside = b.scoped("loss", || self.loss.write_beside(outputs.to_vec(), columns, of_rows, self.options.clone()));
            return Ok(Written { sum, beside, predictions, divergence: None });
        };
        let counts = match self.loss.columns[0].dtype {
            DType::I64 if self.loss.reads != Reads::Spans => columns[0].equal(b.int(IGNORED.into())).logical_not().cast(DType::F32),
            _ => columns[0].length(0).filled(1.0, DType::F32),
        };
        let counts = of_rows.map_or(counts, |of_rows| counts * of_labels(of_rows, counts)).reshape(&[-1]);
        let (of_teacher, told) = self.taught(b, distillation, outputs, counts)?;
        if distillation.weight >= 1.0 {
            return Ok(Written { sum: of_teacher, beside: None, predictions, divergence: Some(told) });
        }
        let own = self.summed(b, outputs, &columns, of_rows);
        let own = Sum { sum: own.sum * (1.0 - distillation.weight), count: own.count };
        if self.classes.weights == Weights::Equal {
            let sum = Sum { sum: own.sum + of_teacher.sum, count: own.count };
            return Ok(Written { sum, beside: None, predictions, divergence: Some(told) });
        }
        // Classes weigh in the loss alone: what it is divided by is not what the divergence is.
        Ok(Written { sum: own, beside: Some(of_teacher), predictions, divergence: Some(told / of_teacher.count * own.count) })
    }

    /// The divergence from a teacher with its share, and as it is told.
    fn taught<'g>(
        &self,
        b: &'g Builder,
        distillation: Distillation,
        outputs: &[Expr<'g>],
        counts: Expr<'g>,
    ) -> Result<(Sum<'g>, Expr<'g>)> {
        let Row { reads, name, .. } = self.loss;
        let missing = || Error::unsupported("a teacher for this loss", format!("{name} has no answers to compare"));
        let divergence = Divergence::of(*reads, name).ok_or_else(missing)?;
        let sums = distillation::inputs(*reads).iter().zip(outputs).map(|(name, &output)| {
            let teacher = b.input(name, DType::F32, &output.known_dims());
            b.scoped("distillation", || distillation.diverged(divergence, rows(output).cast(DType::F32), rows(teacher), counts))
        });
        // Of starts and ends the mean counts, as of their losses.
        let share = 1.0 / num::float(outputs.len().max(1));
        let joined = sums.reduce(|one, next| Diverged {
            learnt: Sum { sum: one.learnt.sum + next.learnt.sum, count: one.learnt.count },
            told: one.told + next.told,
        });
        let Diverged { learnt, told } = joined.ok_or_else(missing)?;
        Ok((Sum { sum: learnt.sum * (share * distillation.factor(divergence)), count: learnt.count }, told * share))
    }

    fn summed<'g>(&self, b: &'g Builder, outputs: &[Expr<'g>], columns: &[Expr<'g>], weights: Option<Expr<'g>>) -> Sum<'g> {
        let write = |outputs: Vec<Expr<'g>>| self.loss.write(outputs, columns.to_vec(), weights, self.options.clone());
        let of_rows = weights.map(|weights| of_labels(weights, columns[0]).reshape(&[-1]));
        if self.is_cross_entropy_of_classes() {
            let (logits, labels) = (rows(outputs[0]).cast(DType::F32), columns[0].reshape(&[-1]));
            return b.scoped("loss", || losses::class_cross_entropy(logits, labels, of_rows, &self.classes));
        }
        if self.loss.reads == Reads::Spans && self.classes.smoothing > 0.0 {
            let of = |at: usize| losses::class_cross_entropy(outputs[at].cast(DType::F32), columns[at], of_rows, &self.classes);
            return b.scoped("loss", || Sum { sum: (of(0).sum + of(1).sum) * 0.5, count: of(0).count });
        }
        b.scoped("loss", || {
            let cut = |length: &i64| {
                let vectors = outputs[0].slice(&[0], &[*length], &[-1]);
                write(vec![losses::normalized(vectors)])
            };
            let mut sums = self.matryoshka.iter().map(cut);
            match sums.next() {
                None => write(outputs.to_vec()),
                Some(first) => sums.fold(first, |all, next| Sum { sum: all.sum + next.sum, count: all.count }),
            }
        })
    }

    fn is_cross_entropy_of_classes(&self) -> bool {
        matches!(self.loss.reads, Reads::Logits | Reads::TokenLogits) && self.loss.name == "cross-entropy"
    }

    fn column<'g>(&self, b: &'g Builder, column: &Column, like: &[Dim], classes: Option<&Dim>) -> Result<Expr<'g>> {
        let missing =
            |axis: Axis| Error::unsupported(format!("{} of this model", column.name), format!("its {axis:?} have no known length"));
        let texts = like.first().cloned();
        // Rows are parted into texts where a row has several.
        let of_rows = if self.loss.reads.stacks_texts() { Some(Dim::symbol("rows")) } else { texts.clone() };
        let length = |axis: &Axis| match axis {
            Axis::Rows => of_rows.clone(),
            Axis::Pairs => Some(Dim::symbol("rows")),
            Axis::Texts => texts.clone(),
            Axis::Positions => like.get(1).cloned(),
            Axis::Classes => classes.cloned(),
            Axis::Symbols => Some(Dim::symbol("symbols")),
            Axis::Several => Some(Dim::symbol("several")),
        };
        let dims = column.axes.iter().map(|axis| length(axis).ok_or_else(|| missing(*axis))).collect::<Result<Vec<_>>>()?;
        // A model that computes a loss of its own has an input of that name, which nothing asks for any more.
        match b.input_named(column.name) {
            None => Ok(b.input(column.name, column.dtype, &dims)),
            Some(own) if own.rank() == dims.len() => Ok(own.cast(column.dtype)),
            Some(own) => {
                let what = format!("the input {} of this graph", column.name);
                let why = format!("labels here have {} axes, it is {}", dims.len(), own.fact());
                Err(Error::unsupported(what, why).with_hint("export the model without its loss"))
            }
        }
    }
}

/// What each label weighs, where weights are those of rows.
fn of_labels<'g>(weights: Expr<'g>, labels: Expr<'g>) -> Expr<'g> {
    let weights = if labels.rank() > 1 { weights.unsqueeze(&[-1]) } else { weights };
    weights.expand(labels.shape())
}

/// All axes but the last as one.
fn rows(logits: Expr<'_>) -> Expr<'_> {
    if logits.rank() == 2 { logits } else { logits.rows() }
}
