//! ONNX Runtime's own operators (`com.microsoft`): those of transformers. Forms are those of its page on contrib operators.

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, Shape};
use super::elementwise::first;
use super::{Answer, Question, Rule};

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("com.microsoft:Attention", attention),
    ("com.microsoft:BiasAdd", first),
    ("com.microsoft:BiasDropout", first),
    ("com.microsoft:BiasSoftmax", first),
    ("com.microsoft:BiasSplitGelu", halved),
    ("com.microsoft:DecoderMaskedMultiHeadAttention", multi_head_attention),
    ("com.microsoft:EmbedLayerNormalization", embed_layer_norm),
    ("com.microsoft:GatedRelativePositionBias", gated_relative_bias),
    ("com.microsoft:GroupNorm", first),
    ("com.microsoft:GroupQueryAttention", group_query_attention),
    ("com.microsoft:Inverse", first),
    ("com.microsoft:LongformerAttention", first),
    ("com.microsoft:MoE", first),
    ("com.microsoft:MultiHeadAttention", multi_head_attention),
    ("com.microsoft:QAttention", q_attention),
    ("com.microsoft:QMoE", first),
    ("com.microsoft:RelativePositionBias", relative_bias),
    ("com.microsoft:RotaryEmbedding", first),
    ("com.microsoft:SparseAttention", group_query_attention),
];

/// The last axis has two halves, one of which weighs the other.
fn halved(q: &Question<'_>) -> Answer {
    let shape = q.shape(0).and_then(|dims| dims.split_last()).map(|(last, rows)| [rows, &[last.floor_div(&Dim::known(2))]].concat());
    Ok(vec![Fact::partial(q.dtype(0), shape)])
}

/// `[batch, seq, hidden]`, the number of tokens of each row, and the sum of embeddings before it is normalized.
fn embed_layer_norm(q: &Question<'_>) -> Answer {
    let hidden = q.dim(2, -1).unwrap_or_else(|| q.fresh(0, 2));
    let rows = q.shape(0).cloned();
    let counts = rows.as_ref().and_then(|rows| rows.first()).map(|batch| vec![batch.clone()]);
    let sum = Fact::partial(
        q.dtype(2),
        rows.map(|mut rows| {
            rows.push(hidden);
            rows
        }),
    );
    Ok(vec![sum.clone(), Fact::partial(Some(DType::I32), counts), sum])
}

fn attention(q: &Question<'_>) -> Answer {
    Ok(packed_attention(q, q.dtype(0), 4))
}

/// Scales and zero points follow the mask; the past is input 8.
fn q_attention(q: &Question<'_>) -> Answer {
    Ok(packed_attention(q, q.dtype(3), 8))
}

/// One weight `[in, q + k + v]`; the past and the present have keys and values in one value `[2, batch, heads, length, size]`.
fn packed_attention(q: &Question<'_>, dtype: Option<DType>, past: usize) -> Vec<Fact> {
    let Some([batch, seq, _]) = q.shape(0).map(Vec::as_slice) else {
        return vec![Fact::partial(dtype, None)];
    };
    let hidden = match q.ints("qkv_hidden_sizes") {
        Some(&[_, _, values]) => Some(Dim::known(values)),
        _ => q.dim(1, -1).and_then(|all| all.exact_div(&Dim::known(3))),
    };
    let hidden = hidden.unwrap_or_else(|| q.fresh(0, 2));
    let heads = Dim::known(q.int("num_heads", 1));
    let length = match (q.given(past), q.dim(past, 3)) {
        (false, _) => seq.clone(),
        (true, Some(past)) if q.int("past_present_share_buffer", 0) == 0 => &past + seq,
        (true, Some(past)) => past,
        (true, None) => q.fresh(1, 3),
    };
    let present = vec![Dim::known(2), batch.clone(), heads.clone(), length, hidden.floor_div(&heads)];
    vec![Fact::partial(dtype, Some(vec![batch.clone(), seq.clone(), hidden])), Fact::partial(dtype, Some(present))]
}

/// Query, key and value after their projections, in one of several layouts; then bias, masks, past key and past value.
fn multi_head_attention(q: &Question<'_>) -> Answer {
    let dtype = q.dtype(0);
    let heads = Dim::known(q.int("num_heads", 1));
    let query = q.shape(0).map(Vec::as_slice);
    let (batch, seq, hidden) = match (query, q.shape(2).map(Vec::as_slice)) {
        // Query, key and value side by side, head by head; or values that are split into heads.
        (Some([batch, seq, heads, _, size]), _) | (Some([batch, seq, _]), Some([_, heads, _, size])) => (batch, seq, heads * size),
        (Some([batch, seq, _]), Some([_, _, hidden])) => (batch, seq, hidden.clone()),
        // Key and value side by side in the key.
        (Some([batch, seq, hidden]), None) if !q.given(2) => (batch, seq, hidden.clone()),
        _ => return Ok(vec![Fact::partial(dtype, Some(q.fresh_shape(0, 3)))]),
    };
    let size = hidden.floor_div(&heads);
    let (past_key, past_value) = if q.op.ends_with("DecoderMaskedMultiHeadAttention") { (5, 6) } else { (6, 7) };
    let now = match q.shape(1).map(Vec::as_slice) {
        Some([_, _, length, _] | [_, length, _] | [_, length, _, _, _]) => Some(length.clone()),
        _ if !q.given(1) => Some(seq.clone()),
        _ => None,
    };
    let shares = q.int("past_present_share_buffer", 0) != 0 || q.op.ends_with("DecoderMaskedMultiHeadAttention");
    let present = |output: usize, past: usize, size: Dim| {
        let length = match (q.given(past), q.dim(past, 2), &now) {
            (false, _, Some(now)) => now.clone(),
            (true, Some(past), Some(now)) if !shares => &past + now,
            _ => q.fresh(output, 2),
        };
        Fact::partial(dtype, Some(vec![batch.clone(), heads.clone(), length, size]))
    };
    let key_size = q.dim(past_key, 3).unwrap_or_else(|| match query {
        Some([_, _, hidden]) => hidden.floor_div(&heads),
        _ => size.clone(),
    });
    Ok(vec![
        Fact::partial(dtype, Some(vec![batch.clone(), seq.clone(), hidden.clone()])),
        present(1, past_key, key_size),
        present(2, past_value, size),
    ])
}

