//! The graphs of training, made of an adapted model: the whole step; the gradient alone; the loss alone.

use super::loss::Want;
use super::objective::Model;
use super::optimizer::{AdamW, Update};
use super::order;
use super::prepared::{Prepared, mean};
use crate::Result;
use crate::contract::{Input, Output};
use crate::ir::{Builder, DType, Expr, Graph, ValueId, fuse, simplify};

/// The forward and the backward pass: what the graph of the whole step and the one that adds gradients up have in common.
#[derive(Debug)]
pub struct Backward {
    /// Data and labels in; the mean loss, its gradient and what it is divided by out.
    graph: Graph,
    trainable: ValueId,
    /// The inputs by which losses are divided: the loss's own, and that of its second term, if it has one.
    counts: Vec<ValueId>,
}

impl Backward {
    /// Writes the loss and its gradient with respect to the trainable vector.
    ///
    /// # Errors
    /// Operators on the way from the adapter to the loss that have no gradient, all of them at once; an adapter without tensors.
    pub fn new(model: Model<'_>) -> Result<Self> {
        let b = Builder::on(model.graph);
        let prepared = Prepared::new(&b, model)?;
        let denominator = b.input(Input::LabelCount.name(), DType::F32, &[]);
        let trainable = prepared.trainable()?;
        let loss = prepared.loss(model, Want::Gradient { denominator, trainable })?;
        let gradient = prepared.gradient(model, &loss)?;
        let second = b.input_named(Input::SecondCount.name()).zip(loss.beside.map(|beside| beside.count));
        let counted: Vec<(Expr<'_>, Expr<'_>)> = [(denominator, loss.count)].into_iter().chain(second).collect();
        let of_counts = counted.iter().enumerate().map(|(at, (_, count))| (format!("count_{at}"), *count));
        let mean = mean(&b, loss.sum, loss.beside, denominator);
        for (name, value) in [("loss".to_owned(), mean), ("gradient".to_owned(), gradient)].into_iter().chain(of_counts) {
            b.output(&format!("backward/{name}"), value);
        }
        let (trainable, counts) = (trainable.id(), counted.iter().map(|(input, _)| input.id()).collect());
        let graph = lean(b.finish()?)?;
        let gradient = graph.outputs()[1];
        Ok(Self { graph: order::parts_last(graph, gradient), trainable, counts })
    }

    /// One training step in one graph: data, labels and state in; loss, gradient norm and next state out.
    ///
    /// # Errors
    /// None for a graph that was finished.
    pub fn training_graph(&self, update: &Update) -> Result<Graph> {
        let b = Builder::on(&self.graph);
        let counts = self.graph.outputs()[2..].iter().map(|&id| b.expr(id)).collect::<Vec<_>>();
        let [loss, gradient] = self.results(&b);
        b.output(Output::Loss.name(), loss);
        for (&input, count) in self.counts.iter().zip(counts) {
            b.remove_input(b.expr(input), count);
        }
        let state = AdamW::moments(&b, b.expr(self.trainable));
        update.write(&b, state, gradient);
        b.finish()
    }

    /// The gradient of one micro-batch, added to that of those before: `gradient` in, `gradient_next` out.
    ///
    /// The loss is the sum over this micro-batch's labels divided by `label_count`, the number of labels in the whole accumulated batch; its second term,
    /// if it has one, by `second_count`.
    ///
    /// # Errors
    /// None for a graph that was finished.
    pub fn gradient_graph(&self) -> Result<Graph> {
        let b = Builder::on(&self.graph);
        let [loss, gradient] = self.results(&b);
        b.output(Output::Loss.name(), loss);
        let so_far = b.input(Input::Gradient.name(), DType::F32, &gradient.known_dims());
        b.output(Output::GradientNext.name(), so_far + gradient);
        b.finish()
    }

    /// The loss and the gradient, as values of a graph without outputs.
    fn results<'g>(&self, b: &'g Builder) -> [Expr<'g>; 2] {
        b.clear_outputs();
        [0, 1].map(|at| b.expr(self.graph.outputs()[at]))
    }
}

/// The same computation with fewer nodes, and fewer passes over what the backward pass reads.
pub(super) fn lean(graph: Graph) -> Result<Graph> {
    let simple = simplify(&graph)?;
    // A graph of many layers takes tens of megabytes: none stays longer than it is read.
    drop(graph);
    let fused = fuse(&simple)?;
    drop(simple);
    simplify(&fused)
}

/// The loss without its gradient: `loss_sum` and `label_count`, float32, rank 0; and what metrics are measured with: `correct`, the number of
/// right predictions, or what the loss read (`logits`, `embeddings`, ..).
///
/// # Errors
/// An adapter without tensors; a graph that does not give what the loss reads.
pub fn evaluation_graph(model: Model<'_>) -> Result<Graph> {
    let b = Builder::on(model.graph);
    let loss = Prepared::new(&b, model)?.loss(model, Want::Accuracy)?;
    // Of a batch alone, the second term's own mean counts as often as the first's numbers do.
    let sum = loss.beside.map_or(loss.sum, |beside| loss.sum + beside.sum / beside.count * loss.count);
    b.output(Output::LossSum.name(), sum);
    b.output(Output::LabelCount.name(), loss.exact_count);
    for (name, value) in loss.correct.map(|correct| ("correct", correct)).into_iter().chain(loss.predictions) {
        b.output(name, value);
    }
    Ok(order::weights_first(simplify(&b.finish()?)?))
}
