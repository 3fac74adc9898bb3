//! Fine-tune any ONNX transformer: adapters of parameter-efficient fine-tuning are put into the graph, the backward pass is written out of
//! standard operators, and a stock ONNX Runtime trains the result.
//!
//! ```text
//! onnx::read ─▶ raise ─▶ decompose ─▶ anatomy::read ─▶ adapter::Plan ─▶ train::step ─▶ export::bundle ─▶ training::run ─▶ export::merge
//!   a Graph      one      standard   what a          where what       loss, gradient,  a folder of        PEFT's files        one model
//!                dialect  operators  transformer     is inserted      AdamW            graphs             again
//! ```
//!
//! The binary's commands are thin: each is a function of this library with its options. Three of them make a tuned model:
//!
//! ```no_run
//! use peft_onnx::Model;
//! use peft_onnx::export::Injection;
//! use peft_onnx::export::bundle::{self, Existing};
//! # fn main() -> peft_onnx::Result<()> {
//! let model = Model::open("model.onnx")?;
//! let injected = bundle::write(model, &Injection::default(), "model.lora".as_ref(), Existing::Keep)?;
//! println!("{} parameters are trained", injected.manifest.trainable_count);
//! # Ok(())
//! # }
//! ```
//!
//! Reading, adapting, differentiating and writing need no ONNX Runtime: without the feature `runtime` the crate has no native dependency.

pub mod adapter;
pub mod anatomy;
#[cfg(feature = "runtime")]
pub mod cli;
#[cfg(feature = "runtime")]
pub mod data;
pub mod decompose;
pub mod error;
#[cfg(feature = "runtime")]
pub mod evaluate;
pub mod export;
pub mod files;
#[cfg(feature = "runtime")]
pub mod generate;
pub mod grad;
pub mod ir;
pub mod measure;
#[cfg(feature = "runtime")]
pub mod media;
pub mod model;
pub mod onnx;
#[cfg(feature = "runtime")]
pub mod ort;
pub mod peft;
pub mod safetensors;
pub mod train;
#[cfg(feature = "runtime")]
pub mod training;
pub use error::{Context, Error, ErrorKind, Place, Result};
pub use model::Model;
