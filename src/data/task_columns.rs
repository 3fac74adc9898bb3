//! The columns of each task's rows: those that are read, and what people call them.

use crate::adapter::config::Task;

/// What rows of a task have: the columns that are read, and other names that people give them. What else a row has is not read.
pub(super) struct Columns {
    task: Task,
    /// Columns by their roles; those with a `*` behind them are followed by a number.
    pub(super) read: &'static [&'static str],
    /// Roles and the names that stand for them where the role's own is not there.
    pub(super) aliases: &'static [(&'static str, &'static [&'static str])],
}

const TEXT_ROLES: &[&str] = &["text", "text_pair", "label", "labels", "input_ids", "attention_mask", "token_type_ids"];

/// Tasks whose rows are not those that language models and classifiers share.
const TASK_COLUMNS: [Columns; 12] = [
    Columns { task: Task::MultiLabel, read: TEXT_ROLES, aliases: &[] },
    Columns { task: Task::Regression, read: TEXT_ROLES, aliases: &[("label", &["score"])] },
    Columns {
        task: Task::Rerank,
        read: &["text", "text_pair", "label", "labels"],
        aliases: &[
            ("text", &["query", "question"]),
            ("text_pair", &["passage", "document", "answer", "text"]),
            ("label", &["score", "relevance"]),
        ],
    },
    Columns {
        task: Task::TokenCls,
        read: &["tokens", "labels", "text", "entities", "input_ids", "attention_mask", "token_type_ids"],
        aliases: &[("tokens", &["words"]), ("labels", &["tags", "ner_tags"])],
    },
    Columns { task: Task::Qa, read: &["question", "context", "answers", "id", "title"], aliases: &[] },
    Columns {
        task: Task::Embedding,
        read: &["anchor", "positive", "negative", "negative_*", "sentence1", "sentence2", "score", "label"],
        aliases: &[
            ("sentence1", &["text1", "text_a"]),
            ("sentence2", &["text2", "text_b"]),
            ("anchor", &["query", "question"]),
            ("positive", &["passage", "document", "answer"]),
            ("negative", &["hard_negative"]),
            ("score", &["similarity", "label"]),
        ],
    },
    Columns {
        task: Task::Preference,
        read: &["prompt", "chosen", "rejected", "completion", "label"],
        aliases: &[("prompt", &["question", "instruction"])],
    },
    Columns { task: Task::Reward, read: &["prompt", "chosen", "rejected"], aliases: &[("prompt", &["question", "instruction"])] },
    Columns {
        task: Task::ImageCls,
        read: &["image", "pixel_values", "label", "labels"],
        aliases: &[("image", &["img", "file_name", "image_path", "file", "path"])],
    },
    Columns { task: Task::AudioCls, read: &["audio", "label", "labels"], aliases: &[("audio", &["file_name", "file", "path"])] },
    Columns { task: Task::Ctc, read: &["audio", "text", "labels"], aliases: HEARD },
    Columns { task: Task::SpeechSeq2Seq, read: &["audio", "text", "labels", "decoder_input_ids"], aliases: HEARD },
];

/// Names that sounds and what is said in them have in data of speech.
const HEARD: &[(&str, &[&str])] =
    &[("audio", &["file", "path"]), ("text", &["sentence", "transcription", "transcript", "normalized_text"])];

/// Names that weights of rows have.
pub(super) const WEIGHTS: &[&str] = &["sample_weight", "loss_weight", "weights"];

/// What rows of a task have; none for tasks whose rows are those that language models and classifiers share.
pub(super) fn of_task(task: Task) -> Option<&'static Columns> {
    TASK_COLUMNS.iter().find(|columns| columns.task == task)
}
