//! A model as every command reads it: its graph opened once, what the files beside it say of it, and its computation in float32.

pub mod base;
pub mod class_names;
pub mod declared;
pub mod finite;
pub mod upcast;
