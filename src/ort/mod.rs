//! ONNX Runtime: the library in this process, a graph opened on a device, and a training state that stays there.
//!
//! Only this room names the crate `ort`. It decides which library is loaded, how it is set up (one table with reasons: [`settings`]) and how
//! tensors move; it knows nothing of adapters, losses or data. The rest sees names, [`HostTensor`]s and [`Device`]s.

mod arena;
mod cuda;
mod device;
mod lent;
pub mod library;
mod open;
mod process;
pub mod settings;
mod stepper;
mod tensor;
mod value;

pub use cuda::missing_for_cuda;
pub use device::Device;
pub use open::{Axis, Port, Presence, Session};
pub use process::{Facts, Options, Runtime, without_telemetry};
pub use settings::{Purpose, Settings};
pub use stepper::{State, Stepper};
pub use tensor::{ElementType, Elements, HostTensor, Piece};
pub use value::{DeviceTensor, Feed};

#[cfg(test)]
mod tests;

use crate::error::{Error, ErrorKind};

/// An error of `ort` as one of ours.
#[expect(clippy::needless_pass_by_value, reason = "the form that map_err wants")]
fn refused<R>(error: ort::Error<R>) -> Error {
    ErrorKind::Runtime(error.to_string()).into()
}
