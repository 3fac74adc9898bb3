//! A graph's facts with the lengths of its inputs in numbers.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::ir::{Attr, Builder, DType, Dim, Expr, Fact, Graph, LATER, Node, NodeSpec, ValueId};
use crate::num;

/// The lengths of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Rows of a batch.
    pub rows: i64,
    /// Texts of a row, which the model reads one behind the other: a pair has two.
    pub texts: i64,
    /// Tokens of a row.
    pub tokens: i64,
}

impl Lengths {
    /// The shape of an input: the first free axis is the batch, the others are tokens; what is fixed stays. An axis of tokens may come first where it is that of
    /// another input as well (positions `[seq]`). Where rows have several texts, those that have one number a row have another first axis than the model's own inputs.
    fn of_input(self, fact: &Fact, axes: &Axes<'_>) -> Fact {
        let free = |at: usize, dim: &Dim| match () {
            () if axes.texts == Some(dim) => self.rows.saturating_mul(self.texts.max(1)),
            () if at == 0 && !axes.later.contains(&dim) => self.rows,
            () => self.tokens,
        };
        let number = |(at, dim): (usize, &Dim)| Dim::known(dim.as_known().unwrap_or_else(|| free(at, dim)));
        let dims = fact.shape.as_ref().map(|dims| dims.iter().enumerate().map(number).collect());
        Fact { shape: dims, contents: None, ..fact.clone() }
    }

    /// A length that only the running graph knows: how many labels count. All of them, here.
    fn unknown(self) -> i64 {
        self.rows.saturating_mul(self.texts.max(1)).saturating_mul(self.tokens)
    }

    /// The number that a length is.
    pub(super) fn number(self, dim: &Dim) -> i64 {
        dim.substitute(|_| Some(Dim::known(self.unknown()))).as_known().unwrap_or_else(|| self.unknown()).max(0)
    }
}

/// The free axes of a graph's inputs.
struct Axes<'g> {
    /// The batch's, of the model's own inputs.
    texts: Option<&'g Dim>,
    /// Those that stand behind another axis.
    later: Vec<&'g Dim>,
}

impl<'g> Axes<'g> {
    fn of(graph: &'g Graph) -> Self {
        let shapes = || graph.inputs().iter().filter_map(|&id| graph.fact(id).shape.as_deref());
        let texts = shapes().find_map(|dims| dims.first().filter(|dim| dim.as_known().is_none()));
        let later = shapes().flat_map(|dims| dims.iter().skip(1)).filter(|dim| dim.as_known().is_none()).collect();
        Self { texts, later }
    }
}

/// What is known of the values of a graph and of its nodes' bodies.
#[derive(Debug)]
pub struct Settled {
    facts: HashMap<ValueId, Fact>,
    /// The bodies of nodes, by the place of the node.
    pub(super) bodies: HashMap<usize, Settled>,
    pub(super) lengths: Lengths,
}

impl Settled {
    /// The lengths of a value's axes; none where its rank is not known.
    pub(super) fn shape(&self, id: ValueId) -> Option<Vec<i64>> {
        let fact = self.facts.get(&id)?;
        let mut is_counted = false;
        let number = |dim: &Dim| {
            // Of several lengths that only the running graph knows, one is that of the tokens.
            let is_free = !dim.names().is_empty();
            let number = if is_free && is_counted { 1 } else { self.lengths.number(dim) };
            is_counted |= is_free;
            number
        };
        Some(fact.shape.as_ref()?.iter().map(number).collect())
    }

    /// The bytes of a value.
    pub(super) fn bytes(&self, id: ValueId) -> u64 {
        let Some((dtype, shape)) = self.facts.get(&id).and_then(|fact| fact.dtype).zip(self.shape(id)) else { return 0 };
        let elements = shape.iter().fold(1_i64, |n, &length| n.saturating_mul(length));
        num::wide(dtype.bytes(usize::try_from(elements).unwrap_or(usize::MAX)))
    }
}

/// Settles the lengths of all values of a graph.
///
/// # Errors
/// A graph that cannot run with these lengths.
pub fn settled(graph: &Graph, lengths: Lengths) -> Result<Settled> {
    let b = Builder::new(graph.model().clone());
    let mut here = HashMap::new();
    let axes = Axes::of(graph);
    for &id in graph.inputs() {
        let fact = match graph.initializer(id) {
            Some(tensor) => Fact { contents: None, ..Fact::of(tensor) },
            None => lengths.of_input(graph.fact(id), &axes),
        };
        here.insert(id, b.input_value(graph.value_name(id), fact, None));
    }
    let found = nodes(&b, graph, here, lengths)?;
    b.finish_whole()?;
    Ok(found)
}

