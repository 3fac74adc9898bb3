//! `peft-onnx eval`

use super::Global;
use crate::error::{Error, Result};

/// Options of `eval`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// Always.
pub fn run(_args: &Args, _global: &Global) -> Result<()> {
    Err(Error::unsupported("`eval`", "it is being written"))
}
