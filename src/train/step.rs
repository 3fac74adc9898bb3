//! The graphs of training, made of an adapted model: the whole step; the gradient alone; the loss alone.

use super::head::Head;
use super::loss::{self, Labels, Loss, Want};
use super::optimizer::{AdamW, names};
use super::order;
use super::verbalizer::HardPrompt;
use crate::adapter::Param;
use crate::anatomy::Anatomy;
use crate::grad;
use crate::ir::{Builder, DType, Dim, Expr, Graph, ValueId, simplify};
use crate::{Error, Result};

/// What the labels are labels of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Causal language models: each position predicts the next label. Labels `[batch, seq]`, not shifted.
    NextToken,
    /// Masked language models, token classification, decoders whose labels are in place: labels `[batch, seq]`.
    EachToken,
    /// Classification of whole sequences or images: labels `[batch]`.
    Sequence,
}

/// An adapted model that is to be trained.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    /// The base with the adapter's tensors as optional inputs.
    pub graph: &'a Graph,
    /// What was recognised in the base.
    pub anatomy: &'a Anatomy,
    /// The adapter's tensors, in the order of the trainable vector.
    pub params: &'a [Param],
    /// What the labels are labels of.
    pub objective: Objective,
    /// Positions of the logits in front of those that have labels: virtual tokens.
    pub positions_without_label: usize,
    /// The words that labels stand for: labels are then numbers of these, at the word's place.
    pub hard_prompt: Option<&'a HardPrompt>,
}

/// The name of the labels' input.
pub const LABELS: &str = "labels";

/// The forward and the backward pass: what the graph of the whole step and the one that adds gradients up have in common.
#[derive(Debug)]
pub struct Backward {
    /// Data and labels in; sum of losses, gradient and number of labels out.
    graph: Graph,
    trainable: ValueId,
    /// The input by which losses are divided.
    label_count: ValueId,
}

impl Backward {
    /// Writes the loss and its gradient with respect to the trainable vector.
    ///
    /// # Errors
    /// Operators on the way from the adapter to the loss that have no gradient, all of them at once; an adapter without tensors.
    pub fn new(model: Model<'_>) -> Result<Self> {
        let b = Builder::on(model.graph);
        let prepared = Prepared::new(&b, model)?;
        let denominator = b.input("label_count", DType::F32, &[]);
        let loss = prepared.loss(model, Want::Gradient { denominator, trainable: prepared.trainable })?;
        let (trainable, label_count) = (prepared.trainable.id(), denominator.id());
        let gradient = prepared.gradient(&loss)?;
        for (name, value) in [("sum", loss.sum), ("gradient", gradient), ("count", prepared.labels.count())] {
            b.output(&format!("backward/{name}"), value);
        }
        let graph = simplify(&b.finish()?)?;
        let gradient = graph.outputs()[1];
        Ok(Self { graph: order::parts_last(graph, gradient), trainable, label_count })
    }

    /// One training step in one graph: data, labels and state in; loss, gradient norm and next state out.
    ///
    /// # Errors
    /// None for a graph that was finished.
    pub fn training_graph(&self, optimizer: &AdamW) -> Result<Graph> {
        let b = Builder::on(&self.graph);
        let [sum, gradient, count] = self.results(&b);
        b.remove_input(b.expr(self.label_count), count);
        b.output("loss", sum / count);
        let state = AdamW::moments(&b, b.expr(self.trainable));
        optimizer.write(&b, state, gradient);
        b.finish()
    }

    /// The gradient of one micro-batch, added to that of those before: `gradient` in, `gradient_next` out.
    ///
    /// The loss is the sum over this micro-batch's labels divided by `label_count`, the number of labels in the whole accumulated batch.
    ///
    /// # Errors
    /// None for a graph that was finished.
    pub fn gradient_graph(&self) -> Result<Graph> {
        let b = Builder::on(&self.graph);
        let [sum, gradient, _] = self.results(&b);
        b.output("loss", sum / b.expr(self.label_count));
        let so_far = b.input("gradient", DType::F32, &gradient.known_dims());
        b.output(&format!("gradient{}", names::NEXT), so_far + gradient);
        b.finish()
    }

    /// The sum of losses, the gradient and the number of labels, as values of a graph without outputs.
    fn results<'g>(&self, b: &'g Builder) -> [Expr<'g>; 3] {
        b.clear_outputs();
        [0, 1, 2].map(|at| b.expr(self.graph.outputs()[at]))
    }
}

