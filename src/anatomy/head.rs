//! The prediction head: the projection that the first output comes from.

use crate::ir::Graph;

use super::copies;
use super::flow::Flow;
use super::{Embedding, Head, Layout, Projection, Weight};

/// The head, if the first output (or the one called logits) comes from one projection alone. What it is tied to is not known yet.
pub(super) fn find(graph: &Graph, flow: &Flow) -> Option<Head> {
    let named = graph.outputs().iter().copied().find(|&id| graph.value_name(id) == "logits");
    let logits = named.or_else(|| graph.outputs().first().copied())?;
    let projection = flow.projection(logits);
    (named.is_some() || projection.is_some()).then_some(Head { logits, projection, tied: false, classes: None })
}

impl Head {
    /// Fills in what the projection tells.
    pub(super) fn complete(self, graph: &Graph, projections: &[Projection], token_embedding: Option<&Embedding>) -> Self {
        let found = self.projection.map(|at| &projections[at]);
        let rows = |table: &Embedding| Weight { value: table.weight, layout: Layout::OutIn, part: None };
        let tied = found.zip(token_embedding).is_some_and(|(head, table)| copies::are_one(graph, &head.weight, &rows(table)));
        Self { tied, classes: found.map(|head| head.out_features), ..self }
    }
}
