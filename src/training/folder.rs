//! How data is read for a model, as far as the folder that it lies in says so.

use crate::adapter::config::Task;
use crate::anatomy::Reads;
use crate::data::Renamed;
use crate::error::Result;
use crate::export::objective::LossRequest;
use crate::model::{Beside, declared};

/// The options that a folder with a tuned model has beside it.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Options {
    method: Option<String>,
    task: Option<String>,
    map: Vec<String>,
    loss: Option<String>,
    #[serde(rename = "loss-option")]
    loss_option: serde_yaml_ng::Value,
}

impl Options {
    /// Those beside a model; none where other programs have a file of this name, which says other things.
    fn beside(beside: &Beside) -> Result<Self> {
        let file = beside.bytes(declared::OPTIONS)?;
        Ok(file.and_then(|(_, bytes)| serde_yaml_ng::from_slice(&bytes).ok()).unwrap_or_default())
    }
}

/// The task that a model was tuned for, where the folder that it was written into says so.
///
/// # Errors
/// A file that cannot be read.
pub fn tuned_for(beside: &Beside) -> Result<Option<Task>> {
    let options = Options::beside(beside)?;
    Ok(options.method.and(options.task).and_then(|task| Task::from_name(&task)))
}

/// What is asked of the loss that a model is measured with: where nobody names one, the one that it was tuned with, if the folder that it was written into says
/// so and rows are the same for all losses of the task.
///
/// # Errors
/// A file that cannot be read.
pub fn as_tuned(asked: &LossRequest, beside: &Beside, task: Task) -> Result<LossRequest> {
    let options = Options::beside(beside)?;
    let is_tuned = options.method.is_some() && options.task.as_deref().and_then(Task::from_name) == Some(task);
    let row = task.row();
    let known =
        options.loss.filter(|loss| is_tuned && asked.name.is_none() && row.reads == Reads::Logits && row.losses.contains(&loss.as_str()));
    let Some(name) = known else { return Ok(asked.clone()) };
    let given: Vec<&str> = match &options.loss_option {
        serde_yaml_ng::Value::Sequence(all) => all.iter().filter_map(serde_yaml_ng::Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let named = |text: &str| text.split_once('=').and_then(|(name, value)| Some((name.trim().to_owned(), value.trim().parse().ok()?)));
    Ok(LossRequest { name: Some(name), options: given.into_iter().filter_map(named).collect(), ..asked.clone() })
}

/// The roles of columns of the data that a model was tuned on, where the folder that it was written into says so: `map` of its options.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn columns(beside: &Beside) -> Result<Vec<Renamed>> {
    Ok(Options::beside(beside)?.map.iter().filter_map(|text| text.parse().ok()).collect())
}

/// What no text has as many tokens as: tokenizers without a length of their own have a number beyond it (`VERY_LARGE_INTEGER`).
const NO_LENGTH: f64 = 1e9;

/// Where sentence-transformers cuts texts whose vectors are made or which are compared, where the files beside a model say so.
///
/// # Errors
/// A file that is not JSON.
pub(super) fn longest_text(beside: &Beside, task: Task) -> Result<Option<usize>> {
    // A cross encoder has no file of its own.
    let places: &[(&str, &str)] = match task {
        Task::Embedding => &[("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")],
        Task::Rerank => &[("tokenizer_config.json", "model_max_length")],
        _ => &[],
    };
    for (file, name) in places {
        let config = beside.json(file)?.unwrap_or_default();
        let told = config[name].as_f64().filter(|length| (1.0..NO_LENGTH).contains(length));
        if let Some(length) = told.and_then(|_| config[name].as_u64()).and_then(|length| usize::try_from(length).ok()) {
            // As sentence-transformers does where the tokenizer alone says it: no text is longer than the model's longest.
            let most = declared::positions(beside)?.unwrap_or(length);
            tracing::info!("texts are cut at {} tokens, as {file} says", length.min(most));
            return Ok(Some(length.min(most)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuned_model_is_measured_with_the_loss_that_it_was_tuned_with() -> Result<()> {
        let found = |options: &str, task: Task| {
            let files = [(declared::OPTIONS.to_owned(), bytes::Bytes::from(options.to_owned()))].into();
            as_tuned(&LossRequest::default(), &Beside::Given(files), task).map(|asked| (asked.name, asked.options))
        };
        let options = "method: lora\ntask: regression\nloss: huber\nloss-option: delta=0.3\n";
        let expected = (Some("huber".to_owned()), [("delta".to_owned(), 0.3)].into());
        assert_eq!(found(options, Task::Regression)?, expected);
        assert_eq!(found(&options.replace("delta=0.3", "[delta=0.3]"), Task::Regression)?, expected);
        for (options, task) in [
            (options, Task::Rerank),
            ("task: regression\nloss: huber\n", Task::Regression),
            ("method: lora\ntask: embedding\nloss: triplet\n", Task::Embedding),
            ("method: lora\ntask: rerank\nloss: dpo\n", Task::Rerank),
        ] {
            assert_eq!(found(options, task)?, (None, [].into()), "{options}");
        }
        Ok(())
    }

    #[test]
    fn texts_are_cut_where_sentence_transformers_cuts_them() -> Result<()> {
        let cut = |task: Task, files: &[(&str, &str)]| {
            let given = files.iter().map(|(name, text)| ((*name).to_owned(), bytes::Bytes::from((*text).to_owned()))).collect();
            longest_text(&Beside::Given(given), task)
        };
        let tokenizer = ("tokenizer_config.json", r#"{"model_max_length": 128}"#);
        let own = ("sentence_bert_config.json", r#"{"max_seq_length": 6}"#);
        let short = ("config.json", r#"{"max_position_embeddings": 64}"#);
        assert_eq!(cut(Task::Embedding, &[tokenizer, own])?, Some(6));
        assert_eq!(cut(Task::Embedding, &[tokenizer, ("sentence_bert_config.json", "{}")])?, Some(128), "files of version 5.7");
        assert_eq!(cut(Task::Rerank, &[tokenizer, own])?, Some(128), "cross encoders have the tokenizer's alone");
        assert_eq!(cut(Task::Embedding, &[tokenizer, short])?, Some(64));
        let endless = ("tokenizer_config.json", r#"{"model_max_length": 1000000000000000019884624838656}"#);
        assert_eq!((cut(Task::Embedding, &[endless])?, cut(Task::SeqCls, &[tokenizer])?), (None, None));
        Ok(())
    }
}
