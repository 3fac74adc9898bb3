//! What rules of several kinds write.

use crate::grad::Forward;
use crate::ir::{Attr, Expr};

/// The permutation that undoes another.
pub(super) fn inverse_of(perm: &[i64]) -> Vec<i64> {
    let mut places: Vec<(i64, i64)> = perm.iter().copied().zip(0..).collect();
    places.sort_unstable();
    places.into_iter().map(|(_, place)| place).collect()
}

/// The same operator with the same attributes on other inputs.
pub(super) fn with_attrs_of<'g>(f: &Forward<'g>, inputs: &[Option<Expr<'g>>], outputs: usize) -> Vec<Expr<'g>> {
    let attrs: Vec<(&str, Attr)> = f.node().attrs.iter().map(|(name, value)| (&**name, value.clone())).collect();
    f.b().op_n(f.op(), inputs, &attrs, outputs)
}
