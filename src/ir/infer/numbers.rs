//! What elementwise operators make of whole numbers that are followed symbolically.

use super::super::dim::Dim;
use super::super::dtype::DType;

/// What an operator makes of whole numbers; booleans are 0 and 1. `None` where that cannot be told.
pub(super) fn on_numbers(op: &str, operands: &[Dim]) -> Option<Dim> {
    match (op, operands) {
        ("Identity", [x]) => Some(x.clone()),
        ("Neg", [x]) => Some(-x),
        ("Not", [x]) => Some(&Dim::known(1) - x),
        ("Abs", [x]) => absolute(x),
        ("Relu", [x]) => Some(x.larger(&Dim::known(0))),
        ("Sign", [x]) => x.as_known().map(|x| Dim::known(x.signum())),
        ("Add", [a, b]) => checked(a, b, i64::checked_add).or_else(|| symbolic(a, b).then(|| a + b)),
        ("Sub", [a, b]) => checked(a, b, i64::checked_sub).or_else(|| symbolic(a, b).then(|| a - b)),
        ("Mul", [a, b]) => checked(a, b, i64::checked_mul).or_else(|| symbolic(a, b).then(|| a * b)),
        ("Div", [a, b]) => quotient(a, b),
        ("Mod", [a, b]) => remainder(a, b),
        ("And", [a, b]) => Some(a * b),
        ("Or", [a, b]) => Some(&(a + b) - &(a * b)),
        ("Xor", [a, b]) => Some(&(a + b) - &(&(a * b) * &Dim::known(2))),
        ("Equal", [a, b]) => decided(a == b, a.surely_differs(b)),
        ("Less", [a, b]) => decided(less(a, b), b.surely_at_most(a)),
        ("LessOrEqual", [a, b]) => decided(a.surely_at_most(b), less(b, a)),
        ("Greater", [a, b]) => decided(less(b, a), a.surely_at_most(b)),
        ("GreaterOrEqual", [a, b]) => decided(b.surely_at_most(a), less(a, b)),
        ("Where", [condition, x, y]) => match condition.as_known() {
            Some(0) => Some(y.clone()),
            Some(_) => Some(x.clone()),
            None => (x == y).then(|| x.clone()),
        },
        ("Max", [first, rest @ ..]) => Some(rest.iter().fold(first.clone(), |a, b| a.larger(b))),
        ("Min", [first, rest @ ..]) => Some(rest.iter().fold(first.clone(), |a, b| a.smaller(b))),
        ("Sum", [first, rest @ ..]) => Some(rest.iter().fold(first.clone(), |a, b| &a + b)),
        _ => None,
    }
}

fn less(a: &Dim, b: &Dim) -> bool {
    (a + &Dim::known(1)).surely_at_most(b)
}

pub(super) fn decided(yes: bool, no: bool) -> Option<Dim> {
    match (yes, no) {
        (true, _) => Some(Dim::known(1)),
        (_, true) => Some(Dim::known(0)),
        _ => None,
    }
}

fn absolute(x: &Dim) -> Option<Dim> {
    match x.as_known() {
        Some(x) => x.checked_abs().map(Dim::known),
        None => x.surely_not_negative().then(|| x.clone()),
    }
}

fn symbolic(a: &Dim, b: &Dim) -> bool {
    a.as_known().is_none() || b.as_known().is_none()
}

fn checked(a: &Dim, b: &Dim, compute: fn(i64, i64) -> Option<i64>) -> Option<Dim> {
    compute(a.as_known()?, b.as_known()?).map(Dim::known)
}

/// ONNX divides whole numbers towards 0, which is down where neither is negative.
fn quotient(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_known(), b.as_known()) {
        (_, Some(0)) => None,
        (Some(a), Some(b)) => a.checked_div(b).map(Dim::known),
        _ => a.exact_div(b).or_else(|| (a.surely_not_negative() && b.surely_not_negative()).then(|| a.floor_div(b))),
    }
}

/// The sign is the divisor's, or the dividend's with `fmod`: told only where both agree.
fn remainder(a: &Dim, b: &Dim) -> Option<Dim> {
    if b.as_known() == Some(0) || !b.surely_not_negative() || !a.surely_not_negative() {
        return None;
    }
    Some(a.modulo(b))
}

/// Whether a number certainly is what it seems in a type that may be too small for it.
pub(super) fn fits(element: &Dim, dtype: Option<DType>) -> bool {
    let known = element.as_known();
    match dtype {
        Some(DType::I64 | DType::Bool) => true,
        Some(DType::I32) => known.is_none_or(|n| i32::try_from(n).is_ok()),
        Some(DType::U32) => known.map_or_else(|| element.surely_not_negative(), |n| u32::try_from(n).is_ok()),
        Some(DType::U64) => element.surely_not_negative(),
        Some(DType::I16) => known.is_some_and(|n| i16::try_from(n).is_ok()),
        Some(DType::U16) => known.is_some_and(|n| u16::try_from(n).is_ok()),
        Some(DType::I8) => known.is_some_and(|n| i8::try_from(n).is_ok()),
        Some(DType::U8) => known.is_some_and(|n| u8::try_from(n).is_ok()),
        _ => false,
    }
}
