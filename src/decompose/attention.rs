//! Attention decomposed, and the operator that attends after projections.

use super::{Fused, Outputs, known};
use crate::error::Refusal;
use crate::ir::{DType, Expr};

/// Queries, keys and values, and what happens to their scores.
pub(super) struct Attend<'g> {
    /// `[batch, heads, seq, size]`
    pub(super) q: Expr<'g>,
    /// `[batch, kv heads, keys, size]`: the past, then the new ones.
    pub(super) k: Expr<'g>,
    /// `[batch, kv heads, keys, size]`
    pub(super) v: Expr<'g>,
    /// What scores are multiplied with; `1/√size` where it is not given.
    pub(super) scale: Option<f64>,
    /// Scores are kept within this, if it is not 0: `c · tanh(s / c)`.
    pub(super) softcap: f64,
    /// Added to the scores, `[batch or 1, heads or 1, seq or 1, keys]`.
    pub(super) masks: Vec<Expr<'g>>,
    /// A score beside those of the keys that takes its share and gives nothing: `[1, heads or 1, 1, 1]`.
    pub(super) sink: Option<Expr<'g>>,
}

impl<'g> Attend<'g> {
    /// `softmax(α q kᵀ + masks) · v`, the heads joined: `[batch, seq, heads · size]`.
    pub(super) fn joined(self) -> Result<Expr<'g>, Refusal> {
        let size = known(self.q, -1, "the size of a head")?;
        let scale = self.scale.map_or_else(|| i32::try_from(size).map(|n| f64::from(n).sqrt().recip()).map_err(|e| e.to_string()), Ok)?;
        let groups = known(self.q, 1, "the number of heads")? / known(self.k, 1, "the number of key heads")?.max(1);
        let (k, v) = (repeated(self.k, groups), repeated(self.v, groups));
        let mut scores = self.q.matmul(k.t()) * scale;
        if self.softcap > 0.0 {
            scores = (scores / self.softcap).tanh() * self.softcap;
        }
        for mask in self.masks {
            scores = scores + mask;
        }
        let shares = match self.sink {
            None => scores.softmax(-1),
            Some(sink) => {
                let column = scores.slice(&[0], &[1], &[-1]);
                let sink = (column * 0.0) + sink;
                sink.concat(&[scores], -1).softmax(-1).slice(&[1], &[i64::MAX], &[-1])
            }
        };
        let y = shares.matmul(v).transpose(&[0, 2, 1, 3]);
        Ok(y.b().op("Reshape", &[y, y.b().ints(&[0, 0, -1])], &[]))
    }

    /// What hides later keys from queries, the last of which stands at the last key; and with a window those too far back.
    ///
    /// `past` is whether there are keys before the first query. A query sees `window` keys, its own among them.
    pub(super) fn causal_mask(&self, window: Option<i64>, past: bool) -> Expr<'g> {
        let b = self.q.b();
        let length = |x: Expr<'g>| x.length(2).squeeze(&[0]);
        let end = length(self.k);
        let keys = end.range_from(b.int(0)).unsqueeze(&[0]);
        let start = if past { end - length(self.q) } else { b.int(0) };
        let queries = if past { end } else { length(self.q) }.range_from(start).unsqueeze(&[1]);
        let mut seen = queries.greater_or_equal(keys);
        if let Some(window) = window {
            seen = seen.and((queries - b.int(window)).less(keys));
        }
        added(seen, self.q.dtype(), lowest(self.q.dtype()))
    }
}

/// 0 where a key is seen, `hidden` where it is not.
pub(super) fn added(seen: Expr<'_>, dtype: DType, hidden: f64) -> Expr<'_> {
    let b = seen.b();
    seen.where_(b.number(0.0, dtype), b.number(hidden, dtype))
}

/// The number below all others of a type.
fn lowest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => -65504.0,
        // The nearest bfloat16 above float32's.
        DType::BF16 => -3.389_531_389_251_535_5e38,
        _ => f64::from(f32::MIN),
    }
}

