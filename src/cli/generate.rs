//! `peft-onnx generate`

mod transduce;

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::{Global, ModelArgs, Which, output};
use crate::anatomy::{self, Feeding};
use crate::data::{Ending, Example, Media, Message, Pixels, Specials, Tokenizer, with_picture_tokens};
use crate::error::{Context, Error, OnlyWith, Result};
use crate::export::INFERENCE;
use crate::generate::{Generator, Limits, Sampler, Sampling, TextStream};
use crate::ir::Graph;
use crate::media::Features;
use crate::model::{Beside, declared, parts};
use crate::onnx::Runnable;
use crate::training::tokenizer_near;
use crate::{files, model};

const AFTER_HELP: &str = "\
Without --temperature the most probable token comes every time. With it, tokens are drawn; the same --seed draws the same.

Examples:
  peft-onnx generate model.lora --prompt 'Once upon a time'
  peft-onnx generate model.lora --prompt 'Once upon a time' --temperature 0.8 --top-p 0.95
  peft-onnx generate model.onnx --tokenizer tokenizer.json --chat --prompt 'Why is the sky blue?'
  peft-onnx generate t5-onnx/ --prompt 'translate English to German: Good morning' --num-beams 4
  peft-onnx generate whisper-onnx/ --audio speech.wav
  peft-onnx generate llava-onnx/ --image photo.jpg --chat --prompt 'What is this?'
  echo 'A long prompt' | peft-onnx generate model.onnx --prompt -";

/// Options of `generate`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text to continue; may be given several times; - reads standard input
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["audio", "image"])]
    pub prompt: Vec<String>,
    /// A sound whose words an encoder-decoder writes (WAV, FLAC, MP3, OGG); may be given several times
    #[arg(long, value_name = "FILE", help_heading = "Encoder-decoders")]
    pub audio: Vec<PathBuf>,
    /// An image whose text an encoder-decoder writes, or that a prompt is about; may be given several times
    #[arg(long, value_name = "FILE", help_heading = "Encoder-decoders")]
    pub image: Vec<PathBuf>,
    /// The encoder's file, where MODEL is the decoder's
    #[arg(long, value_name = "FILE", help_heading = "Encoder-decoders")]
    pub part: Vec<PathBuf>,
    /// What the decoder begins with, behind its start token: `<|en|><|transcribe|>` [default: what the model's configuration forces]
    #[arg(long, value_name = "TEXT", help_heading = "Encoder-decoders")]
    pub decoder_prompt: Option<String>,
    /// Texts that are followed at once (beam search) [default: as the model's generation_config.json, else 1]
    #[arg(long, aliases = ["beams"], value_name = "COUNT", help_heading = "Encoder-decoders")]
    pub num_beams: Option<NonZeroUsize>,
    /// Beam search: the power of its length that a text's log-probability is divided by [default: as generation_config.json, else 1]
    #[arg(long, value_name = "NUMBER", help_heading = "Encoder-decoders")]
    pub length_penalty: Option<f64>,
    /// Put the prompt into the tokenizer's chat template, as a user's message
    #[arg(long)]
    pub chat: bool,
    /// The system message, with --chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Print the continuation alone, without the prompt
    #[arg(long)]
    pub no_prompt: bool,
    /// Maximum number of new tokens
    #[arg(long, aliases = ["max-tokens", "max-length"], value_name = "TOKENS", default_value_t = 128)]
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    #[command(flatten)]
    pub choice: Choice,
}

/// How tokens are chosen, of every command that writes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Choice {
    /// Sampling temperature: 0 always takes the most probable token, 1 samples the model's own distribution
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, help_heading = CHOICE)]
    pub temperature: f64,
    /// Sample from this many of the most probable tokens
    #[arg(long, value_name = "TOKENS", help_heading = CHOICE)]
    pub top_k: Option<NonZeroUsize>,
    /// Sample from the most probable tokens that together have this probability [default: 1]
    #[arg(long, value_name = "SHARE", help_heading = CHOICE)]
    pub top_p: Option<f64>,
    /// Repetition penalty: above 1, tokens that already occurred become less probable
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, help_heading = CHOICE)]
    pub repetition_penalty: f64,
    /// Random seed of sampling [default: 42]
    #[arg(long, value_name = "NUMBER", help_heading = CHOICE)]
    pub seed: Option<u64>,
}

