//! A teacher as a model. What it says of rows and of tokens of classes is computed once, as if it stood in the data; of tokens of a vocabulary and of
//! answers in texts it is computed with each batch: logits of a whole vocabulary are too many to keep, and scores of starts and ends depend on the padding.

use std::path::{Path, PathBuf};

use crate::adapter::config::Task;
use crate::anatomy::{self, Modality, Reads};
use crate::data::{Batch, Batches, Collation, Dataset, Example, Numbers, Order, Tokenizer};
use crate::error::{Context, Error, Result};
use crate::export::Bundle;
use crate::export::objective::{LossRequest, settle};
use crate::model::Model;
use crate::onnx::Runnable;
use crate::ort::{Device, HostTensor, Purpose, Runtime, Session, Settings};
use crate::train::distillation::{self, TEACHER_LOGITS};
use crate::train::objective::Objective;
use crate::train::prediction;

/// What to do where a teacher is not there.
pub const MOVED: &str = "the teacher that `inject --teacher` named must stay where it was: inject again if it moved";

/// Rows that the teacher runs on at a time.
const ROWS: usize = 8;

/// An open teacher.
pub struct Teacher {
    session: Session,
    path: PathBuf,
    task: Task,
    /// The outputs with its answers, each with the input of the student's graphs that it is for.
    answers: Vec<(String, &'static str)>,
    collation: Collation,
    /// How many classes the student has, where it is known.
    classes: Option<usize>,
}

/// What the teacher says of a row: axes and values.
struct Answer {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// Writes the teacher's logits into rows that do not have them, if the bundle's loss has a teacher whose answers are kept.
///
/// # Errors
/// A teacher that is not there, that does not take the rows, or that gives other logits than the model learns from.
pub fn fill(runtime: &Runtime, bundle: &Bundle, device: Device, collation: &Collation, dataset: &mut Dataset) -> Result<()> {
    let is_known = |example: &Example| example.columns.contains_key(TEACHER_LOGITS);
    if !keeps_answers(dataset.task) || dataset.examples.iter().all(|example| is_known(&example)) {
        return Ok(());
    }
    let Some(mut teacher) = Teacher::open(runtime, bundle, device, collation)? else { return Ok(()) };
    let rows = if teacher.collation.parts_batches(dataset, ROWS) { 1 } else { ROWS };
    let mut found = vec![];
    let mut batches = Batches::new(dataset, teacher.session.inputs(), rows, Order::File, teacher.collation.clone())?;
    for _ in 0..batches.per_epoch() {
        let batch = batches.next_batch()?;
        for (answers, row) in teacher.said(&batch)?.into_iter().zip(&batch.rows) {
            found.extend(answers.into_iter().next().map(|answer| answer.of_own_tokens(row)));
        }
    }
    for (row, numbers) in (0..dataset.examples.len()).zip(found) {
        let mut example = dataset.examples.get(row).into_owned();
        example.columns.entry(TEACHER_LOGITS.to_owned()).or_insert(numbers);
        dataset.examples.set(row, example);
    }
    Ok(())
}

/// Whether what a teacher says of a task's rows is kept with them.
fn keeps_answers(task: Task) -> bool {
    matches!(task.row().reads, Reads::Logits | Reads::TokenLogits)
}

impl Teacher {
    /// The teacher of a bundle whose answers are computed with each batch; none where there is none, and where they are kept with the rows.
    ///
    /// # Errors
    /// A teacher that is not there, or does not give what the loss compares with.
    pub fn of(runtime: &Runtime, bundle: &Bundle, device: Device, collation: &Collation) -> Result<Option<Self>> {
        let task = Task::from_name(&bundle.manifest().task);
        if task.is_none_or(keeps_answers) { Ok(None) } else { Self::open(runtime, bundle, device, collation) }
    }

