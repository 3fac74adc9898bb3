//! Normalizations, convolutions, pools, attention.

use super::super::dim::Dim;
use super::super::fact::{DType, Fact};
use super::question::axis_at;
use super::{Answer, Question, Rule};

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("LayerNormalization", layer_norm),
    ("RMSNormalization", same),
    ("SimplifiedLayerNormalization", layer_norm),
    ("com.microsoft:SimplifiedLayerNormalization", layer_norm),
];

/// The type and shape of the first input.
fn same(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(q.dtype(0), q.shape(0).cloned())])
}

/// The normalized value, then the mean and one over the standard deviation (that alone without centring), float32 by default.
fn layer_norm(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(q.dtype(0), None)]);
    };
    let axis = axis_at(q.int("axis", -1), dims.len())?;
    let stash = q.dtype_attr("stash_type").unwrap_or(DType::F32);
    let mut shape = dims.clone();
    shape[axis..].fill(Dim::known(1));
    let statistic = Fact::new(stash, shape);
    Ok(vec![Fact::partial(q.dtype(0), Some(dims.clone())), statistic.clone(), statistic])
}
