//! Changing what was written: who reads what, what is an output, what is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Builder;
use crate::ir::{Dim, Expr, Fact, Node, Tensor, ValueId};

impl Builder {
    /// Makes everything that reads `old` so far, outputs of the graph among them, read `new(old)` instead.
    pub fn rewire<'g>(&'g self, old: Expr<'g>, new: impl FnOnce(Expr<'g>) -> Expr<'g>) {
        self.rewire_all(|| vec![(old, new(old))]);
    }

    /// The same for several values at once: what `new` writes may read all of them as they were.
    pub fn rewire_all<'g>(&'g self, new: impl FnOnce() -> Vec<(Expr<'g>, Expr<'g>)>) {
        let before = self.state.borrow().graph.nodes.len();
        let pairs = new();
        let mut state = self.state.borrow_mut();
        for (old, new) in pairs.into_iter().map(|(old, new)| (old.id(), new.id())).filter(|(old, new)| old != new) {
            let readers = std::mem::take(&mut state.readers[old.index()]);
            let (moved, stay): (Vec<usize>, Vec<usize>) = readers.into_iter().partition(|&place| place < before);
            for &place in &moved {
                let node = &mut state.graph.nodes_mut()[place];
                node.inputs.iter_mut().flatten().chain(&mut node.captures).filter(|id| **id == old).for_each(|id| *id = new);
            }
            state.readers[old.index()] = stay;
            state.readers[new.index()].extend(moved);
            // Rewired again, a value's readers are those that stand in its place already.
            state.rewired.entry(old).or_insert(new);
            state.outputs.iter_mut().filter(|(_, id)| *id == old).for_each(|(_, id)| *id = new);
        }
        state.interned.clear();
    }

    /// Makes one input of the node that writes `output` read `new`.
    ///
    /// Does nothing if no node writes `output` or it has no such input: callers found the node in the graph they started from.
    pub fn rewire_input(&self, output: ValueId, input: usize, new: Expr<'_>) {
        let mut state = self.state.borrow_mut();
        let Some(place) = state.writers.get(output.index()).copied().flatten() else { return };
        if let Some(slot) = state.graph.nodes_mut()[place].inputs.get_mut(input) {
            *slot = Some(new.id());
            state.readers[new.id().index()].push(place);
        }
        state.interned.clear();
    }

    /// Replaces inputs of the node that writes `output`, in its bodies too: `instead` maps each to its replacement.
    ///
    /// Does nothing if no node writes `output`.
    pub fn read_instead(&self, output: ValueId, instead: &BTreeMap<ValueId, ValueId>) {
        let mut state = self.state.borrow_mut();
        let Some(place) = state.writers.get(output.index()).copied().flatten() else { return };
        let node = &mut state.graph.nodes_mut()[place];
        let mut read = vec![];
        for id in node.inputs.iter_mut().flatten().chain(&mut node.captures) {
            if let Some(&other) = instead.get(id) {
                *id = other;
                read.push(other);
            }
        }
        for id in read {
            state.readers[id.index()].push(place);
        }
        state.interned.clear();
    }

    /// Gives the node that writes `output` another form; the outputs and what is known of them stay.
    ///
    /// Does nothing if no node writes `output`.
    pub fn replace_node(&self, output: ValueId, mut form: Node) {
        let mut state = self.state.borrow_mut();
        let Some(place) = state.writers.get(output.index()).copied().flatten() else { return };
        form.outputs.clone_from(&state.graph.nodes[place].outputs);
        state.graph.nodes_mut()[place] = form;
        state.index(place);
        state.interned.clear();
    }

    /// Makes a value that a node writes a constant, under its name, or gives an initializer other data. The node writes it no more.
    pub fn store(&self, value: ValueId, tensor: Tensor) {
        let mut state = self.state.borrow_mut();
        if let Some(place) = state.writers.get_mut(value.index()).and_then(Option::take) {
            state.graph.nodes_mut()[place].outputs.iter_mut().filter(|output| **output == Some(value)).for_each(|output| *output = None);
        }
        // What a caller may override is not known.
        let contents_known = !state.graph.is_input(value);
        let fact = Fact::of(&tensor);
        state.graph.values_mut()[value.index()].fact = if contents_known { fact } else { Fact { contents: None, ..fact } };
        state.graph.initializers_mut().insert(value, tensor);
        state.interned.clear();
    }

    /// Makes `old` what `new` is: the node that writes `new` writes `old` instead, under its name, and whoever reads `new` reads `old`.
    ///
    /// Does nothing if no node writes `new`.
    pub fn take_over(&self, old: Expr<'_>, new: Expr<'_>) {
        let (old, new) = (old.id(), new.id());
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(to) = state.writers[new.index()].take() else { return };
        if let Some(from) = state.writers[old.index()].replace(to) {
            let outputs = &mut state.graph.nodes_mut()[from].outputs;
            outputs.iter_mut().filter(|output| **output == Some(old)).for_each(|output| *output = None);
        }
        state.graph.nodes_mut()[to].outputs.iter_mut().flatten().filter(|id| **id == new).for_each(|id| *id = old);
        let readers = std::mem::take(&mut state.readers[new.index()]);
        for &place in &readers {
            let node = &mut state.graph.nodes_mut()[place];
            node.inputs.iter_mut().flatten().chain(&mut node.captures).filter(|id| **id == new).for_each(|id| *id = old);
        }
        state.readers[old.index()].extend(readers);
        state.outputs.iter_mut().filter(|(_, id)| *id == new).for_each(|(_, id)| *id = old);
        let known = state.graph.values[new.index()].fact.clone();
        let fact = &mut state.graph.values_mut()[old.index()].fact;
        if fact.dtype.is_none() || fact.shape.is_none() {
            *fact = known;
        }
        state.interned.clear();
    }

    /// Gives the node that writes `output` another name and other annotations.
    pub fn relabel(&self, output: ValueId, name: Arc<str>, metadata: Vec<(Arc<str>, Arc<str>)>) {
        let mut state = self.state.borrow_mut();
        if let Some(place) = state.writers.get(output.index()).copied().flatten() {
            let node = &mut state.graph.nodes_mut()[place];
            (node.name, node.metadata) = (name, metadata);
        }
    }

    /// Makes `value` an output of the graph.
    pub fn output(&self, name: &str, value: Expr<'_>) {
        self.state.borrow_mut().outputs.push((name.into(), value.id()));
    }

    /// Makes the output of a name another value; readers of what it was before go on reading that.
    pub fn set_output(&self, name: &str, value: Expr<'_>) {
        let mut state = self.state.borrow_mut();
        state.outputs.iter_mut().filter(|(n, _)| &**n == name).for_each(|(_, id)| *id = value.id());
    }

    /// Takes all outputs away.
    pub fn clear_outputs(&self) {
        self.state.borrow_mut().outputs.clear();
    }

    /// Makes a symbol stand for another length in everything that is known so far. Does nothing if `symbol` is not a single symbol.
    pub fn substitute(&self, symbol: &Dim, length: &Dim) {
        let Some(name) = symbol.symbol_name() else { return };
        let replace = |dims: &mut Vec<Dim>| {
            for dim in dims {
                *dim = dim.substitute(|s| (s == name).then(|| length.clone()));
            }
        };
        for value in self.state.borrow_mut().graph.values_mut() {
            value.fact.shape.iter_mut().chain(&mut value.fact.contents).for_each(replace);
        }
    }

    /// Corrects what is known of a value, where the caller knows more than inference does.
    pub fn assume(&self, id: ValueId, fact: Fact) {
        self.state.borrow_mut().graph.values_mut()[id.index()].fact = fact;
    }

    /// Keeps what the file said of a value.
    pub fn declare(&self, id: ValueId, declared: bytes::Bytes) {
        self.state.borrow_mut().graph.values_mut()[id.index()].declared = Some(declared);
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::{Builder, DType, Dim, ModelInfo};

    #[test]
    fn what_stands_in_a_values_place_is_what_its_readers_read() {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::known(2)]);
        let y = x.tanh();
        b.output("out", y.exp());
        assert_eq!(b.current(y.id()).id(), y.id());
        b.rewire(y, |y| y + 1.0);
        let first = b.current(y.id());
        // Once more: between the value and what stands in its place.
        b.rewire(y, |y| y * 2.0);
        assert_eq!(b.current(y.id()).id(), first.id());
        b.rewire(first, |y| y - 3.0);
        let read = b.maker(b.output_named("out").expect("an output").id()).expect("exp").input(0);
        assert_eq!(Some(b.current(y.id()).id()), read);
    }
}
