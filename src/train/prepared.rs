//! A model made ready to be trained: its adapter one flat vector, its labels inputs, its loss behind it.

use super::distillation::{DIVERGENCE, Distillation, Divergence, TEACHER_LOGITS};
use super::formula::{Formula, Given, Written};
use super::head::Head;
use super::logits;
use super::loss::{self, Labels, Teacher, Want};
use super::loss_graph::LossGraph;
use super::losses::{Reads, Sum};
use super::objective::{LABELS, Model, Objective, Tokens};
use super::queries;
use super::recompute::{self, Layers};
use super::token_log_probs::{self, TokenLogProbs};
use super::weights;
use crate::adapter::PENALTY;
use crate::contract::Input;
use crate::error::{Error, Refusal, Result};
use crate::grad;
use crate::ir::{Builder, DType, Dim, Expr, ValueId};
use crate::num;

/// A loss in its graph.
pub(super) struct Loss<'g> {
    /// The sum over what counts, float32, rank 0.
    pub sum: Expr<'g>,
    /// What a mean is divided by, at least 1 where it could be 0.
    pub count: Expr<'g>,
    /// The same, perhaps 0.
    pub exact_count: Expr<'g>,
    /// A second term of the mean, which is divided by a number of its own.
    pub beside: Option<Sum<'g>>,
    /// Where backpropagation starts: values, each with the gradient of the mean with respect to it.
    seeds: Vec<(Expr<'g>, Expr<'g>)>,
    /// How many predictions were right, float32, rank 0; only for evaluation.
    pub correct: Option<Expr<'g>>,
    /// What metrics are measured with; only for evaluation.
    pub predictions: Vec<(&'static str, Expr<'g>)>,
}

/// A model whose adapter is the flat vector, without outputs.
pub(super) struct Prepared<'g> {
    b: &'g Builder,
    /// The adapter's numbers; none of a model without an adapter.
    trainable: Option<Expr<'g>>,
    /// What was output under which name.
    outputs: Vec<(std::sync::Arc<str>, Expr<'g>)>,
    /// Attentions whose scores are computed for all queries at once though they should not be, with the reason.
    whole: Vec<Refusal>,
}

impl<'g> Prepared<'g> {
    /// # Errors
    /// A graph that cannot be written on.
    pub(super) fn new(b: &'g Builder, model: Model<'_>) -> Result<Self> {
        let names = model.graph.outputs().iter().map(|&id| model.graph.value_name(id)).chain([logits::SHOWN]);
        let outputs = names.filter_map(|name| Some((name.into(), b.output_named(name)?))).collect();
        b.clear_outputs();
        super::cache::close(b, model.anatomy);
        super::segments::write(b, model);
        let trainable = flatten(b, model);
        let whole = if model.recompute.parts_attention() {
            let hidden = recompute::hidden(&b.sorted_nodes()?, model.anatomy);
            queries::in_rounds(b, |id| hidden.contains(&id))?
        } else {
            vec![]
        };
        Ok(Self { b, trainable, outputs, whole })
    }

