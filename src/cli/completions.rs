//! `peft-onnx completions`

use std::path::{Path, PathBuf};

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use serde_json::json;

use super::{Cli, Global, help, output};
use crate::error::{Context, Error, Result};
use crate::files;

const AFTER_HELP: &str = "\
A shell's completions are printed, or written into the folder of -o under the name by which that shell looks for them.

Examples:
  peft-onnx completions bash -o ~/.local/share/bash-completion/completions
  peft-onnx completions zsh -o ~/.zfunc          # with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  peft-onnx completions fish -o ~/.config/fish/completions
  peft-onnx completions man -o ~/.local/share/man/man1";

/// Options of `completions`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The shell, or man for manual pages
    #[arg(value_name = "SHELL")]
    pub form: Script,
    /// The folder to write into [default: standard output]
    #[arg(short, long, value_name = "FOLDER", required_if_eq("form", "man"))]
    pub output: Option<PathBuf>,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Script {
    /// Completions for bash
    Bash,
    /// Completions for zsh
    Zsh,
    /// Completions for fish
    Fish,
    /// Completions for PowerShell
    #[value(name = "powershell")]
    PowerShell,
    /// Completions for Elvish
    Elvish,
    /// Manual pages, one a command
    Man,
}

/// Writes completions or manual pages.
///
/// # Errors
/// If the folder cannot be written to.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let shell = match args.form {
        Script::Bash => Shell::Bash,
        Script::Zsh => Shell::Zsh,
        Script::Fish => Shell::Fish,
        Script::PowerShell => Shell::PowerShell,
        Script::Elvish => Shell::Elvish,
        Script::Man => return manual(args.output.as_deref().unwrap_or(Path::new(".")), global),
    };
    let mut command = help::command();
    let name = command.get_name().to_owned();
    let Some(folder) = &args.output else {
        let mut script = vec![];
        clap_complete::generate(shell, &mut command, name, &mut script);
        return output::print(&String::from_utf8_lossy(&script));
    };
    files::make_folder(folder)?;
    let file = clap_complete::generate_to(shell, &mut command, name, folder).in_file(folder)?;
    written(&[file], global)
}

fn manual(folder: &Path, global: &Global) -> Result<()> {
    files::make_folder(folder)?;
    let mut command = help::command();
    command.build();
    let mut files = vec![];
    write_pages(folder, &command, &Cli::command(), &mut files)?;
    written(&files, global)
}

/// Writes the pages of a command and of those below it; `plain` is the command as it was written, with its examples.
fn write_pages(folder: &Path, command: &clap::Command, plain: &clap::Command, files: &mut Vec<PathBuf>) -> Result<()> {
    files.push(write_page(folder, command, plain)?);
    command.get_subcommands().filter(|below| below.get_name() != "help").try_for_each(|below| {
        let plain = plain.find_subcommand(below.get_name()).unwrap_or(below);
        write_pages(folder, below, plain, files)
    })
}

/// The examples of a command as a section of its page, line by line as they are typed.
fn examples(plain: &clap::Command) -> String {
    let text = plain.get_after_help().map(ToString::to_string).unwrap_or_default();
    let Some((_, examples)) = text.split_once(help::EXAMPLES) else { return String::new() };
    let line = |line: &str| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // What begins with one of these is an order to the formatter.
        if line.starts_with(['.', '\'']) { format!("\\&{line}\n") } else { format!("{line}\n") }
    };
    format!(".SH EXAMPLES\n.nf\n{}.fi\n", examples.lines().map(line).collect::<String>())
}

/// Writes the page of a command: `peft-onnx-train.1`.
fn write_page(folder: &Path, command: &clap::Command, plain: &clap::Command) -> Result<PathBuf> {
    let page = clap_mangen::Man::new(command.clone());
    let file = folder.join(page.get_filename());
    let mut text = vec![];
    page.render(&mut text).map_err(Error::from).in_file(&file)?;
    text.extend(examples(plain).into_bytes());
    crate::files::replace(&file, &text)?;
    Ok(file)
}

fn written(files: &[PathBuf], global: &Global) -> Result<()> {
    if global.json {
        return output::print_json(&json!({"files": files}));
    }
    let lines: Vec<String> = files.iter().map(|file| format!("wrote {}", file.display())).collect();
    if global.quiet { Ok(()) } else { output::print(&lines.join("\n")) }
}
