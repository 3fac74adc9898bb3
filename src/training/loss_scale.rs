//! The factor that keeps gradients of float16 within its range.
//!
//! As `torch.amp.GradScaler`, with its numbers: gradients of a loss that is [`FIRST`] times as large; half of that after a step whose gradient left the range, which changes nothing; twice as
//! much after [`PATIENCE`] steps without one. A power of two costs no digits.

use serde::{Deserialize, Serialize};

/// The first factor.
const FIRST: f32 = 65_536.0;
/// A gradient that leaves float16's range at this factor does so by itself.
const LEAST: f32 = 1.0;
/// Steps in a row, all of them made, after which the factor doubles.
const PATIENCE: u32 = 2000;

/// The factor and what it follows from: all that a run needs to go on with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    factor: f32,
    /// Steps since it changed.
    made: u32,
    /// Steps of the whole run that changed nothing.
    skipped: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { factor: FIRST, made: 0, skipped: 0 }
    }
}

impl LossScale {
    /// What the loss is multiplied with.
    #[must_use]
    pub fn factor(self) -> f32 {
        self.factor
    }

    /// The number that a step has for the optimizer, which counts those that were made.
    #[must_use]
    pub fn number_of(self, step: u64) -> u64 {
        step.saturating_sub(self.skipped).max(1)
    }

    /// Notes a step that was made.
    pub fn made(&mut self) {
        self.made += 1;
        if self.made == PATIENCE && (self.factor * 2.0).is_finite() {
            (self.factor, self.made) = (self.factor * 2.0, 0);
        }
    }

    /// Notes a step whose gradient was not finite, and says whether a smaller factor may help.
    pub fn missed(&mut self) -> bool {
        let helps = self.factor > LEAST;
        if helps {
            (self.factor, self.made, self.skipped) = (self.factor / 2.0, 0, self.skipped + 1);
        }
        helps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_halves_with_a_step_that_is_missed_and_doubles_after_many_that_are_made() {
        let mut scale = LossScale::default();
        assert!(scale.missed() && scale.missed());
        assert_eq!(
            (scale.factor().to_bits(), scale.number_of(3)),
            ((FIRST / 4.0).to_bits(), 1),
            "the third step is the first that is made"
        );
        (0..PATIENCE - 1).for_each(|_| scale.made());
        assert!(scale.factor() < FIRST / 2.0);
        scale.made();
        assert_eq!(scale.factor().to_bits(), (FIRST / 2.0).to_bits());
        let text = serde_json::to_string(&scale).expect("JSON");
        assert_eq!(serde_json::from_str::<LossScale>(&text).expect("what was written"), scale);
    }

    #[test]
    fn a_gradient_that_is_not_finite_by_itself_is_found_out() {
        let mut scale = LossScale::default();
        let halvings = (0..100).take_while(|_| scale.missed()).count();
        assert_eq!(halvings, 16);
    }
}
