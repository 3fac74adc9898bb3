//! The base without its adapter, which preferences are compared with: the log-probabilities of completions, each text computed once.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use crate::data::{Batch, Example, IGNORED, Numbers};
use crate::error::{Context, Error, Result};
use crate::export::{Bundle, INFERENCE, INITIAL};
use crate::onnx::Runnable;
use crate::ort::{Axis, Device, ElementType, Feed, HostTensor, Port, Presence, Purpose, Runtime, Session, Settings};
use crate::train::logits;
use crate::train::losses::{COMPLETION, LABELS, REFERENCE};

/// An open base, and what it said of the texts that were asked for.
pub struct Reference {
    session: Session,
    logits: String,
    known: HashMap<u128, f32>,
    /// Where values are kept from run to run.
    file: Option<PathBuf>,
}

/// What preferences are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Referee {
    /// The base without the adapter.
    #[default]
    Base,
    /// The adapter as `inject` wrote it.
    Initial,
}

/// The file with the values beside a run: a line for each text, its mark and the bits of its log-probability.
const FILE: &str = "reference.txt";

impl Referee {
    /// What tells runs with different ones apart.
    #[must_use]
    pub fn mark(self) -> &'static str {
        match self {
            Self::Base => "",
            Self::Initial => ", compared with the initial adapter",
        }
    }
}

impl Reference {
    /// The base of a bundle whose loss compares with it; none where it does not.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if ONNX Runtime refuses the base.
    pub fn of(runtime: &Runtime, bundle: &Bundle, referee: Referee, device: Device) -> Result<Option<Self>> {
        let manifest = bundle.manifest();
        if !manifest.loss.needs_reference() {
            return Ok(None);
        }
        let settings = Settings { device, purpose: Purpose::Inference, ..Settings::default() };
        // What gives probabilities alone has its logits inside.
        let base = bundle.base()?;
        let shown = logits::shown(base.graph(), base.anatomy())?;
        let (model, name): (Runnable, &str) = match (referee, shown) {
            (Referee::Base, Some(shown)) => (Runnable::of(&shown, base.name())?, logits::SHOWN),
            (Referee::Base, None) => (bundle.unadapted()?, &manifest.logits),
            (Referee::Initial, None) => (bundle.clone().with_adapter(bundle.folder().join(INITIAL)).runnable(INFERENCE)?, &manifest.logits),
            (Referee::Initial, Some(_)) => {
                let why = format!("{} gives probabilities", manifest.logits);
                let error = Error::unsupported("comparing with the initial adapter", why).in_file(bundle.model());
                return Err(error.with_hint("compare with the base (`reference base`), or export the model so that it gives logits"));
            }
        };
        Self::new(Session::open(runtime, model, &settings)?, name).map(Some)
    }

    /// Asks a model that gives logits of this name.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if it has no such output.
    pub fn new(session: Session, logits: &str) -> Result<Self> {
        if session.output(logits).is_none() {
            return Err(Error::not_found("output", logits).in_file(session.path()));
        }
        Ok(Self { session, logits: logits.to_owned(), known: HashMap::new(), file: None })
    }

