//! Values made again as if tokens stood in front of the sequence: masks that see a prefix.
//!
//! A mask may keep a window open only, or add a bias that grows with the distance (`ALiBi`); open columns in front are then not what the
//! model would have seen. Masks are made of lengths and of the mask of the tokens: with longer ones in their place, copies of the model's
//! own nodes make the longer mask. In a graph with a cache it is the past that is longer; else the sequence is, and the rows of the tokens
//! in front are cut off again.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::decoder;
use super::prepend::plain_token;
use crate::adapter::part::Insertion;
use crate::anatomy::Anatomy;
use crate::ir::{Builder, Dim, Expr, Graph, Node, NodeSpec, Trait, ValueId};
use crate::num;

/// A graph's values for a sequence with tokens in front.
pub(crate) struct Longer<'g, 'a> {
    b: &'g Builder,
    graph: &'a Graph,
    tokens: i64,
    /// Names of the lengths that grow.
    grown: BTreeSet<String>,
    /// Whether the sequence itself grows, not the past.
    grows_rows: bool,
    /// What projections give: hidden states.
    hidden: BTreeSet<ValueId>,
    /// Values that were made again, or cannot be.
    made: RefCell<BTreeMap<ValueId, Option<Expr<'g>>>>,
}

impl<'g, 'a> Longer<'g, 'a> {
    pub(crate) fn new(at: &Insertion<'g, 'a>, tokens: usize) -> Self {
        let tokens = num::int(tokens);
        let inputs = &decoder::inputs(at.anatomy);
        let past: BTreeSet<ValueId> = at.anatomy.past(at.graph).collect();
        let has_cache = !past.is_empty();
        let longer = Self {
            b: at.b,
            graph: at.graph,
            tokens,
            grown: grown(at.graph, at.anatomy),
            grows_rows: !has_cache,
            hidden: at.anatomy.projections.iter().map(|projection| projection.y).collect(),
            made: RefCell::default(),
        };
        let replace = |input: Option<ValueId>, with: &dyn Fn(Expr<'g>) -> Expr<'g>| {
            if let Some(input) = input.filter(|&id| at.graph.fact(id).rank() == Some(2)) {
                longer.made.borrow_mut().insert(input, Some(with(at.b.expr(input))));
            }
        };
        replace(inputs.attention_mask, &|mask| longer.in_front(mask, inputs.mask_form.seen()));
        let later = |positions: Expr<'g>| positions + at.b.int(tokens).cast(positions.dtype());
        if has_cache {
            replace(inputs.position_ids, &later);
            longer.made.borrow_mut().extend(past.into_iter().map(|past| (past, None)));
        } else {
            replace(inputs.main, &|ids| longer.in_front(ids, plain_token(at.graph, ids.id())));
            replace(inputs.token_type_ids, &|types| longer.in_front(types, 0.0));
            replace(inputs.position_ids, &|positions| {
                let rows = positions.length(0).concat(&[at.b.ints(&[tokens])], 0);
                let first = at.b.int(tokens).range_from(at.b.int(0)).unsqueeze(&[0]).expand(rows).cast(positions.dtype());
                first.concat(&[later(positions)], 1)
            });
        }
        longer
    }

    /// A row of `filler` in front of each row.
    fn in_front(&self, given: Expr<'g>, filler: f64) -> Expr<'g> {
        let lengths = given.length(0).concat(&[self.b.ints(&[self.tokens])], 0);
        lengths.filled(filler, given.dtype()).concat(&[given], 1)
    }

    /// A mask, `[.., queries, keys]`, with columns for the tokens in front; `None` where it is not made of lengths and inputs alone.
    pub(crate) fn mask(&self, mask: ValueId) -> Option<Expr<'g>> {
        let (again, own) = (self.value(mask)?, self.b.expr(mask));
        let (dims, own_dims) = (again.dims()?, own.dims()?);
        let (keys, own_keys) = (dims.last()?, own_dims.last()?);
        if dims.len() != own_dims.len() || keys == own_keys || keys.surely_differs(&(own_keys + &self.tokens.into())) {
            return None;
        }
        let rows = |dims: &[Dim]| dims.len().checked_sub(2).map(|at| dims[at].clone());
        let (Some(rows), Some(own_rows)) = (rows(&dims), rows(&own_dims)) else { return Some(again) };
        if !self.grows_rows {
            // A table that is read further down may end sooner, but has as many rows as there are queries where it is used.
            return (rows != &own_rows + &self.tokens.into()).then_some(again);
        }
        // One row is every query's, however many there are.
        let has_more_rows = rows != own_rows && !rows.surely_at_most(&Dim::known(1));
        Some(if has_more_rows { again.slice(&[self.tokens], &[i64::MAX], &[i64::try_from(dims.len()).ok()? - 2]) } else { again })
    }

    /// Whether a mask is made of what the tokens say, not only of how many there are.
    pub(crate) fn follows_from_tokens(&self, mask: ValueId) -> bool {
        let (mut waiting, mut seen) = (vec![mask], BTreeSet::new());
        while let Some(id) = waiting.pop() {
            if self.hidden.contains(&id) {
                return true;
            }
            let maker = self.graph.producer(id).map(|node| self.graph.node(node)).filter(|node| !Trait::Lengths.is_of(&node.op));
            waiting.extend(maker.into_iter().flat_map(Node::reads).filter(|&input| seen.insert(input)));
        }
        false
    }

    /// A value for the longer sequence; the value itself where it does not depend on the length.
    fn value(&self, id: ValueId) -> Option<Expr<'g>> {
        if let Some(&made) = self.made.borrow().get(&id) {
            return made;
        }
        let made = match self.graph.producer(id) {
            None => Some(self.b.expr(id)),
            Some(node) => self.again(id, self.graph.node(node)),
        };
        *self.made.borrow_mut().entry(id).or_insert(made)
    }

