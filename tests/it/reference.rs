//! `docs/reference` is made from the code: options of the command line, tasks with their losses and metrics, the fields of files.
//! `REFERENCE_DOCS=write cargo test --test it reference` writes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, ArgAction, Command};
use peft_onnx::anatomy::TASKS;
use peft_onnx::cli::help;
use peft_onnx::evaluate::{Meter, Scoring};
use peft_onnx::train::losses::Row;

const MADE: &str = "<!-- Made from the code: `REFERENCE_DOCS=write cargo test --test it reference` -->\n";

#[test]
fn the_reference_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference");
    let mut stale = vec![];
    for (name, page) in [("options.md", options()), ("tasks.md", tasks()), ("files.md", files())] {
        let path = folder.join(name);
        if std::env::var("REFERENCE_DOCS").is_ok_and(|word| word == "write") {
            std::fs::write(&path, &page).expect("docs can be written");
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != page {
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "docs/reference is stale: {stale:?}: `REFERENCE_DOCS=write cargo test --test it reference` writes it");
}

/// A text in a cell of a table, or in a line.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}

fn options() -> String {
    let mut page = format!("# Options\n\n{MADE}\nWhat `--help` says of every command, without its examples.\n");
    let mut whole = help::command();
    whole.build();
    let _ = write!(page, "\n## Options of every command\n\n{}", table(whole.get_arguments().filter(|arg| arg.is_global_set())));
    for command in whole.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        described(&mut page, command, "peft-onnx");
    }
    page
}

fn described(page: &mut String, command: &Command, before: &str) {
    let name = format!("{before} {}", command.get_name());
    let positional = command.get_positionals().filter(|arg| !arg.is_hide_set()).map(|arg| {
        let value = arg.get_value_names().and_then(|names| names.first()).map_or_else(|| arg.get_id().as_str(), |name| name.as_str());
        if arg.is_required_set() { format!(" {value}") } else { format!(" [{value}]") }
    });
    let usage: String = positional.collect();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(page, "\n## `{}`\n\n{}.\n\n```text\n{name}{usage} [OPTIONS]\n```\n", name, about.trim_end_matches('.'));
    let own = || {
        command
            .get_arguments()
            .filter(|arg| !arg.is_hide_set() && !arg.is_global_set() && !["help", "version"].contains(&arg.get_id().as_str()))
    };
    let headings: Vec<&str> = own().map(|arg| arg.get_help_heading().unwrap_or_default()).collect();
    let mut seen: Vec<&str> = vec![];
    for heading in headings {
        if !seen.contains(&heading) {
            seen.push(heading);
            let title = if heading.is_empty() { String::new() } else { format!("\n**{heading}**\n") };
            let _ = write!(page, "{title}\n{}", table(own().filter(|arg| arg.get_help_heading().unwrap_or_default() == heading)));
        }
    }
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        described(page, inner, &name);
    }
}

fn table<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let mut rows = String::from("| option | what it does |\n|---|---|\n");
    for arg in arguments {
        let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        let values: Vec<&str> = arg.get_value_names().unwrap_or_default().iter().map(clap::builder::Str::as_str).collect();
        let value = if takes_value && !values.is_empty() { values.join(" ") } else { String::new() };
        let name = match (arg.get_long(), arg.get_short()) {
            (Some(long), Some(short)) => format!("--{long} {value}`, `-{short}"),
            (Some(long), None) => format!("--{long} {value}"),
            (None, Some(short)) => format!("-{short} {value}"),
            (None, None) => value,
        };
        let possible: Vec<String> =
            arg.get_possible_values().iter().filter(|value| !value.is_hide_set()).map(|value| value.get_name().to_owned()).collect();
        let choice = if takes_value && !possible.is_empty() { format!(" One of {}.", possible.join(", ")) } else { String::new() };
        let default: Vec<String> = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        let default = if takes_value && !default.is_empty() { format!(" [default: {}]", default.join(" ")) } else { String::new() };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(
            rows,
            "| `{}` | {} |",
            name.replace(" `,", "`,").trim_end().replace('|', "\\|"),
            cell(&format!("{help}{choice}{default}"))
        );
    }
    rows
}

