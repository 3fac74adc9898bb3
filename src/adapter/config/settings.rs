//! The settings of an `adapter_config.json` that is being written.

use serde_json::{Map, Value, json};

use super::fields::{Fields, Flag};
use super::{Bias, Scope, Selection, Targets};
use crate::error::Result;

/// Settings by PEFT's names, on top of those of an original file.
#[derive(Clone, Debug, Default)]
pub struct Settings(pub Map<String, Value>);

impl Settings {
    /// A setting that every version of PEFT knows.
    pub fn put(&mut self, field: &str, value: impl Into<Value>) {
        self.0.insert(field.to_owned(), value.into());
    }

    /// A setting that the original decides, if it has it.
    pub fn add(&mut self, field: &str, value: Value) {
        self.0.entry(field).or_insert(value);
    }

    /// A setting that old versions of PEFT refuse: written if it says something, or if the original had it.
    pub fn put_unless(&mut self, field: &str, value: Value, default: &Value) {
        if value != *default || self.0.contains_key(field) {
            self.put(field, value);
        }
    }

    /// A switch that old versions of PEFT refuse.
    pub fn put_switch(&mut self, field: &str, value: bool, default: Flag) {
        self.put_unless(field, json!(value), &json!(default == Flag::On));
    }

    /// Where a method attaches.
    pub fn put_scope(&mut self, scope: &Scope) {
        let targets = match &scope.targets {
            Targets::Default | Targets::AllLinear => json!("all-linear"),
            Targets::Only(chosen) => selection(chosen),
        };
        self.put("target_modules", targets);
        self.put_unless("exclude_modules", scope.exclude.as_ref().map_or(Value::Null, selection), &Value::Null);
        self.put("modules_to_save", list_or_null(&scope.modules_to_save));
    }

    /// The layers that a method attaches to.
    pub fn put_layers(&mut self, scope: &Scope) {
        self.put("layers_to_transform", list_or_null(&scope.layers_to_transform));
        self.put("layers_pattern", list_or_null(&scope.layers_pattern));
    }
}

impl Scope {
    /// Reads where a method attaches.
    ///
    /// # Errors
    /// A setting of another kind.
    pub fn read(fields: &Fields<'_>) -> Result<Self> {
        let layers_to_transform = fields.sizes("layers_to_transform")?;
        let layers_pattern = fields.names("layers_pattern")?;
        // An empty list of layers means all of them to PEFT; then there is nothing for the pattern to find.
        let all_layers = layers_to_transform.is_empty() && fields.value("layers_to_transform").is_some();
        Ok(Self {
            targets: match fields.selection("target_modules")? {
                None => Targets::Default,
                Some(Selection::Regex(text)) if text.eq_ignore_ascii_case("all-linear") => Targets::AllLinear,
                Some(selection) => Targets::Only(selection),
            },
            exclude: fields.selection("exclude_modules")?,
            layers_to_transform,
            layers_pattern: if all_layers { vec![] } else { layers_pattern },
            modules_to_save: fields.names("modules_to_save")?,
        })
    }
}

impl Bias {
    /// Reads which biases are trained; `targets_only` is the method's own name for those of its targets.
    ///
    /// # Errors
    /// Another text.
    pub fn read(fields: &Fields<'_>, targets_only: &str) -> Result<Self> {
        fields.one_of("bias", &[("none", Self::None), ("all", Self::All), (targets_only, Self::TargetsOnly)], Self::None)
    }

    /// Its name in the file.
    #[must_use]
    pub fn setting(self, targets_only: &str) -> Value {
        match self {
            Self::None => json!("none"),
            Self::All => json!("all"),
            Self::TargetsOnly => json!(targets_only),
        }
    }
}

/// A list, or null for an empty one, which is how PEFT writes what was not asked for.
#[must_use]
pub fn list_or_null<T: Into<Value> + Clone>(items: &[T]) -> Value {
    if items.is_empty() { Value::Null } else { items.to_vec().into() }
}

/// A choice of modules as it is written.
#[must_use]
pub fn selection(selection: &Selection) -> Value {
    match selection {
        Selection::Names(names) => json!(names),
        Selection::Regex(regex) => json!(regex),
    }
}

/// A number as Python writes it: whole ones without a fraction, since PEFT declares alphas as integers.
#[must_use]
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "checked to be whole and small")]
pub fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// Numbers by name, in their order.
#[must_use]
pub fn numbers(values: &indexmap::IndexMap<String, f64>) -> Value {
    values.iter().map(|(name, &value)| (name.clone(), number(value))).collect()
}
