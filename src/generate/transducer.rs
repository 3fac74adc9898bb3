//! Text from an encoder-decoder: a text, a sound or an image in, a text out.
//!
//! The model is one graph with inputs for both halves, or the files that optimum writes: an encoder, a decoder, and perhaps one that reads a cache (a file
//! of its own, or a branch of the decoder's). Without a cache each step reads all that was written again.

use std::collections::BTreeMap;

use super::sampler::Sampler;
use crate::adapter::config::Task;
use crate::anatomy::{Feeding, Role};
use crate::data::{Batches, Collation, Dataset, Example, Labels, Order};
use crate::error::{Context, Error, Result};
use crate::num;
use crate::onnx::Runnable;
use crate::ort::{Axis, Device, ElementType, Elements, Feed, HostTensor, Port, Presence, Purpose, Runtime, Session, Settings};

/// The graphs of an encoder-decoder.
pub enum Graphs {
    /// One for both halves.
    Whole(Runnable),
    /// One for each.
    Split {
        /// From the source to its states.
        encoder: Runnable,
        /// From states and tokens to logits, perhaps with a branch that reads a cache.
        decoder: Runnable,
        /// A decoder that reads a cache.
        with_past: Option<Runnable>,
    },
}

/// What is written, and when it ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Writing {
    /// The tokens that the decoder begins with.
    pub start: Vec<i32>,
    /// Tokens that end a text.
    pub stop: Vec<i32>,
    /// Tokens to write at most.
    pub new_tokens: usize,
    /// The most tokens that a text may have with those that it begins with, where the model has a limit.
    pub positions: Option<usize>,
    /// Tokens that never come.
    pub suppressed: Vec<i32>,
    /// Tokens that do not come first.
    pub suppressed_first: Vec<i32>,
    /// Tokens that certainly come at these places, counted from the start.
    pub forced: BTreeMap<usize, i32>,
    /// Texts that are followed at once (beam search); 1 follows the sampler.
    pub beams: usize,
    /// The power of its length that a text's log-probability is divided by, in beam search.
    pub length_penalty: f64,
}

/// An encoder-decoder that writes.
pub struct Transducer {
    half: Halves,
    feeding: Feeding,
}

#[expect(clippy::large_enum_variant, reason = "there is one for as long as texts are written")]
enum Halves {
    Whole(Session),
    Split { encoder: Session, decoder: Session, with_past: Option<Session> },
}

/// What a decoder reads of the encoder, by the names of its inputs; and its cache.
#[derive(Default)]
struct State {
    /// The source, in as many rows as texts are written.
    source: Vec<Example>,
    /// What the encoder gave, by the name of its output, one row for each of `source`; and the mask of its tokens.
    encoded: Vec<(String, HostTensor)>,
    mask: Option<HostTensor>,
    /// The cache, by the names of the decoder's inputs.
    past: Vec<(String, HostTensor)>,
}

const LOGITS: &str = "logits";
const USE_CACHE: &str = "use_cache_branch";

impl Transducer {
    /// Opens a model; `feeding` tells what the inputs of a whole graph, or of an encoder, are for.
    ///
    /// # Errors
    /// A graph that cannot be opened, or that gives no logits.
    pub fn open(runtime: &Runtime, graphs: Graphs, feeding: Feeding, device: Device) -> Result<Self> {
        let settings = Settings { device, purpose: Purpose::Inference, ..Settings::default() };
        let open = |graph: Runnable| Session::open(runtime, graph, &settings);
        let half = match graphs {
            Graphs::Whole(graph) => Halves::Whole(open(graph)?),
            Graphs::Split { encoder, decoder, with_past } => {
                Halves::Split { encoder: open(encoder)?, decoder: open(decoder)?, with_past: with_past.map(open).transpose()? }
            }
        };
        let found = Self { half, feeding };
        let session = found.writer();
        match session.output(LOGITS) {
            Some(_) => Ok(found),
            None => Err(Error::not_found("output", LOGITS).in_file(session.path())),
        }
    }

    fn writer(&self) -> &Session {
        match &self.half {
            Halves::Whole(session) | Halves::Split { decoder: session, .. } => session,
        }
    }

    /// The names of the inputs of the graph that reads the source.
    #[must_use]
    pub fn reads(&self) -> &[Port] {
        match &self.half {
            Halves::Whole(session) | Halves::Split { encoder: session, .. } => session.inputs(),
        }
    }

