//! The command line: one file a command, each its options and a function that runs it.
//!
//! What a command prints for people goes to standard output as text, for programs (`--json`) as JSON; progress and warnings go to standard
//! error, which need not be readable. With `--json` the last line of standard error is the error as JSON. Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted (143 by SIGTERM, 129 by
//! SIGHUP).

pub mod chat;
pub mod check;
mod columns;
pub mod combine;
pub mod completions;
mod config;
pub mod convert;
pub mod data;
mod door;
pub mod eval;
mod expanded;
pub mod export;
mod failure;
pub mod finetune;
mod flags;
pub mod generate;
mod global;
mod hard_prompt;
pub mod help;
pub mod inject;
pub mod inspect;
mod memory;
pub mod merge;
mod model_args;
mod opening;
mod output;
pub mod plan;
pub mod predict;
mod progress;
mod rows;
pub mod runs;
pub mod runtime;
#[cfg(feature = "serve")]
pub mod serve;
mod signals;
mod sizes;
mod target;
mod task;
pub mod train;
mod usage;
mod which;

use clap::{Parser, Subcommand};

pub use columns::Columns;
pub use expanded::expanded;
pub use failure::{describe, report, report_usage};
pub use global::Global;
pub use help::command;
pub use model_args::{BundleArgs, ModelArgs};
pub use rows::RowArgs;
pub use usage::read;
pub use which::Which;

use crate::error::Result;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 the work failed (the reason is on standard error), 2 wrong usage, 130 interrupted.

Examples:
  peft-onnx finetune model/ --data tickets.csv -o tuned/   # the whole way; or step by step:
  peft-onnx inspect model.onnx                        # what is in it, and what each method could train
  peft-onnx inject  model.onnx --method lora          # writes the bundle model.lora/
  peft-onnx train   model.lora --data train.jsonl     # trains its adapter
  peft-onnx generate model.lora --prompt 'Once upon'  # tries it
  peft-onnx merge   model.lora -o tuned.onnx          # one ordinary ONNX model";

/// Fine-tunes any ONNX transformer, on a stock ONNX Runtime
///
/// peft-onnx adds the trainable tensors of a PEFT method (LoRA and others) to an exported model, writes the backward pass as ordinary
/// ONNX operators, and trains. It writes Hugging Face PEFT files and plain ONNX models.
#[derive(Debug, Parser)]
#[command(name = "peft-onnx", version, propagate_version = true, after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Make a tuned model of a model and data: inject, train and merge in one
    Finetune(Box<finetune::Args>),
    /// Show what is in a model: layers, projections, attention, possible targets, operators
    Inspect(inspect::Args),
    /// Add an adapter to a model, and write the bundle of graphs that train and run it
    Inject(Box<inject::Args>),
    /// Show what a data file is: columns, lengths, classes, and rows with what is learnt in colour
    Data(Box<data::Args>),
    /// Foretell the memory and time of a training step, and the largest batch that fits
    Plan(plan::Args),
    /// Train the adapter of a bundle
    Train(Box<train::Args>),
    /// List the runs of a bundle: how they ended, their losses, the options that differ
    Runs(runs::Args),
    /// Measure loss and metrics of a model or bundle on a data file
    Eval(eval::Args),
    /// Answer the rows of a data file: class and probability, score, vector, text, entities
    Predict(Box<predict::Args>),
    /// Fold a bundle's adapter into its base: one ordinary ONNX model
    Merge(merge::Args),
    /// Write a bundle's adapter or inference graph in another form
    Export(export::Args),
    /// Write a model in another form: weights inside or beside it, older or fused operators decomposed
    Convert(convert::Args),
    /// Combine several LoRA adapters into one
    Combine(combine::Args),
    /// Write text with a model or bundle
    Generate(generate::Args),
    /// Talk with a model or bundle, line by line
    Chat(chat::Args),
    /// Answer over HTTP, in the words of OpenAI's API; with many adapters on one base
    #[cfg(feature = "serve")]
    Serve(serve::Args),
    /// Compare a bundle's gradients with finite differences of its loss
    Check(check::Args),
    /// Show which ONNX Runtime is used, and how to get one
    Runtime(runtime::Args),
    /// Write completions for a shell, or manual pages
    Completions(completions::Args),
}

/// Runs a command.
///
/// # Errors
/// Whatever kept the command from doing its work.
pub fn run(cli: &Cli) -> Result<()> {
    cli.global.start_log();
    if !matches!(cli.command, Command::Train(_)) {
        signals::listen(signals::First::Ends);
    }
    door::alone(&cli.command)?;
    match &door::open(&cli.command, &cli.global)? {
        Command::Finetune(args) => finetune::run(args, &cli.global),
        Command::Inspect(args) => inspect::run(args, &cli.global),
        Command::Inject(args) => inject::run(args, &cli.global),
        Command::Data(args) => data::run(args, &cli.global),
        Command::Plan(args) => plan::run(args, &cli.global),
        Command::Train(args) => train::run(args, &cli.global),
        Command::Runs(args) => runs::run(args, &cli.global),
        Command::Eval(args) => eval::run(args, &cli.global),
        Command::Predict(args) => predict::run(args, &cli.global),
        Command::Merge(args) => merge::run(args, &cli.global),
        Command::Export(args) => export::run(args, &cli.global),
        Command::Convert(args) => convert::run(args, &cli.global),
        Command::Combine(args) => combine::run(args, &cli.global),
        Command::Generate(args) => generate::run(args, &cli.global),
        Command::Chat(args) => chat::run(args, &cli.global),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(args, &cli.global),
        Command::Check(args) => check::run(args, &cli.global),
        Command::Runtime(args) => runtime::run(args, &cli.global),
        Command::Completions(args) => completions::run(args, &cli.global),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
