//! Activation functions.

use crate::grad::Forward;
use crate::ir::Expr;

/// 1 where the condition holds, else 0, in the type of `like`.
fn indicator<'g>(condition: Expr<'g>, like: Expr<'g>) -> Expr<'g> {
    condition.cast(like.dtype())
}

fn above(x: Expr<'_>, number: f64) -> Expr<'_> {
    x.greater(x.same_type(number))
}

fn below(x: Expr<'_>, number: f64) -> Expr<'_> {
    x.less(x.same_type(number))
}

/// `dX = α dY` where `0 < Y < 1`, for `Y = min(1, max(0, αx + β))`.
pub(super) fn hard_sigmoid<'g>(f: &Forward<'g>) -> Expr<'g> {
    let inside = above(f.y, 0.0).and(below(f.y, 1.0));
    f.dy * (indicator(inside, f.dy) * f.float("alpha", 0.2))
}

/// `dX = dY` where `x > 0`, else `α dY`.
pub(super) fn leaky_relu<'g>(f: &Forward<'g>) -> Expr<'g> {
    above(f.x[0], 0.0).where_(f.dy, f.dy * f.float("alpha", 0.01))
}

/// `dX = dY` where `x > α`, else 0.
pub(super) fn thresholded_relu<'g>(f: &Forward<'g>) -> Expr<'g> {
    f.dy * indicator(above(f.x[0], f.float("alpha", 1.0)), f.dy)
}

/// `dX = dY` where `x > 0`, else `(Y + α) dY`, for `Y = α(eˣ - 1)`.
pub(super) fn elu<'g>(f: &Forward<'g>) -> Expr<'g> {
    above(f.x[0], 0.0).where_(f.dy, f.dy * (f.y + f.float("alpha", 1.0)))
}

/// `dX = γ dY` where `x > 0`, else `(Y + αγ) dY`, for `Y = γα(eˣ - 1)`.
pub(super) fn selu<'g>(f: &Forward<'g>) -> Expr<'g> {
    // The defaults are those of the operator's page.
    let (alpha, gamma) = (f.float("alpha", 1.673_263_192_176_818_8), f.float("gamma", 1.050_701_022_148_132_3));
    above(f.x[0], 0.0).where_(f.dy * gamma, f.dy * (f.y + alpha * gamma))
}

/// `dX = dY` where `x > 0`, else `(Y/α + 1) dY`, for `Y = α(e^(x/α) - 1)`.
pub(super) fn celu<'g>(f: &Forward<'g>) -> Expr<'g> {
    above(f.x[0], 0.0).where_(f.dy, f.dy * (f.y * (1.0 / f.float("alpha", 1.0)) + 1.0))
}

/// `dX = (t + x σ(x) (1 - t²)) dY`, with `t = tanh(softplus x)`.
pub(super) fn mish<'g>(f: &Forward<'g>) -> Expr<'g> {
    let x = f.x[0];
    let t = x.softplus().tanh();
    f.dy * (t + x * x.sigmoid() * (1.0 - t.square()))
}

/// `dX = (s + αY(1 - s)) dY`, with `s = σ(αx)`, for `Y = x s`.
pub(super) fn swish<'g>(f: &Forward<'g>) -> Expr<'g> {
    let alpha = f.float("alpha", 1.0);
    let s = (f.x[0] * alpha).sigmoid();
    f.dy * (s + alpha * f.y * (1.0 - s))
}

/// `dX = dY` where `x > 3`, 0 where `x < -3`, else `(x/3 + 1/2) dY`, for `Y = x min(1, max(0, x/6 + 1/2))`.
pub(super) fn hard_swish<'g>(f: &Forward<'g>) -> Expr<'g> {
    let x = f.x[0];
    let slope = x * (1.0 / 3.0) + 0.5;
    let slope = above(x, 3.0).where_(x.same_type(1.0), below(x, -3.0).where_(x.same_type(0.0), slope));
    f.dy * slope
}

/// `dX = (Φ(x) + x φ(x)) dY` with the normal distribution `Φ` and its density `φ`; or, for `approximate = "tanh"`,
/// `dX = ½ (1 + t + x (1 - t²) u') dY` with `t = tanh u`, `u = √(2/π) (x + 0.044715 x³)`. (Gelu-20)
pub(super) fn gelu<'g>(f: &Forward<'g>) -> Expr<'g> {
    use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, PI};
    let x = f.x[0];
    let squared = x.square();
    match f.str("approximate", "none") {
        "none" => {
            let density = (squared * -0.5).exp() * (1.0 / (2.0 * PI).sqrt());
            f.dy * (((x * FRAC_1_SQRT_2).erf() + 1.0) * 0.5 + x * density)
        }
        "tanh" => {
            let c = FRAC_2_PI.sqrt();
            let t = (x * (squared * (0.044_715 * c) + c)).tanh();
            let u_prime = squared * (3.0 * 0.044_715 * c) + c;
            f.dy * ((t + 1.0 + x * (1.0 - t.square()) * u_prime) * 0.5)
        }
        other => f.refuse(format!("approximate = {other:?}")),
    }
}

/// `dX = dY` where `|x| > λ`, else 0.
pub(super) fn shrink<'g>(f: &Forward<'g>) -> Expr<'g> {
    f.dy * indicator(above(f.x[0].abs(), f.float("lambd", 0.5)), f.dy)
}

/// `dX = dY` where the bounds left `x` as it was, else 0.
pub(super) fn clip<'g>(f: &Forward<'g>) -> Expr<'g> {
    f.dy * indicator(f.x[0].equal(f.y), f.dy)
}
