//! Which step of a run is the best, by what was measured on the evaluation data.

use crate::error::{Error, Result};
use crate::evaluate::Evaluation;

/// Which values of a metric are the better ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Less,
    More,
}

use Better::{Less, More};

/// Every metric that is measured, and which of its values are better.
const METRICS: [(&str, Better); 26] = [
    ("loss", Less),
    ("perplexity", Less),
    ("mse", Less),
    ("mae", Less),
    ("kl", Less),
    ("teacher_mse", Less),
    ("wer", Less),
    ("cer", Less),
    ("accuracy", More),
    ("precision", More),
    ("recall", More),
    ("f1", More),
    ("f1_macro", More),
    ("f1_micro", More),
    ("mcc", More),
    ("pearson", More),
    ("spearman", More),
    ("average_precision", More),
    ("exact_match", More),
    ("cosine", More),
    ("recall@1", More),
    ("recall@10", More),
    ("mrr@10", More),
    ("ndcg@10", More),
    ("triplet_accuracy", More),
    ("margin", More),
];

/// The metric that decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    metric: String,
}

impl Default for Goal {
    fn default() -> Self {
        Self::of("loss")
    }
}

impl Goal {
    /// By a metric's name; Hugging Face's programs write `eval_` before it.
    #[must_use]
    pub fn of(metric: &str) -> Self {
        Self { metric: metric.strip_prefix("eval_").unwrap_or(metric).to_owned() }
    }

    /// The metric's name.
    #[must_use]
    pub fn metric(&self) -> &str {
        &self.metric
    }

    /// Whether one value is better than another. What is no number is never better, and always worse.
    #[must_use]
    pub fn is_better(&self, value: f64, than: f64) -> bool {
        let is_less = METRICS.iter().any(|(name, better)| *name == self.metric && *better == Less);
        !value.is_nan() && (than.is_nan() || if is_less { value < than } else { value > than })
    }

    /// Its value of an evaluation.
    ///
    /// # Errors
    /// If it was not measured, with what was.
    pub fn value(&self, evaluation: &Evaluation) -> Result<f64> {
        let all = evaluation.all();
        all.iter().find(|(name, _)| *name == self.metric).map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            Error::not_found("metric", self.metric.as_str()).with_hint(format!("measured are {}", names.join(", ")))
        })
    }
}

/// What is known of the evaluations of a run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Best {
    goal: Goal,
    /// The step and the value of the best one.
    pub(super) found: Option<(u64, f64)>,
    /// Evaluations since then.
    pub(super) since: usize,
}

impl Best {
    /// That of evaluations which were made already, in their order.
    pub(super) fn of(goal: Goal, evaluations: impl IntoIterator<Item = (u64, f64)>) -> Self {
        let mut best = Self { goal, found: None, since: 0 };
        for (step, value) in evaluations {
            best.add(step, value);
        }
        best
    }

    /// Adds an evaluation, and says whether it is the best so far.
    pub(super) fn add(&mut self, step: u64, value: f64) -> bool {
        let is_best = match self.found {
            None => !value.is_nan(),
            Some((_, best)) => self.goal.is_better(value, best),
        };
        if is_best {
            (self.found, self.since) = (Some((step, value)), 0);
        } else {
            self.since += 1;
        }
        is_best
    }

    pub(super) fn goal(&self) -> &Goal {
        &self.goal
    }

    pub(super) fn step(&self) -> Option<u64> {
        self.found.map(|(step, _)| step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy::TASKS;
    use crate::evaluate::{Meter, Scoring};

    #[test]
    fn of_every_metric_it_is_told_which_values_are_better() {
        for row in TASKS {
            for name in Meter::new(row.task, 2, &[], Scoring::default()).names() {
                assert!(METRICS.iter().any(|(known, _)| known == name), "{name} of {}", row.name);
            }
        }
    }

    #[test]
    fn the_best_is_the_first_of_the_best_values() {
        struct Row(&'static str, &'static [f64], Option<u64>, usize);
        for Row(metric, values, step, since) in [
            Row("loss", &[3.0, 2.0, 2.0, 2.5], Some(2), 2),
            Row("eval_loss", &[3.0, 2.0, 1.0], Some(3), 0),
            Row("f1_macro", &[0.5, 0.75, 0.75], Some(2), 1),
            Row("teacher_mse", &[0.5, 0.25, 0.75], Some(2), 1),
            Row("accuracy", &[f64::NAN, 0.5, f64::NAN], Some(2), 1),
            Row("loss", &[f64::NAN], None, 1),
            Row("loss", &[], None, 0),
        ] {
            let best = Best::of(Goal::of(metric), (1..).zip(values.iter().copied()));
            assert_eq!((best.step(), best.since), (step, since), "{metric} {values:?}");
        }
    }
}
