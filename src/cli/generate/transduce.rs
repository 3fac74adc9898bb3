//! `peft-onnx generate` with an encoder-decoder: a text, a sound or an image in, a text out.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::{Architecture, Args, OF_ARCHITECTURES, Told};
use crate::anatomy::{self, Feeding, Role};
use crate::cli::{Global, output};
use crate::data::{Example, Media, Numbers, Pixels, Specials, Tokenizer};
use crate::error::{Context, Error, OnlyWith, Result};
use crate::export::INFERENCE;
use crate::generate::{Graphs, Sampler, TextStream, Transducer, Wish};
use crate::media::Features;
use crate::model::Model as Opened;
use crate::model::parts::Split;
use crate::num;
use crate::training::tokenizer_near;

/// An encoder-decoder, and the files that belong to it.
pub(super) struct Model {
    graphs: Graphs,
    feeding: Feeding,
    /// Where its tokenizer and its configurations lie.
    places: Vec<PathBuf>,
    positions: Option<usize>,
}

/// The encoder-decoder that is meant, if one is.
///
/// # Errors
/// A bundle or a model that cannot be opened.
pub(super) fn model(args: &Args) -> Result<Option<Model>> {
    let model = &args.model.path;
    if model.join(crate::export::manifest::FILE).is_file() {
        let bundle = args.model.which.open(model, args.model.base.as_deref())?;
        let feeding = bundle.manifest().feeding.clone();
        if !is_encoder_decoder(&feeding) {
            return Ok(None);
        }
        bundle.check_writes()?;
        let graph = bundle.runnable(INFERENCE)?;
        let places = vec![graph.path.clone(), bundle.model().to_path_buf()];
        let positions = bundle.manifest().max_positions.and_then(|most| usize::try_from(most).ok());
        return Ok(Some(Model { graphs: Graphs::Whole(graph), feeding, places, positions }));
    }
    if let Some(found) = Split::inside(model) {
        let with_past = found.with_past.as_deref().filter(|_| found.merged.is_none());
        return split(&found.encoder, found.merged.as_deref().unwrap_or(found.to_train()), with_past).map(Some);
    }
    match &args.part[..] {
        [] if model.is_dir() => Ok(None),
        [] => {
            let opened = Opened::open(model)?;
            let feeding = anatomy::feeding(opened.graph(), opened.anatomy());
            let positions = opened.anatomy().max_positions.and_then(|most| usize::try_from(most).ok());
            if !is_encoder_decoder(&feeding) {
                return Ok(None);
            }
            anatomy::check_writes(opened.graph(), opened.anatomy(), &opened.declared()?).in_file(model)?;
            let whole = Model { graphs: Graphs::Whole(model.into()), feeding, places: vec![model.clone()], positions };
            Ok(Some(whole))
        }
        [encoder] => split(encoder, model, None).map(Some),
        _ => Err(Error::invalid("an encoder-decoder that writes has one part, the encoder").with_hint("name one file with --part")),
    }
}

fn is_encoder_decoder(feeding: &Feeding) -> bool {
    feeding.inputs.values().any(|role| *role == Role::DecoderInputIds)
}

fn split(encoder: &Path, decoder: &Path, with_past: Option<&Path>) -> Result<Model> {
    let opened = Opened::open(encoder)?;
    let feeding = anatomy::feeding(opened.graph(), opened.anatomy());
    let positions = Opened::open(decoder)?.anatomy().max_positions.and_then(|most| usize::try_from(most).ok());
    let graphs = Graphs::Split { encoder: encoder.into(), decoder: decoder.into(), with_past: with_past.map(Into::into) };
    Ok(Model { graphs, feeding, places: vec![decoder.to_path_buf(), encoder.to_path_buf()], positions })
}

