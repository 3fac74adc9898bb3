//! Whether data can fill what a model reads, and labels stand beside what it gives.

use crate::adapter::config::Task;
use crate::anatomy::{self, Feeding, Role};
use crate::ir::{DType, Dim, Graph, ValueId};
use crate::model::Base;
use crate::num;
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
    tokens_in_rows(base)?;
    rows_first(base)?;
    columns_of_rows(base)?;
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

/// Refuses a model whose tokens are not `[batch, seq]`, or stand in one input with something else.
fn tokens_in_rows(base: &Base) -> Result<()> {
    let graph = &base.graph;
    for &(id, role) in &base.anatomy.inputs.roles {
        let rank = graph.fact(id).rank();
        let is_tokens = matches!(role, Role::InputIds | Role::DecoderInputIds);
        if is_tokens && rank.is_some_and(|rank| rank != 2) {
            let what = format!("tokens of shape {}, the input {}", graph.fact(id), graph.value_name(id));
            let error = Error::unsupported(what, "a row of data is one row of tokens: [batch, seq]");
            return Err(error.with_hint(
                "export the model with tokens of [batch, seq]; a choice of several texts (multiple choice) is one row for each text",
            ));
        }
        let is_mask = matches!(role, Role::AttentionMask(_) | Role::EncoderAttentionMask(_) | Role::DecoderAttentionMask(_));
        if let Some(table) = base.anatomy.embeddings.iter().find(|table| is_mask && is_moved_to(graph, id, table.indices)) {
            let what = format!("the input {} of shape {}", graph.value_name(id), graph.fact(id));
            let error =
                Error::unsupported(what, format!("it has the numbers that {} is looked up by, and a mask beside them", table.module));
            return Err(error.with_hint("export the model with an input for the tokens and one for the mask"));
        }
    }
    Ok(())
}

/// Whether a value is made of an input by nothing but moving its numbers.
fn is_moved_to(graph: &Graph, input: ValueId, value: ValueId) -> bool {
    const MOVING: &[&str] = &["Cast", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"];
    let mut at = value;
    while at != input {
        let maker = graph.producer(at).map(|node| graph.node(node)).filter(|node| MOVING.contains(&&*node.op));
        let Some(from) = maker.and_then(|node| node.input(0)) else { return false };
        at = from;
    }
    true
}

/// Refuses an input that has no value for each row, where the number of rows is free.
fn columns_of_rows(base: &Base) -> Result<()> {
    let first = |id: ValueId| base.graph.fact(id).shape.as_deref().and_then(|shape| shape.first().cloned());
    let is_free = base.anatomy.inputs.main.and_then(first).is_some_and(|rows| rows.as_known().is_none());
    let columns = base.anatomy.inputs.roles.iter().filter(|(_, role)| is_free && *role == Role::Column);
    let mut fixed = columns.filter_map(|(id, _)| Some((*id, first(*id)?.as_known()?)));
    let Some((id, rows)) = fixed.next() else { return Ok(()) };
    let what = format!("the input {} of type {}", base.graph.value_name(id), base.graph.fact(id));
    let error = Error::unsupported(
        what,
        format!("a column of the data has a value for each row, and its first axis is {rows}, whatever the batch"),
    );
    Err(error.with_hint("export the model without this input, or give it a default value"))
}

/// Refuses a model whose tokens stand in columns: each row of a batch is a row of its inputs.
fn rows_first(base: &Base) -> Result<()> {
    let tokens = base.anatomy.inputs.roles.iter().find(|(_, role)| *role == Role::InputIds).map(|(id, _)| *id);
    let Some((id, [first, second])) = tokens.and_then(|id| Some((id, <&[Dim; 2]>::try_from(base.graph.fact(id).shape.as_deref()?).ok()?)))
    else {
        return Ok(());
    };
    let others = base
        .anatomy
        .inputs
        .roles
        .iter()
        .filter(|(other, role)| *other != id && matches!(role, Role::AttentionMask(_) | Role::TokenTypeIds));
    let is_turned = |other: ValueId| {
        let shape = base.graph.fact(other).shape.as_deref();
        matches!(shape, Some([one, two]) if one == second && two == first) && first != second && first.as_known().is_none()
    };
    let turned = others.map(|(other, _)| *other).find(|&other| is_turned(other));
    let called = |dim: &Dim, words: &[&str]| words.iter().any(|word| dim.to_string().to_lowercase().contains(word));
    let (is_length, is_batch) = (called(first, &["seq", "len", "time", "token"]), called(second, &["batch"]));
    if let Some(other) = turned {
        let name = |id| format!("{} {}", base.graph.value_name(id), base.graph.fact(id));
        let error = Error::unsupported(
            format!("inputs with the batch first and the batch behind it: {} and {}", name(id), name(other)),
            "rows are fed along the first axis",
        );
        return Err(
            error.with_hint("export the model with the batch first everywhere (`batch_first=True`), or with a Transpose behind the input")
        );
    }
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
pub(super) fn logits_of_all_tokens(base: &Base, feeding: &Feeding, task: Task) -> Result<()> {
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
    // A graph that computes with one number of tokens gives as many logits.
    if feeding.length.map(num::int) == length(given) {
        return Ok(());
    }
    let (name, found) = (base.graph.value_name(head.output), format!("{given} for {read} tokens"));
    let error = Error::mismatch(format!("positions of {name}"), "one for each token", found);
    Err(error.with_hint("export the model so that it gives logits at every position (without `logits_to_keep`, without a cut)"))
}

/// Types of inputs that can be fed.
const FED: &[DType] = &[DType::F32, DType::F64, DType::F16, DType::BF16, DType::I64, DType::I32, DType::Bool];