    /// Writes a text for each source: the most probable tokens, or those that a sampler draws. `write` gets each token of the first text as it comes.
    ///
    /// # Errors
    /// A run that fails; logits that are no numbers; whatever `write` returns.
    pub fn write(
        &mut self,
        sources: &[Example],
        writing: &Writing,
        sampler: &mut Sampler,
        write: &mut dyn FnMut(i32) -> Result<()>,
    ) -> Result<Vec<Vec<i32>>> {
        let mut state = self.begin(sources.to_vec())?;
        let mut texts = vec![writing.start.clone(); sources.len()];
        let mut ended = vec![false; sources.len()];
        for _ in 0..writing.most() {
            let logits = self.step(&mut state, &texts)?;
            for (row, logits) in logits.into_iter().enumerate() {
                let token = if ended[row] { writing.filler() } else { sampler.pick(writing.allowed(logits, &texts[row]), &texts[row])? };
                ended[row] |= writing.stop.contains(&token);
                texts[row].push(token);
                if row == 0 && !ended[0] {
                    write(token)?;
                }
            }
            if ended.iter().all(|ended| *ended) {
                break;
            }
        }
        Ok(texts.into_iter().map(|text| writing.written(&text)).collect())
    }

    /// Writes the text of one source whose probability, over a power of its length, is the largest that is found following several texts at once.
    ///
    /// Texts that ended are kept as transformers' beam search keeps them (`generation/beam_search.py`, without early stopping).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn search(&mut self, source: &Example, writing: &Writing) -> Result<Vec<i32>> {
        let count = writing.beams.max(1);
        let mut state = self.begin(vec![source.clone().with_media()?; count])?;
        let mut beams: Vec<Beam> =
            (0..count).map(|at| Beam { tokens: writing.start.clone(), score: if at == 0 { 0.0 } else { f64::NEG_INFINITY } }).collect();
        let mut ended: Vec<Beam> = vec![];
        let weight = |score: f64, length: usize| score / crate::measure::float(length.max(1)).powf(writing.length_penalty);
        for _ in 0..writing.most() {
            let texts: Vec<Vec<i32>> = beams.iter().map(|beam| beam.tokens.clone()).collect();
            let logits = self.step(&mut state, &texts)?;
            let mut candidates = candidates(&beams, logits, writing, 2 * count)?;
            candidates.truncate(2 * count);
            let written = texts[0].len() + 1 - writing.start.len();
            let mut next: Vec<(usize, Beam)> = vec![];
            for (rank, candidate) in candidates.iter().enumerate() {
                if writing.stop.contains(&candidate.token) {
                    if rank < count {
                        let tokens = beams[candidate.from].tokens.clone();
                        ended.push(Beam { tokens, score: weight(candidate.score, written) });
                    }
                } else if next.len() < count {
                    let mut tokens = beams[candidate.from].tokens.clone();
                    tokens.push(candidate.token);
                    next.push((candidate.from, Beam { tokens, score: candidate.score }));
                }
            }
            ended.sort_by(|one, other| other.score.total_cmp(&one.score));
            ended.truncate(count);
            let best = candidates.first().map_or(f64::NEG_INFINITY, |candidate| weight(candidate.score, written));
            let worst = ended.last().filter(|_| ended.len() == count).map(|beam| beam.score);
            if next.is_empty() || worst.is_some_and(|worst| worst >= best) {
                beams.clear();
                break;
            }
            let order: Vec<usize> = next.iter().map(|(from, _)| *from).chain(std::iter::repeat(0)).take(count).collect();
            state.reorder(&order)?;
            beams = next.into_iter().map(|(_, beam)| beam).collect();
            beams.resize_with(count, || Beam {
                tokens: texts[0].iter().copied().chain([writing.filler()]).collect(),
                score: f64::NEG_INFINITY,
            });
        }
        let open = beams.into_iter().map(|beam| Beam { score: weight(beam.score, beam.tokens.len() - writing.start.len()), ..beam });
        let best = ended.into_iter().chain(open).max_by(|one, other| one.score.total_cmp(&other.score));
        Ok(best.map(|beam| writing.written(&beam.tokens)).unwrap_or_default())
    }

    /// Reads the sources.
    fn begin(&mut self, source: Vec<Example>) -> Result<State> {
        let source: Vec<Example> = source.into_iter().map(Example::with_media).collect::<Result<_>>()?;
        let Halves::Split { encoder, .. } = &mut self.half else { return Ok(State { source, ..State::default() }) };
        let feeding = self.feeding.clone();
        let batch = batch_of(encoder, &feeding, source.clone())?;
        let mask = |(name, _): &&(String, HostTensor)| matches!(feeding.role(name), Some(Role::AttentionMask(_)));
        let tokens = batch.iter().any(|(name, _)| feeding.role(name) == Some(Role::InputIds));
        let mask = batch.iter().find(mask).filter(|_| tokens).map(|(_, tensor)| tensor.clone());
        let feeds: Vec<Feed<'_>> = batch.iter().map(|(name, tensor)| Feed::host(name, tensor)).collect();
        let names: Vec<String> = encoder.outputs().iter().map(|port| port.name.clone()).collect();
        let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        let encoded = names.iter().cloned().zip(encoder.run(&feeds, &wanted)?).collect();
        Ok(State { source, encoded, mask, past: vec![] })
    }

    /// The logits behind the last token of each text, and the cache with all of them.
    fn step(&mut self, state: &mut State, texts: &[Vec<i32>]) -> Result<Vec<Vec<f32>>> {
        match &mut self.half {
            Halves::Whole(session) => {
                let rows = state.source.iter().zip(texts).map(|(source, text)| Example {
                    decoder_input_ids: text.clone(),
                    labels: Labels::Tokens(vec![0; text.len()]),
                    ..source.clone()
                });
                let tensors = batch_of(session, &self.feeding, rows.collect())?;
                let feeds: Vec<Feed<'_>> = tensors.iter().map(|(name, tensor)| Feed::host(name, tensor)).collect();
                last_rows(&session.run(&feeds, &[LOGITS])?[0]).in_file(session.path())
            }
            Halves::Split { decoder, with_past, .. } => {
                let is_read = |session: &Session| session.inputs().iter().any(|port| port.name.starts_with("past"));
                let may_cache = with_past.is_some() || is_read(decoder);
                let session = match with_past {
                    Some(session) if !state.past.is_empty() => session,
                    _ => decoder,
                };
                decode(session, state, texts, may_cache)
            }
        }
    }
}

