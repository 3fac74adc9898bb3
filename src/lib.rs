//! Fine-tune any ONNX transformer.
pub mod adapter;
pub mod anatomy;
#[cfg(feature = "runtime")]
pub mod cli;
pub mod error;
pub mod export;
pub mod files;
pub mod grad;
pub mod ir;
pub mod onnx;
pub mod peft;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod train;
pub mod unfuse;
pub use error::{Context, Error, ErrorKind, Place, Result};
