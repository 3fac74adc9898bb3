//! Prefixes that start from a text: the base reads it once, and the keys and values that it has for the text's tokens are the prefix.

use crate::adapter::config::Task;
use crate::adapter::methods::prefix::of_text as prefix_of_text;
use crate::anatomy;
use crate::data::{Batches, Collation, Dataset, Example, Labels, Order};
use crate::error::{Context, Error, Result};
use crate::ir::Tensor;
use crate::model::Model;
use crate::onnx::Runnable;
use crate::ort::{Purpose, Runtime, Session, Settings};

/// The rows `[tokens, layers · 2 · heads · size]` of a prefix of these tokens.
///
/// # Errors
/// Keys and values that were not recognised; an input that it is not known what to feed with.
pub fn rows(runtime: &Runtime, model: &Model, tokens: &[i32]) -> Result<Tensor> {
    let name = model.name();
    let graph = prefix_of_text(model.graph(), model.anatomy()).in_file(name)?;
    let mut session =
        Session::open(runtime, Runnable::of(&graph, name)?, &Settings { purpose: Purpose::Inference, ..Settings::default() })?;
    let collation = Collation { feeding: anatomy::feeding(model.graph(), model.anatomy()), ..Collation::default() };
    let example = Example { line: 1, input_ids: tokens.to_vec(), labels: Labels::Tokens(tokens.to_vec()), ..Example::default() };
    let dataset = Dataset::of(name, Task::CausalLm, vec![example]);
    let batch = Batches::new(&dataset, session.inputs(), 1, Order::File, collation)?.next_batch()?;
    let found = session.run(&batch.feeds(), &["rows"]).in_file(name)?;
    let found = found.first().ok_or_else(|| Error::not_found("output", "rows"))?;
    Ok(Tensor::from_f32(found.shape(), &found.to_f32()?))
}
