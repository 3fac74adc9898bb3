//! Words with tags, and texts with entities: a label for the first token of each word (as transformers' examples label with `word_ids()`).

use std::ops::Range;

use serde_json::Value;

use crate::data::encoder::Encoder;
use crate::data::example::{Example, IGNORED, Labels};
use crate::data::fields::{Fields, describe, json};
use crate::data::roles::no_form;
use crate::data::tokens::Words;
use crate::error::{Error, Result};

/// `{"tokens", "tags"}`: words, and the name or number of each one's class.
pub(super) fn tags(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let tokens = json(&fields["tokens"]);
    let tags =
        fields.get("labels").ok_or_else(|| Error::not_found("column", "tags").with_hint("a row of tokens has tags, one for each"))?;
    let tags = json(tags);
    let (Value::Array(words), Value::Array(tags)) = (&*tokens, &*tags) else {
        let error = Error::mismatch("tokens and tags", "two lists", format!("{} and {}", describe(&tokens), describe(&tags)));
        return Err(
            error.with_hint("a row is {\"tokens\": [\"Ada\", \"wrote\"], \"tags\": [\"B-PER\", \"O\"]}; a whole text goes with entities")
        );
    };
    if words.len() != tags.len() {
        let error = Error::mismatch("tags", format!("{}, one for each of the tokens", words.len()), tags.len());
        return Err(error.with_hint("a word without an entity has a tag too, such as O"));
    }
    if words.is_empty() {
        return Err(Error::mismatch("tokens", "words", "an empty list").with_hint("leave rows without words out"));
    }
    let encoded = encoder.tokenizer()?.encode_words(given(words)?)?;
    let class = |(at, tag): (usize, &Value)| {
        let is_tag = tag.is_string() || tag.as_i64().is_some();
        let wrong = || {
            Error::mismatch(format!("tag {} of this row", at + 1), "a name or a number", describe(tag))
                .with_hint("a word without an entity has a tag too, such as O")
        };
        if is_tag { encoder.class_of(tag) } else { Err(wrong()) }
    };
    let classes = tags.iter().enumerate().map(class).collect::<Result<Vec<_>>>()?;
    Ok(labelled(encoded, encoder, |word| classes.get(word).copied().unwrap_or(IGNORED)))
}

/// What words look like.
const WORDS: &str = "words are texts, such as {\"tokens\": [\"Ada\", \"5\"], ..}";

fn given(words: &[Value]) -> Result<Vec<String>> {
    words
        .iter()
        .map(|word| word.as_str().map(ToOwned::to_owned).ok_or_else(|| Error::mismatch("tokens", "words", describe(word)).with_hint(WORDS)))
        .collect()
}

/// A word, and its bytes in the text that it is of.
pub(super) type Word = (String, Option<Range<usize>>);

/// `{"tokens"}` or `{"text"}`: each word's first token is labelled with the word's number; and the words, with their bytes in the text.
pub(super) fn asked(fields: &Fields, encoder: &Encoder<'_>) -> Result<(Example, Vec<Word>)> {
    let number = |word: usize| i32::try_from(word).unwrap_or(IGNORED);
    if let Some(tokens) = fields.get("tokens").map(json) {
        let Value::Array(words) = &*tokens else {
            return Err(Error::mismatch("tokens", "a list of words", describe(&tokens)).with_hint(WORDS));
        };
        let words = given(words)?;
        let encoded = encoder.tokenizer()?.encode_words(words.clone())?;
        return Ok((labelled(encoded, encoder, number), words.into_iter().map(|word| (word, None)).collect()));
    }
    let text = fields.get("text").and_then(Value::as_str).ok_or_else(|| no_form(fields, encoder.reading.task))?;
    let (encoded, places) = encoder.tokenizer()?.encode_text_words(text)?;
    let words = places.into_iter().map(|place| (text.get(place.clone()).unwrap_or_default().to_owned(), Some(place))).collect();
    Ok((labelled(encoded, encoder, number), words))
}

