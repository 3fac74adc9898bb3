//! `peft-onnx export`

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::json;

use super::train::Hyperparameters;
use super::{BundleArgs, Global, output, target};
use crate::error::{Context, Error, Result};
use crate::export::{Bundle, Manifest, adapter_file, card, layout, onnx_adapter, pending, training_loop, vjp};
use crate::onnx::{self, Storage, WriteOptions};

const AFTER_HELP: &str = "\
Examples:
  peft-onnx export model.lora --format peft -o adapter                    # a folder that PeftModel.from_pretrained loads
  peft-onnx export model.lora --format onnx_adapter -o a.onnx_adapter     # activated run by run on model.lora/inference.onnx
  peft-onnx export model.lora --format onnx_adapter --adapter other.lora -o b.onnx_adapter
  peft-onnx export model.lora --format inference -o adapted.onnx          # a complete model with the adapter as optional inputs
  peft-onnx export model.lora --format inference --required-inputs -o fed.onnx    # the same where every input must be fed: adapters swapped in a browser
  peft-onnx export model.lora --format training -o loop                   # for a training loop of your own, its numbers fixed: examples/training_loop";

/// Options of `export`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The bundle.
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// What to write
    #[arg(long, value_name = "FORMAT")]
    pub format: Format,
    /// Another adapter instead of the bundle's own, for onnx_adapter: a bundle or a PEFT folder with the same modules and ranks
    #[arg(long, value_name = "FOLDER")]
    pub adapter: Option<PathBuf>,
    /// The optimizer's numbers, for training.
    #[command(flatten)]
    pub hyperparameters: Hyperparameters,
    /// Where to write it
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Have the adapter's tensors fed in every run, for inference: for onnxruntime-web and -node, which feed no optional inputs
    #[arg(long)]
    pub required_inputs: bool,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
}

/// Forms of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Hugging Face PEFT's folder: adapter_config.json and adapter_model.safetensors
    Peft,
    /// ONNX Runtime's adapter file: values for the optional inputs of the bundle's inference graph
    #[value(name = "onnx_adapter")]
    OnnxAdapter,
    /// The inference graph as one complete model, with the adapter's tensors as optional inputs
    Inference,
    /// A complete folder for training loops in any language: training.onnx is one step, with the state as ordinary inputs and outputs;
    /// gradient.onnx and update.onnx are its halves, initial.onnx gives the first state; evaluation.onnx and inference.onnx run the result
    Training,
    /// A complete folder for losses in another program: forward.onnx gives the outputs, vjp.onnx turns their gradients into the adapter's,
    /// update.onnx makes the next state
    Vjp,
}

/// The files of an adapter in PEFT's form; the last only for methods that have an encoder.
const PEFT_FILES: [&str; 4] = [crate::peft::CONFIG_FILE, adapter_file::FILE, crate::peft::ENCODER_FILE, crate::peft::FACTORS_FILE];

/// Writes the adapter in another form.
///
/// # Errors
/// If the bundle is not whole or the target cannot be written.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    if args.adapter.is_some() && args.format != Format::OnnxAdapter {
        return Err(Error::invalid("--adapter goes with --format onnx_adapter alone"));
    }
    if args.required_inputs && args.format != Format::Inference {
        return Err(Error::invalid("--required-inputs goes with --format inference alone"));
    }
    let adapter = match args.bundle.which.folder(&args.bundle.path)? {
        Some(folder) => folder,
        None => pending::adapter_folder(&args.bundle.path),
    };
    // An adapter that is none is not handed on in any form.
    crate::peft::read(&adapter)?;
    let output = args.output.as_path();
    let read = [Some(args.bundle.path.as_path()), args.bundle.base.as_deref(), args.adapter.as_deref()];
    match args.format {
        Format::Peft => peft(args, &adapter)?,
        Format::OnnxAdapter => {
            target::file(output, args.force, &read)?;
            onnx_adapter::write(&args.bundle.path, args.adapter.as_deref().or(Some(&adapter)), output).map(|_| ())?;
        }
        Format::Inference => {
            target::file(output, args.force, &read)?;
            let bundle = open(args)?;
            let graph = if args.required_inputs { training_loop::fed_inference(&bundle)? } else { bundle.adapted()? };
            onnx::write(&graph, output, &WriteOptions { storage: Storage::Inline })?;
        }
        Format::Vjp => {
            let folder = target::folder(output, args.force, &vjp::FILES, &read)?;
            vjp::write(&open(args)?, folder.path())?;
            folder.finish()?;
        }
        Format::Training => {
            let folder = target::folder(output, args.force, &training_loop::FILES, &read)?;
            training_loop::write(&open(args)?, &args.hyperparameters.values(), folder.path())?;
            folder.finish()?;
        }
    }
    if global.json {
        return output::print_json(&json!({"output": args.output}));
    }
    if global.quiet { Ok(()) } else { output::print(&format!("wrote {}", args.output.display())) }
}

fn peft(args: &Args, from: &Path) -> Result<()> {
    let manifest = Manifest::read(&args.bundle.path)?;
    let folder = target::folder(&args.output, args.force, &layout::adapter_files(), &[Some(&args.bundle.path)])?;
    let card = args.bundle.path.join(card::FILE);
    for file in PEFT_FILES.iter().map(|name| from.join(name)).chain([card.clone()]).filter(|file| file.exists()) {
        let bytes = std::fs::read(&file).in_file(&file)?;
        crate::files::replace(&folder.path().join(file.file_name().unwrap_or_default()), &bytes)?;
    }
    if !card.exists() {
        card::write(folder.path(), &manifest, &[])?;
    }
    // An adapter is read without its base, too: where that is not there, neither is its tokenizer.
    let base = args.bundle.base.clone().unwrap_or_else(|| args.bundle.path.join(&manifest.base.path));
    layout::copy_tokenizer(&base, folder.path())?;
    folder.finish()
}

fn open(args: &Args) -> Result<Bundle> {
    args.bundle.open()
}
