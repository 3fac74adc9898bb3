//! Everything that runs a graph: the ONNX Runtime library, sessions, the training state on its device, data and its order.
//!
//! Only [`session`] knows the crate `ort`; the rest sees names, [`HostTensor`]s and [`Device`]s.

pub mod adapter_file;
pub mod check;
pub mod checkpoint;
pub mod data;
mod device;
pub mod evaluate;
pub mod generate;
pub mod library;
pub mod metrics;
pub mod reference;
pub mod runs;
pub mod schedule;
pub mod session;
pub mod teacher;
mod tensor;
pub mod text_prefix;
pub mod trainer;
pub mod verify;

pub use device::Device;
pub use tensor::{ElementType, Elements, HostTensor};
