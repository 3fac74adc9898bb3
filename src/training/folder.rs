//! How data is read for a model, as far as the folder that it lies in says so.

use crate::adapter::config::Task;
use crate::data::Renamed;
use crate::error::Result;
use crate::model::{Beside, declared};

/// The options that a folder with a tuned model has beside it.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Options {
    method: Option<String>,
    task: Option<String>,
    map: Vec<String>,
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

/// The roles of columns of the data that a model was tuned on, where the folder that it was written into says so: `map` of its options.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn columns(beside: &Beside) -> Result<Vec<Renamed>> {
    Ok(Options::beside(beside)?.map.iter().filter_map(|text| text.parse().ok()).collect())
}

/// Where sentence-transformers cuts texts whose vectors are made, where its files beside a model say so.
///
/// # Errors
/// A file that is not JSON.
pub(super) fn longest_text(beside: &Beside, task: Task) -> Result<Option<usize>> {
    if task != Task::Embedding {
        return Ok(None);
    }
    let config = beside.json("sentence_bert_config.json")?.unwrap_or_default();
    let length = config["max_seq_length"].as_u64().and_then(|length| usize::try_from(length).ok()).filter(|length| *length > 0);
    if let Some(length) = length {
        tracing::info!("texts are cut at {length} tokens, as sentence_bert_config.json says");
    }
    Ok(length)
}
