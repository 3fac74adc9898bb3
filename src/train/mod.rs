//! What training adds to a graph: the loss, the gradient, the optimizer; and the graphs that are made of them.

pub mod cache;
pub mod head;
pub mod logits;
pub mod loss;
pub mod optimizer;
mod order;
pub mod step;
pub mod verbalizer;
mod widen;

pub use widen::widen;
