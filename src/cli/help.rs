//! The command line's definition as people see it: examples stay whole at every width, so that they can be copied.

use clap::{Command, CommandFactory};

use super::Cli;

/// The heading of the examples, with which what stands behind a command's options ends.
pub(super) const EXAMPLES: &str = "Examples:\n";

/// clap's own arrangement; what a template says between its marks is not wrapped.
const TEMPLATE: &str = "{before-help}{about-with-newline}\n{usage-heading} {usage}\n\n{all-args}{after-help}\n\n";

/// The definition of the command line.
#[must_use]
pub fn command() -> Command {
    let mut command = whole_examples(Cli::command());
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for name in names {
        // A number below 0 is a number, which its option may refuse.
        command = command.mut_subcommand(name, |command| whole_examples(command.allow_negative_numbers(true)));
    }
    command
}

/// Puts the examples of a command where their lines are not broken.
fn whole_examples(command: Command) -> Command {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    match text.split_once(EXAMPLES) {
        Some((words, examples)) => {
            let template = format!("{TEMPLATE}{EXAMPLES}{examples}");
            command.after_help(words.trim_end().to_owned()).help_template(template)
        }
        None => command,
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    /// The examples of a help text, each as the arguments that the shell would hand over.
    fn examples(help: &str) -> Vec<Vec<String>> {
        let (_, text) = help.split_once(EXAMPLES).unwrap_or_default();
        let text = text.replace("\\\n", " ");
        let commands = text.lines().flat_map(|line| line.split(" | ")).filter_map(|part| part.trim().strip_prefix("peft-onnx "));
        let split = |part: &str| shlex::split(part).unwrap_or_else(|| panic!("quotes do not match: {part}"));
        commands.map(split).map(|words| words.into_iter().take_while(|word| !word.starts_with('#')).collect()).collect()
    }

    fn help_of(name: &str, width: usize) -> String {
        let arguments: &[&str] = if name.is_empty() { &["peft-onnx", "--help"] } else { &["peft-onnx", name, "--help"] };
        let mut command = command().term_width(width);
        let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        for name in names {
            command = command.mut_subcommand(name, |command| command.term_width(width));
        }
        let shown = command.try_get_matches_from(arguments).expect_err("help ends the program");
        assert_eq!(shown.kind(), ErrorKind::DisplayHelp);
        shown.to_string()
    }

    fn names() -> Vec<String> {
        let command = command();
        let own = command.get_subcommands().map(|command| command.get_name().to_owned());
        own.chain([String::new()]).collect()
    }

    #[test]
    fn every_example_is_a_command_that_is_understood() {
        let mut wrong = vec![];
        for name in names() {
            let examples = examples(&help_of(&name, 100));
            if examples.len() < 2 {
                wrong.push(format!("{name}: {} examples", examples.len()));
            }
            for mut example in examples {
                // What the file says stands in for what is not on the line.
                if example.iter().any(|word| word == "--config") && example.iter().all(|word| word != "--data") {
                    example.extend(["--data", "train.jsonl"].map(str::to_owned));
                }
                let arguments = std::iter::once("peft-onnx".to_owned()).chain(example.clone());
                if let Err(error) = command().try_get_matches_from(arguments) {
                    wrong.push(format!("{name}: {example:?}: {error}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn examples_are_not_broken_at_any_width() {
        for name in names() {
            let whole = examples(&help_of(&name, 200));
            for width in [40, 60, 80, 120] {
                assert_eq!(examples(&help_of(&name, width)), whole, "{name} at {width} columns");
            }
        }
    }

    #[test]
    fn braces_in_examples_are_shown_as_they_were_written() {
        let unbroken = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for command in Cli::command().get_subcommands() {
            let written = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let shown = unbroken(&help_of(command.get_name(), 100));
            assert!(
                shown.ends_with(&unbroken(&written)),
                "{}: a template of clap's drops what stands between two opening braces",
                command.get_name()
            );
        }
    }

    #[test]
    fn options_are_still_wrapped() {
        let widest = |width| help_of("train", width).split(EXAMPLES).next().into_iter().flat_map(str::lines).map(str::len).max();
        assert!(widest(60) < widest(120), "{:?} {:?}", widest(60), widest(120));
    }
}
