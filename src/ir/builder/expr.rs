//! The handle of a value of a graph being written.

use std::fmt;
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::sync::Arc;

use super::Builder;
use crate::error::Error;
use crate::ir::dim::Dim;
use crate::ir::dtype::DType;
use crate::ir::fact::{Fact, Shape};
use crate::ir::graph::ValueId;

/// A value of a graph being written: as cheap to copy as an integer.
///
/// Arithmetic writes nodes: `2.0 * x.tanh() + y`. Numbers take the type of the value they meet. The methods are ONNX's operators
/// under their own names, and a few idioms made of them.
#[derive(Clone, Copy)]
pub struct Expr<'g> {
    builder: &'g Builder,
    id: ValueId,
}

impl<'g> Expr<'g> {
    pub(in crate::ir) fn new(builder: &'g Builder, id: ValueId) -> Self {
        Self { builder, id }
    }

    /// The value's id, which stays the same in the finished graph.
    #[must_use]
    pub fn id(self) -> ValueId {
        self.id
    }

    /// The builder that this is a value of.
    #[must_use]
    pub fn b(self) -> &'g Builder {
        self.builder
    }

    /// The value's name so far.
    #[must_use]
    pub fn name(self) -> Arc<str> {
        self.builder.name(self.id)
    }

    /// What is known of the value.
    #[must_use]
    pub fn fact(self) -> Fact {
        self.builder.fact(self.id)
    }

    /// The element type; float32 where it is unknown.
    #[must_use]
    pub fn dtype(self) -> DType {
        self.fact().dtype.unwrap_or(DType::F32)
    }

    /// The lengths of the axes, if the rank is known.
    #[must_use]
    pub fn dims(self) -> Option<Shape> {
        self.fact().shape
    }

    /// The number of axes. Where it is unknown the graph cannot be finished, and the answer is 0.
    #[must_use]
    pub fn rank(self) -> usize {
        self.known_dims().len()
    }

    /// The lengths of the axes, where they must be known to go on: else the graph cannot be finished.
    #[must_use]
    pub fn known_dims(self) -> Shape {
        self.dims().unwrap_or_else(|| {
            let name = self.name();
            self.builder.fail(Error::unsupported(format!("value {name}"), "its rank is unknown"));
            vec![]
        })
    }

    /// The length of one axis; a negative one counts from the last.
    #[must_use]
    pub fn dim(self, axis: i64) -> Dim {
        let dims = self.known_dims();
        let at = usize::try_from(axis).ok().or_else(|| dims.len().checked_sub(usize::try_from(axis.unsigned_abs()).ok()?));
        at.and_then(|at| dims.get(at)).cloned().unwrap_or_else(|| {
            self.builder.fail(Error::graph(format!("value {} has no axis {axis}", self.name())));
            Dim::known(1)
        })
    }

    pub(in crate::ir) fn binary(self, op: &str, other: Self) -> Self {
        self.builder.op(op, &[self, other], &[])
    }

    pub(in crate::ir) fn unary(self, op: &str) -> Self {
        self.builder.op(op, &[self], &[])
    }

    /// A number of this value's type.
    #[must_use]
    pub fn same_type(self, number: f64) -> Self {
        self.builder.number(number, self.dtype())
    }
}

impl fmt::Debug for Expr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.fact())
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $op:literal) => {
        impl<'g> $trait for Expr<'g> {
            type Output = Expr<'g>;
            fn $method(self, other: Expr<'g>) -> Expr<'g> {
                self.binary($op, other)
            }
        }
        impl<'g> $trait<f64> for Expr<'g> {
            type Output = Expr<'g>;
            fn $method(self, number: f64) -> Expr<'g> {
                self.binary($op, self.same_type(number))
            }
        }
        impl<'g> $trait<Expr<'g>> for f64 {
            type Output = Expr<'g>;
            fn $method(self, other: Expr<'g>) -> Expr<'g> {
                other.same_type(self).binary($op, other)
            }
        }
    };
}
operator!(Add, add, "Add");
operator!(Sub, sub, "Sub");
operator!(Mul, mul, "Mul");
operator!(Div, div, "Div");

impl<'g> Neg for Expr<'g> {
    type Output = Expr<'g>;
    fn neg(self) -> Expr<'g> {
        self.unary("Neg")
    }
}
