//! Finished work as files: bundles, and merged models.

pub mod base;
pub mod bundle;
pub mod class_names;
pub mod given;
pub mod lock;
pub mod manifest;
pub mod merge;
pub mod onnx_adapter;
pub mod pending;
pub mod training_loop;

pub use manifest::Manifest;
