//! How a training run looks to the one who waits for it: a bar on a terminal, lines elsewhere.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Global, output};
use crate::evaluate::Evaluation;
use crate::num;
use crate::training::metrics::StepRecord;
use crate::training::{Event, Plan};

/// Shows a run on standard error.
pub(super) struct Progress {
    form: Display,
    log_every: Option<NonZeroU64>,
    steps: u64,
    smooth: Smooth,
}

enum Display {
    Quiet,
    Lines,
    Bar(ProgressBar),
}

/// Averages over the last steps or so.
#[derive(Default)]
struct Smooth {
    loss: Option<f64>,
    tokens: u64,
    started: Option<Instant>,
    first_step: u64,
}

/// Lines of a run where there is no progress bar, if it was not said how many.
const LINES: u64 = 40;

/// The share of a new loss in the average: about the last ten steps count.
const NEW: f64 = 0.1;

impl Progress {
    /// A view of a run, in the form that goes with where standard error goes.
    pub(super) fn new(global: &Global, log_every: Option<NonZeroU64>) -> Self {
        let form = match (global.quiet, std::io::stderr().is_terminal()) {
            (true, _) => Display::Quiet,
            (false, true) => Display::Bar(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())),
            (false, false) => Display::Lines,
        };
        Self { form, log_every, steps: 0, smooth: Smooth::default() }
    }

    /// A view that shows nothing: of several processes one speaks for all.
    pub(super) fn silent() -> Self {
        Self { form: Display::Quiet, log_every: None, steps: 0, smooth: Smooth::default() }
    }

    /// Shows something that happened.
    pub(super) fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Read => {}
            Event::Started(plan) => self.start(plan),
            Event::Step(record) => self.step(record),
            Event::Evaluated { step, evaluation, is_best } => self.line(&evaluated(*step, evaluation, *is_best)),
            Event::Saved(folder) => self.line(&format!("saved {}", folder.display())),
        }
    }

    /// Leaves the terminal as it should be.
    pub(super) fn finish(&self) {
        if let Display::Bar(bar) = &self.form {
            bar.abandon();
        }
    }

    fn start(&mut self, plan: &Plan) {
        self.steps = plan.steps;
        self.smooth = Smooth { started: Some(Instant::now()), first_step: plan.done, ..Smooth::default() };
        for line in description(plan) {
            self.line(&line);
        }
        if let Display::Bar(bar) = &self.form {
            // The message is ours: indicatif's own rate is in steps, and its estimate starts anew with every burst.
            let style = ProgressStyle::with_template("{bar:28} {pos}/{len}  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
            bar.set_length(plan.steps);
            bar.set_position(plan.done);
        }
    }

    fn step(&mut self, record: &StepRecord) {
        self.smooth.add(record);
        let text = self.smooth.text(record, self.steps);
        match &self.form {
            Display::Bar(bar) => {
                bar.set_position(record.step);
                bar.set_message(text);
            }
            Display::Lines if self.is_due(record.step) => {
                output::note(&format!("step {}/{}  {text}", record.step, self.steps));
            }
            Display::Quiet | Display::Lines => {}
        }
    }

    fn is_due(&self, step: u64) -> bool {
        let every = self.log_every.map_or_else(|| self.steps.div_ceil(LINES), NonZeroU64::get).max(1);
        step.is_multiple_of(every) || step == self.steps || step == 1
    }

    fn line(&self, text: &str) {
        match &self.form {
            Display::Quiet => {}
            Display::Lines => output::note(text),
            Display::Bar(bar) => bar.suspend(|| output::note(text)),
        }
    }
}

impl Smooth {
    fn add(&mut self, record: &StepRecord) {
        let loss = f64::from(record.loss);
        self.loss = Some(self.loss.map_or(loss, |mean| mean + NEW * (loss - mean)));
        self.tokens += num::wide(record.tokens);
    }

    /// The loss, what is going on, and how long it will take.
    fn text(&self, record: &StepRecord, steps: u64) -> String {
        let mut text = format!("loss {:.4} (avg {:.4})", record.loss, self.loss.unwrap_or_default());
        let Some(passed) = self.started.map(|started| started.elapsed()).filter(|passed| !passed.is_zero()) else { return text };
        #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = self.tokens as f64 / passed.as_secs_f64();
        let taken = record.step.saturating_sub(self.first_step).max(1);
        let each = passed / u32::try_from(taken).unwrap_or(u32::MAX);
        let left: Duration = each * u32::try_from(steps.saturating_sub(record.step)).unwrap_or(u32::MAX);
        let mut add = |part: std::fmt::Arguments<'_>| text.write_fmt(part).expect("writing to a string does not fail");
        add(format_args!("  lr {:.2e}  {rate:.0} tokens/s", record.learning_rate));
        if let Some(memory) = memory_stats::memory_stats() {
            add(format_args!("  {}", output::bytes(number(memory.physical_mem))));
        }
        add(format_args!("  epoch {:.2}  {} left", record.epoch, output::duration(left)));
        text
    }
}

fn description(plan: &Plan) -> Vec<String> {
    let data = &plan.data;
    let mut lines = vec![
        format!(
            "data: {} rows, {} tokens, {} labels; longest row {} tokens",
            output::count(number(data.rows)),
            output::count(number(data.tokens)),
            output::count(number(data.labels)),
            data.longest
        ),
        format!(
            "training {} parameters for {} steps of up to {} rows ({} steps an epoch), learning rate up to {}",
            output::count(number(plan.trainable)),
            plan.steps,
            plan.rows_per_step,
            plan.steps_per_epoch,
            plan.learning_rate
        ),
    ];
    if plan.processes > 1 {
        lines.push(format!("in {} processes, which part the rows of a step", plan.processes));
    }
    if let Some(rows) = plan.eval_rows {
        let when = plan.eval_steps.map_or_else(|| "at the end".to_owned(), |every| format!("every {every} steps and at the end"));
        lines.push(format!("measuring on {} rows, {when}", output::count(number(rows))));
    }
    if data.cut > 0 {
        lines.push(format!("{} rows were cut at the greatest length", data.cut));
    }
    if data.unlabelled > 0 {
        lines.push(format!("{} rows have no label that counts", data.unlabelled));
    }
    if plan.done > 0 {
        lines.push(format!("going on after step {}", plan.done));
    }
    lines
}

fn evaluated(step: u64, evaluation: &Evaluation, is_best: bool) -> String {
    format!("step {step}: eval {}{}", evaluation.line(), if is_best { "  (best so far)" } else { "" })
}

fn number(count: usize) -> u64 {
    num::wide(count)
}
