//! Attention, some queries at a time: the scores of all queries with all keys never exist at once, neither in the forward nor in the backward pass.
//!
//! ```text
//! q ─┐                                     q [.., chunks, rows, size] ─┐
//! k ─┴→ MatMul → scale, masks → Softmax ─┐   ⇒   Scan over chunks:      ├→ [.., chunks, rows, size] → y
//! v ─────────────────────────────────────┴→ y    rows of q and masks, k, v ─┘
//! ```
//!
//! A `Scan` that carries nothing is differentiated round by round (`grad::scan`), and each round computes its own scores again. Operands that have
//! a row for each query, such as masks, are read by the numbers of the rows. As many rows go together as have [`SCORES`] scores of one
//! head: short texts in one round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use indexmap::IndexMap;

use crate::error::{Refusal, Result};
use crate::ir::{Attr, Builder, DType, Dim, Expr, Fact, Node, NodeSpec, ValueId};
use crate::num;

/// Scores of one head that exist at a time: 512 queries with 512 keys.
const SCORES: i64 = 1 << 18;
/// As many rows at least, however many keys there are, so that products stay efficient.
const FEWEST_ROWS: i64 = 64;

/// Operators that treat every score alone and broadcast their operands.
const ELEMENTWISE: &[&str] =
    &["Add", "And", "Cast", "Clip", "Div", "Equal", "Identity", "IsNaN", "Max", "Min", "Mul", "Neg", "Not", "Or", "Sub", "Tanh", "Where"];

/// A decomposed attention.
struct Core {
    /// Its nodes, from the product with the keys to that with the values.
    nodes: Vec<Node>,
    queries: Operand,
    output: ValueId,
    /// Axes of the scores.
    rank: usize,
}

/// The queries, `[.., seq, size]`.
struct Operand {
    value: ValueId,
    /// The number of queries.
    rows: Dim,
}

/// Rewrites every decomposed attention as rounds over some of its queries each. Returns what stays whole, with the reason.
///
/// # Errors
/// A cycle.
pub(super) fn in_rounds(b: &Builder, is_hidden: impl Fn(ValueId) -> bool) -> Result<Vec<Refusal>> {
    let nodes = b.sorted_nodes()?;
    let graph = Written::new(b, &nodes);
    let softmaxes = nodes.iter().enumerate().filter(|(_, node)| &*node.op == "Softmax" && node.input(0).is_some_and(&is_hidden));
    let mut whole = vec![];
    for (place, softmax) in softmaxes {
        match graph.core(place) {
            Ok(Some(core)) => {
                let output = b.expr(core.output);
                let written = b.scoped(&format!("{}/queries", softmax.name.trim_start_matches('/')), || rounds(b, &core))?;
                b.rewire(output, |_| written);
            }
            Ok(None) => {}
            Err(refusal) => whole.push(refusal.of(&*softmax.op, &*softmax.name)),
        }
    }
    whole.extend(
        nodes.iter().filter(|node| &*node.op == "Attention").map(|node| Refusal::new("it is one operator").of(&*node.op, &*node.name)),
    );
    Ok(whole)
}

/// Nodes, and who reads what.
struct Written<'a, 'g> {
    b: &'g Builder,
    nodes: &'a [Node],
    maker: BTreeMap<ValueId, usize>,
    readers: BTreeMap<ValueId, Vec<usize>>,
}

impl<'a, 'g> Written<'a, 'g> {
    fn new(b: &'g Builder, nodes: &'a [Node]) -> Self {
        let (mut maker, mut readers) = (BTreeMap::new(), BTreeMap::<ValueId, Vec<usize>>::new());
        for (place, node) in nodes.iter().enumerate() {
            node.writes().for_each(|id| {
                maker.insert(id, place);
            });
            node.reads().for_each(|id| readers.entry(id).or_default().push(place));
        }
        Self { b, nodes, maker, readers }
    }

