//! Text from a causal language model, token by token.
//!
//! Where the graph has inputs for the past and outputs for the present, each run reads one token and the cache stays on the device; else each run
//! reads everything again.

mod beams;
mod sampler;
mod stream;
mod text;
mod together;
mod transducer;
mod wish;
mod writing;

pub use sampler::{Sampler, Sampling};
pub use stream::TextStream;
pub use text::{Next, Text};
pub use together::{Group, Logits, Together, Worn};
pub use transducer::{Graphs, Transducer};
pub use wish::Wish;
pub use writing::{Ending, Rules, Writing};

use crate::adapter::config::Task;
use crate::anatomy::{Feeding, MaskForm, Role};
use crate::data::{Batches, Collation, Dataset, Example, Labels, Order, Pixels};
use crate::error::{Context, Error, Place, Result};
use crate::num;
use crate::onnx::Runnable;
use crate::ort::{
    Axis, Device, DeviceTensor, ElementType, Elements, Feed, HostTensor, Port, Presence, Purpose, Runtime, Session, Settings,
};

/// When a text ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Tokens to write at most.
    pub new_tokens: usize,
    /// Tokens that end the text; they are not part of it.
    pub stop: Vec<i32>,
    /// The most tokens that prompt and text may have together, where the model has a limit.
    pub positions: Option<usize>,
}

/// A causal language model that writes.
pub struct Generator {
    session: Session,
    logits: String,
    cache: Vec<Slot>,
    /// The only length that the graph takes.
    length: Option<usize>,
    feeding: Feeding,
    /// The same without what sees pictures, for tokens behind one.
    later: Option<Session>,
    /// What is seen, and the inputs that were filled with it.
    picture: Option<Pixels>,
    seen: Vec<(String, HostTensor)>,
    /// Which texts can be written together, once it was tried.
    tried: Option<together::Tried>,
}

/// An input with the past, and the output that has it for the next run.
struct Slot {
    past: Port,
    present: String,
}

/// Inputs with the past have one of these in their name; the output has the other one.
const PAST_AND_PRESENT: [(&str, &str); 3] =
    [("past_key_values", "present"), ("past_key_values", "present_key_values"), ("past", "present")];

impl Generator {
    /// Opens a model with inputs of Hugging Face's names, whose logits are `[batch, seq, vocabulary]`.
    ///
    /// # Errors
    /// If it cannot be opened, or is no causal language model by its inputs and outputs.
    pub fn open(runtime: &Runtime, model: impl Into<Runnable>, device: Device) -> Result<Self> {
        Self::fed(runtime, model, Feeding::default(), device)
    }

