//! Grouped-query attention.

use super::attention::{Attend, scale};
use super::rotary::Rotation;
use super::{Fused, Outputs, known};
use crate::error::Refusal;
use crate::ir::Expr;

/// Lengths of what a packed query holds.
struct Sizes {
    heads: i64,
    kv_heads: i64,
    size: i64,
}

impl Sizes {
    fn of(f: &Fused<'_>) -> Result<Self, Refusal> {
        let (heads, kv_heads) = (f.count("num_heads")?, f.count("kv_num_heads")?);
        let all = if f.given(1).is_some() { heads } else { heads + 2 * kv_heads };
        Ok(Self { heads, kv_heads, size: known(f.x(0)?, -1, "the length of the query")? / all })
    }

    /// Query, key and value, side by side or each for itself.
    fn parts<'g>(&self, f: &Fused<'g>) -> Result<[Expr<'g>; 3], Refusal> {
        if let Some(key) = f.given(1) {
            return Ok([f.x(0)?, key, f.x(2)?]);
        }
        let (query, key) = (self.heads * self.size, self.kv_heads * self.size);
        let parts = f.x(0)?.split(&[query, key, key], -1);
        Ok([parts[0], parts[1], parts[2]])
    }
}

/// Inputs: query, key, value, past key, past value, lengths less one, longest length, cosines, sines, positions, bias of scores, sinks.
/// Outputs: `y`, present key, present value.
///
/// Always causal. Rows are padded at their ends, where later keys are hidden anyway, so that lengths have no part in it.
pub(super) fn attention<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    f.refuse_inputs(&[12, 13, 14, 15])?;
    f.refuse_attrs(&["kv_cache_bit_width", "qk_output"])?;
    let sizes = Sizes::of(f)?;
    let parts = sizes.parts(f)?;
    let b = f.b;
    let apart = |x: Expr<'g>, heads: i64| b.op("Reshape", &[x, b.ints(&[0, 0, heads, sizes.size])], &[]);
    let [q, k, v] = [apart(parts[0], sizes.heads), apart(parts[1], sizes.kv_heads), apart(parts[2], sizes.kv_heads)];
    let (q, k) = match rotation(f)? {
        Some(rotation) => {
            let positions = positions(f, q);
            (rotation.rotate(q, positions, 2)?, rotation.rotate(k, positions, 2)?)
        }
        None => (q, k),
    };
    let heads_first = |x: Expr<'g>| x.transpose(&[0, 2, 1, 3]);
    let with_past = |new: Expr<'g>, past: usize| f.given(past).map_or(new, |past| past.concat(&[new], 2));
    let (k, v) = (with_past(heads_first(k), 3), with_past(heads_first(v), 4));
    let softcap = f.float("softcap", 0.0);
    let sink = match f.given(11) {
        Some(sink) => Some(sink.reshape(&[1, sizes.heads, 1, 1])),
        None if f.int("smooth_softmax", 0) > 0 => Some(b.number(0.0, q.dtype()).reshape(&[1, 1, 1, 1])),
        None => None,
    };
    let mut a = Attend { q: heads_first(q), k, v, scale: scale(f), softcap, masks: vec![], sink };
    let window = Some(f.int("local_window_size", -1)).filter(|&window| window > 0);
    a.masks.push(a.causal_mask(window, f.given(3).is_some()));
    a.masks.extend(f.given(10));
    Ok(vec![Some(a.joined()?), Some(k), Some(v)])
}

fn rotation<'g>(f: &Fused<'g>) -> Result<Option<Rotation<'g>>, Refusal> {
    if f.int("do_rotary", 0) == 0 {
        return Ok(None);
    }
    Ok(Some(Rotation { cos: f.x(7)?, sin: f.x(8)?, interleaved: f.int("rotary_interleaved", 0) != 0 }))
}

/// Those given, else those behind the past: `[batch or 1, seq]`.
fn positions<'g>(f: &Fused<'g>, q: Expr<'g>) -> Expr<'g> {
    let seq = q.length(1).squeeze(&[0]);
    f.given(9).unwrap_or_else(|| {
        let first = f.given(3).map_or(f.b.int(0), |past| past.length(2).squeeze(&[0]));
        (first + seq).range_from(first).unsqueeze(&[0])
    })
}

/// The same operator with query, key and value apart.
pub(super) fn separate<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    if f.given(1).is_some() {
        return Err("query, key and value are apart already".into());
    }
    let parts = Sizes::of(f)?.parts(f)?;
    let mut inputs: Vec<Option<Expr<'g>>> = (0..f.node.inputs.len().max(3)).map(|input| f.given(input)).collect();
    for (input, part) in inputs.iter_mut().zip(parts) {
        *input = Some(part);
    }
    let attrs: Vec<(&str, crate::ir::Attr)> = f.node.attrs.iter().map(|(name, attr)| (&**name, attr.clone())).collect();
    let outputs = f.b.op_n(&f.node.op, &inputs, &attrs, f.node.outputs.len());
    Ok(outputs.into_iter().map(Some).collect())
}
