//! Tasks: those of [`anatomy`](crate::anatomy).

pub use crate::anatomy::Task;
