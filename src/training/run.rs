//! One run, from its options to its summary.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indexmap::IndexMap;

use super::engine::{Engine, Opening};
use super::graphs::{STATES, open as open_graph};
use super::start::Beginning;
use super::{Event, Options, Plan, Source, Summary, source};
use crate::adapter::config::Task;
use crate::contract::{GraphName, Input};
use crate::data::{Batches, Cursor, Dataset};
use crate::error::{Context, Error, ErrorKind, Place, Result};
use crate::evaluate::reference::Reference;
use crate::evaluate::{Evaluation, Evaluator, teacher};
use crate::export::adapter_file::{self, Frame};
use crate::export::{Bundle, Manifest, pending};
use crate::ort::{Feed, Runtime};
use crate::training::checkpoint::{self, Checkpoint, Conditions, Record};
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
        let source = Source::of(&bundle, data.tokenizer.as_deref())?
            .in_parts_of(options.micro_batch)
            .mapped(&data.columns)
            .cut(data.max_length)
            .packed(data.packing);
        let mut dataset = source.read_to_learn(&data.file)?;
        let mut eval_data = data.eval_file.as_ref().map(|file| source.read_to_measure(file, Some(&dataset))).transpose()?;
        for rows in std::iter::once(&mut dataset).chain(&mut eval_data) {
            teacher::fill(runtime, &bundle, options.device, &source.filling(), rows)?;
        }
        Ok(Self { bundle, source, dataset, eval_data, beginning })
    }

    /// The bundle, open.
    pub(super) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Keeps the names of classes that the data has and the bundle does not know yet: whoever reads the bundle later must number them alike.
    fn keep_class_names(&self, bundle: &Path) -> Result<()> {
        match &self.dataset.class_names {
            Some(names) if *names != self.bundle.manifest().class_names => {
                Manifest { class_names: names.clone(), ..self.bundle.manifest().clone() }.write(bundle)
            }
            _ => Ok(()),
        }
    }
}

/// A run, ready to take steps.
pub(super) struct Run<'a> {
    options: &'a Options,
    material: &'a Material,
    report: &'a mut dyn FnMut(Event<'_>),
    engine: Engine,
    evaluator: Option<Evaluator<'a>>,
    reference: Option<Reference>,
    conditions: Conditions,
    optimization: String,
    schedule: Schedule,
    steps_per_epoch: usize,
    kept: runs::Run,
    frame: Frame,
    metrics: Metrics,
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
    saved: Option<u64>,
}