/// A text that is followed.
#[derive(Clone, Debug)]
struct Beam {
    tokens: Vec<i32>,
    score: f64,
}

/// A token behind one of the texts.
struct Candidate {
    from: usize,
    token: i32,
    score: f64,
}

/// The most probable ways on, of all texts together.
fn candidates(beams: &[Beam], logits: Vec<Vec<f32>>, writing: &Writing, count: usize) -> Result<Vec<Candidate>> {
    let mut all: Vec<Candidate> = vec![];
    for (from, (beam, logits)) in beams.iter().zip(logits).enumerate() {
        // As transformers: scores are log-probabilities of all tokens, and of those that are left some are taken out.
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
        if !sum.is_finite() {
            return Err(crate::error::ErrorKind::Diverged("the model's logits are no numbers".to_owned()).into());
        }
        let log_sum = f64::from(most) + sum.ln();
        let allowed = writing.allowed(logits, &beam.tokens);
        let mut own: Vec<Candidate> = allowed
            .iter()
            .zip(0..)
            .filter(|(logit, _)| **logit > f32::NEG_INFINITY)
            .map(|(logit, token)| Candidate { from, token, score: beam.score + f64::from(*logit) - log_sum })
            .collect();
        own.sort_by(|one, other| other.score.total_cmp(&one.score));
        own.truncate(count);
        all.extend(own);
    }
    all.sort_by(|one, other| other.score.total_cmp(&one.score));
    Ok(all)
}

impl Writing {
    /// How many tokens may come.
    fn most(&self) -> usize {
        let room = self.positions.map_or(usize::MAX, |most| most.saturating_sub(self.start.len()));
        self.new_tokens.min(room)
    }

    /// What stands behind a text that has ended.
    fn filler(&self) -> i32 {
        self.stop.first().copied().unwrap_or_default()
    }

    /// A text without the tokens that it begins with, and without what ends it and stands behind.
    fn written(&self, text: &[i32]) -> Vec<i32> {
        text[self.start.len()..].iter().copied().take_while(|token| !self.stop.contains(token)).collect()
    }

