//! Linear projections: products with a constant matrix.
//!
//! ```text
//!        W (initializer) → [dequantising] → [Identity | Cast | Transpose]*
//!                            ↓
//! x ──────────────────→ MatMul | Gemm | FusedMatMul ─ y → [Add bias] ─ output →
//! ```

use crate::ir::{DType, Graph, NodeId, Tensor, Trait, ValueId};

use super::stored;
use super::walk::{Found, NodeRef, ValueRef};
use super::{Layout, Miss, Weight};

/// A projection that has no name yet.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    /// The product.
    pub(super) node: NodeId,
    /// The node that adds the bias, where it is not the product itself.
    pub(super) bias_node: Option<NodeId>,
    pub(super) x: ValueId,
    pub(super) y: ValueId,
    pub(super) output: ValueId,
    pub(super) weight: Weight,
    pub(super) bias: Option<ValueId>,
    pub(super) in_features: i64,
    pub(super) out_features: i64,
    /// What Hugging Face calls this part of a projection that an exporter packed.
    pub(super) part_name: Option<&'static str>,
}

/// A constant matrix as a node reads it: its lengths there, and how it is stored.
struct Matrix {
    weight: Weight,
    rows: i64,
    columns: i64,
}

/// Every projection in the order of execution, and every product with a constant matrix that is none.
pub(super) fn find(graph: &Graph) -> (Vec<Linear>, Vec<Miss>) {
    let (mut found, mut missed) = (vec![], vec![]);
    for (id, _) in graph.node_ids() {
        let node = NodeRef::new(graph, id);
        if !node.has(Trait::Product) || !node.inputs().any(|input| matrix(input).is_ok()) {
            continue;
        }
        match linear(node) {
            Ok(linear) => found.push(linear),
            Err(miss) => missed.push(miss),
        }
    }
    (found, missed)
}

fn linear(node: NodeRef<'_>) -> Found<Linear> {
    let (x, y) = (unrounded(node.input(0)?), node.output(0)?);
    let Matrix { mut weight, mut rows, mut columns } = matrix(node.input(1)?)?;
    if node.node().int("transA", 0) != 0 {
        return Err(node.miss("an input that is not transposed"));
    }
    if (node.node().float("alpha", 1.0) - 1.0).abs() > 0.0 {
        return Err(node.miss("a product that is not scaled (alpha 1)"));
    }
    if node.node().int("transB", 0) != 0 {
        (rows, columns) = (columns, rows);
        weight.layout = weight.layout.swapped();
    }
    // A product with a single row is a table of frequencies, spread by an outer product.
    if rows < 2 {
        return Err(node.miss("a weight with more than one input feature"));
    }
    let own_bias = node.input(2).and_then(|c| vector(c, columns)).ok().filter(|_| (node.node().float("beta", 1.0) - 1.0).abs() == 0.0);
    let added = if node.input(2).is_ok() { None } else { added_bias(y, columns).ok() };
    Ok(Linear {
        node: node.id(),
        bias_node: added.as_ref().map(|(add, _)| add.id()),
        x: x.id(),
        y: y.id(),
        output: added.as_ref().map_or(Ok(y), |(add, _)| add.output(0))?.id(),
        weight,
        bias: own_bias.or(added.map(|(_, bias)| bias)).map(ValueRef::id),
        in_features: rows,
        out_features: columns,
        part_name: None,
    })
}

