//! One run, from its options to its summary.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::{Duration, Instant};

use super::ahead::{Ahead, Next};
use super::best::Best;
use super::ending::{SMALLER, UNTRAINED, finished, is_exhausted, mean, ratio, smaller, whole};
use super::engine::{Engine, Opening};
use super::journal::{Journal, complete};
use super::material::Material;
use super::start::begin;
use super::{Event, Options, Plan, Summary};
use crate::contract::Input;
use crate::data::{Batches, Cursor};
use crate::error::{Error, ErrorKind, Result};
use crate::evaluate::reference::Reference;
use crate::evaluate::teacher::Teacher;
use crate::evaluate::{Evaluation, Evaluator};
use crate::num;
use crate::ort::{Feed, Runtime};
use crate::parallel::Ranks;
use crate::training::checkpoint::{Checkpoint, Conditions, Keep, Record};
use crate::training::metrics::StepRecord;
use crate::training::runs::Ended;
use crate::training::schedule::Schedule;

/// A run, ready to take steps.
pub(super) struct Run<'a> {
    runtime: &'a Runtime,
    options: &'a Options,
    material: &'a Material,
    ranks: &'a Ranks<'a>,
    report: &'a mut dyn FnMut(Event<'_>),
    engine: Engine,
    evaluator: Option<Evaluator<'a>>,
    best: Best,
    /// Optimizer steps between evaluations.
    eval_steps: Option<NonZeroU64>,
    reference: Option<Reference>,
    teacher: Option<Teacher>,
    conditions: Conditions,
    optimization: String,
    schedule: Schedule,
    grouping: Grouping,
    steps_per_epoch: usize,
    /// What is written, by the process that leads.
    journal: Option<Journal<'a>>,
    begun: u64,
    done: u64,
    cursor: Cursor,
    waiting: Vec<Waiting>,
    collected: Instant,
}

/// The batches of a step, of all processes together.
#[derive(Clone, Copy)]
struct Grouping {
    /// Rows of each.
    rows: usize,
    /// How many there are.
    batches: usize,
}

/// A step that was taken and whose outcome is still on the device.
struct Waiting {
    /// What is known of it.
    record: StepRecord,
    /// The lines of its rows in the data's file.
    lines: Vec<String>,
    /// The place in the data before it.
    cursor: Cursor,
}

/// How long people and files wait for news of a run.
const PATIENCE: Duration = Duration::from_millis(500);

/// What has been seen of the steps of this run.
#[derive(Default)]
struct Seen {
    losses: Vec<f32>,
    tokens: u64,
    /// The step of the last evaluation and what it found.
    evaluated: Option<(u64, Evaluation)>,
    /// The same of the best one.
    best: Option<(u64, Evaluation)>,
    saved: Option<u64>,
}

/// What came of the preparations.
pub(super) enum Prepared<'a> {
    /// Steps can be taken.
    Ready(Box<Run<'a>>),
    /// All steps were taken before; the bundle has the adapter. The process that leads tells of it.
    Finished(Option<Box<Summary>>),
}

