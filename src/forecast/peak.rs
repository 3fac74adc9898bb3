//! The most memory that a graph's values take at a time, and what the runtime's arena keeps for them.

use std::collections::HashMap;

use super::arena::{Arena, Piece};
use super::known::Settled;
use super::{order, products};
use crate::ir::{Attr, Graph, Node, Trait, ValueId};

/// What a run takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Peak {
    /// Bytes of all values between inputs and outputs, and of the outputs, where there are most.
    pub bytes: u64,
    /// Bytes that ONNX Runtime keeps for them from the second run on: values of other sizes do not fit where others were.
    pub kept: u64,
    /// The name of the node that runs then.
    pub at: String,
    /// Multiplications and additions of products.
    pub operations: f64,
}

/// The peak of a graph in ONNX Runtime's order.
#[must_use]
pub fn peak(graph: &Graph, settled: &Settled) -> Peak {
    let mut memory = Memory { arena: Arena::new(), now: 0, most: 0, at: String::new() };
    for _ in 0..RUNS {
        Buffers::new(graph, settled).run(&mut memory);
    }
    let kept = memory.arena.written().max(memory.most);
    let kept = kept.saturating_add(kept / 100 * OF_KERNELS);
    Peak { bytes: memory.most, kept, at: memory.at, operations: products::operations(graph, settled) }
}

/// No value counts as more bytes than this, so that sums of them are numbers: nobody has so many.
const LARGEST: u64 = 1 << 50;
/// Hundredths of the values' memory that kernels take beside them and that nothing tells of: fitted to arenas of ONNX Runtime 1.32 that were measured (they were
/// 3 to 12 hundredths larger than the values' pieces; docs/PERFORMANCE.md).
const OF_KERNELS: u64 = 7;
/// Runs after which the arena does not grow any more: the second finds free what the first took piece by piece.
const RUNS: usize = 2;

/// The memory that values of a graph and of its bodies are in.
struct Memory {
    arena: Arena,
    now: u64,
    most: u64,
    at: String,
}

impl Memory {
    fn take(&mut self, bytes: u64, node: &Node) -> Held {
        let bytes = bytes.min(LARGEST);
        self.now = self.now.saturating_add(bytes);
        if self.now > self.most {
            (self.most, self.at) = (self.now, node.name.to_string());
        }
        Held { bytes, piece: self.arena.take(bytes) }
    }

    fn give_back(&mut self, held: Held) {
        self.now = self.now.saturating_sub(held.bytes);
        self.arena.give_back(held.piece);
    }
}

/// The memory of a value.
#[derive(Clone, Copy)]
struct Held {
    bytes: u64,
    piece: Piece,
}

/// Who holds which memory.
struct Buffers<'a> {
    graph: &'a Graph,
    settled: &'a Settled,
    /// The first value in the memory of each value.
    home: HashMap<ValueId, ValueId>,
    /// Reads that are still to come, of all values in the memory of a first one.
    left: HashMap<ValueId, usize>,
    /// Memory by first value.
    held: HashMap<ValueId, Held>,
}

impl<'a> Buffers<'a> {
    fn new(graph: &'a Graph, settled: &'a Settled) -> Self {
        Self { graph, settled, home: HashMap::new(), left: HashMap::new(), held: HashMap::new() }
    }

    /// Goes through the nodes.
    fn run(mut self, memory: &mut Memory) {
        for place in order::of(self.graph) {
            let node = &self.graph.nodes()[place];
            for output in node.writes() {
                self.place(node, output, memory);
            }
            for held in self.scratch(node, memory) {
                memory.give_back(held);
            }
            // What a body takes while it runs.
            if let (Some(Attr::Graph(body)), Some(inner)) = (node.attrs.get("body"), self.settled.bodies.get(&place)) {
                Buffers::new(body, inner).run(memory);
            }
            for id in node.reads() {
                self.read(id, memory);
            }
            // What nobody reads is given back at once.
            for output in node.writes() {
                self.give_back(self.home_of(output), memory);
            }
        }
        let mut left: Vec<(ValueId, Held)> = self.held.into_iter().collect();
        left.sort_by_key(|(id, _)| *id);
        for (_, held) in left {
            memory.give_back(held);
        }
    }

    /// What the kernel of a node takes while it runs beside its outputs: `Where` on the CPU selects from each operand into a tensor of the output's size, and
    /// joins them.
    fn scratch(&self, node: &Node, memory: &mut Memory) -> Vec<Held> {
        let of_output = || node.output(0).map_or(0, |id| self.settled.bytes(id));
        let sizes = if &*node.op == "Where" { vec![of_output(); 2] } else { vec![] };
        sizes.into_iter().map(|bytes| memory.take(bytes, node)).collect()
    }

    fn home_of(&self, id: ValueId) -> ValueId {
        self.home.get(&id).copied().unwrap_or(id)
    }

    fn readers(&self, id: ValueId) -> usize {
        // An output of the graph stays to the end.
        self.graph.uses(id).len() + usize::from(self.graph.is_output(id))
    }

    /// Finds memory for a value.
    fn place(&mut self, node: &Node, output: ValueId, memory: &mut Memory) {
        let readers = self.readers(output);
        let shared = self.shared(node, output).filter(|_| !self.graph.is_output(output));
        let home = shared.unwrap_or_else(|| {
            self.held.insert(output, memory.take(self.settled.bytes(output), node));
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
        let bytes = self.settled.bytes(output).min(LARGEST);
        node.inputs.iter().flatten().map(|&input| self.home_of(input)).find(|home| {
            let is_last = self.left.get(home) == Some(&1);
            is_last && self.held.get(home).is_some_and(|held| held.bytes == bytes)
        })
    }

    fn read(&mut self, id: ValueId, memory: &mut Memory) {
        let home = self.home_of(id);
        if let Some(left) = self.left.get_mut(&home) {
            *left = left.saturating_sub(1);
        }
        self.give_back(home, memory);
    }

    fn give_back(&mut self, home: ValueId, memory: &mut Memory) {
        if self.left.get(&home) == Some(&0)
            && let Some(held) = self.held.remove(&home)
        {
            memory.give_back(held);
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
        let settled = settled(&graph, Lengths { rows: 3, texts: 1, tokens: 10 }).expect("lengths");
        let found = peak(&graph, &settled);
        assert_eq!((found.bytes, found.operations), (960, 2.0 * 2.0 * 30.0 * 16.0));
    }
}
