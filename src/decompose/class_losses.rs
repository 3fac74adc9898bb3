//! Losses of classes that are one operator, as PyTorch's exporters write its `cross_entropy` and `nll_loss` (ONNX's pages of `SoftmaxCrossEntropyLoss`
//! and `NegativeLogLikelihoodLoss`).

use super::{Fused, Outputs};
use crate::error::Refusal;
use crate::ir::{Attr, DType, Expr};

/// `SoftmaxCrossEntropyLoss`: the loss, and the log-probabilities where they are wanted.
pub(super) fn softmax_cross_entropy<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let log_p = f.x(0)?.log_softmax(1);
    Ok(vec![Some(negative(f, log_p)?), Some(log_p)])
}

/// `NegativeLogLikelihoodLoss`.
pub(super) fn negative_log_likelihood<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    Ok(vec![Some(negative(f, f.x(0)?)?)])
}

/// `Σ −w_y · ln p_y / Σ w_y` of log-probabilities `[N, C, ..]` and classes `[N, ..]`, those left out that are ignored.
fn negative<'g>(f: &Fused<'g>, log_p: Expr<'g>) -> Result<Expr<'g>, Refusal> {
    let labels = f.x(1)?.cast(DType::I64);
    let counts = match f.node.attrs.get("ignore_index") {
        Some(Attr::Int(ignored)) => labels.equal(f.b.int(*ignored)).logical_not().cast(log_p.dtype()),
        _ => labels.cast(log_p.dtype()).filled_like(1.0),
    };
    // What is ignored may be no class.
    let classes = labels * counts.cast(DType::I64);
    let of_class = log_p.gather_elements(classes.unsqueeze(&[1]), 1).squeeze(&[1]);
    let weights = f.given(2).map_or(counts, |weights| weights.gather(classes, 0) * counts);
    let each = -(of_class * weights);
    match f.node.attrs.get("reduction") {
        Some(Attr::Str(reduction)) if &reduction[..] == b"none" => Ok(each),
        Some(Attr::Str(reduction)) if &reduction[..] == b"sum" => Ok(each.sum_all()),
        _ => Ok(each.sum_all() / weights.sum_all()),
    }
}
