//! Pictures and sounds as files beside the data.

use serde_json::Value;

use crate::anatomy::Role;
use crate::data::encoder::Encoder;
use crate::data::example::{Example, Labels, Numbers, Pixels};
use crate::data::fields::Fields;
use crate::error::{Error, Result};
use crate::media::Features;

/// `{"image": path, "label"}`.
pub(super) fn image(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let path = encoder.file(path(fields, "image")?);
    let Features { shape, values } = encoder.reading.media.image()?.pixels(&path)?;
    Ok(Example { pixel_values: Some(Pixels { shape, values }), labels: Labels::Class(encoder.class(fields)?), ..Example::default() })
}

/// `{"audio": path, "label"}`.
pub(super) fn sound(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let path = encoder.file(path(fields, "audio")?);
    let Features { shape, values } = encoder.reading.media.sound()?.features(&path)?;
    let input = encoder.reading.feeding.into_iter().flat_map(|feeding| &feeding.inputs).find(|(_, role)| **role == Role::Column);
    let name = input.map_or_else(|| "input_values".to_owned(), |(name, _)| name.clone());
    let numbers = Numbers { shape, values: values.into_iter().map(f64::from).collect() };
    Ok(Example { labels: Labels::Class(encoder.class(fields)?), columns: [(name, numbers)].into(), ..Example::default() })
}

fn path<'a>(fields: &'a Fields, column: &'static str) -> Result<&'a str> {
    fields.get(column).and_then(Value::as_str).ok_or_else(|| Error::not_found("column", column))
}
