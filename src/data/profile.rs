//! What a data file is: its columns, what stands in them, and rows that come twice.

use std::collections::HashMap;
use std::path::Path;

use indexmap::{IndexMap, IndexSet};
use serde::Serialize;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::record::RowFile;
use crate::error::Result;

/// How many rows that come twice are named.
const NAMED: usize = 20;

/// What a data file is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Profile {
    /// Its rows.
    pub rows: usize,
    /// Its columns, in the order in which they come up.
    pub columns: IndexMap<String, Column>,
    /// Rows that equal an earlier one in every column.
    pub duplicates: usize,
    /// The first of them: the line of the earlier row, and its own.
    pub duplicate_lines: Vec<[usize; 2]>,
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Column {
    /// Rows that have a value there.
    pub rows: usize,
    /// What the values are: text, a number, a list, an object, true or false.
    pub kinds: IndexSet<&'static str>,
    /// The lengths of its texts in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub characters: Option<Characters>,
    /// The first value, short.
    pub example: String,
}

/// Lengths of texts in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Characters {
    /// Of the shortest.
    pub shortest: usize,
    /// Of the longest.
    pub longest: usize,
    /// Of all together.
    pub all: usize,
}

impl Profile {
    /// Looks through a file.
    ///
    /// # Errors
    /// With file and line, what cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let file = RowFile::open(path)?;
        let mut profile = Self::default();
        let mut seen: HashMap<u64, usize> = HashMap::new();
        file.survey()?;
        file.each(&mut |record| {
            profile.rows += 1;
            for (name, value) in record.fields.iter().filter(|(_, value)| !is_empty(value)) {
                if let Some(column) = profile.columns.get_mut(name) {
                    column.add(value);
                } else {
                    let mut column = Column { example: shortened(value), ..Column::default() };
                    column.add(value);
                    profile.columns.insert(name.clone(), column);
                }
            }
            let text = Value::Object(record.fields).to_string();
            let earlier = *seen.entry(xxh3_64(text.as_bytes())).or_insert(record.line);
            if earlier != record.line {
                profile.duplicates += 1;
                if profile.duplicate_lines.len() < NAMED {
                    profile.duplicate_lines.push([earlier, record.line]);
                }
            }
            Ok(())
        })?;
        Ok(profile)
    }
}

impl Column {
    fn add(&mut self, value: &Value) {
        self.rows += 1;
        self.kinds.insert(match value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "number",
            Value::String(_) => "text",
            Value::Array(_) => "list",
            Value::Object(_) => "object",
        });
        if let Some(text) = value.as_str() {
            let length = text.chars().count();
            let before = self.characters.unwrap_or(Characters { shortest: length, longest: length, all: 0 });
            self.characters =
                Some(Characters { shortest: before.shortest.min(length), longest: before.longest.max(length), all: before.all + length });
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

fn shortened(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let mut letters = text.chars();
    let start: String = letters.by_ref().take(LONGEST).collect();
    if letters.next().is_some() { format!("{start}…") } else { start }
}
