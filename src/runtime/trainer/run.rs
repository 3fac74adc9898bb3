//! One run, from its options to its summary.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::engine::{Engine, STATES, open as open_graph};
use super::{Event, METRICS, Options, Plan, Resume, Source, Summary, source};
use crate::error::{Error, ErrorKind, Result};
use crate::export::Manifest;
use crate::runtime::adapter_file;
use crate::runtime::checkpoint::{self, Checkpoint, Checkpoints, Conditions, Record};
use crate::runtime::data::{Batches, Cursor, Dataset};
use crate::runtime::evaluate::{Evaluation, Evaluator};
use crate::runtime::metrics::{Metrics, StepRecord};
use crate::runtime::schedule::Schedule;
use crate::runtime::session::{Feed, Runtime};

/// What a run works on.
pub(super) struct Material {
    manifest: Manifest,
    source: Source,
    dataset: Dataset,
    eval_data: Option<Dataset>,
}

impl Material {
    /// Reads the manifest and the data.
    pub(super) fn read(options: &Options) -> Result<Self> {
        options.optimizer.check()?;
        let manifest = Manifest::read(&options.bundle)?;
        let data = &options.data;
        let source = Source::of(&options.bundle, &manifest, data.tokenizer.as_deref())?.cut(data.max_length).packed(data.packing);
        let dataset = source.read_to_learn(&data.file)?;
        let eval_data = data.eval_file.as_ref().map(|file| source.read_to_measure(file, Some(&dataset))).transpose()?;
        Ok(Self { manifest, source, dataset, eval_data })
    }

