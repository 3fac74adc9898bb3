//! How a command ends that did not do its work: words for people, a last line of JSON for programs, an exit code.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use serde_json::{Map, Value, json};

use super::{flags, output, signals};
use crate::error::{Error, ErrorKind, Place};

/// What shells report of a program that wrote to a pipe whose reader had gone: the signal 13.
const CLOSED_PIPE: u8 = 128 + 13;

/// Says why a command failed, on standard error, and gives the exit code that goes with it. With `is_json` the last line is the same as JSON.
#[must_use]
pub fn report(error: &Error, is_json: bool) -> ExitCode {
    signals::wait_for_end();
    match error.kind() {
        // Nobody reads the output any more: `peft-onnx inspect ... | head`.
        ErrorKind::Io(refusal) if refusal.kind() == io::ErrorKind::BrokenPipe => return ExitCode::from(CLOSED_PIPE),
        // It is said once for all processes.
        ErrorKind::Elsewhere => return ExitCode::FAILURE,
        _ => output::note(&describe(error)),
    }
    if is_json {
        output::note(&in_json(error).to_string());
    }
    if matches!(error.kind(), ErrorKind::Interrupted) { ExitCode::from(signals::exit_code()) } else { ExitCode::FAILURE }
}

/// Prints clap's message, which may be an error, the help or the version, and gives its exit code.
#[must_use]
pub fn report_usage(error: &clap::Error, mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    // A closed pipe: there is nobody to say it to.
    let _ = error.print();
    if error.use_stderr() && arguments.any(|argument| argument == "--json") {
        output::note(&usage_in_json(error).to_string());
    }
    ExitCode::from(code)
}

/// Letters of an error, at most.
const LONGEST: usize = 16 * 1024;

/// An error as the lines that a person reads: what happened, what caused it, what to do.
#[must_use]
pub fn describe(error: &Error) -> String {
    let mut lines = vec![format!("error: {}", flags::words(error, &error.to_string()))];
    lines.extend(causes(error).into_iter().map(|cause| format!("  because {cause}")));
    lines.extend(error.hint().map(|hint| format!("hint: {}", flags::with_flags(hint))));
    let mut text = output::printable(&lines.join("\n"), |letter| letter == '\n' || letter == '\t');
    // A name in a file may have any length.
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

fn causes(error: &Error) -> Vec<String> {
    let first = std::error::Error::source(error);
    std::iter::successors(first, |cause| cause.source()).map(ToString::to_string).collect()
}

/// An error as one JSON object: the words without the places, the places outermost first, the hint or null.
fn in_json(error: &Error) -> Value {
    let message = std::iter::once(flags::words(error, &error.kind().to_string())).chain(causes(error)).collect::<Vec<_>>().join(": ");
    json!({"error": message, "hint": error.hint().map(flags::with_flags), "places": error.places().iter().map(place).collect::<Vec<_>>()})
}

fn place(place: &Place) -> Value {
    match place {
        Place::File(path) => json!({"file": path}),
        Place::Node(name) => json!({"node": name}),
        Place::Tensor(name) => json!({"tensor": name}),
        Place::Line(number) => json!({"line": number}),
    }
}

/// The same for wrong usage, whose places are the argument that it is about.
fn usage_in_json(error: &clap::Error) -> Value {
    let text = error.to_string();
    let text = text.split("\n\nUsage:").next().unwrap_or(&text);
    let (tips, words): (Vec<&str>, Vec<&str>) = text.lines().map(str::trim).partition(|line| line.starts_with("tip: "));
    let words: Vec<&str> = words.into_iter().filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    let words = words.join(" ");
    let tips: Vec<&str> = tips.iter().map(|tip| tip.trim_start_matches("tip: ")).collect();
    let hint = if tips.is_empty() { "`peft-onnx COMMAND --help` lists the options, with examples".to_owned() } else { tips.join("; ") };
    let mut argument = Map::new();
    if let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidArg) {
        argument.insert("argument".into(), name.clone().into());
    }
    let places: Vec<Value> = [argument].into_iter().filter(|argument| !argument.is_empty()).map(Value::Object).collect();
    json!({"error": words.trim_start_matches("error: "), "hint": hint, "places": places})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_described_with_its_hint() {
        let error = Error::invalid("no rows").in_file("a.jsonl").with_hint("write some");
        assert_eq!(describe(&error), "error: a.jsonl: no rows\nhint: write some");
    }

    #[test]
    fn options_go_by_their_flags() {
        let error = Error::setting("learning_rate", "a number from 0", -1);
        assert_eq!(error.to_string(), "learning_rate: expected a number from 0, found -1");
        assert_eq!(describe(&error), "error: --learning-rate: expected a number from 0, found -1");
        assert_eq!(in_json(&error)["error"], "--learning-rate: expected a number from 0, found -1");
    }

    #[test]
    fn an_error_in_json_has_its_places_apart() {
        let error = Error::mismatch("rank", 2, 3).at(Place::Tensor("x".into())).at(Place::Node("n".into())).in_file("a.onnx");
        let expected = json!({
            "error": "rank: expected 2, found 3",
            "hint": null,
            "places": [{"file": "a.onnx"}, {"node": "n"}, {"tensor": "x"}],
        });
        assert_eq!(in_json(&error), expected);
    }

    #[test]
    fn wrong_usage_in_json_has_its_tips_as_hint() {
        let arguments = ["peft-onnx", "inject", "m.onnx", "--method", "lora", "--epochs", "3"];
        let error = super::super::read(arguments.iter().map(OsString::from)).expect_err("no such option");
        let json = usage_in_json(&error);
        assert_eq!(json["error"], "unexpected argument '--epochs' found");
        assert_eq!(json["hint"], "'--epochs' is an option of `peft-onnx train`");
        assert_eq!(json["places"], json!([{"argument": "--epochs"}]));
    }
}
