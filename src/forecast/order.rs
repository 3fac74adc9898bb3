//! The order in which ONNX Runtime runs nodes: depth first from those whose outputs nobody reads, of several the one that stands last in the file
//! first (`GraphViewer` with `ExecutionOrder::DEFAULT`).

use crate::ir::{Graph, NodeId};

/// The places of a graph's nodes in the order in which they run.
pub(super) fn of(graph: &Graph) -> Vec<usize> {
    let count = graph.nodes().len();
    let before: Vec<Vec<usize>> = graph
        .nodes()
        .iter()
        .map(|node| {
            let mut places: Vec<usize> = node.reads().filter_map(|id| graph.producer(id)).map(NodeId::index).collect();
            places.sort_unstable();
            places.dedup();
            places
        })
        .collect();
    let mut is_read = vec![false; count];
    before.iter().flatten().for_each(|&place| is_read[place] = true);
    let mut stack: Vec<(usize, bool)> = (0..count).filter(|&place| !is_read[place]).map(|place| (place, false)).collect();
    let (mut seen, mut order) = (vec![false; count], Vec::with_capacity(count));
    while let Some((place, is_left)) = stack.pop() {
        if is_left {
            order.push(place);
        } else if !std::mem::replace(&mut seen[place], true) {
            stack.push((place, true));
            stack.extend(before[place].iter().filter(|&&place| !seen[place]).map(|&place| (place, false)));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, DType, Dim, ModelInfo};

    #[test]
    fn what_stands_last_runs_first() {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::known(2)]);
        let (first, second) = (x.tanh(), x.exp());
        b.output("early", first + second);
        b.output("late", second.sqrt());
        let graph = b.finish().expect("a graph");
        let ops: Vec<&str> = of(&graph).into_iter().map(|place| &*graph.nodes()[place].op).collect();
        assert_eq!(ops, ["Exp", "Sqrt", "Tanh", "Add"]);
    }
}
