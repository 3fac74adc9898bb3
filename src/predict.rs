//! Answers of a model to rows: of every task, row by row, as people read them.
//!
//! ```text
//! file ─data::ask→ questions ─runner→ what the task reads of the model ─answers→ columns of a row
//!                            ─writer→ text
//! ```

mod answers;
pub mod mining;
mod numbers;
mod opened;
mod runner;
mod samples;
mod transcriber;

use std::path::Path;

use serde_json::{Map, Value};

use crate::adapter::config::Task;
use crate::anatomy::Reads;
use crate::data::{Asked, Fields};
use crate::error::{Context, Error, Place, Result};
use crate::evaluate::reference::Reference;
use crate::generate::{Generator, Limits, Sampler, Sampling, Worn};
use crate::ort::{Device, Purpose, Runtime, Session, Settings};
use crate::train::plan::LossPlan;
use crate::training::Source;

use answers::Answers;
pub use answers::Shape;
pub use opened::{Opened, Read, Whole};
use runner::Runner;
pub use samples::before_and_after;
pub use transcriber::Transcriber;

/// A model that answers rows.
pub struct Predictor {
    source: Source,
    mind: Mind,
    shape: Shape,
    loss: LossPlan,
    class_names: Vec<String>,
    batch_size: usize,
}

/// What gives the answers.
enum Mind {
    /// Scores or vectors of rows.
    Runner(Runner),
    /// The probabilities of answers that rows have.
    Judge(Reference),
    /// Text that an encoder-decoder writes for a row.
    Transcriber(Box<Transcriber>),
    /// Text that goes on from a row's.
    Writer { generator: Box<Generator>, limits: Limits },
}

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// The device.
    pub device: Device,
    /// Rows at a time.
    pub batch_size: usize,
    /// Tokens that are written at most.
    pub new_tokens: usize,
}

/// On the processor, 8 rows at a time, 128 tokens at most.
impl Default for Running {
    fn default() -> Self {
        Self { device: Device::Cpu, batch_size: 8, new_tokens: 128 }
    }
}

impl Predictor {
    /// Opens a model to answer rows.
    ///
    /// # Errors
    /// A graph that does not give what the task reads, or that ONNX Runtime refuses.
    pub fn open(runtime: &Runtime, model: Opened, shape: Shape, running: Running) -> Result<Self> {
        let Opened { source, loss, class_names, whole, graph, stop, places } = model;
        let settings = Settings { device: running.device, purpose: Purpose::Inference, ..Settings::default() };
        let asks_words = source.hard_prompt().is_some() || source.task() == Task::MaskedLm;
        let mind = match source.task().row().reads {
            _ if asks_words => {
                let (graph, logits) = whole()?;
                Mind::Runner(Runner::new(Session::open(runtime, graph, &settings)?, vec![logits], None)?)
            }
            Reads::Vocabulary if source.task() != Task::CausalLm => {
                let (graph, _) = whole()?;
                let transcriber = Transcriber::open(runtime, graph, &source, &places, running.new_tokens, running.device)?;
                Mind::Transcriber(Box::new(transcriber))
            }
            Reads::Vocabulary => {
                let (graph, _) = whole()?;
                let generator = Generator::fed(runtime, graph, source.collation().feeding, running.device)?;
                let limits = Limits { new_tokens: running.new_tokens, stop, positions: source.positions() };
                Mind::Writer { generator: Box::new(generator), limits }
            }
            Reads::TokenLogProbs => {
                let (graph, logits) = whole()?;
                Mind::Judge(Reference::new(Session::open(runtime, graph, &settings)?, &logits)?)
            }
            reads => {
                let (graph, trainable) = graph()?;
                let names = reads.names().iter().map(ToString::to_string).collect();
                Mind::Runner(Runner::new(Session::open(runtime, graph, &settings)?, names, trainable)?)
            }
        };
        // Frames of padding say something, too: a row of frames is read alone.
        let batch_size = if source.task().row().reads == Reads::Frames { 1 } else { running.batch_size };
        Ok(Self { source, mind, shape, loss, class_names, batch_size })
    }

    /// The task.
    #[must_use]
    pub fn task(&self) -> Task {
        self.source.task()
    }

