//! The command line.

use std::process::ExitCode;

use clap::Parser;
use peft_onnx::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if cli::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", cli::describe(&error));
            ExitCode::FAILURE
        }
    }
}