/// The numbers before they were rounded for a product of small integers.
fn unrounded(x: ValueRef<'_>) -> ValueRef<'_> {
    let rounded = x.from(&["DequantizeLinear"]).and_then(|node| node.input(0)?.from(&["DynamicQuantizeLinear", "QuantizeLinear"]));
    rounded.and_then(|node| node.input(0)).unwrap_or(x)
}

/// The constant matrix behind a value.
fn matrix(value: ValueRef<'_>) -> Found<Matrix> {
    let stored = stored::behind(value)?;
    if !(stored.is_floats() || stored.is_scaled) {
        return Err(stored.value.miss("integers with a scale"));
    }
    let Some(&[rows, columns]) = value.fact().known_shape().as_deref() else { return Err(value.miss("a constant matrix")) };
    Ok(Matrix { weight: Weight { value: stored.value.id(), layout: stored.layout, part: None }, rows, columns })
}

fn is_weight(dtype: DType) -> bool {
    dtype.is_float()
}

/// The node that adds a bias to a product, and the bias. The product must have no other reader.
fn added_bias(y: ValueRef<'_>, length: i64) -> Found<(NodeRef<'_>, ValueRef<'_>)> {
    let add = y.into(&["Add"])?;
    let bias = add.inputs().find(|input| input.id() != y.id()).ok_or_else(|| add.miss("two inputs"))?;
    Ok((add, vector(bias, length)?))
}

/// The constant behind a value, if it is `[length]` (or that with axes of length 1 in front).
fn vector(value: ValueRef<'_>, length: i64) -> Found<ValueRef<'_>> {
    let stored = value.behind(&["Identity", "Cast"]);
    let shape = stored.stored().filter(|tensor| is_weight(tensor.dtype())).map(Tensor::shape);
    match shape.and_then(<[usize]>::split_last) {
        Some((&last, rest)) if i64::try_from(last) == Ok(length) && rest.iter().all(|&n| n == 1) => Ok(stored),
        _ => Err(value.miss(format!("a constant vector of {length}"))),
    }
}

impl Layout {
    pub(super) fn swapped(self) -> Self {
        match self {
            Self::InOut => Self::OutIn,
            Self::OutIn => Self::InOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Attr, Builder, Dim, Expr, ModelInfo};

    type Write = for<'g> fn(&'g Builder, Expr<'g>) -> Expr<'g>;

    struct Case {
        what: &'static str,
        write: Write,
        /// Layout, output features, whether there is a bias.
        expected: Option<(Layout, i64, bool)>,
    }

    fn constant<'g>(b: &'g Builder, name: &str, shape: &[usize]) -> Expr<'g> {
        b.initializer(name, Tensor::from_f32(shape, &vec![0.5; shape.iter().product()]))
    }

    const CASES: &[Case] = &[
        Case { what: "plain", write: |b, x| x.matmul(constant(b, "w", &[4, 6])), expected: Some((Layout::InOut, 6, false)) },
        Case { what: "transposed", write: |b, x| x.matmul(constant(b, "w", &[6, 4]).t()), expected: Some((Layout::OutIn, 6, false)) },
        Case {
            what: "bias first",
            write: |b, x| constant(b, "b", &[6]) + x.matmul(constant(b, "w", &[4, 6])),
            expected: Some((Layout::InOut, 6, true)),
        },
        Case {
            what: "no bias: a residual",
            write: |b, x| x.matmul(constant(b, "w", &[4, 4])) + x,
            expected: Some((Layout::InOut, 4, false)),
        },
        Case {
            what: "behind an identity",
            write: |b, x| x.matmul(constant(b, "w", &[4, 6]).identity().identity()),
            expected: Some((Layout::InOut, 6, false)),
        },
        Case {
            what: "gemm with its own bias",
            write: |b, x| b.op("Gemm", &[x.rows(), constant(b, "w", &[6, 4]), constant(b, "b", &[6])], &[("transB", Attr::Int(1))]),
            expected: Some((Layout::OutIn, 6, true)),
        },
        Case {
            what: "scaled",
            write: |b, x| b.op("Gemm", &[x.rows(), constant(b, "w", &[4, 6])], &[("alpha", Attr::Float(2.0))]),
            expected: None,
        },
        Case {
            what: "codes of a table of numbers, in blocks with scales",
            write: |b, x| {
                let codes = b.initializer("codes", Tensor::new(DType::U8, vec![12], vec![1; 12].into()).expect("twelve bytes"));
                let pairs = constant(b, "pairs", &[256, 2]).gather(codes.cast(DType::I32), 0);
                let scaled = pairs.reshape(&[6, 4]) * constant(b, "scale", &[6, 1]);
                x.matmul(scaled.reshape(&[-1]).reshape(&[6, 4]).t())
            },
            expected: Some((Layout::OutIn, 6, false)),
        },
        Case {
            what: "integers, a scale and a zero point",
            write: |b, x| {
                let bytes = b.initializer("q", Tensor::new(DType::I8, vec![4, 6], vec![1; 24].into()).expect("24 bytes"));
                x.matmul(constant(b, "scale", &[6]) * (bytes.cast(DType::F32) - 1.0))
            },
            expected: Some((Layout::InOut, 6, false)),
        },
        Case {
            what: "floats with an axis more",
            write: |b, x| x.matmul(constant(b, "w", &[1, 4, 6]).reshape(&[4, 6])),
            expected: Some((Layout::InOut, 6, false)),
        },
        Case { what: "floats that are scaled", write: |b, x| x.matmul(constant(b, "w", &[4, 6]) * x.sum_all()), expected: None },
        Case { what: "two activations", write: |_, x| x.matmul(x.t()), expected: None },
        Case { what: "weight on the left", write: |b, x| constant(b, "w", &[4, 3]).matmul(x), expected: None },
    ];

    #[test]
    fn every_form_is_found() {
        let failed: Vec<_> = CASES.iter().filter(|case| found(case) != case.expected).map(|case| (case.what, found(case))).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }

    fn found(case: &Case) -> Option<(Layout, i64, bool)> {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(3), Dim::known(4)]);
        b.output("out", (case.write)(&b, x));
        let graph = b.finish().expect("the case is a valid graph");
        let (found, _) = find(&graph);
        found.first().map(|l| (l.weight.layout, l.out_features, l.bias.is_some()))
    }

    #[test]
    fn a_bias_is_part_of_the_output_but_not_of_the_product() {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::known(3), Dim::known(4)]);
        let y = x.matmul(constant(&b, "w", &[4, 6]));
        let biased = y + constant(&b, "b", &[6]);
        b.output("out", biased.tanh());
        let (y, biased) = (y.id(), biased.id());
        let graph = b.finish().expect("a valid graph");
        let (found, missed) = find(&graph);
        assert_eq!((found[0].y, found[0].output, missed.len()), (y, biased, 0));
    }
}
