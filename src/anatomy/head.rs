//! The prediction head: the projection that the first output comes from.

use crate::ir::{Graph, Tensor, ValueId};

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
        let tied = found.zip(token_embedding).is_some_and(|(head, table)| is_tied(graph, &head.weight, table.weight));
        Self { tied, classes: found.map(|head| head.out_features), ..self }
    }
}

/// Whether a weight is a table, or an exporter's copy of it.
fn is_tied(graph: &Graph, weight: &Weight, table: ValueId) -> bool {
    weight.value == table || graph.constant(weight.value).zip(graph.constant(table)).is_some_and(|(a, b)| is_copy(a, weight.layout, b))
}

/// Whether `copy` holds the rows of `table`, in its own layout. Looks at a few elements: two trained matrices never agree in them.
fn is_copy(copy: &Tensor, layout: Layout, table: &Tensor) -> bool {
    const LOOK_AT: usize = 8;
    let (&[rows, columns], &[first, second]) = (table.shape(), copy.shape()) else { return false };
    let same_shape = match layout {
        Layout::OutIn => (first, second) == (rows, columns),
        Layout::InOut => (second, first) == (rows, columns),
    };
    let (Some(a), Some(b), size) = (table.bytes(), copy.bytes(), table.dtype().bytes(1)) else { return false };
    if !same_shape || copy.dtype() != table.dtype() {
        return false;
    }
    let spread = |count: usize| (0..LOOK_AT).map(move |i| i * count.saturating_sub(1) / (LOOK_AT - 1));
    spread(rows).all(|row| {
        spread(columns).all(|column| {
            let place = match layout {
                Layout::OutIn => row * columns + column,
                Layout::InOut => column * rows + row,
            };
            a.slice(size * (row * columns + column)..).starts_with(&b[size * place..size * (place + 1)])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_copy_of_a_table_is_known() {
        let table = Tensor::from_f32(&[3, 2], &[1., 2., 3., 4., 5., 6.]);
        let transposed = Tensor::from_f32(&[2, 3], &[1., 3., 5., 2., 4., 6.]);
        let other = Tensor::from_f32(&[2, 3], &[1., 3., 5., 2., 4., 7.]);
        assert!(is_copy(&transposed, Layout::InOut, &table));
        assert!(is_copy(&table, Layout::OutIn, &table));
        assert!(!is_copy(&other, Layout::InOut, &table));
    }
}
