//! One run, from its options to its summary.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indexmap::IndexMap;

use super::ahead::{Ahead, Group};
use super::best::Best;
use super::ending::{describe, environment, finished, is_exhausted, mean, measured, names_of, nothing_measured, ratio, report, whole};
use super::engine::{Engine, Opening};
use super::events::Events;
use super::graphs::{STATES, open as open_graph};
use super::options::EvalData;
use super::start::{Beginning, begin};
use super::{Event, Options, Plan, Source, Summary, fitting, need, source};
use crate::adapter::config::Task;
use crate::contract::{GraphName, Input};
use crate::data::{Cursor, Dataset};
use crate::error::{Error, ErrorKind, Result};
use crate::evaluate::reference::Reference;
use crate::evaluate::{Evaluation, Evaluator, teacher};
use crate::export::Bundle;
use crate::export::adapter_file::Frame;
use crate::num;
use crate::ort::{Feed, Runtime};
use crate::training::checkpoint::{self, Checkpoint, Conditions, Keep, Record};
use crate::training::metrics::{Metrics, StepRecord};
use crate::training::runs::{self, Ended};
use crate::training::schedule::Schedule;

/// What a run works on.
pub(super) struct Material {
    bundle: Bundle,
    source: Source,
    dataset: Dataset,
    eval_data: Option<Dataset>,
    beginning: Beginning,
}

impl Material {
    /// Reads the manifest, where the run starts, and the data.
    pub(super) fn read(runtime: &Runtime, options: &Options) -> Result<Self> {
        options.optimizer.check()?;
        let bundle = Bundle::open(&options.bundle, options.base.as_deref())?;
        let beginning = Beginning::find(options, bundle.manifest())?;
        let data = &options.data;
        let source = fitting::source(options, &bundle)?;
        let (mut dataset, mut eval_data) = match &data.eval {
            EvalData::HeldOut(held_out) => source.read_parted(&data.file, *held_out).map(|(kept, held)| (kept, Some(held)))?,
            EvalData::File(file) => {
                let dataset = source.read_to_learn(&data.file)?;
                let eval_data = source.read_to_measure(file, Some(&dataset))?;
                (dataset, Some(eval_data))
            }
            EvalData::Nothing => (source.read_to_learn(&data.file)?, None),
        };
        if let Some(rows) = &mut eval_data {
            rows.class_weights.clone_from(&dataset.class_weights);
        }
        for rows in std::iter::once(&mut dataset).chain(&mut eval_data) {
            teacher::fill(runtime, &bundle, options.device, &source.collation(), rows)?;
        }
        let rows = need::rows_at_a_time(&bundle, options, &dataset)?;
        Ok(Self { source: source.in_parts_of(rows), bundle, dataset, eval_data, beginning })
    }

    /// Says before the first step if it needs more memory than the machine has.
    pub(super) fn warn_of_memory(&self, options: &Options) {
        let batch = options.data.batch_size.get();
        need::warn(&self.bundle, &self.dataset, self.source.collation().micro_batch.unwrap_or(batch), batch);
    }

    /// The bundle, open.
    pub(super) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Keeps the names of classes that the data has and the bundle does not know yet: whoever reads the bundle later must number them alike.
    fn keep_class_names(&self, bundle: &Path) -> Result<()> {
        let manifest = self.bundle.manifest();
        let mut kept = manifest.clone();
        kept.class_names = self.dataset.class_names.clone().unwrap_or(kept.class_names);
        if manifest.loss.balances_classes {
            // Whoever measures the loss later weighs classes alike.
            kept.loss.class_weights.clone_from(&self.dataset.class_weights);
        }
        let is_known = kept.class_names == manifest.class_names && kept.loss == manifest.loss;
        if is_known { Ok(()) } else { kept.write(bundle) }
    }
}

/// A run, ready to take steps.
pub(super) struct Run<'a> {
    options: &'a Options,
    material: &'a Material,
    report: &'a mut dyn FnMut(Event<'_>),
    engine: Engine,
    evaluator: Option<Evaluator<'a>>,
    best: Best,
    /// Optimizer steps between evaluations.
    eval_steps: Option<NonZeroU64>,
    reference: Option<Reference>,
    conditions: Conditions,
    optimization: String,
    schedule: Schedule,
    steps_per_epoch: usize,
    kept: runs::Run,
    frame: Frame,
    metrics: Metrics,
    events: Option<Events>,
    /// What it computes with, for people.
    environment: Vec<(&'static str, String)>,
    begun: u64,
    done: u64,
    cursor: Cursor,
    waiting: Vec<Waiting>,
    collected: Instant,
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
    /// All steps were taken before; the bundle has the adapter.
    Finished(Box<Summary>),
}