    /// The adapter's numbers.
    ///
    /// # Errors
    /// An adapter without tensors.
    pub(super) fn trainable(&self) -> Result<Expr<'g>> {
        self.trainable.ok_or_else(|| Error::invalid("there is nothing to train: the adapter has no tensors"))
    }

    /// Writes the loss.
    ///
    /// # Errors
    /// A graph that does not give what the loss reads.
    pub(super) fn loss(&self, model: Model<'_>, want: Want<'g>) -> Result<Loss<'g>> {
        let loss = match model.objective {
            Objective::Formula(formula) => self.formula(model, formula, want)?,
            Objective::Graph(graph) => self.graph(graph, want)?,
            Objective::NextToken(_) | Objective::EachToken(_) | Objective::Sequence => self.cross_entropy(model, want)?,
        };
        Ok(self.with_penalty(loss, want))
    }

    /// The loss that is trained, with what the adapter adds to its mean; an evaluation has the loss alone.
    fn with_penalty(&self, mut loss: Loss<'g>, want: Want<'g>) -> Loss<'g> {
        if let (Some(penalty), Want::Gradient { denominator, .. }) = (self.penalty(), want) {
            // A part of a batch in which no label counts has no share of it.
            loss.sum = loss.sum + penalty * loss.exact_count;
            loss.seeds.push((penalty, loss.exact_count / denominator));
        }
        loss
    }

    /// What the adapter adds to the mean, if it adds something.
    pub(super) fn penalty(&self) -> Option<Expr<'g>> {
        self.outputs.iter().find(|(name, _)| **name == *PENALTY).map(|(_, penalty)| *penalty)
    }

    /// The gradient of the mean with respect to the trainable vector.
    ///
    /// # Errors
    /// Operators on the way that have no gradient, all at once; a loss that does not depend on the adapter.
    pub(super) fn gradient(&self, model: Model<'_>, loss: &Loss<'g>) -> Result<Expr<'g>> {
        for why in &self.whole {
            tracing::warn!("attention is not computed some queries at a time: {why}");
        }
        let ends: Vec<ValueId> = [loss.sum, loss.count].into_iter().chain(loss.seeds.iter().map(|(y, _)| *y)).map(Expr::id).collect();
        self.repeating(model, &loss.seeds, &ends)
    }

    /// The gradient with respect to the trainable vector of values whose own gradients are given; layers are computed again if that was asked for.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient).
    pub(super) fn repeating(&self, model: Model<'_>, seeds: &[(Expr<'g>, Expr<'g>)], ends: &[ValueId]) -> Result<Expr<'g>> {
        let (choice, trainable) = (model.recompute, self.trainable()?);
        let layers = if choice.repeats_layers() { Some(Layers::of(self.b, model.anatomy, ends, choice)?) } else { None };
        let gradients = grad::pull_back(self.b, seeds, &[trainable])?;
        if let Some(layers) = layers {
            layers.repeat(self.b, &gradients);
        }
        gradients.of(trainable.id()).ok_or_else(|| Error::invalid("the loss does not depend on the adapter"))
    }

    /// A value as the model now gives it: what an adapter rewired, where it is an output.
    fn value(&self, model: Model<'_>, id: ValueId) -> Expr<'g> {
        let name = model.base.value_name(id);
        let output = self.outputs.iter().find(|(output, _)| **output == *name);
        output.map_or_else(|| self.b.expr(id), |(_, value)| *value)
    }

    fn logits(&self, model: Model<'_>) -> Result<Expr<'g>> {
        let head = model.anatomy.head.as_ref().ok_or_else(|| {
            Error::unsupported("training this graph", "it has no output that looks like logits")
                .with_hint("a body without a head gets one with `num_labels`; `peft-onnx inspect --explain` says what was looked for")
        })?;
        let named = |wanted: &str| self.outputs.iter().find(|(name, _)| **name == *wanted).map(|(_, value)| *value);
        let logits = named(model.base.value_name(head.logits)).or_else(|| named(logits::SHOWN)).unwrap_or_else(|| self.b.expr(head.logits));
        Ok(model.hard_prompt.map_or(logits, |prompt| self.b.scoped("labels", || prompt.narrowed(logits))))
    }

    fn cross_entropy(&self, model: Model<'_>, want: Want<'g>) -> Result<Loss<'g>> {
        let (logits, labels) = (self.logits(model)?, labels(self.b, model)?);
        let (mut count, mut exact_count) = (labels.count(), labels.exact_count());
        let (classes, distillation) = match model.objective {
            Objective::NextToken(Tokens { classes, distillation }) | Objective::EachToken(Tokens { classes, distillation }) => {
                (Some(classes), *distillation)
            }
            _ => (None, None),
        };
        let weighed = classes.and_then(|terms| labels.weighed(&terms.weights));
        let teacher = distillation.map(|distillation| self.teacher(distillation, logits, weighed.is_some(), want));
        let mut loss = match classes {
            Some(terms) => {
                let head = self.head(model, logits);
                self.b.scoped("loss", || loss::cross_entropy(self.b, &head, labels, terms, teacher, want))?
            }
            None => loss::classification(logits, labels, want),
        };
        let of_labels = count;
        if let Some(weighed) = weighed {
            // What was right is counted by labels, and told as a share of what the loss is divided by.
            let share = |sum: Expr<'g>| sum / of_labels * weighed;
            loss.correct = loss.correct.map(share);
            (count, exact_count) = (weighed.max(weighed.same_type(1e-12)), weighed);
        }
        let (mut sum, mut beside) = (loss.sum, None);
        if let Some((distillation, divergence)) = distillation.zip(loss.divergence) {
            let taught = divergence * distillation.factor(Divergence::Classes);
            sum = sum * (1.0 - distillation.weight);
            match weighed {
                // Classes weigh in the loss alone.
                Some(_) => beside = Some(Sum { sum: taught, count: of_labels }),
                None => sum = sum + taught,
            }
        }
        // Scores of whole rows are small: metrics are measured with them.
        let of_rows = matches!(model.objective, Objective::Sequence) && matches!(want, Want::Accuracy);
        let of_rows = of_rows.then_some(("logits", logits));
        let told = loss.divergence.map(|divergence| (DIVERGENCE, divergence / of_labels * count));
        let predictions = of_rows.into_iter().chain(told).collect();
        Ok(Loss { sum, count, exact_count, beside, seeds: loss.seeds, correct: loss.correct, predictions })
    }

    /// A teacher of tokens, whose logits are an input of the student's shape.
    fn teacher(&self, distillation: Distillation, logits: Expr<'g>, counts_apart: bool, want: Want<'g>) -> Teacher<'g> {
        let given = self.b.input(TEACHER_LOGITS, DType::F32, &logits.known_dims());
        let is_trained = matches!(want, Want::Gradient { .. });
        let denominator = (counts_apart && is_trained).then(|| second_count(self.b));
        Teacher { logits: given.rows(), distillation, denominator }
    }

    /// The part behind the last projection's input, which can run for a few positions alone.
    fn head(&self, model: Model<'_>, logits: Expr<'g>) -> Head {
        let input = model.anatomy.head.as_ref().and_then(|head| head.projection).map(|at| model.anatomy.projections[at].x);
        match input.map(|x| Head::between(self.b, self.b.expr(x), logits)) {
            Some(Ok(head)) => head,
            Some(Err(why)) => {
                tracing::warn!("the loss is computed from the logits of all positions: {why}");
                Head::identity(logits)
            }
            None => Head::identity(logits),
        }
    }

    fn formula(&self, model: Model<'_>, formula: &Formula, want: Want<'g>) -> Result<Loss<'g>> {
        let b = self.b;
        if formula.loss.reads == Reads::TokenLogProbs {
            return self.with_tokens(model, |tokens, like| {
                let given = Given { outputs: vec![tokens.values()], mask: None, frames: None };
                let Written { sum, beside, predictions, .. } = formula.write(b, given, like)?;
                let seeds = match want {
                    Want::Accuracy => vec![],
                    Want::Gradient { denominator, trainable } => {
                        b.scoped("loss", || tokens.seeds(mean(b, sum.sum, beside, denominator), trainable))?
                    }
                };
                Ok(Loss { sum: sum.sum, count: sum.count, exact_count: sum.count, beside, seeds, correct: None, predictions })
            });
        }
        let written = formula.write(b, self.given(model, formula)?, &data_dims(b, model)?)?;
        Ok(self.differentiated(written, want))
    }

    /// Gives `then` the log-probabilities of labelled tokens, and the axes of the texts.
    ///
    /// # Errors
    /// A graph without logits; what `then` finds.
    pub(super) fn with_tokens<R>(&self, model: Model<'_>, then: impl FnOnce(&TokenLogProbs<'g, '_>, &[Dim]) -> Result<R>) -> Result<R> {
        let b = self.b;
        let like = data_dims(b, model)?;
        let (logits, labels) = (self.logits(model)?, labels(b, model)?);
        let head = self.head(model, logits);
        let before = num::int(model.positions_without_label);
        let dims = b.input_named(LABELS).map(|labels| labels.length(0).concat(&[labels.length(1)], 0));
        let dims = dims.ok_or_else(|| Error::not_found("input", LABELS))?;
        let tokens = b.scoped("loss", || token_log_probs::write(b, &head, labels, dims, before))?;
        then(&tokens, &like)
    }

    /// What of the model a formula reads.
    fn given(&self, model: Model<'_>, formula: &Formula) -> Result<Given<'g>> {
        let of_logits = matches!(formula.loss.reads, Reads::Logits | Reads::TokenLogits | Reads::Frames) && formula.outputs.is_empty();
        let given = if of_logits { vec![self.logits(model)?] } else { formula.outputs.iter().map(|&id| self.value(model, id)).collect() };
        let outputs: Vec<Expr<'_>> = given.into_iter().map(|value| Self::own_positions(model, value)).collect();
        let mask = model.anatomy.inputs.attention_mask.and_then(|id| self.b.input_named(model.graph.value_name(id)));
        let mask = mask.filter(|mask| mask.rank() == 2);
        let of_frames = mask.zip(outputs.first()).filter(|_| formula.loss.reads == Reads::Frames);
        let frames = of_frames.and_then(|(mask, logits)| self.b.scoped("loss", || frames(*logits, mask)));
        Ok(Given { outputs, mask, frames })
    }

    /// The vectors of texts that a formula reads, `[texts, hidden]`.
    ///
    /// # Errors
    /// A graph that does not give them.
    pub(super) fn vectors(&self, model: Model<'_>, formula: &Formula) -> Result<Expr<'g>> {
        let Given { outputs, mask, .. } = self.given(model, formula)?;
        formula.pooled(outputs, mask).into_iter().next().ok_or_else(|| Error::invalid("the loss reads no vectors"))
    }

    /// Positions without those of virtual tokens in front.
    fn own_positions(model: Model<'_>, value: Expr<'g>) -> Expr<'g> {
        let before = num::int(model.positions_without_label);
        let spans = matches!(model.objective, Objective::Formula(formula) if formula.loss.reads == Reads::Spans);
        if before > 0 && (spans || value.rank() == 3) { value.slice(&[before], &[i64::MAX], &[1]) } else { value }
    }

    fn graph(&self, graph: &LossGraph, want: Want<'g>) -> Result<Loss<'g>> {
        let written = graph.write(self.b, &self.outputs)?;
        Ok(self.differentiated(written, want))
    }

    fn differentiated(&self, written: Written<'g>, want: Want<'g>) -> Loss<'g> {
        let Written { sum, beside, mut predictions, divergence } = written;
        let seeds = match want {
            Want::Accuracy => vec![],
            Want::Gradient { denominator, .. } => vec![(mean(self.b, sum.sum, beside, denominator), self.b.number(1.0, DType::F32))],
        };
        predictions.extend(divergence.map(|divergence| (DIVERGENCE, divergence)));
        Loss { sum: sum.sum, count: sum.count, exact_count: sum.count, beside, seeds, correct: None, predictions }
    }
}

