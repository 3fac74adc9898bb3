//! Work that takes long: threads that share it and keep its order, and how far it is.

mod in_order;
mod pace;

pub use in_order::{Give, in_order};
pub use pace::{PROGRESS, Pace};