    fn again(&self, id: ValueId, node: &Node) -> Option<Expr<'g>> {
        if let Some(shape) = self.shape(id, node) {
            return Some(shape);
        }
        let is_mask = ![Trait::Weighs, Trait::Convolution].into_iter().any(|property| property.is_of(&node.op));
        if !is_mask || matches!(&*node.op, "If" | "Loop") || !node.captures.is_empty() {
            return None;
        }
        let of_input = |input: &Option<ValueId>| input.map_or(Some(None), |input| self.value(input).map(Some));
        let inputs: Vec<Option<Expr<'g>>> = node.inputs.iter().map(of_input).collect::<Option<_>>()?;
        let is_same = inputs.iter().zip(&node.inputs).all(|(again, own)| again.map(Expr::id) == *own);
        if is_same {
            return Some(self.b.expr(id));
        }
        let spec = NodeSpec {
            op: Arc::clone(&node.op),
            inputs: inputs.into_iter().map(|input| input.map(Expr::id)).collect(),
            outputs: node.outputs.iter().map(|output| output.map(|_| "".into())).collect(),
            attrs: node.attrs.iter().map(|(name, attr)| (Arc::clone(name), attr.clone())).collect(),
            ..NodeSpec::default()
        };
        let outputs = self.b.node(spec);
        let pairs = node.outputs.iter().zip(&outputs).filter_map(|(own, again)| Some(((*own)?, Some((*again)?))));
        self.made.borrow_mut().extend(pairs);
        self.made.borrow().get(&id).copied().flatten()
    }

    /// The shape that a `Shape` would give, from names of lengths: the value that it is taken of need not be made again.
    fn shape(&self, id: ValueId, node: &Node) -> Option<Expr<'g>> {
        if &*node.op != "Shape" {
            return None;
        }
        let dims = self.graph.fact(node.input(0)?).shape.clone()?;
        let count = i64::try_from(dims.len()).ok()?;
        let bound = |name: &str, default: i64| match node.int(name, default) {
            negative if negative < 0 => negative + count,
            place => place,
        };
        let range = usize::try_from(bound("start", 0).clamp(0, count)).ok()?..usize::try_from(bound("end", count).clamp(0, count)).ok()?;
        let dims = dims.get(range)?;
        let longer: Vec<Dim> = dims.iter().map(|dim| self.longer(dim)).collect();
        if longer == dims { Some(self.b.expr(id)) } else { self.b.shape(&longer) }
    }

    fn longer(&self, dim: &Dim) -> Dim {
        dim.substitute(|name| self.grown.contains(name).then(|| &Dim::symbol(name) + &self.tokens.into()))
    }
}

