//! The forms that rows have for each task, in words.

use crate::adapter::config::Task;

/// The forms of rows that go with a task, in words.
#[must_use]
pub fn forms(task: Task) -> &'static str {
    match task {
        Task::CausalLm => "input_ids, text, prompt + completion, or messages",
        Task::MaskedLm => "input_ids (+ labels), or text",
        Task::SeqCls => "text (+ text_pair) + label, or input_ids + label",
        Task::TokenCls => "input_ids + labels",
        Task::ImageCls => "pixel_values + label",
        Task::Seq2SeqLm => "input_ids + labels, or prompt + completion",
    }
}