    /// The same for a model whose inputs are told.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn fed(runtime: &Runtime, model: impl Into<Runnable>, feeding: Feeding, device: Device) -> Result<Self> {
        let session = Session::open(runtime, model, &Settings { device, purpose: Purpose::Inference, ..Settings::default() })?;
        let logits = session.output("logits").or_else(|| session.outputs().first().filter(|port| port.shape.len() == 3));
        let Some(logits) = logits.filter(|port| port.shape.len() == 3).map(|port| port.name.clone()) else {
            let error = Error::unsupported("writing text with this model", "it has no output [batch, seq, vocabulary]");
            return Err(error.in_file(session.path()));
        };
        let ids = session.inputs().iter().find(|port| feeding.role(&port.name) == Some(Role::InputIds));
        let ids = ids.ok_or_else(|| Error::not_found("input", "input_ids")).in_file(session.path())?;
        let declared = if let Some(Axis::Known(length)) = ids.shape.get(1) { Some(*length) } else { None };
        let length = feeding.length.or(declared).filter(|length| *length > 1);
        Feeding { length, ..feeding.clone() }.check().in_file(session.path())?;
        let past = session.inputs().iter().filter(|port| port.name.starts_with("past"));
        let cache = past.map(|port| Some(Slot { past: port.clone(), present: present_of(port, &session)? })).collect::<Option<_>>();
        Ok(Self {
            cache: cache.unwrap_or_default(),
            logits,
            length,
            feeding,
            session,
            later: None,
            picture: None,
            seen: vec![],
            tried: None,
        })
    }

    /// The same with a graph for the tokens behind a picture, which is in the cache by then: it is looked at once.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn then(self, runtime: &Runtime, later: Runnable, device: Device) -> Result<Self> {
        let settings = Settings { device, purpose: Purpose::Inference, ..Settings::default() };
        let later = self.has_cache().then(|| Session::open(runtime, later, &settings)).transpose()?;
        Ok(Self { later, ..self })
    }

    /// What the texts that follow are about.
    pub fn look_at(&mut self, picture: Pixels) {
        self.picture = Some(picture);
    }

    /// Tokens that the model has logits of, where its graph says it.
    #[must_use]
    pub fn vocabulary(&self) -> Option<usize> {
        match self.session.output(&self.logits)?.shape.last()? {
            Axis::Known(size) => Some(*size),
            Axis::Free(_) => None,
        }
    }

    /// Whether the past is kept from token to token.
    #[must_use]
    pub fn has_cache(&self) -> bool {
        !self.cache.is_empty()
    }

    /// Writes on from a prompt. `write` gets every token as soon as it is known.
    ///
    /// # Errors
    /// An empty prompt, or one that leaves no room; a run that fails; logits that are no numbers; whatever `write` returns.
    pub fn generate(
        &mut self,
        prompt: &[i32],
        limits: &Limits,
        sampler: &mut Sampler,
        write: &mut dyn FnMut(i32) -> Result<()>,
    ) -> Result<Vec<i32>> {
        let mut text = self.begin(prompt, limits)?;
        while let Next::Token(token) = self.next(&mut text, limits, sampler, Worn::default())? {
            write(token)?;
        }
        Ok(text.into_written())
    }

    /// A text that goes on from a prompt, of which nothing is written yet. Texts that were begun can be written in turns.
    ///
    /// # Errors
    /// An empty prompt, or one that leaves no room.
    pub fn begin(&self, prompt: &[i32], limits: &Limits) -> Result<Text> {
        Text::new(prompt, limits.new_tokens, limits.positions.into_iter().chain(self.length).min())
    }

    /// Writes the next token of a text. `worn` is the same for all of a text.
    ///
    /// # Errors
    /// A run that fails; logits that are no numbers.
    pub fn next(&mut self, text: &mut Text, limits: &Limits, sampler: &mut Sampler, worn: Worn<'_>) -> Result<Next> {
        if text.is_full() {
            return Ok(Next::Full);
        }
        let (logits, present) = self.run(&text.tokens, text.known, &text.past, worn)?;
        if self.has_cache() {
            (text.past, text.known) = (present, text.tokens.len());
        }
        text.take(logits, limits, sampler)
    }

    /// The logits behind the last token, and the cache with all tokens. `known` tokens are in the cache already.
    fn run(&mut self, tokens: &[i32], known: usize, past: &[DeviceTensor], worn: Worn<'_>) -> Result<(Vec<f32>, Vec<DeviceTensor>)> {
        let given = self.inputs(tokens, known, worn)?;
        if known == 0 {
            let sees = |name: &str| matches!(self.feeding.role(name), Some(Role::PixelValues | Role::PixelMask));
            self.seen = given.iter().filter(|(name, _)| sees(name)).cloned().collect();
        }
        let mut feeds: Vec<Feed<'_>> = given.iter().map(|(name, tensor)| Feed::host(name, tensor)).collect();
        feeds.extend(self.cache.iter().zip(past).map(|(slot, tensor)| Feed::device(&slot.past.name, tensor)));
        let numbers = worn.numbers();
        feeds.extend(worn.feeds(numbers.as_ref()));
        let mut outputs = vec![self.logits.as_str()];
        outputs.extend(self.cache.iter().map(|slot| slot.present.as_str()));
        let session = self.later.as_mut().filter(|_| known > 0).unwrap_or(&mut self.session);
        let mut found = session.run_on_device(&feeds, &outputs)?.into_iter();
        let logits = found.next().ok_or_else(|| Error::not_found("output", &*self.logits))?.to_host()?;
        let row = tokens.len() - known - 1;
        Ok((as_logits(row_of(&logits, 0, row).in_file(self.session.path())?), found.collect()))
    }

    /// The tensors of the inputs that are not in the cache, by name.
    fn inputs(&self, tokens: &[i32], known: usize, worn: Worn<'_>) -> Result<Vec<(String, HostTensor)>> {
        if known == 0 {
            return self.whole(&[tokens], worn);
        }
        let (width, rows) = (self.length.unwrap_or(tokens.len() - known), self.feeding.rows.unwrap_or(1));
        let is_token = |at: usize| known + at < tokens.len();
        let mut given = vec![];
        for port in self.session.inputs().iter().filter(|port| self.cache.iter().all(|slot| slot.past.name != port.name)) {
            let numbers: Vec<i64> = match self.feeding.role(&port.name) {
                Some(Role::InputIds) => (0..width).map(|at| tokens.get(known + at).copied().unwrap_or_default().into()).collect(),
                Some(Role::AttentionMask(MaskForm::Seen)) => (0..known + width).map(|at| i64::from(at < tokens.len())).collect(),
                Some(Role::AttentionMask(MaskForm::Hidden)) => (0..known + width).map(|at| i64::from(at >= tokens.len())).collect(),
                Some(Role::PositionIds) => {
                    (0..width).map(|at| if is_token(at) { known + at } else { tokens.len() - 1 }).map(count).collect()
                }
                Some(Role::TokenTypeIds) => vec![0; width],
                Some(Role::UseCacheBranch) => {
                    given.push((port.name.clone(), HostTensor::vector(vec![true])));
                    continue;
                }
                Some(Role::PixelValues | Role::PixelMask) => {
                    given.extend(self.seen.iter().find(|(name, _)| *name == port.name).cloned());
                    continue;
                }
                _ if port.presence == Presence::Optional || worn.gives(&port.name) => continue,
                _ => return Err(self.unknown(port)),
            };
            let tensor = tensor_of(port, &vec![numbers; rows]).at(Place::Tensor(port.name.clone())).in_file(self.session.path())?;
            given.push((port.name.clone(), tensor));
        }
        Ok(given)
    }

    /// What all tokens of some texts at once are given as: rows of data.
    fn whole(&self, texts: &[&[i32]], worn: Worn<'_>) -> Result<Vec<(String, HostTensor)>> {
        let example = |tokens: &&[i32]| {
            let labels = Labels::Tokens(tokens.to_vec());
            Example { line: 1, input_ids: tokens.to_vec(), labels, pixel_values: self.picture.clone(), ..Example::default() }
        };
        let path = self.session.path().to_path_buf();
        let dataset = Dataset::of(&path, Task::CausalLm, texts.iter().map(example).collect());
        let collation = Collation { feeding: self.feeding.clone(), ..Collation::default() };
        let batch = Batches::new(&dataset, self.session.inputs(), texts.len(), Order::File, collation)?.next_batch()?;
        let has = |name: &str| worn.gives(name) || batch.tensors.iter().any(|(own, _)| own == name);
        let is_given = |port: &&Port| port.presence == Presence::Optional || has(&port.name);
        match self.session.inputs().iter().find(|port| !is_given(port)) {
            None => Ok(batch.tensors),
            Some(port) => Err(self.unknown(port)),
        }
    }

    fn unknown(&self, port: &Port) -> Error {
        let what = format!("an input named {}", port.name);
        Error::unsupported(what, "it is not known what to feed it with").in_file(self.session.path())
    }
}

