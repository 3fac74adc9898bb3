//! Normalizations, attention and losses.

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, Shape};
use super::elementwise::{first, unary};
use super::question::{axis_at, expect_rank};
use super::{Answer, Question, Rule};
use crate::error::Refusal;

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("Attention", attention),
    ("BatchNormalization", batch_norm),
    ("CausalConvWithState", causal_conv),
    ("ai.onnx.preview:FlexAttention", flex_attention),
    ("GroupNormalization", unary),
    ("InstanceNormalization", unary),
    ("LRN", unary),
    ("LayerNormalization", layer_norm),
    ("LinearAttention", linear_attention),
    ("LpNormalization", unary),
    ("MeanVarianceNormalization", unary),
    ("NegativeLogLikelihoodLoss", loss),
    ("RMSNormalization", first),
    ("RotaryEmbedding", first),
    ("SimplifiedLayerNormalization", layer_norm),
    ("SoftmaxCrossEntropyLoss", loss),
    ("SwiGLU", first),
    ("com.microsoft:LinearAttention", linear_attention),
    ("com.microsoft:SkipLayerNormalization", skip_layer_norm),
    ("com.microsoft:SkipSimplifiedLayerNormalization", skip_layer_norm),
];

/// The normalized value, then the mean and one over the standard deviation (that alone without centring), float32 by default.
fn layer_norm(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else { return first(q) };
    let axis = axis_at(q.int("axis", -1), dims.len())?;
    let stash = q.dtype_attr("stash_type").unwrap_or(DType::F32);
    let mut shape = dims.clone();
    shape[axis..].fill(Dim::known(1));
    let statistic = Fact::new(stash, shape);
    Ok(vec![Fact::partial(q.dtype(0), Some(dims.clone())), statistic.clone(), statistic])
}

/// The normalized sum of input, skip and bias; mean and one over the standard deviation, which ONNX Runtime does not fill; the sum.
fn skip_layer_norm(q: &Question<'_>) -> Answer {
    let sum = Fact::partial(q.dtype(0), q.shape(0).cloned());
    let statistic = q.shape(0).and_then(|dims| dims.split_last()).map(|(_, rows)| [rows, &[Dim::known(1)]].concat());
    let statistic = Fact::partial(Some(DType::F32), statistic);
    Ok(vec![sum.clone(), statistic.clone(), statistic, sum])
}

/// The other outputs are one number per channel, of the type and shape of the mean that is given.
fn batch_norm(q: &Question<'_>) -> Answer {
    let channel = Fact::partial(q.dtype(3), q.shape(3).cloned());
    let mut facts = vec![Fact::partial(q.dtype(0), q.shape(0).cloned())];
    facts.resize(q.outputs.max(1), channel);
    Ok(facts)
}

/// The loss is a number, or with `reduction` `none` one per label; the log-probabilities have the shape of the scores.
fn loss(q: &Question<'_>) -> Answer {
    let shape = if q.str("reduction") == Some("none") { q.shape(1).cloned() } else { Some(vec![]) };
    Ok(vec![Fact::partial(q.dtype(0), shape), Fact::partial(q.dtype(0), q.shape(0).cloned())])
}

/// `[batch, heads, length, size]` of an input of rank 4, or of rank 3 with its heads side by side.
fn by_head(q: &Question<'_>, input: usize, heads: &str) -> Result<Option<Shape>, Refusal> {
    let Some(dims) = q.shape(input) else { return Ok(None) };
    match (dims.as_slice(), q.attr_int(heads)) {
        ([batch, length, hidden], Some(heads)) => {
            let (heads, size) = (Dim::known(heads), hidden.floor_div(&Dim::known(heads)));
            Ok(Some(vec![batch.clone(), heads, length.clone(), size]))
        }
        ([_, _, _], None) => Err(format!("inputs of rank 3 need the attribute {heads}").into()),
        _ => {
            expect_rank("query, key or value", dims, 4)?;
            Ok(Some(dims.clone()))
        }
    }
}

/// `Attention-23`: query, key, value, mask, past key, past value; of rank 4, or of rank 3 with heads side by side.
fn attention(q: &Question<'_>) -> Answer {
    let query = by_head(q, 0, "q_num_heads")?;
    let (key, value) = (by_head(q, 1, "kv_num_heads")?, by_head(q, 2, "kv_num_heads")?);
    let y = match (&query, &value) {
        (Some(query), Some(value)) if q.rank(0) == Some(3) => Some(vec![query[0].clone(), query[2].clone(), &query[1] * &value[3]]),
        (Some(query), Some(value)) => Some(vec![query[0].clone(), query[1].clone(), query[2].clone(), value[3].clone()]),
        _ => q.rank(0).map(|rank| q.fresh_shape(0, rank)),
    };
    let present_key = key.map(|key| with_past(q, 1, &key, 4));
    let present_value = value.map(|value| with_past(q, 2, &value, 5));
    let scores = query.zip(present_key.as_ref()).map(|(query, key)| [&query[..3], &key[2..3]].concat());
    Ok(vec![
        Fact::partial(q.dtype(0), y),
        Fact::partial(q.dtype(1), present_key),
        Fact::partial(q.dtype(2), present_value),
        Fact::partial(q.dtype(0), scores),
    ])
}

