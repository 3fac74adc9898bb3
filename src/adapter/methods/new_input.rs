//! One product of several that read a value, made to read another.

use std::collections::BTreeMap;

use crate::ir::{Builder, Expr, NodeSpec, ValueId};

/// How many nodes may stand between a product and what it reads: `DynamicQuantizeLinear`, `MatMulInteger`, `Cast`, `Mul` and one to spare.
const BETWEEN: usize = 5;

/// One product made to read another value. What rounds its input may be read by other products as well, so that it is written again.
pub(super) struct Again<'g> {
    /// What stands for a value: the other input, and what was written for it.
    instead: BTreeMap<ValueId, Expr<'g>>,
    b: &'g Builder,
}

impl<'g> Again<'g> {
    /// Says what is read instead of what.
    pub(super) fn reading(old: Expr<'g>, new: Expr<'g>) -> Self {
        Self { instead: BTreeMap::from([(old.id(), new)]), b: old.b() }
    }

    /// Makes the node that writes `output` read it.
    pub(super) fn rewire(mut self, output: ValueId) {
        let inputs = self.b.maker(output).map(|node| node.inputs).unwrap_or_default();
        for (place, input) in inputs.into_iter().enumerate() {
            if let Some(new) = input.and_then(|input| self.instead_of(input, BETWEEN)) {
                self.b.rewire_input(output, place, new);
            }
        }
    }

    /// What stands for a value, if it is made of the old input by so many nodes at most.
    fn instead_of(&mut self, value: ValueId, nodes: usize) -> Option<Expr<'g>> {
        if let Some(known) = self.instead.get(&value) {
            return Some(*known);
        }
        let node = self.b.maker(value).filter(|_| nodes > 0)?;
        let inputs: Vec<Option<Expr<'g>>> = node.inputs.iter().map(|input| self.instead_of((*input)?, nodes - 1)).collect();
        if inputs.iter().all(Option::is_none) {
            return None;
        }
        let outputs = node.outputs.clone();
        let written = self.b.node(NodeSpec {
            name: "".into(),
            op: node.op,
            inputs: node.inputs.iter().zip(inputs).map(|(old, new)| new.map_or(*old, |new| Some(new.id()))).collect(),
            outputs: outputs.iter().map(|output| output.map(|_| "".into())).collect(),
            attrs: node.attrs,
            ..NodeSpec::default()
        });
        self.instead.extend(outputs.iter().zip(written).filter_map(|(old, new)| old.zip(new)));
        self.instead.get(&value).copied()
    }
}