const CHOICE: &str = "Choice of tokens";

/// Options that say how tokens are drawn.
#[rustfmt::skip]
static OF_SAMPLING: &[OnlyWith<Choice, Choice>] = &[
    OnlyWith { option: "top_k", is_given: |choice| choice.top_k.is_some(), with: "a temperature above 0", holds: |choice| choice.temperature != 0.0 },
    OnlyWith { option: "top_p", is_given: |choice| choice.top_p.is_some(), with: "a temperature above 0", holds: |choice| choice.temperature != 0.0 },
    OnlyWith { option: "seed",  is_given: |choice| choice.seed.is_some(),  with: "a temperature above 0", holds: |choice| choice.temperature != 0.0 },
];

impl Choice {
    /// A sampler at the start of its choices.
    ///
    /// # Errors
    /// As [`Sampler::new`]; an option that says how tokens are drawn where none are.
    pub(super) fn sampler(&self) -> Result<Sampler> {
        OnlyWith::check(OF_SAMPLING, self, self, "0, which takes the most probable token each time")?;
        Sampler::new(Sampling {
            temperature: self.temperature,
            top_k: self.top_k.map(NonZeroUsize::get),
            top_p: self.top_p.unwrap_or(1.0),
            repetition_penalty: self.repetition_penalty,
            seed: self.seed.unwrap_or(42),
        })
    }
}

/// Writes text.
///
/// # Errors
/// If there is no tokenizer, or as [`Generator::generate`].
pub fn run(args: &Args, global: &Global) -> Result<()> {
    args.choice.sampler()?;
    if let Some(model) = transduce::model(args)? {
        return transduce::run(args, global, model, &|| args.choice.sampler());
    }
    let model = Model::of(&args.model.path, args.model.base.as_deref(), &args.model.which, args.model.tokenizer.as_deref())?;
    let architecture = if model.feeding.pictures.is_some() { Architecture::SeeingDecoder } else { Architecture::Decoder };
    OnlyWith::check(OF_ARCHITECTURES, args, &architecture, "a decoder alone").in_file(&args.model.path)?;
    let pictures = pictures(args, &model)?;
    let runtime = global.runtime(args.model.threads)?;
    let mut generator = Generator::fed(runtime, model.graph.clone(), model.feeding.clone(), args.model.device)?;
    if let Some(later) = model.later.clone() {
        generator = generator.then(runtime, later, args.model.device)?;
    }
    model.tokenizer.check_fits(generator.vocabulary())?;
    let end_of_turn = model.tokenizer.end_of_turn().filter(|_| args.chat);
    let stop = model.tokenizer.stops(&model.folders)?.into_iter().chain(end_of_turn).collect();
    let limits = Limits { new_tokens: args.max_new_tokens, stop, positions: model.positions };
    let mut answers = vec![];
    for (number, prompt) in args.prompt.iter().enumerate() {
        let mut prompt = Prompt::read(prompt, args, &model)?;
        if let Some(picture) = pictures.get(number.min(pictures.len().saturating_sub(1))) {
            prompt = prompt.with_picture(&model)?;
            generator.look_at(picture.clone());
        }
        if number > 0 && !global.json {
            output::print("\n---\n")?;
        }
        let mut told = Told::new(args, global, TextStream::after(&model.tokenizer, &prompt.tokens));
        told.begin(&prompt)?;
        let started = Instant::now();
        let tokens = generator.generate(&prompt.tokens, &limits, &mut args.choice.sampler()?, &mut |token| told.tell(token))?;
        let completion = told.end()?;
        let time = started.elapsed();
        tracing::info!("{} tokens in {}", tokens.len(), output::duration(time));
        answers.push(json!({"prompt": prompt.text, "completion": completion, "tokens": tokens, "seconds": time.as_secs_f64()}));
    }
    if global.json { output::print_json(&answers) } else { Ok(()) }
}

/// What writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Architecture {
    Decoder,
    /// With a picture among its tokens.
    SeeingDecoder,
    EncoderDecoder,
}

