//! JSON that people write and programs keep beside models: a name stands in an object with one value, and a file is what its readers look into.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What to do about a name that has two values.
pub const TWICE: &str = "a name stands in an object once: take out the value that is not meant";

/// A value in whose objects no name has two values, of which readers would take one without a word.
#[derive(Debug)]
pub struct Told(pub Value);

/// The names and values of an object, as [`Told`].
#[derive(Debug)]
pub struct Names(pub Map<String, Value>);

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut read = vec![];
        while let Some(Told(item)) = items.next_element()? {
            read.push(item);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some((name, Told(value))) = entries.next_entry::<String, Told>()? {
            match read.get(&name) {
                Some(first) if *first != value => {
                    return Err(A::Error::custom(format!("the name {name:?} stands twice in one object, with two values")));
                }
                Some(_) => {}
                None => drop(read.insert(name, value)),
            }
        }
        Ok(Value::Object(read))
    }
}

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue).map(Self)
    }
}

struct AnObject;

impl<'de> Visitor<'de> for AnObject {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Names, A::Error> {
        match Told::deserialize(MapAccessDeserializer::new(entries))? {
            Told(Value::Object(names)) => Ok(Names(names)),
            Told(_) => Ok(Names(Map::new())),
        }
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(AnObject)
    }
}

/// What a configuration is called in messages.
pub const CONFIGURATION: &str = "a configuration";

/// What a text says; `format` is what it should be, for messages.
fn value(text: &[u8], format: &'static str) -> Result<Value> {
    serde_json::from_slice(text).map(|Told(value)| value).map_err(|error| {
        let hint = if error.is_data() { TWICE } else { "is the file complete, and JSON? copy it again from where it came from" };
        Error::format(format, error).with_hint(hint)
    })
}

/// The object that a text is; `format` is what it should be, for messages.
///
/// # Errors
/// [`Format`](crate::ErrorKind::Format) for a text that is no JSON, has a name with two values, or is something else than an object.
pub fn object(text: &[u8], format: &'static str) -> Result<Map<String, Value>> {
    match value(text, format)? {
        Value::Object(names) => Ok(names),
        other => Err(is_another(format, "an object, as {\"name\": \"value\"}", &other)),
    }
}

/// The objects in the list that a text is.
///
/// # Errors
/// As [`object`].
pub fn objects(text: &[u8], format: &'static str) -> Result<Vec<Value>> {
    let expected = "a list of objects, as [{\"name\": \"value\"}]";
    match value(text, format)? {
        Value::Array(items) => match items.iter().find(|item| !item.is_object()) {
            None => Ok(items),
            Some(other) => Err(is_another(format, expected, other)),
        },
        other => Err(is_another(format, expected, &other)),
    }
}

/// What an object's text says of the fields that are known.
///
/// # Errors
/// As [`object`]; a field of another kind.
pub fn fields<T: DeserializeOwned>(text: &[u8], format: &'static str) -> Result<T> {
    object(text, format)?;
    serde_json::from_slice(text).map_err(|error| Error::format(format, error))
}

fn is_another(format: &'static str, expected: &str, found: &Value) -> Error {
    let hint = "copy the file again from where it came from, or take it away where nothing needs it";
    Error::format(format, format!("expected {expected}, found {}", describe(found))).with_hint(hint)
}

/// A value for a message: short, and with its kind.
#[must_use]
pub fn describe(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_has_one_value_at_every_depth() -> Result<()> {
        let same = r#"{"a": [1, -2, 0.5, true, null, "x", {"b": 1, "b": 1}], "a\u0000": {}}"#;
        assert_eq!(value(same.as_bytes(), "JSON")?, json!({"a": [1, -2, 0.5, true, null, "x", {"b": 1}], "a\0": {}}));
        for twice in [r#"{"a": 1, "a": 2}"#, r#"[{"b": {"a": 1, "a": null}}]"#, r#"{"a": 1, "\u0061": "1"}"#] {
            let error = value(twice.as_bytes(), "JSON").expect_err(twice);
            assert!(error.to_string().contains("the name \"a\" stands twice in one object"), "{twice}: {error}");
            assert_eq!(error.hint(), Some(TWICE), "{twice}");
            assert!(serde_json::from_str::<Names>(twice).is_err(), "{twice}");
        }
        Ok(())
    }

    #[test]
    fn what_is_no_object_is_told_by_its_kind() {
        for (text, said) in [("[]", "a list of 0"), ("\"x\"", "the text \"x\""), ("null", "null"), ("3", "found 3")] {
            let error = object(text.as_bytes(), CONFIGURATION).expect_err(text);
            assert!(error.to_string().contains(said) && error.hint().is_some(), "{text}: {error}");
        }
        assert!(objects(b"{}", "a list").is_err() && objects(b"[1]", "a list").is_err());
        assert_eq!(objects(b"[{}]", "a list").expect("a list of objects"), [json!({})]);
    }
}
