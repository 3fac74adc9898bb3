//! Graphs: what they are made of, what is known of their values, and how they are written.
//!
//! A finished [`Graph`] is immutable, sorted and typed. A [`Builder`] writes one, from nothing or on top of a finished one; an
//! [`Expr`] is a value of a graph being written, as cheap to copy as an integer, with operators and a method per ONNX operator.
//! What each operator does to shapes and types stands in one table, [`infer`].

mod builder;
mod dim;
mod dtype;
mod fact;
mod fuse;
mod graph;
pub mod infer;
mod lengths;
mod operators;
mod ops;
mod simplify;
mod tensor;
mod text;

pub use builder::expr::Expr;
pub use builder::{Body, Builder, NodeSpec, Renaming};
pub use dim::Dim;
pub use dtype::DType;
pub use fact::{Fact, Shape, broadcast};
pub use fuse::fuse;
pub use graph::attr::Attr;
pub use graph::{Graph, LATER, ModelInfo, NO_GRADIENT, Node, NodeId, Opset, Use, Value, ValueId};
pub use operators::Trait;
pub use ops::Transposed;
pub use simplify::simplify;
pub use tensor::{Origin, Tensor, little_endian};

/// The version of ONNX's operator set that is spoken inside: loaded graphs are raised to its forms, new nodes are written in them.
pub const DIALECT: i64 = 18;
