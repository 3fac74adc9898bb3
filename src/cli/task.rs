//! Tasks as people call them.

use crate::anatomy::{Row, TASKS, Task};
use crate::error::{Error, Result};

/// Tasks that others have, with the way to what there is here.
const OTHERS: &[(&[&str], &str)] = &[
    (&["multiplechoice", "objectdetection", "imagesegmentation"], "it is not trained"),
    (&["automaticspeechrecognition", "asr"], "is ctc (wav2vec2) or speech-seq2seq (Whisper) meant?"),
];

/// The task of a name, as the command line and Hugging Face's programs spell it: `seq-cls`, `SEQ_CLS`, `text-classification`.
///
/// # Errors
/// A name that is none, with the nearest one.
pub(super) fn parse(name: &str) -> Result<Task> {
    if let Some(task) = Task::from_name(name) {
        return Ok(task);
    }
    let wanted = squeezed(name);
    if let Some(row) = TASKS.iter().find(|row| row.aliases.contains(&&*wanted)) {
        return Ok(row.task);
    }
    let all: Vec<&str> = TASKS.iter().map(|row| row.name).collect();
    let why = match OTHERS.iter().find(|(names, _)| names.contains(&&*wanted)) {
        Some((_, why)) => format!("{why}; "),
        None => nearest(&wanted).map(|task| format!("is {task} meant? ")).unwrap_or_default(),
    };
    Err(Error::invalid(format!("{why}tasks are {}", all.join(", "))))
}

/// A name without what programs write differently: `SEQ_2_SEQ_LM`, `AutoModelForSequenceClassification`, `text-generation-with-past`.
fn squeezed(name: &str) -> String {
    let text: String = name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
    let text = text.strip_suffix("withpast").unwrap_or(&text);
    text.split_once("for").map_or(text, |(_, task)| task).to_owned()
}

fn nearest(wanted: &str) -> Option<Task> {
    let likeness = |row: &Row| {
        let best = row.aliases.iter().map(|name| strsim::normalized_damerau_levenshtein(wanted, name)).fold(0.0, f64::max);
        (row.task, best)
    };
    TASKS.iter().map(likeness).filter(|(_, best)| *best > 0.6).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(task, _)| task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_known_by_the_names_that_others_give_them() {
        for (name, task) in [
            ("seq-cls", Task::SeqCls),
            ("SEQ_CLS", Task::SeqCls),
            ("text-classification", Task::SeqCls),
            ("BertForSequenceClassification", Task::SeqCls),
            ("CAUSAL_LM", Task::CausalLm),
            ("text-generation-with-past", Task::CausalLm),
            ("AutoModelForCausalLM", Task::CausalLm),
            ("fill-mask", Task::MaskedLm),
            ("TOKEN_CLS", Task::TokenCls),
            ("image-classification", Task::ImageCls),
            ("SEQ_2_SEQ_LM", Task::Seq2SeqLm),
            ("text2text-generation-with-past", Task::Seq2SeqLm),
            ("T5ForConditionalGeneration", Task::Seq2SeqLm),
        ] {
            assert_eq!(parse(name).ok(), Some(task), "{name}");
        }
    }

    #[test]
    fn every_task_is_known_by_its_own_name() {
        for row in TASKS {
            assert_eq!(parse(row.name).ok(), Some(row.task));
            assert!(row.aliases.contains(&&*squeezed(row.name)), "{}", row.name);
        }
    }

    #[test]
    fn what_is_no_task_is_answered_with_what_there_is() {
        for (name, expected) in [
            ("seq-clss", "is seq-cls meant?"),
            ("text-clasification", "is seq-cls meant?"),
            ("object-detection", "it is not trained"),
            ("poetry", "tasks are causal-lm, masked-lm, seq2seq-lm"),
        ] {
            let error = parse(name).expect_err("no such task").to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }
}
