//! The lengths that a graph insists on: declared, or left by a tracer in its constants (a `Reshape` to `[1, 16, 64]`) while the declared
//! ones are free.

use std::collections::BTreeSet;

use crate::ir::{Builder, Dim, Graph, ValueId};

use super::Anatomy;
use super::input_role::Role;
use super::walk::NodeRef;

/// The only number of rows and of tokens that a graph computes with, where there is but one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fixed {
    pub(super) rows: Option<i64>,
    pub(super) length: Option<i64>,
    /// Whether the file declares the rows free.
    pub(super) has_free_rows: bool,
}

/// What is tried first: numbers that no constant of a graph equals by accident.
const ROWS: i64 = 37;
const LENGTH: i64 = 61;

/// Graphs that take neither are tried with their own constants, so many at most.
const TRIALS: usize = 48;
/// More rows, or tokens, than this are no trace of an example.
const LARGEST: i64 = 8192;

/// Lengths that the graph declares, else those with which no node contradicts another. Free where nothing tells.
pub(super) fn find(graph: &Graph, anatomy: &Anatomy) -> Fixed {
    let Some(main) = anatomy.inputs.main.or_else(|| graph.data_inputs().next()) else { return Fixed::default() };
    let Some(dims) = graph.fact(main).shape.clone() else { return Fixed::default() };
    let is_text = anatomy.inputs.main.is_some() && dims.len() == 2;
    let rows = dims.first().and_then(Dim::as_known);
    let length = dims.get(1).filter(|_| is_text).and_then(Dim::as_known);
    let declared = Fixed { rows, length, has_free_rows: rows.is_none() };
    if declared.rows.is_some() && (declared.length.is_some() || !is_text) {
        return declared;
    }
    let trial = Trial { graph, anatomy, is_text };
    // One less than the most: a tracer may well have left the most.
    let length = anatomy.max_positions.map_or(LENGTH, |most| LENGTH.min(most - 1).max(1));
    let rows = declared.rows.map_or_else(|| vec![ROWS, 1], |rows| vec![rows]);
    let lengths = declared.length.map_or_else(|| vec![length], |length| vec![length]);
    let (more_rows, more_lengths) = constants(graph);
    let all = |own: &[i64], more: &BTreeSet<i64>, is_free: bool| -> Vec<i64> {
        own.iter().copied().chain(more.iter().copied().filter(|_| is_free)).collect()
    };
    let first = rows.iter().map(|&rows| (rows, lengths[0]));
    let (all_rows, all_lengths) =
        (all(&rows, &more_rows, declared.rows.is_none()), all(&lengths, &more_lengths, declared.length.is_none() && is_text));
    let others = all_rows.iter().flat_map(|&rows| all_lengths.iter().map(move |&length| (rows, length)));
    let found = first.chain(others).take(TRIALS).find(|&(rows, length)| trial.fits(rows, length));
    match found {
        Some((rows, found)) => Fixed {
            rows: Some(rows).filter(|&rows| rows != ROWS).or(declared.rows),
            length: Some(found).filter(|&found| is_text && found != length).or(declared.length),
            ..declared
        },
        None => declared,
    }
}

/// The lengths that shapes among the constants begin with, and the other ones.
fn constants(graph: &Graph) -> (BTreeSet<i64>, BTreeSet<i64>) {
    let (mut rows, mut lengths) = (BTreeSet::new(), BTreeSet::new());
    for (id, _) in graph.node_ids() {
        let node = NodeRef::new(graph, id);
        let shape = node.is(&["Reshape", "Expand"]).then(|| node.input(1).ok()?.fact().known_contents()).flatten();
        let Some((first, rest)) = shape.as_deref().and_then(<[i64]>::split_first) else { continue };
        let is_length = |length: &i64| (2..=LARGEST).contains(length);
        rows.extend(Some(*first).filter(is_length));
        lengths.extend(rest.iter().copied().filter(is_length));
    }
    (rows, lengths)
}

struct Trial<'a> {
    graph: &'a Graph,
    anatomy: &'a Anatomy,
    is_text: bool,
}

impl Trial<'_> {
    /// Whether no node contradicts another with so many rows and tokens, and the predictions are as many.
    fn fits(&self, rows: i64, length: i64) -> bool {
        let b = Builder::on(self.graph);
        let inputs = self.anatomy.inputs.roles.iter().filter(|(_, role)| self.is_of_tokens(*role));
        for &(id, _) in inputs {
            let Some(dims) = b.fact(id).shape else { continue };
            let lengths = [rows, length];
            for (dim, length) in dims.iter().zip(lengths).take(if self.is_text && dims.len() == 2 { 2 } else { 1 }) {
                b.substitute(dim, &Dim::known(length));
            }
        }
        b.infer_again();
        let Ok(graph) = b.finish() else { return false };
        let count = |id: ValueId| graph.fact(id).shape.as_deref().and_then(<[Dim]>::first).and_then(Dim::as_known);
        let logits = self.anatomy.head.as_ref().map(|head| head.logits);
        logits.and_then(count).is_none_or(|count| count == rows)
    }

    fn is_of_tokens(&self, role: Role) -> bool {
        match role {
            Role::InputIds | Role::PixelValues | Role::TokenTypeIds => true,
            // With a cache, these cover the past as well.
            Role::AttentionMask(_) | Role::PositionIds => self.anatomy.cache.is_empty(),
            _ => false,
        }
    }
}
