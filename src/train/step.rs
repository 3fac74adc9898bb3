//! The graphs of training, made of an adapted model: the whole step; the gradient alone; the loss alone.

use super::loss::Want;
use super::objective::Model;
use super::optimizer::AdamW;
use super::order;
use super::prepared::Prepared;
use crate::Result;
use crate::contract::{Input, Output};
use crate::ir::{Builder, DType, Expr, Graph, ValueId, simplify};

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
        let denominator = b.input(Input::LabelCount.name(), DType::F32, &[]);
        let trainable = prepared.trainable()?;
        let loss = prepared.loss(model, Want::Gradient { denominator, trainable })?;
        let (trainable, label_count) = (trainable.id(), denominator.id());
        let gradient = prepared.gradient(model, &loss)?;
        for (name, value) in [("sum", loss.sum), ("gradient", gradient), ("count", loss.count)] {
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
        b.output(Output::Loss.name(), sum / count);
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
        b.output(Output::Loss.name(), sum / b.expr(self.label_count));
        let so_far = b.input(Input::Gradient.name(), DType::F32, &gradient.known_dims());
        b.output(Output::GradientNext.name(), so_far + gradient);
        b.finish()
    }

    /// The sum of losses, the gradient and the number of labels, as values of a graph without outputs.
    fn results<'g>(&self, b: &'g Builder) -> [Expr<'g>; 3] {
        b.clear_outputs();
        [0, 1, 2].map(|at| b.expr(self.graph.outputs()[at]))
    }
}

/// The loss without its gradient: `loss_sum` and `label_count`, float32, rank 0; and what metrics are measured with: `correct`, the number of
/// right predictions, or what the loss read (`logits`, `embeddings`, ..).
///
/// # Errors
/// An adapter without tensors; a graph that does not give what the loss reads.
pub fn evaluation_graph(model: Model<'_>) -> Result<Graph> {
    let b = Builder::on(model.graph);
    let loss = Prepared::new(&b, model)?.loss(model, Want::Accuracy)?;
    b.output(Output::LossSum.name(), loss.sum);
    b.output(Output::LabelCount.name(), loss.exact_count);
    for (name, value) in loss.correct.map(|correct| ("correct", correct)).into_iter().chain(loss.predictions) {
        b.output(name, value);
    }
    Ok(order::weights_first(simplify(&b.finish()?)?))
}