impl<'a> Run<'a> {
    /// Opens the graphs and puts the state where the run starts.
    pub(super) fn prepare(
        runtime: &'a Runtime,
        options: &'a Options,
        material: &'a Material,
        ranks: &'a Ranks<'a>,
        report: &'a mut dyn FnMut(Event<'_>),
    ) -> Result<Prepared<'a>> {
        let mut run = ranks.agree(Self::opened(runtime, options, material, ranks, report))?;
        let asked = format!(
            "{:?}; {}; {} steps; peft-onnx {}",
            run.conditions,
            run.optimization,
            run.schedule.total_steps,
            env!("CARGO_PKG_VERSION")
        );
        ranks.same("what the processes of this run work on", &asked)?;
        let (done, watching) = (run.done, &options.watching);
        let is_unmeasured = done == run.schedule.total_steps
            && run.evaluator.is_some()
            && material.beginning.is_unmeasured(watching.goal.metric(), done)?;
        let is_over = (done == run.schedule.total_steps && !is_unmeasured) || is_exhausted(&run.best, watching);
        if let Some(kept) = material.beginning.run_that_goes_on().filter(|_| is_over) {
            let keep = run.keep(None);
            let summary = ranks.lead(|| complete(runtime, options, material, &mut kept.clone(), done, keep))?;
            return Ok(Prepared::Finished(summary.map(Box::new)));
        }
        if done >= run.schedule.total_steps && !is_unmeasured {
            let error = Error::mismatch("steps of this run", format!("more than the {done} of the checkpoint"), run.schedule.total_steps);
            return Err(ranks.alike(error.with_hint("raise `max_steps` or `epochs`")));
        }
        (run.report)(Event::Read);
        run.journal = ranks.lead(|| Journal::open(runtime, options, material, done))?;
        if let Some((reference, journal)) = run.reference.as_mut().zip(run.journal.as_ref()) {
            reference.keep_in(&journal.run.folder)?;
        }
        Ok(Prepared::Ready(Box::new(run)))
    }

    /// A run with its graphs open, which nothing was written of.
    fn opened(
        runtime: &'a Runtime,
        options: &'a Options,
        material: &'a Material,
        ranks: &'a Ranks<'a>,
        report: &'a mut dyn FnMut(Event<'_>),
    ) -> Result<Self> {
        let Material { bundle, source, dataset, beginning, .. } = material;
        let (manifest, batch_size) = (bundle.manifest(), options.data.batch_size);
        let is_parted = source.collation().parts_batches(dataset, batch_size.get());
        material.check_parts(is_parted)?;
        // Of several processes each step waits for the others anyway.
        let waiting = if ranks.are_several() { NonZeroUsize::MIN } else { options.waiting };
        if options.parts_state && !ranks.are_several() {
            tracing::warn!("`zero_stage 1` parts the optimizer's moments among processes, and there is one: it has them all");
        }
        let opening = Opening {
            computing: options.computing(),
            accumulation: options.accumulation,
            waiting,
            share: ranks.share(),
            parts_state: options.parts_state,
        };
        let mut engine = Engine::open(runtime, bundle, &opening, if is_parted { batch_size } else { NonZeroUsize::MIN })?;
        engine.configure(&options.optimizer, options.seed)?;
        let evaluator = material.evaluator(runtime, options)?;
        let reference = Reference::of(runtime, bundle, options.reference, options.device)?;
        let teacher = Teacher::of(runtime, bundle, options.device, &source.collation())?;
        let conditions = material.conditions(options, ranks.size())?;
        let (rows, batches) = (batch_size.get(), options.accumulation.get());
        let grouping = if engine.compares_all_rows() {
            Grouping { rows: rows.saturating_mul(ranks.size()), batches }
        } else {
            Grouping { rows, batches: batches.saturating_mul(ranks.size()) }
        };
        let batches = engine.batches(dataset, grouping.rows, options.data.order, source.learning_collation())?;
        let steps_per_epoch = batches.groups_per_epoch(grouping.batches);
        let mut schedule = options.schedule(steps_per_epoch)?;
        let (done, cursor) = begin(beginning, manifest, &mut engine, dataset.examples.len(), &conditions)?;
        if let Some(checkpoint) =
            beginning.checkpoint.as_ref().filter(|checkpoint| checkpoint.record.conditions.differs_in_steps(&conditions))
        {
            let left = (dataset.examples.len() - cursor.position).div_ceil(grouping.rows).div_ceil(grouping.batches);
            schedule = options.schedule_from(steps_per_epoch, checkpoint.record.step, num::wide(left), cursor.epoch)?;
        }
        if let Some(steps) = manifest.allocation_steps.filter(|steps| num::wide(*steps) != schedule.total_steps) {
            tracing::warn!("ranks are allocated over {steps} steps (total_step), and this run takes {}", schedule.total_steps);
        }
        let optimization = format!("{schedule}; {}", options.optimizer);
        beginning.compare(&optimization);
        let watching = &options.watching;
        let best = Best::of(watching.goal.clone(), beginning.evaluations(watching.goal.metric(), done)?);
        let eval_steps = watching.every.or_else(|| NonZeroU64::new(whole(steps_per_epoch)).filter(|_| watching.decides()));
        Ok(Self {
            runtime,
            options,
            material,
            ranks,
            report,
            engine,
            evaluator,
            best,
            eval_steps,
            reference,
            teacher,
            conditions,
            optimization,
            schedule,
            grouping,
            steps_per_epoch,
            journal: None,
            begun: done,
            done,
            cursor,
            waiting: vec![],
            collected: Instant::now(),
        })
    }

    fn batches(&self) -> Result<Batches<'a>> {
        let Material { dataset, source, .. } = self.material;
        self.engine.batches(dataset, self.grouping.rows, self.options.data.order, source.learning_collation())
    }

    /// Takes the steps. The process that leads tells of them.
    pub(super) fn go(self) -> Result<Option<Summary>> {
        let mut batches = self.batches()?;
        batches.seek(self.cursor);
        let (count, share) = (self.grouping.batches, self.ranks.share());
        std::thread::scope(|scope| self.take_steps(&Ahead::start(scope, batches, count, share)))
    }

    fn take_steps(mut self, groups: &Ahead) -> Result<Option<Summary>> {
        let plan = self.plan();
        (self.report)(Event::Started(&plan));
        let begun = self.material.beginning.run_that_goes_on().map(|_| self.done);
        let (started, mut seen) = (Instant::now(), Seen { saved: begun, ..Seen::default() });
        for step in self.done + 1..=self.schedule.total_steps {
            if let Err(error) = self.step(step, groups) {
                return Err(self.broken_off(error, &mut seen));
            }
            let (evaluates, saves) = (self.is_due(step, self.eval_steps), self.is_due(step, self.options.saving.every));
            let stops = self.ranks.stops();
            let is_last = step == self.schedule.total_steps;
            if self.engine.is_full() || evaluates || saves || stops || is_last || self.collected.elapsed() > PATIENCE {
                self.collect(&mut seen)?;
            }
            if evaluates {
                self.evaluate(step, &mut seen)?;
            }
            if stops {
                self.save(step, &mut seen)?;
                self.end(Ended::Interrupted, &seen);
                return Err(self.ranks.alike(self.interrupted(step)));
            }
            if saves {
                self.save(step, &mut seen)?;
            }
            if evaluates && is_exhausted(&self.best, &self.options.watching) {
                break;
            }
        }
        self.finish(seen, started.elapsed())
    }

    fn plan(&self) -> Plan {
        Plan {
            done: self.done,
            steps: self.schedule.total_steps,
            steps_per_epoch: self.steps_per_epoch,
            trainable: self.material.bundle.manifest().trainable_count,
            data: self.material.dataset.summary,
            rows_per_step: self.grouping.rows.saturating_mul(self.grouping.batches),
            processes: self.ranks.size(),
            learning_rate: self.schedule.peak,
            eval_rows: self.material.eval_data.as_ref().map(|data| data.summary.rows),
            eval_steps: self.eval_steps.map(NonZeroU64::get),
        }
    }

    fn is_due(&self, step: u64, every: Option<NonZeroU64>) -> bool {
        step < self.schedule.total_steps && every.is_some_and(|every| step.is_multiple_of(every.get()))
    }

    /// Takes a step and leaves its outcome on the device.
    fn step(&mut self, step: u64, groups: &Ahead) -> Result<()> {
        let started = Instant::now();
        let (next, failed) = match self.next(groups) {
            Ok(next) => (next, None),
            Err(error) => (Next::default(), Some(error)),
        };
        let learning_rate = self.schedule.rate(step);
        self.engine.step(self.ranks, failed.map_or(Ok(&next.group.batches), Err), step, learning_rate)?;
        let before = std::mem::replace(&mut self.cursor, next.after);
        self.done = step;
        let own: usize = next.group.batches.iter().map(|batch| batch.tokens).sum();
        let record = StepRecord {
            step,
            loss: f32::NAN,
            learning_rate,
            grad_norm: f32::NAN,
            tokens: self.ranks.count(own)?,
            seconds: started.elapsed().as_secs_f64(),
            epoch: ratio(step, self.steps_per_epoch),
            ..StepRecord::default()
        };
        let lines = next.group.lines.iter().map(ToString::to_string).collect();
        self.waiting.push(Waiting { record, lines, cursor: before });
        Ok(())
    }

    /// The batches of the next step.
    fn next(&mut self, groups: &Ahead) -> Result<Next> {
        let mut next = groups.next()?;
        if let Some(reference) = &mut self.reference {
            next.group.batches.iter_mut().try_for_each(|batch| reference.complete(batch).map(drop))?;
        }
        if let Some(teacher) = &mut self.teacher {
            next.group.batches.iter_mut().try_for_each(|batch| teacher.complete(batch))?;
        }
        Ok(next)
    }

    /// Brings the outcomes of the steps since the last time from the device, and tells of them.
    fn collect(&mut self, seen: &mut Seen) -> Result<()> {
        let outcomes = self.engine.collect()?;
        self.collected = Instant::now();
        for (waiting, outcome) in std::mem::take(&mut self.waiting).into_iter().zip(outcomes) {
            let (loss, grad_norm, diverged) = (outcome.loss, outcome.grad_norm, !outcome.is_finite() && !outcome.is_skipped);
            let record = StepRecord { loss, grad_norm, diverged, skipped: outcome.is_skipped, ..waiting.record };
            self.journal.as_mut().map_or(Ok(()), |journal| journal.step(&record))?;
            if diverged {
                if record.step == self.done {
                    (self.cursor, self.done) = (waiting.cursor, record.step - 1);
                }
                let error = self.diverged(&record, &waiting.lines, seen);
                return Err(self.ranks.alike(error));
            }
            seen.losses.push(outcome.loss);
            seen.tokens += num::wide(record.tokens);
            (self.report)(Event::Step(&record));
        }
        Ok(())
    }

    /// Measures the state after `step`, unless that was done. A state that is better than all before is saved where the bundle is to get the best one.
    fn evaluate(&mut self, step: u64, seen: &mut Seen) -> Result<()> {
        let Some(evaluator) = self.evaluator.as_mut().filter(|_| seen.evaluated.as_ref().is_none_or(|(last, _)| *last != step)) else {
            return Ok(());
        };
        let trainable = Feed::device(Input::Trainable.name(), self.engine.trainable()?);
        let evaluation = evaluator.measure_among(self.ranks, Some(trainable))?;
        let record = evaluation.record(step);
        self.journal.as_mut().map_or(Ok(()), |journal| journal.evaluation(&record))?;
        let value = self.best.goal().value(&evaluation)?;
        let before = self.best.step();
        let is_best = self.best.add(step, value);
        (self.report)(Event::Evaluated { step, evaluation: &evaluation, is_best: is_best && self.options.watching.decides() });
        if is_best {
            seen.best = Some((step, evaluation.clone()));
        }
        seen.evaluated = Some((step, evaluation));
        if is_best && self.options.watching.load_best {
            // The one before stays where it was due anyway.
            let superseded = before.filter(|before| !self.is_due(*before, self.options.saving.every));
            self.save_but(step, superseded, seen)?;
        }
        Ok(())
    }

    /// Writes a checkpoint of the state after `step`, unless that is saved.
    fn save(&mut self, step: u64, seen: &mut Seen) -> Result<()> {
        self.save_but(step, None, seen)
    }

    /// Which checkpoints stay.
    fn keep(&self, superseded: Option<u64>) -> Keep {
        let newest = self.options.saving.keep.map(NonZeroUsize::get);
        Keep { newest, best: self.best.step().filter(|_| self.options.watching.load_best), superseded }
    }

    /// The same; the checkpoint of another step is not needed any more.
    fn save_but(&mut self, step: u64, superseded: Option<u64>, seen: &mut Seen) -> Result<()> {
        if step == 0 {
            return Ok(());
        }
        let keep = self.keep(superseded);
        if seen.saved == Some(step) {
            // It may be better than one that was kept so far.
            return self.ranks.lead(|| self.journal.as_ref().map_or(Ok(()), |journal| journal.forget_all_but(keep))).map(drop);
        }
        let state = self.engine.state(self.ranks, step)?;
        let total = self.schedule.total_steps;
        let record = Record::new(step, total, self.cursor, self.conditions.clone(), self.optimization.clone());
        let record = record.scaling(self.engine.scale);
        let checkpoint = Checkpoint { record, state };
        let journal = &mut self.journal;
        let folder = self.ranks.lead(|| journal.as_mut().map(|journal| journal.save(&checkpoint, keep)).transpose()).map_err(smaller)?;
        seen.saved = Some(step);
        if let Some(folder) = folder.flatten() {
            (self.report)(Event::Saved(&folder));
        }
        Ok(())
    }

    fn end(&mut self, ended: Ended, seen: &Seen) {
        if let Some(journal) = &mut self.journal {
            journal.end(ended, seen.evaluated.as_ref().map(|(_, evaluation)| evaluation));
        }
    }

    /// The name of the run, where it is known.
    fn name(&self) -> &str {
        self.journal.as_ref().map_or("", |journal| &journal.run.name)
    }

    /// What is said of a step that could not be taken: the state before it is saved.
    fn broken_off(&mut self, error: Error, seen: &mut Seen) -> Error {
        if !self.ranks.are_settled() {
            return error;
        }
        if !self.waiting.is_empty()
            && let Err(earlier) = self.collect(seen)
        {
            return earlier;
        }
        let (step, is_new) = (self.done, seen.saved != Some(self.done) && self.done > self.begun);
        match self.save(step, seen) {
            Ok(()) if is_new && self.journal.is_some() => {
                let saved = format!("step {step} of run {} was saved; the same command with `resume` goes on from there", self.name());
                let before = error.hint().map(|hint| format!("{hint}; ")).unwrap_or_default();
                error.hinted(format!("{before}{saved}"))
            }
            _ => error,
        }
    }

    fn diverged(&mut self, record: &StepRecord, lines: &[String], seen: &mut Seen) -> Error {
        let what = match (record.loss.is_finite(), record.grad_norm.is_finite()) {
            (false, _) => format!("the loss is {} at step {}", record.loss, record.step),
            (true, false) => format!("the gradient is no number any more at step {} (loss {})", record.step, record.loss),
            (true, true) => format!("the update of step {} would leave numbers that are not finite (loss {})", record.step, record.loss),
        };
        let what = format!("{what}, with the rows of lines {} of {}", lines.join(", "), self.options.data.file.display());
        let saved = if self.done == self.begun {
            "there was no step before that could be saved".to_owned()
        } else {
            match self.save(self.done, seen) {
                Ok(()) if self.done < record.step => format!("the state after step {} was saved", self.done),
                Ok(()) => format!("the state after step {} was saved, without that step's update", self.done),
                Err(error) => format!("the state before could not be saved: {error}"),
            }
        };
        self.end(Ended::Diverged, seen);
        if let Some(error) = self.material.impossible(self.runtime, self.options, lines) {
            return error;
        }
        let is_update = record.loss.is_finite() && record.grad_norm.is_finite();
        let advice = if record.step == 1 && !is_update { UNTRAINED } else { SMALLER };
        Error::from(ErrorKind::Diverged(what)).with_hint(format!("{saved}, and the bundle's adapter is what it was; {advice}"))
    }

    fn interrupted(&self, step: u64) -> Error {
        let name = self.name();
        let hint = format!("step {step} of run {name} was saved; the same command with `resume` goes on from there");
        Error::from(ErrorKind::Interrupted).with_hint(hint)
    }

    fn finish(mut self, mut seen: Seen, time: Duration) -> Result<Option<Summary>> {
        let last = self.done;
        self.evaluate(last, &mut seen)?;
        self.save(last, &mut seen)?;
        let stopped_early = last < self.schedule.total_steps;
        let Self { material, journal, engine, evaluator, reference, teacher, options, best, .. } = self;
        // All is saved: what computed the steps makes room before another graph is read.
        drop((engine, evaluator, reference, teacher));
        let Some(mut journal) = journal else { return Ok(None) };
        let Summary { run, adapter, kept, .. } = finished(&material.bundle, &mut journal.run, last, &options.watching)?;
        if options.watching.load_best && best.step().is_some_and(|step| step != kept) {
            tracing::warn!("step {} was better than step {kept}, but there is no checkpoint of it", best.step().unwrap_or_default());
        }
        let tenth = seen.losses.len().div_ceil(10);
        let evaluation =
            [seen.evaluated, seen.best].into_iter().flatten().find(|(step, _)| *step == kept).map(|(_, evaluation)| evaluation);
        journal.tell(evaluation.as_ref());
        Ok(Some(Summary {
            run,
            was_finished: false,
            steps: last,
            first_loss: mean(&seen.losses[..tenth]),
            loss: mean(&seen.losses[seen.losses.len() - tenth..]),
            tokens: seen.tokens,
            time,
            evaluation,
            adapter,
            kept,
            best: best.found.filter(|_| options.watching.decides()).map(|(_, value)| (best.goal().metric().to_owned(), value)),
            stopped_early,
            some_rows: material.some_measured(options.watching.samples),
        }))
    }
}
