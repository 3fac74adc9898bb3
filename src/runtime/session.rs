//! Sessions of ONNX Runtime: the library in this process, a graph opened on a device, and a training state that stays there.
//!
//! This module and its children are the only ones that name the crate `ort`. They decide how ONNX Runtime is set up (one table with
//! reasons: [`settings`]) and how tensors move; they know nothing of adapters, losses or data.

mod cuda;
mod lent;
mod open;
mod process;
pub mod settings;
mod stepper;
mod value;

pub use open::{Axis, Port, Presence, Session};
pub use process::{Facts, Options, Runtime, without_telemetry};
pub use settings::{Purpose, Settings};
pub use stepper::{State, Stepper};
pub use value::{DeviceTensor, Feed};

#[cfg(test)]
mod tests;

use crate::error::{Error, ErrorKind};

/// An error of `ort` as one of ours.
#[expect(clippy::needless_pass_by_value, reason = "the form that map_err wants")]
fn refused<R>(error: ort::Error<R>) -> Error {
    ErrorKind::Runtime(error.to_string()).into()
}
