//! Tokens that stand for pictures: where their vectors are replaced by what the graph sees of a picture, and how many there are of each.
//!
//! ```text
//! input_ids → Equal (a number) ─────────────→ Where → the layers
//! pixel_values → .. → rows → Gather (which) ──↗  ↖── vectors of tokens
//! ```

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ir::{Builder, Dim, Graph, ValueId};

use super::images::image_size;
use super::walk::{Found, NodeRef};
use super::{Anatomy, Role};

/// The token that stands for a part of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureTokens {
    /// Its number.
    pub token: i64,
    /// How many there are of each picture, where the graph tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<usize>,
}

/// Where pictures stand in a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pictures {
    /// The token that stands for them.
    token: i64,
    /// The vectors of all tokens.
    output: ValueId,
    /// The same before pictures were put among them.
    embedded: ValueId,
    /// What is seen of pictures, `[.., hidden]`.
    features: ValueId,
}

/// Operators that change the form of a choice.
const FORM: &[&str] = &["Cast", "Expand", "Identity", "Reshape", "Unsqueeze"];

/// Where pictures stand among the tokens; none where they do not.
pub(super) fn find(graph: &Graph, anatomy: &Anatomy) -> Option<Pictures> {
    pixels(anatomy)?;
    all(graph).find(|(_, tokens)| Some(*tokens) == anatomy.inputs.main).map(|(found, _)| found)
}

/// Every place of pictures, and the tokens that tell it.
fn all(graph: &Graph) -> impl Iterator<Item = (Pictures, ValueId)> {
    graph.node_ids().filter_map(|(id, _)| placed(NodeRef::new(graph, id)).ok())
}

/// The graph in which no picture stands among the tokens: what runs on those behind a picture, once that is in the cache. None where none does.
///
/// # Errors
/// Nodes that do not go together.
pub fn without(graph: &Graph, token: i64) -> Result<Option<Graph>> {
    let Some((found, _)) = all(graph).find(|(found, _)| found.token == token) else { return Ok(None) };
    let b = Builder::on(graph);
    b.rewire(b.expr(found.output), |_| b.expr(found.embedded));
    b.finish().map(Some)
}

fn placed(node: NodeRef<'_>) -> Found<(Pictures, ValueId)> {
    if !node.is(&["Where"]) {
        return Err(node.miss("a choice between tokens and pictures"));
    }
    let equal = node.input(0)?.behind(FORM).from(&["Equal"])?;
    let (one, other) = (equal.input(0)?, equal.input(1)?);
    let (tokens, number) = if other.number().is_some() { (one, other) } else { (other, one) };
    let token = number.number().and_then(whole).ok_or_else(|| number.miss("the number of a token"))?;
    let rows = node.input(1)?.from(&["Gather"])?.input(0)?;
    let features = match rows.from(&["Concat"]) {
        Ok(concat) => concat.inputs().last().unwrap_or(rows),
        Err(_) => rows,
    };
    let pictures = Pictures {
        token,
        output: node.output(0)?.id(),
        embedded: node.input(2)?.id(),
        features: features.behind(&["Cast", "Identity", "Reshape"]).id(),
    };
    Ok((pictures, tokens.behind(FORM).id()))
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "a whole number that a float64 tells from the next")]
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

/// The input that takes pictures.
fn pixels(anatomy: &Anatomy) -> Option<ValueId> {
    anatomy.inputs.roles.iter().find(|(_, role)| *role == Role::PixelValues).map(|(id, _)| *id)
}

/// The token that stands for pictures and how many there are of each; none for graphs without.
pub(super) fn tokens(graph: &Graph, anatomy: &Anatomy) -> Option<PictureTokens> {
    let found = find(graph, anatomy)?;
    let each = pixels(anatomy).and_then(|pixels| each(graph, pixels, found.features));
    Some(PictureTokens { token: found.token, each })
}

/// How many vectors there are of one picture.
fn each(graph: &Graph, pixels: ValueId, features: ValueId) -> Option<usize> {
    let shape = graph.fact(pixels).shape.clone()?;
    let size = image_size(graph, pixels)?;
    let b = Builder::on(graph);
    let front = shape.len() - size.len();
    let lengths = std::iter::repeat_n(1, front).chain(size);
    for (dim, length) in shape.iter().zip(lengths).filter(|(dim, _)| dim.as_known().is_none()) {
        b.substitute(dim, &Dim::known(length));
    }
    b.infer_again();
    let shape = b.fact(features).shape?;
    let (_, rows) = shape.split_last()?;
    let known: Option<Vec<i64>> = rows.iter().map(Dim::as_known).collect();
    // Where pictures are chosen while the graph runs, their number is open, and the vectors of each are not.
    let count = known.map(|known| known.iter().product()).or_else(|| if let [_, each] = rows { each.as_known() } else { None })?;
    usize::try_from(count).ok().filter(|count| *count > 0)
}