/// `[batch, seq, heads · size]` to `[batch, heads, seq, size]`.
pub(super) fn split_heads(x: Expr<'_>, heads: i64) -> Expr<'_> {
    x.b().op("Reshape", &[x, x.b().ints(&[0, 0, heads, -1])], &[]).transpose(&[0, 2, 1, 3])
}

/// `[batch, heads, ..]` with each head `times` times.
fn repeated(heads: Expr<'_>, times: i64) -> Expr<'_> {
    if times <= 1 {
        return heads;
    }
    let b = heads.b();
    let many = heads.unsqueeze(&[2]).expand(b.ints(&[1, 1, times, 1, 1]));
    let (Some(all), Some(size)) = (heads.dim(1).as_known(), heads.dim(3).as_known()) else { return heads };
    b.op("Reshape", &[many, b.ints(&[0, all * times, -1, size])], &[])
}

/// Inputs: query, key, value, bias, mask of keys, bias of scores, past key, past value. Outputs: `y`, present key, present value.
///
/// Query is `[batch, seq, hidden]`, or `[batch, seq, heads, 3, size]` with key and value in it; key may be `[batch, keys, heads, 2, size]`
/// with the value in it; key and value may be split into heads already.
pub(super) fn multi_head<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    f.refuse_inputs(&[8, 9])?;
    let heads = f.count("num_heads")?;
    let [q, k, v] = operands(f, heads)?;
    let with_past = |new: Expr<'g>, past: usize| f.given(past).map_or(new, |past| past.concat(&[new], 2));
    let (k, v) = (with_past(k, 6), with_past(v, 7));
    let mut a = Attend { q, k, v, scale: scale(f), softcap: 0.0, masks: vec![], sink: None };
    a.masks.extend(f.given(4).map(|mask| key_mask(f, mask, k)).transpose()?);
    if f.int("unidirectional", 0) != 0 {
        a.masks.push(a.causal_mask(None, f.given(6).is_some()));
    }
    a.masks.extend(f.given(5));
    Ok(vec![Some(a.joined()?), Some(k), Some(v)])
}

/// The attribute `scale`, of which 0 means that it is not given.
pub(super) fn scale(f: &Fused<'_>) -> Option<f64> {
    Some(f.float("scale", 0.0)).filter(|&scale| scale != 0.0)
}

/// Query, key and value with their biases, heads apart.
fn operands<'g>(f: &Fused<'g>, heads: i64) -> Result<[Expr<'g>; 3], Refusal> {
    let rank = |x: Expr<'g>| x.dims().map(|dims| dims.len()).ok_or("the rank of an operand is not known");
    let part = |packed: Expr<'g>, at: i64| packed.gather(packed.b().int(at), 3);
    let query = f.x(0)?;
    // Each `[batch, length, heads · size]`, or `[batch, length, heads, size]` if `apart`, or split into heads already.
    let (parts, is_split) = match (rank(query)?, f.given(1), f.given(2)) {
        (5, None, None) => ([part(query, 0), part(query, 1), part(query, 2)], false),
        (3, Some(key), None) if rank(key)? == 5 => ([query, part(key, 0), part(key, 1)], false),
        (3, Some(key), Some(value)) => ([query, key, value], rank(key)? == 4),
        _ => return Err("the layout of query, key and value is not known".into()),
    };
    let biases = match f.given(3) {
        None => [None; 3],
        Some(bias) => {
            let size = known(query, -1, "the number of hidden units")? * if rank(query)? == 5 { heads } else { 1 };
            let all = known(bias, 0, "the length of the bias")?;
            let parts = bias.split(&[size, size, all - 2 * size], 0);
            [Some(parts[0]), Some(parts[1]), Some(parts[2])]
        }
    };
    let apart = |x: Expr<'g>, bias: Option<Expr<'g>>, is_split: bool| match (is_split, x.rank()) {
        (true, _) => bias.map_or(Ok(x), |_| Err("with a bias on keys that are split into heads".to_owned())),
        (_, 4) => Ok(bias.map_or(x, |bias| x + x.b().op("Reshape", &[bias, x.b().ints(&[heads, -1])], &[])).transpose(&[0, 2, 1, 3])),
        _ => Ok(split_heads(bias.map_or(x, |bias| x + bias), heads)),
    };
    let [q, k, v] = parts;
    Ok([apart(q, biases[0], false)?, apart(k, biases[1], is_split)?, apart(v, biases[2], is_split)?])
}

/// A mask of whole numbers as what is added to scores: lengths `[batch]`, or 1 where a key is seen, `[batch, keys]` or `[batch, seq, keys]`.
pub(super) fn key_mask<'g>(f: &Fused<'g>, mask: Expr<'g>, keys: Expr<'g>) -> Result<Expr<'g>, Refusal> {
    let dims = mask.dims().ok_or("the form of its mask is not known")?;
    let seen = match dims.len() {
        1 if dims[0] == keys.dim(0) => {
            let places = keys.length(2).squeeze(&[0]).range_from(f.b.int(0)).unsqueeze(&[0]);
            places.less(mask.cast(DType::I64).unsqueeze(&[1])).unsqueeze(&[1, 2])
        }
        2 => mask.greater(mask.same_type(0.0)).unsqueeze(&[1, 2]),
        3 => mask.greater(mask.same_type(0.0)).unsqueeze(&[1]),
        _ => return Err("with a mask that is neither lengths nor one number for each key".into()),
    };
    Ok(added(seen, keys.dtype(), f.float("mask_filter_value", -10000.0)))
}
