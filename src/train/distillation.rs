//! What is learnt from a teacher beside the labels (Hinton et al. 2015): `(1 − w)·loss + w·t²·D`, where `D` tells how far the student's answer is from the
//! teacher's, both logits divided by `t`.

use super::losses::{self, Reads, Sum};
use crate::ir::Expr;

/// What is learnt from a teacher.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Distillation {
    /// The teacher's share, from 0 to 1.
    pub weight: f64,
    /// What logits are divided by on both sides.
    pub temperature: f64,
}

/// How far answers are from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// Of one class of several: `Σ_c q·(ln q − ln p)` of the softmaxes (`torch.nn.functional.kl_div`), the mean over rows (`batchmean`).
    Classes,
    /// Of truths, each for itself: the binary cross-entropy of the student's logits with the teacher's probabilities, the mean over all of them.
    Truths,
    /// Of numbers: `(x − z)²`, the mean over all of them. A temperature changes nothing.
    Numbers,
}

/// The output of an evaluation with how far the student is from the teacher, added up over what the loss counts.
pub const DIVERGENCE: &str = "divergence_sum";

/// The inputs with the teacher's answers, of the shapes of the student's.
pub const TEACHER_LOGITS: &str = "teacher_logits";
const TEACHER_STARTS: &str = "teacher_start_logits";
const TEACHER_ENDS: &str = "teacher_end_logits";

/// The inputs with the teacher's answers, in the order of what a loss reads.
#[must_use]
pub fn inputs(reads: Reads) -> &'static [&'static str] {
    if reads == Reads::Spans { &[TEACHER_STARTS, TEACHER_ENDS] } else { &[TEACHER_LOGITS] }
}

/// Whether an input of a graph is a teacher's answer.
#[must_use]
pub fn is_of_teacher(input: &str) -> bool {
    [TEACHER_LOGITS, TEACHER_STARTS, TEACHER_ENDS].contains(&input)
}

/// Whether a loss of texts compares with what a teacher says of them: its vectors, or differences of its scores.
#[must_use]
pub fn is_of_texts(reads: Reads, loss: &str) -> bool {
    reads == Reads::Embeddings && matches!(loss, "mse" | "margin-mse")
}

impl Divergence {
    /// That of a loss; none of losses whose outputs no teacher has an answer for.
    #[must_use]
    pub fn of(reads: Reads, loss: &str) -> Option<Self> {
        match (reads, loss) {
            (Reads::Logits | Reads::TokenLogits | Reads::Vocabulary | Reads::Spans, "cross-entropy") | (Reads::Logits, "focal") => {
                Some(Self::Classes)
            }
            (Reads::Logits, "bce") => Some(Self::Truths),
            (Reads::Logits, name) if losses::is_of_numbers(name) => Some(Self::Numbers),
            _ => None,
        }
    }
}

/// A divergence, added up over what counts.
#[derive(Clone, Copy)]
pub struct Diverged<'g> {
    /// What is learnt: without the `t²`, and without the weight.
    pub learnt: Sum<'g>,
    /// What is told: Kullback and Leibler's divergence, or the squared difference; 0 where both say the same.
    pub told: Expr<'g>,
}

impl Distillation {
    /// How far `student` is from `teacher`, both float32 `[rows, classes]`; `counts` is what each row weighs, 0 where it does not count, float32 `[rows]`.
    #[must_use]
    pub fn diverged<'g>(self, divergence: Divergence, student: Expr<'g>, teacher: Expr<'g>, counts: Expr<'g>) -> Diverged<'g> {
        let (x, z) = (student / self.temperature, teacher / self.temperature);
        let each = |values: Expr<'g>| values * counts.unsqueeze(&[-1]);
        let of_each = counts.sum_all() * student.length(-1).reshape(&[]).cast(counts.dtype());
        let (learnt, told, count) = match divergence {
            Divergence::Classes => {
                let (p, q) = (x.log_softmax(-1), z.log_softmax(-1));
                let sum = (kullback_leibler(p, q) * counts).sum_all();
                (sum, sum, counts.sum_all())
            }
            Divergence::Truths => {
                let q = z.sigmoid();
                let entropy = z.softplus() - z * q;
                let learnt = x.softplus() - x * q;
                (each(learnt).sum_all(), each(learnt - entropy).sum_all(), of_each)
            }
            Divergence::Numbers => {
                let sum = each((student - teacher).square()).sum_all();
                (sum, sum, of_each)
            }
        };
        Diverged { learnt: Sum { sum: learnt, count: count.max(count.same_type(1e-12)) }, told }
    }

    /// What the divergence counts: `w·t²`; of numbers, `w`.
    #[must_use]
    pub fn factor(self, divergence: Divergence) -> f64 {
        if divergence == Divergence::Numbers { self.weight } else { self.weight * self.temperature * self.temperature }
    }
}

/// `Σ_c q·(ln q − ln p)` of logarithms of probabilities, along the last axis.
#[must_use]
pub fn kullback_leibler<'g>(log_p: Expr<'g>, log_q: Expr<'g>) -> Expr<'g> {
    (log_q.exp() * (log_q - log_p)).sum_away(&[-1])
}
