//! Fine-tune any ONNX transformer.
pub mod error;
pub use error::{Context, Error, ErrorKind, Result};
