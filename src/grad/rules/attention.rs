//! Attention-23 and -24, and RotaryEmbedding-23.
//!
//! With `S = α Q Kᵀ`, `P = softmax(S + mask)` along keys and `Y = P V`, the gradients are `dV = Pᵀ dY`, `dP = dY Vᵀ`,
//! `dS = P ⊙ (dP - Σ dY ⊙ Y)`, `dQ = α dS K`, `dK = α dSᵀ Q`. `P` is computed again: no output of the operator holds it in every
//! kernel, and asking for one would keep the forward pass from its fast kernels.

use super::again::with_attrs_of;
use crate::grad::Forward;
use crate::ir::{DType, Expr};

/// `dQ = α dS K`
pub(super) fn attention_q<'g>(f: &Forward<'g>) -> Expr<'g> {
    let Some(a) = Attention::of(f) else { return f.dy };
    joined(f.x[0], a.d_scores().matmul(a.k) * a.scale)
}

/// `dK = α dSᵀ Q`, the part of the keys that are new.
pub(super) fn attention_k<'g>(f: &Forward<'g>) -> Expr<'g> {
    let Some(a) = Attention::of(f) else { return f.dy };
    joined(f.x[1], after_past(f, 4, a.d_keys(f)))
}

/// `dV = Pᵀ dY`, the part of the values that are new.
pub(super) fn attention_v<'g>(f: &Forward<'g>) -> Expr<'g> {
    let Some(a) = Attention::of(f) else { return f.dy };
    joined(f.x[2], after_past(f, 5, a.d_values(f)))
}

/// The gradient of what goes into the softmax.
pub(super) fn attention_mask<'g>(f: &Forward<'g>) -> Expr<'g> {
    Attention::of(f).map_or(f.dy, |a| a.d_biased())
}

/// The part of `dK` that came from the cache.
pub(super) fn attention_past_k<'g>(f: &Forward<'g>) -> Expr<'g> {
    Attention::of(f).map_or(f.dy, |a| past(f, 4, a.d_keys(f)))
}

/// The part of `dV` that came from the cache.
pub(super) fn attention_past_v<'g>(f: &Forward<'g>) -> Expr<'g> {
    Attention::of(f).map_or(f.dy, |a| past(f, 5, a.d_values(f)))
}

/// The rotation by the opposite angle.
pub(super) fn rotary<'g>(f: &Forward<'g>) -> Expr<'g> {
    with_attrs_of(f, &[Some(f.dy), f.x.get(1), f.x.get(2).map(|sin| -sin), f.x.get(3)], 1)[0]
}

fn past<'g>(f: &Forward<'g>, input: usize, d_all: Expr<'g>) -> Expr<'g> {
    d_all.slice_at(f.b().ints(&[0]), f.x[input].length(2), &[2])
}

fn after_past<'g>(f: &Forward<'g>, input: usize, d_all: Expr<'g>) -> Expr<'g> {
    match f.x.get(input) {
        Some(past) => d_all.slice_at(past.length(2), f.b().ints(&[i64::MAX]), &[2]),
        None => d_all,
    }
}

/// The operator decomposed, all of shape `[batch, head, ..]`, keys and values repeated for each query head of their group.
struct Attention<'g> {
    q: Expr<'g>,
    k: Expr<'g>,
    v: Expr<'g>,
    y: Expr<'g>,
    dy: Expr<'g>,
    bias: Option<Expr<'g>>,
    scale: f64,
    softcap: f64,
    heads: Heads,
}

/// How many heads there are, and how long a query is.
struct Heads {
    of_queries: i64,
    of_keys: i64,
    size: i32,
}

impl Heads {
    fn of(f: &Forward<'_>) -> Result<Self, &'static str> {
        if f.x.get(6).is_some() || f.dys.get(3).copied().flatten().is_some() {
            return Err("with nonpad_kv_seqlen, or with respect to its scores");
        }
        let heads = |x: Expr<'_>, attr| if x.rank() == 4 { x.dim(1).as_known() } else { Some(f.int(attr, 0)) };
        let (Some(of_queries @ 1..), Some(of_keys @ 1..)) = (heads(f.x[0], "q_num_heads"), heads(f.x[1], "kv_num_heads")) else {
            return Err("with a number of heads that is known only when the graph runs");
        };
        let size = apart(f.x[0], of_queries).dim(-1).as_known().and_then(|size| i32::try_from(size).ok());
        let size = size.ok_or("with a head size that is known only when the graph runs")?;
        Ok(Self { of_queries, of_keys, size })
    }

    /// Each key head as often as there are query heads in its group.
    fn repeated<'g>(&self, x: Expr<'g>) -> Expr<'g> {
        if self.of_keys == self.of_queries {
            return x;
        }
        let copies = x.b().ints(&[1, 1, self.of_queries / self.of_keys, 1, 1]);
        x.unsqueeze(&[2]).expand(copies).reshape(&[0, self.of_queries, -1, last(x)])
    }

    /// The sum over the query heads of each group.
    fn summed<'g>(&self, x: Expr<'g>) -> Expr<'g> {
        match self.of_queries / self.of_keys {
            1 => x,
            of_each => x.reshape(&[0, self.of_keys, of_each, -1, last(x)]).sum_away(&[2]),
        }
    }
}

