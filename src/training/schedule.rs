//! Learning-rate schedules, with the formulas of `get_constant_schedule_with_warmup`, `get_linear_schedule_with_warmup` and
//! `get_cosine_schedule_with_warmup` of transformers (`optimization.py`).

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::num;

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decay {
    /// It stays.
    Constant,
    /// It falls in a straight line to zero at the last step.
    #[default]
    Linear,
    /// It falls along half a cosine to zero at the last step.
    Cosine,
}

const DECAYS: [(&str, Decay); 3] = [("constant", Decay::Constant), ("linear", Decay::Linear), ("cosine", Decay::Cosine)];

impl FromStr for Decay {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let row = DECAYS.iter().find(|(name, _)| *name == text);
        row.map(|(_, decay)| *decay).ok_or_else(|| Error::mismatch("learning-rate schedule", "constant, linear or cosine", text))
    }
}

impl fmt::Display for Decay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = DECAYS.iter().find(|(_, decay)| decay == self);
        f.write_str(row.map(|(name, _)| *name).expect("the table has a row for every schedule"))
    }
}

/// The learning rate of every optimizer step of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// How the rate goes on after the warm-up.
    pub decay: Decay,
    /// The rate at the end of the warm-up.
    pub peak: f64,
    /// Optimizer steps over which the rate rises from zero in a straight line.
    pub warmup_steps: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of the optimizer step of this number, from 1. With a warm-up the rate of step 1 is 0: transformers sets the rate after a step.
    #[must_use]
    pub fn rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step.saturating_sub(1))
    }

    /// `current` steps have been taken.
    fn factor(&self, current: u64) -> f64 {
        if current < self.warmup_steps {
            return ratio(current, self.warmup_steps);
        }
        let (gone, length) = (current - self.warmup_steps, self.total_steps.saturating_sub(self.warmup_steps));
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => ratio(self.total_steps.saturating_sub(current), length),
            Decay::Cosine => (0.5 * (1.0 + (PI * ratio(gone, length)).cos())).max(0.0),
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    num::float_of(part) / num::float_of(whole.max(1))
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { decay, peak, warmup_steps, total_steps } = self;
        match decay {
            Decay::Constant => write!(f, "a constant learning rate of {peak} after {warmup_steps} steps of warm-up"),
            _ => write!(f, "a {decay} learning rate from {peak} over {total_steps} steps, {warmup_steps} of them warm-up"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_transformers() {
        struct Case(Decay, u64, u64, &'static [f64]);
        // Values printed by transformers 4.57: the rate in force at each optimizer step, base rate 1.
        for Case(decay, warmup_steps, total_steps, expected) in [
            Case(Decay::Constant, 0, 3, &[1.0, 1.0, 1.0, 1.0]),
            Case(Decay::Constant, 2, 4, &[0.0, 0.5, 1.0, 1.0]),
            Case(Decay::Linear, 0, 4, &[1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
            Case(Decay::Linear, 3, 12, &[0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0, 8.0 / 9.0, 7.0 / 9.0]),
            Case(Decay::Cosine, 0, 4, &[1.0, 0.853_553_390_593_273_8, 0.5, 0.146_446_609_406_726_2, 0.0]),
            Case(Decay::Cosine, 1, 3, &[0.0, 1.0, 0.5, 0.0]),
            Case(Decay::Linear, 5, 3, &[0.0, 0.2, 0.4, 0.6, 0.8, 0.0]),
        ] {
            let schedule = Schedule { decay, peak: 1.0, warmup_steps, total_steps };
            for (step, expected) in (1..).zip(expected) {
                let rate = schedule.rate(step);
                assert!((rate - expected).abs() < 1e-12, "{decay} {warmup_steps}/{total_steps} step {step}: {rate}, expected {expected}");
            }
        }
    }

    #[test]
    fn names_are_read_and_written() {
        for (name, decay) in DECAYS {
            assert_eq!(name.parse::<Decay>().ok(), Some(decay));
            assert_eq!(decay.to_string(), name);
        }
        assert_eq!(
            "polynomial".parse::<Decay>().unwrap_err().to_string(),
            "learning-rate schedule: expected constant, linear or cosine, found polynomial"
        );
    }
}
