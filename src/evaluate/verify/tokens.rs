//! Tokens that a graph can read: which there are, and which have to be there.

use crate::anatomy::Feeding;
use crate::ir::{Graph, Node, Trait, ValueId};

/// The rows of the smallest table that is read at what an input says.
pub(super) fn rows_read(graph: &Graph, input: ValueId) -> Option<i64> {
    let rows = |(id, node): (ValueId, &Node)| {
        let table = node.input(0).filter(|_| &*node.op == "Gather" && node.input(1) == Some(id))?;
        let dims = graph.fact(table).known_shape()?;
        dims.get(usize::try_from(node.int("axis", 0)).ok()?).copied()
    };
    readers(graph, input).into_iter().filter_map(rows).min()
}

/// The tokens that a graph compares those of an input with: it reads the place where a row has such a one (the end of a text, as BART's classifiers do).
pub(super) fn looked_for(graph: &Graph, input: ValueId) -> Vec<i32> {
    let compared = |(id, node): (ValueId, &Node)| {
        let other = node.reads().find(|other| *other != id).filter(|_| &*node.op == "Equal")?;
        let token = graph.stored(other)?.to_i64()?;
        if let [token] = token[..] { i32::try_from(token).ok().filter(|token| *token >= 0) } else { None }
    };
    let mut found: Vec<i32> = readers(graph, input).into_iter().filter_map(compared).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The nodes that read an input's numbers as they are, each with the value that it reads.
fn readers(graph: &Graph, input: ValueId) -> Vec<(ValueId, &Node)> {
    let (mut waiting, mut found) = (vec![input], vec![]);
    while let Some(id) = waiting.pop() {
        for node in graph.uses(id).iter().map(|reader| graph.node(reader.node)) {
            found.push((id, node));
            if Trait::View.is_of(&node.op) || &*node.op == "Cast" {
                waiting.extend(node.output(0).filter(|_| node.input(0) == Some(id)));
            }
        }
    }
    found
}

/// The first token that is none of some, which are sorted.
pub(super) fn free(once: &[i32]) -> i32 {
    once.iter().fold(0, |free, token| if *token == free { free + 1 } else { free })
}

/// Tokens among which each of some others is once, the last ones of a row.
pub(super) fn each_once(tokens: Vec<i32>, once: &[i32]) -> Vec<i32> {
    if once.len() >= tokens.len() {
        return tokens;
    }
    let others = tokens.len() - once.len();
    tokens
        .into_iter()
        .take(others)
        .map(|token| if once.contains(&token) { free(once) } else { token })
        .chain(once.iter().copied())
        .collect()
}

/// Tokens behind those of a picture, where the model sees one.
pub(super) fn with_picture(tokens: Vec<i32>, feeding: &Feeding) -> Vec<i32> {
    let Some(pictures) = feeding.pictures else { return tokens };
    let own = i32::try_from(pictures.token).unwrap_or_default();
    let others = tokens.into_iter().map(|token| if token == own { i32::from(own == 0) } else { token });
    std::iter::repeat_n(own, pictures.each.unwrap_or_default()).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, DType, Dim, ModelInfo};

    /// Random rows had no end token, or several, and the graph's own reshape failed.
    #[test]
    fn tokens_that_a_graph_looks_for_are_in_each_row_once() {
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        for token in [3, -100] {
            b.output(&format!("is_{token}"), b.op("Equal", &[ids.unsqueeze(&[-1]), b.int(token)], &[]));
        }
        let graph = b.finish().expect("a valid graph");
        assert_eq!(looked_for(&graph, graph.inputs()[0]), [3]);
        assert_eq!(each_once(vec![3, 0, 2, 9, 9], &[2, 3]), [0, 0, 0, 2, 3]);
        assert_eq!(each_once(vec![1, 3, 7], &[0, 1]), [2, 0, 1]);
        assert_eq!(each_once(vec![5, 3], &[0, 1, 2]), [5, 3]);
        assert_eq!(each_once(vec![5, 3], &[]), [5, 3]);
    }
}