    /// The vectors of texts of a column, in their order.
    ///
    /// # Errors
    /// A model that gives none; texts that it cannot take.
    pub fn vectors(&mut self, texts: &[&str], column: &str) -> Result<Vec<Vec<f32>>> {
        let mut found = vec![];
        for texts in texts.chunks(self.batch_size * 16) {
            let asked = texts.iter().map(|text| self.source.ask_text(text, column)).collect::<Result<Vec<_>>>()?;
            found.extend(self.vectors_of(&asked)?);
        }
        Ok(found)
    }

    /// Whether the model can take [another adapter](Self::wear).
    #[must_use]
    pub fn can_change(&self) -> bool {
        matches!(&self.mind, Mind::Runner(runner) if runner.has_trainable())
    }

    /// Takes the trainable vector of another adapter for the same graph, and the names of its classes.
    ///
    /// # Errors
    /// A model that [cannot](Self::can_change).
    pub fn wear(&mut self, vector: Vec<f32>, class_names: Vec<String>) -> Result<()> {
        match &mut self.mind {
            Mind::Runner(runner) if runner.has_trainable() => {
                runner.train_with(vector);
                self.class_names = class_names;
                Ok(())
            }
            _ => Err(Error::unsupported("another adapter for this model", "its graph has the adapter as a constant")),
        }
    }

    /// The names of the classes in the order of their numbers.
    #[must_use]
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// How rows are read.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Answers rows in memory: the columns of each one's answer, in their order.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn answers(&mut self, asked: &[Asked]) -> Result<Vec<Fields>> {
        let Self { source, mind, shape, loss, class_names, batch_size } = self;
        of_asked(mind, &Answers { source, shape, loss, names: class_names }, asked, Path::new(""), *batch_size)
    }

    /// The vectors of rows in memory, in their order.
    ///
    /// # Errors
    /// As [`vectors`](Self::vectors).
    pub fn vectors_of(&mut self, asked: &[Asked]) -> Result<Vec<Vec<f32>>> {
        let Mind::Runner(runner) = &mut self.mind else {
            return Err(Error::unsupported("vectors of this model", "it is not asked for embeddings"));
        };
        let given = runner.run(asked, Path::new(""), &self.source, self.batch_size, Worn::default())?;
        Ok(given.into_iter().filter_map(vector).collect())
    }

    /// What the model gives for rows with adapters of their own, of which `worn` has the numbers.
    ///
    /// # Errors
    /// As [`answer`](Self::answer); a model that writes.
    pub fn given(&mut self, asked: &[Asked], worn: Worn<'_>) -> Result<Vec<Given>> {
        let Mind::Runner(runner) = &mut self.mind else {
            return Err(Error::unsupported("rows with adapters of their own", "the model writes their answers"));
        };
        Ok(runner.run(asked, Path::new(""), &self.source, self.batch_size, worn)?.into_iter().map(Given).collect())
    }

    /// The answers to rows, of what the model gave for them, with these names of classes.
    ///
    /// # Errors
    /// Rows that the model gave nothing for.
    pub fn told(&self, asked: &[Asked], given: Vec<Given>, names: &[String]) -> Result<Vec<Fields>> {
        let given: Vec<Vec<runner::Outputs>> = given.into_iter().map(|Given(parts)| parts).collect();
        Answers { source: &self.source, shape: &self.shape, loss: &self.loss, names }.of_scores(asked, &given)
    }

    /// Answers all rows of a file, in their order; `tell` gets some at a time, each with its columns and the answer's behind them.
    ///
    /// # Errors
    /// As [`ask`](crate::data::ask); a column that has the name of one of the answer's; whatever `tell` returns.
    pub fn answer(&mut self, file: &Path, tell: &mut dyn FnMut(Vec<Map<String, Value>>) -> Result<()>) -> Result<usize> {
        /// Batches whose rows are in memory together: enough to sort their texts by length.
        const BATCHES: usize = 16;
        let Self { source, mind, shape, loss, class_names, batch_size } = self;
        let source = &*source;
        let answers = Answers { source, shape, loss, names: class_names };
        let mut count = 0;
        source.ask(file, *batch_size * BATCHES, &mut |asked| {
            let found = of_asked(mind, &answers, &asked, file, *batch_size)?;
            count += asked.len();
            let rows = asked.into_iter().zip(found).map(|(row, found)| joined(row, found, &shape.prefix)).collect::<Result<_>>();
            tell(rows.in_file(file)?)
        })?;
        Ok(count)
    }
}

