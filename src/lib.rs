//! Fine-tune any ONNX transformer.
pub mod adapter;
pub mod anatomy;
pub mod error;
pub mod export;
pub mod grad;
pub mod ir;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod train;
pub use error::{Context, Error, ErrorKind, Place, Result};
