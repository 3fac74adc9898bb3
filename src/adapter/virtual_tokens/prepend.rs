//! Virtual tokens at a graph's entrance.
//!
//! Everything inside must agree on the length of the sequence: shapes, masks, positions. So the inputs are made longer before anything reads
//! them, and the first rows of the embeddings replaced; all that follows, follows.
//!
//! ```text
//! input_ids       [batch, seq]          0 .. 0 in front (or another token, if the graph tells that one from others)
//! token_type_ids  [batch, seq]          0 .. 0 in front
//! position_ids    [batch, seq]          0, 1, 2, .. over both (as PEFT, which drops given ones)
//! attention_mask  [batch, past + seq]   1 .. 1 in front
//! embeddings      [batch, seq, hidden]  the first rows are the prompt
//! outputs         [batch, seq, ..]      without the first rows; when training labels are made longer instead
//! ```
//!
//! Where a graph has a cache, the virtual tokens enter with the first tokens and stay in the cache: they are in front while the past is empty.

use std::collections::BTreeSet;

use crate::adapter::part::Insertion;
use crate::adapter::targets::tables;
use crate::anatomy::Anatomy;
use crate::ir::{Builder, DType, Dim, Expr, Fact, Graph, ValueId};
use crate::num;
use crate::{Error, Result};

/// Puts `prompt`, `[tokens, hidden]`, in front of the tokens.
pub(crate) fn insert<'g>(at: &Insertion<'g, '_>, prompt: Expr<'g>, tokens: usize) -> Result<()> {
    let b = at.b;
    let main = at
        .anatomy
        .inputs
        .main
        .ok_or_else(|| Error::unsupported("virtual tokens in this graph", "its input of token ids was not recognised"))?;
    let before: Vec<(ValueId, Fact)> = at.graph.outputs().iter().map(|&id| (id, b.fact(id))).collect();
    let table = tables::of_tokens(at.anatomy)?;
    if b.fact(table.scaled).rank() != Some(3) || b.fact(main).rank() != Some(2) {
        return Err(Error::unsupported("virtual tokens in this graph", "its embeddings are not [batch, seq, hidden]"));
    }
    let front = b.scoped("prompt", || Front::new(at, b.expr(main), tokens));
    let mut written = Ok(());
    b.scoped("prompt", || {
        b.rewire_all(|| {
            front.inputs(at.anatomy).unwrap_or_else(|error| {
                written = Err(error);
                vec![]
            })
        });
        b.rewire(b.expr(table.scaled), |rows| front.embeddings(rows, prompt));
    });
    written?;
    b.infer_again();
    if !at.purpose.is_training() {
        b.scoped("prompt", || front.outputs(at.anatomy, &before));
    }
    Ok(())
}

/// The virtual tokens of one run.
struct Front<'g> {
    b: &'g Builder,
    /// The graph's own input.
    ids: Expr<'g>,
    tokens: i64,
    /// What stands for them among the tokens.
    filler: f64,
    /// How many enter, int64 `[1]`.
    count: Expr<'g>,
    /// The positions of the past, int64 `[1]`, if there can be one.
    past: Option<Expr<'g>>,
}

impl<'g> Front<'g> {
    fn new(at: &Insertion<'g, '_>, ids: Expr<'g>, tokens: usize) -> Self {
        let b = at.b;
        let tokens = num::int(tokens);
        // Training sees whole sequences.
        let past = if at.purpose.is_training() { None } else { past_length(b, at.graph, at.anatomy) };
        let count = match past {
            None => b.ints(&[tokens]),
            Some(past) => past.equal(b.ints(&[0])).cast(DType::I64) * b.ints(&[tokens]),
        };
        Self { b, ids, tokens, filler: plain_token(at.graph, ids.id()), count, past }
    }

    /// The inputs, each with what is read in its place.
    fn inputs(&self, anatomy: &Anatomy) -> Result<Vec<(Expr<'g>, Expr<'g>)>> {
        let b = self.b;
        let inputs = &anatomy.inputs;
        let given = |id: ValueId| match b.fact(id).rank() {
            Some(2) => Ok(b.expr(id)),
            _ => Err(Error::unsupported("virtual tokens in this graph", format!("its input {} is not [batch, seq]", b.name(id)))),
        };
        let in_front = |given: Expr<'g>, count: Expr<'g>, filler: f64| {
            let lengths = given.length(0).concat(&[count], 0);
            (given, lengths.filled(filler, given.dtype()).concat(&[given], 1))
        };
        let mut longer = vec![in_front(self.ids, self.count, self.filler)];
        if let Some(mask) = inputs.attention_mask {
            longer.push(in_front(given(mask)?, b.ints(&[self.tokens]), inputs.mask_form.seen()));
        }
        if let Some(types) = inputs.token_type_ids {
            longer.push(in_front(given(types)?, self.count, 0.0));
        }
        if let Some(positions) = inputs.position_ids {
            let given = given(positions)?;
            let start = self.past.unwrap_or_else(|| b.ints(&[0]));
            let length = self.ids.length(1) + self.count;
            let row = (start + length).reshape(&[]).range_from(start.reshape(&[])).unsqueeze(&[0]);
            longer.push((given, row.expand(self.ids.length(0).concat(&[length], 0)).cast(given.dtype())));
        }
        Ok(longer)
    }

