//! The head that was put on an adapter's base.

use serde_json::{Value, json};

use crate::adapter::config::NewHead;
use crate::error::{Error, Result};
use crate::peft::fields::{Fields, size, sizes};

/// The setting.
pub(super) const FIELD: &str = "new_head";

pub(super) fn read(fields: &Fields<'_>) -> Result<Option<NewHead>> {
    let Some(value) = fields.value(FIELD) else { return Ok(None) };
    let wrong = || Error::mismatch(FIELD, "an object with layers, num_labels and pooling", value);
    let number = |field: &str| value.get(field).ok_or_else(wrong);
    let head = NewHead {
        layers: sizes(number("layers")?).ok_or_else(wrong)?,
        labels: size(number("num_labels")?).ok_or_else(wrong)?,
        pooling: Some(number("pooling")?.as_str().ok_or_else(wrong)?.parse()?),
    };
    head.check()?;
    Ok(Some(head))
}

pub(super) fn write(head: Option<&NewHead>) -> Value {
    let described = |NewHead { layers, labels, pooling }: &NewHead| json!({"layers": layers, "num_labels": labels, "pooling": pooling.map(crate::adapter::config::Pooling::name)});
    head.map_or(Value::Null, described)
}
