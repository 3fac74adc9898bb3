//! The command line.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use peft_onnx::cli::{self, Cli};

/// Graphs are many small vectors and names: most of what `inject` did was to allocate and free them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

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