/// Query `[batch, seq, hidden]`, with key and value behind it where they are left out; past key and value `[batch, kv_heads, length, size]`.
///
/// The present is as long as the past if the past is a preallocated buffer, else as long as input 6 says.
fn group_query_attention(q: &Question<'_>) -> Answer {
    let dtype = q.dtype(0);
    let (heads, kv_heads) = (q.int("num_heads", 1), q.int("kv_num_heads", 1));
    let Some([batch, seq, hidden]) = q.shape(0).map(Vec::as_slice) else {
        return Ok(vec![Fact::partial(dtype, Some(q.fresh_shape(0, 3)))]);
    };
    let (heads, kv_heads) = (Dim::known(heads), Dim::known(kv_heads));
    let sharing = if q.given(1) { heads.clone() } else { &heads + &(&Dim::known(2) * &kv_heads) };
    let size = hidden.floor_div(&sharing);
    let y: Shape = vec![batch.clone(), seq.clone(), &size * &heads];
    let whole = q.op.ends_with("GroupQueryAttention") && q.int("sliding_window_cache", 0) == 0;
    let total = q.element(6).filter(|n| whole && n.is_length());
    let present = |output: usize, past: usize| {
        let length = match (q.given(past), q.dim(past, 2), total) {
            (false, _, Some(total)) => total.clone(),
            (true, Some(past), Some(total)) => past.larger(total),
            _ => q.fresh(output, 2),
        };
        // A cache of small integers may hold several in one.
        let size = if q.given(past) { q.dim(past, 3).unwrap_or_else(|| q.fresh(output, 3)) } else { size.clone() };
        let dtype = if q.given(past) { q.dtype(past) } else { dtype };
        Fact::partial(dtype, Some(vec![batch.clone(), kv_heads.clone(), length, size]))
    };
    Ok(vec![Fact::partial(dtype, Some(y)), present(1, 3), present(2, 4)])
}

/// `[1, heads, queries, keys]` from a table `[buckets, heads]`.
fn relative_bias(q: &Question<'_>) -> Answer {
    let told = |input: usize| q.element(input).filter(|n| n.is_length()).cloned();
    let heads = q.dim(0, 1).unwrap_or_else(|| q.fresh(0, 1));
    let (queries, keys) = (told(1).unwrap_or_else(|| q.fresh(0, 2)), told(2).unwrap_or_else(|| q.fresh(0, 3)));
    Ok(vec![Fact::partial(q.dtype(0), Some(vec![Dim::known(1), heads, queries, keys]))])
}

/// `[batch, heads, queries, keys]`
fn gated_relative_bias(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(q.dtype(0), Some(q.fresh_shape(0, 4)))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::row;
    use crate::ir::Attr;

    #[test]
    fn attention_with_one_weight() {
        let heads = [("num_heads", Attr::Int(4))];
        let inputs = ["float[b, s, 64]", "float[64, 192]", "float[192]", "int64[b, s]"];
        row("com.microsoft:Attention", &inputs, &heads, "float[b, s, 64] float[2, b, 4, s, 16]");
        let past = ["float[b, s, 64]", "float[64, 192]", "float[192]", "", "float[2, b, 4, p, 16]"];
        row("com.microsoft:Attention", &past, &heads, "float[b, s, 64] float[2, b, 4, p + s, 16]");
    }

    #[test]
    fn attention_after_projections() {
        let heads = [("num_heads", Attr::Int(4)), ("kv_num_heads", Attr::Int(2))];
        let whole = ["float[b, s, 64]", "float[b, t, 64]", "float[b, t, 64]"];
        let present = "float[b, 4, t, 16]";
        row("com.microsoft:MultiHeadAttention", &whole, &heads, &format!("float[b, s, 64] {present} {present}"));
        let past = "float[b, 2, p, 16]";
        let grouped = ["float[b, s, 64]", "float[b, s, 32]", "float[b, s, 32]", past, past, "int32[b]", "int32{p + s}"];
        let present = "float[b, 2, p + s, 16]";
        row("com.microsoft:GroupQueryAttention", &grouped, &heads, &format!("float[b, s, 64] {present} {present}"));
        let packed = ["float[b, s, 128]", "", "", past, past, "int32[b]", "int32"];
        let present = ["float[b, 2, ?y.1.2, 16]", "float[b, 2, ?y.2.2, 16]"].join(" ");
        row("com.microsoft:GroupQueryAttention", &packed, &heads, &format!("float[b, s, 64] {present}"));
    }

    #[test]
    fn embeddings() {
        let inputs = ["int32[b, s]", "int32[b, s]", "float[100, 64]"];
        row("com.microsoft:EmbedLayerNormalization", &inputs, &[], "float[b, s, 64] int32[b] float[b, s, 64]");
        row("com.microsoft:RotaryEmbedding", &["float[b, s, 64]"], &[], "float[b, s, 64]");
    }
}