fn tasks() -> String {
    let head = "What `--task` takes, what its rows have, what it minimises (the first one if `--loss` does not say) and what `eval` measures beside the loss.\n";
    let mut page =
        format!("# Tasks, losses, metrics\n\n{MADE}\n{head}\n| task | rows | other names | losses | metrics |\n|---|---|---|---|---|\n");
    for row in TASKS {
        let metrics = Meter::new(row.task, 2, &[], Scoring::default()).names();
        // What models of tokens are measured by is counted in the graph.
        let metrics = if metrics.is_empty() { "perplexity, accuracy (of tokens)".to_owned() } else { metrics.join(", ") };
        let (rows, aliases, losses) = (cell(row.columns), row.aliases.join(", "), row.losses.join(", "));
        let _ = writeln!(page, "| `{}` | {rows} | {aliases} | {losses} | {metrics} |", row.name);
    }
    page += "\n## Losses\n\nBeside the language models' own, which is computed with its gradient.\n\n| loss | columns of the data | options | compares the rows of a batch |\n|---|---|---|---|\n";
    let mut told: Vec<String> = vec![];
    for task in TASKS {
        for name in task.losses {
            let Ok(loss) = Row::named(task.reads, name) else { continue };
            let columns: Vec<&str> = loss.columns.iter().map(|column| column.name).collect();
            let options: Vec<String> = loss.options.iter().map(|(name, default)| format!("`{name}` {default}")).collect();
            let row = format!(
                "| `{name}` ({:?}) | {} | {} | {} |",
                task.reads,
                columns.join(", "),
                options.join(", "),
                if loss.whole_batch { "yes" } else { "" }
            );
            if !told.contains(&row) {
                told.push(row);
            }
        }
    }
    page + &told.join("\n") + "\n"
}

/// The fields of files, from the definitions that write them.
fn files() -> String {
    let mut page = format!("# Files\n\n{MADE}");
    for (title, words, file, source) in [
        (
            "`peft-onnx.json`",
            "The manifest of a bundle, and of what `export --format training` writes.",
            "src/export/manifest.rs",
            MANIFEST,
        ),
        (
            "`runs/NAME/metrics.jsonl`",
            "One object for each step; evaluations have the metrics of the task.",
            "src/training/metrics.rs",
            &["StepRecord"][..],
        ),
    ] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("the source is there");
        let found = structs(&text);
        let _ = write!(page, "\n## {title}\n\n{words}\n");
        for name in source {
            let (about, fields) = found.get(*name).unwrap_or_else(|| panic!("{file} has no {name}"));
            let _ = write!(page, "\n### {name}\n\n{}\n\n| field | type | what it is |\n|---|---|---|\n", cell(about));
            for (field, kind, words) in fields {
                let _ = writeln!(page, "| `{field}` | `{}` | {} |", kind.replace('|', "\\|"), cell(words));
            }
        }
    }
    page
}

const MANIFEST: &[&str] = &["Manifest", "Base", "BaseFile", "GraphFile", "Port", "Slot"];

/// A field's name, its type, and what its documentation says.
type Field = (String, String, String);

/// The public structures of a source file, each with its documentation and its fields.
fn structs(source: &str) -> BTreeMap<String, (String, Vec<Field>)> {
    let (mut found, mut words, mut inside) = (BTreeMap::new(), String::new(), None);
    for line in source.lines() {
        let line = line.trim_end();
        if let Some(text) = line.trim_start().strip_prefix("/// ") {
            words = format!("{words} {}", link_free(text));
        } else if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.split([' ', '{', '(', ';']).next().unwrap_or_default().to_owned();
            found.insert(name.clone(), (std::mem::take(&mut words), vec![]));
            inside = Some(name);
        } else if line == "}" {
            (inside, words) = (None, String::new());
        } else if let (Some(name), Some((field, kind))) = (&inside, line.strip_prefix("    pub ").and_then(|rest| rest.split_once(": "))) {
            if let Some((_, fields)) = found.get_mut(name) {
                fields.push((field.to_owned(), kind.trim_end_matches(',').to_owned(), std::mem::take(&mut words)));
            }
        } else if !line.trim_start().starts_with('#') {
            words.clear();
        }
    }
    found
}

/// Documentation without its links to other items.
fn link_free(text: &str) -> String {
    let mut words = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        words += before;
        rest = after.split_once(')').map_or("", |(_, after)| after);
        words = words.replacen("[`", "`", 1);
    }
    (words + rest).replace("[`", "`").replace("`]", "`")
}
