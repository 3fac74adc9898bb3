//! `peft-onnx export`

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::json;

use super::{Global, output};
use crate::error::{Context, Error, Result};
use crate::export::Manifest;
use crate::runtime::adapter_file;

const AFTER_HELP: &str = "\
Examples:
  peft-onnx export model.lora --format peft -o adapter       # a folder that PeftModel.from_pretrained loads";

/// Options of `export`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// What to write
    #[arg(long, value_name = "FORMAT")]
    pub format: Format,
    /// Where to write it
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
}

/// Forms of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Hugging Face PEFT's folder: adapter_config.json and adapter_model.safetensors
    Peft,
    /// ONNX Runtime's adapter file (not available yet)
    #[value(name = "onnx_adapter")]
    OnnxAdapter,
    /// The graph with the adapter's tensors as optional inputs (not available yet)
    Inference,
}

/// The files of an adapter in PEFT's form; the last only for methods that have an encoder.
const PEFT_FILES: [&str; 3] = [crate::peft::CONFIG_FILE, adapter_file::FILE, crate::peft::ENCODER_FILE];

/// Writes the adapter in another form.
///
/// # Errors
/// If the bundle is not whole or the target cannot be written.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    Manifest::read(&args.bundle)?;
    match args.format {
        Format::Peft => peft(&args.bundle, &args.output)?,
        Format::OnnxAdapter | Format::Inference => {
            return Err(Error::unsupported("this format", "only `--format peft` can be written yet"));
        }
    }
    if global.json {
        return output::print_json(&json!({"output": args.output}));
    }
    if global.quiet { Ok(()) } else { output::print(&format!("wrote {}", args.output.display())) }
}

fn peft(bundle: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).in_file(folder)?;
    for name in PEFT_FILES {
        let file = bundle.join(name);
        if file.exists() {
            let bytes = std::fs::read(&file).in_file(&file)?;
            crate::files::replace(&folder.join(name), &bytes)?;
        }
    }
    Ok(())
}
