//! What a command line says, with the options of files: the one that `--config` names, and that of a run that is resumed.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde_yaml_ng::Value;

use super::{Command, config, usage};
use crate::error::{Context, Error, Result};
use crate::training::runs::Runs;

/// The commands that take a file of options.
const COMMANDS: [&str; 2] = ["train", "finetune"];
/// Options that name files which are read.
const FILES: [&str; 7] = ["data", "eval-data", "tokenizer", "base", "adapter", "loss-graph", "teacher"];
/// What stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Adds the options of the file that `--config` names to those of the command line that do not say otherwise; then those of the run that is resumed.
///
/// # Errors
/// A file that cannot be read or is no YAML mapping; a name that is no option, with those that are nearest.
pub fn expanded(mut arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    let said = arguments.iter().skip(1).find(|argument| !is_option(argument));
    let Some(name) = COMMANDS.into_iter().find(|name| said.is_some_and(|said| said == name)) else { return Ok(arguments) };
    if let Some(path) = value_of(&arguments, config::OPTION) {
        let added = config::arguments(name, config::read(&path)?, &arguments).in_file(&path)?;
        added.iter().try_for_each(|argument| is_from_here(argument, &path)).in_file(&path)?;
        arguments.extend(added);
    }
    if let Some(path) = of_resumed_run(&arguments) {
        let mut own = config::read(&path)?;
        // Nobody gives the same rows to standard input unasked.
        let is_of_this_time = |name: &str, value: &Value| config::OF_THIS_TIME.contains(&name) || value.as_str() == Some(STANDARD_INPUT);
        own.retain(|name, value| !name.as_str().is_some_and(|name| is_of_this_time(name, value)));
        let added = config::arguments(name, own, &arguments).in_file(&path)?;
        added.iter().try_for_each(|argument| is_there(argument)).in_file(&path)?;
        arguments.extend(added);
    }
    Ok(arguments)
}

/// Refuses a file that lies beside the file of options, and not where paths start: in the folder in which the command is given.
fn is_from_here(argument: &OsStr, options: &Path) -> Result<()> {
    let Some((name, path)) = file_of(argument).filter(|(_, path)| !Path::new(path).exists()) else { return Ok(()) };
    let folder = options.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Some(beside) = folder.map(|folder| folder.join(path)).filter(|beside| beside.exists()) else { return Ok(()) };
    let hint = format!(
        "paths start in the folder in which the command is given: say `--{name} {}`, or give the command beside the options",
        beside.display()
    );
    Err(Error::not_found("file", path).with_hint(hint))
}

/// An option that names a file, and the file.
fn file_of(argument: &OsStr) -> Option<(&str, &str)> {
    argument.to_str()?.strip_prefix("--")?.split_once('=').filter(|(name, _)| FILES.contains(name))
}

/// Refuses a file of a run that is not where the run, in whatever folder it was begun, found it.
fn is_there(argument: &OsStr) -> Result<()> {
    match file_of(argument).filter(|(_, path)| !Path::new(path).exists()) {
        Some((name, path)) => {
            let hint = format!("the run found it from the folder that it was begun in: say `--{name} FILE`, or resume it there");
            Err(Error::not_found("file", path).with_hint(hint))
        }
        None => Ok(()),
    }
}

/// The options' file of the run that these arguments resume, if it is there. Arguments that cannot be read are refused later.
fn of_resumed_run(arguments: &[OsString]) -> Option<PathBuf> {
    if !arguments.iter().any(|argument| argument.to_str().is_some_and(|text| text.starts_with("--resume"))) {
        return None;
    }
    // The run knows its data too, which is asked for otherwise; what it says twice is refused, so that one of both is read.
    let with_data = arguments.iter().cloned().chain(["--data=-".into()]);
    let cli = usage::read(arguments.iter().cloned()).or_else(|_| usage::read(with_data)).ok()?;
    let (bundle, training) = match &cli.command {
        Command::Train(args) => (args.bundle.clone(), &args.training),
        Command::Finetune(args) => (args.bundle().ok()?, &args.training),
        _ => return None,
    };
    let runs = Runs::of(&bundle);
    let run = match (training.resume.as_ref()?, &training.run) {
        (Some(checkpoint), _) => runs.with_checkpoint(checkpoint).ok()?,
        (None, Some(name)) => runs.named(name).ok(),
        (None, None) => runs.newest().ok()?,
    };
    run.map(|run| run.config()).filter(|path| path.is_file())
}

