//! Tokenizers as Hugging Face keeps them: `tokenizer.json`, and beside it what the special tokens are and how to write a chat.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Once;

use serde_json::Value;
use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy, truncate_encodings};
use tokenizers::{DecoderWrapper, Encoding, InputSequence, PostProcessor, PostProcessorWrapper};

use super::chat::{ChatTemplate, Ending, Message};
use super::companions::{end_tokens, read_json};
use super::long;
use super::normalizers;
use super::symbols;
use super::tokens::{Tokens, Words};
use crate::error::{Context, Error, Result};
use crate::files;
use crate::files::wall::{TOKENIZER, behind_wall};

const FILE: &str = "tokenizer.json";

/// Files that name special tokens or their numbers, the most trusted first.
const COMPANIONS: [&str; 4] = ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"];

/// A special token: its name in the files, and what it usually looks like where no file tells.
const SPECIAL: [(&str, &[&str]); 5] = [
    ("bos", &[]),
    ("eos", &["</s>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|im_end|>", "<eos>", "<end_of_turn>"]),
    ("pad", &["[PAD]", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>"]),
    ("mask", &["[MASK]", "<mask>"]),
    ("unk", &[]),
];

/// A tokenizer with its special tokens and chat template.
pub struct Tokenizer {
    file: PathBuf,
    /// Why this file, in words.
    why: &'static str,
    /// Without its last step, which is taken once, on all texts of a row: it moves the places of tokens.
    inner: tokenizers::Tokenizer,
    /// The last step: special tokens, and which text a token is of.
    processor: Option<PostProcessorWrapper>,
    special: BTreeMap<&'static str, i32>,
    chat: Option<ChatTemplate>,
    /// Whether texts are read in capitals.
    in_capitals: bool,
    /// Done when it was told that two texts are joined.
    joins: Once,
}

/// Whether a text gets the special tokens that the model expects around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// It does: `[CLS] text [SEP]`, `<s> text`, or nothing, as the tokenizer says.
    Added,
    /// It has them already, or is the middle of something.
    AsWritten,
}

impl Tokenizer {
    /// Opens a `tokenizer.json`, or the one in a folder, with the files beside it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Io`](crate::ErrorKind::Io) or [`Format`](crate::ErrorKind::Format) with the file.
    pub fn open(path: &Path) -> Result<Self> {
        let own = if path.is_dir() { path.join(FILE) } else { path.to_path_buf() };
        let file = if !own.is_file() && path.is_dir() && symbols::is_in(path) { path.join(symbols::FILE) } else { own };
        if !file.is_file() {
            return Err(Error::not_found("tokenizer", FILE)
                .in_file(path)
                .with_hint("a tokenizer is a file tokenizer.json, or the folder that has it"));
        }
        let folder = file.parent().unwrap_or(Path::new("."));
        let mut bytes = files::read(&file)?;
        if file.file_name().is_some_and(|name| name == symbols::FILE) {
            let vocab = files::json::object(&bytes, "a list of symbols").in_file(&file)?.into();
            bytes = symbols::tokenizer(&vocab, &read_json(&folder.join(COMPANIONS[0]))?).in_file(&file)?.to_string().into_bytes();
        }
        let companions = COMPANIONS.iter().map(|name| read_json(&folder.join(name))).collect::<Result<Vec<_>>>()?;
        let mut tokenizer = Self::new(&file, &bytes, &companions)?;
        tokenizer.chat = tokenizer.chat_template(folder, &companions[0])?;
        Ok(tokenizer)
    }

    /// A `tokenizer.json` in memory, alone: without the special tokens and the chat template that files beside it may have.
    ///
    /// # Errors
    /// [`Format`](crate::ErrorKind::Format) for bytes that are no tokenizer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::new(Path::new(FILE), bytes, &[])
    }

    fn new(file: &Path, bytes: &[u8], companions: &[Value]) -> Result<Self> {
        let read = || {
            let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
            // Some files ask for padding or truncation, for servers; rows are padded and cut elsewhere.
            inner.with_padding(None);
            inner.with_truncation(None)?;
            let processor = inner.get_post_processor().cloned();
            inner.with_post_processor(None::<PostProcessorWrapper>);
            Ok::<_, tokenizers::Error>((inner, processor))
        };
        let inner = behind_wall(TOKENIZER, read).in_file(file)?;
        let (inner, processor) = inner.map_err(|error| Error::format("a tokenizer", error).in_file(file))?;
        normalizers::check(&serde_json::to_value(inner.get_normalizer()).unwrap_or_default()).in_file(file)?;
        let special = SPECIAL.iter().filter_map(|(name, usual)| Some((*name, special_token(&inner, companions, name, usual)?))).collect();
        // `Wav2Vec2CTCTokenizer` reads texts in capitals where its configuration asks for one case.
        let asks = companions.first().is_some_and(|config| config["do_lower_case"].as_bool() == Some(true));
        let in_capitals = asks && is_ctc(&inner);
        Ok(Self {
            why: "it was named with `tokenizer`",
            inner,
            processor,
            special,
            chat: None,
            in_capitals,
            joins: Once::new(),
            file: file.to_path_buf(),
        })
    }

    /// Opens the tokenizer that belongs to a model's file or folder.
    /// None if there is none.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn beside(model: &Path) -> Result<Option<Self>> {
        let symbols = || files::near::folders(model).into_iter().find(|folder| symbols::is_in(folder));
        let found = files::near::file(model, FILE).or_else(symbols).map(|file| Self::open(&file)).transpose()?;
        Ok(found.map(|tokenizer| Self { why: "it lies beside the model", ..tokenizer }))
    }

    /// A text as tokens.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Tokens> {
        self.encoding(text, specials == Specials::Added).and_then(|encoding| Tokens::new(&encoding))
    }

    /// A text that a language model goes on with, as tokens: some tokenizers end every text, this one goes on. Of a text that has more than `most`
    /// tokens, at least so many are there.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_to_continue(&self, text: &str, most: Option<usize>) -> Result<Vec<i32>> {
        let mut ids = self.encode_beginning(text, Specials::Added, most)?.ids;
        if ids.len() > 1 && ids.last() == self.eos().as_ref() {
            ids.pop();
        }
        Ok(ids)
    }

    /// A text as tokens, of which no more than the first `most` are kept: at least these are those of the whole text. Of a long text, no more is
    /// taken apart than that needs.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_beginning(&self, text: &str, specials: Specials, most: Option<usize>) -> Result<Tokens> {
        long::beginning(text, most, &|text| self.encode(text, specials))
    }

    /// Two texts as the tokens of one input, of at most `length`: of the longer text more is cut, at its end. A tokenizer that puts nothing between them
    /// joins them, as in transformers, which is told.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_pair(&self, first: &str, second: &str, length: Option<usize>) -> Result<Tokens> {
        let part = |text: &str| {
            let kept = long::beginning(text, length, &|text| self.encoding(text, false).and_then(|encoding| Tokens::new(&encoding)))?;
            let end = kept.spans.last().map_or(0, |span| span.end).min(text.len());
            // Of a text that is taken whole, what stands behind its last token too.
            let text = if length.is_some_and(|length| kept.ids.len() > length) { &text[..text.floor_char_boundary(end)] } else { text };
            self.unprocessed(text)
        };
        let (first, second) = (part(first)?, as_second(part(second)?));
        let added = self.added_to_pairs();
        let are_cut = length.is_some_and(|length| first.len() + second.len() > length.saturating_sub(added));
        let joined = || {
            let (first, second) = match length {
                Some(length) => {
                    let params = TruncationParams {
                        max_length: length.saturating_sub(added),
                        strategy: TruncationStrategy::LongestFirst,
                        ..TruncationParams::default()
                    };
                    truncate_encodings(first, Some(second), &params)?
                }
                None => (first, Some(second)),
            };
            self.processed(first, second, true)
        };
        if added == 0 {
            self.joins.call_once(|| {
                let file = self.file.display();
                tracing::warn!("{file}: the tokenizer puts nothing between two texts: the second follows the first, as in transformers");
            });
        }
        Ok(Tokens { are_cut, ..Tokens::new(&self.guarded(joined)?)? })
    }

    /// A text's words as they are given, and the word of each token.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_words(&self, mut words: Vec<String>) -> Result<Words> {
        for word in &mut words {
            if let Some((shorter, _)) = long::shortened(word, &|text| self.encode(text, Specials::AsWritten))? {
                *word = shorter;
            }
        }
        Words::new(&self.guarded(|| self.processed(self.inner.encode(InputSequence::from(words), false)?, None, true))?)
    }

    /// A text as words that the tokenizer takes apart: the word of each token, and the bytes of each word.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_text_words(&self, text: &str) -> Result<(Words, Vec<Range<usize>>)> {
        let words = Words::new(&self.encoding(text, true)?)?;
        let mut places: Vec<Range<usize>> = vec![];
        for (word, span) in words.words.iter().zip(&words.tokens.spans) {
            let Some(word) = *word else { continue };
            places.resize(places.len().max(word + 1), span.clone());
            places[word] = places[word].start.min(span.start)..places[word].end.max(span.end);
        }
        // A token may begin with the space before its word.
        let trimmed = |place: Range<usize>| {
            let space = text.get(place.clone()).map_or(0, |word| word.len() - word.trim_start().len());
            place.start + space..place.end
        };
        Ok((words, places.into_iter().map(trimmed).collect()))
    }

    /// A question and the text that its answer stands in. Where both are longer than `length`, the end of the text is cut; or, with a `stride`, the
    /// text is parted into windows of which each begins with the last `stride` tokens of the one before.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); a question that leaves no room for the text.
    pub fn encode_question(&self, question: &str, context: &str, length: Option<usize>, stride: Option<usize>) -> Result<Vec<Tokens>> {
        let (question, context) = (self.unprocessed(question)?, as_second(self.unprocessed(context)?));
        let added = self.added_to_pairs();
        let room = length.map(|length| length.saturating_sub(added + question.len()));
        let are_cut = stride.is_none() && room.is_some_and(|room| room < context.len());
        if let (Some(room), Some(stride)) = (room, stride.filter(|_| room.is_some_and(|room| room < context.len())))
            && stride >= room
        {
            let error =
                Error::setting("doc_stride", format!("fewer than the {room} tokens of the text that fit beside the question"), stride);
            return Err(error.with_hint("a larger `max_length` leaves more room, a smaller `doc_stride` needs less"));
        }
        let joined = || {
            let (question, context) = match length {
                Some(length) => {
                    let params = TruncationParams {
                        max_length: length.saturating_sub(added),
                        strategy: TruncationStrategy::OnlySecond,
                        stride: stride.unwrap_or_default(),
                        ..TruncationParams::default()
                    };
                    truncate_encodings(question, Some(context), &params)?
                }
                None => (question, Some(context)),
            };
            self.processed(question, context, true)
        };
        let joined = behind_wall(TOKENIZER, joined).in_file(&self.file)?;
        let joined =
            joined.map_err(|error| Error::invalid(error.to_string()).with_hint("a larger `max_length` leaves room for the text"))?;
        let others = joined.get_overflowing().iter().filter(|_| stride.is_some());
        std::iter::once(&joined).chain(others).map(|window| Ok(Tokens { are_cut, ..Tokens::new(window)? })).collect()
    }

    /// Tokens as text, without the special ones.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for numbers below zero.
    pub fn decode(&self, ids: &[i32]) -> Result<String> {
        let ids = ids.iter().map(|id| u32::try_from(*id)).collect::<Result<Vec<_>, _>>();
        let ids = ids.map_err(|_| Error::invalid("token numbers must not be below zero"))?;
        behind_wall(TOKENIZER, || self.inner.decode(&ids, true)).in_file(&self.file)?.map_err(|error| Error::invalid(error.to_string()))
    }

    /// Symbols that were heard as text: special ones but the blank are told as they are, as transformers' `Wav2Vec2CTCTokenizer` does.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn spell(&self, symbols: &[i32]) -> Result<String> {
        let Some(DecoderWrapper::CTC(ctc)) = self.inner.get_decoder() else { return self.decode(symbols) };
        let spelled = symbols.iter().filter_map(|symbol| self.token(*symbol)).filter(|token| *token != ctc.pad_token);
        let spaced = spelled.map(|token| if token == ctc.word_delimiter_token { " ".to_owned() } else { token });
        Ok(spaced.collect::<String>().trim().to_owned())
    }

    /// The text that frames say: of equal symbols in a row the first, no blanks, spelled.
    ///
    /// # Errors
    /// As [`spell`](Self::spell).
    pub fn hear(&self, frames: &[i32], blank: i32) -> Result<String> {
        let mut symbols = frames.to_vec();
        symbols.dedup();
        symbols.retain(|symbol| *symbol != blank);
        self.spell(&symbols)
    }

    /// Checks that a model with so many tokens can read what this tokenizer writes.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the tokenizer has more tokens than the model, those aside that were added to it.
    pub fn check_fits(&self, vocabulary: Option<usize>) -> Result<()> {
        let own = self.inner.get_vocab_size(false);
        match vocabulary.filter(|vocabulary| *vocabulary < own) {
            None => Ok(()),
            Some(vocabulary) => {
                let error = Error::invalid(format!("wrong tokenizer: it has {} tokens, the model {}", grouped(own), grouped(vocabulary)));
                Err(error.in_file(&self.file).with_hint(format!("{}; name the one that came with the model with `tokenizer`", self.why)))
            }
        }
    }

    /// Tokens that end what the model writes: those that the generation's configuration in these folders or beside the tokenizer names, and the
    /// tokenizer's own.
    ///
    /// # Errors
    /// If one of the files is no JSON.
    pub fn stops(&self, folders: &[PathBuf]) -> Result<Vec<i32>> {
        let mut stops: Vec<i32> = self.eos().into_iter().collect();
        for folder in folders.iter().map(PathBuf::as_path).chain(self.file.parent()) {
            stops.extend(end_tokens(folder)?);
        }
        stops.sort_unstable();
        stops.dedup();
        Ok(stops)
    }

    /// The token that ends an assistant's turn in the chat template: the first special one behind its words.
    #[must_use]
    pub fn end_of_turn(&self) -> Option<i32> {
        const WORDS: &str = "answer";
        let chat = self.chat.as_ref()?;
        let text = chat.render(&[Message::says("user", "question"), Message::says("assistant", WORDS)], Ending::Complete).ok()?;
        let behind = &text[text.rfind(WORDS)? + WORDS.len()..];
        let special = self.special_tokens();
        self.encode(behind, Specials::AsWritten).ok()?.ids.into_iter().find(|id| special.contains(id))
    }

    /// The token that ends a text, if there is one.
    #[must_use]
    pub fn eos(&self) -> Option<i32> {
        self.special.get("eos").copied()
    }

    /// The token that begins a text, if there is one.
    #[must_use]
    pub fn bos(&self) -> Option<i32> {
        self.special.get("bos").copied()
    }

    /// The token that stands for a hidden one, if there is one.
    #[must_use]
    pub fn mask(&self) -> Option<i32> {
        self.special.get("mask").copied()
    }

    /// The token that stands for what the tokenizer does not know, if there is one.
    #[must_use]
    pub fn unknown(&self) -> Option<i32> {
        self.special.get("unk").copied()
    }

    /// A token as it is written in the tokenizer's file.
    #[must_use]
    pub fn token(&self, id: i32) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    /// The token that rows are filled up with: the tokenizer's own, or the one that ends a text, or 0. No label ever falls on it.
    #[must_use]
    pub fn pad(&self) -> i32 {
        self.special.get("pad").copied().or_else(|| self.eos()).unwrap_or_default()
    }

    /// Every token that stands for something other than text.
    #[must_use]
    pub fn special_tokens(&self) -> Vec<i32> {
        let added = self.inner.get_added_tokens_decoder();
        let mut ids: Vec<i32> = added.iter().filter(|(_, token)| token.special).filter_map(|(id, _)| i32::try_from(*id).ok()).collect();
        ids.extend(self.special.values());
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The number of tokens.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// How a conversation becomes text, if the tokenizer's files say it.
    #[must_use]
    pub fn chat(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }

    fn encoding(&self, text: &str, with_specials: bool) -> Result<Encoding> {
        let tokens = self.unprocessed(text)?;
        self.guarded(|| self.processed(tokens, None, with_specials))
    }

    /// A text's tokens before the last step.
    fn unprocessed(&self, text: &str) -> Result<Encoding> {
        let text = if self.in_capitals { Cow::Owned(text.to_uppercase()) } else { Cow::Borrowed(text) };
        self.guarded(|| self.inner.encode(text.as_ref(), false))
    }

    /// The last step, on a text or two.
    fn processed(&self, first: Encoding, second: Option<Encoding>, with_specials: bool) -> tokenizers::Result<Encoding> {
        match &self.processor {
            Some(processor) => processor.process(first, second, with_specials),
            None => self.inner.post_process(first, second, with_specials),
        }
    }

    /// How many special tokens two texts get.
    fn added_to_pairs(&self) -> usize {
        self.processor.as_ref().map_or(0, |processor| processor.added_tokens(true))
    }

    fn guarded<T>(&self, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        behind_wall(TOKENIZER, work).in_file(&self.file)?.map_err(|error| Error::invalid(error.to_string()))
    }

    fn chat_template(&self, folder: &Path, config: &Value) -> Result<Option<ChatTemplate>> {
        let file = folder.join("chat_template.jinja");
        let (place, source) = if file.is_file() {
            let source = files::read_text(&file)?;
            (file, Some(source))
        } else {
            (folder.join(COMPANIONS[0]), template_in(config).map(ToOwned::to_owned))
        };
        let token =
            |name: &&'static str| Some((format!("{name}_token"), self.inner.id_to_token(u32::try_from(*self.special.get(name)?).ok()?)?));
        let tokens = SPECIAL.iter().filter_map(|(name, _)| token(name)).collect();
        source.map(|source| ChatTemplate::new(&source, tokens).in_file(place)).transpose()
    }
}