/// `{"text", "entities": [{"start", "end", "label"}]}`: characters of the text that are something.
pub(super) fn entities(fields: &Fields, encoder: &Encoder<'_>) -> Result<Example> {
    let text = fields.get("text").and_then(Value::as_str).ok_or_else(|| Error::not_found("column", "text"))?;
    let entities = json(&fields["entities"]);
    let Value::Array(items) = &*entities else {
        return Err(Error::mismatch("entities", "a list", describe(&entities)).with_hint(ENTITY));
    };
    let mut spans = items.iter().map(|item| Entity::read(item, text)).collect::<Result<Vec<_>>>()?;
    spans.sort_by_key(|entity| entity.bytes.start);
    if let Some(pair) = spans.windows(2).find(|pair| pair[1].bytes.start < pair[0].bytes.end) {
        let error = Error::invalid(format!("the entities {} and {} overlap", pair[0].label, pair[1].label));
        return Err(error.with_hint("a word has one tag: leave one of them out"));
    }
    let (encoded, places) = encoder.tokenizer()?.encode_text_words(text)?;
    let mut classes = vec![];
    for (number, place) in places.iter().enumerate() {
        let of = spans.iter().find(|entity| entity.bytes.start < place.end && place.start < entity.bytes.end);
        // The first word of an entity begins it, the others are inside.
        let begins = of.is_some_and(|entity| {
            !places[..number].iter().any(|before| entity.bytes.start < before.end && before.start < entity.bytes.end)
        });
        classes.push(encoder.tag(of.map(|entity| entity.label.as_str()), begins)?);
    }
    Ok(labelled(encoded, encoder, |word| classes.get(word).copied().unwrap_or(IGNORED)))
}

/// What entities look like.
const ENTITY: &str = "an entity is {\"start\": 0, \"end\": 4, \"label\": \"PER\"}; a row without any has an empty list";

struct Entity {
    bytes: Range<usize>,
    label: String,
}

impl Entity {
    fn read(item: &Value, text: &str) -> Result<Self> {
        let place = |name: &str| item[name].as_u64().and_then(|number| usize::try_from(number).ok());
        let wrong = || {
            let error = Error::mismatch("entities", "start, end and label of each", describe(item));
            error.with_hint(ENTITY)
        };
        let (start, end) = place("start").zip(place("end")).ok_or_else(wrong)?;
        let label = item["label"].as_str().ok_or_else(wrong)?.to_owned();
        // Characters, as Python counts them.
        let byte = |characters: usize| text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(characters);
        match (byte(start), byte(end)) {
            (Some(from), Some(to)) if from < to && text[from..to].trim().is_empty() => {
                let error = Error::mismatch("an entity", "characters of a word", format!("{start} to {end}, which is blank"));
                Err(error.with_hint("start and end count characters from 0; end is the one behind the last"))
            }
            (Some(from), Some(to)) if from < to => Ok(Self { bytes: from..to, label }),
            _ => {
                let expected = format!("characters within the text's {}", text.chars().count());
                let error = Error::mismatch("an entity", expected, format!("{start} to {end}"));
                Err(error.with_hint("start and end count characters from 0; end is the one behind the last"))
            }
        }
    }
}

fn labelled(words: Words, encoder: &Encoder<'_>, class: impl Fn(usize) -> i32) -> Example {
    let Words { mut tokens, mut words } = words;
    let mut before = None;
    let mut labels: Vec<i32> = words
        .drain(..)
        .map(|word| {
            let is_first = word.is_some() && word != before;
            before = word;
            word.filter(|_| is_first).map_or(IGNORED, &class)
        })
        .collect();
    if let Some(length) = encoder.reading.max_length.filter(|length| *length < labels.len()) {
        // The token that ends a text stays at its end.
        let last = tokens.spans.last().is_some_and(Range::is_empty).then_some(labels.len() - 1);
        tokens.keep_to(Some(length));
        labels.truncate(length);
        if let (Some(_), Some(label)) = (last, labels.last_mut()) {
            *label = IGNORED;
        }
    }
    Example { labels: Labels::Tokens(labels), ..tokens.into() }
}