impl<'g> Attention<'g> {
    fn of(f: &Forward<'g>) -> Option<Self> {
        let heads = Heads::of(f).map_err(|why| f.refuse(why)).ok()?;
        let all = |new: usize, cached: usize| {
            let new = apart(f.x[new], heads.of_keys);
            f.x.get(cached).map_or(new, |past| past.concat(&[new], 2))
        };
        let (q, k, v) = (apart(f.x[0], heads.of_queries), all(1, 4), all(2, 5));
        let (y, mut dy) = (apart(f.y, heads.of_queries), apart(f.dy, heads.of_queries));
        let bias = bias(f, q, k).map(|bias| {
            // A query that may look nowhere gives zeros; its gradient is zero, and its scores must not become NaN.
            let looks = bias.reduce_max(-1).greater(bias.same_type(f64::NEG_INFINITY));
            dy = looks.where_(dy, dy.same_type(0.0));
            looks.where_(bias, bias.same_type(0.0))
        });
        let scale = f.float("scale", 1.0 / f64::from(heads.size).sqrt());
        Some(Self { q, k: heads.repeated(k), v: heads.repeated(v), y, dy, bias, scale, softcap: f.float("softcap", 0.0), heads })
    }

    /// `tanh(S / c)`, where there is a cap `c`.
    fn capped(&self) -> Option<Expr<'g>> {
        (self.softcap > 0.0).then(|| (self.scores() * (1.0 / self.softcap)).tanh())
    }

    fn scores(&self) -> Expr<'g> {
        (self.q * self.scale).matmul(self.k.t())
    }

    /// `P`
    fn weights(&self) -> Expr<'g> {
        let scores = self.capped().map_or_else(|| self.scores(), |tanh| tanh * self.softcap);
        self.bias.map_or(scores, |bias| scores + bias).softmax(-1)
    }

    /// The gradient of what goes into the softmax.
    fn d_biased(&self) -> Expr<'g> {
        let row = (self.dy * self.y).sum(&[-1]);
        self.weights() * (self.dy.matmul(self.v.t()) - row)
    }

    /// `dS`
    fn d_scores(&self) -> Expr<'g> {
        let d_biased = self.d_biased();
        self.capped().map_or(d_biased, |tanh| d_biased * (1.0 - tanh.square()))
    }

    fn d_keys(&self, f: &Forward<'g>) -> Expr<'g> {
        self.gathered(f, 1, self.d_scores().t().matmul(self.q * self.scale))
    }

    fn d_values(&self, f: &Forward<'g>) -> Expr<'g> {
        self.gathered(f, 2, self.weights().t().matmul(self.dy))
    }

    /// Sums over the query heads of each group; adds the gradient of the output that shows the same values.
    fn gathered(&self, f: &Forward<'g>, output: usize, d_repeated: Expr<'g>) -> Expr<'g> {
        let summed = self.heads.summed(d_repeated);
        f.dys.get(output).copied().flatten().map_or(summed, |d_present| summed + d_present)
    }
}

/// `[batch, head, seq, size]` in the form that input `like` has.
fn joined<'g>(like: Expr<'g>, value: Expr<'g>) -> Expr<'g> {
    if like.rank() == 4 { value } else { value.transpose(&[0, 2, 1, 3]).reshape(&[0, 0, -1]) }
}

/// `[batch, seq, head * size]` as `[batch, head, seq, size]`; what has four axes already stays.
fn apart(x: Expr<'_>, heads: i64) -> Expr<'_> {
    if x.rank() == 4 { x } else { x.reshape(&[0, 0, heads, -1]).transpose(&[0, 2, 1, 3]) }
}

/// The length of the last axis, -1 if it is unknown.
fn last(x: Expr<'_>) -> i64 {
    x.dim(-1).as_known().unwrap_or(-1)
}

/// What is added to the scores: the mask, and minus infinity for keys that come after the query.
fn bias<'g>(f: &Forward<'g>, q: Expr<'g>, k: Expr<'g>) -> Option<Expr<'g>> {
    let (zero, minus) = (q.same_type(0.0), q.same_type(f64::NEG_INFINITY));
    let mask = f.x.get(3).map(|mask| if mask.dtype() == DType::Bool { mask.where_(zero, minus) } else { mask });
    if f.int("is_causal", 0) == 0 {
        return mask;
    }
    let b = f.b();
    let (queries, keys) = (q.length(2), k.length(2));
    let count = |length: Expr<'g>| length.squeeze(&[0]).range_from(b.int(0));
    let offset = f.x.get(4).map_or_else(|| b.ints(&[0]), |past| past.length(2));
    let open = (count(queries) + offset).unsqueeze(&[1]).greater_or_equal(count(keys));
    let causal = open.where_(zero, minus);
    Some(mask.map_or(causal, |mask| mask + causal))
}
