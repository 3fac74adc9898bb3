//! Files beside a tokenizer or a model that tell tokens.

use std::path::Path;

use serde_json::Value;

use crate::error::{Context, Result};
use crate::files::{self, json};

/// The tokens that end a text, as a model's folder has them: a number or a list in the configuration of its generation, else in the model's own.
pub(super) fn end_tokens(folder: &Path) -> Result<Vec<i32>> {
    for name in ["generation_config.json", "config.json"] {
        let config = read_json(&folder.join(name))?;
        let ids = [&config["eos_token_id"], &config["text_config"]["eos_token_id"]].into_iter().find(|ids| !ids.is_null());
        let numbers = |ids: &Value| match ids {
            Value::Array(ids) => ids.iter().filter_map(Value::as_i64).collect(),
            id => id.as_i64().into_iter().collect::<Vec<_>>(),
        };
        let ids: Vec<i32> =
            ids.map(numbers).unwrap_or_default().into_iter().filter_map(|id| i32::try_from(id).ok()).filter(|id| *id >= 0).collect();
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    Ok(vec![])
}

/// The JSON object that a file is; `null` if there is no such file.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    if path.metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(Value::Null);
    }
    json::object(&files::read(path)?, json::CONFIGURATION).map(Value::Object).in_file(path)
}
