//! Several rows in one: an optional input says which row each token comes from, and masks keep rows apart.
//!
//! The masks are the graph's own, as anatomy found them. One row of zeros by default: then the masks are what they were.

use std::collections::BTreeSet;

use super::objective::{Model, Objective};
use crate::anatomy::{Anatomy, Mask, Masking, SEGMENTS};
use crate::error::Refusal;
use crate::ir::{Builder, DType, Dim, Expr, Fact, Tensor, ValueId};

/// What hides a key from a query where a mask is subtracted from scores: far above every score, and a number of half precision too.
const LARGE: f64 = 3e4;

/// Why rows cannot be put into one; none if they can.
#[must_use]
pub fn refusal(model: Model<'_>) -> Option<Refusal> {
    let b = Builder::on(model.graph);
    super::cache::close(&b, model.anatomy);
    masks(&b, model).err()
}

/// Adds the input, and keeps segments apart where that can be done.
pub(super) fn write(b: &Builder, model: Model<'_>) {
    let Ok(masks) = masks(b, model) else { return };
    let Some(main) = model.anatomy.inputs.main else { return };
    let segments = match Tensor::from_f64(DType::I64, &[1, 1], &[0.0]) {
        Ok(one) => b.optional_input(SEGMENTS, one),
        Err(error) => return b.fail(error),
    };
    let [rows, length] = ["segment_rows", "segment_length"].map(Dim::symbol);
    b.assume(segments.id(), Fact::new(DType::I64, vec![rows, length]));
    let same = b.scoped("segments", || segments.unsqueeze(&[1, 3]).equal(segments.unsqueeze(&[1, 2])));
    let (batch, seq) = (b.expr(main).dim(0), b.expr(main).dim(1));
    for mask in masks {
        b.rewire(b.expr(mask.value), |value| {
            let dims = value.known_dims();
            let heads = dims.len().checked_sub(3).map_or(Dim::known(1), |at| dims[at].clone());
            let whole = vec![batch.clone(), heads, seq.clone(), seq.clone()];
            let Some(shape) = b.shape(&whole) else { return value };
            b.scoped("segments", || {
                let full = if dims == whole { value } else { value.expand(shape) };
                // The shape is told: to whoever reads the graph, one row of zeros and rows of segments look alike.
                apart(full, mask.kind, same).reshape_to(shape)
            })
        });
    }
}

/// A mask with which a query sees keys of its own segment alone.
fn apart<'g>(mask: Expr<'g>, kind: Masking, same: Expr<'g>) -> Expr<'g> {
    let hidden = match mask.dtype() {
        DType::F16 => -65504.0,
        _ => f64::from(f32::MIN),
    };
    match kind {
        Masking::Added => same.where_(mask, mask.same_type(hidden)),
        Masking::Subtracted => same.where_(mask, mask.same_type(LARGE)),
        Masking::KeptWhere => mask.and(same),
        Masking::MaskedWhere => mask.or(same.logical_not()),
    }
}

/// A mask of each attention, each once.
///
/// # Errors
/// Why segments cannot be kept apart.
fn masks(b: &Builder, model: Model<'_>) -> Result<Vec<Mask>, Refusal> {
    let anatomy = model.anatomy;
    if !matches!(model.objective, Objective::NextToken(_)) || model.hard_prompt.is_some() {
        return Err("only rows of a causal language model, whose tokens are learnt, can follow one another".into());
    }
    if model.virtual_tokens > 0 {
        return Err("virtual tokens stand before each row, and there is one place for them".into());
    }
    if counts_itself(anatomy) {
        let why = "the graph counts positions itself and looks them up in a learned table";
        return Err(format!("{why}; export it with the input position_ids").into());
    }
    let Some(main) = anatomy.inputs.main.filter(|&id| b.fact(id).rank() == Some(2)) else {
        return Err("it has no input of tokens".into());
    };
    let seq = b.expr(main).dim(1);
    let own: Vec<_> = anatomy.attentions.iter().filter(|attention| !attention.cross).collect();
    if own.is_empty() {
        return Err("no attention was recognised".into());
    }
    let (mut found, mut seen) = (vec![], BTreeSet::new());
    for attention in own {
        let is_open = |scores: ValueId| b.fact(scores).rank() == Some(4);
        if !attention.scores.is_none_or(is_open) {
            return Err(format!("the attention {} has batch and heads on one axis", attention.module).into());
        }
        let usable = attention.masks.iter().find(|mask| mask.masked.is_none_or(is_open) && is_usable(&b.fact(mask.value), &seq));
        let mask = usable.ok_or_else(|| format!("the attention {} has no mask of all queries and keys", attention.module))?;
        if seen.insert(mask.value) {
            found.push(*mask);
        }
    }
    Ok(found)
}

/// Whether a mask is of queries and keys, `[(batch or 1, heads or 1, ) queries or 1, keys]`. Heads are a number: an axis that grows with the batch has
/// both on it.
fn is_usable(mask: &Fact, seq: &Dim) -> bool {
    let Some([before @ .., queries, keys]) = mask.shape.as_deref() else { return false };
    let has_own_axes = before.len() <= 2 && before.last().is_none_or(|heads| heads.as_known().is_some());
    has_own_axes && keys == seq && (queries == seq || queries.as_known() == Some(1))
}

/// Whether positions are rows of a learned table that no input tells.
fn counts_itself(anatomy: &Anatomy) -> bool {
    let is_learned = |output: ValueId| anatomy.embeddings.iter().any(|table| table.output == output && !table.is_rotation);
    anatomy.inputs.position_ids.is_none() && anatomy.positions.iter().any(|place| is_learned(place.output))
}
