//! Finished work as files: bundles, and merged models.

pub mod adapter_file;
pub mod belongs;
mod body;
pub mod bundle;
mod cache;
pub mod card;
mod fed;
pub mod fingerprint;
pub mod given;
pub mod injection;
pub mod layout;
pub mod lock;
mod loss_request;
pub mod manifest;
pub mod merge;
mod names;
pub mod objective;
pub mod onnx_adapter;
mod opened;
pub mod pending;
mod prompt_scale;
mod reach;
mod recorded_prompts;
pub mod stacked;
pub mod to_train;
pub mod trainable;
pub mod training_loop;
pub mod vjp;

pub use injection::{AdapterSource, Injected, Injection};
pub use manifest::Manifest;
pub use names::{CHECKPOINTS, INFERENCE, INITIAL, LENT, RUNS};
pub use opened::{Bundle, WHOLE};
pub use prompt_scale::PromptScale;
