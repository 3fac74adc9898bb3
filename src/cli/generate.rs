//! `peft-onnx generate`

mod transduce;

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::{Global, Which, output};
use crate::anatomy::{self, Feeding};
use crate::data::{Ending, Message, Specials, Tokenizer};
use crate::error::{Context, Error, Result};
use crate::export::INFERENCE;
use crate::generate::{Generator, Limits, Sampler, Sampling, TextStream};
use crate::onnx::Runnable;
use crate::ort::Device;
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
  echo 'A long prompt' | peft-onnx generate model.onnx --prompt -";

/// Options of `generate`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// An ONNX model, or a bundle
    #[arg(value_name = "MODEL|BUNDLE")]
    pub model: PathBuf,
    /// The model that the bundle was made of, if it moved
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// Which adapter
    #[command(flatten)]
    pub which: Which,
    /// The text to continue; may be given several times; - reads standard input
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["audio", "image"])]
    pub prompt: Vec<String>,
    /// A sound whose words an encoder-decoder writes (WAV, FLAC, MP3, OGG); may be given several times
    #[arg(long, value_name = "FILE", help_heading = "Encoder-decoders")]
    pub audio: Vec<PathBuf>,
    /// An image whose text an encoder-decoder writes; may be given several times
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
    /// tokenizer.json, or its folder [default: beside the model]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
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
    /// Device: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu, help_heading = "Computing")]
    pub device: Device,
    /// Number of threads [default: as many as this process may use]
    #[arg(long, value_name = "COUNT", help_heading = "Computing")]
    pub threads: Option<NonZeroUsize>,
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
    /// Sample from the most probable tokens that together have this probability
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, help_heading = CHOICE)]
    pub top_p: f64,
    /// Repetition penalty: above 1, tokens that already occurred become less probable
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, help_heading = CHOICE)]
    pub repetition_penalty: f64,
    /// Random seed of sampling
    #[arg(long, value_name = "NUMBER", default_value_t = 42, help_heading = CHOICE)]
    pub seed: u64,
}

const CHOICE: &str = "Choice of tokens";

impl Choice {
    /// A sampler at the start of its choices.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub(super) fn sampler(&self) -> Result<Sampler> {
        Sampler::new(Sampling {
            temperature: self.temperature,
            top_k: self.top_k.map(NonZeroUsize::get),
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
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
    if let Some(option) = encoders_option(args) {
        let error = Error::unsupported(option, "the model is no encoder-decoder").in_file(&args.model);
        return Err(error.with_hint("it goes with a model in the files encoder_model.onnx and decoder_model.onnx, or with inputs for both"));
    }
    let model = Model::of(&args.model, args.base.as_deref(), &args.which, args.tokenizer.as_deref())?;
    let mut generator = Generator::fed(global.runtime(args.threads)?, model.graph.clone(), model.feeding.clone(), args.device)?;
    model.tokenizer.check_fits(generator.vocabulary())?;
    let end_of_turn = model.tokenizer.end_of_turn().filter(|_| args.chat);
    let stop = model.tokenizer.stops(&model.folders)?.into_iter().chain(end_of_turn).collect();
    let limits = Limits { new_tokens: args.max_new_tokens, stop, positions: model.positions };
    let mut answers = vec![];
    for (number, prompt) in args.prompt.iter().enumerate() {
        let prompt = Prompt::read(prompt, args, &model.tokenizer)?;
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

/// An option that only encoder-decoders have a use for.
fn encoders_option(args: &Args) -> Option<&'static str> {
    let given = [
        ("--audio", !args.audio.is_empty()),
        ("--image", !args.image.is_empty()),
        ("--part", !args.part.is_empty()),
        ("--decoder-prompt", args.decoder_prompt.is_some()),
        ("--num-beams", args.num_beams.is_some_and(|beams| beams.get() > 1)),
        ("--length-penalty", args.length_penalty.is_some()),
    ];
    given.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
}

/// The graph that writes, with its tokenizer.
pub(super) struct Model {
    pub(super) graph: Runnable,
    pub(super) tokenizer: Tokenizer,
    /// Folders in which the configuration of its generation may lie.
    pub(super) folders: Vec<PathBuf>,
    pub(super) positions: Option<usize>,
    pub(super) feeding: Feeding,
}

impl Model {
    /// The model of a file, or of a bundle with its adapter.
    pub(super) fn of(path: &Path, base: Option<&Path>, which: &Which, tokenizer: Option<&Path>) -> Result<Self> {
        let (graph, places, positions, feeding): (Runnable, _, _, _) = if path.is_dir() {
            let bundle = which.open(path, base)?;
            let graph = bundle.runnable(INFERENCE)?;
            let positions = bundle.manifest().max_positions.and_then(|most| usize::try_from(most).ok());
            let places = vec![graph.path.clone(), bundle.model().to_path_buf()];
            (graph, places, positions, bundle.manifest().feeding.clone())
        } else {
            let model = model::Model::open(path)?;
            let feeding = anatomy::feeding(model.graph(), model.anatomy());
            (path.into(), vec![path.to_path_buf()], None, feeding)
        };
        let tokenizer = match tokenizer {
            Some(file) => Tokenizer::open(file)?,
            None => tokenizer_near(&places)?
                .ok_or_else(|| Error::not_found("tokenizer", "tokenizer.json").in_file(path).with_hint("name one with --tokenizer FILE"))?,
        };
        let folders = places.iter().flat_map(|place| files::near::folders(place)).collect();
        Ok(Self { graph, tokenizer, folders, positions, feeding })
    }
}

/// A prompt as it was given and as the model reads it.
struct Prompt {
    text: String,
    tokens: Vec<i32>,
}

impl Prompt {
    fn read(given: &str, args: &Args, tokenizer: &Tokenizer) -> Result<Self> {
        let mut text = given.to_owned();
        if given == "-" {
            text.clear();
            std::io::stdin().read_to_string(&mut text).in_file("standard input")?;
            text.truncate(text.trim_end_matches(['\n', '\r']).len());
        }
        if !args.chat {
            return Ok(Self { tokens: tokenizer.encode_to_continue(&text)?, text });
        }
        let template = tokenizer.chat().ok_or_else(|| {
            Error::invalid("the tokenizer has no chat template")
                .with_hint("leave out --chat, and write the prompt as the model should read it")
        })?;
        let system = args.system.iter().map(|text| Message::says("system", text));
        let messages: Vec<Message> = system.chain([Message::says("user", &text)]).collect();
        let rendered = template.render(&messages, Ending::AssistantsTurn)?;
        Ok(Self { tokens: tokenizer.encode(&rendered, Specials::AsWritten)?.ids, text })
    }
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
