//! The command line.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use peft_onnx::cli;

/// Graphs are many small vectors and names: most of what `inject` did was to allocate and free them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    peft_onnx::ort::without_telemetry();
    let arguments = match cli::expanded(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => return cli::report(&error, std::env::args_os().any(|argument| argument == "--json")),
    };
    let cli = match cli::read(arguments.into_iter()) {
        Ok(cli) => cli,
        Err(error) => return cli::report_usage(&error, std::env::args_os()),
    };
    match cli::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error, cli.global.json),
    }
}
