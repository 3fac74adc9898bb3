//! Finished work as files: bundles, and merged models.

pub mod manifest;

pub use manifest::Manifest;
