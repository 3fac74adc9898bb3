//! What an encoder-decoder is to write: as the configurations beside it say, and as it was asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::writing::{Ending, Rules, Writing};
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
    /// Whether what draws tokens has a repetition penalty, in place of the configuration's.
    pub penalizes: bool,
    /// How many texts are followed at once.
    pub beams: Option<usize>,
    /// The power of its length that a text's log-probability is divided by, in beam search.
    pub length_penalty: Option<f64>,
}

/// What changes a text and is not followed, beside what changes nothing.
static UNREAD: LazyLock<[(&str, Value); 12]> = LazyLock::new(|| {
    [
        ("encoder_repetition_penalty", json!(1)),
        ("num_beam_groups", json!(1)),
        ("diversity_penalty", json!(0)),
        ("penalty_alpha", json!(0)),
        ("exponential_decay_length_penalty", Value::Null),
        ("sequence_bias", Value::Null),
        ("guidance_scale", json!(1)),
        ("stop_strings", Value::Null),
        ("remove_invalid_values", json!(false)),
        ("constraints", Value::Null),
        ("force_words_ids", Value::Null),
        ("watermarking_config", Value::Null),
    ]
});

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

    /// Tokens that certainly come at a place.
    fn forced(&self) -> BTreeMap<usize, i32> {
        let first = self.token("forced_bos_token_id").map(|token| (1, token));
        let pair = |pair: &Value| Some((usize::try_from(pair[0].as_u64()?).ok()?, token(&pair[1])?));
        first.into_iter().chain(self.list("forced_decoder_ids").iter().filter_map(pair)).collect()
    }

    /// What is said and not followed.
    fn unread(&self) -> impl Iterator<Item = &'static str> {
        let changes = |(name, nothing): &&(&str, Value)| self.get(name).is_some_and(|value| !is_same(value, nothing));
        UNREAD.iter().filter(changes).map(|(name, _)| *name)
    }

    fn count(&self, name: &str) -> usize {
        self.get(name).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok()).unwrap_or_default()
    }

    fn number(&self, name: &str) -> f64 {
        self.get(name).and_then(Value::as_f64).unwrap_or(1.0)
    }

    /// Which tokens may come behind a start of so many.
    fn rules(&self, start: usize) -> Rules {
        Rules {
            repetition_penalty: self.number("repetition_penalty"),
            no_repeat: self.count("no_repeat_ngram_size"),
            no_repeat_of_source: self.count("encoder_no_repeat_ngram_size"),
            bad_words: self.list("bad_words_ids").iter().map(tokens).filter(|words| !words.is_empty()).collect(),
            least: self.count("min_length").max(match self.count("min_new_tokens") {
                0 => 0,
                new => start + new,
            }),
            forced: self.forced(),
            forced_last: self.get("forced_eos_token_id").map(tokens).unwrap_or_default(),
            suppressed: self.get("suppress_tokens").map(tokens).unwrap_or_default(),
            suppressed_first: self.get("begin_suppress_tokens").map(tokens).unwrap_or_default(),
            renormalize: self.get("renormalize_logits").and_then(Value::as_bool).unwrap_or_default(),
        }
    }

    /// When beam search ends.
    fn ending(&self) -> Ending {
        match self.get("early_stopping") {
            Some(Value::Bool(true)) => Ending::AtOnce,
            Some(Value::String(word)) if word == "never" => Ending::Impossible,
            _ => Ending::Unlikely,
        }
    }
}

fn token(value: &Value) -> Option<i32> {
    value.as_i64().and_then(|token| i32::try_from(token).ok())
}

/// A token, or a list of some.
fn tokens(value: &Value) -> Vec<i32> {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice).iter().filter_map(token).collect()
}

fn is_same(value: &Value, other: &Value) -> bool {
    value == other || value.as_f64().is_some_and(|number| other.as_f64().is_some_and(|other| number.total_cmp(&other).is_eq()))
}

impl Wish<'_> {
    /// What is written by a model whose configurations lie at `places`, and whose texts have at most so many `positions`.
    ///
    /// # Errors
    /// A configuration that cannot be read; beam search of tokens that are drawn.
    pub fn writing(&self, places: &[PathBuf], tokenizer: &Tokenizer, positions: Option<usize>) -> Result<Writing> {
        let configured = Configured::near(places)?;
        let unread: Vec<&str> = configured.unread().collect();
        if !unread.is_empty() {
            tracing::warn!("the configuration of generation says {}, which is not followed", unread.join(", "));
        }
        let start = configured.token("decoder_start_token_id").or_else(|| configured.token("bos_token_id"));
        let mut start = vec![start.unwrap_or_else(|| tokenizer.bos().unwrap_or_else(|| tokenizer.pad()))];
        let mut rules = configured.rules(start.len());
        if let Some(text) = self.begins {
            start.extend(tokenizer.encode(text, Specials::AsWritten)?.ids);
            rules = Rules { forced: BTreeMap::new(), ..configured.rules(start.len()) };
        }
        if self.penalizes {
            rules.repetition_penalty = 1.0;
        }
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
            rules,
            beams,
            length_penalty: self.length_penalty.or_else(|| configured.get("length_penalty").and_then(Value::as_f64)).unwrap_or(1.0),
            ending: configured.ending(),
        })
    }
}
