//! Texts, and pictures, with labels that are sets or numbers.

use serde_json::Value;

use super::files;
use crate::data::encoder::{Encoder, pixels};
use crate::data::example::{Example, Labels, Numbers};
use crate::data::fields::{Fields, describe, json};
use crate::error::{Error, Result};
use crate::num::single;
use crate::train::losses::LABELS;

/// `{"text", "text_pair"?, "labels"}`: names or numbers of the labels that are right, or 0 and 1 for each.
pub(super) fn labels(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    if is_unlabelled(fields, encoder) {
        return unlabelled(fields, encoder);
    }
    let value = labels_of(fields)?;
    let value = json(value);
    let Value::Array(given) = &*value else {
        let error = Error::mismatch("labels", "a list: the labels that are right, or 0 and 1 for each", describe(&value));
        return Err(error.with_hint("write [\"news\", \"sport\"], or [] where none is right"));
    };
    let count = encoder.class_count()?;
    let mut truths = vec![0.0; count];
    // As many zeros and ones as there are labels say it for each; any other list names those that are right.
    let said: Option<Vec<f64>> = given.iter().map(|item| truth(item).filter(|truth| [0.0, 1.0].contains(truth))).collect();
    let are_flags = given.iter().any(Value::is_boolean);
    if let Some(said) = said.filter(|said| said.len() == count) {
        truths = said;
    } else if are_flags {
        let error = Error::mismatch("labels", format!("{count} of true and false, one for each label"), describe(&value));
        return Err(error.with_hint("any other list names the labels that are right, as [\"news\", \"sport\"]"));
    } else {
        for (at, label) in given.iter().enumerate() {
            if label.as_f64().is_some_and(|number| number.fract() != 0.0) {
                let error = Error::mismatch("labels", format!("names or numbers of labels, or {count} of 0 and 1"), describe(label));
                return Err(error.with_hint("a label is right or it is not: shares of labels are a regression's numbers"));
            }
            if label.is_number() && given[..at].contains(label) {
                let expected = format!("numbers of labels, each once, or {count} of 0 and 1, one for each label");
                let error = Error::mismatch("labels", expected, &*value);
                return Err(error.with_hint("[0, 2] says that the first and the third label are right, and so does [1, 0, 1] of three"));
            }
            let class = encoder.class_number(label)?;
            let truth = truths.get_mut(class).ok_or_else(|| {
                let error = Error::mismatch("a label", format!("below {count}"), class);
                error.with_hint("labels are numbered from 0 on; the model has so many")
            })?;
            *truth = 1.0;
        }
    }
    with(fields, encoder, Numbers { shape: vec![count], values: truths })
}

/// `{"text", "text_pair"?, "label"}`: a number, or one for each of the model's outputs.
pub(super) fn numbers(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    if is_unlabelled(fields, encoder) {
        return unlabelled(fields, encoder);
    }
    let value = json(labels_of(fields)?);
    let numbers = match &*value {
        Value::Array(items) => items.iter().map(number).collect::<Result<Vec<_>>>()?,
        other => vec![number(other)?],
    };
    let count = encoder.class_count()?;
    if numbers.len() != count {
        let error = Error::mismatch("numbers in label", format!("{count}, one for each of the model's outputs"), numbers.len());
        return Err(error.with_hint("`inject --num-labels N` puts a head with N outputs on a model"));
    }
    with(fields, encoder, Numbers { shape: vec![count], values: numbers })
}

/// `{"text" (the query), "text_pair" (the passage), "label"}`: how relevant the passage is, from 0 to 1.
pub(super) fn relevance(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let label = if is_unlabelled(fields, encoder) { f64::NAN } else { number(&json(labels_of(fields)?))? };
    if !label.is_nan() && !(0.0..=1.0).contains(&label) {
        let error = Error::mismatch("label", "a number from 0 (not relevant) to 1", label);
        return Err(error.with_hint("divide grades by the highest one"));
    }
    if !fields.contains_key("text_pair") {
        return Err(
            Error::not_found("column", "passage").with_hint("a row has query, passage and label; `map COLUMN=passage` says which is which")
        );
    }
    let example = with(fields, encoder, Numbers { shape: vec![1], values: vec![label] })?;
    Ok(Example { group: fields.get("text").and_then(Value::as_str).map(ToOwned::to_owned), ..example })
}

/// Whether nobody labelled a row, of which a teacher's answer is learnt alone.
fn is_unlabelled(fields: &Fields, encoder: &Encoder<'_>) -> bool {
    encoder.reading.loss.needs_no_labels() && labels_of(fields).is_err()
}

/// A row whose labels are no numbers.
fn unlabelled(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let count = encoder.class_count()?;
    with(fields, encoder, Numbers { shape: vec![count], values: vec![f64::NAN; count] })
}

fn labels_of(fields: &Fields) -> Result<&Value> {
    let found = ["label", "labels"].into_iter().find_map(|name| fields.get(name));
    found
        .filter(|value| !value.is_null())
        .ok_or_else(|| Error::not_found("column", "label").with_hint("`map COLUMN=label` says which column has it"))
}

/// A number, or 1 for `true` and 0 for `false`.
fn truth(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_bool().map(|flag| f64::from(u8::from(flag))))
}

/// A finite number, perhaps a table's cell.
pub(super) fn number(value: &Value) -> Result<f64> {
    let told = truth(value).or_else(|| value.as_str()?.trim().parse().ok());
    told.filter(|number: &f64| single(*number).is_finite()).ok_or_else(|| {
        Error::mismatch("label", "a number of float32's range", describe(value))
            .with_hint("leave the row out, or name the column with the number: `map COLUMN=label`")
    })
}

fn with(fields: &Fields, encoder: &Encoder<'_>, labels: Numbers) -> Result<Example> {
    let mut example = match () {
        () if fields.contains_key("text") || fields.contains_key("input_ids") => encoder.text_or_tokens(fields)?,
        () if fields.contains_key("image") => files::picture(fields, encoder)?,
        () if fields.contains_key("pixel_values") => pixels(fields)?,
        () => encoder.text_or_tokens(fields)?,
    };
    example.labels = Labels::Column;
    example.columns.insert(LABELS.to_owned(), labels);
    Ok(example)
}
