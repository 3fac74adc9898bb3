//! What an encoder-decoder is to write: as the configurations beside it say, and as it was asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::Writing;
use crate::data::{Specials, Tokenizer};
use crate::error::{Error, Result};
use crate::model::{Beside, declared};

/// What was asked for; the configurations say the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// The text that the decoder begins with, behind its start token.
    pub begins: Option<&'a str>,
    /// Tokens to write at most.
    pub new_tokens: usize,
    /// Whether tokens are sampled.
    pub is_drawn: bool,
    /// How many texts are followed at once.
    pub beams: Option<usize>,
    /// The power of its length that a text's log-probability is divided by, in beam search.
    pub length_penalty: Option<f64>,
}

/// What `generation_config.json` and `config.json` say.
struct Configured(Vec<Value>);

impl Configured {
    fn near(places: &[PathBuf]) -> Result<Self> {
        let mut configs = vec![];
        for place in places {
            let beside = Beside::near(place);
            configs.extend(beside.json(declared::GENERATION)?);
            configs.extend(beside.json(declared::CONFIG)?);
        }
        Ok(Self(configs))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().flat_map(|config| [&config[name], &config["decoder"][name]]).find(|value| !value.is_null())
    }

    fn list(&self, name: &str) -> &[Value] {
        self.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn token(&self, name: &str) -> Option<i32> {
        self.get(name).and_then(token)
    }

    fn tokens(&self, name: &str) -> Vec<i32> {
        self.list(name).iter().filter_map(token).collect()
    }

    /// Tokens that certainly come at a place.
    fn forced(&self) -> BTreeMap<usize, i32> {
        let first = self.token("forced_bos_token_id").map(|token| (1, token));
        let pair = |pair: &Value| Some((usize::try_from(pair[0].as_u64()?).ok()?, token(&pair[1])?));
        first.into_iter().chain(self.list("forced_decoder_ids").iter().filter_map(pair)).collect()
    }

    /// Words of one token that never come.
    fn bad_words(&self) -> Vec<i32> {
        let single = |words: &Value| words.as_array().filter(|words| words.len() == 1).and_then(|words| token(&words[0]));
        self.list("bad_words_ids").iter().filter_map(single).collect()
    }

    /// What is said and not followed.
    fn unread(&self) -> Vec<&'static str> {
        let names = ["no_repeat_ngram_size", "min_length", "forced_eos_token_id", "encoder_no_repeat_ngram_size"];
        names.into_iter().filter(|name| self.get(name).is_some_and(|value| value.as_f64() != Some(0.0))).collect()
    }
}

fn token(value: &Value) -> Option<i32> {
    value.as_i64().and_then(|token| i32::try_from(token).ok())
}

impl Wish<'_> {
    /// What is written by a model whose configurations lie at `places`, and whose texts have at most so many `positions`.
    ///
    /// # Errors
    /// A configuration that cannot be read; beam search of tokens that are drawn.
    pub fn writing(&self, places: &[PathBuf], tokenizer: &Tokenizer, positions: Option<usize>) -> Result<Writing> {
        let configured = Configured::near(places)?;
        let unread = configured.unread();
        if !unread.is_empty() {
            tracing::warn!("the configuration of generation says {}, which is not followed", unread.join(", "));
        }
        let start = configured.token("decoder_start_token_id").or_else(|| configured.token("bos_token_id"));
        let mut start = vec![start.unwrap_or_else(|| tokenizer.bos().unwrap_or_else(|| tokenizer.pad()))];
        let forced = match self.begins {
            Some(text) => {
                start.extend(tokenizer.encode(text, Specials::AsWritten)?.ids);
                BTreeMap::new()
            }
            None => configured.forced(),
        };
        let usual = configured.get("num_beams").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
        let beams = self.beams.or(usual.filter(|_| !self.is_drawn)).unwrap_or(1);
        if self.is_drawn && beams > 1 {
            let error = Error::unsupported("`num_beams` with `temperature`", "beam search draws no tokens");
            return Err(error.with_hint("leave one of them out"));
        }
        let folders: Vec<PathBuf> = places.iter().flat_map(|place| crate::files::near::folders(place)).collect();
        Ok(Writing {
            start,
            stop: tokenizer.stops(&folders)?,
            new_tokens: self.new_tokens,
            positions,
            suppressed: [configured.tokens("suppress_tokens"), configured.bad_words()].concat(),
            suppressed_first: configured.tokens("begin_suppress_tokens"),
            forced,
            beams,
            length_penalty: self.length_penalty.or_else(|| configured.get("length_penalty").and_then(Value::as_f64)).unwrap_or(1.0),
        })
    }
}