/// The names of lengths that have tokens in front in them: of the past where there is a cache, else of the sequence.
fn grown(graph: &Graph, anatomy: &Anatomy) -> BTreeSet<String> {
    let dims = |id: ValueId| graph.fact(id).shape.clone().unwrap_or_default();
    let axis = |input: Option<ValueId>, axis: usize| input.and_then(|id| dims(id).get(axis).cloned());
    let inputs = &decoder::inputs(anatomy);
    let (batch, seq) = (axis(inputs.main, 0), axis(inputs.main, 1));
    let named = |dim: &Dim| dim.as_name().map(str::to_owned);
    if anatomy.past(graph).next().is_none() {
        let of_inputs = [inputs.main, inputs.attention_mask, inputs.token_type_ids, inputs.position_ids].map(|input| axis(input, 1));
        return of_inputs.iter().flatten().filter_map(named).collect();
    }
    let past = anatomy.past(graph).flat_map(dims).filter(|dim| Some(dim) != batch.as_ref());
    let covered = axis(inputs.attention_mask, 1);
    past.chain(covered).filter(|dim| Some(dim) != seq.as_ref()).filter_map(|dim| named(&dim)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Purpose;
    use crate::adapter::params::{ParamForm, Params};
    use crate::anatomy;
    use crate::ir::{DType, ModelInfo};

    /// Tokens and their mask, `[batch, seq]`.
    struct Given<'g> {
        ids: Expr<'g>,
        mask: Expr<'g>,
    }

    impl<'g> Given<'g> {
        /// `0, 1, 2, ..`, as many as there are tokens.
        fn positions(&self) -> Expr<'g> {
            self.ids.length(1).reshape(&[]).range_from(self.ids.b().int(0))
        }
    }

    type Write = for<'g> fn(&Given<'g>) -> Expr<'g>;

    const CASES: &[(&str, Write, Option<&str>)] = &[
        (
            "a window of four positions",
            |g| (g.positions().unsqueeze(&[1]) - g.positions().unsqueeze(&[0])).less(g.ids.b().int(4)),
            Some("[seq, seq + 3]"),
        ),
        (
            "a bias that grows with the distance",
            |g| g.ids.b().op("CumSum", &[g.mask, g.ids.b().int(1)], &[]).unsqueeze(&[1, 2]).cast(DType::F32) * 0.5,
            Some("[batch, 1, 1, seq + 3]"),
        ),
        (
            "a table's last columns, in one row that is cut as well",
            |g| {
                let b = g.ids.b();
                let last = |length: i64| b.op("Max", &[b.ints(&[length]) - g.ids.length(1), b.ints(&[0])], &[]);
                let table = b.constant(crate::ir::Tensor::from_f32(&[1, 9], &[0.5; 9]));
                table.slice_at(last(1), b.ints(&[1]), &[0]).slice_at(last(9), b.ints(&[9]), &[1])
            },
            Some("[1, max(0, -max(0, -seq + 6) + 9)]"),
        ),
        ("what hidden states decide", |g| g.ids.cast(DType::F32).softmax(-1), None),
        ("what does not grow", |g| g.ids.b().ints(&[0, 0, 1]), None),
    ];

    #[test]
    fn a_table_is_read_further_down_behind_a_past() {
        let b = Builder::new(ModelInfo::dialect());
        let [batch, seq, past, one] = [Dim::symbol("batch"), Dim::symbol("seq"), Dim::symbol("past"), Dim::known(1)];
        let ids = b.input("input_ids", DType::I64, &[batch.clone(), seq]);
        let past_keys = b.input("past_key_values.0.key", DType::F32, &[batch, one, past, Dim::known(2)]);
        let table = b.constant(crate::ir::Tensor::from_f32(&[1, 1, 9, 9], &[0.5; 81]));
        let (past, end) = (past_keys.id(), past_keys.length(2) + ids.length(1));
        let mask = table.slice_at(past_keys.length(2), end, &[2]).slice_at(b.ints(&[0]), end, &[3]);
        let mask = mask.identity();
        b.output("mask", mask);
        let mask = mask.id();
        let graph = b.finish().expect("a valid graph");
        let slot = anatomy::CacheSlot { layer: 0, part: anatomy::CachePart::Key, past, present: None };
        let anatomy = anatomy::Anatomy { cache: vec![slot], inputs: anatomy::read(&graph).inputs, ..anatomy::Anatomy::default() };
        let b = Builder::on(&graph);
        let params = Params::new(&b, &|_| None, ParamForm::Inputs);
        let at = Insertion { b: &b, graph: &graph, anatomy: &anatomy, params: &params, purpose: Purpose::Training(None) };
        let found = Longer::new(&at, 3).mask(mask).and_then(Expr::dims).expect("a mask");
        assert_eq!(found.last().map(ToString::to_string).as_deref(), Some("min(9, past + seq + 3)"));
    }

    #[test]
    fn masks_of_hidden_states_are_told_from_masks_of_lengths() {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::symbol("seq"), Dim::known(2)]);
        let y = x.matmul(b.initializer("w", crate::ir::Tensor::from_f32(&[2, 2], &[0.5; 4])));
        let (of_states, of_lengths) = (y.sum(&[-1]).exp(), y.shape().cast(DType::F32));
        b.output("a", of_states);
        b.output("b", of_lengths);
        let (of_states, of_lengths) = (of_states.id(), of_lengths.id());
        let graph = b.finish().expect("a valid graph");
        let anatomy = anatomy::read(&graph);
        let b = Builder::on(&graph);
        let params = Params::new(&b, &|_| None, ParamForm::Inputs);
        let at = Insertion { b: &b, graph: &graph, anatomy: &anatomy, params: &params, purpose: Purpose::Training(None) };
        let longer = Longer::new(&at, 3);
        assert!(longer.follows_from_tokens(of_states) && !longer.follows_from_tokens(of_lengths));
    }

    #[test]
    fn masks_are_made_again_with_columns_in_front() {
        for (what, write, expected) in CASES {
            let b = Builder::new(ModelInfo::dialect());
            let shape = [Dim::symbol("batch"), Dim::symbol("seq")];
            let given = Given { ids: b.input("input_ids", DType::I64, &shape), mask: b.input("attention_mask", DType::I64, &shape) };
            let mask = write(&given).identity();
            b.output("mask", mask);
            let mask = mask.id();
            let graph = b.finish().expect("a valid graph");
            let anatomy = anatomy::read(&graph);

            let b = Builder::on(&graph);
            let params = Params::new(&b, &|_| None, ParamForm::Inputs);
            let at = Insertion { b: &b, graph: &graph, anatomy: &anatomy, params: &params, purpose: Purpose::Training(None) };
            let found = Longer::new(&at, 3).mask(mask).and_then(Expr::dims);
            let found = found.map(|dims| format!("[{}]", dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
            assert_eq!(found.as_deref(), *expected, "{what}");
        }
    }
}
