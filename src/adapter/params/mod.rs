//! The tensors of an adapter: their names, the values they start from, how many there may be, and dropout.

pub(crate) mod budget;
pub mod dropout;
pub mod init;
pub mod key;
pub mod matrices;
mod param;

pub use key::PEFT_PREFIX;
pub(crate) use param::input_name;
pub use param::{Form, Given, Param, Params, Role, narrow_uniform, places};
