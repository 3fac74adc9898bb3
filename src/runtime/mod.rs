//! Everything that runs a graph: the ONNX Runtime library, sessions, the training state on its device, data and its order.
//!
//! Only [`session`] knows the crate `ort`; the rest sees names, [`HostTensor`]s and [`Device`]s.

pub mod data;
mod device;
pub mod library;
pub mod metrics;
pub mod schedule;
pub mod session;
mod tensor;

pub use device::Device;
pub use tensor::{ElementType, Elements, HostTensor};
