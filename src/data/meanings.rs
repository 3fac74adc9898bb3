//! Columns that say something about what should be learnt: where a task does not read one, it is refused.

use super::reading::Reading;
use super::weights;
use crate::error::{Error, Result};

/// Columns that say something about what should be learnt, and what to do where a task does not read them.
pub(super) struct Meaning {
    columns: &'static [&'static str],
    what: &'static str,
    hint: &'static str,
}

/// What a weight is.
const WEIGHT: &str = "the weight of a row";

const MEANINGS: [Meaning; 11] = [
    Meaning {
        columns: &["label", "labels"],
        what: "a label, which this form of rows does not learn",
        hint: "`peft-onnx inject --task seq-cls` learns classes; for answers that were approved or not, `task preference` and `loss kto`, or keep the approved ones",
    },
    Meaning {
        columns: &["chosen", "rejected"],
        what: "a preference, which this task does not learn",
        hint: "`peft-onnx inject --task preference` or `task reward` learns it; to learn the chosen answers alone: `map chosen=completion` and `map rejected=ignore`",
    },
    Meaning {
        columns: &["text_pair", "text2", "text_b", "sentence2", "second_text", "hypothesis", "question2"],
        what: "a second text, which is not read here",
        hint: "a classifier reads two texts as text and text_pair: `map COLUMN=text_pair`",
    },
    Meaning {
        columns: &["anchor", "positive", "negative", "negatives", "hard_negative"],
        what: "a text to be near or far from, which this task does not learn",
        hint: "`peft-onnx inject --task embedding` learns it",
    },
    Meaning {
        columns: &["teacher_logits", "teacher_scores", "teacher_probs"],
        what: "a teacher's answer, which this task does not learn",
        hint: "`peft-onnx inject --distill-weight 0.5` learns the column teacher_logits beside the labels",
    },
    Meaning {
        columns: &["score", "scores", "similarity"],
        what: "a number to be predicted, which this task does not learn",
        hint: "if it is the number of a class: `map COLUMN=label`; `peft-onnx inject --task regression`, `rerank` and `embedding` learn numbers",
    },
    Meaning {
        columns: &["weight", "weights", "sample_weight", "loss_weight"],
        what: WEIGHT,
        hint: "leave out rows of weight 0, and repeat rows that should count more",
    },
    Meaning {
        columns: &["tools", "functions", "documents"],
        what: "something that only a chat template shows",
        hint: "write messages, and the tools or documents beside them",
    },
    Meaning {
        columns: &["loss_mask", "completion_mask", "assistant_mask", "assistant_masks"],
        what: "a choice of tokens to learn, which is not read",
        hint: "write labels beside input_ids, with -100 where nothing is to be learnt",
    },
    Meaning {
        columns: &["answers", "answer_start", "start_positions", "end_positions", "entities", "ner_tags", "tags"],
        what: "an answer or a tag within the text, which this task does not learn",
        hint: "`peft-onnx inject --task qa` learns answers, `task token-cls` tags and entities",
    },
    Meaning {
        columns: &["image", "images", "audio"],
        what: "something to look at or to listen to, which is not read",
        hint: "image-cls and audio-cls read pictures and sounds; a model with a picture among its tokens reads one a row, in the column image: `map images=image`",
    },
];

/// A name without what people change in it: capitals, spaces.
pub(super) fn plain(name: &str) -> String {
    name.trim().to_lowercase().replace([' ', '-'], "_")
}

/// What a column says, if it is known.
pub(super) fn meaning(column: &str) -> Option<&'static Meaning> {
    let name = plain(column);
    let numbered = name.rsplit_once('_').filter(|(_, number)| number.parse::<u8>().is_ok()).map(|(name, _)| name.to_owned());
    let is_named = |meaning: &&Meaning| {
        meaning.columns.contains(&name.as_str()) || numbered.as_deref() == Some("negative") && meaning.columns.contains(&"negative")
    };
    MEANINGS.iter().find(is_named)
}

/// Refuses a column with a meaning that a task does not use.
pub(super) fn refuse_meaning(role: &str, column: &str, reading: &Reading<'_>) -> Result<()> {
    let Some(Meaning { what, hint, .. }) = meaning(role) else { return Ok(()) };
    let task = reading.task;
    let hint = format!("{}; `map \"{column}=ignore\"` leaves it out", hint.replace("COLUMN", column));
    let why = match (*what == WEIGHT).then(|| weights::refusal(task, reading.loss)) {
        None => format!("it is {what}"),
        Some(why) => format!("it is {what}, and {}", why.unwrap_or_else(|| "all rows weigh the same here".to_owned())),
    };
    Err(Error::unsupported(format!("the column {column} for {}", task.name()), why).with_hint(hint))
}
