//! Constant targets of views whose lengths have names.

use crate::ir::Dim;

/// The constant that reshapes `from` into `to`: 0 copies an axis, and one length may be left to `Reshape`.
pub(super) fn reshape_target(from: &[Dim], to: &[Dim]) -> Option<Vec<i64>> {
    let target: Vec<i64> = to
        .iter()
        .enumerate()
        .map(|(axis, length)| match length.as_known() {
            Some(known) => known,
            None if from.get(axis) == Some(length) => 0,
            None => -1,
        })
        .collect();
    let left = target.iter().filter(|&&length| length == -1).count();
    // A known length of 0 would be read as "copy".
    let is_empty = to.iter().chain(from).any(|length| length.as_known() == Some(0));
    (left <= 1 && !is_empty).then_some(target)
}

/// The constant that expands `from` to `to`: 1 keeps an axis.
pub(super) fn expand_target(from: &[Dim], to: &[Dim]) -> Option<Vec<i64>> {
    let new = to.len().checked_sub(from.len())?;
    let kept = |axis: usize| axis.checked_sub(new).map(|axis| &from[axis]);
    to.iter().enumerate().map(|(axis, length)| if kept(axis) == Some(length) { Some(1) } else { length.as_known() }).collect()
}
