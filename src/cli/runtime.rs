//! `peft-onnx runtime`

mod install;

use clap::Subcommand;
use serde_json::json;

use super::flags::with_flags;
use super::{Global, output};
use crate::error::Result;
use crate::ort::{library, missing_for_cuda};

const AFTER_HELP: &str = "\
The library is looked for, in this order: --onnxruntime PATH; the variable ORT_DYLIB_PATH; the folder .ort of the checkout that the
program was built in (scripts/get_onnxruntime.sh fills it); beside the program; the user's data folder (~/.local/share/peft-onnx/onnxruntime);
the onnxruntime package of the active Python; the system's folders. Never in the current folder. A library that others could
have changed is not loaded, and none that is loaded reports to anybody.

Examples:
  peft-onnx runtime
  peft-onnx runtime --onnxruntime /opt/onnxruntime/lib
  peft-onnx runtime install cpu  # gets it without Python; cuda for NVIDIA's GPUs
  pip install onnxruntime        # another way; onnxruntime-gpu for CUDA";

/// Options of `runtime`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do; without it, show which one is used.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What is done about the library.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Get an ONNX Runtime from the index of Python packages, without Python
    Install(install::Args),
}

/// Shows which ONNX Runtime is used, or gets one.
///
/// # Errors
/// If there is none; the error says where was looked and how to get one.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    if let Some(Action::Install(args)) = &args.action {
        return install::run(args, global);
    }
    let facts = global.runtime(None)?.facts();
    if global.json {
        return output::print_json(&json!({
            "library": facts.path,
            "source": facts.source.to_string(),
            "version": facts.version,
            "providers": facts.providers,
            "threads": facts.threads,
            "build": facts.build,
            "missing_for_cuda": missing_for_cuda(facts),
        }));
    }
    let missing = missing_for_cuda(facts);
    let missing = if missing.is_empty() {
        String::new()
    } else {
        format!(
            "\n\n`--device cuda` needs {}, not found here: the driver brings libcuda, `pip install onnxruntime-gpu[cuda,cudnn]` the others",
            missing.join(" and ")
        )
    };
    output::print(&format!("{facts}{missing}\n\nanother one: {}", with_flags(library::HINT)))
}
