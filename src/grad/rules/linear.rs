//! Products of matrices.
//!
//! A matrix that meets a batch is nearly always a weight. Its transpose is left to `Gemm`: written as a node, it would be folded into
//! a second copy of the weight.

use crate::grad::Forward;
use crate::ir::Expr;
use crate::ir::Transposed::{No, Yes};

/// `dA = dY · Bᵀ`; for a matrix `B`, all leading axes of `dY` count as rows.
pub(super) fn mat_mul_a<'g>(f: &Forward<'g>) -> Expr<'g> {
    let (a, b) = (f.x[0], f.x[1]);
    match (a.rank(), b.rank()) {
        (_, 1) => f.dy.unsqueeze(&[-1]) * b,
        (1, _) => b.matmul(f.dy.unsqueeze(&[-1])).squeeze(&[-1]),
        (_, 2) => f.dy.rows().gemm(No, b, Yes).reshape_like(a),
        _ => f.dy.matmul(b.t()),
    }
}

/// `dB = Aᵀ · dY`; for a matrix `B`, all leading axes of `A` and `dY` count as rows.
pub(super) fn mat_mul_b<'g>(f: &Forward<'g>) -> Expr<'g> {
    let (a, b) = (f.x[0], f.x[1]);
    match (a.rank(), b.rank()) {
        (_, 1) => a * f.dy.unsqueeze(&[-1]),
        (1, _) => a.unsqueeze(&[-1]) * f.dy.unsqueeze(&[-2]),
        (_, 2) => a.rows().gemm(Yes, f.dy.rows(), No),
        _ => a.t().matmul(f.dy),
    }
}

/// `dA = α · dY · B'ᵀ`, where `Y = α A' · B' + β C` and `'` stands for the transposition that `transA` and `transB` ask for.
pub(super) fn gemm_a<'g>(f: &Forward<'g>) -> Expr<'g> {
    let b = f.x[1];
    let da = match (f.int("transA", 0), f.int("transB", 0)) {
        (0, 0) => f.dy.gemm(No, b, Yes),
        (0, _) => f.dy.gemm(No, b, No),
        (_, 0) => b.gemm(No, f.dy, Yes),
        (_, _) => b.gemm(Yes, f.dy, Yes),
    };
    scaled(da, f.float("alpha", 1.0))
}

/// `dB = α · A'ᵀ · dY`
pub(super) fn gemm_b<'g>(f: &Forward<'g>) -> Expr<'g> {
    let a = f.x[0];
    let db = match (f.int("transA", 0), f.int("transB", 0)) {
        (0, 0) => a.gemm(Yes, f.dy, No),
        (_, 0) => a.gemm(No, f.dy, No),
        (0, _) => f.dy.gemm(Yes, a, No),
        (_, _) => f.dy.gemm(Yes, a, Yes),
    };
    scaled(db, f.float("alpha", 1.0))
}

/// `dC = β · dY`
pub(super) fn gemm_c<'g>(f: &Forward<'g>) -> Expr<'g> {
    scaled(f.dy, f.float("beta", 1.0))
}

#[expect(clippy::float_cmp, reason = "exactly one is the attribute's default")]
fn scaled(x: Expr<'_>, factor: f64) -> Expr<'_> {
    if factor == 1.0 { x } else { x * factor }
}