/// The output that has the next run's past, by its name.
fn present_of(past: &Port, session: &Session) -> Option<String> {
    let names = PAST_AND_PRESENT.iter().map(|(from, to)| past.name.replacen(from, to, 1));
    { names }.find(|name| *name != past.name && session.output(name).is_some())
}

/// `[rows, n]` in the type that an input asks for.
fn tensor_of(port: &Port, rows: &[Vec<i64>]) -> Result<HostTensor> {
    let shape = [rows.len(), rows.first().map_or(0, Vec::len)];
    let all = || rows.iter().flatten().copied();
    match port.element_type {
        Some(ElementType::Int64) => HostTensor::new(shape, all().collect::<Vec<_>>()),
        Some(ElementType::Int32) => {
            HostTensor::new(shape, Elements::Int32(all().map(|number| i32::try_from(number).unwrap_or(i32::MAX)).collect()))
        }
        Some(ElementType::Bool) => HostTensor::new(shape, all().map(|number| number != 0).collect::<Vec<_>>()),
        Some(ElementType::Float32) => {
            HostTensor::new(shape, all().map(|number| if number == 0 { 0.0_f32 } else { 1.0 }).collect::<Vec<_>>())
        }
        other => Err(Error::mismatch("element type", "integers", other.map_or_else(|| "another".to_owned(), |other| other.to_string()))),
    }
}

/// One position's logits of a row of `[batch, seq, vocabulary]`; the last one, if the graph gives no more than that.
fn row_of(logits: &HostTensor, row: usize, place: usize) -> Result<Vec<f32>> {
    let &[rows, places, width] = logits.shape() else { return Err(Error::mismatch("axes of the logits", 3, logits.shape().len())) };
    if row >= rows || places == 0 {
        return Err(Error::mismatch("rows of the logits", row + 1, rows));
    }
    let at = row * places + place.min(places - 1);
    let range = at * width..(at + 1) * width;
    match logits.elements() {
        Elements::Float32(values) => Ok(values[range].to_vec()),
        Elements::Float16(values) => Ok(values[range].iter().map(|value| value.to_f32()).collect()),
        Elements::BFloat16(values) => Ok(values[range].iter().map(|value| value.to_f32()).collect()),
        _ => Err(Error::mismatch("element type of the logits", "a float type", logits.element_type())),
    }
}

/// Logits of what a graph gives: a row of probabilities, as one that ends in a softmax gives them, as their logarithms, which are logits of the
/// same probabilities. No other row of a vocabulary has numbers from 0 to 1 alone that sum to 1.
fn as_logits(mut row: Vec<f32>) -> Vec<f32> {
    // Sums of half precision are off by as many roundings as there are tokens.
    const ROUNDING: f64 = 1e-2;
    let sum: f64 = row.iter().map(|value| f64::from(*value)).sum();
    if (sum - 1.0).abs() < ROUNDING && row.iter().all(|value| (0.0..=1.0).contains(value)) {
        for value in &mut row {
            *value = value.ln();
        }
    }
    row
}

fn count(number: usize) -> i64 {
    num::int(number)
}

#[cfg(test)]
mod tests;