    fn open(runtime: &Runtime, bundle: &Bundle, device: Device, collation: &Collation) -> Result<Option<Self>> {
        let manifest = bundle.manifest();
        let Some((teacher, task)) = manifest.loss.teacher.as_ref().zip(Task::from_name(&manifest.task)) else { return Ok(None) };
        let path: PathBuf = bundle.folder().join(teacher);
        if task.row().modality == Modality::Tokens {
            same_tokens(bundle.model(), &path)?;
        }
        let model = Model::open(&path).hint(MOVED)?;
        let (runnable, outputs) = answering(&model, task).in_file(&path)?;
        let settings = Settings { device, purpose: Purpose::Inference, ..Settings::default() };
        Ok(Some(Self {
            session: Session::open(runtime, runnable, &settings)?,
            answers: outputs.into_iter().zip(distillation::inputs(task.row().reads).iter().copied()).collect(),
            collation: Collation { feeding: anatomy::feeding(model.graph(), model.anatomy()), micro_batch: None, ..collation.clone() },
            classes: manifest.classes.and_then(|classes| usize::try_from(classes).ok()),
            path,
            task,
        }))
    }

    /// Fills in what the teacher says of a batch's rows, where its graph asks for it and the rows do not say it themselves.
    ///
    /// # Errors
    /// If the teacher does not take the rows.
    pub fn complete(&mut self, batch: &mut Batch) -> Result<()> {
        let place = |(at, (_, input)): (usize, &(String, &str))| {
            let is_asked = |(name, tensor): &(String, HostTensor)| name == input && tensor.shape().last() == Some(&0);
            Some((at, batch.tensors.iter().position(is_asked)?))
        };
        let places: Vec<(usize, usize)> = self.answers.iter().enumerate().filter_map(place).collect();
        let Some(&(_, first)) = places.first() else { return Ok(()) };
        let asked = batch.tensors[first].1.shape().to_vec();
        let [rows, length, _] = asked[..] else { return Err(Error::mismatch("axes of what a teacher is asked for", 3, asked.len())) };
        let dataset = Dataset::of(&self.path, self.task, batch.rows.clone());
        let mut collation = self.collation.clone();
        if self.task == Task::Qa {
            // Scores of padding count beside others: the teacher's rows are as long as the student's.
            collation.feeding.length = collation.feeding.length.or(Some(length));
        }
        let mut batches = Batches::new(&dataset, self.session.inputs(), batch.rows.len().max(1), Order::File, collation)?;
        let mut found: Vec<Vec<Answer>> = batch.rows.iter().map(|_| vec![]).collect();
        for part in batches.next_parts()? {
            for (place, answers) in part.places.iter().zip(self.said(&part)?) {
                found[*place] = answers;
            }
        }
        for (at, place) in places {
            let inner =
                found.first().and_then(|answers| answers.get(at)).map_or(&[][..], |answer| answer.shape.get(1..).unwrap_or_default());
            let shape: Vec<usize> = [rows, length].iter().chain(inner).copied().collect();
            let size = length * inner.iter().product::<usize>();
            let mut values = vec![0.0; rows * size];
            for (row, answers) in values.chunks_exact_mut(size.max(1)).zip(&found) {
                let said = answers.get(at).map_or(&[][..], |answer| &answer.values);
                let both = said.len().min(size);
                row[..both].copy_from_slice(&said[..both]);
            }
            batch.tensors[place].1 = HostTensor::new(shape, values)?;
        }
        Ok(())
    }

    /// What the teacher says of each row of a batch that was made for it.
    fn said(&mut self, batch: &Batch) -> Result<Vec<Vec<Answer>>> {
        let outputs: Vec<&str> = self.answers.iter().map(|(output, _)| output.as_str()).collect();
        let given = self.session.run(&batch.feeds(), &outputs)?;
        let mut rows: Vec<Vec<Answer>> = batch.rows.iter().map(|_| vec![]).collect();
        for scores in given {
            let (shape, values) = (scores.shape().to_vec(), scores.to_f32()?);
            let Some((&count, rest)) = shape.split_first().filter(|(count, _)| **count >= rows.len()) else {
                return Err(Error::mismatch("rows of the teacher's logits", rows.len(), format!("{shape:?}"))).in_file(&self.path);
            };
            let size = values.len() / count.max(1);
            self.check_classes(rest)?;
            for (row, own) in rows.iter_mut().zip(values.chunks_exact(size.max(1))) {
                row.push(Answer { shape: rest.to_vec(), values: own.to_vec() });
            }
        }
        Ok(rows)
    }

