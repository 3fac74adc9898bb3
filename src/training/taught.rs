//! What a teacher says of rows, as if it stood in the data: its logits ([`evaluate::teacher`](crate::evaluate::teacher)), or of texts that are compared its vectors, or
//! how much higher it scores each row's positive than the negatives.
//!
//! A teacher of texts reads them with its own tokenizer, which lies beside it; one that gives vectors and has none takes the student's tokens.

use std::borrow::Cow;
use std::path::PathBuf;

use indexmap::IndexSet;
use serde_json::Value;

use super::Source;
use crate::adapter::config::Task;
use crate::data::{Batches, Dataset, Example, Fields, Labels, Numbers, Order};
use crate::error::{Context, Error, Result};
use crate::evaluate::teacher;
use crate::export::Bundle;
use crate::export::objective::{self, LossRequest};
use crate::model::Model;
use crate::onnx::Runnable;
use crate::ort::{Device, Purpose, Runtime, Session, Settings};
use crate::train::losses::LABELS;
use crate::train::prediction;

/// Texts that a teacher runs on at a time.
const TEXTS: usize = 32;

/// Writes what the teacher of a bundle says into rows that do not say it themselves, if it has one whose answers are kept.
///
/// # Errors
/// A teacher that is not there, that does not take the rows, or that answers otherwise than the model learns.
pub fn fill(runtime: &Runtime, bundle: &Bundle, device: Device, source: &Source, dataset: &mut Dataset) -> Result<()> {
    teacher::fill(runtime, bundle, device, &source.collation(), dataset)?;
    let is_asked = |example: &Example| example.labels == Labels::Column && !example.columns.contains_key(LABELS);
    let manifest = bundle.manifest();
    let Some(teacher) = manifest.loss.teacher.as_ref().filter(|_| dataset.task == Task::Embedding) else { return Ok(()) };
    let asked: Vec<usize> = (0..dataset.examples.len()).filter(|at| is_asked(&dataset.examples.get(*at))).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let mut teacher = Teacher::open(runtime, bundle.folder().join(teacher), &manifest.loss.name, device)?;
    let rows: Vec<Cow<'_, Example>> = asked.iter().map(|at| dataset.examples.get(*at)).collect();
    let rows: Vec<&Example> = rows.iter().map(Cow::as_ref).collect();
    let labels = teacher.labels(&rows, manifest.loss.name == "mse")?;
    for (at, label) in asked.into_iter().zip(labels) {
        let mut example = dataset.examples.get(at).into_owned();
        example.columns.insert(LABELS.to_owned(), label);
        dataset.examples.set(at, example);
    }
    Ok(())
}

/// An open teacher of texts.
struct Teacher {
    path: PathBuf,
    /// `rerank` of one that scores pairs, `embedding` of one that gives vectors.
    task: Task,
    source: Source,
    session: Session,
    output: String,
}

impl Teacher {
    fn open(runtime: &Runtime, path: PathBuf, loss: &str, device: Device) -> Result<Self> {
        let model = Model::open(&path).hint(teacher::MOVED)?;
        let (graph, anatomy) = (model.graph(), model.anatomy());
        let task = objective::task_of_teacher(anatomy, loss);
        let settled = objective::settle(&LossRequest::default(), task, model.beside(), graph, anatomy).in_file(&path)?;
        let graph = prediction::of_model(graph, anatomy, &settled.objective, task.row().reads).in_file(&path)?;
        let output = graph.outputs().first().map(|&id| graph.value_name(id).to_owned()).unwrap_or_default();
        let settings = Settings { device, purpose: Purpose::Inference, ..Settings::default() };
        let session = Session::open(runtime, Runnable::of(&graph, model.name())?, &settings)?;
        let source = Source::of_model(&model, task, None)?.learning(&settled.plan);
        let most = source.max_length().or(source.positions());
        let source = source.cut(most.and_then(std::num::NonZeroUsize::new));
        if task == Task::Rerank && source.tokenizer().is_none() {
            let error = Error::not_found("tokenizer", "tokenizer.json beside the teacher").in_file(&path);
            return Err(error.with_hint("a teacher that scores pairs reads them with its own tokenizer: put it beside the model"));
        }
        Ok(Self { path, task, source, session, output })
    }

