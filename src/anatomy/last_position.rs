//! Models that read the last position of a text, wherever the text ends: `hidden[:, -1]`. Exporters write it for decoders whose tokenizers fill short rows up
//! on the left, so that the last position is every row's own.

use super::Anatomy;
use crate::ir::{DType, Dim, Graph, Node};

/// Whether a graph takes the last of a text's vectors by its number.
pub(super) fn is_read(graph: &Graph, anatomy: &Anatomy) -> bool {
    let length = anatomy.inputs.main.and_then(|id| graph.fact(id).shape.as_ref()?.get(1).cloned());
    length.is_some_and(|length| graph.nodes().iter().any(|node| takes_last(graph, node, &length)))
}

/// Whether a node takes the last of so many vectors, `[batch, seq, hidden]` in whatever order, and nothing else of them.
fn takes_last(graph: &Graph, node: &Node, length: &Dim) -> bool {
    let of_vectors = |axis: i64| {
        let fact = node.input(0).map(|id| graph.fact(id));
        let fact = fact.filter(|fact| matches!(fact.dtype, Some(DType::F32 | DType::F16 | DType::BF16)))?;
        let shape = fact.shape.as_ref()?;
        let axis = usize::try_from(if axis < 0 { axis + 3 } else { axis }).ok()?;
        // Texts may stand first, `[seq, batch, hidden]`; a known length may be that of other axes, too.
        let may_be = axis == 1 || length.as_known().is_none();
        Some(shape.len() == 3 && may_be && shape.get(axis) == Some(length))
    };
    let contents = |at: usize| node.input(at).and_then(|id| graph.fact(id).contents.clone());
    let is_last = |place: &Dim| place.as_known() == Some(-1) || *place == length - &Dim::known(1);
    match &*node.op {
        "Gather" => {
            contents(1).is_some_and(|places| matches!(&places[..], [place] if is_last(place)))
                && of_vectors(node.int("axis", 0)) == Some(true)
        }
        "Slice" => {
            let axis = contents(3).and_then(|axes| if let [axis] = &axes[..] { axis.as_known() } else { None });
            contents(1).is_some_and(|starts| matches!(&starts[..], [start] if is_last(start))) && axis.and_then(of_vectors) == Some(true)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy;
    use crate::ir::{Attr, Builder, Expr, ModelInfo, Tensor};

    /// What a model makes of `hidden`, `[batch, seq, 4]`, and of its tokens.
    fn read(make: impl for<'g> FnOnce(&'g Builder, Expr<'g>, Expr<'g>) -> Expr<'g>) -> bool {
        let b = Builder::new(ModelInfo::dialect());
        let tokens = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let table = b.initializer("embed.weight", Tensor::from_f32(&[9, 4], &[0.5; 36]));
        let hidden = table.gather(tokens, 0);
        let weight = b.initializer("head.weight", Tensor::from_f32(&[4, 2], &[0.5; 8]));
        b.output("y", make(&b, hidden, tokens).matmul(weight));
        let graph = b.finish().expect("a valid graph");
        is_read(&graph, &anatomy::read(&graph))
    }

    #[test]
    fn the_last_of_a_texts_vectors_is_told_from_other_places() {
        assert!(read(|b, hidden, _| hidden.gather(b.int(-1), 1)));
        assert!(read(|_, hidden, _| hidden.slice(&[-1], &[i64::MAX], &[1])));
        assert!(read(|b, hidden, _| hidden.transpose(&[1, 0, 2]).gather(b.int(-1), 0)), "texts first");
        assert!(read(|b, hidden, tokens| {
            let last = tokens.dims().map(|_| tokens.length(1)).expect("axes") - b.ints(&[1]);
            hidden.gather(last, 1)
        }));
        assert!(!read(|b, hidden, _| hidden.gather(b.int(0), 1)), "the first");
        assert!(!read(|b, hidden, _| hidden.gather(b.int(-1), 0)), "the last row");
        assert!(!read(|_, hidden, _| hidden.slice(&[1], &[i64::MAX], &[1])), "all but the first");
        assert!(!read(|b, hidden, _| b.op("ReduceMean", &[hidden, b.ints(&[1])], &[("keepdims", Attr::Int(0))])), "the mean");
    }
}