/// A text as the second of two, whose segment is 1 where the last step does not say.
fn as_second(mut tokens: Encoding) -> Encoding {
    tokens.set_type_ids(vec![1; tokens.len()]);
    tokens
}

/// The template in `tokenizer_config.json`: one text, or several with names.
fn template_in(config: &Value) -> Option<&str> {
    match &config["chat_template"] {
        Value::String(source) => Some(source),
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default").or(named.first())?;
            default["template"].as_str()
        }
        _ => None,
    }
}

fn is_ctc(tokenizer: &tokenizers::Tokenizer) -> bool {
    matches!(tokenizer.get_decoder(), Some(DecoderWrapper::CTC(_)))
}

fn special_token(tokenizer: &tokenizers::Tokenizer, companions: &[Value], name: &str, usual: &[&str]) -> Option<i32> {
    let by_name = |companion: &Value| {
        let token = &companion[format!("{name}_token")];
        tokenizer.token_to_id(token.as_str().or_else(|| token["content"].as_str())?).and_then(|id| i32::try_from(id).ok())
    };
    let by_number = |companion: &Value| {
        let id = &companion[format!("{name}_token_id")];
        id.as_i64().or_else(|| id[0].as_i64()).and_then(|id| i32::try_from(id).ok()).filter(|id| *id >= 0)
    };
    let usual = || usual.iter().find_map(|token| tokenizer.token_to_id(token).and_then(|id| i32::try_from(id).ok()));
    companions.iter().find_map(by_name).or_else(|| companions.iter().find_map(by_number)).or_else(usual)
}

/// A number with its thousands apart.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}
