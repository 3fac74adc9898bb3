//! Text from an encoder-decoder: a text, a sound or an image in, a text out.
//!
//! The model is one graph with inputs for both halves, or the files that optimum writes: an encoder, a decoder, and perhaps one that reads a cache (a file
//! of its own, or a branch of the decoder's). Without a cache each step reads all that was written again.

use super::beams::Search;
use super::sampler::Sampler;
use super::writing::Writing;
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
        let writing = &self.within(writing);
        let mut state = self.begin(sources.to_vec())?;
        let mut texts = vec![writing.start.clone(); sources.len()];
        let mut ended = vec![false; sources.len()];
        for _ in 0..writing.most() {
            let logits = self.step(&mut state, &texts)?;
            for (row, logits) in logits.into_iter().enumerate() {
                let token = if ended[row] {
                    writing.filler()
                } else {
                    sampler.pick(writing.processed(logits, &texts[row], &state.source[row].input_ids), &texts[row])?
                };
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
    /// # Errors
    /// As [`write`](Self::write).
    pub fn search(&mut self, source: &Example, writing: &Writing) -> Result<Vec<i32>> {
        let writing = &self.within(writing);
        let mut state = self.begin(vec![source.clone().with_media()?; writing.beams.max(1)])?;
        let read = state.source[0].input_ids.clone();
        let mut search = Search::new(writing);
        while search.goes_on() {
            let logits = self.step(&mut state, &search.texts())?;
            state.reorder(&search.follow(logits, &read)?)?;
        }
        Ok(search.best())
    }

    /// The lengths of what the decoder of a whole graph reads, where it takes one alone: rows, and tokens of each.
    fn shape(&self) -> [Option<usize>; 2] {
        let Halves::Whole(session) = &self.half else { return [None; 2] };
        let of_decoder = session.inputs().iter().find(|port| self.feeding.role(&port.name) == Some(Role::DecoderInputIds));
        let known = |axis: usize| match of_decoder?.shape.get(axis)? {
            Axis::Known(length) => Some(*length),
            Axis::Free(_) => None,
        };
        [self.feeding.rows.or(known(0)), known(1)]
    }

    /// The same, of texts that are no longer than the decoder takes.
    fn within(&self, writing: &Writing) -> Writing {
        let [_, length] = self.shape();
        Writing { positions: writing.positions.into_iter().chain(length).min(), ..writing.clone() }
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
        let [most, _] = self.shape();
        match &mut self.half {
            Halves::Whole(session) => {
                let rows = state.source.iter().zip(texts).map(|(source, text)| Example {
                    decoder_input_ids: text.clone(),
                    labels: Labels::Tokens(vec![0; text.len()]),
                    ..source.clone()
                });
                let rows: Vec<Example> = rows.collect();
                let mut found = vec![];
                for rows in rows.chunks(most.unwrap_or(rows.len()).max(1)) {
                    let tensors = batch_of(session, &self.feeding, rows.to_vec())?;
                    let feeds: Vec<Feed<'_>> = tensors.iter().map(|(name, tensor)| Feed::host(name, tensor)).collect();
                    let logits = &session.run(&feeds, &[LOGITS])?[0];
                    // Rows and tokens that fill up what the graph takes lie behind.
                    let last = last_rows(logits, texts.first().map_or(0, Vec::len)).in_file(session.path())?;
                    found.extend(last.into_iter().take(rows.len()));
                }
                Ok(found)
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
    last_rows(&logits, usize::MAX).in_file(session.path())
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

/// The logits of each row of `[rows, seq, vocabulary]` behind so many tokens, or behind the last one.
fn last_rows(logits: &HostTensor, tokens: usize) -> Result<Vec<Vec<f32>>> {
    let &[rows, length, width] = logits.shape() else { return Err(Error::mismatch("axes of the logits", 3, logits.shape().len())) };
    if length == 0 {
        return Err(Error::mismatch("positions of the logits", "one or more", length));
    }
    let (values, place) = (logits.to_f32()?, tokens.clamp(1, length) - 1);
    Ok((0..rows).map(|row| values[(row * length + place) * width..(row * length + place + 1) * width].to_vec()).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A decoder of one length gives logits of the places that fill its text up, too.
    #[test]
    fn the_next_token_is_the_one_behind_the_last_of_a_text_that_is_filled_up() -> Result<()> {
        let logits = HostTensor::new([2, 3, 1], (0..6_u8).map(f32::from).collect::<Vec<f32>>())?;
        for (tokens, expected) in [(1, [[0.0], [3.0]]), (2, [[1.0], [4.0]]), (3, [[2.0], [5.0]]), (usize::MAX, [[2.0], [5.0]])] {
            assert_eq!(last_rows(&logits, tokens)?, expected, "{tokens}");
        }
        assert!(last_rows(&HostTensor::new([1, 0, 2], Vec::<f32>::new())?, 1).is_err());
        Ok(())
    }
}