/// Writes the nodes of a graph whose inputs are `here`.
fn nodes<'b>(b: &'b Builder, graph: &Graph, mut here: HashMap<ValueId, Expr<'b>>, lengths: Lengths) -> Result<Settled> {
    for (id, tensor) in graph.initializers() {
        here.entry(id).or_insert_with(|| b.initializer(graph.value_name(id), tensor.clone()));
    }
    let mut bodies = HashMap::new();
    for (place, node) in graph.nodes().iter().enumerate() {
        let at = |id: ValueId| {
            let found = here.get(&id).map(|value| value.id());
            found.ok_or_else(|| Error::graph(format!("{} is read before it is written", graph.value_name(id))))
        };
        let spec = NodeSpec {
            op: node.op.clone(),
            inputs: node.inputs.iter().map(|input| input.map(at).transpose()).collect::<Result<_>>()?,
            outputs: node.outputs.iter().map(|output| output.map(|_| "".into())).collect(),
            attrs: node.attrs.clone(),
            captures: node.captures.iter().map(|&id| at(id)).collect::<Result<_>>()?,
            ..NodeSpec::default()
        };
        let written = b.node(spec);
        if let Some((fact, output)) = told(node, &here).zip(written.first().copied().flatten()) {
            b.assume(output.id(), fact);
        }
        here.extend(node.outputs.iter().zip(written).filter_map(|(output, value)| output.zip(value)));
        if let Some(Attr::Graph(body)) = node.attrs.get("body").filter(|_| &*node.op == "Scan") {
            let inner = round(b, node, body, &here, lengths)?;
            collect(b, node, body, &inner, &here);
            bodies.insert(place, inner);
        }
    }
    let facts = here.iter().map(|(&id, value)| (id, value.fact())).collect();
    Ok(Settled { facts, bodies, lengths })
}

/// What is known of a node's output beyond what inference finds.
fn told(node: &Node, here: &HashMap<ValueId, Expr<'_>>) -> Option<Fact> {
    let input = here.get(&node.input(0)?)?.fact();
    // A view that waits has the shape of what it is of, though its target is computed.
    if node.metadata(LATER).is_some() {
        return Some(Fact { contents: None, ..input });
    }
    // Which axes were stretched, of a gradient: with numbers for lengths, the comparison of two shapes is known.
    if &*node.op != "NonZero" || input.rank() != Some(1) {
        return None;
    }
    let elements: Vec<i64> = input.contents?.iter().map(Dim::as_known).collect::<Option<_>>()?;
    let places: Vec<Dim> = (0..).map(Dim::known).zip(elements).filter(|(_, element)| *element != 0).map(|(place, _)| place).collect();
    let count = Dim::known(i64::try_from(places.len()).ok()?);
    Some(Fact { contents: Some(places), ..Fact::new(DType::I64, vec![Dim::known(1), count]) })
}

/// How many values a `Scan` carries, and the axes of what it reads slice by slice.
fn carried(node: &Node) -> (usize, Vec<i64>) {
    let read = num::index(node.int("num_scan_inputs", 0)).min(node.inputs.len());
    let axes = node.ints("scan_input_axes").map_or_else(|| vec![0; read], <[i64]>::to_vec);
    (node.inputs.len().saturating_sub(read), axes)
}

/// One round of a `Scan`.
fn round(b: &Builder, node: &Node, body: &Graph, here: &HashMap<ValueId, Expr<'_>>, lengths: Lengths) -> Result<Settled> {
    let inside = b.body("round");
    let (states, axes) = carried(node);
    let mut values = HashMap::new();
    for (at, (&id, input)) in body.inputs().iter().zip(&node.inputs).enumerate() {
        let outer = input.and_then(|input| here.get(&input)).map_or_else(Fact::unknown, |value| value.fact());
        let mut fact = Fact { contents: None, ..outer };
        if let (Some(dims), Some(axis)) = (&mut fact.shape, at.checked_sub(states).and_then(|slice| axes.get(slice)))
            && let Some(axis) = num::axis(*axis, dims.len())
        {
            dims.remove(axis);
        }
        values.insert(id, inside.input_value(body.value_name(id), fact, None));
    }
    for (&id, outer) in body.captured().iter().zip(&node.captures) {
        if let Some(outer) = here.get(outer) {
            let constant = outer.b().constant_of(outer.id());
            let value = match constant.filter(|tensor| tensor.len() <= 64) {
                Some(tensor) => inside.initializer(body.value_name(id), tensor),
                None => inside.input_value(body.value_name(id), outer.fact(), None),
            };
            values.insert(id, value);
        }
    }
    nodes(&inside, body, values, lengths)
}

/// Tells the outputs of a `Scan` from those of a round.
fn collect(b: &Builder, node: &Node, body: &Graph, inner: &Settled, here: &HashMap<ValueId, Expr<'_>>) {
    let (states, axes) = carried(node);
    let first = node.inputs.get(states).copied().flatten().and_then(|input| here.get(&input));
    let rounds = first.map(|value| value.dim(axes.first().copied().unwrap_or(0)));
    let output_axes = node.ints("scan_output_axes").map(<[i64]>::to_vec).unwrap_or_default();
    for (at, (made, output)) in body.outputs().iter().zip(&node.outputs).enumerate() {
        let Some((fact, value)) = inner.facts.get(made).zip(output.and_then(|output| here.get(&output))) else { continue };
        let mut fact = Fact { contents: None, ..fact.clone() };
        if let (Some(dims), Some(slice), Some(rounds)) = (&mut fact.shape, at.checked_sub(states), &rounds) {
            let axis = output_axes.get(slice).copied().unwrap_or(0);
            dims.insert(num::axis(axis, dims.len() + 1).unwrap_or(0), rounds.clone());
        }
        b.assume(value.id(), fact);
    }
}