    fn check_classes(&self, shape: &[usize]) -> Result<()> {
        let wanted = self.classes.filter(|_| self.task.row().reads != Reads::Spans);
        match (wanted, shape.last()) {
            (Some(wanted), Some(&found)) if wanted != found => Err(other_classes(wanted, found)).in_file(&self.path),
            _ => Ok(()),
        }
    }
}

impl Answer {
    /// As a column of the row: of a teacher of tokens, what it says of padding is left out.
    fn of_own_tokens(self, row: &Example) -> Numbers {
        let Self { mut shape, mut values } = self;
        if let [positions, classes] = shape[..] {
            shape[0] = row.input_ids.len().min(positions);
            values.truncate(shape[0] * classes);
        }
        Numbers { shape, values: values.into_iter().map(f64::from).collect() }
    }
}

/// A model's graph that gives its answers to a task's rows, and the names of its outputs.
fn answering(model: &Model, task: Task) -> Result<(Runnable, Vec<String>)> {
    let (graph, anatomy) = (model.graph(), model.anatomy());
    let settled = settle(&LossRequest::default(), task, model.beside(), graph, anatomy)?;
    let own = match &settled.objective {
        Objective::Formula(formula) if !formula.outputs.is_empty() => {
            Some(formula.outputs.clone()).filter(|ids| ids.iter().all(|&id| graph.is_output(id)))
        }
        // Of a graph that gives probabilities alone, the logits are inside.
        _ => anatomy.head.as_ref().filter(|head| head.output == head.logits || graph.is_output(head.logits)).map(|head| vec![head.logits]),
    };
    let named = |ids: Vec<crate::ir::ValueId>| ids.into_iter().map(|id| graph.value_name(id).to_owned()).collect();
    if let Some((ids, file)) = own.zip(model.file()) {
        return Ok((Runnable::from(file), named(ids)));
    }
    let reads = task.row().reads;
    let answering = prediction::of_model(graph, anatomy, &settled.objective, reads)?;
    let names = answering.outputs().iter().map(|&id| answering.value_name(id).to_owned()).collect();
    Ok((Runnable::of(&answering, model.name())?, names))
}

/// Refuses a teacher that is fed with its student's tokens and beside which other ones lie, where both have a tokenizer.
fn same_tokens(student: &Path, teacher: &Path) -> Result<()> {
    let (Some(own), Some(of_teacher)) = (Tokenizer::beside(student)?, Tokenizer::beside(teacher)?) else { return Ok(()) };
    let both = own.vocabulary_size().min(of_teacher.vocabulary_size());
    let mut tokens = (0..both).filter_map(|id| i32::try_from(id).ok()).map(|id| (id, own.token(id), of_teacher.token(id)));
    match tokens.find(|(_, own, of_teacher)| own.is_some() && of_teacher.is_some() && own != of_teacher) {
        Some((id, Some(own), Some(found))) => {
            let error = Error::mismatch(
                format!("the teacher's token {id}"),
                format!("{own:?}, as the model's tokenizer has"),
                format!("{found:?}"),
            );
            let hint = "the same tokens must have the same numbers in both: take a teacher of the same family";
            Err(error.with_hint(hint)).in_file(teacher)
        }
        _ => Ok(()),
    }
}

/// A teacher that knows other classes than its student.
fn other_classes(wanted: usize, found: usize) -> Error {
    let error = Error::mismatch("the teacher's classes", format!("{wanted}, as the model has"), found);
    error.with_hint("a teacher gives a number for each of the student's classes, or tokens, in the same order")
}
