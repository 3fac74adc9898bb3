//! `peft-onnx convert`

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;

use super::{Global, output, target};
use crate::error::{Context, Result};
use crate::ir::Graph;
use crate::model;
use crate::onnx::{self, Storage, WriteOptions};

const AFTER_HELP: &str = "\
Without options the model is written again as it was read: the same graph, the same weights.

Examples:
  peft-onnx convert model.onnx -o small.onnx --weights external   # weights in small.onnx.data, for models of more than 2 GB
  peft-onnx convert model.onnx -o one-file.onnx --weights inline
  peft-onnx convert old.onnx -o new.onnx --form raised             # opset 18, functions inlined
  peft-onnx convert fused.onnx -o plain.onnx --form plain          # fused and quantised operators decomposed, as for training";

/// Options of `convert`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Any ONNX model
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The model to write
    #[arg(short, long, value_name = "MODEL")]
    pub output: PathBuf,
    /// Where its weights go
    #[arg(long, value_name = "WHERE", default_value = "keep")]
    pub weights: Place,
    /// Which operators to write it in
    #[arg(long, value_name = "FORM", default_value = "keep")]
    pub form: Spelling,
    /// Replace the model if it is there
    #[arg(long)]
    pub force: bool,
}

/// Where weights go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// As they are: inside the model's file, or in one file beside it
    Keep,
    /// Inside the model's file
    Inline,
    /// In one file beside the model
    External,
}

/// Which operators a graph is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Spelling {
    /// Leaves the operators as they are
    Keep,
    /// Operators of opset 18, or of the model's own opset if that is newer; functions inlined
    Raised,
    /// The same, with fused and quantised operators decomposed
    Plain,
}

/// Writes a model in another form.
///
/// # Errors
/// If the model cannot be read, or has no such form; if the target cannot be written.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    target::file(&args.output, args.force, &[Some(&args.model)])?;
    let read = onnx::read(&args.model)?;
    let graph = formed(&read, args.form).in_file(&args.model)?;
    let storage = storage(args, &graph)?;
    onnx::write(&graph, &args.output, &WriteOptions { storage })?;
    model::finite::warn(&graph);
    if global.json {
        let (opset, nodes) = (graph.model().opset(), graph.nodes().len());
        return output::print_json(&json!({"model": args.output, "opset": opset, "nodes": nodes}));
    }
    if global.quiet { Ok(()) } else { output::print(&format!("wrote {}", args.output.display())) }
}

fn formed(graph: &Graph, form: Spelling) -> Result<Graph> {
    match form {
        Spelling::Keep => Ok(graph.clone()),
        Spelling::Raised => model::raised(graph),
        Spelling::Plain => model::plain(graph),
    }
}

fn storage(args: &Args, graph: &Graph) -> Result<Storage> {
    let stem = args.output.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let file = format!("{stem}.data");
    Ok(match (args.weights, onnx::has_external(graph, &args.model)?) {
        (Place::Inline, _) | (Place::Keep, false) => Storage::Inline,
        (Place::External, _) | (Place::Keep, true) => Storage::External { file },
    })
}
