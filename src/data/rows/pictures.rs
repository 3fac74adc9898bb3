//! A picture among the tokens of a row: as many tokens stand for it as the model sees parts of it, as processors of transformers write them.

use serde_json::Value;

use super::files::picture;
use crate::anatomy::PictureTokens;
use crate::data::chat::Message;
use crate::data::encoder::Encoder;
use crate::data::example::{Example, IGNORED, Labels};
use crate::data::fields::Fields;
use crate::data::tokenizer::{Specials, Tokenizer};
use crate::error::{Error, Result};

/// What processors write around the tokens of a picture that is one piece, where a tokenizer has all of these (transformers 4.57,
/// `models/idefics3/processing_idefics3.py`, `_prompt_single_image`).
const AROUND: [&[&str]; 2] = [&["<fake_token_around_image>", "<global-img>"], &["<fake_token_around_image>"]];

/// The column with the picture's file.
const COLUMN: &str = "image";

/// The row with its picture, whose token stands in it once, or as often as the model sees parts; none of them is learnt.
///
/// # Errors
/// A row without a picture, or without a place for it; a file that is no picture.
pub(in crate::data) fn shown(example: Example, fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let Some(pictures) = encoder.reading.feeding.and_then(|feeding| feeding.pictures) else { return Ok(example) };
    if !fields.contains_key(COLUMN) {
        let error = Error::not_found("column", COLUMN);
        return Err(error.with_hint("the model sees a picture in each row: image is a file's path, from the data file's folder"));
    }
    let media = picture(fields, encoder)?.media;
    let example = placed(example, pictures, encoder.reading.tokenizer)?;
    Ok(Example { media, ..example })
}

/// Tokens with those of a picture in place of the one that stands for it.
///
/// # Errors
/// Not one place, nor one for each part.
pub fn placed(mut example: Example, pictures: PictureTokens, tokenizer: Option<&Tokenizer>) -> Result<Example> {
    let token = i32::try_from(pictures.token).map_err(|_| Error::mismatch("the picture's token", "a number of 31 bits", pictures.token))?;
    let name = || tokenizer.and_then(|tokenizer| tokenizer.token(token)).unwrap_or_else(|| format!("token {token}"));
    let count = example.input_ids.iter().filter(|id| **id == token).count();
    let Some(each) = pictures.each else {
        let error = Error::unsupported("pictures of any size", "the graph does not tell how many tokens stand for one");
        return Err(error.with_hint("export the file that sees pictures with the height and width that preprocessor_config.json has"));
    };
    match count {
        _ if count == each => {}
        1 => {
            let [before, behind] = tokenizer.map(around).transpose()?.unwrap_or_default();
            let own: Vec<i32> = before.into_iter().chain(std::iter::repeat_n(token, each)).chain(behind).collect();
            let place = example.input_ids.iter().position(|id| *id == token).unwrap_or_default();
            spread(&mut example, place, &own);
        }
        _ => {
            let expected = format!("one {}, or {each} of them", name());
            let error = Error::mismatch("places of the picture in this row", expected, count);
            return Err(error.with_hint(format!(
                "write {} where the picture stands; in messages, {{\"type\": \"image\"}} in a list of contents",
                name()
            )));
        }
    }
    if let Labels::Tokens(labels) = &mut example.labels {
        example.input_ids.iter().zip(labels).filter(|(id, _)| **id == token).for_each(|(_, label)| *label = IGNORED);
    }
    Ok(example)
}

/// What stands before and behind the tokens of a picture.
fn around(tokenizer: &Tokenizer) -> Result<[Vec<i32>; 2]> {
    for names in AROUND {
        let ids = names.iter().map(|name| Ok(tokenizer.encode(name, Specials::AsWritten)?.ids)).collect::<Result<Vec<_>>>()?;
        let known = ids.iter().zip(names).all(|(ids, name)| matches!(ids[..], [id] if tokenizer.token(id).as_deref() == Some(*name)));
        if known {
            let behind = ids.first().cloned().unwrap_or_default();
            return Ok([ids.concat(), behind]);
        }
    }
    Ok([vec![], vec![]])
}

/// Puts tokens in place of one, in every column that has a number for each token. What is put there is not learnt.
fn spread(example: &mut Example, place: usize, own: &[i32]) {
    let length = example.input_ids.len();
    let repeat = |column: &mut Vec<i32>| {
        if column.len() == length {
            let value = column[place];
            column.splice(place..=place, std::iter::repeat_n(value, own.len()));
        }
    };
    repeat(&mut example.attention_mask);
    repeat(&mut example.token_type_ids);
    repeat(&mut example.segments);
    if example.label_weights.len() == length {
        example.label_weights.splice(place..=place, std::iter::repeat_n(1.0, own.len()));
    }
    if let Labels::Tokens(labels) = &mut example.labels
        && labels.len() == length
    {
        labels.splice(place..=place, std::iter::repeat_n(IGNORED, own.len()));
    }
    example.input_ids.splice(place..=place, own.iter().copied());
}

/// The turns of a conversation, with the picture that a model sees beside them.
///
/// # Errors
/// No list of messages.
pub(in crate::data) fn messages_of(value: &Value, encoder: &Encoder<'_>) -> Result<Vec<Message>> {
    let mut messages = Message::list(value)?;
    if encoder.reading.feeding.is_some_and(|feeding| feeding.pictures.is_some()) {
        Message::with_picture(&mut messages);
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_takes_as_many_tokens_as_the_model_sees_parts_and_none_is_learnt() {
        let pictures = |each| PictureTokens { token: 9, each };
        let row = |ids: &[i32]| Example { input_ids: ids.to_vec(), labels: Labels::Tokens(ids.to_vec()), ..Example::default() };
        let found = placed(row(&[1, 9, 2]), pictures(Some(3)), None).expect("a place");
        assert_eq!((found.input_ids, found.labels), (vec![1, 9, 9, 9, 2], Labels::Tokens(vec![1, -100, -100, -100, 2])));
        let found = placed(row(&[9, 9, 9, 2]), pictures(Some(3)), None).expect("places");
        assert_eq!((found.input_ids, found.labels), (vec![9, 9, 9, 2], Labels::Tokens(vec![-100, -100, -100, 2])));
        for (ids, each, expected) in [
            (&[1, 2][..], Some(3), "places of the picture in this row: expected one token 9, or 3 of them, found 0"),
            (&[9, 9], Some(3), "found 2"),
            (&[9], None, "how many tokens stand for one"),
        ] {
            let error = placed(row(ids), pictures(each), None).unwrap_err();
            assert!(error.to_string().contains(expected) && error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn messages_without_a_picture_begin_with_it() {
        let list = |text: &str| Message::list(&serde_json::from_str(text).expect("JSON")).expect("messages");
        let mut messages = list(r#"[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]"#);
        Message::with_picture(&mut messages);
        let expected = r#"[{"role": "system", "content": [{"type": "text", "text": "s"}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "u"}]}]"#;
        assert_eq!(messages, list(expected));
        let mut own = list(r#"[{"role": "user", "content": [{"type": "text", "text": "u"}, {"type": "image"}]}]"#);
        let before = own.clone();
        Message::with_picture(&mut own);
        assert_eq!(own, before);
    }
}
