//! Scores of more keys than the graph has: shapes that it gives them are made longer.
//!
//! Some models lay scores out again between the product of queries and keys and that of weights and values, as
//! `view(batch, heads, queries, keys)`. The last axis is that of the keys; where its length is written down, it is that of the keys there were.
//!
//! ```text
//! q, k → MatMul → Reshape [batch, heads, queries, keys + tokens] → softmax → Reshape → MatMul ← v
//! ```

use std::collections::BTreeSet;

use crate::ir::{Builder, Graph, Node, ValueId};
use crate::num;
use crate::{Error, Result};

/// Adds `tokens` keys to the shapes that scores are given on their way from `product` to `output`, neither of them included.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where a shape is known only when the graph runs.
pub(crate) fn lengthen(b: &Builder, graph: &Graph, product: ValueId, output: ValueId, tokens: usize) -> Result<()> {
    let (mut waiting, mut seen) = (vec![product], BTreeSet::new());
    while let Some(scores) = waiting.pop() {
        for reader in graph.uses(scores) {
            let node = graph.node(reader.node);
            let Some(next) = node.output(0).filter(|&next| next != output && reader.input == Some(0) && seen.insert(next)) else {
                continue;
            };
            if ["Reshape", "Expand"].contains(&&*node.op) {
                lengthen_shape(b, graph, node, next, tokens)?;
            }
            waiting.push(next);
        }
    }
    Ok(())
}

fn lengthen_shape(b: &Builder, graph: &Graph, node: &Node, given: ValueId, tokens: usize) -> Result<()> {
    let is_free = |shape: ValueId| graph.fact(shape).contents.as_ref().and_then(|lengths| lengths.last()?.as_known()) == Some(-1);
    if node.input(1).is_none_or(is_free) {
        return Ok(());
    }
    let mut dims = graph.fact(given).shape.clone().unwrap_or_default();
    let longer = dims.last_mut().map(|keys| *keys = &*keys + &num::int(tokens).into());
    let shape = longer.and_then(|()| b.shape(&dims));
    let refused =
        || Error::unsupported(format!("a prefix at {}", graph.value_name(given)), "scores get a shape that only the running graph knows");
    b.rewire_input(given, 1, shape.ok_or_else(refused)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Dim, ModelInfo};

    #[test]
    fn shapes_of_scores_have_room_for_more_keys() -> Result<()> {
        let b = Builder::new(ModelInfo::dialect());
        let [batch, seq, heads, size] = [Dim::symbol("batch"), Dim::symbol("seq"), Dim::known(2), Dim::known(4)];
        let x = b.input("x", DType::F32, &[batch.clone(), heads.clone(), seq.clone(), size]);
        let product = x.matmul(x.t());
        let written = product.reshape_to(b.shape(&[batch.clone(), heads.clone(), seq.clone(), seq.clone()]).expect("lengths of the input"));
        let free = written.softmax(-1).reshape_to(x.length(0).concat(&[b.ints(&[2]), x.length(2), b.ints(&[-1])], 0));
        let context = free.matmul(x);
        b.output("context", context);
        let (product, written, free, context) = (product.id(), written.id(), free.id(), context.id());
        let graph = b.finish()?;

        let b = Builder::on(&graph);
        let more = b.input("more", DType::F32, &[batch.clone(), heads.clone(), Dim::known(3), Dim::known(4)]);
        let longer = more.concat(&[b.expr(graph.data_inputs().next().expect("x"))], 2);
        b.rewire_input(product, 1, longer.t());
        b.rewire_input(context, 1, longer);
        lengthen(&b, &graph, product, context, 3)?;
        b.infer_again();
        let expected = [batch, heads, seq.clone(), &seq + &3.into()];
        assert_eq!((b.expr(written).known_dims(), b.expr(free).known_dims()), (expected.clone().into(), expected.into()));
        Ok(())
    }
}
