//! The tensors of an adapter: their names, the values they start from, how many there may be, and dropout.

pub(crate) mod budget;
pub mod dropout;
pub mod init;
pub mod key;
mod param;

pub use key::PEFT_PREFIX;
pub use param::{Form, Given, Param, Params, Role};
pub(crate) use param::{input_name, narrow_uniform, param};
