//! `peft-onnx check`

use super::Global;
use crate::error::{Error, Result};

/// Options of `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// Always.
pub fn run(_args: &Args, _global: &Global) -> Result<()> {
    Err(Error::unsupported("`check`", "it is being written"))
}
