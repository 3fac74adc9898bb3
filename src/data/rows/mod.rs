//! Rows of tasks whose labels are not tokens or one class: one reader for each form.

mod answers;
mod asked;
mod files;
mod pictures;
mod preferences;
mod taught;
mod texts;
mod values;
mod words;

use super::encoder::Encoder;
use super::example::Example;
use super::fields::Fields;
use crate::adapter::config::Task;
use crate::error::Result;

pub(super) use asked::question;
pub use asked::{Question, Shown};
pub(super) use pictures::messages_of;
pub use pictures::placed as with_picture_tokens;
pub(super) use pictures::shown as with_picture;
pub(super) use taught::check_taught;

/// The examples of a row that is parted into windows; none for tasks whose rows are not.
pub(super) fn windows(task: Task, fields: &Fields, encoder: &Encoder<'_>) -> Option<Result<Vec<Example>>> {
    (task == Task::Qa).then(|| answers::read(fields, encoder))
}

/// How rows of a task are read; none where the forms that language models and classifiers share do.
pub(super) fn reader(task: Task, fields: &Fields) -> Option<fn(&Fields, &Encoder<'_>) -> Result<Example>> {
    let has = |name: &str| fields.contains_key(name);
    Some(match task {
        Task::MultiLabel => values::labels,
        Task::Regression => values::numbers,
        Task::Rerank => values::relevance,
        Task::TokenCls if has("tokens") => words::tags,
        Task::TokenCls if has("entities") => words::entities,
        Task::Embedding => texts::read,
        Task::Preference | Task::Reward => preferences::read,
        Task::ImageCls if has("image") => files::image,
        Task::AudioCls if has("audio") => files::sound,
        Task::Ctc if has("audio") => files::transcribed_frames,
        Task::Seq2SeqLm | Task::SpeechSeq2Seq if has("audio") => files::transcribed,
        Task::Seq2SeqLm if has("image") => files::read_image,
        _ => return None,
    })
}