    /// The attention around a softmax; none if it is the softmax of something else.
    ///
    /// # Errors
    /// Why it has to stay whole.
    fn core(&self, softmax: usize) -> Result<Option<Core>, Refusal> {
        let node = &self.nodes[softmax];
        let Some((scores, probabilities)) = node.input(0).zip(node.output(0)) else { return Ok(None) };
        let (Some(product), Some(context)) = (self.product_behind(scores), self.product_before(probabilities)) else { return Ok(None) };
        let rank = self.b.fact(scores).rank().ok_or("the rank of its scores is unknown")?;
        let last = num::int(rank) - 1;
        if ![-1, last].contains(&node.int("axis", -1)) {
            return Err("its softmax is not along the keys".into());
        }
        let inside = self.between(product, context);
        self.check(&inside, context)?;
        let core: Vec<Node> = inside.iter().map(|&place| self.nodes[place].clone()).collect();
        let (Some(queries), Some(output)) = (self.nodes[product].input(0), self.nodes[context].output(0)) else { return Ok(None) };
        let rows = self.b.fact(queries).shape.filter(|dims| dims.len() == rank && rank > 2).map(|dims| dims[rank - 2].clone());
        let rows = rows.filter(|rows| rows.as_known() != Some(1)).ok_or("its queries have no axis of their own")?;
        let is_like = |id: ValueId| self.b.fact(id).rank() == Some(rank);
        if !is_like(output) || !self.nodes[product].output(0).is_some_and(is_like) {
            return Err("its heads have another form than its scores".into());
        }
        let core = Core { nodes: core, queries: Operand { value: queries, rows }, output, rank };
        core.operands().try_for_each(|id| core.reading(&self.b.fact(id)).map(|_| ()))?;
        Ok(Some(core))
    }

    /// The product of two activations that scores are made of.
    fn product_behind(&self, scores: ValueId) -> Option<usize> {
        let (mut waiting, mut seen) = (vec![scores], BTreeSet::new());
        while let Some(id) = waiting.pop() {
            let Some(&place) = self.maker.get(&id) else { continue };
            let node = &self.nodes[place];
            if &*node.op == "MatMul" {
                let is_constant = node.reads().any(|id| self.b.is_constant(id));
                return (!is_constant).then_some(place);
            }
            if ELEMENTWISE.contains(&&*node.op) && seen.insert(place) {
                // The first input is looked at first.
                waiting.extend(node.inputs.iter().rev().flatten());
            }
        }
        None
    }

    /// The product that probabilities are weights in.
    fn product_before(&self, probabilities: ValueId) -> Option<usize> {
        let mut at = probabilities;
        loop {
            let readers = self.readers.get(&at)?;
            let product = readers.iter().find(|&&place| &*self.nodes[place].op == "MatMul" && self.nodes[place].input(0) == Some(at));
            if let Some(&product) = product {
                let is_constant = self.nodes[product].input(1).is_some_and(|id| self.b.is_constant(id));
                return (!is_constant).then_some(product);
            }
            let guard = readers.iter().rev().find(|&&place| ELEMENTWISE.contains(&&*self.nodes[place].op))?;
            at = self.nodes[*guard].output(0)?;
        }
    }

    /// The places of the nodes on the ways from one to the other, both among them.
    fn between(&self, first: usize, last: usize) -> Vec<usize> {
        let mut after: BTreeSet<ValueId> = self.nodes[first].writes().collect();
        let mut reached = vec![first];
        for place in first + 1..=last {
            if self.nodes[place].reads().any(|id| after.contains(&id)) {
                reached.push(place);
                if place != last {
                    after.extend(self.nodes[place].writes());
                }
            }
        }
        let mut wanted: BTreeSet<ValueId> = self.nodes[last].writes().collect();
        let mut inside: Vec<usize> = vec![];
        for &place in reached.iter().rev() {
            if self.nodes[place].writes().any(|id| wanted.contains(&id)) {
                wanted.extend(self.nodes[place].reads());
                inside.push(place);
            }
        }
        inside.reverse();
        inside
    }

    /// # Errors
    /// A node that cannot run for some queries alone, or whose result is read elsewhere.
    fn check(&self, inside: &[usize], last: usize) -> Result<(), Refusal> {
        for (at, &place) in inside.iter().enumerate() {
            let node = &self.nodes[place];
            let is_end = at == 0 || place == last;
            let is_fine = (is_end && &*node.op == "MatMul") || (!is_end && (ELEMENTWISE.contains(&&*node.op) || &*node.op == "Softmax"));
            if !is_fine {
                return Err(format!("{} ({}) is between its scores and its output", node.name, node.op).into());
            }
            let is_read_elsewhere = |id: ValueId| {
                let readers = self.readers.get(&id).map_or(&[][..], Vec::as_slice);
                readers.iter().any(|reader| !inside.contains(reader))
            };
            if place != last && node.writes().any(is_read_elsewhere) {
                return Err(format!("what {} ({}) gives is read elsewhere too", node.name, node.op).into());
            }
        }
        Ok(())
    }
}

