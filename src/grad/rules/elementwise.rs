//! Arithmetic whose rule is longer than a line.

use crate::grad::Forward;
use crate::ir::Expr;
use crate::num;

/// `dx = p xᵖ⁻¹ ⊙ dY`; the powers that models are made of are written without `Pow`, which is slow.
pub(super) fn pow_base<'g>(f: &Forward<'g>) -> Expr<'g> {
    let (x, p) = (f.x[0], f.x[1]);
    match f.number(1) {
        Some(2.0) => (2.0 * f.dy) * x,
        Some(3.0) => f.dy * (3.0 * x.square()),
        Some(1.0) => f.dy,
        Some(0.5) => f.dy * 0.5 / f.y,
        Some(-0.5) => f.dy * -0.5 * (f.y / x),
        Some(-1.0) => -f.dy * f.y.square(),
        // A zeroth power is 1 everywhere: its slope is 0, at 0 too, where `p xᵖ⁻¹` is no number.
        Some(0.0) => x.zeros_like(),
        Some(p) => f.dy * (p * x.pow(x.same_type(p - 1.0))),
        None => {
            let p = p.cast(x.dtype());
            let zero = p.same_type(0.0);
            f.dy * p.equal(zero).where_(zero, p * x.pow(p - 1.0))
        }
    }
}

/// `dp = xᵖ ln x ⊙ dY`, and 0 where `x` is 0.
pub(super) fn pow_exponent<'g>(f: &Forward<'g>) -> Expr<'g> {
    let x = f.x[0];
    let zero = x.same_type(0.0);
    f.dy * x.equal(zero).where_(zero, f.y * x.log())
}

/// `dxᵢ = dY / n` for the mean of `n` values.
pub(super) fn share<'g>(f: &Forward<'g>, _input: usize) -> Expr<'g> {
    f.dy * (1.0 / num::float(f.x.all().len()))
}

/// `dxᵢ = dY / k` where `xᵢ` is one of the `k` inputs that equal the extremum, else 0.
pub(super) fn extremum<'g>(f: &Forward<'g>, input: usize) -> Expr<'g> {
    let equals = |x: Expr<'g>| x.equal(f.y).cast(f.dy.dtype());
    let ties = f.x.all().into_iter().map(equals).reduce(|a, b| a + b);
    ties.map_or(f.dy, |ties| f.dy * (equals(f.x[input]) / ties))
}