/// What is minimised: a sum over what it is divided by, and a second term over its own.
pub(super) fn mean<'g>(b: &'g Builder, sum: Expr<'g>, beside: Option<Sum<'g>>, denominator: Expr<'g>) -> Expr<'g> {
    let mean = sum / denominator;
    beside.map_or(mean, |beside| mean + beside.sum / second_count(b))
}

/// The input by which a second term is divided.
fn second_count(b: &Builder) -> Expr<'_> {
    let name = Input::SecondCount.name();
    b.input_named(name).unwrap_or_else(|| b.input(name, DType::F32, &[]))
}

/// The frames of each row, int64 `[batch]`, of a signal whose `mask` is 1 at each row's own samples: what the model makes of so many. As
/// `_get_feat_extract_output_lengths` of transformers, from the lengths that the graph itself has. Nothing, with a warning, if they do not tell.
fn frames<'g>(logits: Expr<'g>, mask: Expr<'g>) -> Option<Expr<'g>> {
    let b = logits.b();
    let frames = logits.dim(1);
    let inputs = b.inputs().into_iter().filter_map(|input| input.dims()?.get(1).cloned());
    let signal =
        [mask.dim(1)].into_iter().chain(inputs).find(|length| matches!(&length.names()[..], [name] if frames.names().contains(name)));
    let samples = mask.cast(DType::I64).sum_away(&[1]);
    let told = signal.and_then(|signal| b.length_of_rows(&frames, &signal, samples));
    if told.is_none() {
        tracing::warn!("frames of padding count in the loss: logits have {frames} frames, which does not tell how many a shorter row has");
    }
    told
}