    /// The embeddings of virtual tokens and tokens.
    fn embeddings(&self, rows: Expr<'g>, prompt: Expr<'g>) -> Expr<'g> {
        let b = self.b;
        let shown = if self.past.is_none() { prompt } else { prompt.slice_at(b.ints(&[0]), self.count, &[0]) };
        let lengths = self.ids.length(0).concat(&[b.ints(&[1, 1])], 0);
        let shown = shown.unsqueeze(&[0]).expand(lengths).cast(rows.dtype());
        shown.concat(&[rows.slice_at(self.count, b.ints(&[i64::MAX]), &[1])], 1)
    }

    /// Takes the virtual tokens out of the outputs that have a row for each position; a cache keeps them.
    fn outputs(&self, anatomy: &Anatomy, before: &[(ValueId, Fact)]) {
        let b = self.b;
        for (id, fact) in before.iter().filter(|(id, _)| anatomy.cache.iter().all(|slot| slot.present != Some(*id))) {
            let (Some(old), Some(new)) = (&fact.shape, b.fact(*id).shape) else { continue };
            let seq = self.ids.dim(1);
            let is_seq = |dim: &Dim| *dim == seq && dim.as_known().is_none();
            let by_name: Vec<i64> = old.iter().zip(0..).filter(|(dim, _)| is_seq(dim)).map(|(_, axis)| axis).collect();
            // Where the file calls the length otherwise: the axes behind the batch that are others now.
            let by_change = || old.iter().zip(&new).zip(0..).skip(1).filter(|((old, new), _)| old != new).map(|(_, axis)| axis).collect();
            let longer: Vec<i64> = if by_name.is_empty() { by_change() } else { by_name };
            if longer.is_empty() {
                continue;
            }
            let starts: Vec<Expr<'g>> = longer.iter().map(|_| self.count).collect();
            let starts = starts[0].concat(&starts[1..], 0);
            let ends = b.ints(&vec![i64::MAX; longer.len()]);
            let own = b.expr(*id).slice_at(starts, ends, &longer);
            b.assume(own.id(), Fact { contents: None, ..fact.clone() });
            b.set_output(&b.name(*id), own);
        }
    }
}

/// The first token that the graph does not compare its tokens with: what it takes for padding has no position of its own (RoBERTa, M2M100).
pub(crate) fn plain_token(graph: &Graph, ids: ValueId) -> f64 {
    let (mut told, mut seen, mut queue) = (BTreeSet::new(), BTreeSet::from([ids]), vec![ids]);
    while let Some(value) = queue.pop() {
        for node in graph.uses(value).iter().map(|reader| graph.node(reader.node)) {
            match &*node.op {
                "Equal" => told.extend(node.reads().filter_map(|other| graph.constant(other)?.to_i64()).flatten()),
                "Cast" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" if node.input(0) == Some(value) => {
                    queue.extend(node.writes().filter(|&same| seen.insert(same)));
                }
                _ => {}
            }
        }
    }
    let plain = (0..=i32::MAX).find(|&token| !told.contains(&i64::from(token)));
    plain.map_or(0.0, f64::from)
}

/// The length of the past, int64 `[1]`, where a graph reads a cache.
fn past_length<'g>(b: &'g Builder, graph: &Graph, anatomy: &Anatomy) -> Option<Expr<'g>> {
    let past = b.expr(anatomy.past(graph).next()?);
    let batch = anatomy.inputs.main.map(|main| b.expr(main).dim(0));
    let dims = past.dims()?;
    let is_length = |dim: &Dim| dim.as_known().is_none() && Some(dim) != batch.as_ref();
    let axis = dims.iter().zip(0_i64..).skip(1).find(|(dim, _)| is_length(dim))?.1;
    let bounds = [("start", crate::ir::Attr::Int(axis)), ("end", crate::ir::Attr::Int(axis + 1))];
    Some(b.op("Shape", &[past], &bounds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{ModelInfo, Tensor};

    #[test]
    fn virtual_tokens_are_none_that_the_graph_tells_from_others() {
        let filler = |told: &[i64]| {
            let b = Builder::new(ModelInfo::dialect());
            let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
            for (i, &token) in told.iter().enumerate() {
                let token = b.initializer(&format!("token_{i}"), Tensor::from_i64(&[], &[token]));
                b.output(&format!("is_{i}"), b.op("Equal", &[ids.reshape(&[-1, 7]), token], &[]));
            }
            b.output("y", ids + ids);
            let ids = ids.id();
            plain_token(&b.finish().expect("a valid graph"), ids)
        };
        // RoBERTa counts positions past the tokens that fill up: virtual tokens have positions of their own.
        let rows: [(&[i64], f64); 4] = [(&[], 0.0), (&[1], 0.0), (&[0], 1.0), (&[1, 0, 3], 2.0)];
        for (told, wanted) in rows {
            assert!((filler(told) - wanted).abs() < f64::EPSILON, "{told:?}");
        }
    }
}
