//! Options of every command.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anstream::{AutoStream, ColorChoice};
use clap::ArgAction;
use tracing_subscriber::EnvFilter;

use crate::error::Result;
use crate::ort::{Options, Runtime};
use crate::parallel::launcher::Launched;
use crate::work::PROGRESS;

/// Standard error, on which options go by their flags.
struct Flagged;

impl Write for Flagged {
    /// Writes the whole text, an event as it is: flags are longer than what stands for them.
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        let words = String::from_utf8_lossy(text);
        std::io::stderr().lock().write_all(super::flags::with_flags(&words).as_bytes())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().lock().flush()
    }
}

/// Options of every command.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The ONNX Runtime library to load, or a folder that has it [default: what `peft-onnx runtime` shows]
    #[arg(long, value_name = "PATH", global = true)]
    pub onnxruntime: Option<PathBuf>,
    /// Say what is being done; twice for details
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Print nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print results as JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
}

impl Global {
    /// Loads ONNX Runtime.
    ///
    /// # Errors
    /// If there is none that will do.
    pub fn runtime(&self, threads: Option<NonZeroUsize>) -> Result<&'static Runtime> {
        Runtime::start(&Options { library: self.onnxruntime.clone(), threads })
    }

    /// Prints a line for people who watch: to standard error, and not with `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            super::output::note(text);
        }
    }

    /// Starts to write what the program says about its work to standard error.
    pub(super) fn start_log(&self) {
        // Of several processes one speaks for all.
        let is_follower = Launched::here().is_some_and(Launched::is_follower);
        let level = match (self.quiet || is_follower, self.verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "info",
            (false, _) => "debug",
        };
        let asked = || EnvFilter::new(format!("peft_onnx={level},{PROGRESS}={}", if level == "error" { level } else { "info" }));
        let filter = EnvFilter::try_from_env("PEFT_ONNX_LOG").unwrap_or_else(|_| asked());
        // Colours are for terminals alone, and not where NO_COLOR or CLICOLOR say no: as clap decides for its own.
        let is_coloured = AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Flagged).without_time().with_target(false);
        // A second start, as in tests that run two commands, changes nothing.
        let _ = log.with_ansi(is_coloured).log_internal_errors(false).try_init();
    }
}