    /// Keeps the names of classes that the data has and the bundle does not know yet: whoever reads the bundle later must number them alike.
    fn keep_class_names(&self, bundle: &Path) -> Result<()> {
        match &self.dataset.class_names {
            Some(names) if *names != self.manifest.class_names => {
                Manifest { class_names: names.clone(), ..self.manifest.clone() }.write(bundle)
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
    conditions: Conditions,
    optimization: String,
    schedule: Schedule,
    checkpoints: Checkpoints,
    metrics: Metrics,
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

impl<'a> Run<'a> {
    /// Opens the graphs and puts the state where the run starts.
    pub(super) fn prepare(
        runtime: &Runtime,
        options: &'a Options,
        material: &'a Material,
        report: &'a mut dyn FnMut(Event<'_>),
    ) -> Result<Self> {
        let Material { manifest, source, dataset, eval_data } = material;
        let (data, accumulation) = (&options.data, options.accumulation.get());
        let is_parted = source.filling().parts_batches(dataset, data.batch_size.get());
        let parts = if is_parted { data.batch_size } else { NonZeroUsize::MIN };
        let mut engine = Engine::open(runtime, manifest, options, parts)?;
        engine.configure(&options.optimizer, options.seed)?;
        let open = |purpose| open_graph(runtime, &options.bundle, manifest, purpose, options.device);
        let evaluator = match eval_data {
            Some(dataset) => Some(
                Evaluator::new(open("evaluation")?, dataset, source.filling(), data.batch_size.get()).narrowed_to(source.hard_prompt()),
            ),
            None => None,
        };
        let conditions = Conditions {
            bundle: format!("{} with {} numbers on {}", manifest.method, manifest.trainable_count, manifest.base.fingerprint),
            data: checkpoint::file_hash(&data.file)?,
            rows: checkpoint::numbers_hash(source::numbers(dataset)),
            batch_size: data.batch_size.get(),
            accumulation,
            order: data.order,
            seed: options.seed,
        };
        let schedule = options
            .schedule(engine.batches(dataset, data.batch_size.get(), data.order, source.filling())?.groups_per_epoch(accumulation))?;
        let checkpoints = Checkpoints::of(&options.bundle);
        let optimization = format!("{schedule}; {}", options.optimizer);
        let start = Start { conditions: &conditions, optimization: &optimization };
        let (done, cursor) = start.begin(options, manifest, &mut engine, &checkpoints)?;
        if done >= schedule.total_steps {
            let error = Error::mismatch("steps of this run", format!("more than the {done} of the checkpoint"), schedule.total_steps);
            return Err(error.with_hint("raise --max-steps or --epochs"));
        }
        material.keep_class_names(&options.bundle)?;
        let path = options.bundle.join(METRICS);
        let metrics = if done == 0 { Metrics::create(&path)? } else { Metrics::resume(&path, done)? };
        let (waiting, collected) = (vec![], Instant::now());
        Ok(Self {
            options,
            material,
            report,
            engine,
            evaluator,
            conditions,
            optimization,
            schedule,
            checkpoints,
            metrics,
            done,
            cursor,
            waiting,
            collected,
        })
    }

    /// Takes the steps.
    pub(super) fn go(mut self, stop: &AtomicBool) -> Result<Summary> {
        let data = &self.options.data;
        let Material { dataset, source, .. } = self.material;
        let mut batches = self.engine.batches(dataset, data.batch_size.get(), data.order, source.filling())?;
        batches.seek(self.cursor);
        let plan = self.plan(&batches);
        (self.report)(Event::Started(&plan));
        let (started, mut seen) = (Instant::now(), Seen::default());
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
                return Err(interrupted(step));
            }
            if saves {
                self.save(step, &mut seen)?;
            }
        }
        self.finish(seen, started.elapsed())
    }

    fn plan(&self, batches: &Batches<'_>) -> Plan {
        let accumulation = self.options.accumulation.get();
        Plan {
            done: self.done,
            steps: self.schedule.total_steps,
            steps_per_epoch: batches.groups_per_epoch(accumulation),
            trainable: self.material.manifest.trainable_count,
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
        let group = batches.next_group(self.options.accumulation.get())?;
        let learning_rate = self.schedule.rate(step);
        self.engine.step(&group, step, learning_rate)?;
        let record = StepRecord {
            step,
            loss: f32::NAN,
            learning_rate,
            grad_norm: f32::NAN,
            tokens: group.iter().map(|batch| batch.tokens).sum(),
            seconds: started.elapsed().as_secs_f64(),
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
            let record = StepRecord { loss: outcome.loss, grad_norm: outcome.grad_norm, ..waiting.record };
            self.metrics.write(&record)?;
            if !outcome.is_finite() {
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
            let evaluation = evaluator.measure(Some(Feed::device("trainable", self.engine.trainable()?)))?;
            self.metrics.write(&evaluation.record(step))?;
            (self.report)(Event::Evaluated { step, evaluation: &evaluation });
            seen.evaluated = Some((step, evaluation));
        }
        Ok(())
    }

    /// Writes the adapter and a checkpoint of the state after `step`.
    fn save(&mut self, step: u64, seen: &mut Seen) -> Result<PathBuf> {
        let adapter = adapter_file::write(&self.options.bundle, &self.material.manifest, &self.engine.read("trainable")?)?;
        if step == 0 || seen.saved == Some(step) {
            return Ok(adapter);
        }
        let state = STATES.iter().map(|part| Ok((part.input.to_owned(), self.engine.read(part.input)?)));
        let checkpoint = Checkpoint {
            record: Record::new(step, self.cursor, self.conditions.clone(), self.optimization.clone()),
            state: state.collect::<Result<_>>()?,
        };
        let folder = self.checkpoints.write(&checkpoint, self.options.saving.keep.map(NonZeroUsize::get))?;
        seen.saved = Some(step);
        (self.report)(Event::Saved(&folder));
        Ok(adapter)
    }

    fn diverged(&mut self, record: &StepRecord, lines: &[String], seen: &mut Seen) -> Error {
        let what = if record.loss.is_finite() {
            format!("the gradient is no number any more at step {} (loss {})", record.step, record.loss)
        } else {
            format!("the loss is {} at step {}", record.loss, record.step)
        };
        let what = format!("{what}, with the rows of lines {} of {}", lines.join(", "), self.options.data.file.display());
        let saved = match self.save(self.done, seen) {
            Ok(_) if self.done < record.step => format!("the state after step {} was saved", self.done),
            Ok(_) => format!("the state after step {} was saved, without that step's update", self.done),
            Err(error) => format!("the state before could not be saved: {error}"),
        };
        let error = Error::from(ErrorKind::Diverged(what));
        error.with_hint(format!("{saved}; try a smaller --learning-rate, a longer --warmup-steps or a smaller --max-grad-norm"))
    }

    fn finish(mut self, mut seen: Seen, time: Duration) -> Result<Summary> {
        let last = self.schedule.total_steps;
        self.evaluate(last, &mut seen)?;
        let adapter = self.save(last, &mut seen)?;
        let tenth = seen.losses.len().div_ceil(10);
        Ok(Summary {
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

/// What a run that starts compares with the checkpoint that it goes on from.
struct Start<'a> {
    conditions: &'a Conditions,
    optimization: &'a str,
}

impl Start<'_> {
    /// Puts the state where the run starts, and gives the steps taken and the place in the data.
    fn begin(&self, options: &Options, manifest: &Manifest, engine: &mut Engine, checkpoints: &Checkpoints) -> Result<(u64, Cursor)> {
        let checkpoint = match &options.resume {
            Resume::No => {
                engine.write("trainable", adapter_file::read(&options.bundle, manifest)?)?;
                checkpoints.put_aside()?;
                return Ok((0, Cursor::default()));
            }
            Resume::Newest => checkpoints.newest()?,
            Resume::From(folder) => Checkpoint::read(folder)?,
        };
        let record = &checkpoint.record;
        record.conditions.check(self.conditions)?;
        if record.optimization != self.optimization {
            tracing::warn!("the checkpoint's run had {}; this one goes on with {}", record.optimization, self.optimization);
        }
        for part in STATES {
            engine.write(part.input, checkpoint.part(part.input, manifest.trainable_count)?.to_vec())?;
        }
        Ok((record.step, record.cursor))
    }
}

fn interrupted(step: u64) -> Error {
    Error::from(ErrorKind::Interrupted).with_hint(format!("step {step} was saved; the same command with --resume goes on from there"))
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a mean for people")]
fn mean(losses: &[f32]) -> Option<f32> {
    let sum: f64 = losses.iter().copied().map(f64::from).sum();
    (!losses.is_empty()).then(|| (sum / losses.len() as f64) as f32)
}
