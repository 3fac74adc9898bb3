//! Nodes: written once, typed at once.

use std::sync::Arc;

use super::{Body, Builder, Impossible, Key, NodeSpec};
use crate::ir::{Attr, DType, Expr, Fact, Node, Tensor, Trait, Value, ValueId, infer};

impl Builder {
    /// Writes a node with one output, or finds the equal one written before. Whole numbers that are known already are a constant.
    pub fn op<'g>(&'g self, op: &str, inputs: &[Expr<'g>], attrs: &[(&str, Attr)]) -> Expr<'g> {
        let inputs: Vec<_> = inputs.iter().map(|&e| Some(e)).collect();
        self.op_n(op, &inputs, attrs, 1)[0]
    }

    /// Writes a node with `outputs` outputs and perhaps missing inputs, or finds the equal one written before.
    pub fn op_n<'g>(&'g self, op: &str, inputs: &[Option<Expr<'g>>], attrs: &[(&str, Attr)], outputs: usize) -> Vec<Expr<'g>> {
        let mut ids: Vec<Option<ValueId>> = inputs.iter().map(|e| e.map(Expr::id)).collect();
        while ids.last() == Some(&None) {
            ids.pop();
        }
        let key = Key {
            op: op.to_owned(),
            inputs: ids.clone(),
            attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
            outputs,
        };
        let random = Trait::Random.is_of(op);
        if let Some(found) = self.state.borrow().interned.get(&key).filter(|_| !random) {
            return found.iter().map(|&id| Expr::new(self, id)).collect();
        }
        let made = self.node(NodeSpec {
            op: op.into(),
            inputs: ids,
            outputs: vec![Some("".into()); outputs],
            attrs: attrs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect(),
            ..NodeSpec::default()
        });
        let made: Vec<Expr<'g>> = match made.into_iter().flatten().collect::<Vec<_>>()[..] {
            [only] => vec![self.folded(only)],
            ref several => several.to_vec(),
        };
        if !random {
            self.state.borrow_mut().interned.insert(key, made.iter().map(|e| e.id()).collect());
        }
        made
    }

    /// The constant that a value certainly is, if it is made of whole numbers that facts tell; else the value itself.
    fn folded<'g>(&'g self, value: Expr<'g>) -> Expr<'g> {
        let fact = value.fact();
        let (Some(DType::I64), Some(shape), Some(elements)) = (fact.dtype, fact.known_shape(), fact.known_contents()) else { return value };
        let shape: Vec<usize> = shape.into_iter().filter_map(|length| usize::try_from(length).ok()).collect();
        Tensor::of_facts(&shape, &elements).map_or(value, |tensor| self.constant(tensor))
    }

    /// Writes a node with bodies.
    pub fn op_with_bodies<'g>(&'g self, op: &str, inputs: &[Option<Expr<'g>>], bodies: Vec<(&str, Body)>, outputs: usize) -> Vec<Expr<'g>> {
        let mut spec = NodeSpec {
            op: op.into(),
            inputs: inputs.iter().map(|e| e.map(Expr::id)).collect(),
            outputs: vec![Some("".into()); outputs],
            ..NodeSpec::default()
        };
        for (name, body) in bodies {
            spec.captures.extend(body.captures);
            spec.attrs.insert(name.into(), Attr::Graph(Arc::new(body.graph)));
        }
        self.node(spec).into_iter().flatten().collect()
    }

    /// Writes a node as it is given, without looking for an equal one. An output of the empty name gets one from scope and operator.
    pub fn node(&self, spec: NodeSpec) -> Vec<Option<Expr<'_>>> {
        let facts = self.infer(&spec);
        let mut state = self.state.borrow_mut();
        let label = if spec.name.is_empty() && spec.outputs.iter().flatten().all(|name| name.is_empty()) {
            let (_, bare) = spec.op.rsplit_once(':').unwrap_or(("", &spec.op));
            let wanted = format!("{}{bare}", state.scope);
            state.claim(&wanted)
        } else {
            spec.name
        };
        let mut outputs = Vec::with_capacity(spec.outputs.len());
        for (i, (name, fact)) in spec.outputs.iter().zip(facts).enumerate() {
            outputs.push(name.as_ref().map(|name| {
                let wanted = match (name.is_empty(), spec.outputs.len()) {
                    (false, _) => name.to_string(),
                    (true, 1) => format!("{label}:0"),
                    (true, _) => format!("{label}:{i}"),
                };
                let name = state.claim(&wanted);
                state.push(Value { name, fact, declared: None })
            }));
        }
        state.graph.nodes_mut().push(Node {
            name: label,
            op: spec.op,
            inputs: spec.inputs,
            outputs: outputs.clone(),
            attrs: spec.attrs,
            captures: spec.captures,
            metadata: spec.metadata,
            extra: spec.extra,
        });
        let place = state.graph.nodes.len() - 1;
        state.index(place);
        drop(state);
        outputs.into_iter().map(|id| id.map(|id| Expr::new(self, id))).collect()
    }

    /// A name with the scope that is written in before it.
    #[must_use]
    pub fn scoped_name(&self, name: &str) -> String {
        format!("{}{name}", self.state.borrow().scope)
    }

    fn infer(&self, spec: &NodeSpec) -> Vec<Fact> {
        let state = self.state.borrow();
        let symbol = spec.outputs.iter().flatten().next().filter(|name| !name.is_empty());
        let symbol = symbol.map_or_else(|| format!("{}{}.{}", state.scope, spec.op, state.graph.nodes.len()), ToString::to_string);
        let inputs = spec.inputs.iter().map(|id| id.map(|id| (&state.graph.values[id.index()].fact, state.constant(id)))).collect();
        let captured = spec.captures.iter().map(|id| &state.graph.values[id.index()].fact).collect();
        let (domain, _) = spec.op.rsplit_once(':').unwrap_or(("", &spec.op));
        let opset = state.graph.model.version_of(domain).unwrap_or(1);
        let question =
            infer::Question { op: &spec.op, opset, inputs, captured, attrs: &spec.attrs, outputs: spec.outputs.len(), symbol: &symbol };
        let answer = infer::infer(&question);
        drop(state);
        match answer {
            Ok(mut facts) => {
                facts.resize(spec.outputs.len(), Fact::unknown());
                facts
            }
            Err(_) if self.state.borrow().impossible == Impossible::Unknown => vec![Fact::unknown(); spec.outputs.len()],
            Err(refusal) => {
                let label = if spec.name.is_empty() { symbol } else { spec.name.to_string() };
                self.fail(refusal.of(&*spec.op, label).into());
                vec![Fact::unknown(); spec.outputs.len()]
            }
        }
    }

    /// Puts `scope` in front of the names of all nodes that `write` writes.
    pub fn scoped<T>(&self, scope: &str, write: impl FnOnce() -> T) -> T {
        let inner = format!("{}{scope}/", self.state.borrow().scope);
        let outer = std::mem::replace(&mut self.state.borrow_mut().scope, inner);
        let out = write();
        self.state.borrow_mut().scope = outer;
        out
    }

    /// Infers again what is known of everything that nodes make: after nodes were made to read values of other shapes.
    ///
    /// The first node that cannot be with what it reads now is the builder's error.
    pub fn infer_again(&self) {
        let nodes = match self.sorted_nodes() {
            Ok(nodes) => nodes,
            Err(error) => return self.fail(error),
        };
        for node in nodes {
            let outputs: Vec<Option<ValueId>> = node.outputs.clone();
            let spec = NodeSpec {
                name: node.name,
                op: node.op,
                inputs: node.inputs,
                outputs: outputs.iter().map(|id| id.map(|id| self.name(id))).collect(),
                attrs: node.attrs,
                captures: node.captures,
                ..NodeSpec::default()
            };
            let facts = self.infer(&spec);
            let mut state = self.state.borrow_mut();
            for (id, fact) in outputs.into_iter().zip(facts) {
                let Some(id) = id else { continue };
                let known = &mut state.graph.values_mut()[id.index()].fact;
                *known = Fact { dtype: fact.dtype.or(known.dtype), ..fact };
            }
        }
        self.state.borrow_mut().interned.clear();
    }
}