/// Keys or values after those of a past input.
fn with_past(q: &Question<'_>, output: usize, now: &Shape, past: usize) -> Shape {
    let mut shape = now.clone();
    if q.given(past) {
        shape[2] = q.dim(past, 2).map_or_else(|| q.fresh(output, 2), |past| &past + &now[2]);
    }
    shape
}

/// `LinearAttention-27`: query, key, value with heads side by side; the state is `[batch, kv_heads, key_size, value_size]`.
fn linear_attention(q: &Question<'_>) -> Answer {
    let heads = |name: &str| q.attr_int(name).map(Dim::known);
    let (Some(queries), Some(shared)) = (heads("q_num_heads"), heads("kv_num_heads")) else {
        return Ok(vec![Fact::partial(q.dtype(0), None)]);
    };
    let size = |input: usize| q.dim(input, 2).map(|hidden| hidden.floor_div(&shared));
    let (Some(lead), Some(key), Some(value)) = (q.shape(0).and_then(|dims| dims.get(..2)), size(1), size(2)) else {
        return Ok(vec![Fact::partial(q.dtype(0), Some(q.fresh_shape(0, 3)))]);
    };
    let state = vec![lead[0].clone(), shared, key, value.clone()];
    let dtype = if q.given(3) { q.dtype(3) } else { None };
    // ONNX Runtime's own form may keep the states of several positions.
    let state = if q.attr_int("state_window").is_some() { q.fresh_shape(1, 4) } else { state };
    Ok(vec![Fact::partial(q.dtype(0), Some([lead, &[&queries * &value]].concat())), Fact::partial(dtype, Some(state))])
}

/// `CausalConvWithState-27`: the output is shaped as the input; the state has one position less than the kernel.
fn causal_conv(q: &Question<'_>) -> Answer {
    let state = q.shape(0).filter(|dims| dims.len() == 3).map(|dims| {
        let kept = q.dim(1, -1).map_or_else(|| q.fresh(1, 2), |kernel| &kernel - &Dim::known(1));
        vec![dims[0].clone(), dims[1].clone(), kept]
    });
    Ok(vec![Fact::partial(q.dtype(0), q.shape(0).cloned()), Fact::partial(q.dtype(0), state)])
}

/// The query's shape with the last length of the value's.
fn flex_attention(q: &Question<'_>) -> Answer {
    let shape = q.shape(0).cloned().map(|mut dims| {
        let size = q.dim(2, -1).unwrap_or_else(|| q.fresh(0, 3));
        if let Some(last) = dims.last_mut() {
            *last = size;
        }
        dims
    });
    Ok(vec![Fact::partial(q.dtype(0), shape)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::row;
    use crate::ir::Attr;

    #[test]
    fn normalizations() {
        row("LayerNormalization", &["float16[b, s, 64]", "float16[64]"], &[], "float16[b, s, 64] float[b, s, 1] float[b, s, 1]");
        row("RMSNormalization", &["float[b, s, 64]", "float[64]"], &[], "float[b, s, 64]");
        row("BatchNormalization", &["float[n, 3, h]", "float[3]", "float[3]", "float[3]", "float[3]"], &[], "float[n, 3, h]");
        let sum = "float[b, s, 64] float[b, s, 1] float[b, s, 1] float[b, s, 64]";
        row("com.microsoft:SkipLayerNormalization", &["float[b, s, 64]", "float[b, s, 64]", "float[64]"], &[], sum);
    }

    #[test]
    fn attention() {
        let heads = [("q_num_heads", Attr::Int(4)), ("kv_num_heads", Attr::Int(2))];
        let flat = ["float[b, s, 64]", "float[b, s, 32]", "float[b, s, 32]", "", "float[b, 2, p, 16]", "float[b, 2, p, 16]"];
        let present = "float[b, 2, p + s, 16]";
        row("Attention", &flat, &heads, &format!("float[b, s, 64] {present} {present} float[b, 4, s, p + s]"));
        let split = ["float[b, 4, s, 16]", "float[b, 4, t, 16]", "float[b, 4, t, 8]"];
        row("Attention", &split, &[], "float[b, 4, s, 8] float[b, 4, t, 16] float[b, 4, t, 8] float[b, 4, s, t]");
    }

    #[test]
    fn losses() {
        row("SoftmaxCrossEntropyLoss", &["float[n, c]", "int64[n]"], &[], "float float[n, c]");
        row("SoftmaxCrossEntropyLoss", &["float[n, c]", "int64[n]"], &[("reduction", "none".into())], "float[n] float[n, c]");
    }
}
