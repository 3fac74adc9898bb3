//! `peft-onnx inspect`

mod group;
mod text;

use std::path::PathBuf;

use super::{Global, output};
use crate::error::Result;
use crate::inspect::{self, Report};
use crate::model::Beside;
use crate::onnx;

const AFTER_HELP: &str = "\
Module names are those of Hugging Face's model, as --target-modules takes them; numbers of layers that look alike are joined: layers.{0..29}.

Examples:
  peft-onnx inspect model.onnx
  peft-onnx inspect model.onnx --ops          # every operator, and whether gradients pass it
  peft-onnx inspect model.onnx --explain      # explains what was not recognised
  peft-onnx inspect model.onnx --json | jq '.projections[].module'";

/// Options of `inspect`.
#[expect(clippy::struct_excessive_bools, reason = "flags of the command line")]
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Any ONNX model
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// List the operators, how often they occur, and whether gradients pass them
    #[arg(long)]
    pub ops: bool,
    /// Explain what was not recognised: where the search ended and why
    #[arg(long)]
    pub explain: bool,
    /// List every value: what is known of its type and shape, and what makes it
    #[arg(long)]
    pub values: bool,
    /// Print the graph as ONNX text instead
    #[arg(long, conflicts_with_all = ["ops", "explain", "values"])]
    pub text: bool,
}

/// Shows what is in a model.
///
/// # Errors
/// If the file is no ONNX model.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let graph = onnx::read(&args.model)?;
    if args.text {
        return output::print(&graph.to_string());
    }
    let mut report = Report::of(&args.model, &graph, &Beside::near(&args.model));
    report.values = args.values.then(|| inspect::values(&graph));
    if global.json { output::print_json(&report) } else { output::print(&text::render(&report, args)) }
}
