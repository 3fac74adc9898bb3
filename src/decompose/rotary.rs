//! Rotary position embeddings.

use super::{Fused, Outputs, known};
use crate::error::Refusal;
use crate::ir::Expr;

/// How heads are rotated.
#[derive(Clone, Copy)]
pub(super) struct Rotation<'g> {
    /// Cosines by position, `[positions, size / 2]` with `size` the numbers of a head that are rotated.
    pub(super) cos: Expr<'g>,
    /// Sines, as `cos`.
    pub(super) sin: Expr<'g>,
    /// Whether a pair stands side by side, instead of one half of the head behind the other.
    pub(super) interleaved: bool,
}

/// Inputs `x` `[batch, seq, heads · size]` or `[batch, heads, seq, size]`, positions (`[batch, seq]`, or `[1]`: those of the first token),
/// cosines, sines.
pub(super) fn embedding<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    f.refuse_attrs(&["is_packed_batching"])?;
    let (x, b) = (f.x(0)?, f.b);
    let rotation = Rotation { cos: f.x(2)?, sin: f.x(3)?, interleaved: f.int("interleaved", 0) != 0 };
    let is_apart = x.dims().ok_or("the rank of its input is not known")?.len() == 4;
    let seq = if is_apart { 2 } else { 1 };
    let positions = f.x(1)?;
    let positions = match positions.dims().map(|dims| dims.len()) {
        Some(1) => {
            let first = positions.squeeze(&[0]);
            (first + x.length(seq).squeeze(&[0])).range_from(first).unsqueeze(&[0])
        }
        Some(2) => positions,
        _ => return Err("the form of its positions is not known".into()),
    };
    if is_apart {
        return Ok(vec![Some(rotation.rotate(x, positions, 1)?)]);
    }
    let size = head_size(f, x, rotation.cos)?;
    let apart = b.op("Reshape", &[x, b.ints(&[0, 0, -1, size])], &[]);
    let turned = rotation.rotate(apart, positions, 2)?;
    Ok(vec![Some(b.op("Reshape", &[turned, b.ints(&[0, 0, -1])], &[]))])
}

/// Where only a part of each head is rotated, the number of heads is given.
fn head_size<'g>(f: &Fused<'g>, x: Expr<'g>, cos: Expr<'g>) -> Result<i64, Refusal> {
    match f.int("num_heads", 0) {
        heads @ 1.. => Ok(known(x, -1, "the length of its last axis")? / heads),
        _ => Ok(2 * known(cos, 1, "the number of frequencies")?),
    }
}

impl<'g> Rotation<'g> {
    /// With `(a, b)` the pairs of a head's numbers: `(a cos - b sin, b cos + a sin)`. What lies beyond the frequencies stays.
    ///
    /// `heads` is `x`'s axis of heads: 1 for `[batch, heads, seq, size]`, 2 for `[batch, seq, heads, size]`. Positions are `[batch or 1, seq]`.
    pub(super) fn rotate(self, x: Expr<'g>, positions: Expr<'g>, heads: i64) -> Result<Expr<'g>, Refusal> {
        let half = known(self.cos, 1, "the number of frequencies")?;
        let size = known(x, -1, "the size of a head")?;
        let at = |table: Expr<'g>| table.gather(positions, 0).unsqueeze(&[heads]);
        let (cos, sin) = (at(self.cos), at(self.sin));
        let (turned, rest) = match size - 2 * half {
            0 => (x, None),
            rest @ 1.. => {
                let parts = x.split(&[2 * half, rest], -1);
                (parts[0], Some(parts[1]))
            }
            _ => return Err("there are more frequencies than a head has pairs".into()),
        };
        let y = if self.interleaved { pairs(turned, half, cos, sin) } else { halves(turned, half, cos, sin) };
        Ok(rest.map_or(y, |rest| y.concat(&[rest], -1)))
    }
}

fn halves<'g>(x: Expr<'g>, half: i64, cos: Expr<'g>, sin: Expr<'g>) -> Expr<'g> {
    let parts = x.split(&[half, half], -1);
    let (a, b) = (parts[0], parts[1]);
    (a * cos - b * sin).concat(&[b * cos + a * sin], -1)
}

fn pairs<'g>(x: Expr<'g>, half: i64, cos: Expr<'g>, sin: Expr<'g>) -> Expr<'g> {
    let builder = x.b();
    let apart = builder.op("Reshape", &[x, builder.ints(&[0, 0, 0, half, 2])], &[]);
    let parts = apart.split(&[1, 1], -1);
    let (a, b) = (parts[0].squeeze(&[-1]), parts[1].squeeze(&[-1]));
    let turned = (a * cos - b * sin).unsqueeze(&[-1]).concat(&[(b * cos + a * sin).unsqueeze(&[-1])], -1);
    builder.op("Reshape", &[turned, builder.ints(&[0, 0, 0, -1])], &[])
}
