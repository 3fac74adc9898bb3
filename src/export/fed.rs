//! Whether data can fill what a model reads, and labels stand beside what it gives.

use crate::adapter::config::Task;
use crate::anatomy::{self, Feeding, Role};
use crate::ir::{DType, Dim};
use crate::model::Base;
use crate::{Error, Result};

/// How the model is fed.
///
/// # Errors
/// An input that no data can fill.
pub(super) fn feeding(base: &Base) -> Result<Feeding> {
    let unfillable = base.anatomy.inputs.roles.iter().find(|(id, role)| {
        let fact = base.graph.fact(*id);
        // A column has a value for each row.
        let is_of_no_row = *role == Role::Column && fact.rank() == Some(0);
        fact.dtype.is_none_or(|dtype| !FED.contains(&dtype)) || fact.rank().is_none() || is_of_no_row
    });
    rows_first(base)?;
    match unfillable {
        None => {
            let feeding = anatomy::feeding(&base.graph, &base.anatomy);
            feeding.check().map(|()| feeding)
        }
        Some(&(id, _)) => {
            let what = format!("the input {} of type {}", base.graph.value_name(id), base.graph.fact(id));
            let error = Error::unsupported(what, "no column of a data file fills it");
            Err(error.with_hint(
                "inputs are tensors of floats, int32, int64 or bool: export the model without this one, or give it a default value",
            ))
        }
    }
}

/// Refuses a model of a fixed number of rows for a task whose rows are several texts each: they are computed together.
pub(super) fn texts_of_a_row_together(feeding: &Feeding, task: Task) -> Result<()> {
    let Some(rows) = feeding.rows.filter(|_| task.row().reads.stacks_texts()) else { return Ok(()) };
    let what = format!("{} with a model that computes {rows} rows at a time", task.name());
    let error = Error::unsupported(what, "the texts of a row stand below each other in one batch, whose length must be free");
    Err(error.with_hint("export the model with a free batch axis (`dynamic_axes`, `dynamic_shapes`)"))
}

/// Refuses a model whose tokens stand in columns: each row of a batch is a row of its inputs.
fn rows_first(base: &Base) -> Result<()> {
    let tokens = base.anatomy.inputs.roles.iter().find(|(_, role)| *role == Role::InputIds).map(|(id, _)| *id);
    let Some((id, [first, second])) = tokens.and_then(|id| Some((id, <&[Dim; 2]>::try_from(base.graph.fact(id).shape.as_deref()?).ok()?)))
    else {
        return Ok(());
    };
    let called = |dim: &Dim, words: &[&str]| words.iter().any(|word| dim.to_string().to_lowercase().contains(word));
    let (is_length, is_batch) = (called(first, &["seq", "len", "time", "token"]), called(second, &["batch"]));
    if !(is_length && is_batch) || called(first, &["batch"]) {
        return Ok(());
    }
    let error = Error::unsupported(
        format!("the input {} of shape {}", base.graph.value_name(id), base.graph.fact(id)),
        "its second axis is the batch, and rows are fed along the first",
    );
    Err(error.with_hint("export the model with the batch first (`batch_first=True`), or with a Transpose behind the input"))
}

/// A number of tokens to try lengths with.
const SOME: i64 = 61;

/// Refuses a language model that gives logits of other positions than those of its tokens.
pub(super) fn logits_of_all_tokens(base: &Base, task: Task) -> Result<()> {
    let tokens = base.anatomy.inputs.roles.iter().find(|(_, role)| *role == Role::InputIds).map(|(id, _)| *id);
    let Some((head, tokens)) = base.anatomy.head.as_ref().zip(tokens).filter(|_| matches!(task, Task::CausalLm | Task::MaskedLm)) else {
        return Ok(());
    };
    let shape = |id| base.graph.fact(id).shape.as_deref();
    let (Some([_, given, _]), Some([_, read])) = (shape(head.output), shape(tokens)) else { return Ok(()) };
    // Lengths that have names of their own may be equal; what is computed from the number of tokens is computed for one.
    let length = |dim: &Dim| dim.substitute(|_| Some(Dim::known(SOME))).as_known();
    if length(given) == length(read) || length(given).is_none() {
        return Ok(());
    }
    let (name, found) = (base.graph.value_name(head.output), format!("{given} for {read} tokens"));
    let error = Error::mismatch(format!("positions of {name}"), "one for each token", found);
    Err(error.with_hint("export the model so that it gives logits at every position (without `logits_to_keep`, without a cut)"))
}

/// Types of inputs that can be fed.
const FED: &[DType] = &[DType::F32, DType::F64, DType::F16, DType::BF16, DType::I64, DType::I32, DType::Bool];
