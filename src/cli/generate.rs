//! `peft-onnx generate`

use super::Global;
use crate::error::{Error, Result};

/// Options of `generate`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// Always.
pub fn run(_args: &Args, _global: &Global) -> Result<()> {
    Err(Error::unsupported("`generate`", "it is being written"))
}