/// Replaces the adapter's inputs by parts of one flat input, if it has any.
fn flatten<'g>(b: &'g Builder, model: Model<'_>) -> Option<Expr<'g>> {
    let params = model.params;
    let length = num::int;
    let count: usize = params.iter().map(|param| param.initial.len()).sum();
    if count == 0 {
        return None;
    }
    let trainable = b.input(Input::Trainable.name(), DType::F32, &[Dim::known(length(count))]);
    b.scoped("trainable", || {
        // In rows as long as all parts allow: CUDA's Split and Concat send a table with an entry for each row to the device, in every step.
        let row = params.iter().fold(0, |row, param| common_divisor(row, param.initial.len())).max(1);
        let lengths: Vec<i64> = params.iter().map(|p| length(p.initial.len() / row)).collect();
        for (param, part) in params.iter().zip(trainable.reshape(&[length(count / row), length(row)]).split(&lengths, 0)) {
            let shape: Vec<i64> = param.initial.shape().iter().map(|&n| length(n)).collect();
            b.remove_input(b.expr(param.value), part.reshape(&shape));
        }
    });
    Some(trainable)
}

/// The largest number that divides both, by Euclid's algorithm.
fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// The axes of the data that labels go with.
fn data_dims(b: &Builder, model: Model<'_>) -> Result<Vec<Dim>> {
    let inputs = &model.anatomy.inputs;
    // Of a model of sound, whose input is no token, the batch is the first axis of any input.
    let any = || {
        model
            .graph
            .data_inputs()
            .find(|&id| model.graph.fact(id).rank().is_some_and(|rank| rank > 0) && b.input_named(model.graph.value_name(id)).is_some())
    };
    let like = inputs
        .decoder_input_ids
        .or(inputs.main)
        .or_else(any)
        .ok_or_else(|| Error::unsupported("training this graph", "its data inputs were not recognised"))?;
    Ok(b.expr(like).known_dims())
}

