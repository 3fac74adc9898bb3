//! Texts whose vectors should be near or far from each other.

use serde_json::Value;

use super::values::number;
use crate::data::encoder::Encoder;
use crate::data::example::{Example, Labels, Numbers};
use crate::data::fields::{Fields, describe, empty_text, json};
use crate::data::prompts;
use crate::data::reading::Reading;
use crate::error::{Error, Result};
use crate::train::losses::LABELS;

/// `{"anchor", "positive", "negative"?, "negative_1"?, ..}`, `{"sentence1", "sentence2", "score"}`, or texts with a teacher's vector as the label: each text a row of the
/// model's input, the label beside the first.
pub(super) fn read(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let loss = &encoder.reading.loss;
    let takes = TAKES.iter().find(|takes| takes.loss == loss.name);
    let has_vectors = takes.is_some_and(|takes| matches!(takes.label, Label::Vectors));
    let names = if has_vectors { all_columns(fields) } else { columns(fields)? };
    let mut texts = names.iter().map(|&name| text(fields, name, encoder)).collect::<Result<Vec<_>>>()?.into_iter();
    let mut example = texts.next().ok_or_else(no_text)?;
    example.others = texts.collect();
    example.group = Some(names.iter().filter_map(|name| fields[*name].as_str()).collect::<Vec<_>>().join("\u{0}"));
    example.texts = names.iter().filter_map(|name| fields[*name].as_str().map(ToOwned::to_owned)).collect();
    let given = ["score", "label"].into_iter().find_map(|name| fields.get(name)).filter(|value| !matches!(value, Value::Null));
    match label(takes, given, names.len(), encoder.reading)? {
        Some(numbers) => {
            example.labels = Labels::Column;
            example.columns.insert(LABELS.to_owned(), numbers);
        }
        None if takes.is_some_and(|takes| !matches!(takes.label, Label::Nothing)) => example.labels = Labels::Column,
        None => example.labels = Labels::Row,
    }
    if has_vectors {
        return Ok(example);
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
    /// How many texts, at least and at most.
    texts: [usize; 2],
    label: Label,
}

/// What a loss compares with.
#[derive(Clone, Copy)]
enum Label {
    /// Nothing: the texts say it all.
    Nothing,
    /// A number: which, in words and as a test.
    Score(&'static str, fn(f64) -> bool),
    /// What a teacher makes of positive and negatives.
    Margins,
    /// A teacher's vectors.
    Vectors,
}

const MANY: usize = usize::MAX;
const ANY: Label = Label::Score("a number", |_| true);

/// One row a loss; a graph that somebody wrote takes what there is.
#[rustfmt::skip]
static TAKES: &[Takes] = &[
    Takes { loss: "mnrl",           texts: [2, MANY], label: Label::Nothing },
    Takes { loss: "mnrl-symmetric", texts: [2, MANY], label: Label::Nothing },
    Takes { loss: "triplet",        texts: [3, 3],    label: Label::Nothing },
    Takes { loss: "margin-mse",     texts: [3, MANY], label: Label::Margins },
    Takes { loss: "mse",            texts: [1, MANY], label: Label::Vectors },
    Takes { loss: "cosent",         texts: [2, 2],    label: ANY },
    Takes { loss: "angle",          texts: [2, 2],    label: ANY },
    Takes { loss: "cosine",         texts: [2, 2],    label: Label::Score("a cosine, from -1 to 1", |score| (-1.0..=1.0).contains(&score)) },
    Takes { loss: "contrastive",    texts: [2, 2],    label: Label::Score("0 or 1", |score| [0.0, 1.0].contains(&score)) },
];

/// The label of a row of so many texts; none where the loss reads none, and where a teacher will say it.
///
/// # Errors
/// A row that has not what its loss reads, or has what the loss would leave out without a word.
fn label(takes: Option<&Takes>, given: Option<&Value>, texts: usize, reading: &Reading<'_>) -> Result<Option<Numbers>> {
    let single = |value: &Value| Ok(Numbers { shape: vec![], values: vec![number(&json(value))?] });
    let Some(Takes { loss: name, texts: [least, most], label }) = takes else { return given.map(single).transpose() };
    if !(*least..=*most).contains(&texts) {
        let (how_many, form) = match (least, most) {
            (2, 2) => ("2", "sentence1 and sentence2"),
            (_, 3) => ("3", "anchor, positive and one negative"),
            _ => ("3 or more", "anchor, positive and negatives"),
        };
        let error = Error::mismatch("texts in this row", format!("{how_many} for the loss {name}: {form}"), texts);
        return Err(
            error.with_hint("`inject --loss mnrl` learns from any number of negatives, also none; `map COLUMN=ignore` leaves one out")
        );
    }
    match (label, given) {
        (Label::Nothing, None) => Ok(None),
        (Label::Nothing, Some(score)) => {
            let error = Error::mismatch("score", format!("none: the loss {name} reads none, and takes each pair for alike"), describe(score));
            Err(error.with_hint(
                "`inject --loss cosent` (or angle, cosine, contrastive) learns from scored pairs; `map score=ignore` takes all pairs for alike",
            ))
        }
        (Label::Margins | Label::Vectors, None) if reading.loss.teacher.is_some() => Ok(None),
        (Label::Score(expected, _), None) => {
            let error = Error::not_found("column", "score");
            Err(error.with_hint(format!("the loss {name} compares with {expected} in the column score or label")))
        }
        (Label::Margins, None) => Err(Error::not_found("column", "score").with_hint(
            "the loss margin-mse compares with a teacher's scores in the column score or label: of the positive and each negative, or their differences; `inject --teacher MODEL` has a model say them",
        )),
        (Label::Vectors, None) => Err(Error::not_found("column", "label").with_hint(
            "the loss mse compares with a teacher's vector in the column label (or score); `inject --teacher MODEL` has a model make them",
        )),
        (Label::Score(expected, fits), Some(value)) => {
            let score = single(value)?;
            if score.values.iter().all(|score| fits(*score)) {
                return Ok(Some(score));
            }
            let error = Error::mismatch("score", format!("{expected}, for the loss {name}"), score.values[0]);
            Err(error.with_hint("divide scores by the highest one; `inject --loss cosent` learns from the order of any numbers"))
        }
        (Label::Margins, Some(value)) => margins(value, texts).map(Some),
        (Label::Vectors, Some(value)) => vectors(value, texts, reading.limits.classes).map(Some),
    }
}

/// How much higher a teacher scores the positive than each negative: so many differences, or the scores themselves, the positive's first.
fn margins(value: &Value, texts: usize) -> Result<Numbers> {
    let (value, negatives) = (json(value), texts - 2);
    let given = numbers(&value)?;
    let values = match given.split_first() {
        _ if given.len() == negatives => given,
        Some((positive, rest)) if rest.len() == negatives => rest.iter().map(|negative| positive - negative).collect(),
        _ => {
            let expected = format!("{negatives}, the positive's score less each negative's, or {}, the scores themselves", negatives + 1);
            let error = Error::mismatch("numbers in label", expected, given.len());
            return Err(error.with_hint("a teacher scores the anchor with the positive first, then with each negative"));
        }
    };
    Ok(Numbers { shape: vec![negatives], values })
}

/// A teacher's vector for all texts of a row, or one for each, of so many numbers.
fn vectors(value: &Value, texts: usize, wanted: Option<usize>) -> Result<Numbers> {
    let value = json(value);
    let lists = value.as_array().filter(|items| items.first().is_some_and(Value::is_array));
    let rows = match lists {
        Some(lists) => lists.iter().map(numbers).collect::<Result<Vec<_>>>()?,
        None if value.is_array() => vec![numbers(&value)?],
        None => {
            let error = Error::mismatch("label", "a teacher's vector, a list of numbers", describe(&value));
            return Err(error.with_hint("`inject --loss cosent` learns from pairs with one number"));
        }
    };
    let width = rows.first().map_or(0, Vec::len);
    if let Some(wanted) = wanted.filter(|wanted| *wanted != width) {
        let error = Error::mismatch("numbers in label", format!("{wanted}, as the model gives"), width);
        return Err(error
            .with_hint("the teacher's vectors are as long as the model's; `inject --loss margin-mse` learns from differences of scores"));
    }
    if let Some(other) = rows.iter().find(|row| row.len() != width || row.is_empty()) {
        return Err(Error::mismatch("numbers in a vector of label", format!("{width}, as in the first"), other.len()));
    }
    if rows.len() != 1 && rows.len() != texts {
        let error = Error::mismatch("vectors in label", format!("one for all texts of the row, or {texts}, one for each"), rows.len());
        return Err(error.with_hint("texts of a row that mean the same (translations) have one vector"));
    }
    Ok(Numbers { shape: vec![rows.len(), width], values: rows.concat() })
}

/// A number, or a list of numbers.
fn numbers(value: &Value) -> Result<Vec<f64>> {
    value.as_array().map_or_else(|| Ok(vec![number(value)?]), |items| items.iter().map(number).collect())
}

/// The texts of a row, each with its column: one text, or those of a row that is learnt from.
pub(super) fn asked(fields: &Fields, encoder: &Encoder<'_>) -> Result<Vec<(String, Example)>> {
    let names = all_columns(fields);
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

/// All columns with texts.
fn all_columns(fields: &Fields) -> Vec<&str> {
    const SINGLE: [&str; 6] = ["text", "sentence", "sentence1", "sentence2", "anchor", "positive"];
    let is_numbered = |name: &&str| name.strip_prefix("negative_").is_some_and(|number| number.parse::<u32>().is_ok());
    let negatives = fields.keys().map(String::as_str).filter(|name| *name == "negative" || is_numbered(name));
    SINGLE.into_iter().filter(|name| fields.contains_key(*name)).chain(negatives).collect()
}

fn no_text() -> Error {
    Error::not_found("column", "text")
        .with_hint("a row has a text (or several) and a teacher's vector as its label; `map COLUMN=text` says which is which")
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
    let text = fields[name].as_str().ok_or_else(|| {
        Error::mismatch(name.to_owned(), "text", describe(&fields[name]))
            .with_hint("a column has one text in a row; several negatives are negative_1, negative_2 and so on")
    })?;
    if text.trim().is_empty() {
        return Err(empty_text(name));
    }
    encoder.plain_text(&format!("{}{text}", prompts::of(encoder.reading.loss, name)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::anatomy::Task;
    use crate::train::plan::LossPlan;

    #[test]
    fn rows_have_what_their_loss_reads_and_nothing_else() {
        assert!(Task::Embedding.row().losses.iter().all(|loss| TAKES.iter().any(|takes| takes.loss == *loss)), "every loss has a row");
        let (one, two) = (json!(4.5), json!([4.5, 1.0]));
        for (loss, texts, given, is_right) in [
            ("mnrl", 2, None, true),
            ("mnrl", 4, None, true),
            ("mnrl", 2, Some(json!(0.0)), false),
            ("triplet", 3, None, true),
            ("triplet", 4, None, false),
            ("triplet", 2, None, false),
            ("margin-mse", 3, Some(one.clone()), true),
            ("margin-mse", 3, Some(two.clone()), true),
            ("margin-mse", 3, Some(json!("[4.5, 1.0]")), true),
            ("margin-mse", 3, None, false),
            ("margin-mse", 4, Some(one.clone()), false),
            ("margin-mse", 4, Some(two.clone()), true),
            ("margin-mse", 2, Some(one.clone()), false),
            ("mse", 1, Some(two.clone()), true),
            ("mse", 2, Some(json!([[1, 2], [3, 4]])), true),
            ("mse", 3, Some(json!([[1, 2], [3, 4]])), false),
            ("mse", 2, Some(json!([[1, 2], [3]])), false),
            ("mse", 1, Some(one.clone()), false),
            ("mse", 1, None, false),
            ("cosent", 2, Some(one.clone()), true),
            ("cosent", 2, None, false),
            ("cosine", 2, Some(json!(-0.5)), true),
            ("cosine", 2, Some(one.clone()), false),
            ("contrastive", 2, Some(json!(1)), true),
            ("contrastive", 2, Some(json!(0.3)), false),
            ("graph", 4, Some(json!(9)), true),
        ] {
            let takes = TAKES.iter().find(|takes| takes.loss == loss);
            let checked = label(takes, given.as_ref(), texts, &Reading::for_task(Task::Embedding));
            assert_eq!(checked.is_ok(), is_right, "{loss} of {texts} texts with {given:?}");
            assert!(checked.err().is_none_or(|error| error.hint().is_some() || error.to_string().contains("vector of label")), "{loss}");
        }
        let taught = LossPlan { teacher: Some("teacher.onnx".to_owned()), ..LossPlan::default() };
        let of = |loss: &str| {
            label(TAKES.iter().find(|takes| takes.loss == loss), None, 3, &Reading { loss: &taught, ..Reading::for_task(Task::Embedding) })
                .unwrap()
        };
        assert!(of("mse").is_none() && of("margin-mse").is_none(), "a teacher says it");
        assert_eq!(
            margins(&json!([3.0, 1.0, 0.5]), 4).unwrap().values,
            [2.0, 2.5],
            "scores are told from their differences by their number"
        );
    }
}
