//! `--config FILE`: options of `train` and `finetune` by their long names, from YAML. What the command line says wins.
//!
//! A run keeps its own in `config.yaml`, and a tuned model's folder those of `finetune`; both can be read again. A run that is resumed goes on with its own
//! options where nothing else is said.

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, ArgMatches, CommandFactory};
use serde::Serialize;
use serde_yaml_ng::{Mapping, Value};

use super::Cli;
use crate::error::{Context, Error, Result};
use crate::files;

/// The option that names a file of options.
pub(super) const OPTION: &str = "config";
/// Options of which the command line takes one at most: one of them there outdoes the other in the file.
const EITHER: [&[&str]; 4] =
    [&["epochs", "max-steps"], &["resume", "continue", "restart"], &["eval-data", "val-size"], &["method", "adapter"]];
const FORMAT: &str = "a file of options";
/// Options that say what to do this time, not how.
pub(super) const OF_THIS_TIME: [&str; 6] = ["resume", "continue", "restart", "run", "force", "output"];

/// Options of a command as YAML, as they can be read again.
///
/// # Errors
/// Never for options whose values have a text.
pub(super) fn text(command: &str, options: &impl Serialize) -> Result<String> {
    let as_format = |error| Error::format(FORMAT, error);
    let mut options: Mapping = serde_yaml_ng::to_value(options).and_then(serde_yaml_ng::from_value).map_err(as_format)?;
    options.retain(|_, value| !value.is_null());
    let text = serde_yaml_ng::to_string(&options).map_err(as_format)?;
    Ok(format!("# What `peft-onnx {command}` was asked for; `--config` with this file asks for it again.\n{text}"))
}

/// The options that a command line has, said or by default, by their long names.
pub(super) fn used(command: &clap::Command, matches: &ArgMatches) -> Mapping {
    let mut used = Mapping::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_global_set()) {
        let (Some(name), id) = (arg.get_long(), arg.get_id().as_str()) else { continue };
        if name == OPTION || !matches.try_contains_id(id).unwrap_or(false) {
            continue;
        }
        let value = if arg.get_action().takes_values() {
            let raw = matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy().into_owned());
            let mut texts: Vec<String> = raw.collect();
            match texts.len() {
                1 => Value::String(texts.remove(0)),
                _ => Value::Sequence(texts.into_iter().map(Value::String).collect()),
            }
        } else {
            Value::Bool(matches.get_flag(id))
        };
        // Switches that are off say nothing.
        if value != Value::Bool(false) {
            used.insert(name.into(), value);
        }
    }
    used
}

/// The most brackets that stand in one another in a file of options.
const DEEPEST: usize = 64;

/// Refuses brackets in brackets in brackets, which the reader of YAML takes ever longer for.
fn is_shallow(text: &str) -> Result<()> {
    let mut depth = 0_usize;
    for letter in text.chars() {
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Err(Error::format(FORMAT, format!("more than {DEEPEST} brackets stand in one another")));
        }
    }
    Ok(())
}

/// The options in a file, by their names.
///
/// # Errors
/// If it cannot be read, or is no YAML mapping.
pub(super) fn read(path: &Path) -> Result<Mapping> {
    let text = files::read_text(path)?;
    is_shallow(&text).in_file(path)?;
    let value: Value = serde_yaml_ng::from_str(&text).map_err(|error| Error::format(FORMAT, error)).in_file(path)?;
    match value {
        Value::Mapping(options) => Ok(options),
        Value::Null => Ok(Mapping::new()),
        _ => Err(Error::format(FORMAT, "expected `option: value` lines")).in_file(path),
    }
}

/// Options of a file as arguments, but for what other arguments say.
///
/// # Errors
/// A name that is no option, with those that are nearest; a value that is none of an option.
pub(super) fn arguments(name: &str, options: Mapping, said: &[OsString]) -> Result<Vec<OsString>> {
    let cli = Cli::command();
    let command = cli.find_subcommand(name).ok_or_else(|| Error::not_found("command", name))?;
    let mut added = vec![];
    for (key, value) in options {
        let Some(key) = key.as_str().map(|key| key.replace('_', "-")) else {
            return Err(Error::format(FORMAT, format!("{} is no name of an option", shown(&key))));
        };
        let arg = command.get_arguments().find(|arg| names(arg).contains(&key.as_str())).ok_or_else(|| unknown(&key, command))?;
        let name = arg.get_long().unwrap_or_default();
        if name == OPTION || is_outdone(name, arg, command, said) {
            continue;
        }
        added.extend(written(name, &value)?);
    }
    Ok(added)
}

/// An option as it stands on a command line.
fn written(name: &str, value: &Value) -> Result<Vec<OsString>> {
    let one = |value: &Value| -> Result<Vec<OsString>> {
        let with = |text: String| Ok(vec![format!("--{name}={text}").into()]);
        match value {
            Value::Null | Value::Bool(false) => Ok(vec![]),
            Value::Bool(true) => Ok(vec![format!("--{name}").into()]),
            Value::Number(number) => with(number.to_string()),
            Value::String(text) => with(text.clone()),
            _ => Err(Error::format(FORMAT, format!("{name} is {}, expected a number, a text, true or false", shown(value)))),
        }
    };
    match value {
        Value::Sequence(values) => Ok(values.iter().map(one).collect::<Result<Vec<_>>>()?.concat()),
        value => one(value),
    }
}

/// Whether the command line says an option, or one that goes in its place.
fn is_outdone(name: &str, arg: &Arg, command: &clap::Command, arguments: &[OsString]) -> bool {
    let rivals = EITHER.iter().find(|group| group.contains(&name)).copied().unwrap_or_default();
    let rivals = command.get_arguments().filter(|other| other.get_long().is_some_and(|long| rivals.contains(&long)));
    rivals.chain([arg]).flat_map(names).any(|name| {
        let said = arguments.iter().filter_map(|argument| argument.to_str()?.strip_prefix("--"));
        // Hugging Face's programs spell options with `_`.
        said.map(|said| said.split('=').next().unwrap_or_default().replace('_', "-")).any(|said| said == name)
    })
}

/// The long name of an option, and others for it.
fn names(arg: &Arg) -> Vec<&str> {
    arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default()).collect()
}

fn unknown(key: &str, command: &clap::Command) -> Error {
    let all: Vec<&str> = command.get_arguments().filter_map(Arg::get_long).collect();
    let shares = |name: &&&str| name.split('-').any(|part| key.split('-').any(|other| part == other));
    let near: Vec<String> = all.iter().filter(shares).map(|name| format!("`{name}`")).collect();
    let hint = if near.is_empty() {
        format!("`peft-onnx {} --help` lists them", command.get_name())
    } else {
        format!("is it {}?", near.join(" or "))
    };
    Error::not_found("option", key).with_hint(hint)
}

fn shown(value: &Value) -> String {
    serde_yaml_ng::to_string(value).unwrap_or_default().trim().to_owned()
}
