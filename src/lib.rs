//! Fine-tune any ONNX transformer.
pub mod anatomy;
pub mod error;
pub mod ir;
pub use error::{Context, Error, ErrorKind, Result};
