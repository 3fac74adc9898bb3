//! A teacher as a model: its logits for every row, computed once, as if they stood in the data.

use std::path::PathBuf;

use crate::anatomy;
use crate::data::{Batches, Collation, Dataset, Numbers, Order};
use crate::error::{Context, Error, Result};
use crate::export::Bundle;
use crate::model::Model;
use crate::ort::{Device, Purpose, Runtime, Session, Settings};
use crate::train::formula::TEACHER_LOGITS;

/// Rows that the teacher runs on at a time.
const ROWS: usize = 8;

/// Writes the teacher's logits into rows that do not have them, if the bundle's loss has a teacher.
///
/// # Errors
/// A teacher that is not there, that does not take the rows, or that gives other logits than the model learns from.
pub fn fill(runtime: &Runtime, bundle: &Bundle, device: Device, collation: &Collation, dataset: &mut Dataset) -> Result<()> {
    let manifest = bundle.manifest();
    let Some(teacher) = &manifest.loss.teacher else { return Ok(()) };
    if dataset.examples.iter().all(|example| example.columns.contains_key(TEACHER_LOGITS)) {
        return Ok(());
    }
    let path: PathBuf = bundle.folder().join(teacher);
    let teacher = Model::open(&path).hint("the teacher that `inject --teacher` named must stay where it was: inject again if it moved")?;
    let settings = Settings { device, purpose: Purpose::Inference, ..Settings::default() };
    let mut session = Session::open(runtime, path.as_path(), &settings)?;
    let head = teacher.anatomy().head.as_ref().ok_or_else(|| Error::not_found("output", "logits")).in_file(&path)?;
    let logits = teacher.graph().value_name(head.output).to_owned();
    let collation = Collation { feeding: anatomy::feeding(teacher.graph(), teacher.anatomy()), ..collation.clone() };
    let rows = if collation.parts_batches(dataset, ROWS) { 1 } else { ROWS };
    let mut found = vec![];
    {
        let mut batches = Batches::new(dataset, session.inputs(), rows, Order::File, collation)?;
        for _ in 0..batches.per_epoch() {
            let batch = batches.next_batch()?;
            let scores = session.run(&batch.feeds(), &[&logits])?.remove(0);
            let (shape, values) = (scores.shape().to_vec(), scores.to_f32()?);
            let Some((&count, rest)) = shape.split_first() else {
                return Err(Error::mismatch("axes of the teacher's logits", "2 or 3", 0)).in_file(&path);
            };
            let size = values.len() / count.max(1);
            for (at, row) in batch.rows.iter().enumerate() {
                let own = &values[at * size..(at + 1) * size];
                // Of a teacher of tokens, what it says of padding is left out.
                let (shape, kept) = match rest {
                    [positions, classes] => {
                        let positions = row.input_ids.len().min(*positions);
                        (vec![positions, *classes], &own[..positions * classes])
                    }
                    _ => (rest.to_vec(), own),
                };
                found.push(Numbers { shape, values: kept.iter().copied().map(f64::from).collect() });
            }
        }
    }
    let wanted = manifest.classes.and_then(|classes| usize::try_from(classes).ok());
    for (example, numbers) in dataset.examples.iter_mut().zip(found) {
        let classes = numbers.shape.last().copied();
        if wanted.is_some() && classes != wanted {
            let expected = format!("{}, as the model has", wanted.unwrap_or_default());
            return Err(Error::mismatch("the teacher's classes", expected, classes.unwrap_or_default())).in_file(&path);
        }
        example.columns.entry(TEACHER_LOGITS.to_owned()).or_insert(numbers);
    }
    Ok(())
}
