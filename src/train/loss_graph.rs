//! A loss that somebody wrote as an ONNX graph, put behind a model.

use std::sync::Arc;

use super::formula::Written;
use super::losses::Sum;
use crate::ir::{Builder, DType, Expr, Graph};
use crate::{Error, Result};

/// A graph that gives `loss`, a mean, or `loss_sum` and `label_count`. Its inputs are, by name: outputs of the model, inputs of the model, columns
/// of the data.
#[derive(Clone, Debug)]
pub struct LossGraph {
    graph: Graph,
}

/// What a loss graph gives: the mean, or the sum and what it is divided by.
const LOSS: &str = "loss";
const SUM: &str = "loss_sum";
const COUNT: &str = "label_count";

impl LossGraph {
    /// Takes a graph in the dialect spoken inside, its functions inlined.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for a graph without a loss.
    pub fn new(graph: Graph) -> Result<Self> {
        let loss = Self { graph };
        if loss.gives(LOSS) || loss.gives_sum() {
            return Ok(loss);
        }
        let graph = &loss.graph;
        let names: Vec<&str> = graph.outputs().iter().map(|&id| graph.value_name(id)).collect();
        let error = Error::not_found("output", LOSS);
        Err(error.with_hint(format!("a loss graph gives `{LOSS}`, or `{SUM}` and `{COUNT}`; this one gives {}", names.join(", "))))
    }

    /// Whether it gives a sum and what that is divided by, so that sums over parts of a batch add up.
    #[must_use]
    pub fn gives_sum(&self) -> bool {
        self.gives(SUM) && self.gives(COUNT)
    }

    fn gives(&self, name: &str) -> bool {
        self.graph.outputs().iter().any(|&id| self.graph.value_name(id) == name)
    }

    /// The names of its inputs.
    #[must_use]
    pub fn inputs(&self) -> Vec<String> {
        self.graph.data_inputs().map(|id| self.graph.value_name(id).to_owned()).collect()
    }

    /// Writes the loss behind a model with these outputs.
    pub(super) fn write<'g>(&self, b: &'g Builder, outputs: &[(Arc<str>, Expr<'g>)]) -> Result<Written<'g>> {
        let mut read = vec![];
        let bind = |name: &str, declared: crate::ir::Fact| {
            if let Some((_, value)) = outputs.iter().find(|(output, _)| **output == *name) {
                read.push(*value);
                return Ok(*value);
            }
            match (b.input_named(name), declared.dtype, declared.shape) {
                (Some(input), ..) => Ok(input),
                (None, Some(dtype), Some(shape)) => Ok(b.input(name, dtype, &shape)),
                _ => Err(Error::unsupported(format!("the input {name} of the loss graph"), "it has no declared type and shape")),
            }
        };
        let found = b.scoped("loss", || b.splice(&self.graph, bind))?;
        let named = |name: &str| found.iter().find(|(output, _)| &**output == name).map(|(_, value)| value.cast(DType::F32).reshape(&[]));
        let sum = match (named(LOSS), named(SUM), named(COUNT)) {
            (_, Some(sum), Some(count)) => Sum { sum, count: count.max(count.same_type(1e-12)) },
            // A mean over the batch: its rows are what counts, so that accumulated batches weigh as much as they have rows.
            (Some(mean), ..) => {
                let rows = read.first().filter(|value| value.rank() > 0).map(|value| value.length(0).reshape(&[]).cast(DType::F32));
                let count = rows.unwrap_or_else(|| b.number(1.0, DType::F32));
                Sum { sum: mean * count, count }
            }
            _ => return Err(Error::not_found("output", LOSS)),
        };
        if read.is_empty() {
            let names: Vec<&str> = outputs.iter().map(|(name, _)| &**name).collect();
            let error = Error::invalid("the loss graph reads no output of the model");
            return Err(error.with_hint(format!("name an input of it like one of the model's outputs: {}", names.join(", "))));
        }
        let predictions = outputs.iter().find(|(name, _)| &**name == "logits").map(|(_, value)| ("logits", *value));
        Ok(Written { sum, beside: None, predictions: predictions.into_iter().collect(), divergence: None })
    }
}
