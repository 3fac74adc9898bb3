//! The head that was put on an adapter's base.

use serde_json::{Value, json};

use crate::adapter::config::fields::{Fields, size, sizes, texts};
use crate::adapter::config::{HeadModules, NewHead, Pooling};
use crate::error::{Error, Result};

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
        modules: None,
    };
    let usual = HeadModules::usual(head.layers.len());
    let names = value.get("modules").map(|names| texts(names).ok_or_else(wrong)).transpose()?;
    let bias = value.get("bias").map(|bias| bias.as_bool().ok_or_else(wrong)).transpose()?;
    let modules = HeadModules { names: names.unwrap_or(usual.names), bias: bias.unwrap_or(usual.bias) };
    let head = NewHead { modules: Some(modules), ..head };
    head.check()?;
    Ok(Some(head))
}

/// The modules are written where they are not the usual ones.
pub(super) fn write(head: Option<&NewHead>) -> Value {
    let Some(NewHead { layers, labels, pooling, modules }) = head else { return Value::Null };
    let mut described = json!({"layers": layers, "num_labels": labels, "pooling": pooling.map(Pooling::name)});
    if let Some(modules) = modules.as_ref().filter(|modules| **modules != HeadModules::usual(layers.len())) {
        described["modules"] = json!(modules.names);
        described["bias"] = json!(modules.bias);
    }
    described
}