    /// Keeps values in a run's folder, and takes those that are there.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn keep_in(&mut self, run: &Path) -> Result<()> {
        let file = run.join(FILE);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).in_file(file),
        };
        // A line that a killed process has not finished is no value.
        let value = |line: &str| {
            let (mark, bits) = line.split_once(' ').filter(|(mark, bits)| mark.len() == 32 && bits.len() == 8)?;
            Some((u128::from_str_radix(mark, 16).ok()?, f32::from_bits(u32::from_str_radix(bits, 16).ok()?)))
        };
        self.known.extend(text.lines().filter_map(value));
        self.file = Some(file);
        Ok(())
    }

    fn keep(&self, values: &[(u128, f32)]) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let lines = values.iter().map(|(mark, value)| format!("{mark:032x} {:08x}\n", value.to_bits())).collect::<Vec<String>>().concat();
        let mut out = std::fs::OpenOptions::new().create(true).append(true).open(file).in_file(file)?;
        out.write_all(lines.as_bytes()).in_file(file)
    }

    /// The model's inputs.
    #[must_use]
    pub fn inputs(&self) -> &[Port] {
        self.session.inputs()
    }

    /// Forgets what was said: of texts that come but once nothing need be kept.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Fills in the log-probabilities of a batch's completions, if its graph reads them, and gives them.
    ///
    /// # Errors
    /// If the base does not take the batch.
    pub fn complete(&mut self, batch: &mut Batch) -> Result<Vec<f32>> {
        let find = |name: &str| batch.tensors.iter().position(|(known, _)| known == name);
        let Some(place) = find(REFERENCE) else { return Ok(vec![]) };
        let missing = |name: &str| Error::not_found("input", name);
        let labels = find(LABELS).ok_or_else(|| missing(LABELS))?;
        let mask = find(COMPLETION).ok_or_else(|| missing(COMPLETION))?;
        let mask = batch.tensors[mask].1.to_f32()?;
        let labels = &batch.tensors[labels].1;
        let (texts, length) = match labels.shape() {
            [texts, length] => (*texts, *length),
            other => return Err(Error::mismatch("axes of labels", 2, other.len())),
        };
        let labels: Vec<i64> = labels.as_i64()?.to_vec();
        // What tells a text: its tokens, and which of them are its completion's.
        let ids =
            batch.tensors.iter().find(|(name, tensor)| name != LABELS && tensor.shape() == [texts, length] && tensor.as_i64().is_ok());
        let ids: Vec<i64> = ids.map(|(_, tensor)| tensor.as_i64().map(<[i64]>::to_vec)).transpose()?.unwrap_or_else(|| labels.clone());
        let key = |text: usize| {
            let row = text * length..(text + 1) * length;
            let of_completion = labels[row.clone()]
                .iter()
                .zip(&mask[row.clone()])
                .map(|(label, counts)| if *counts > 0.0 { *label } else { i64::from(IGNORED) });
            let mut key: Vec<i64> = ids[row].iter().copied().chain([i64::MIN]).chain(of_completion).collect();
            while key.last() == Some(&i64::from(IGNORED)) {
                key.pop();
            }
            xxh3_128(&key.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())
        };
        let keys: Vec<u128> = (0..texts).map(key).collect();
        if keys.iter().any(|key| !self.known.contains_key(key)) {
            let found = self.ask(batch, &labels, &mask, length)?;
            let fresh: Vec<(u128, f32)> = keys.iter().copied().zip(found).filter(|(key, _)| !self.known.contains_key(key)).collect();
            self.keep(&fresh)?;
            self.known.extend(fresh);
        }
        let values: Vec<f32> = keys.iter().filter_map(|key| self.known.get(key).copied()).collect();
        note(&mut batch.rows, &values);
        batch.tensors[place].1 = HostTensor::vector(values.clone());
        Ok(values)
    }

    /// The sum of each text's completion's log-probabilities.
    fn ask(&mut self, batch: &Batch, labels: &[i64], mask: &[f32], length: usize) -> Result<Vec<f32>> {
        let mut feeds: Vec<_> = batch.feeds().into_iter().filter(|feed| self.session.input(feed.name()).is_some()).collect();
        // The base may have a cache, which graphs of training have not.
        let is_given = |port: &Port| port.presence == Presence::Optional || batch.tensors.iter().any(|(name, _)| *name == port.name);
        let texts = labels.len() / length.max(1);
        let without = |port: &Port| Some((port.name.clone(), without_past(port, texts)?));
        let empty: Vec<(String, HostTensor)> = self.session.inputs().iter().filter(|port| !is_given(port)).filter_map(without).collect();
        feeds.extend(empty.iter().map(|(name, tensor)| Feed::host(name, tensor)));
        let found = self.session.run(&feeds, &[&self.logits])?;
        let logits = &found[0];
        let classes = logits.shape().last().copied().unwrap_or_default();
        let values = logits.to_f32()?;
        if classes == 0 || values.len() != labels.len() * classes {
            return Err(Error::mismatch("logits", format!("{} rows of scores", labels.len()), format!("{:?}", logits.shape())));
        }
        let sum = |text: usize| {
            let tokens = (1..length).filter(|at| mask[text * length + at] > 0.0);
            tokens.map(|at| log_p(&values[(text * length + at - 1) * classes..][..classes], labels[text * length + at])).sum::<f64>()
        };
        Ok((0..labels.len() / length.max(1)).map(|text| narrow(sum(text))).collect())
    }
}

/// What an input of a cache is filled with where there is none: no positions, and that it is not read. None for other inputs.
fn without_past(port: &Port, texts: usize) -> Option<HostTensor> {
    if port.name == "use_cache_branch" {
        return Some(HostTensor::vector(vec![false]));
    }
    let mut free = std::iter::once(texts).chain(std::iter::repeat(0));
    let shape = port.shape.iter().map(|axis| if let Axis::Known(length) = axis { Some(*length) } else { free.next() });
    let shape: Option<Vec<usize>> = shape.collect();
    shape.filter(|_| port.name.starts_with("past")).map(|shape| HostTensor::zeros(port.element_type.unwrap_or(ElementType::Float32), shape))
}

/// Writes the log-probabilities of all texts into their rows, where metrics read them: all first texts, then all second ones.
pub(super) fn note(rows: &mut [Example], values: &[f32]) {
    let count = rows.len();
    for (at, row) in rows.iter_mut().enumerate() {
        let number = |text: usize| Numbers { shape: vec![], values: values.get(text).map(|value| f64::from(*value)).into_iter().collect() };
        row.columns.insert(REFERENCE.to_owned(), number(at));
        for (place, other) in row.others.iter_mut().enumerate() {
            other.columns.insert(REFERENCE.to_owned(), number((place + 1) * count + at));
        }
    }
}

/// `ln p` of a token.
fn log_p(logits: &[f32], token: i64) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let own = usize::try_from(token).ok().and_then(|token| logits.get(token)).copied().unwrap_or(f32::NAN);
    f64::from(own - most) - sum.ln()
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "rounded once, where it becomes a tensor")]
fn narrow(number: f64) -> f32 {
    number as f32
}
