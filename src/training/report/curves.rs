//! The curves of runs, from their metrics.

use minijinja::{Value, context};

use super::chart::{self, Series};
use crate::error::Result;
use crate::training::best::Goal;
use crate::training::metrics::{self, Line};
use crate::training::runs::Run;

/// The share of a new loss in the average that is drawn.
const NEW: f64 = 0.1;

/// What was recorded of runs.
pub struct Curves {
    runs: Vec<(String, Vec<Line>)>,
}

impl Curves {
    /// Those of runs.
    ///
    /// # Errors
    /// If the metrics of one cannot be read.
    pub fn of(runs: &[Run]) -> Result<Self> {
        let runs = runs.iter().map(|run| Ok((run.name.clone(), metrics::lines(&run.metrics())?))).collect::<Result<_>>()?;
        Ok(Self { runs })
    }

    /// The average loss of each run's steps, and the loss on its evaluation data, which are those that people look at first.
    #[must_use]
    pub fn losses(&self) -> Vec<Series> {
        let train = self.each("train", "loss", false).into_iter().map(Series::smoothed(NEW));
        train.chain(self.each("eval", "loss", true)).filter(|series| !series.points.is_empty()).collect()
    }

    /// Every chart with its name: losses, metrics of the evaluation data, learning rate, gradient norm.
    pub(super) fn charts(&self) -> Vec<(String, String)> {
        let mut charts = vec![("loss".to_owned(), self.losses())];
        for name in self.measured().into_iter().filter(|name| name != "loss") {
            charts.push((format!("eval {name}"), self.each("eval", &name, true)));
        }
        for (name, key) in [("learning rate", "learning_rate"), ("gradient norm", "grad_norm")] {
            charts.push((name.to_owned(), self.each("train", key, false)));
        }
        charts
            .into_iter()
            .filter(|(_, series)| series.iter().any(|one| !one.points.is_empty()))
            .map(|(name, all)| (name, chart::svg(&all)))
            .collect()
    }

    /// The best value of every metric in each run.
    pub(super) fn best(&self) -> Vec<Value> {
        let of = |name: &String| {
            let values = self
                .best_of(name)
                .into_iter()
                .map(|best| best.map(|(step, value)| format!("{value:.4} (step {step})")).unwrap_or_default());
            context! { name, values => values.collect::<Vec<_>>() }
        };
        self.measured().iter().map(of).collect()
    }

    /// The best value of a metric in each run, and its step.
    #[must_use]
    pub fn best_of(&self, metric: &str) -> Vec<Option<(u64, f64)>> {
        let goal = Goal::of(metric);
        let better = |best: (u64, f64), next: (u64, f64)| if goal.is_better(next.1, best.1) { next } else { best };
        let of = |lines: &Vec<Line>| {
            let evaluations = lines.iter().filter(|line| line.split.is_some());
            evaluations.filter_map(|line| Some((line.step, line.value(metric)?))).reduce(better)
        };
        self.runs.iter().map(|(_, lines)| of(lines)).collect()
    }

    /// The names of all metrics, in the order in which they were recorded.
    #[must_use]
    pub fn measured(&self) -> Vec<String> {
        let mut names: Vec<String> = vec![];
        let evaluations = self.runs.iter().flat_map(|(_, lines)| lines).filter(|line| line.split.is_some());
        for (name, _) in evaluations.flat_map(Line::values) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// A number of each run's steps, or of its evaluations.
    fn each(&self, what: &str, key: &str, is_eval: bool) -> Vec<Series> {
        let one = |(name, lines): &(String, Vec<Line>)| {
            let lines = lines.iter().filter(|line| line.split.is_some() == is_eval);
            let points = lines.filter_map(|line| Some((float(line.step), line.value(key)?))).collect();
            let name = if self.runs.len() > 1 { format!("{what} {name}") } else { what.to_owned() };
            Series { name, points, has_marks: is_eval }
        };
        self.runs.iter().map(one).collect()
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "numbers of steps are far below 2^53")]
fn float(step: u64) -> f64 {
    step as f64
}
