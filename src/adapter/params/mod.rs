//! The tensors of an adapter: their names, the values they start from, how many there may be, dropout, and what holds of them while they are trained:
//! norms that they stay within, ranks that are allocated.

pub mod allocation;
pub(crate) mod budget;
pub mod constraint;
pub mod dropout;
pub mod init;
pub mod key;
pub mod matrices;
mod param;

pub use allocation::Allocation;
pub use constraint::Constraint;
pub use key::PEFT_PREFIX;
pub(crate) use param::input_name;
pub use param::{Given, Param, ParamForm, Params, Role, narrow_uniform, places};
