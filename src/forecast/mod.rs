//! What a run of a graph will take, told from the graph alone: its peak of memory, and the arithmetic of its products.
//!
//! Every length is settled first (`known`): the graph is written again with the inputs' lengths in numbers, and inference finds the others.
//! Then the nodes are gone through in the order in which ONNX Runtime runs them (`order`), and each value is counted from the node that makes
//! it to the last one that reads it (`peak`), in the pieces of memory that the runtime's arena has for it (`arena`).

pub mod arena;
mod known;
mod order;
mod peak;
mod products;

pub use known::{Lengths, settled};
pub use peak::{Peak, peak};
