//! Attributes of nodes.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

use super::Graph;
use crate::ir::tensor::Tensor;

/// The value of an attribute, with ONNX's types.
#[derive(Clone, Debug)]
pub enum Attr {
    /// A whole number; also how booleans are written.
    Int(i64),
    /// A number.
    Float(f32),
    /// Bytes, nearly always UTF-8.
    Str(Bytes),
    /// A constant.
    Tensor(Tensor),
    /// The body of an `If`, `Loop`, `Scan`, ...; it may read values of the graph around it, see [`Graph::captured`].
    Graph(Arc<Graph>),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Strings.
    Strs(Vec<Bytes>),
    /// Constants.
    Tensors(Vec<Tensor>),
    /// Bodies.
    Graphs(Vec<Arc<Graph>>),
    /// A kind of attribute that nothing here looks into, as it was encoded.
    Opaque(Bytes),
}

impl Attr {
    /// The bodies in this attribute, if it has any.
    #[must_use]
    pub fn graphs(&self) -> &[Arc<Graph>] {
        match self {
            Self::Graph(graph) => std::slice::from_ref(graph),
            Self::Graphs(graphs) => graphs,
            _ => &[],
        }
    }

    /// The text of a UTF-8 string attribute.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The number of an integer attribute.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }
}

/// Bodies are equal only if they are one and the same.
impl PartialEq for Attr {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Str(a), Self::Str(b)) | (Self::Opaque(a), Self::Opaque(b)) => a == b,
            (Self::Tensor(a), Self::Tensor(b)) => a == b,
            (Self::Graph(a), Self::Graph(b)) => Arc::ptr_eq(a, b),
            (Self::Ints(a), Self::Ints(b)) => a == b,
            (Self::Floats(a), Self::Floats(b)) => a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())),
            (Self::Strs(a), Self::Strs(b)) => a == b,
            (Self::Tensors(a), Self::Tensors(b)) => a == b,
            (Self::Graphs(a), Self::Graphs(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b)),
            _ => false,
        }
    }
}

impl Eq for Attr {}

impl Hash for Attr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Int(a) => a.hash(state),
            Self::Float(a) => a.to_bits().hash(state),
            Self::Str(a) | Self::Opaque(a) => a.hash(state),
            Self::Tensor(a) => a.shape().hash(state),
            Self::Ints(a) => a.hash(state),
            Self::Floats(a) => a.iter().for_each(|v| v.to_bits().hash(state)),
            Self::Strs(a) => a.hash(state),
            Self::Tensors(a) => a.len().hash(state),
            Self::Graph(_) | Self::Graphs(_) => {}
        }
    }
}

impl From<i64> for Attr {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Attr {
    fn from(value: bool) -> Self {
        Self::Int(value.into())
    }
}

impl From<f32> for Attr {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Attr {
    fn from(value: &str) -> Self {
        Self::Str(Bytes::copy_from_slice(value.as_bytes()))
    }
}

impl From<Vec<i64>> for Attr {
    fn from(value: Vec<i64>) -> Self {
        Self::Ints(value)
    }
}

impl From<&[i64]> for Attr {
    fn from(value: &[i64]) -> Self {
        Self::Ints(value.to_vec())
    }
}

impl From<Tensor> for Attr {
    fn from(value: Tensor) -> Self {
        Self::Tensor(value)
    }
}