/// How a round reads an operand from outside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// As it is.
    Whole,
    /// Its rows of these queries, along this axis.
    Rows(usize),
}

impl Core {
    /// What it reads from outside, the queries aside.
    fn operands(&self) -> impl Iterator<Item = ValueId> + '_ {
        let made: BTreeSet<ValueId> = self.nodes.iter().flat_map(Node::writes).collect();
        let (first, last) = (0, self.nodes.len() - 1);
        let all = self.nodes.iter().enumerate().flat_map(move |(at, node)| {
            // Keys and values are read whole: they have a row for each key.
            node.inputs.iter().enumerate().filter(move |(input, _)| !(at == first || (at == last && *input == 1))).filter_map(|(_, id)| *id)
        });
        all.filter(move |id| !made.contains(id))
    }

    /// # Errors
    /// An operand whose rows cannot be told from those of something else.
    fn reading(&self, fact: &Fact) -> Result<Reading, Refusal> {
        let dims = fact.shape.as_ref().ok_or("the rank of an operand of its scores is unknown")?;
        if dims.len() > self.rank {
            return Err("an operand of its scores has more axes than they".into());
        }
        match dims.len().checked_sub(2).map(|axis| (axis, &dims[axis])) {
            None => Ok(Reading::Whole),
            Some((_, rows)) if rows.as_known() == Some(1) => Ok(Reading::Whole),
            Some((axis, rows)) if *rows == self.queries.rows => Ok(Reading::Rows(axis)),
            Some((_, rows)) => Err(format!("an operand of its scores has {rows} rows, there are {} queries", self.queries.rows).into()),
        }
    }
}

/// How many rows a round has, and how many rounds there are; vectors of one element, int64.
struct Parts<'g> {
    rows: Expr<'g>,
    rounds: Expr<'g>,
    of_rows: Dim,
    of_rounds: Dim,
}

impl<'g> Parts<'g> {
    fn of(queries: Expr<'g>, keys: Expr<'g>, rank: i64) -> Self {
        let b = queries.b();
        let (rows, columns) = (queries.dim(rank - 2), keys.dim(-1));
        let symbol = |what: &str| Dim::symbol(&format!("?{what} of {rows} with {columns}"));
        let (count, keys) = (queries.length(rank - 2), keys.length(-1));
        let most = (b.ints(&[SCORES]) / keys.max(b.ints(&[1]))).max(b.ints(&[FEWEST_ROWS]));
        let up = |x: Expr<'g>, divisor: Expr<'g>| (x + divisor - b.ints(&[1])) / divisor;
        let rounds = up(count, most).max(b.ints(&[1]));
        let rows = up(count, rounds);
        let (of_rows, of_rounds) = (symbol("rows"), symbol("rounds"));
        b.tell_length(&of_rows, rows);
        b.tell_length(&of_rounds, rounds);
        Self { rows, rounds, of_rows, of_rounds }
    }
}

