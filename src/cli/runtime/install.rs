//! `peft-onnx runtime install`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::super::{Global, output};
use crate::error::{Error, Result};
use crate::install::{self, Address, Build, Installed, Machine, OFFICIAL};
use crate::ort::library::{self, Surroundings};
use crate::ort::{Options, Runtime};

/// The variable by which pip is told of another index.
const INDEX: &str = "PIP_INDEX_URL";

const AFTER_HELP: &str = "\
The library comes out of the wheel that pip would install, whose SHA-256 must be the one that the index says. It goes into the user's data folder,
in place of what an earlier install put there, and is loaded once to see that it works. CUDA and cuDNN themselves are not part of it.

Examples:
  peft-onnx runtime install cpu
  peft-onnx runtime install cuda --version 1.31.1
  peft-onnx runtime install cpu --index https://packages.example/simple
  peft-onnx runtime install cpu --from onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl   # without a network";

/// Options of `runtime install`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP, disable_version_flag = true)]
pub struct Args {
    /// cpu, or cuda for NVIDIA's GPUs
    #[arg(value_name = "BUILD")]
    pub build: Build,
    /// This version [default: the newest]
    #[arg(long, value_name = "VERSION", conflicts_with = "from")]
    pub version: Option<String>,
    /// The package index, in pip's words [default: PIP_INDEX_URL, else the official one]
    #[arg(long, value_name = "URL", conflicts_with = "from")]
    pub index: Option<String>,
    /// A wheel that was fetched by other means, under its own name
    #[arg(long, value_name = "FILE.whl")]
    pub from: Option<PathBuf>,
}

/// Gets an ONNX Runtime.
///
/// # Errors
/// No network and no wheel; a wheel that is not what the index says, or not for this machine; a library that does not load.
pub(super) fn run(args: &Args, global: &Global) -> Result<()> {
    let build = args.build;
    let around = Surroundings::of_process(global.onnxruntime.clone());
    let folder = library::user_folder(&around).ok_or_else(|| {
        Error::not_found("folder of the user's data", "HOME").with_hint("set HOME (LOCALAPPDATA on Windows) to an absolute path")
    })?;
    let machine = Machine::this();
    let installed = match &args.from {
        Some(wheel) => install::from_file(wheel, build, &machine, &folder, &loads)?,
        None => install::or_by_hand(fetched(args, build, &machine, &folder, global), build, &machine)?,
    };
    let first = library::attempts(&around).find_map(|attempt| Some((attempt.source, attempt.found?)).filter(|_| attempt.refused.is_none()));
    let other = first.filter(|(_, path)| !path.starts_with(&folder));
    if global.json {
        let Installed { folder, wheel, sha256, files } = &installed;
        let version = installed.version();
        let first = other.map(|(_, path)| path);
        let told = json!({"folder": folder, "wheel": wheel, "sha256": sha256, "files": files, "version": version, "comes_first": first});
        return output::print_json(&told);
    }
    output::print(&format!("ONNX Runtime {} is in {}", installed.version(), installed.folder.display()))?;
    if args.from.is_some() {
        output::print(&format!("SHA-256 of the wheel, to be compared with the index's: {}", installed.sha256))?;
    }
    match other {
        Some((source, path)) => output::print(&format!("but {source} comes first: {}", path.display())),
        None => Ok(()),
    }
}

/// Loads the library of a folder. Where a loaded library keeps its folder from being renamed, the next command is the first to load it.
fn loads(folder: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    Runtime::start(&Options { library: Some(folder.to_path_buf()), threads: None }).map(|_| ())
}

fn fetched(args: &Args, build: Build, machine: &Machine, folder: &Path, global: &Global) -> Result<Installed> {
    let named = args.index.clone().or_else(|| std::env::var(INDEX).ok().filter(|index| !index.is_empty()));
    let address = Address::read(named.as_deref().unwrap_or(OFFICIAL))?;
    let file = install::find(&address, build, machine, args.version.as_deref())?;
    global.note(&format!("fetching {} from {address}", file.name));
    let bar = (!global.quiet && std::io::stderr().is_terminal()).then(bar);
    let installed = install::fetch(&address, &file, folder, &loads, &mut |count, all| {
        if let Some(bar) = &bar {
            bar.set_length(all.unwrap_or(count));
            bar.set_position(count);
        }
    });
    bar.iter().for_each(ProgressBar::finish_and_clear);
    installed
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
