//! Options as they are typed. The rooms below know no command line: they name an option by its words in backticks, alone (`batch_size`) or with a value
//! (`max_length 512`). Here it becomes `--batch-size`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use clap::{Arg, CommandFactory};

use super::Cli;
use crate::error::{Error, ErrorKind};

/// Names that columns and tensors have as well: alone, they are those.
const OTHERS: [&str; 9] = ["audio", "corpus", "data", "image", "index", "loss", "output", "prompt", "teacher"];

/// The options of all commands, as rooms name them.
static OPTIONS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let mut names = BTreeSet::new();
    add_options(&Cli::command(), &mut names);
    names
});

/// The options of a command and of those below it.
fn add_options(command: &clap::Command, names: &mut BTreeSet<String>) {
    names.extend(command.get_arguments().filter_map(Arg::get_long).map(|long| long.replace('-', "_")));
    command.get_subcommands().for_each(|below| add_options(below, names));
}

/// A text in which options go by their flags.
pub(super) fn with_flags(text: &str) -> Cow<'_, str> {
    if !text.contains('`') {
        return text.into();
    }
    let spans: Vec<&str> = text.split('`').collect();
    // A last backtick without another one ends nothing.
    let is_inside = |at: usize| at % 2 == 1 && at + 1 < spans.len();
    let shown = spans.iter().enumerate().map(|(at, span)| if is_inside(at) { flag(span) } else { (*span).into() });
    shown.collect::<Vec<_>>().join("`").into()
}

/// What stands in backticks: an option as its flag, anything else as it is.
fn flag(span: &str) -> Cow<'_, str> {
    let (name, value) = span.split_at(span.find(' ').unwrap_or(span.len()));
    let is_option = OPTIONS.contains(name) && !(value.is_empty() && OTHERS.contains(&name));
    if is_option { format!("--{}{value}", name.replace('_', "-")).into() } else { span.into() }
}

/// What an error says of what went wrong, options by their flags.
pub(super) fn words(error: &Error, text: &str) -> String {
    let text = match error.kind() {
        ErrorKind::Setting { option, .. } => {
            Cow::from(text.replacen(&format!("{option}: "), &format!("--{}: ", option.replace('_', "-")), 1))
        }
        _ => text.into(),
    };
    with_flags(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_in_backticks_become_flags_and_nothing_else_does() {
        let rows = [
            ("raise `max_steps` or `epochs`", "raise `--max-steps` or `--epochs`"),
            ("`max_length 512` cuts longer rows", "`--max-length 512` cuts longer rows"),
            ("another index: `index URL`; the `index` of a row", "another index: `--index URL`; the `index` of a row"),
            ("`resume` and `run wide` go on", "`--resume` and `--run wide` go on"),
            ("`peft-onnx inspect --explain` says", "`peft-onnx inspect --explain` says"),
            ("a row has `prompt` and `input_ids`", "a row has `prompt` and `input_ids`"),
            ("`tokenizer FILE` names one; it's a `tokenizer", "`--tokenizer FILE` names one; it's a `tokenizer"),
            ("no option, max_length", "no option, max_length"),
        ];
        for (text, expected) in rows {
            assert_eq!(with_flags(text), expected);
        }
    }

    #[test]
    fn a_setting_goes_by_its_flag() {
        let error = Error::setting("learning_rate", "a number from 0", -1);
        assert_eq!(words(&error, &error.to_string()), "--learning-rate: expected a number from 0, found -1");
    }
}