    /// The label of each row.
    fn labels(&mut self, rows: &[&Example], of_vectors: bool) -> Result<Vec<Numbers>> {
        let inputs = rows.iter().map(|row| self.inputs(row)).collect::<Result<Vec<_>>>()?;
        // A text that comes again, as a passage of several questions, is read once.
        let distinct: IndexSet<&Input> = inputs.iter().flatten().collect();
        let examples = distinct.iter().map(|input| self.example(input)).collect::<Result<Vec<_>>>()?;
        let answers = self.answers(examples)?;
        let answer = |input: &Input| distinct.get_index_of(input).map_or(&[][..], |at| &answers[at]);
        let label = |inputs: &Vec<Input>| {
            let answers: Vec<&[f64]> = inputs.iter().map(answer).collect();
            let numbers: Vec<f64> = match self.task {
                _ if of_vectors => answers.concat(),
                Task::Rerank => margins(answers.iter().map(|answer| answer.first().copied().unwrap_or(f64::NAN))),
                _ => margins(answers.iter().skip(1).map(|answer| answer.iter().zip(answers[0]).map(|(x, y)| x * y).sum())),
            };
            let shape = if of_vectors { vec![answers.len(), numbers.len() / answers.len().max(1)] } else { vec![numbers.len()] };
            Numbers { shape, values: numbers }
        };
        Ok(inputs.iter().map(label).collect())
    }

    /// What the teacher is asked of a row: its texts, or each of its pairs.
    fn inputs(&self, row: &Example) -> Result<Vec<Input>> {
        let missing =
            || Error::not_found("text", "in a row of tokens").with_hint("a teacher reads texts with its own tokenizer: write texts");
        match (self.task, row.texts.split_first()) {
            (Task::Rerank, Some((query, passages))) => {
                Ok(passages.iter().map(|passage| Input::Pair(query.clone(), passage.clone())).collect())
            }
            (Task::Rerank, None) => Err(missing()),
            (_, Some(_)) if self.source.tokenizer().is_some() => Ok(row.texts.iter().cloned().map(Input::Text).collect()),
            _ => Ok(std::iter::once(row).chain(&row.others).map(|text| Input::Tokens(text.input_ids.clone())).collect()),
        }
    }

    fn example(&self, input: &Input) -> Result<Example> {
        let columns: Vec<(&str, &String)> = match input {
            Input::Tokens(ids) => return Ok(Example { input_ids: ids.clone(), labels: Labels::Row, ..Example::default() }),
            Input::Text(text) => vec![("text", text)],
            Input::Pair(query, passage) => vec![("text", query), ("text_pair", passage)],
        };
        let fields: Fields = columns.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text.as_str()))).collect();
        let parts = self.source.ask_row(fields).in_file(&self.path)?.question.parts;
        parts.into_iter().next().map(|(_, example)| example).ok_or_else(|| Error::not_found("column", "text"))
    }

    /// What the teacher gives for each example.
    fn answers(&mut self, examples: Vec<Example>) -> Result<Vec<Vec<f64>>> {
        let count = examples.len();
        let dataset = Dataset::of(&self.path, self.task, examples);
        let mut batches = Batches::new(&dataset, self.session.inputs(), TEXTS, Order::File, self.source.collation())?;
        let mut found = vec![vec![]; count];
        for _ in 0..batches.per_epoch() {
            for part in batches.next_parts()? {
                let given = self.session.run(&part.feeds(), &[&self.output])?;
                let values = given[0].to_f32()?;
                let width = given[0].shape().get(1..).unwrap_or_default().iter().product::<usize>().max(1);
                for (place, own) in part.places.iter().zip(values.chunks_exact(width)) {
                    found[*place] = own.iter().copied().map(f64::from).collect();
                }
            }
        }
        Ok(found)
    }
}

/// What a teacher is asked.
#[derive(PartialEq, Eq, Hash)]
enum Input {
    Tokens(Vec<i32>),
    Text(String),
    Pair(String, String),
}

/// How much higher the first number is than each other.
fn margins(mut numbers: impl Iterator<Item = f64>) -> Vec<f64> {
    let first = numbers.next().unwrap_or_default();
    numbers.map(|other| first - other).collect()
}
