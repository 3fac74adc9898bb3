//! How far a work is that takes long.

use std::time::{Duration, Instant};

/// The target of what is said about how far a work is: an event of `tracing` at the level `INFO`, which the command line shows unless it is quiet.
pub const PROGRESS: &str = "peft_onnx::progress";

/// Nothing is said of a work that is done sooner.
const FIRST: Duration = Duration::from_secs(3);
/// How often it is said.
const EVERY: Duration = Duration::from_secs(10);

/// When it is time to say how far a work is.
#[derive(Debug)]
pub struct Pace {
    all: u64,
    started: Instant,
    due: Instant,
}

impl Pace {
    /// Of so much work, which begins now.
    #[must_use]
    pub fn of(all: u64) -> Self {
        let started = Instant::now();
        Self { all, started, due: started + FIRST }
    }

    /// How long the rest will take in this way, if it is time to say it, and there is a rest.
    pub fn due(&mut self, done: u64) -> Option<Duration> {
        let now = Instant::now();
        if now < self.due || done == 0 || done >= self.all {
            return None;
        }
        self.due = now + EVERY;
        let passed = (now - self.started).as_millis() * u128::from(self.all - done) / u128::from(done);
        Some(Duration::from_millis(u64::try_from(passed).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_of_long_work_now_and_then_how_long_the_rest_takes() {
        let mut pace = Pace::of(300);
        assert_eq!(pace.due(100), None, "it has just begun");
        let began = Instant::now().checked_sub(Duration::from_secs(20)).expect("the clock runs for longer");
        pace = Pace { started: began, due: began + FIRST, ..pace };
        let left = pace.due(100).expect("it is time");
        assert!((40.0..41.0).contains(&left.as_secs_f64()), "{left:?}");
        assert_eq!(pace.due(101), None, "it was said just now");
        pace.due = began;
        assert_eq!((pace.due(0), pace.due(300)), (None, None), "nothing is known, nothing is left");
    }
}