/// Writes a text for each source.
///
/// # Errors
/// If there is no tokenizer or no start token, a source that cannot be read, or as [`Transducer::write`].
pub(super) fn run(args: &Args, global: &Global, model: Model, sampler: &dyn Fn() -> Result<Sampler>) -> Result<()> {
    let Model { graphs, feeding, places, positions } = model;
    let tokenizer = match &args.model.tokenizer {
        Some(path) => Tokenizer::open(path)?,
        None => tokenizer_near(&places)?.ok_or_else(|| {
            Error::not_found("tokenizer", "tokenizer.json").in_file(&args.model.path).with_hint("name one with --tokenizer FILE")
        })?,
    };
    OnlyWith::check(OF_ARCHITECTURES, args, &Architecture::EncoderDecoder, "an encoder-decoder").in_file(&args.model.path)?;
    if let Some(penalty) = args.length_penalty {
        num::in_float32(penalty, |expected, found| Error::setting("length_penalty", expected, found))?;
    }
    let wish = Wish {
        begins: args.decoder_prompt.as_deref(),
        new_tokens: args.max_new_tokens,
        is_drawn: args.choice.temperature > 0.0,
        penalizes: is_penalized(args),
        beams: args.num_beams.map(std::num::NonZeroUsize::get),
        length_penalty: args.length_penalty,
    };
    let writing = wish.writing(&places, &tokenizer, positions)?;
    OnlyWith::check(OF_BEAMS, args, &(writing.beams > 1), format!("{} beams", writing.beams))?;
    let mut transducer = Transducer::open(global.runtime(args.model.threads)?, graphs, feeding.clone(), args.model.device)?;
    let sources = sources(args, &tokenizer, &feeding, &Media::near(&places, None))?;
    let mut answers = vec![];
    for (number, (name, kind, source)) in sources.into_iter().enumerate() {
        if number > 0 && !global.json {
            output::print("\n---\n")?;
        }
        let mut told = Told::new(args, global, TextStream::after(&tokenizer, &[]));
        let started = Instant::now();
        let tokens = if writing.beams > 1 {
            let tokens = transducer.search(&source, &writing)?;
            tokens.iter().try_for_each(|token| told.tell(*token))?;
            tokens
        } else {
            let mut texts = transducer.write(std::slice::from_ref(&source), &writing, &mut sampler()?, &mut |token| told.tell(token))?;
            texts.pop().unwrap_or_default()
        };
        let completion = told.end()?;
        let time = started.elapsed();
        tracing::info!("{} tokens in {}", tokens.len(), output::duration(time));
        answers.push(json!({kind: name, "completion": completion, "tokens": tokens, "seconds": time.as_secs_f64()}));
    }
    if global.json { output::print_json(&answers) } else { Ok(()) }
}

fn is_penalized(args: &Args) -> bool {
    args.choice.repetition_penalty.to_bits() != 1.0_f64.to_bits()
}

/// Options of beam search, and of texts that are followed alone.
#[rustfmt::skip]
static OF_BEAMS: &[OnlyWith<Args, bool>] = &[
    OnlyWith { option: "length_penalty",     is_given: |args| args.length_penalty.is_some(),            with: "beam search (num_beams above 1)",       holds: |has_beams| *has_beams },
    OnlyWith { option: "repetition_penalty", is_given: is_penalized,                                 with: "one beam: beam search has the configuration's", holds: |has_beams| !has_beams },
];

/// What is read: its name, what it is, and the row.
type Source = (String, &'static str, Example);

fn sources(args: &Args, tokenizer: &Tokenizer, feeding: &Feeding, media: &Media) -> Result<Vec<Source>> {
    let mut found = vec![];
    for text in &args.prompt {
        let input_ids = tokenizer.encode(text, Specials::Added)?.ids;
        found.push((text.clone(), "prompt", Example { line: 1, input_ids, ..Example::default() }));
    }
    for file in &args.audio {
        let Features { shape, values } = media.sound()?.features(file)?;
        let input = feeding.inputs.iter().find(|(_, role)| **role == Role::Column).map(|(name, _)| name.clone());
        let input = input.ok_or_else(|| Error::unsupported("a sound", "the model has no input for one").in_file(file))?;
        let numbers = Numbers { shape, values: values.into_iter().map(f64::from).collect() };
        found.push((file.display().to_string(), "audio", Example { line: 1, columns: [(input, numbers)].into(), ..Example::default() }));
    }
    for file in &args.image {
        let Features { shape, values } = media.image()?.pixels(file)?;
        let example = Example { line: 1, pixel_values: Some(Pixels { shape, values }), ..Example::default() };
        found.push((file.display().to_string(), "image", example));
    }
    Ok(found)
}
