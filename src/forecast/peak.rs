//! The most memory that a graph's values take at a time.

use std::collections::HashMap;

use super::known::Settled;
use super::{order, products};
use crate::ir::{Attr, Graph, Node, Trait, ValueId};

/// What a run takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Peak {
    /// Bytes of all values between inputs and outputs, and of the outputs, where there are most.
    pub bytes: u64,
    /// The name of the node that runs then.
    pub at: String,
    /// Multiplications and additions of products.
    pub operations: f64,
}

/// The peak of a graph in ONNX Runtime's order.
#[must_use]
pub fn peak(graph: &Graph, settled: &Settled) -> Peak {
    let (bytes, at) = Buffers::new(graph, settled).run();
    Peak { bytes, at, operations: products::operations(graph, settled) }
}

/// Who holds which memory.
struct Buffers<'a> {
    graph: &'a Graph,
    settled: &'a Settled,
    /// The first value in the memory of each value.
    home: HashMap<ValueId, ValueId>,
    /// Reads that are still to come, of all values in the memory of a first one.
    left: HashMap<ValueId, usize>,
    /// Bytes of memory by first value.
    held: HashMap<ValueId, u64>,
    now: u64,
}

impl<'a> Buffers<'a> {
    fn new(graph: &'a Graph, settled: &'a Settled) -> Self {
        Self { graph, settled, home: HashMap::new(), left: HashMap::new(), held: HashMap::new(), now: 0 }
    }

    /// Goes through the nodes: the most bytes, and where.
    fn run(mut self) -> (u64, String) {
        let (mut most, mut at) = (0, String::new());
        for place in order::of(self.graph) {
            let node = &self.graph.nodes()[place];
            let inside = self.inside(node, place);
            for output in node.writes() {
                self.place(node, output);
            }
            if self.now + inside > most {
                (most, at) = (self.now + inside, node.name.to_string());
            }
            for id in node.reads() {
                self.read(id);
            }
            // What nobody reads is given back at once.
            for output in node.writes() {
                let home = self.home_of(output);
                self.give_back(home);
            }
        }
        (most, at)
    }

    /// What a body takes while it runs.
    fn inside(&self, node: &Node, place: usize) -> u64 {
        match (node.attrs.get("body"), self.settled.bodies.get(&place)) {
            (Some(Attr::Graph(body)), Some(inner)) => Buffers::new(body, inner).run().0,
            _ => 0,
        }
    }

    fn home_of(&self, id: ValueId) -> ValueId {
        self.home.get(&id).copied().unwrap_or(id)
    }

    fn readers(&self, id: ValueId) -> usize {
        // An output of the graph stays to the end.
        self.graph.uses(id).len() + usize::from(self.graph.is_output(id))
    }

    /// Finds memory for a value.
    fn place(&mut self, node: &Node, output: ValueId) {
        let readers = self.readers(output);
        let shared = self.shared(node, output).filter(|_| !self.graph.is_output(output));
        let home = shared.unwrap_or_else(|| {
            let bytes = self.settled.bytes(output);
            self.now += bytes;
            self.held.insert(output, bytes);
            output
        });
        self.home.insert(output, home);
        *self.left.entry(home).or_default() += readers;
    }

    /// The memory of an input that the output takes over.
    fn shared(&self, node: &Node, output: ValueId) -> Option<ValueId> {
        if Trait::View.is_of(&node.op) || &*node.op == "Identity" {
            let home = self.home_of(node.input(0)?);
            return self.held.contains_key(&home).then_some(home);
        }
        if !Trait::InPlace.is_of(&node.op) {
            return None;
        }
        let bytes = self.settled.bytes(output);
        node.inputs.iter().flatten().map(|&input| self.home_of(input)).find(|home| {
            let is_last = self.left.get(home) == Some(&1);
            is_last && self.held.get(home) == Some(&bytes)
        })
    }

    fn read(&mut self, id: ValueId) {
        let home = self.home_of(id);
        if let Some(left) = self.left.get_mut(&home) {
            *left = left.saturating_sub(1);
        }
        self.give_back(home);
    }

    fn give_back(&mut self, home: ValueId) {
        if self.left.get(&home) == Some(&0) {
            self.now -= self.held.remove(&home).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Lengths, settled};
    use super::*;
    use crate::ir::{Builder, DType, Dim, ModelInfo};

    #[test]
    fn values_live_from_who_makes_them_to_who_reads_them_last() {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::symbol("seq"), Dim::known(4)]);
        // 480 bytes each for 3 rows of 10: two products at a time, sums in place.
        let w = b.initializer("w", crate::ir::Tensor::from_f32(&[4, 4], &[0.5; 16]));
        let first = x.matmul(w);
        let second = first.matmul(w);
        b.output("y", (first + second).exp().softmax(-1));
        let graph = b.finish().expect("a graph");
        let settled = settled(&graph, Lengths { rows: 3, tokens: 10 }).expect("lengths");
        let found = peak(&graph, &settled);
        assert_eq!((found.bytes, found.operations), (960, 2.0 * 2.0 * 30.0 * 16.0));
    }
}
