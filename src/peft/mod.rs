//! Hugging Face PEFT's files: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Reading is lenient where PEFT is, and never silent: a setting that changes the computation and is not known here is an error that names it.
//! Writing is minimal, so that old versions of PEFT load it, and keeps what an original file had beside.

pub mod body;
pub mod combine;
mod config;
mod folder;
mod names;
pub mod saved_head;
mod weights;
pub mod written;

pub use config::AdapterConfig;
pub use folder::{AdapterFiles, file_beside, read, read_tensors, write};
pub use names::{CONFIG_FILE, ENCODER_FILE, FACTORS_FILE, WEIGHTS_FILE};
pub use weights::{Matched, Misfit, canonical, match_params};