    /// Logits with those taken out that may not come behind these tokens.
    fn allowed(&self, mut logits: Vec<f32>, tokens: &[i32]) -> Vec<f32> {
        let place = |token: i32| usize::try_from(token).ok();
        if let Some(forced) = self.forced.get(&tokens.len()).and_then(|token| place(*token)) {
            logits.iter_mut().enumerate().filter(|(token, _)| *token != forced).for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
            return logits;
        }
        let first: &[i32] = if tokens.len() == self.start.len() { &self.suppressed_first } else { &[] };
        for token in self.suppressed.iter().chain(first).filter_map(|token| place(*token)) {
            if let Some(logit) = logits.get_mut(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        logits
    }
}

impl State {
    /// Gives each text the cache of another.
    fn reorder(&mut self, order: &[usize]) -> Result<()> {
        for (_, tensor) in &mut self.past {
            *tensor = rows_of(tensor, order)?;
        }
        Ok(())
    }

    /// What fills an input of a decoder.
    fn fill(&self, port: &Port, texts: &[Vec<i32>], known: usize) -> Result<Option<HostTensor>> {
        let (rows, length) = (texts.len(), texts.first().map_or(0, Vec::len));
        let of_encoder = self.encoded.iter().find(|(name, _)| *name == port.name);
        let states = || self.encoded.iter().find(|(_, tensor)| tensor.shape().len() == 3);
        Ok(Some(match port.name.as_str() {
            "input_ids" | "decoder_input_ids" => {
                let tokens: Vec<i64> = texts.iter().flat_map(|text| &text[known..]).map(|token| i64::from(*token)).collect();
                HostTensor::new(vec![rows, length - known], whole(port, tokens))?
            }
            "encoder_attention_mask" => match (&self.mask, states()) {
                (Some(mask), _) => mask.clone(),
                (None, Some((_, states))) => {
                    HostTensor::new(vec![rows, states.shape()[1]], whole(port, vec![1; rows * states.shape()[1]]))?
                }
                (None, None) => return Ok(None),
            },
            "decoder_attention_mask" | "attention_mask" => HostTensor::new(vec![rows, length], whole(port, vec![1; rows * length]))?,
            "position_ids" | "decoder_position_ids" => {
                let places = (0..rows).flat_map(|_| known..length).map(num::int);
                HostTensor::new(vec![rows, length - known], whole(port, places.collect()))?
            }
            "cache_position" => {
                let places = (known..length).map(num::int).collect();
                HostTensor::new(vec![length - known], whole(port, places))?
            }
            USE_CACHE => HostTensor::vector(vec![known > 0]),
            name if name.starts_with("past") => match self.past.iter().find(|(past, _)| past == name) {
                Some((_, tensor)) => tensor.clone(),
                None => empty_past(port, rows),
            },
            _ => match (of_encoder, states()) {
                (Some((_, tensor)), _) => tensor.clone(),
                (None, Some((_, states))) if port.shape.len() == 3 => states.clone(),
                _ => return Ok(None),
            },
        }))
    }
}

/// One run of a decoder.
fn decode(session: &mut Session, state: &mut State, texts: &[Vec<i32>], may_cache: bool) -> Result<Vec<Vec<f32>>> {
    let known = if state.past.is_empty() { 0 } else { texts.first().map_or(0, |text| text.len() - 1) };
    let mut given: Vec<(String, HostTensor)> = vec![];
    for port in session.inputs() {
        match state.fill(port, texts, known)? {
            Some(tensor) => given.push((port.name.clone(), tensor)),
            None if port.presence == Presence::Optional => {}
            None => {
                let what = format!("an input named {}", port.name);
                return Err(Error::unsupported(what, "it is not known what to feed it with").in_file(session.path()));
            }
        }
    }
    let feeds: Vec<Feed<'_>> = given.iter().map(|(name, tensor)| Feed::host(name, tensor)).collect();
    let presents: Vec<String> = if may_cache {
        session.outputs().iter().map(|port| port.name.clone()).filter(|name| name.starts_with("present")).collect()
    } else {
        vec![]
    };
    let wanted: Vec<&str> = std::iter::once(LOGITS).chain(presents.iter().map(String::as_str)).collect();
    let mut found = session.run(&feeds, &wanted)?.into_iter();
    let logits = found.next().ok_or_else(|| Error::not_found("output", LOGITS))?;
    for (name, tensor) in presents.iter().zip(found) {
        let name = past_of(name);
        // A branch that reads the cache gives nothing for the encoder's part of it, which stays as it is.
        let is_of_encoder = name.contains(".encoder.");
        match state.past.iter_mut().find(|(past, _)| *past == name) {
            Some(_) if is_of_encoder && known > 0 => {}
            Some(slot) => slot.1 = tensor,
            None => state.past.push((name, tensor)),
        }
    }
    last_rows(&logits).in_file(session.path())
}

/// The input that reads an output with the present.
fn past_of(present: &str) -> String {
    let rest = present.strip_prefix("present_key_values").or_else(|| present.strip_prefix("present")).unwrap_or(present);
    format!("past_key_values{rest}")
}

/// A cache of length 0.
fn empty_past(port: &Port, rows: usize) -> HostTensor {
    let mut free = std::iter::once(rows).chain(std::iter::repeat(0));
    let shape: Vec<usize> =
        port.shape.iter().map(|axis| if let Axis::Known(length) = axis { *length } else { free.next().unwrap_or(0) }).collect();
    HostTensor::zeros(port.element_type.unwrap_or(ElementType::Float32), shape)
}

/// Rows as the inputs of a graph.
fn batch_of(session: &Session, feeding: &Feeding, rows: Vec<Example>) -> Result<Vec<(String, HostTensor)>> {
    let count = rows.len();
    let path = session.path().to_path_buf();
    let dataset = Dataset::of(&path, Task::Seq2SeqLm, rows);
    let collation = Collation { feeding: feeding.clone(), ..Collation::default() };
    let batch = Batches::new(&dataset, session.inputs(), count, Order::File, collation)?.next_batch()?;
    let is_given = |port: &&Port| port.presence == Presence::Optional || batch.tensors.iter().any(|(name, _)| *name == port.name);
    match session.inputs().iter().find(|port| !is_given(port)) {
        None => Ok(batch.tensors),
        Some(port) => {
            let what = format!("an input named {}", port.name);
            Err(Error::unsupported(what, "it is not known what to feed it with").in_file(session.path()))
        }
    }
}

/// Whole numbers in the type that an input asks for.
fn whole(port: &Port, numbers: Vec<i64>) -> Elements {
    match port.element_type {
        Some(ElementType::Int32) => Elements::Int32(numbers.into_iter().map(|number| i32::try_from(number).unwrap_or(i32::MAX)).collect()),
        Some(ElementType::Bool) => Elements::Bool(numbers.into_iter().map(|number| number != 0).collect()),
        Some(ElementType::Float32) => Elements::Float32(numbers.into_iter().map(|number| if number == 0 { 0.0 } else { 1.0 }).collect()),
        _ => Elements::Int64(numbers),
    }
}

/// The last position's logits of each row of `[rows, seq, vocabulary]`.
fn last_rows(logits: &HostTensor) -> Result<Vec<Vec<f32>>> {
    let &[rows, length, width] = logits.shape() else { return Err(Error::mismatch("axes of the logits", 3, logits.shape().len())) };
    let values = logits.to_f32()?;
    Ok((0..rows).map(|row| values[(row * length + length - 1) * width..(row * length + length) * width].to_vec()).collect())
}

fn picked<T: Clone>(values: &[T], order: &[usize], size: usize) -> Vec<T> {
    order.iter().flat_map(|row| values[row * size..(row + 1) * size].iter().cloned()).collect()
}

/// Some rows of a tensor's first axis.
fn rows_of(tensor: &HostTensor, order: &[usize]) -> Result<HostTensor> {
    let shape: Vec<usize> = std::iter::once(order.len()).chain(tensor.shape().iter().skip(1).copied()).collect();
    let size: usize = tensor.shape().iter().skip(1).product();
    match tensor.elements() {
        Elements::Float32(values) => HostTensor::new(shape, Elements::Float32(picked(values, order, size))),
        Elements::Float16(values) => HostTensor::new(shape, Elements::Float16(picked(values, order, size))),
        Elements::BFloat16(values) => HostTensor::new(shape, Elements::BFloat16(picked(values, order, size))),
        _ => Err(Error::mismatch("element type of the cache", "a float type", tensor.element_type())),
    }
}