fn is_option(argument: &OsStr) -> bool {
    argument.to_str().is_some_and(|text| text.starts_with('-'))
}

/// The value of an option on the command line.
fn value_of(arguments: &[OsString], name: &str) -> Option<PathBuf> {
    let long = format!("--{name}");
    arguments.iter().enumerate().find_map(|(place, argument)| match argument.to_str()?.strip_prefix(&long)? {
        "" => arguments.get(place + 1).map(PathBuf::from),
        rest => rest.strip_prefix('=').map(PathBuf::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded_with(file: &str, line: &str) -> Result<String> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("run.yaml");
        std::fs::write(&path, file)?;
        let line = line.replace("FILE", &path.display().to_string());
        let all = expanded(line.split(' ').map(OsString::from).collect())?;
        let added = &all[line.split(' ').count()..];
        Ok(added.iter().map(|argument| argument.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn options_of_the_file_are_added_where_the_command_line_does_not_say_otherwise() -> Result<()> {
        struct Row(&'static str, &'static str, &'static str);
        for Row(file, line, added) in [
            Row("data: a.jsonl\nepochs: 2\n", "x train b --config FILE", "--data=a.jsonl --epochs=2"),
            Row("learning_rate: 1e-4\npacking: true\nno-shuffle: false\n", "x train b --config=FILE", "--learning-rate=0.0001 --packing"),
            Row("epochs: 2\nseed: 1\n", "x train b --config FILE --max-steps 4", "--seed=1"),
            Row("learning_rate: 1\nseed: 1", "x train b --config FILE --learning_rate 2", "--seed=1"),
            Row("seed: 1\nbatch-size: 4", "x train b --config FILE --seed=3", "--batch-size=4"),
            Row("threads: ~\n", "x train b --config FILE", ""),
            Row("", "x train b --config FILE", ""),
            Row("seed: 1", "x -q train b --config FILE", "--seed=1"),
            Row("seed: 1", "x eval b --config FILE", ""),
        ] {
            assert_eq!(expanded_with(file, line)?, added, "{file} {line}");
        }
        Ok(())
    }

    #[test]
    fn files_beside_the_options_are_not_taken_for_those_of_this_folder() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (options, rows) = (folder.path().join("run.yaml"), folder.path().join("rows.jsonl"));
        std::fs::write(&rows, "{}")?;
        std::fs::create_dir(folder.path().join("out"))?;
        for (file, is_right) in
            [("data: rows.jsonl", false), ("eval-data: rows.jsonl", false), ("data: other.jsonl", true), ("run: out", true)]
        {
            std::fs::write(&options, file)?;
            let line = ["x", "train", "b", "--config"].map(OsString::from).into_iter().chain([options.clone().into()]);
            let found = expanded(line.collect());
            let says = |error: Error| error.hint().is_some_and(|hint| hint.contains(&format!("data {}", rows.display())));
            assert_eq!(found.is_ok(), is_right, "{file}");
            assert!(found.map_or_else(says, |_| true), "{file}");
        }
        std::fs::write(&options, format!("data: {}", rows.display()))?;
        assert!(expanded(["x", "train", "b", "--config"].map(OsString::from).into_iter().chain([options.into()]).collect()).is_ok());
        Ok(())
    }

    #[test]
    fn what_is_no_option_is_said() {
        for (file, expected) in [
            ("learning-rat: 1", "is it `learning-rate`?"),
            ("nonsense: 1", "lists them"),
            ("- a\n- b", ""),
            ("seed: {a: 1}", ""),
            ("a: [", ""),
        ] {
            let error = expanded_with(file, "x train b --config FILE").unwrap_err();
            assert!(
                error.to_string().contains("run.yaml") && error.hint().unwrap_or_default().contains(expected),
                "{error} {:?}",
                error.hint()
            );
        }
    }
}
