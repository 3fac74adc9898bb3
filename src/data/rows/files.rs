//! Pictures and sounds as files beside the data.

use serde_json::Value;

use crate::anatomy::Role;
use crate::data::encoder::Encoder;
use crate::data::example::{Example, Labels, Numbers, Pixels};
use crate::data::fields::Fields;
use crate::data::tokenizer::Specials;
use crate::error::{Context, Error, Result};
use crate::media::Features;

/// `{"image": path, "label"}`.
pub(super) fn image(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    Ok(Example { labels: Labels::Class(encoder.class(fields)?), ..picture(fields, encoder)? })
}

/// `{"image": path}`.
pub(super) fn picture(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let path = encoder.file(path(fields, "image")?);
    let Features { shape, values } = encoder
        .reading
        .media
        .image()?
        .pixels(&path)
        .hint("pictures are PNG, JPEG, WebP, BMP or GIF files, named from the data file's folder")?;
    Ok(Example { pixel_values: Some(Pixels { shape, values }), ..Example::default() })
}

/// `{"audio": path, "label"}`.
pub(super) fn sound(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    Ok(Example { labels: Labels::Class(encoder.class(fields)?), ..recording(fields, encoder)? })
}

/// `{"audio": path, "text"}` for a model with a symbol for each frame: the text's symbols, without any that begin or end it.
pub(super) fn transcribed_frames(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let text = text(fields)?;
    let labels = encoder.tokenizer()?.encode(text, Specials::Added)?.ids;
    Ok(Example { labels: Labels::Tokens(labels), texts: vec![text.to_owned()], ..recording(fields, encoder)? })
}

/// `{"audio": path, "text"}` for a model whose decoder writes the text.
pub(super) fn transcribed(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let text = text(fields)?;
    Ok(Example { labels: Labels::Tokens(encoder.written(text)?), texts: vec![text.to_owned()], ..recording(fields, encoder)? })
}

/// `{"image": path, "text"}` for a model whose decoder writes the text.
pub(super) fn read_image(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let (text, path) = (text(fields)?, encoder.file(path(fields, "image")?));
    let Features { shape, values } = encoder.reading.media.image()?.pixels(&path)?;
    let labels = Labels::Tokens(encoder.written(text)?);
    Ok(Example { pixel_values: Some(Pixels { shape, values }), labels, texts: vec![text.to_owned()], ..Example::default() })
}

/// A row with the sound that it names, in the input that takes it, and where there is sound, in the one that asks for that.
pub(super) fn recording(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let path = encoder.file(path(fields, "audio")?);
    let Features { shape, values } =
        encoder.reading.media.sound()?.features(&path).hint("sounds are WAV, FLAC, MP3 or OGG files, named from the data file's folder")?;
    let inputs = || encoder.reading.feeding.into_iter().flat_map(|feeding| &feeding.inputs);
    let own = inputs().find(|(_, role)| **role == Role::Column);
    let name = own.map_or_else(|| "input_values".to_owned(), |(name, _)| name.clone());
    let mask = inputs().find(|(_, role)| matches!(role, Role::AttentionMask(_)));
    // Of a spectrogram the last axis is time.
    let seen = shape.last().copied().unwrap_or_default();
    let seen = mask.map(|(name, _)| (name.clone(), Numbers { shape: vec![seen], values: vec![1.0; seen] }));
    let numbers = Numbers { shape, values: values.into_iter().map(f64::from).collect() };
    Ok(Example { columns: [(name, numbers)].into_iter().chain(seen).collect(), ..Example::default() })
}

fn text(fields: &Fields) -> Result<&str> {
    fields.get("text").and_then(Value::as_str).ok_or_else(|| Error::not_found("column", "text"))
}

fn path<'a>(fields: &'a Fields, column: &'static str) -> Result<&'a str> {
    let path = fields.get(column).and_then(Value::as_str).filter(|path| !path.trim().is_empty());
    path.ok_or_else(|| Error::not_found("column", column).with_hint(format!("{column} is a file's path, from the data file's folder")))
}