/// What came of the preparations.
pub(super) enum Prepared<'a> {
    /// Steps can be taken.
    Ready(Box<Run<'a>>),
    /// All steps were taken before; the bundle has the adapter.
    Finished(Summary),
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
        let is_parted = source.filling().parts_batches(dataset, data.batch_size.get());
        let parts = if is_parted { data.batch_size } else { NonZeroUsize::MIN };
        let task = Task::from_name(&manifest.task);
        if is_parted
            && !manifest.graphs.contains_key(GraphName::Vjp.name())
            && task.is_some_and(|task| manifest.loss.needs_whole_batch(task))
        {
            let what = format!("running the loss {} on parts of a batch", manifest.loss.name);
            let error = Error::unsupported(what, "it compares all rows of a batch with each other");
            return Err(error.with_hint("leave --micro-batch-size out, and take a smaller --batch-size"));
        }
        let opening = Opening { device: options.device, accumulation: options.accumulation, waiting: options.waiting };
        let mut engine = Engine::open(runtime, bundle, &opening, parts)?;
        engine.configure(&options.optimizer, options.seed)?;
        let open = |purpose| open_graph(runtime, bundle, purpose, options.device);
        let evaluator = match eval_data {
            Some(dataset) => {
                let evaluator = Evaluator::new(open(GraphName::Evaluation)?, dataset, source.filling(), data.batch_size.get());
                let evaluator =
                    evaluator.narrowed_to(source.hard_prompt()).measuring(source.classes(), &names_of(dataset, manifest), &manifest.loss);
                Some(evaluator.compared_with(Reference::of(runtime, bundle, options.device)?))
            }
            None => None,
        };
        let reference = Reference::of(runtime, bundle, options.device)?;
        let conditions = Conditions {
            bundle: format!("{} with {} numbers on {}", manifest.method, manifest.trainable_count, manifest.base.fingerprint),
            data: checkpoint::file_hash(&data.file)?,
            rows: checkpoint::numbers_hash(source::numbers(dataset)),
            batch_size: data.batch_size.get(),
            accumulation,
            order: data.order,
            seed: options.seed,
        };
        let batches = engine.batches(dataset, data.batch_size.get(), data.order, source.filling())?;
        let steps_per_epoch = batches.groups_per_epoch(accumulation);
        let schedule = options.schedule(steps_per_epoch)?;
        let optimization = format!("{schedule}; {}", options.optimizer);
        let (done, cursor) = begin(beginning, manifest, &mut engine, dataset.examples.len(), &conditions, &optimization)?;
        if let Some(run) = beginning.run_that_goes_on().filter(|_| done == schedule.total_steps) {
            return Ok(Prepared::Finished(finished(bundle, run.clone(), done)?));
        }
        if done >= schedule.total_steps {
            let error = Error::mismatch("steps of this run", format!("more than the {done} of the checkpoint"), schedule.total_steps);
            return Err(error.with_hint("raise --max-steps or --epochs"));
        }
        material.keep_class_names(&options.bundle)?;
        let frame = Frame::read(&beginning.adapter, manifest)?;
        let (run, metrics) = beginning.open(options)?;
        let (begun, waiting, collected) = (done, vec![], Instant::now());
        Ok(Prepared::Ready(Box::new(Self {
            options,
            material,
            report,
            engine,
            evaluator,
            reference,
            conditions,
            optimization,
            schedule,
            steps_per_epoch,
            kept: run,
            frame,
            metrics,
            begun,
            done,
            cursor,
            waiting,
            collected,
        })))
    }

    /// Takes the steps.
    pub(super) fn go(mut self, stop: &AtomicBool) -> Result<Summary> {
        let data = &self.options.data;
        let Material { dataset, source, .. } = self.material;
        let mut batches = self.engine.batches(dataset, data.batch_size.get(), data.order, source.filling())?;
        batches.seek(self.cursor);
        let plan = self.plan();
        (self.report)(Event::Started(&plan));
        let begun = self.material.beginning.run_that_goes_on().map(|_| self.done);
        let (started, mut seen) = (Instant::now(), Seen { saved: begun, ..Seen::default() });
        for step in self.done + 1..=self.schedule.total_steps {
            self.step(step, &mut batches)?;
            let (evaluates, saves) = (self.is_due(step, self.options.eval_steps), self.is_due(step, self.options.saving.every));
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
                self.end(Ended::Interrupted);
                return Err(self.interrupted(step));
            }
            if saves {
                self.save(step, &mut seen)?;
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
        }
    }

    fn is_due(&self, step: u64, every: Option<NonZeroU64>) -> bool {
        step < self.schedule.total_steps && every.is_some_and(|every| step.is_multiple_of(every.get()))
    }

    /// Takes a step and leaves its outcome on the device.
    fn step(&mut self, step: u64, batches: &mut Batches<'_>) -> Result<()> {
        let started = Instant::now();
        let mut group = batches.next_group(self.options.accumulation.get())?;
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
        (self.cursor, self.done) = (batches.cursor(), step);
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
            if diverged {
                if record.step == self.done {
                    (self.cursor, self.done) = (waiting.cursor, record.step - 1);
                }
                return Err(self.diverged(&record, &waiting.lines, seen));
            }
            seen.losses.push(outcome.loss);
            seen.tokens += u64::try_from(record.tokens).unwrap_or_default();
            (self.report)(Event::Step(&record));
        }
        Ok(())
    }

    fn evaluate(&mut self, step: u64, seen: &mut Seen) -> Result<()> {
        if let Some(evaluator) = &mut self.evaluator {
            let evaluation = evaluator.measure(Some(Feed::device(Input::Trainable.name(), self.engine.trainable()?)))?;
            self.metrics.write(&evaluation.record(step))?;
            (self.report)(Event::Evaluated { step, evaluation: &evaluation });
            seen.evaluated = Some((step, evaluation));
        }
        Ok(())
    }

    /// Writes a checkpoint of the state after `step`, unless that is saved.
    fn save(&mut self, step: u64, seen: &mut Seen) -> Result<()> {
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
        let keep = self.options.saving.keep.map(NonZeroUsize::get);
        let folder = self.kept.checkpoints()?.write(&checkpoint, keep, &adapter)?;
        seen.saved = Some(step);
        (self.report)(Event::Saved(&folder));
        Ok(())
    }

    /// Keeps how the run ended. That is said nowhere else but in a list of runs: it is no reason to fail.
    fn end(&mut self, ended: Ended) {
        if let Err(error) = self.kept.end(Some(ended)) {
            tracing::warn!("the end of run {} could not be recorded: {error}", self.kept.name);
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
        self.end(Ended::Diverged);
        let is_update = record.loss.is_finite() && record.grad_norm.is_finite();
        let advice = if record.step == 1 && !is_update { UNTRAINED } else { SMALLER };
        Error::from(ErrorKind::Diverged(what)).with_hint(format!("{saved}, and the bundle's adapter is what it was; {advice}"))
    }

    fn interrupted(&self, step: u64) -> Error {
        let name = &self.kept.name;
        let hint = format!("step {step} of run {name} was saved; the same command with --resume goes on from there");
        Error::from(ErrorKind::Interrupted).with_hint(hint)
    }

    fn finish(mut self, mut seen: Seen, time: Duration) -> Result<Summary> {
        let last = self.schedule.total_steps;
        self.evaluate(last, &mut seen)?;
        self.save(last, &mut seen)?;
        let Self { material, kept, engine, evaluator, reference, .. } = self;
        // All is saved: what computed the steps makes room before another graph is read.
        drop((engine, evaluator, reference));
        let Summary { run, adapter, .. } = finished(&material.bundle, kept, last)?;
        let tenth = seen.losses.len().div_ceil(10);
        Ok(Summary {
            run,
            was_finished: false,
            steps: last,
            first_loss: mean(&seen.losses[..tenth]),
            loss: mean(&seen.losses[seen.losses.len() - tenth..]),
            tokens: seen.tokens,
            time,
            evaluation: seen.evaluated.map(|(_, evaluation)| evaluation),
            adapter,
        })
    }
}

