//! Attention that holds its projections: one weight `[in, q + k + v]`.

use super::attention::{Attend, key_mask, scale, split_heads};
use super::{Fused, Outputs, known};
use crate::error::Refusal;
use crate::ir::{Attr, Expr, NodeSpec};

/// The product with the packed weight, its bias added, in three parts along the last axis.
fn projected<'g>(f: &Fused<'g>, x: Expr<'g>, weight: Expr<'g>, bias: Option<Expr<'g>>) -> Result<[Expr<'g>; 3], Refusal> {
    let all = known(weight, 1, "the width of the weight")?;
    let lengths = match f.node.ints("qkv_hidden_sizes") {
        Some(&[q, k, v]) => [q, k, v],
        Some(_) => return Err("with hidden sizes that are not three".into()),
        None => [all / 3; 3],
    };
    let product = named(f, "MatMul", x, weight);
    let y = bias.map_or(product, |bias| named(f, "Add", product, bias));
    let parts = y.split(&lengths, -1);
    Ok([parts[0], parts[1], parts[2]])
}

/// A node whose name does not look like a module's path: the fused node's name tells none.
fn named<'g>(f: &Fused<'g>, op: &str, x: Expr<'g>, other: Expr<'g>) -> Expr<'g> {
    let output = f.node.writes().next().map(|id| f.b.name(id).replace('/', "."));
    let name = format!("{}.{op}", output.unwrap_or_default());
    let spec = NodeSpec {
        name: name.as_str().into(),
        op: op.into(),
        inputs: vec![Some(x.id()), Some(other.id())],
        outputs: vec![Some(format!("{name}:0").into())],
        ..NodeSpec::default()
    };
    f.b.node(spec).into_iter().flatten().next().unwrap_or(x)
}

/// Inputs: `x` `[batch, seq, in]`, weight, bias, mask, past `[2, batch, heads, length, size]`, bias of scores. Outputs: `y`, present.
pub(super) fn attention<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let parts = projected(f, f.x(0)?, f.x(1)?, f.given(2))?;
    attended(f, parts, Surroundings { mask: f.given(3), past: f.given(4), bias: f.given(5) })
}

/// The same with `x` and the weight quantised: inputs `x`, weight, bias, scale of `x`, scale of the weight, mask, zero point of `x`, zero
/// point of the weight, past.
pub(super) fn quantized_attention<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let floats = |x: Expr<'g>, scale: Expr<'g>, zero: Option<Expr<'g>>, axis: i64| {
        f.b.op_n("DequantizeLinear", &[Some(x), Some(scale), zero], &[("axis", Attr::Int(axis))], 1)[0]
    };
    let x = floats(f.x(0)?, f.x(3)?, f.given(6), -1);
    let weight = floats(f.x(1)?, f.x(4)?, f.given(7), 1);
    let parts = projected(f, x, weight, f.given(2))?;
    attended(f, parts, Surroundings { mask: f.given(5), past: f.given(8), bias: None })
}

/// What an attention reads beside its projections.
#[derive(Clone, Copy)]
struct Surroundings<'g> {
    mask: Option<Expr<'g>>,
    past: Option<Expr<'g>>,
    bias: Option<Expr<'g>>,
}

fn attended<'g>(f: &Fused<'g>, [q, k, v]: [Expr<'g>; 3], around: Surroundings<'g>) -> Result<Outputs<'g>, Refusal> {
    f.refuse_attrs(&["do_rotary", "past_present_share_buffer"])?;
    let heads = f.count("num_heads")?;
    let Surroundings { mask, past, bias } = around;
    let cached = |new: Expr<'g>, at: i64| past.map_or(new, |past| past.gather(past.b().int(at), 0).concat(&[new], 2));
    let (q, k, v) = (split_heads(q, heads), cached(split_heads(k, heads), 0), cached(split_heads(v, heads), 1));
    let mut a = Attend { q, k, v, scale: scale(f), softcap: 0.0, masks: vec![], sink: None };
    a.masks.extend(mask.map(|mask| key_mask(f, mask, k)).transpose()?);
    if f.int("unidirectional", 0) != 0 {
        a.masks.push(a.causal_mask(None, past.is_some()));
    }
    a.masks.extend(bias);
    let present = f.wants(1).then(|| k.unsqueeze(&[0]).concat(&[v.unsqueeze(&[0])], 0));
    Ok(vec![Some(a.joined()?), present])
}

/// The projections, and `MultiHeadAttention` after them.
pub(super) fn separate_attention<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    f.refuse_attrs(&["do_rotary", "past_present_share_buffer"])?;
    f.refuse_inputs(&[6])?;
    let mask = f.given(3);
    if mask.is_some_and(|mask| mask.dims().is_none_or(|dims| dims.len() > 3 || (dims.len() == 1 && dims[0] != mask_batch(f)))) {
        return Err("with a mask that the other operator does not take".into());
    }
    let [q, k, v] = projected(f, f.x(0)?, f.x(1)?, f.given(2))?;
    let past = |at: i64| f.given(4).map(|past| past.gather(past.b().int(at), 0));
    let inputs = [Some(q), Some(k), Some(v), None, mask, f.given(5), past(0), past(1)];
    let taken = ["num_heads", "unidirectional", "mask_filter_value", "scale"];
    let attrs: Vec<(&str, Attr)> = taken.into_iter().filter_map(|name| Some((name, f.node.attrs.get(name)?.clone()))).collect();
    let outputs = if f.wants(1) { 3 } else { 1 };
    let made = f.b.op_n("com.microsoft:MultiHeadAttention", &inputs, &attrs, outputs);
    let present = made.get(2).map(|v| made[1].unsqueeze(&[0]).concat(&[v.unsqueeze(&[0])], 0));
    Ok(vec![Some(made[0]), present])
}

fn mask_batch(f: &Fused<'_>) -> crate::ir::Dim {
    f.given(0).and_then(Expr::dims).and_then(|dims| dims.first().cloned()).unwrap_or_else(|| crate::ir::Dim::symbol("batch"))
}