/// What a model gave for a row.
#[derive(Debug)]
pub struct Given(Vec<runner::Outputs>);

impl Given {
    /// The vector of the row's text.
    #[must_use]
    pub fn vector(self) -> Option<Vec<f32>> {
        vector(self.0)
    }

    /// Whether another one is the same as far as both go, but for rounding. What is not finite is like nothing.
    #[must_use]
    pub fn is_near(&self, other: &Self) -> bool {
        const ROUNDING: f32 = 1e-4;
        let pairs = || self.0.iter().flatten().zip(other.0.iter().flatten()).flat_map(|(one, two)| one.1.iter().zip(&two.1));
        let largest = pairs().fold(0.0_f32, |most, (one, _)| most.max(one.abs()));
        pairs().next().is_some() && pairs().all(|(one, two)| (one - two).abs() <= largest * ROUNDING)
    }
}

fn vector(mut parts: Vec<runner::Outputs>) -> Option<Vec<f32>> {
    Some(parts.pop()?.pop()?.1)
}

/// The answers to rows.
fn of_asked(mind: &mut Mind, answers: &Answers<'_>, asked: &[Asked], file: &Path, batch_size: usize) -> Result<Vec<Map<String, Value>>> {
    let source = answers.source;
    match mind {
        Mind::Runner(runner) => {
            runner.run(asked, file, source, batch_size, Worn::default()).and_then(|found| answers.of_scores(asked, &found))
        }
        Mind::Judge(judge) => runner::judged(judge, asked, file, source, batch_size).map(|found| answers::of_chances(asked, &found)),
        Mind::Transcriber(transcriber) => asked.iter().map(|row| transcribed(transcriber, row)).collect(),
        Mind::Writer { generator, limits } => asked.iter().map(|row| written(generator, limits, row, source)).collect(),
    }
}

/// A row's own columns, and those of its answer.
fn joined(row: Asked, found: Map<String, Value>, prefix: &str) -> Result<Map<String, Value>> {
    let mut fields = row.fields;
    for (name, value) in found {
        let name = format!("{prefix}{name}");
        if fields.contains_key(&name) {
            let error =
                Error::invalid(format!("the data has a column {name}, which is what the answer is called")).at(Place::Line(row.line));
            return Err(error.with_hint("`prefix TEXT` puts a text before the names of the answer's columns"));
        }
        fields.insert(name, value);
    }
    Ok(fields)
}

/// What an encoder-decoder writes for a row.
fn transcribed(transcriber: &mut Transcriber, row: &Asked) -> Result<Map<String, Value>> {
    let (_, example) = row.question.parts.first().ok_or_else(|| Error::not_found("question", "of the row").at(Place::Line(row.line)))?;
    Ok([("prediction".to_owned(), transcriber.text(example)?.into())].into_iter().collect())
}

/// What a model writes behind a row's text.
fn written(generator: &mut Generator, limits: &Limits, row: &Asked, source: &Source) -> Result<Map<String, Value>> {
    let example = row.question.parts.first().map(|(_, example)| example.clone().with_media()).transpose()?.unwrap_or_default();
    if let Some(picture) = example.pixel_values {
        generator.look_at(picture);
    }
    let prompt = example.input_ids.as_slice();
    let mut sampler = Sampler::new(Sampling { temperature: 0.0, top_k: None, top_p: 1.0, repetition_penalty: 1.0, seed: 0 })?;
    let tokens = generator.generate(prompt, limits, &mut sampler, &mut |_| Ok(())).at(Place::Line(row.line))?;
    let text = match source.tokenizer() {
        // The first word keeps the space in front of it only if it is decoded behind the prompt.
        Some(tokenizer) => {
            let (before, all) = (tokenizer.decode(prompt)?, tokenizer.decode(&[prompt, &tokens].concat())?);
            all.strip_prefix(&before).map_or_else(|| tokenizer.decode(&tokens), |text| Ok(text.to_owned()))?.into()
        }
        None => tokens.into(),
    };
    Ok([("prediction".to_owned(), text)].into_iter().collect())
}