/// What to do about an update that left the range of numbers.
const SMALLER: &str = "try a smaller --learning-rate, a longer --warmup-steps or a smaller --max-grad-norm";

/// What to do about a loss that was no number before anything was learnt.
const UNTRAINED: &str = "nothing was learnt before, so it is not the learning rate: the model itself computes no number for these rows, because of what \
                         they hold or because its weights are not all finite (`peft-onnx eval` on each row tells which)";

/// Puts the state where the run starts, and gives the steps taken and the place in the data.
fn begin(
    beginning: &Beginning,
    manifest: &Manifest,
    engine: &mut Engine,
    rows: usize,
    conditions: &Conditions,
    optimization: &str,
) -> Result<(u64, Cursor)> {
    let Some(Checkpoint { record, .. }) = &beginning.checkpoint else {
        let start = adapter_file::read(&beginning.adapter, manifest)?;
        finite(&start, manifest).in_file(&beginning.adapter)?;
        engine.write(Input::Trainable.name(), start)?;
        return Ok((0, Cursor::default()));
    };
    record.conditions.check(conditions)?;
    let cursor = record.place_in(rows)?;
    if record.optimization != optimization {
        tracing::warn!("the checkpoint's run had {}; this one continues with {optimization}", record.optimization);
    }
    for part in STATES {
        let values = beginning.checkpoint.as_ref().map(|checkpoint| checkpoint.part(part.input, manifest.trainable_count));
        engine.write(part.input, values.transpose()?.unwrap_or_default().to_vec())?;
    }
    Ok((record.step, cursor))
}

/// Refuses an adapter with numbers that are not finite.
fn finite(vector: &[f32], manifest: &Manifest) -> Result<()> {
    let Some(place) = vector.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let slot = manifest.trainable.iter().rev().find(|slot| slot.offset <= place);
    let error = Error::invalid(format!("a number to start from is {}", vector[place]));
    let place = Place::Tensor(slot.map(|slot| slot.name.clone()).unwrap_or_default());
    Err(error.at(place).with_hint("training cannot continue from there: `--restart` begins with the adapter that `inject` wrote"))
}

/// Puts the adapter of a run's last checkpoint into the bundle, unless it is there.
fn finished(bundle: &Bundle, mut run: runs::Run, step: u64) -> Result<Summary> {
    if run.record.ended != Some(Ended::Finished) {
        let hint = format!("step {step} of run {} is saved: the same command with --resume puts it into the bundle", run.name);
        pending::follow(bundle.folder(), &pending::Source { run: run.name.clone(), step }).hint(hint)?;
        bundle.renew_inference()?;
        if let Err(error) = run.end(Some(Ended::Finished)) {
            tracing::warn!("the end of run {} could not be recorded: {error}", run.name);
        }
    }
    Ok(Summary {
        run: run.name,
        was_finished: true,
        steps: step,
        first_loss: None,
        loss: None,
        tokens: 0,
        time: Duration::ZERO,
        evaluation: None,
        adapter: bundle.folder().join(adapter_file::FILE),
    })
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "numbers of steps are far below 2^53")]
fn ratio(step: u64, of: usize) -> f64 {
    step as f64 / of.max(1) as f64
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a mean for people")]
fn mean(losses: &[f32]) -> Option<f32> {
    let sum: f64 = losses.iter().copied().map(f64::from).sum();
    (!losses.is_empty()).then(|| (sum / losses.len() as f64) as f32)
}

/// The names of classes that predictions are told by: those of the data, else the bundle's.
fn names_of(dataset: &Dataset, manifest: &Manifest) -> Vec<String> {
    dataset.class_names.clone().unwrap_or_else(|| manifest.class_names.clone())
}
