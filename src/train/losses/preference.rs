//! Losses of preferences, as TRL 1.16 defines them, of the log-probabilities of labelled tokens.
//!
//! Texts are stacked: all chosen ones, then all rejected ones. Completion tokens are marked; a reference's sums come from the base without the
//! adapter.

use super::{Sum, Terms, log_sigmoid, part};
use crate::contract::IGNORED;
use crate::ir::{DType, Expr};

/// `−ln σ(r_chosen − r_rejected)` of rewards `[texts, 1]` (Ouyang et al. 2022, eq. 1).
pub(super) fn bradley_terry<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let (rewards, rows) = (terms.outputs[0].reshape(&[-1]), terms.columns[0].length(0));
    terms.over_rows(-log_sigmoid(part(rewards, rows, 0.0) - part(rewards, rows, 1.0)))
}

/// `−ln σ(β·((π_c − ρ_c) − (π_r − ρ_r)))` (Rafailov et al. 2023, eq. 7).
pub(super) fn dpo<'g>(terms: &Terms<'g>) -> Sum<'g> {
    terms.over_rows(-log_sigmoid(margin(ratios(terms)) * terms.option("beta")))
}

/// `(h − 1/(2β))²` of mean log-ratios a token (Azar et al. 2023, eq. 17).
pub(super) fn ipo<'g>(terms: &Terms<'g>) -> Sum<'g> {
    terms.over_rows((margin(ratios(terms) / completion_lengths(terms)) - 0.5 / terms.option("beta")).square())
}

/// `−ln σ(β·(mean_c − mean_r) − γ)` of mean log-probabilities a token (Meng et al. 2024, eq. 6).
pub(super) fn simpo<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let means = completion_sums(terms) / completion_lengths(terms);
    terms.over_rows(-log_sigmoid(margin(means) * terms.option("beta") - terms.option("gamma")))
}

/// The preference of `orpo`: `−β·ln σ(log-odds)` of mean log-probabilities (Hong et al. 2024, eq. 6). Its other term is [`likelihood`].
pub(super) fn orpo<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let means = completion_sums(terms) / completion_lengths(terms);
    let odds = means - (1.0 - means.exp()).log();
    terms.over_rows(-log_sigmoid(margin(odds)) * terms.option("beta"))
}

/// The chosen texts' mean negative log-likelihood, over all tokens that something predicts, prompts counted.
pub(super) fn likelihood<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let (tokens, labels) = (halves(terms.outputs[0]).0, halves(terms.columns[1]).0);
    let counted = labels.equal(labels.same_type(IGNORED.into())).logical_not().cast(DType::F32).slice(&[1], &[i64::MAX], &[1]).sum_all();
    Sum { sum: -tokens.sum_all(), count: counted.max(counted.same_type(1.0)) }
}

/// Kahneman-Tversky optimisation (Ethayarajh et al. 2024, eq. 8): `1 − σ(β·(r − z))` for a desirable completion, `1 − σ(β·(z − r))` for another.
/// Texts are the rows, then the rows' prompts with each other's completions, whose mean log-ratio, not below 0, is `z`.
pub(super) fn kto<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let (ratios, mismatched) = halves(ratios(terms));
    let mean = mismatched.mean(&[0]).reshape(&[]);
    let baseline = mean.max(mean.same_type(0.0)).without_gradient();
    // 1 for a desirable completion, −1 for another.
    let sign = terms.columns[2] * 2.0 - 1.0;
    let (good, bad) = (terms.option("desirable_weight"), terms.option("undesirable_weight"));
    // The mean is one over all rows, whatever the two kinds count.
    let counts = terms.columns[2] * (good - bad) + bad;
    terms.over_rows((1.0 - ((ratios - baseline) * sign * terms.option("beta")).sigmoid()) * counts)
}

/// How much likelier each text's completion is than the reference had it, as a logarithm, `[texts]`: of the log-probabilities of tokens `[texts, seq]`, which of them
/// are the completion's, 1 or 0, and the reference's sums `[texts]`.
#[must_use]
pub fn log_ratios<'g>(tokens: Expr<'g>, completion: Expr<'g>, reference: Expr<'g>) -> Expr<'g> {
    (tokens * completion).sum_away(&[-1]) - reference
}

fn ratios<'g>(terms: &Terms<'g>) -> Expr<'g> {
    log_ratios(terms.outputs[0], terms.columns[0], terms.columns[1])
}

/// The log-probability of each text's completion, `[texts]`.
fn completion_sums<'g>(terms: &Terms<'g>) -> Expr<'g> {
    (terms.outputs[0] * terms.columns[0]).sum_away(&[-1])
}

/// The tokens of each text's completion, at least 1, `[texts]`.
fn completion_lengths<'g>(terms: &Terms<'g>) -> Expr<'g> {
    let lengths = terms.columns[0].sum_away(&[-1]);
    lengths.max(lengths.same_type(1.0))
}

/// The first half's value less the second's, `[rows]`.
fn margin(values: Expr<'_>) -> Expr<'_> {
    let (chosen, rejected) = halves(values);
    chosen - rejected
}

/// Texts of an even number, parted in the middle.
fn halves(texts: Expr<'_>) -> (Expr<'_>, Expr<'_>) {
    let all = texts.length(0);
    let middle = all / all.b().ints(&[2]);
    (texts.slice_at(all * 0.0, middle, &[0]), texts.slice_at(middle, all, &[0]))
}