const SEEING: &str =
    "an encoder-decoder, or a decoder with a picture among its tokens (embed_tokens.onnx, vision_encoder.onnx, decoder_model_merged.onnx)";
const SPLIT: &str = "an encoder-decoder (the files encoder_model.onnx and decoder_model.onnx, or inputs for both)";

/// Options that one of the two architectures has no use for.
#[rustfmt::skip]
static OF_ARCHITECTURES: &[OnlyWith<Args, Architecture>] = &[
    OnlyWith { option: "audio",          is_given: |args| !args.audio.is_empty(),          with: SPLIT, holds: |is| *is == Architecture::EncoderDecoder },
    OnlyWith { option: "image",          is_given: |args| !args.image.is_empty(),          with: SEEING, holds: |is| *is != Architecture::Decoder },
    OnlyWith { option: "part",           is_given: |args| !args.part.is_empty(),           with: SPLIT, holds: |is| *is == Architecture::EncoderDecoder },
    OnlyWith { option: "decoder_prompt", is_given: |args| args.decoder_prompt.is_some(),   with: SPLIT, holds: |is| *is == Architecture::EncoderDecoder },
    OnlyWith { option: "num_beams",      is_given: |args| args.num_beams.is_some_and(|beams| beams.get() > 1), with: SPLIT, holds: |is| *is == Architecture::EncoderDecoder },
    OnlyWith { option: "length_penalty", is_given: |args| args.length_penalty.is_some(),   with: SPLIT, holds: |is| *is == Architecture::EncoderDecoder },
    OnlyWith { option: "chat",           is_given: |args| args.chat,                       with: "a decoder alone", holds: |is| *is != Architecture::EncoderDecoder },
    OnlyWith { option: "no_prompt",      is_given: |args| args.no_prompt,                  with: "a decoder alone, whose text continues the prompt", holds: |is| *is != Architecture::EncoderDecoder },
];

/// The graph that writes, with its tokenizer.
pub(super) struct Model {
    pub(super) graph: Runnable,
    /// The same for tokens behind a picture.
    later: Option<Runnable>,
    /// Files near which configurations lie.
    places: Vec<PathBuf>,
    pub(super) tokenizer: Tokenizer,
    /// Folders in which the configuration of its generation may lie.
    pub(super) folders: Vec<PathBuf>,
    pub(super) positions: Option<usize>,
    pub(super) feeding: Feeding,
}

impl Model {
    /// The model of a file, or of a bundle with its adapter.
    pub(super) fn of(path: &Path, base: Option<&Path>, which: &Which, tokenizer: Option<&Path>) -> Result<Self> {
        let mut later = None;
        let (graph, places, positions, feeding): (Runnable, _, _, _) = if let Some(files) = parts::of_pictures(path) {
            let model = model::Model::open_files(&files)?;
            let feeding = anatomy::feeding(model.graph(), model.anatomy());
            later = behind_picture(&model.base().raw, &feeding, &files.model)?;
            (Runnable::of(&model.base().raw, &files.model)?, vec![files.model], None, feeding)
        } else if path.is_dir() {
            let bundle = which.open(path, base)?;
            bundle.check_writes()?;
            let graph = bundle.runnable(INFERENCE)?;
            let feeding = bundle.manifest().feeding.clone();
            if feeding.pictures.is_some() {
                later = behind_picture(&bundle.adapted()?, &feeding, &graph.path)?;
            }
            let positions = bundle.manifest().max_positions.and_then(|most| usize::try_from(most).ok());
            let places = vec![graph.path.clone(), bundle.model().to_path_buf()];
            (graph, places, positions, feeding)
        } else {
            let model = model::Model::open(path)?;
            anatomy::check_writes(model.graph(), model.anatomy(), &model.declared()?).in_file(path)?;
            let feeding = anatomy::feeding(model.graph(), model.anatomy());
            (path.into(), vec![path.to_path_buf()], None, feeding)
        };
        let tokenizer = match tokenizer {
            Some(file) => Tokenizer::open(file)?,
            None => tokenizer_near(&places)?
                .ok_or_else(|| Error::not_found("tokenizer", "tokenizer.json").in_file(path).with_hint("name one with --tokenizer FILE"))?,
        };
        let told = places.last().map(|model| declared::positions(&Beside::near(model))).transpose()?.flatten();
        let positions = positions.into_iter().chain(told).min();
        let folders = places.iter().flat_map(|place| files::near::folders(place)).collect();
        Ok(Self { graph, later, places, tokenizer, folders, positions, feeding })
    }
}

