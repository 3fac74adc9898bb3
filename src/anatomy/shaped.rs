//! Matrices that are stored in another shape than they are read in (in one row, or with more axes), stored as they are read: the same bytes under
//! the shape that a `Reshape` or its like gives them, so that everything else finds a matrix where the graph has one.
//!
//! ```text
//! w [in · out] → [Identity | Cast] → Reshape → [in, out]        w [in, out] → [Cast]
//! ```

use std::cell::OnceCell;

use crate::error::Result;
use crate::ir::{Builder, DType, Graph, Node, Tensor, Trait, ValueId};

/// The same graph, where constants have the shapes that products and lookups read.
///
/// # Errors
/// None but those of writing a graph that was read.
pub(super) fn shaped(graph: &Graph) -> Result<Graph> {
    let b = OnceCell::new();
    for node in graph.nodes().iter().filter(|node| Trait::View.is_of(&node.op)) {
        let Some(ReadConstant { constant, tensor, cast, output }) = found(graph, node) else { continue };
        let b = b.get_or_init(|| Builder::on(graph));
        if is_free(graph, constant, node) {
            b.store(constant, tensor);
            b.rewire(b.expr(output), |_| cast.map_or(b.expr(constant), |dtype| b.expr(constant).cast(dtype)));
        } else if let Some(dtype) = cast {
            let own = b.initializer(graph.value_name(output), tensor);
            b.rewire(b.expr(output), |_| own.cast(dtype));
        } else {
            b.store(output, tensor);
        }
    }
    b.into_inner().map_or_else(|| Ok(graph.clone()), Builder::finish)
}

struct ReadConstant {
    constant: ValueId,
    /// The constant in the shape in which it is read.
    tensor: Tensor,
    /// The type in which it is read, where that is another one.
    cast: Option<DType>,
    output: ValueId,
}

/// The constant of floats behind a node that makes a matrix of it.
fn found(graph: &Graph, node: &Node) -> Option<ReadConstant> {
    let output = node.output(0).filter(|output| !graph.is_output(*output))?;
    let shape: Vec<usize> = graph.fact(output).known_shape()?.iter().map(|&length| usize::try_from(length).ok()).collect::<Option<_>>()?;
    let is_matrix = shape.iter().filter(|&&length| length > 1).count() > 1;
    let (mut at, mut is_cast) = (node.input(0)?, false);
    let tensor = loop {
        if let Some(tensor) = graph.initializer(at) {
            break tensor;
        }
        let before = graph.node(graph.producer(at)?);
        match &*before.op {
            "Identity" => {}
            "Cast" if !is_cast => is_cast = true,
            _ => return None,
        }
        at = before.input(0)?;
    };
    let is_wanted = is_matrix && tensor.dtype().is_float() && tensor.shape() != shape;
    let tensor = tensor.reshaped(shape).ok().filter(|_| is_wanted)?;
    let cast = graph.fact(output).dtype.filter(|dtype| *dtype != tensor.dtype());
    Some(ReadConstant { constant: at, tensor, cast, output })
}

/// Whether nothing else reads a constant, so that it may be stored in this node's shape.
fn is_free(graph: &Graph, constant: ValueId, node: &Node) -> bool {
    let mut at = constant;
    if graph.is_input(constant) || graph.is_output(constant) {
        return false;
    }
    loop {
        let [only] = graph.uses(at) else { return false };
        let reader = graph.node(only.node);
        if only.input != Some(0) || graph.is_output(at) {
            return false;
        }
        if std::ptr::eq(reader, node) {
            return true;
        }
        let Some(next) = reader.output(0) else { return false };
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Dim, Expr, ModelInfo};

    type Write = for<'g> fn(&'g Builder, Expr<'g>) -> Expr<'g>;

    fn flat(b: &Builder, dtype: DType) -> Expr<'_> {
        b.initializer("w", Tensor::from_f64(dtype, &[24], &[0.5; 24]).expect("floats"))
    }

    #[test]
    fn matrices_have_the_shape_in_which_they_are_read() {
        let rows: [(&str, Write, &[usize]); 5] = [
            ("in one row", |b, x| x.matmul(flat(b, DType::F32).reshape(&[4, 6])), &[4, 6]),
            ("in one row, of another type", |b, x| x.matmul(flat(b, DType::F64).cast(DType::F32).reshape(&[4, 6])), &[4, 6]),
            ("in one row, turned behind it", |b, x| x.matmul(flat(b, DType::F32).reshape(&[6, 4]).t()), &[6, 4]),
            (
                "read in two shapes",
                |b, x| {
                    let w = flat(b, DType::F32);
                    x.matmul(w.reshape(&[4, 6])).matmul(w.reshape(&[6, 4]))
                },
                &[24],
            ),
            ("a vector", |b, x| x.matmul(flat(b, DType::F32).reshape(&[4, 6])) + flat(b, DType::F32).reshape(&[1, 24]).sum_all(), &[4, 6]),
        ];
        for (what, write, expected) in rows {
            let b = Builder::new(ModelInfo::dialect());
            let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
            b.output("y", write(&b, x));
            let graph = shaped(&b.finish().expect("a valid graph")).expect("a valid graph");
            let found = crate::anatomy::read(&graph);
            let weights = found.projections.iter().map(|p| graph.stored(p.weight.value).map_or(0, |tensor| tensor.shape().len()));
            assert!(weights.clone().all(|rank| rank == 2) && weights.count() > 0, "{what}");
            let named = graph.find("w").and_then(|id| graph.initializer(id)).map(|tensor| tensor.shape().to_vec());
            assert!(named.is_none_or(|shape| shape == expected), "{what}: {graph:?}");
        }
    }
}
