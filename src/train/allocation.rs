//! The allocation of ranks behind an optimizer's step, as graph: what PEFT's `AdaLoraModel.update_and_allocate` does with the step's number from 1
//! (Zhang et al., Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, equations 8 to 12 and algorithm 1).

use std::ops::Range;

use crate::adapter::Allocation;
use crate::adapter::params::allocation::Triplet;
use crate::contract::Input;
use crate::ir::{Attr, Builder, DType, Dim, Expr};
use crate::num;

/// A step that the optimizer made.
#[derive(Clone, Copy)]
pub(super) struct Made<'g> {
    /// Its number from 1, int64, rank 0.
    pub number: Expr<'g>,
    /// The gradient that it followed, clipped, `[N]`.
    pub gradient: Expr<'g>,
    /// The trainable vector after it, `[N]`.
    pub trainable: Expr<'g>,
}

/// What became of a step.
pub(super) struct Allocated<'g> {
    /// The trainable vector, with singular values masked.
    pub trainable: Expr<'g>,
    /// What else goes around from step to step.
    pub states: [Kept<'g>; 3],
}

/// A part of the state.
pub(super) struct Kept<'g> {
    /// Its input.
    pub input: Input,
    /// Before the step.
    pub before: Expr<'g>,
    /// After it.
    pub next: Expr<'g>,
}

/// Writes the allocation behind a step. The state's inputs are added to the graph; they start at zero.
pub(super) fn write<'g>(b: &'g Builder, allocation: &Allocation, made: Made<'g>) -> Allocated<'g> {
    let vector = made.trainable.known_dims();
    let sensitivity = b.input(Input::Sensitivity.name(), DType::F32, &vector);
    let uncertainty = b.input(Input::Uncertainty.name(), DType::F32, &vector);
    let masked = b.input(Input::MaskedRanks.name(), DType::F32, &[Dim::known(num::int(allocation.ranks()))]);
    b.scoped("allocation", || {
        let [first, last, every] = [allocation.schedule.tinit, allocation.schedule.last(), allocation.schedule.delta_t].map(num::int);
        let (first, last) = (b.int(first), b.int(last));
        let is_open = made.number.less(last);
        let is_turn = made.number.modulo(b.int(every)).equal(b.int(0));
        let allocates = made.number.greater(first).and(is_open).and(is_turn).or(made.number.equal(last));

        // Equations 9 and 10; no step after the last allocation moves the means.
        let importance = (made.trainable * made.gradient).abs();
        let mean = |beta: f64, before: Expr<'g>, new: Expr<'g>| before * beta + new * (1.0 - beta);
        let smooth = mean(allocation.schedule.beta1, sensitivity, importance);
        let change = mean(allocation.schedule.beta2, uncertainty, (importance - smooth).abs());
        let (smooth, change) = (is_open.where_(smooth, sensitivity), is_open.where_(change, uncertainty));

        let scores = scores(allocation, smooth * change);
        let is_unimportant = scores.greater(threshold(allocation, made.number, scores)).logical_not();
        let masked_next = allocates.where_(is_unimportant.cast(DType::F32), masked);
        // Between two allocations singular values grow again; after the last one they stay masked.
        let masks = allocates.or(made.number.greater(last)).and(masked_next.greater(masked_next.same_type(0.0)));
        Allocated {
            trainable: with_masked_values(allocation, made.trainable, masks),
            states: [
                Kept { input: Input::Sensitivity, before: sensitivity, next: smooth },
                Kept { input: Input::Uncertainty, before: uncertainty, next: change },
                Kept { input: Input::MaskedRanks, before: masked, next: masked_next },
            ],
        }
    })
}

/// How important each singular value is, `[ranks]`: its own importance, and the mean ones of its two vectors (equation 8).
fn scores<'g>(allocation: &Allocation, importance: Expr<'g>) -> Expr<'g> {
    let part = |range: &Range<usize>| importance.slice(&[num::int(range.start)], &[num::int(range.end)], &[0]);
    let score = |triplet: &Triplet| {
        let rank = num::int(triplet.rank());
        let right = part(&triplet.right).reshape(&[rank, -1]).mean(&[1]).reshape(&[rank]);
        let left = part(&triplet.left).reshape(&[-1, rank]).mean(&[0]).reshape(&[rank]);
        part(&triplet.values) + (right + left)
    };
    let all: Vec<Expr<'g>> = allocation.triplets.iter().map(score).collect();
    match all.split_first() {
        Some((first, others)) => first.concat(others, 0),
        None => importance,
    }
}

/// The largest score that is masked: of so many in order as the budget has fallen by, the last one. Below all of them as long as it has not.
fn threshold<'g>(allocation: &Allocation, number: Expr<'g>, scores: Expr<'g>) -> Expr<'g> {
    let b = scores.b();
    let falls: Vec<i64> = allocation.falls().into_iter().map(num::int).collect();
    let fallen = number.greater_or_equal(b.ints(&falls)).cast(DType::I64).sum_all();
    let rank = b.ints(&[num::int(allocation.ranks())]);
    let ascending = b.op_n("TopK", &[Some(scores), Some(rank)], &[("largest", Attr::Int(0))], 2)[0];
    let last = ascending.gather((fallen - b.int(1)).max(b.int(0)), 0);
    fallen.greater(b.int(0)).where_(last, last.same_type(-1.0))
}

/// The trainable vector with 0 for the singular values that are masked.
fn with_masked_values<'g>(allocation: &Allocation, trainable: Expr<'g>, masks: Expr<'g>) -> Expr<'g> {
    let b = trainable.b();
    let places: Vec<i64> = allocation.triplets.iter().flat_map(|triplet| triplet.values.clone()).map(num::int).collect();
    let places = b.ints(&places);
    let values = trainable.gather(places, 0);
    let left = masks.where_(values.same_type(0.0), values);
    b.op("ScatterElements", &[trainable, places, left], &[("axis", Attr::Int(0))])
}
