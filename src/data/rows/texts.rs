//! Texts whose vectors should be near or far from each other.

use serde_json::Value;

use super::values::number;
use crate::data::encoder::Encoder;
use crate::data::example::{Example, Labels, Numbers};
use crate::data::fields::{Fields, empty_text, json};
use crate::error::{Error, Result};
use crate::train::losses::LABELS;

/// `{"anchor", "positive", "negative"?, "negative_1"?, ..}`, or `{"sentence1", "sentence2", "score"}`: each text a row of the model's input, the label
/// beside the first.
pub(super) fn read(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let names = columns(fields)?;
    let mut texts = names.iter().map(|&name| text(fields, name, encoder)).collect::<Result<Vec<_>>>()?.into_iter();
    let mut example = texts.next().unwrap_or_default();
    example.others = texts.collect();
    example.group = Some(names.iter().filter_map(|name| fields[*name].as_str()).collect::<Vec<_>>().join("\u{0}"));
    example.texts = names.iter().filter_map(|name| fields[*name].as_str().map(ToOwned::to_owned)).collect();
    let score = score(fields)?;
    check(&encoder.reading.loss.name, names.len(), score)?;
    match score {
        Some(score) => {
            example.labels = Labels::Column;
            example.columns.insert(LABELS.to_owned(), Numbers { shape: vec![], values: vec![score] });
        }
        None => example.labels = Labels::Row,
    }
    let mut texts = names.iter().zip(&example.texts).skip(1);
    let positive = texts.next().map(|(_, text)| text);
    if let Some((name, _)) = texts.find(|(_, negative)| Some(*negative) == positive) {
        let error = Error::mismatch((*name).to_owned(), "a text that does not answer the anchor", "the positive itself");
        return Err(error.with_hint("leave the row out, or write another negative: `peft-onnx data mine-negatives` finds some"));
    }
    if example.others.is_empty() {
        return Err(Error::mismatch("texts in this row", "two or more: anchor and positive, or sentence1 and sentence2", 1));
    }
    Ok(example)
}

/// What a loss of vectors takes of a row.
struct Takes {
    loss: &'static str,
    /// The only number of texts, for losses that read so many.
    texts: Option<usize>,
    /// The numbers that its score may be; none for losses that read no score.
    score: Option<Score>,
}

