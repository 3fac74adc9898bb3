//! Recurrent layers and signal processing.

use super::super::dim::Dim;
use super::super::fact::{Fact, Shape};
use super::question::{axis_at, expect_rank};
use super::{Answer, Question, Rule};

pub(super) static TABLE: &[(&str, Rule)] = &[("DFT", dft), ("GRU", recurrent), ("LSTM", recurrent), ("RNN", recurrent), ("STFT", stft)];

/// All states `[seq, directions, batch, hidden]`, then the last ones `[directions, batch, hidden]`; batch first with `layout` 1.
fn recurrent(q: &Question<'_>) -> Answer {
    let dtype = q.dtype(0);
    let directions = Dim::known(if q.str("direction") == Some("bidirectional") { 2 } else { 1 });
    let hidden = q.attr_int("hidden_size").map(Dim::known).or_else(|| q.dim(2, -1)).unwrap_or_else(|| q.fresh(0, 3));
    let batch_first = q.int("layout", 0) != 0;
    let lead = q.shape(0).cloned().unwrap_or_else(|| q.fresh_shape(0, 3));
    expect_rank("the input", &lead, 3)?;
    let (seq, batch) = if batch_first { (&lead[1], &lead[0]) } else { (&lead[0], &lead[1]) };
    let order = |all: [&Dim; 4], batch_first_order: [usize; 4]| -> Shape {
        if batch_first { batch_first_order.iter().map(|&i| all[i].clone()).collect() } else { all.into_iter().cloned().collect() }
    };
    let states = order([seq, &directions, batch, &hidden], [2, 0, 1, 3]);
    let mut last = states.clone();
    last.remove(usize::from(batch_first));
    let last = Fact::partial(dtype, Some(last));
    Ok(vec![Fact::partial(dtype, Some(states)), last.clone(), last])
}

/// Complex numbers are a last axis of length 2. The length is an input; the axis an attribute before opset 20, then an input.
fn dft(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(q.dtype(0), None)]);
    };
    let axis = if q.opset < 20 {
        Some(q.int("axis", 1))
    } else if q.given(2) {
        q.element(2).and_then(Dim::as_known)
    } else {
        Some(-2)
    };
    let Some(axis) = axis else {
        return Ok(vec![Fact::partial(q.dtype(0), Some(q.fresh_shape(0, dims.len())))]);
    };
    let at = axis_at(axis, dims.len())?;
    let (one_sided, inverse) = (q.int("onesided", 0) != 0, q.int("inverse", 0) != 0);
    let length = if q.given(1) { q.element(1).filter(|n| n.is_length()).cloned() } else { Some(dims[at].clone()) };
    let mut shape = dims.clone();
    shape[at] = match (length, one_sided, inverse) {
        (Some(length), true, false) => &length.floor_div(&Dim::known(2)) + &Dim::known(1),
        (Some(length), false, _) => length,
        _ => q.fresh(0, at),
    };
    if let Some(last) = shape.last_mut() {
        *last = Dim::known(if one_sided && inverse { 1 } else { 2 });
    }
    Ok(vec![Fact::partial(q.dtype(0), Some(shape))])
}

/// `[batch, frames, frequencies, 2]`
fn stft(q: &Question<'_>) -> Answer {
    let batch = q.dim(0, 0).unwrap_or_else(|| q.fresh(0, 0));
    let told = if q.given(3) { q.element(3).filter(|n| n.is_length()).cloned() } else { q.dim(2, 0) };
    let bins = told.map(|n| if q.int("onesided", 1) == 0 { n } else { &n.floor_div(&Dim::known(2)) + &Dim::known(1) });
    let shape = vec![batch, q.fresh(0, 1), bins.unwrap_or_else(|| q.fresh(0, 2)), Dim::known(2)];
    Ok(vec![Fact::partial(q.dtype(0), Some(shape))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::row;
    use crate::ir::Attr;

    #[test]
    fn recurrent_layers() {
        let size = ("hidden_size", Attr::Int(32));
        let both = [size.clone(), ("direction", "bidirectional".into())];
        row("LSTM", &["float[s, b, 16]"], &both, "float[s, 2, b, 32] float[2, b, 32] float[2, b, 32]");
        row("GRU", &["float[b, s, 16]"], &[size, ("layout", Attr::Int(1))], "float[b, s, 1, 32] float[b, 1, 32] float[b, 1, 32]");
    }

    #[test]
    fn spectra() {
        row("DFT", &["float[b, 100, 1]"], &[("onesided", Attr::Int(1))], "float[b, 51, 2]");
        row("STFT", &["float[b, n, 1]", "int64", "float[64]"], &[], "float[b, ?y.0.1, 33, 2]");
    }
}