impl<'a> Run<'a> {
    /// Opens the graphs and puts the state where the run starts.
    pub(super) fn prepare(
        runtime: &Runtime,
        options: &'a Options,
        material: &'a Material,
        report: &'a mut dyn FnMut(Event<'_>),
    ) -> Result<Prepared<'a>> {
        let Material { bundle, source, dataset, eval_data, beginning } = material;
        let manifest = bundle.manifest();
        let (data, accumulation) = (&options.data, options.accumulation.get());
        let is_parted = source.collation().parts_batches(dataset, data.batch_size.get());
        let parts = if is_parted { data.batch_size } else { NonZeroUsize::MIN };
        let task = Task::from_name(&manifest.task);
        if is_parted
            && !manifest.graphs.contains_key(GraphName::Vjp.name())
            && task.is_some_and(|task| manifest.loss.needs_whole_batch(task))
        {
            let what = format!("running the loss {} on parts of a batch", manifest.loss.name);
            let error = Error::unsupported(what, "it compares all rows of a batch with each other");
            return Err(error.with_hint("leave `micro_batch_size` out, and take a smaller `batch_size`"));
        }
        let opening = Opening { device: options.device, accumulation: options.accumulation, waiting: options.waiting };
        let mut engine = Engine::open(runtime, bundle, &opening, parts)?;
        engine.configure(&options.optimizer, options.seed)?;
        let open = |purpose| open_graph(runtime, bundle, purpose, options.device);
        let watching = &options.watching;
        let evaluator = match eval_data {
            Some(dataset) => {
                let evaluator = Evaluator::new(open(GraphName::Evaluation)?, dataset, source.collation(), data.batch_size.get());
                let evaluator =
                    evaluator.narrowed_to(source.hard_prompt()).measuring(source.classes(), &names_of(dataset, manifest), &manifest.loss);
                let evaluator = evaluator.spelled_by(source.tokenizer(), &manifest.loss);
                measured(&watching.goal, &evaluator.names())?;
                Some(evaluator.compared_with(Reference::of(runtime, bundle, options.reference, options.device)?))
            }
            None if watching.decides() => return Err(nothing_measured()),
            None => None,
        };
        let mut reference = Reference::of(runtime, bundle, options.reference, options.device)?;
        let conditions = Conditions {
            bundle: format!("{} with {} numbers on {}", manifest.method, manifest.trainable_count, manifest.base.fingerprint),
            data: checkpoint::file_hash(&data.file)?,
            rows: [
                &checkpoint::numbers_hash(source::numbers(dataset)),
                data.sampler.mark(),
                data.augmentation.mark(),
                options.reference.mark(),
            ]
            .concat(),
            batch_size: data.batch_size.get(),
            accumulation,
            order: data.order,
            seed: options.seed,
        };
        let batches = engine.batches(dataset, data.batch_size.get(), data.order, source.learning_collation())?;
        let steps_per_epoch = batches.groups_per_epoch(accumulation);
        let schedule = options.schedule(steps_per_epoch)?;
        let optimization = format!("{schedule}; {}", options.optimizer);
        let (done, cursor) = begin(beginning, manifest, &mut engine, dataset.examples.len(), &conditions, &optimization)?;
        let best = Best::of(watching.goal.clone(), beginning.evaluations(watching.goal.metric(), done)?);
        let is_over = done == schedule.total_steps || is_exhausted(&best, watching);
        if let Some(run) = beginning.run_that_goes_on().filter(|_| is_over) {
            return Ok(Prepared::Finished(Box::new(finished(bundle, &mut run.clone(), done, watching)?)));
        }
        if done >= schedule.total_steps {
            let error = Error::mismatch("steps of this run", format!("more than the {done} of the checkpoint"), schedule.total_steps);
            return Err(error.with_hint("raise `max_steps` or `epochs`"));
        }
        material.keep_class_names(&options.bundle)?;
        let frame = Frame::read(&beginning.adapter, manifest)?;
        let (run, metrics) = beginning.open(options)?;
        if let Some(reference) = &mut reference {
            reference.keep_in(&run.folder)?;
        }
        let (begun, waiting, collected) = (done, vec![], Instant::now());
        let eval_steps = watching.every.or_else(|| NonZeroU64::new(whole(steps_per_epoch)).filter(|_| watching.decides()));
        let events = options.tensorboard.then(|| Events::create(&run.folder, done)).transpose()?;
        Ok(Prepared::Ready(Box::new(Self {
            options,
            material,
            report,
            engine,
            evaluator,
            best,
            eval_steps,
            reference,
            conditions,
            optimization,
            schedule,
            steps_per_epoch,
            kept: run,
            frame,
            metrics,
            events,
            environment: environment(runtime, manifest, options.device),
            begun,
            done,
            cursor,
            waiting,
            collected,
        })))
    }

    /// Takes the steps.
    pub(super) fn go(self, stop: &AtomicBool) -> Result<Summary> {
        let data = &self.options.data;
        let Material { dataset, source, .. } = self.material;
        let mut batches = self.engine.batches(dataset, data.batch_size.get(), data.order, source.learning_collation())?;
        batches.seek(self.cursor);
        let count = self.options.accumulation.get();
        std::thread::scope(|scope| self.take_steps(&Ahead::start(scope, batches, count), stop))
    }

    fn take_steps(mut self, groups: &Ahead, stop: &AtomicBool) -> Result<Summary> {
        let plan = self.plan();
        (self.report)(Event::Started(&plan));
        let begun = self.material.beginning.run_that_goes_on().map(|_| self.done);
        let (started, mut seen) = (Instant::now(), Seen { saved: begun, ..Seen::default() });
        for step in self.done + 1..=self.schedule.total_steps {
            self.step(step, groups)?;
            let (evaluates, saves) = (self.is_due(step, self.eval_steps), self.is_due(step, self.options.saving.every));
            let stops = stop.load(Ordering::SeqCst);
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
                return Err(self.interrupted(step));
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
        let accumulation = self.options.accumulation.get();
        Plan {
            done: self.done,
            steps: self.schedule.total_steps,
            steps_per_epoch: self.steps_per_epoch,
            trainable: self.material.bundle.manifest().trainable_count,
            data: self.material.dataset.summary,
            rows_per_step: self.options.data.batch_size.get() * accumulation,
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
        let Group { batches: mut group, after } = groups.next()?;
        if let Some(reference) = &mut self.reference {
            group.iter_mut().try_for_each(|batch| reference.complete(batch))?;
        }
        let learning_rate = self.schedule.rate(step);
        self.engine.step(&group, step, learning_rate)?;
        let record = StepRecord {
            step,
            loss: f32::NAN,
            learning_rate,
            grad_norm: f32::NAN,
            tokens: group.iter().map(|batch| batch.tokens).sum(),
            seconds: started.elapsed().as_secs_f64(),
            epoch: ratio(step, self.steps_per_epoch),
            diverged: false,
        };
        let lines = group.iter().flat_map(|batch| &batch.lines).map(ToString::to_string).collect();
        self.waiting.push(Waiting { record, lines, cursor: self.cursor });
        (self.cursor, self.done) = (after, step);
        Ok(())
    }

    /// Brings the outcomes of the steps since the last time from the device, and tells of them.
    fn collect(&mut self, seen: &mut Seen) -> Result<()> {
        let outcomes = self.engine.collect()?;
        self.collected = Instant::now();
        for (waiting, outcome) in std::mem::take(&mut self.waiting).into_iter().zip(outcomes) {
            let (loss, grad_norm, diverged) = (outcome.loss, outcome.grad_norm, !outcome.is_finite());
            let record = StepRecord { loss, grad_norm, diverged, ..waiting.record };
            self.metrics.write(&record)?;
            self.events.as_mut().map_or(Ok(()), |events| events.step(&record))?;
            if diverged {
                if record.step == self.done {
                    (self.cursor, self.done) = (waiting.cursor, record.step - 1);
                }
                return Err(self.diverged(&record, &waiting.lines, seen));
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
        let evaluation = evaluator.measure(Some(Feed::device(Input::Trainable.name(), self.engine.trainable()?)))?;
        let record = evaluation.record(step);
        self.metrics.write(&record)?;
        self.events.as_mut().map_or(Ok(()), |events| events.evaluation(&record))?;
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

    /// The same; the checkpoint of another step is not needed any more.
    fn save_but(&mut self, step: u64, superseded: Option<u64>, seen: &mut Seen) -> Result<()> {
        if step == 0 || seen.saved == Some(step) {
            return Ok(());
        }
        let state: IndexMap<String, Vec<f32>> =
            STATES.iter().map(|part| Ok((part.input.to_owned(), self.engine.read(part.input)?))).collect::<Result<_>>()?;
        if let Some((part, _)) = state.iter().find(|(_, values)| values.iter().any(|value| !value.is_finite())) {
            let what = format!("the state after step {step} is not saved: {part} has numbers that are not finite");
            return Err(Error::from(ErrorKind::Diverged(what)).with_hint(SMALLER));
        }
        let total = self.schedule.total_steps;
        let record = Record::new(step, total, self.cursor, self.conditions.clone(), self.optimization.clone());
        let checkpoint = Checkpoint { record, state };
        let (frame, manifest) = (&self.frame, self.material.bundle.manifest());
        let adapter = |folder: &Path| frame.write(folder, manifest, &checkpoint.state[Input::Trainable.name()]);
        self.metrics.sync()?;
        let newest = self.options.saving.keep.map(NonZeroUsize::get);
        let keep = Keep { newest, best: self.best.step().filter(|_| self.options.watching.load_best), superseded };
        let folder = self.kept.checkpoints()?.write(&checkpoint, keep, &adapter)?;
        seen.saved = Some(step);
        (self.report)(Event::Saved(&folder));
        Ok(())
    }

    /// Keeps how the run ended. That is said nowhere else but in a list of runs: it is no reason to fail.
    fn end(&mut self, ended: Ended, seen: &Seen) {
        if let Err(error) = self.kept.end(ended) {
            tracing::warn!("the end of run {} could not be recorded: {error}", self.kept.name);
        }
        let (evaluation, manifest) = (seen.evaluated.as_ref().map(|(_, evaluation)| evaluation), self.material.bundle.manifest());
        report(&self.kept, manifest, &self.environment, &names_of(&self.material.dataset, manifest), evaluation);
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
        let is_update = record.loss.is_finite() && record.grad_norm.is_finite();
        let advice = if record.step == 1 && !is_update { UNTRAINED } else { SMALLER };
        Error::from(ErrorKind::Diverged(what)).with_hint(format!("{saved}, and the bundle's adapter is what it was; {advice}"))
    }

    fn interrupted(&self, step: u64) -> Error {
        let name = &self.kept.name;
        let hint = format!("step {step} of run {name} was saved; the same command with `resume` goes on from there");
        Error::from(ErrorKind::Interrupted).with_hint(hint)
    }

    fn finish(mut self, mut seen: Seen, time: Duration) -> Result<Summary> {
        let last = self.done;
        self.evaluate(last, &mut seen)?;
        self.save(last, &mut seen)?;
        let stopped_early = last < self.schedule.total_steps;
        let Self { material, kept: mut of_run, engine, evaluator, reference, options, best, environment, .. } = self;
        // All is saved: what computed the steps makes room before another graph is read.
        drop((engine, evaluator, reference));
        let Summary { run, adapter, kept, .. } = finished(&material.bundle, &mut of_run, last, &options.watching)?;
        if options.watching.load_best && best.step().is_some_and(|step| step != kept) {
            tracing::warn!("step {} was better than step {kept}, but there is no checkpoint of it", best.step().unwrap_or_default());
        }
        let tenth = seen.losses.len().div_ceil(10);
        let evaluation =
            [seen.evaluated, seen.best].into_iter().flatten().find(|(step, _)| *step == kept).map(|(_, evaluation)| evaluation);
        let manifest = material.bundle.manifest();
        let results = evaluation.as_ref().map(Evaluation::all).unwrap_or_default();
        describe(material.bundle.folder(), &results);
        report(&of_run, manifest, &environment, &names_of(&material.dataset, manifest), evaluation.as_ref());
        Ok(Summary {
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
        })
    }
}

/// What to do about an update that left the range of numbers.
const SMALLER: &str = "try a smaller `learning_rate`, a longer `warmup_steps` or a smaller `max_grad_norm`";

/// What to do about a loss that was no number before anything was learnt.
const UNTRAINED: &str = "nothing was learnt before, so it is not the learning rate: the model itself computes no number for these rows, because of what \
                         they hold or because its weights are not all finite (`peft-onnx eval` on each row tells which)";