/// What runs on the tokens behind a picture.
fn behind_picture(graph: &Graph, feeding: &Feeding, path: &Path) -> Result<Option<Runnable>> {
    let blind = feeding.pictures.map(|pictures| anatomy::without_pictures(graph, pictures.token)).transpose()?.flatten();
    blind.map(|graph| Runnable::of(&graph, path)).transpose()
}

/// A prompt as it was given and as the model reads it.
struct Prompt {
    text: String,
    tokens: Vec<i32>,
}

impl Prompt {
    fn read(given: &str, args: &Args, model: &Model) -> Result<Self> {
        let tokenizer = &model.tokenizer;
        let mut text = given.to_owned();
        if given == "-" {
            text.clear();
            std::io::stdin().read_to_string(&mut text).in_file("standard input")?;
            text.truncate(text.trim_end_matches(['\n', '\r']).len());
        }
        if !args.chat {
            return Ok(Self { tokens: tokenizer.encode_to_continue(&text, model.positions)?, text });
        }
        let template = tokenizer.chat().ok_or_else(|| {
            Error::invalid("the tokenizer has no chat template")
                .with_hint("leave out --chat, and write the prompt as the model should read it")
        })?;
        let system = args.system.iter().map(|text| Message::says("system", text));
        let mut messages: Vec<Message> = system.chain([Message::says("user", &text)]).collect();
        if model.feeding.pictures.is_some() {
            Message::with_picture(&mut messages);
        }
        let rendered = template.render(&messages, Ending::AssistantsTurn)?;
        Ok(Self { tokens: tokenizer.encode_beginning(&rendered, Specials::AsWritten, model.positions)?.ids, text })
    }

    /// The same with as many tokens of a picture as the model sees parts.
    fn with_picture(self, model: &Model) -> Result<Self> {
        let Some(pictures) = model.feeding.pictures else { return Ok(self) };
        let example = Example { input_ids: self.tokens, ..Example::default() };
        let tokens = with_picture_tokens(example, pictures, Some(&model.tokenizer))?.input_ids;
        Ok(Self { tokens, ..self })
    }
}

/// The pictures that prompts are about: one for each, or one for all.
fn pictures(args: &Args, model: &Model) -> Result<Vec<Pixels>> {
    if model.feeding.pictures.is_none() {
        return Ok(vec![]);
    }
    if args.image.len() != 1 && args.image.len() != args.prompt.len() {
        let expected = format!("one, or one for each of the {} prompts", args.prompt.len());
        let error = Error::mismatch("pictures", expected, args.image.len()).in_file(&args.model.path);
        return Err(error.with_hint("`image FILE` names what a prompt is about"));
    }
    let processor = Media::near(&model.places, None).image()?;
    let read = |file: &PathBuf| processor.pixels(file).map(|Features { shape, values }| Pixels { shape, values });
    args.image.iter().map(read).collect()
}

/// What goes to standard output while it is written.
pub(super) struct Told<'a> {
    args: &'a Args,
    global: &'a Global,
    stream: TextStream<'a>,
    text: String,
}

impl<'a> Told<'a> {
    /// Nothing was told yet.
    pub(super) fn new(args: &'a Args, global: &'a Global, stream: TextStream<'a>) -> Self {
        Self { args, global, stream, text: String::new() }
    }

    fn begin(&mut self, prompt: &Prompt) -> Result<()> {
        if self.args.chat || self.args.no_prompt { Ok(()) } else { self.show(&prompt.text) }
    }

    pub(super) fn tell(&mut self, token: i32) -> Result<()> {
        let text = self.stream.push(token)?;
        self.text += &text;
        self.show(&text)
    }

    pub(super) fn end(self) -> Result<String> {
        let Self { stream, mut text, global, .. } = self;
        let rest = stream.finish()?;
        text += &rest;
        if !global.json {
            output::print(&rest)?;
        }
        Ok(text)
    }

    fn show(&self, text: &str) -> Result<()> {
        if self.global.json {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}