/// Which numbers a score may be, in words and as a test.
type Score = (&'static str, fn(f64) -> bool);

const ANY: Option<Score> = Some(("a number", |_| true));

/// One row a loss; a graph that somebody wrote takes what there is.
#[rustfmt::skip]
static TAKES: &[Takes] = &[
    Takes { loss: "mnrl",           texts: None,    score: None },
    Takes { loss: "mnrl-symmetric", texts: None,    score: None },
    Takes { loss: "triplet",        texts: Some(3), score: None },
    Takes { loss: "margin-mse",     texts: Some(3), score: ANY },
    Takes { loss: "cosent",         texts: Some(2), score: ANY },
    Takes { loss: "angle",          texts: Some(2), score: ANY },
    Takes { loss: "cosine",         texts: Some(2), score: Some(("a cosine, from -1 to 1", |score| (-1.0..=1.0).contains(&score))) },
    Takes { loss: "contrastive",    texts: Some(2), score: Some(("0 or 1", |score| [0.0, 1.0].contains(&score))) },
];

/// Checks that a row has what its loss reads, and nothing that the loss would leave out without a word.
fn check(loss: &str, texts: usize, score: Option<f64>) -> Result<()> {
    let Some(takes) = TAKES.iter().find(|takes| takes.loss == loss) else { return Ok(()) };
    if let Some(expected) = takes.texts.filter(|expected| *expected != texts) {
        let form = if expected == 3 { "anchor, positive and one negative" } else { "sentence1 and sentence2" };
        let error = Error::mismatch("texts in this row", format!("{expected} for the loss {loss}: {form}"), texts);
        return Err(
            error.with_hint("`inject --loss mnrl` learns from any number of negatives, also none; `map COLUMN=ignore` leaves one out")
        );
    }
    match (takes.score, score) {
        (None, Some(score)) => {
            let error = Error::mismatch("score", format!("none: the loss {loss} reads none, and takes each pair for alike"), score);
            Err(error.with_hint(
                "`inject --loss cosent` (or angle, cosine, contrastive) learns from scored pairs; `map score=ignore` takes all pairs for alike",
            ))
        }
        (Some((expected, _)), None) => {
            let error = Error::not_found("column", "score");
            Err(error.with_hint(format!("the loss {loss} compares with {expected} in the column score or label")))
        }
        (Some((expected, fits)), Some(score)) if !fits(score) => {
            let error = Error::mismatch("score", format!("{expected}, for the loss {loss}"), score);
            Err(error.with_hint("divide scores by the highest one; `inject --loss cosent` learns from the order of any numbers"))
        }
        _ => Ok(()),
    }
}

/// The texts of a row, each with its column: one text, or those of a row that is learnt from.
pub(super) fn asked(fields: &Fields, encoder: &Encoder<'_>) -> Result<Vec<(String, Example)>> {
    const SINGLE: [&str; 6] = ["text", "sentence", "sentence1", "sentence2", "anchor", "positive"];
    let is_numbered = |name: &&str| name.strip_prefix("negative_").is_some_and(|number| number.parse::<u32>().is_ok());
    let negatives = fields.keys().map(String::as_str).filter(|name| *name == "negative" || is_numbered(name));
    let names: Vec<&str> = SINGLE.into_iter().filter(|name| fields.contains_key(*name)).chain(negatives).collect();
    if names.is_empty() && fields.contains_key("input_ids") {
        return Ok(vec![("text".to_owned(), encoder.text_or_tokens(fields)?)]);
    }
    if names.is_empty() {
        let found: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
        let error = Error::mismatch("columns", "text, or the texts of a row that is learnt from (anchor, positive, ..)", found.join(", "));
        return Err(error.with_hint("`map COLUMN=text` says which column is the text"));
    }
    names.into_iter().map(|name| Ok((name.to_owned(), text(fields, name, encoder)?))).collect()
}

/// The columns with texts, in the order in which losses take them.
fn columns(fields: &Fields) -> Result<Vec<&str>> {
    if fields.contains_key("sentence1") && fields.contains_key("sentence2") {
        return Ok(vec!["sentence1", "sentence2"]);
    }
    let number = |name: &str| name.strip_prefix("negative_").and_then(|number| number.parse::<u32>().ok());
    let mut negatives: Vec<(u32, &str)> = fields.keys().filter_map(|name| Some((number(name)?, name.as_str()))).collect();
    negatives.sort_unstable();
    let named = |name: &'static str| fields.contains_key(name).then_some(name);
    let (Some(anchor), Some(positive)) = (named("anchor"), named("positive")) else {
        let names: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
        let error = Error::mismatch("columns", "anchor + positive (+ negative), or sentence1 + sentence2 + score", names.join(", "));
        return Err(error.with_hint("`map COLUMN=anchor` and `map COLUMN=positive` say which text is which"));
    };
    Ok([anchor, positive].into_iter().chain(named("negative")).chain(negatives.into_iter().map(|(_, name)| name)).collect())
}

fn text(fields: &Fields, name: &str, encoder: &Encoder<'_>) -> Result<Example> {
    let text = fields[name].as_str().ok_or_else(|| Error::mismatch(name.to_owned(), "text", &fields[name]))?;
    if text.trim().is_empty() {
        return Err(empty_text(name));
    }
    let prompt = encoder.reading.loss.prompts.iter().find(|(column, _)| column == name).map_or("", |(_, prompt)| prompt.as_str());
    encoder.plain_text(&format!("{prompt}{text}"))
}

fn score(fields: &Fields) -> Result<Option<f64>> {
    let value = ["score", "label"].into_iter().find_map(|name| fields.get(name)).filter(|value| !matches!(value, Value::Null));
    value.map(|value| number(&json(value))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy::Task;

    #[test]
    fn rows_have_what_their_loss_reads_and_nothing_else() {
        assert!(Task::Embedding.row().losses.iter().all(|loss| TAKES.iter().any(|takes| takes.loss == *loss)), "every loss has a row");
        for (loss, texts, score, is_right) in [
            ("mnrl", 2, None, true),
            ("mnrl", 4, None, true),
            ("mnrl", 2, Some(0.0), false),
            ("triplet", 3, None, true),
            ("triplet", 4, None, false),
            ("triplet", 2, None, false),
            ("margin-mse", 3, Some(4.5), true),
            ("margin-mse", 3, None, false),
            ("margin-mse", 4, Some(1.0), false),
            ("cosent", 2, Some(4.5), true),
            ("cosent", 2, None, false),
            ("cosine", 2, Some(-0.5), true),
            ("cosine", 2, Some(4.5), false),
            ("contrastive", 2, Some(1.0), true),
            ("contrastive", 2, Some(0.3), false),
            ("graph", 4, Some(9.0), true),
        ] {
            let checked = check(loss, texts, score);
            assert_eq!(checked.is_ok(), is_right, "{loss} of {texts} texts with {score:?}");
            assert!(checked.err().is_none_or(|error| error.hint().is_some()), "{loss}");
        }
    }
}
