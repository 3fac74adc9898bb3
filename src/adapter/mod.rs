//! Adapters: what is trained while the base stays frozen, and how it is put into a graph.
//!
//! A method writes its part of the graph around the base's nodes, with its trainable tensors as optional inputs ([`Param`]) under
//! PEFT's names and shapes. Nothing here knows of gradients.
//!
//! Rooms, each using only those above it:
//!
//! | room | what it decides |
//! |---|---|
//! | [`config`] | what a user asks of a method, in PEFT's words |
//! | [`params`] | the tensors of an adapter: names, initial values, how many there may be, dropout; which of them stay within a norm while training, which ranks stay |
//! | [`targets`] | which modules a method attaches to: PEFT's matching |
//! | [`part`] | what a method is made of once it has found its places; what it makes of a projection, if that is an update of low rank |
//! | [`weights`] | the base's weights, read as matrices and changed |
//! | [`virtual_tokens`] | tokens in front: longer inputs, longer masks, the networks that compute them |
//! | [`method`] | what a method is: its row, its configuration |
//! | [`methods`] | the methods: a file and a row each |
//! | `plan` | a method applied to a graph |
//!
//! Beside them, [`combine`] makes one LoRA of several, [`stack`] computes rows of one batch with different adapters, and [`new_head`] puts a head on a body.

pub mod combine;
pub mod config;
pub mod method;
pub mod methods;
pub mod new_head;
pub mod params;
pub mod part;
mod plan;
pub mod stack;
pub mod targets;
pub mod virtual_tokens;
pub mod weights;

pub use method::Method;
pub use params::{Allocation, Constraint, Given, PEFT_PREFIX, Param, ParamForm, Params, Role};
pub use part::{Purpose, Requantised};
pub use plan::{PENALTY, Plan};
pub use targets::Site;