fn labels<'g>(b: &'g Builder, model: Model<'_>) -> Result<Labels<'g>> {
    let dims = data_dims(b, model)?;
    let of_rows = matches!(model.objective, Objective::Sequence);
    let shape = if of_rows { &dims[..1.min(dims.len())] } else { &dims[..] };
    let labels = match b.input_named(LABELS) {
        None => b.input(LABELS, DType::I64, shape),
        // The model computes a loss of its own, which nothing asks for any more.
        Some(own) if own.rank() == shape.len() => own.cast(DType::I64),
        Some(own) => {
            let what = format!("the input {LABELS} of this graph");
            let why = format!("labels here have {} axes, it is {}", shape.len(), b.fact(own.id()));
            return Err(Error::unsupported(what, why).with_hint("export the model without its loss"));
        }
    };
    Ok(b.scoped("loss", || {
        let before = num::int(model.positions_without_label);
        let weights = match model.objective {
            // Formulas weigh rows themselves.
            Objective::Formula(_) => None,
            _ => Some(weights::weights(b, shape.len()).expand(labels.shape())),
        };
        let is_behind = before > 0 && !of_rows;
        let labels = if is_behind { loss::with_ignored(labels, before) } else { labels };
        let weights = weights.map(|weights| if is_behind { loss::behind(weights, before, 1.0) } else { weights });
        let (labels, weights) = match model.objective {
            Objective::NextToken(_) | Objective::Formula(_) => {
                (Labels::next_token(labels), weights.map(|weights| loss::later(weights, 1.0)))
            }
            _ => (Labels::in_place(labels), weights),
        };
        weights.map_or(labels, |weights| labels.weighing(weights))
    }))
}
