//! How ranks are allocated while training: which singular values of which modules stay, of a budget that shrinks (Zhang et al., Adaptive Budget
//! Allocation for Parameter-Efficient Fine-Tuning, algorithm 1; PEFT `tuners/adalora/layer.py`, `RankAllocator`).

use std::ops::Range;

use crate::error::{Error, Result};
use crate::num;

/// When ranks are allocated. It says nothing about what an adapter computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Steps before the first allocation.
    pub tinit: usize,
    /// Steps behind the last one.
    pub tfinal: usize,
    /// Steps from one to the next.
    pub delta_t: usize,
    /// How slowly the mean of sensitivities moves.
    pub beta1: f64,
    /// How slowly the mean of their changes moves.
    pub beta2: f64,
    /// Steps of the training; PEFT loads no adapter without.
    pub total_step: usize,
}

impl Schedule {
    /// The step of the last allocation.
    #[must_use]
    pub fn last(&self) -> usize {
        self.total_step.saturating_sub(self.tfinal)
    }

    /// Ranks that are left at a step, of `initial` that shrink to `target` (`budget_schedule`): the cube of what is left of the phase of allocation.
    fn budget(&self, step: usize, initial: usize, target: usize) -> usize {
        if step <= self.tinit {
            return initial;
        }
        let phase = num::float(self.last().saturating_sub(self.tinit));
        let left = 1.0 - num::float(step - self.tinit) / phase;
        let (initial, target) = (num::float(initial), num::float(target));
        num::floor((initial - target) * left.powf(3.0) + target)
    }

    /// The steps at which the budget falls by one, in order; by several, the step is there several times.
    #[must_use]
    pub fn falls(&self, initial: usize, target: usize) -> Vec<usize> {
        let steps = self.tinit + 1..=self.last();
        let mut falls = vec![];
        for step in steps {
            let fallen = initial - self.budget(step, initial, target).min(initial);
            falls.resize(fallen.max(falls.len()), step);
        }
        falls
    }
}

/// The singular values of one module and their vectors, by their places in the trainable vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Triplet {
    /// Right singular vectors, `[rank, in_features]`.
    pub right: Range<usize>,
    /// Left singular vectors, `[out_features, rank]`.
    pub left: Range<usize>,
    /// Singular values, `[rank, 1]`.
    pub values: Range<usize>,
}

impl Triplet {
    /// How many singular values there are.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.values.len()
    }
}

/// What is allocated, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// When.
    pub schedule: Schedule,
    /// The mean rank of a module after the last allocation.
    pub target_r: usize,
    /// The modules, in the order of the trainable vector.
    pub triplets: Vec<Triplet>,
}

impl Allocation {
    /// All ranks before the first allocation.
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.triplets.iter().map(Triplet::rank).sum()
    }

    /// The steps at which one more rank is masked, in order.
    #[must_use]
    pub fn falls(&self) -> Vec<usize> {
        self.schedule.falls(self.ranks(), self.target_r * self.triplets.len())
    }

    /// Checks that there is something to allocate.
    ///
    /// # Errors
    /// A budget that does not shrink; a schedule without a step of allocation; decays that are none.
    pub fn check(&self) -> Result<()> {
        let Self { schedule, target_r, triplets } = self;
        let mean = self.ranks() / triplets.len().max(1);
        if *target_r >= mean {
            let error = Error::mismatch("target_r", format!("less than init_r = {mean}, the rank that is allocated from"), target_r);
            return Err(error.with_hint("without `allocate_ranks` every module keeps its rank"));
        }
        if schedule.last() < 2 || schedule.delta_t == 0 {
            let found = format!("total_step = {}, tfinal = {}, deltaT = {}", schedule.total_step, schedule.tfinal, schedule.delta_t);
            return Err(Error::mismatch("schedule of the allocation", "2 steps or more before tfinal, and deltaT from 1", found));
        }
        for (name, beta) in [("beta1", schedule.beta1), ("beta2", schedule.beta2)] {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(Error::mismatch(name, "a number between 0 and 1", beta));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `RankAllocator.budget_schedule` of PEFT 0.21 gives, printed by it.
    #[test]
    fn budgets_are_those_of_peft() {
        let schedule = Schedule { tinit: 2, tfinal: 3, delta_t: 1, beta1: 0.85, beta2: 0.85, total_step: 12 };
        let budgets: Vec<usize> = (0..=9).map(|step| schedule.budget(step, 24, 8)).collect();
        assert_eq!(budgets, BUDGETS);
        let falls = schedule.falls(24, 8);
        assert_eq!(falls.len(), 16);
        for (step, budget) in BUDGETS.iter().enumerate() {
            assert_eq!(falls.iter().filter(|fall| **fall <= step).count(), 24 - budget, "step {step}");
        }
    }

    const BUDGETS: [usize; 10] = [24, 24, 24, 18, 13, 10, 9, 8, 8, 8];

    type Change = fn(&mut Allocation);

    #[test]
    fn what_cannot_be_allocated_is_refused() {
        let schedule = Schedule { tinit: 0, tfinal: 0, delta_t: 1, beta1: 0.85, beta2: 0.85, total_step: 10 };
        let triplets = vec![Triplet { right: 0..8, left: 8..16, values: 16..20 }];
        let good = Allocation { schedule, target_r: 2, triplets };
        assert!(good.check().is_ok());
        let changes: [(Change, &str); 5] = [
            (|a| a.target_r = 4, "target_r"),
            (|a| a.schedule.delta_t = 0, "deltaT"),
            (|a| a.schedule.tfinal = 9, "tfinal"),
            (|a| a.schedule.beta1 = 1.0, "beta1"),
            (|a| a.schedule.beta2 = 0.0, "beta2"),
        ];
        for (change, word) in changes {
            let mut other = good.clone();
            change(&mut other);
            assert!(other.check().is_err_and(|error| error.to_string().contains(word)), "{word}");
        }
    }
}
