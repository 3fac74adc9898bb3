//! What a file that sees pictures gives stands at the places of the token that stands for pictures.

use serde_json::Value;

use super::{File, Join, Link};
use crate::ir::{DType, Expr, Fact, Graph};
use crate::model::{Beside, declared};
use crate::{Error, Result};

/// What configurations call the number of the token that stands for pictures.
const TOKENS: &[&str] = &["image_token_id", "image_token_index"];

/// The number of the token that stands for pictures, where `config.json` says it.
pub(super) fn token(beside: &Beside) -> Result<Option<i64>> {
    let config = beside.json(declared::CONFIG)?.unwrap_or_default();
    Ok(TOKENS.iter().find_map(|name| config.get(name).and_then(Value::as_i64)))
}

/// The join that is meant where a part gives vectors as wide as those of tokens that another part fills an input with, and fills nothing by its names.
///
/// # Errors
/// Several such inputs or outputs; no token that tells the places.
pub(super) fn implied(files: &[File<'_>], links: &[Vec<Link>], token: Option<i64>) -> Result<Option<Join>> {
    let is_read = |part: usize| links.iter().flatten().any(|link| link.reads(part));
    let Some((part, seen)) = files.iter().enumerate().skip(1).find(|(part, file)| !is_read(*part) && sees(&file.graph)) else {
        return Ok(None);
    };
    let embedded = |reader: usize| {
        let of_tokens = move |link: &&Link| tokens(&files[link.from].graph).is_some();
        links[reader]
            .iter()
            .filter(of_tokens)
            .filter_map(move |link| Some((link.input.as_str(), width(&files[reader].graph, &link.input)?)))
    };
    let inputs: Vec<(&str, i64)> = (0..files.len()).flat_map(embedded).collect();
    let graph = &seen.graph;
    let outputs = graph.outputs().iter().filter_map(|&id| Some((graph.value_name(id), wide(graph.fact(id))?)));
    let fitting: Vec<(&str, &str)> = outputs
        .flat_map(|(output, width)| inputs.iter().filter(move |(_, wanted)| *wanted == width).map(move |(input, _)| (output, *input)))
        .collect();
    let (output, input) = match fitting[..] {
        [] => return Ok(None),
        [only] => only,
        _ => {
            let found = fitting.iter().map(|(output, input)| format!("{output} in {input}")).collect::<Vec<_>>().join(", ");
            let error = Error::mismatch("ways in which pictures go to where tokens are", "one", found).in_file(seen.path);
            return Err(error.with_hint("say which with `join OUTPUT=INPUT@TOKEN`, the number of the token that stands for pictures"));
        }
    };
    let Some(token) = token else {
        let error = Error::not_found("number", TOKENS[0]).in_file(files[0].path);
        return Err(error.with_hint(format!(
            "config.json beside the model says at which token's places {output} of {} stands; else `join {output}={input}@TOKEN` does",
            files[part].path.display()
        )));
    };
    Ok(Some(Join { output: output.to_owned(), input: input.to_owned(), at: Some(token) }))
}

/// Whether a graph is fed with numbers of three axes or more, as pictures are.
fn sees(graph: &Graph) -> bool {
    let is_picture = |fact: &Fact| fact.dtype.is_some_and(DType::is_float) && fact.rank().is_some_and(|rank| rank >= 4);
    graph.data_inputs().any(|id| is_picture(graph.fact(id)))
}

/// The input of a graph that takes tokens.
pub(super) fn tokens(graph: &Graph) -> Option<&str> {
    let is_tokens = |fact: &Fact| fact.dtype.is_some_and(|dtype| !dtype.is_float()) && fact.rank() == Some(2);
    let mut found = graph.data_inputs().filter(|&id| is_tokens(graph.fact(id))).map(|id| graph.value_name(id));
    found.next().filter(|_| found.next().is_none())
}

/// The last length of vectors, if they are floats of two axes or more.
fn wide(fact: &Fact) -> Option<i64> {
    let shape = fact.shape.as_deref().filter(|shape| shape.len() >= 2 && fact.dtype.is_some_and(DType::is_float))?;
    shape.last()?.as_known()
}

fn width(graph: &Graph, input: &str) -> Option<i64> {
    wide(graph.fact(graph.find(input)?))
}

/// `embedded`, `[batch, seq, hidden]`, with the rows of `features` at the places of a token in `tokens`, `[batch, seq]`, one behind the other, as
/// transformers puts them there (`masked_scatter`).
pub(super) fn placed<'g>(embedded: Expr<'g>, features: Expr<'g>, tokens: Expr<'g>, token: i64) -> Expr<'g> {
    let b = embedded.b();
    b.scoped("pictures", || {
        let is_picture = tokens.cast(DType::I64).equal(b.int(token));
        let places = is_picture.cast(DType::I64).reshape(&[-1]);
        // The row of each, from 1; row 0 has nothing, and stands for all other tokens.
        let numbers = b.op("CumSum", &[places, b.int(0)], &[]) * places;
        let rows = features.cast(embedded.dtype()).rows();
        let nothing = rows.slice(&[0], &[1], &[0]).zeros_like();
        let found = nothing.concat(&[rows], 0).gather(numbers.reshape_like(tokens), 0);
        is_picture.unsqueeze(&[-1]).where_(found, embedded)
    })
}