/// The attention, as a `Scan`.
fn rounds<'g>(b: &'g Builder, core: &Core) -> Result<Expr<'g>> {
    let rank = num::int(core.rank);
    let queries = b.expr(core.queries.value);
    let keys = core.nodes[0].input(1).map_or(queries, |id| b.expr(id));
    let parts = Parts::of(queries, keys, rank);
    let (count, all) = (queries.length(rank - 2), parts.rows * parts.rounds);

    // Queries behind the last are zero, and see what the last one sees.
    let padded = queries.pad_at(b.ints(&[0]).concat(&[all - count], 0), &[rank - 2]);
    let (before, after) = (&queries.known_dims()[..core.rank - 2], queries.dim(-1));
    let with = |rows: &[Dim], last: &Dim| [before, rows, std::slice::from_ref(last)].concat();
    let of_all = &parts.of_rounds * &parts.of_rows;
    b.assume(padded.id(), Fact::new(queries.dtype(), with(std::slice::from_ref(&of_all), &after)));
    let kept = vec![0; core.rank - 2];
    let size = queries.length(rank - 1);
    let target = if kept.is_empty() { parts.rounds } else { b.ints(&kept).concat(&[parts.rounds], 0) };
    let sliced = padded.reshape_to(target.concat(&[parts.rows, size], 0));
    let two = [parts.of_rounds.clone(), parts.of_rows.clone()];
    b.assume(sliced.id(), Fact::new(queries.dtype(), with(&two, &after)));
    let last = (count - b.ints(&[1])).reshape(&[]);
    let numbers = all.reshape(&[]).range_from(b.int(0)).min(last).reshape_to(parts.rounds.concat(&[parts.rows], 0));
    b.assume(numbers.id(), Fact::new(DType::I64, two.to_vec()));

    let body = b.body("round");
    let of_round = Fact::new(queries.dtype(), with(std::slice::from_ref(&parts.of_rows), &after));
    let some = body.input_value(&body.scoped_name("queries"), of_round, None);
    let rows = body.input(&body.scoped_name("rows"), DType::I64, std::slice::from_ref(&parts.of_rows));
    let output = round(b, &body, core, some, rows);
    body.output(&body.scoped_name("output"), output);
    let of_values = output.dim(-1);
    let made = body.finish_body()?;
    let attrs = [
        ("num_scan_inputs", Attr::Int(2)),
        ("scan_input_axes", Attr::Ints(vec![rank - 2, 0])),
        ("scan_output_axes", Attr::Ints(vec![rank - 2])),
        ("body", Attr::Graph(Arc::new(made.graph))),
    ];
    let scan = b.node(NodeSpec {
        op: "Scan".into(),
        inputs: vec![Some(sliced.id()), Some(numbers.id())],
        outputs: vec![Some("".into())],
        attrs: attrs.into_iter().map(|(name, attr)| (Arc::from(name), attr)).collect::<IndexMap<_, _>>(),
        captures: made.captures,
        ..NodeSpec::default()
    });
    let Some(scan) = scan.into_iter().flatten().next() else { return Ok(queries) };
    let dtype = b.fact(core.output).dtype.unwrap_or(DType::F32);
    b.assume(scan.id(), Fact::new(dtype, with(&two, &of_values)));
    let mut joined = kept;
    joined.extend([-1, of_values.as_known().unwrap_or(0)]);
    let joined = match of_values.as_known() {
        Some(_) => scan.reshape(&joined),
        None => scan.reshape_to(b.ints(&joined[..core.rank - 1]).concat(&[scan.length(-1)], 0)),
    };
    b.assume(joined.id(), Fact::new(dtype, with(&[of_all], &of_values)));
    let whole = joined.slice_at(b.ints(&[0]), count, &[rank - 2]);
    let fact = b.fact(core.output);
    b.assume(whole.id(), Fact { contents: None, ..fact });
    Ok(whole)
}

/// One round: the attention of some queries.
fn round<'g, 'b>(b: &'g Builder, body: &'b Builder, core: &Core, queries: Expr<'b>, rows: Expr<'b>) -> Expr<'b> {
    let mut here: BTreeMap<ValueId, Expr<'b>> = BTreeMap::from([(core.queries.value, queries)]);
    let (first, last) = (0, core.nodes.len() - 1);
    let mut output = queries;
    for (at, node) in core.nodes.iter().enumerate() {
        let read = |(input, id): (usize, &Option<ValueId>)| {
            let id = (*id)?;
            let is_query = at == first && input == 0;
            if let Some(&value) = here.get(&id).filter(|_| is_query || id != core.queries.value) {
                return Some(value);
            }
            let outer = body.capture(b.expr(id));
            let is_whole = at == first || (at == last && input == 1);
            match core.reading(&outer.fact()) {
                Ok(Reading::Rows(axis)) if !is_whole => Some(outer.gather(rows, num::int(axis))),
                _ => Some(outer),
            }
        };
        let inputs: Vec<Option<Expr<'b>>> = node.inputs.iter().enumerate().map(read).collect();
        let written = body.node(NodeSpec {
            op: node.op.clone(),
            inputs: inputs.into_iter().map(|input| input.map(Expr::id)).collect(),
            outputs: node.outputs.iter().map(|output| output.map(|_| "".into())).collect(),
            attrs: node.attrs.clone(),
            metadata: node.metadata.clone(),
            ..NodeSpec::default()
        });
        let pairs = node.outputs.iter().zip(written).filter_map(|(id, value)| (*id).zip(value));
        for (id, value) in pairs {
            here.insert(id, value);
            output = value;
        }
    }
    output
}