/// The loss without its gradient: `loss_sum`, `label_count` and `correct`, float32, rank 0.
///
/// # Errors
/// An adapter without tensors; a graph without logits.
pub fn evaluation_graph(model: Model<'_>) -> Result<Graph> {
    let b = Builder::on(model.graph);
    let prepared = Prepared::new(&b, model)?;
    let loss = prepared.loss(model, Want::Accuracy)?;
    b.output("loss_sum", loss.sum);
    b.output("label_count", prepared.labels.exact_count());
    if let Some(correct) = loss.correct {
        b.output("correct", correct);
    }
    Ok(order::weights_first(simplify(&b.finish()?)?))
}

/// A model whose adapter is the flat vector, with labels, without outputs.
struct Prepared<'g> {
    b: &'g Builder,
    trainable: Expr<'g>,
    logits: Expr<'g>,
    labels: Labels<'g>,
}

impl<'g> Prepared<'g> {
    fn new(b: &'g Builder, model: Model<'_>) -> Result<Self> {
        let head = model.anatomy.head.as_ref().ok_or_else(|| {
            Error::unsupported("training this graph", "it has no output that looks like logits")
                .with_hint("a body without a head gets one with `--num-labels`; `peft-onnx inspect --explain` says what was looked for")
        })?;
        let logits = super::logits::of(b, model.graph, head);
        b.clear_outputs();
        super::cache::close(b, model.anatomy);
        let trainable = flatten(b, model)?;
        let logits = model.hard_prompt.map_or(logits, |prompt| b.scoped("labels", || prompt.narrowed(logits)));
        let labels = labels(b, model)?;
        Ok(Self { b, trainable, logits, labels })
    }

    fn loss(&self, model: Model<'_>, want: Want<'g>) -> Result<Loss<'g>> {
        if model.objective == Objective::Sequence {
            return Ok(loss::classification(self.logits, self.labels, want));
        }
        let input = model.anatomy.head.as_ref().and_then(|head| head.projection).map(|at| model.anatomy.projections[at].x);
        let head = match input.map(|x| Head::between(self.b, self.b.expr(x), self.logits)) {
            Some(Ok(head)) => head,
            Some(Err(why)) => {
                tracing::warn!("the loss is computed from whole logits: {why}");
                Head::identity(self.logits)
            }
            None => Head::identity(self.logits),
        };
        self.b.scoped("loss", || loss::cross_entropy(self.b, &head, self.labels, want))
    }

    fn gradient(&self, loss: &Loss<'g>) -> Result<Expr<'g>> {
        let gradients = grad::vjp(self.b, &loss.seeds, &[self.trainable])?;
        gradients[0].ok_or_else(|| Error::invalid("the loss does not depend on the adapter"))
    }
}

/// Replaces the adapter's inputs by parts of one flat input.
fn flatten<'g>(b: &'g Builder, model: Model<'_>) -> Result<Expr<'g>> {
    let params = model.params;
    let length = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let count: usize = params.iter().map(|param| param.initial.len()).sum();
    if count == 0 {
        return Err(Error::invalid("there is nothing to train: the adapter has no tensors"));
    }
    let trainable = b.input(names::TRAINABLE, DType::F32, &[Dim::known(length(count))]);
    b.scoped("trainable", || {
        let lengths: Vec<i64> = params.iter().map(|p| length(p.initial.len())).collect();
        for (param, part) in params.iter().zip(trainable.split(&lengths, 0)) {
            let shape: Vec<i64> = param.initial.shape().iter().map(|&n| length(n)).collect();
            b.remove_input(b.expr(param.value), part.reshape(&shape));
        }
    });
    Ok(trainable)
}

fn labels<'g>(b: &'g Builder, model: Model<'_>) -> Result<Labels<'g>> {
    let inputs = &model.anatomy.inputs;
    let like = inputs
        .decoder_input_ids
        .or(inputs.main)
        .ok_or_else(|| Error::unsupported("training this graph", "its data inputs were not recognised"))?;
    let dims = b.expr(like).known_dims();
    let shape = match model.objective {
        Objective::Sequence => &dims[..1.min(dims.len())],
        _ => &dims,
    };
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
        let before = i64::try_from(model.positions_without_label).unwrap_or(i64::MAX);
        let labels = if before == 0 || model.objective == Objective::Sequence { labels } else { loss::with_ignored(labels, before) };
        match model.objective {
            Objective::NextToken => Labels::next_token(labels),
            Objective::EachToken | Objective::Sequence => Labels::in_place(labels),
        }
    }))
}
