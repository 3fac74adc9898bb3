//! What is done to a product's operands or result becomes part of the product.

use super::{Pass, is_float32};
use crate::ir::builder::expr::Expr;
use crate::ir::graph::attr::Attr;
use crate::ir::graph::{Node, ValueId};

/// An axis of up to this length is short: a product over it, or with it as its narrow side, takes about as long as a pass over its result.
/// Where it is longer, `Gemm` gains nothing by adding while it writes: it copies what it adds to, on one processor (ONNX Runtime 1.32).
const NARROW: i64 = 64;

/// `alpha · a' · b'` of matrices.
struct Product {
    a: ValueId,
    b: ValueId,
    trans_a: i64,
    trans_b: i64,
    alpha: f32,
}

impl Product {
    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        let flags = [("transA", self.trans_a), ("transB", self.trans_b)].into_iter().filter(|(_, flag)| *flag != 0);
        let mut attrs: Vec<_> = flags.map(|(name, flag)| (name, Attr::Int(flag))).collect();
        #[expect(clippy::float_cmp, reason = "exactly one is the attribute's default")]
        if self.alpha != 1.0 {
            attrs.push(("alpha", Attr::Float(self.alpha)));
        }
        attrs
    }
}

impl Pass<'_> {
    /// `c + a · b` with few columns of `a`.
    pub(super) fn add_in_product(&self, node: &Node, output: ValueId) {
        let &[Some(x), Some(y)] = &node.inputs[..] else { return };
        if !is_float32(self.b, output) || !self.has_shape_of(x, output) || !self.has_shape_of(y, output) {
            return;
        }
        for (narrow, rest) in [(y, x), (x, y)] {
            let Some(product) = self.product(narrow).filter(|product| self.is_narrow(product)) else { continue };
            let rows = match self.product(rest).filter(|other| !self.is_narrow(other)) {
                Some(other) => self.write("Gemm", &[other.a, other.b], &other.attrs()),
                None => Some(self.rows(rest)),
            };
            let Some(rows) = rows else { return };
            let Some(sum) = self.write("Gemm", &[product.a, product.b, rows], &product.attrs()) else { return };
            if !self.has_shape_of(rows, sum) {
                return;
            }
            if self.has_shape_of(sum, output) {
                self.reform(output, node, "Gemm", &[product.a, product.b, rows], &product.attrs());
            } else {
                let target = self.b.expr(rest).shape().id();
                self.reform(output, node, "Reshape", &[sum, target], &[]);
            }
            return;
        }
    }

    /// A product that one node alone reads, if it is one of matrices: `Gemm`, a view of one, or `MatMul` with a matrix.
    fn product(&self, id: ValueId) -> Option<Product> {
        let node = self.writer(id).filter(|_| self.is_read_once(id))?;
        match &*node.op {
            "Reshape" => {
                node.input(0).filter(|&source| self.is_read_once(source) && self.is_of_rows(source, id)).and_then(|id| self.gemm(id))
            }
            "Gemm" => self.gemm(id),
            "MatMul" => {
                let (a, b) = (node.input(0)?, node.input(1)?);
                if self.b.fact(b).rank() != Some(2) || self.b.fact(a).rank()? < 2 {
                    return None;
                }
                let (a, alpha) = self.unscaled(a);
                let (b, trans_b) = self.transposed(b).map_or((b, 0), |b| (b, 1));
                Some(Product { a: self.rows(a), b, trans_a: 0, trans_b, alpha })
            }
            _ => None,
        }
    }

    fn gemm(&self, id: ValueId) -> Option<Product> {
        let node = self.writer(id).filter(|node| &*node.op == "Gemm" && node.input(2).is_none())?;
        let (trans_a, trans_b) = (node.int("transA", 0), node.int("transB", 0));
        Some(Product { a: node.input(0)?, b: node.input(1)?, trans_a, trans_b, alpha: node.float("alpha", 1.0) })
    }

    fn is_narrow(&self, product: &Product) -> bool {
        let shape = self.b.fact(product.b).shape.unwrap_or_default();
        let inner = shape.get(usize::from(product.trans_b != 0)).and_then(crate::ir::Dim::as_known);
        inner.is_some_and(|length| length <= NARROW)
    }

    /// Whether a matrix has the rows of a value with more axes.
    fn is_of_rows(&self, matrix: ValueId, value: ValueId) -> bool {
        let (matrix, value) = (self.b.fact(matrix).shape, self.b.fact(value).shape);
        matches!((matrix, value), (Some(matrix), Some(value)) if matrix.len() == 2 && matrix.last() == value.last())
    }

    /// A value as a matrix of its rows; the matrix that it is a view of, if it is one.
    fn rows(&self, id: ValueId) -> ValueId {
        let source = self.writer(id).filter(|node| &*node.op == "Reshape").and_then(|node| node.input(0));
        source.filter(|&source| self.is_of_rows(source, id)).unwrap_or_else(|| self.b.expr(id).rows().id())
    }

    /// What a value is the transposed matrix of.
    fn transposed(&self, id: ValueId) -> Option<ValueId> {
        let node = self.writer(id).filter(|node| &*node.op == "Transpose")?;
        let rank = i64::try_from(self.b.fact(id).rank()?).ok()?;
        let swapped: Vec<i64> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
        node.input(0).filter(|_| rank >= 2 && node.ints("perm") == Some(&swapped[..]))
    }

    /// A narrow value without the number that it was multiplied by, and that number; views of such values as well.
    fn unscaled(&self, id: ValueId) -> (ValueId, f32) {
        self.scaled(id).map_or((id, 1.0), |(source, factor)| match self.writer(id) {
            Some(view) if &*view.op == "Reshape" => {
                let again = view.input(1).and_then(|target| self.write("Reshape", &[source, target], &[]));
                again.map_or((id, 1.0), |again| (again, factor))
            }
            _ => (source, factor),
        })
    }

    fn scaled(&self, id: ValueId) -> Option<(ValueId, f32)> {
        let is_narrow = self.b.fact(id).shape.and_then(|shape| shape.last()?.as_known()).is_some_and(|length| length <= NARROW);
        let node = self.writer(id).filter(|_| is_narrow && is_float32(self.b, id))?;
        match &*node.op {
            "Reshape" if node.int("allowzero", 0) == 0 => {
                let source = node.input(0)?;
                self.writer(source).filter(|writer| &*writer.op == "Mul").and_then(|_| self.scaled(source))
            }
            "Mul" => {
                let (x, y) = (node.input(0)?, node.input(1)?);
                [(x, y), (y, x)].into_iter().find_map(|(x, factor)| Some((x, self.number(factor)?)))
            }
            _ => None,
        }
    }

    /// `(c · x) · w = c · (x · w)`
    pub(super) fn scale_in_product(&self, node: &Node, output: ValueId) {
        let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { return };
        let ((a, by_a), (b, by_b)) = (self.unscaled(a), self.unscaled(b));
        let factor = by_a * by_b;
        #[expect(clippy::float_cmp, reason = "exactly one: nothing was found")]
        if factor == 1.0 {
            return;
        }
        let alpha = node.float("alpha", 1.0) * factor;
        let product = Product { a, b, trans_a: node.int("transA", 0), trans_b: node.int("transB", 0), alpha };
        let mut form = node.clone();
        form.inputs[0] = Some(product.a);
        form.inputs[1] = Some(product.b);
        form.attrs.insert("alpha".into(), Attr::Float(product.alpha));
        self.b.replace_node(output, form);
    }

    /// `(aᵀ b)ᵀ = bᵀ a`: of two transpositions, which the runtime reads along, one is left; the one behind the product would be a copy.
    pub(super) fn turn_product(&self, node: &Node, output: ValueId) {
        let Some(input) = node.input(0).filter(|&id| self.is_read_once(id) && self.transposed(output).is_some()) else { return };
        let scale = self.writer(input).filter(|writer| &*writer.op == "Mul").and_then(|mul| {
            let (x, y) = (mul.input(0)?, mul.input(1)?);
            [(x, y), (y, x)].into_iter().find(|&(x, factor)| self.number(factor).is_some() && self.is_read_once(x))
        });
        let inner = scale.map_or(input, |(product, _)| product);
        let Some(product) = self.writer(inner).filter(|writer| &*writer.op == "MatMul") else { return };
        let (Some(a), Some(b)) = (product.input(0), product.input(1)) else { return };
        let (Some(a), true) = (self.transposed(a), self.b.fact(a).rank() == self.b.fact(b).rank()) else { return };
        let b = self.transposed(b).unwrap_or_else(|| Expr::t(self.b.expr(b)).id());
        match scale {
            None => self.reform(output, node, "MatMul", &[b, a], &[]),
            Some((_, factor)) => {
                let Some(turned) = self.write("MatMul", &[b, a], &[]) else { return };
                self.reform(output, node, "Mul", &[turned, factor], &[]);
            }
        }
    }
}
