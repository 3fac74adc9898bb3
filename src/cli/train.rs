//! `peft-onnx train`

mod choices;
mod group;
mod samples;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use serde_json::json;

pub use choices::{BatchSampler, Change, PackingStrategy, ReportTo, RowsAtATime};

use group::Group;

use super::progress::Progress;
use super::{Columns, Global, config, output, signals, sizes};
use crate::adapter::methods;
use crate::data::{HeldOut, Order, Packing, ValSize};
use crate::error::{Context, Result};
use crate::evaluate::Evaluation;
use crate::evaluate::reference::Referee;
use crate::export::Manifest;
use crate::ort::Device;
use crate::parallel::Ranks;
use crate::train::precision::Precision;
use crate::training::runs::Runs;
use crate::training::schedule::Decay;
use crate::training::{
    self, DataOptions, EvalData, Goal, Length, MicroBatch, Optimizer, Options, Saving, Start, Summary, Warmup, Watching,
    batch_size_to_train,
};

const AFTER_HELP: &str = "\
Data files are jsonl, json, csv, tsv, parquet or txt, also .gz; - is standard input. What a row has depends on the task:
  {\"prompt\": ..., \"completion\": ...}           language models; only the completion is learnt
  {\"messages\": [{\"role\", \"content\"}, ...]}     a chat; only the assistant's words are learnt
  {\"text\": ...}                                language models; the whole text is learnt
  {\"text\": ..., \"label\": ...}                  seq-cls, regression; also text_pair, and labels for multi-label
  {\"anchor\": ..., \"positive\": ...}             embedding; also negative, or sentence1, sentence2, score
  {\"query\": ..., \"passage\": ..., \"label\": ..}  rerank
  {\"prompt\": ..., \"chosen\", \"rejected\"}      preference, reward
  {\"tokens\": [..], \"tags\": [..]}               token-cls
  {\"question\", \"context\", \"answers\"}         qa
  {\"image\" or \"audio\": FILE, \"label\": ...}   image-cls, audio-cls
  {\"input_ids\", \"attention_mask\", \"labels\"}  tokens, used as they are; labels of -100 do not count

Each run has its own folder in the bundle, runs/001, runs/002, ..: config.yaml (the options), metrics.jsonl (one line a step), report.html (curves),
checkpoints/step-N/ (PEFT folders). A run that ends well replaces the bundle's adapter. Ctrl-C saves a checkpoint first; --resume continues a stopped run bit for bit.

Several processes (a program with the feature mpi): mpirun -n 4 peft-onnx train BUNDLE --data FILE ... Batch size and accumulation are those of each process, as in
transformers: a step learns from processes x batch size x accumulation rows, and is the step of one process with so many times the accumulation.

Examples:
  peft-onnx train model.lora --data train.jsonl
  peft-onnx train model.lora --data train.jsonl --eval-data eval.jsonl --eval-steps 50 --epochs 2
  peft-onnx train model.lora --data train.jsonl --val-size 0.1 --epochs 10 --metric accuracy --early-stopping 2
  peft-onnx train model.lora --data train.jsonl --max-steps 500 --lr-scheduler cosine --save-steps 100
  peft-onnx train model.lora --data train.jsonl --max-steps 500 --resume
  peft-onnx train model.lora --config model.lora/runs/001/config.yaml --restart --run wide --learning-rate 1e-3
  peft-onnx runs  model.lora                    # compares them";

/// Options of measuring, saving and telling.
const WATCHING: &str = "Watching and saving";

/// Options that say where a run starts.
const START: &str = "Where to start (for a bundle that was trained)";

/// Options of `train`.
#[derive(Clone, Debug, Serialize, clap::Args)]
#[serde(rename_all = "kebab-case")]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The bundle that `peft-onnx inject` wrote
    #[arg(value_name = "BUNDLE")]
    #[serde(skip)]
    pub bundle: PathBuf,
    /// The model that the bundle was made of, if it moved
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// How it is trained.
    #[command(flatten)]
    #[serde(flatten)]
    pub training: Training,
}

/// Options of a training run, of every command that trains.
#[derive(Clone, Debug, Serialize, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[serde(rename_all = "kebab-case")]
pub struct Training {
    /// Options from a YAML file, by their long names (a run's config.yaml is one); the command line wins
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// The training data: a row for each example
    #[arg(long, aliases = ["train-file", "train-data", "dataset"], value_name = "FILE", help_heading = "Data")]
    pub data: PathBuf,
    /// Eval data: rows that are measured and not trained on
    #[arg(long, aliases = ["validation-file", "eval-file", "valid-data"], value_name = "FILE", help_heading = "Data")]
    pub eval_data: Option<PathBuf>,
    /// Eval data: hold back this share of the rows (0.1), or so many of them, and measure on those
    #[arg(long, aliases = ["validation-split", "validation-split-percentage", "test-size"], value_name = "SHARE|ROWS", conflicts_with = "eval_data", help_heading = "Data")]
    pub val_size: Option<ValSize>,
    /// What columns are for.
    #[command(flatten)]
    #[serde(flatten)]
    pub columns: Columns,
    /// tokenizer.json, or its folder [default: beside the model, if it is needed]
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub tokenizer: Option<PathBuf>,
    /// Truncate rows to this many tokens [default: no truncation; a row that is too long for the model is an error]
    #[arg(long, aliases = ["max-seq-length", "max-seq-len", "cutoff-len"], value_name = "TOKENS", help_heading = "Data")]
    pub max_length: Option<NonZeroUsize>,
    /// For qa: part long texts into windows that share this many tokens with the one before [default: texts are cut]
    #[arg(long, value_name = "TOKENS", help_heading = "Data")]
    pub doc_stride: Option<usize>,
    /// Which rows may be in one batch: any, or none with a text of another (for losses that take a batch's texts for each other's negatives)
    #[arg(long, value_name = "WHICH", default_value = "any", help_heading = "Data")]
    pub batch_sampler: BatchSampler,
    /// Augment the pictures of training examples at random: random-resized-crop, horizontal-flip, or both [default: neither]
    #[arg(long, value_name = "CHANGES", value_delimiter = ',', help_heading = "Data")]
    pub augment: Vec<Change>,
    /// What dpo, ipo and kto compare with: the base without the adapter, or the adapter as `inject` wrote it
    #[arg(long, value_name = "WHICH", default_value = "base", help_heading = "Optimizer (AdamW)")]
    pub reference: Referee,
    /// Put several rows into one of --max-length tokens, or of as many as the model takes; each attends to itself alone, and losses are those of separate rows
    #[arg(long, help_heading = "Data")]
    pub packing: bool,
    /// How rows are packed [default: bfd]: bfd (whole rows, best fit decreasing) or wrapped (all rows one after another, an end token between, cut into blocks; what
    /// stands before a row is attended to)
    #[arg(long, value_name = "STRATEGY", requires = "packing", help_heading = "Data")]
    pub packing_strategy: Option<PackingStrategy>,
    /// Put rows of about the same length into a batch, so that little is filled up; the longest row is in the first batch
    #[arg(long, conflicts_with = "no_shuffle", help_heading = "Data")]
    pub group_by_length: bool,
    /// Read rows in the file's order; without it each epoch shuffles them
    #[arg(long, help_heading = "Data")]
    pub no_shuffle: bool,
    /// Random seed (data order, dropout)
    #[arg(long, value_name = "NUMBER", default_value_t = 42, help_heading = "Data")]
    pub seed: u64,

    /// Batch size, in rows of the data; of several processes, that of each [default: 8, or as many as the model takes at once]
    #[arg(long, aliases = ["per-device-train-batch-size", "train-batch-size", "bs"], value_name = "ROWS", value_parser = sizes::rows, help_heading = "Length of the training")]
    pub batch_size: Option<NonZeroUsize>,
    /// Number of batches whose gradients are summed for one optimizer step
    #[arg(long, aliases = ["grad-accum", "gradient-accumulation"], value_name = "BATCHES", default_value = "1", help_heading = "Length of the training")]
    pub gradient_accumulation_steps: NonZeroUsize,
    /// Run the model on this many rows at a time, or on as many as there is memory for (auto): the gradient is still that of the whole batch, with less
    /// memory [default: the batch]
    #[arg(long, value_name = "ROWS", help_heading = "Length of the training")]
    pub micro_batch_size: Option<RowsAtATime>,
    /// Number of passes over the data; may be a fraction [default: 3]
    #[arg(long, aliases = ["num-train-epochs", "num-epochs"], value_name = "NUMBER", conflicts_with = "max_steps", help_heading = "Length of the training")]
    pub epochs: Option<f64>,
    /// Optimizer steps, instead of --epochs
    #[arg(long, aliases = ["steps", "max-train-steps"], value_name = "STEPS", help_heading = "Length of the training")]
    pub max_steps: Option<NonZeroU64>,

    /// Peak learning rate; each method has its own default
    #[arg(long, alias = "lr", value_name = "RATE", help = rates(), help_heading = "Optimizer (AdamW)")]
    pub learning_rate: Option<f64>,
    /// Learning rate schedule after the warm-up: constant, linear or cosine (both to zero)
    #[arg(long, alias = "lr-scheduler-type", value_name = "SCHEDULE", default_value_t = Decay::Linear, help_heading = "Optimizer (AdamW)")]
    #[serde(serialize_with = "by_name")]
    pub lr_scheduler: Decay,
    /// Steps over which the learning rate rises from 0 [default: 3 % of all steps; 0 with a constant schedule]
    #[arg(long, alias = "num-warmup-steps", value_name = "STEPS", help_heading = "Optimizer (AdamW)")]
    pub warmup_steps: Option<u64>,
    /// The optimizer's other numbers.
    #[command(flatten)]
    #[serde(flatten)]
    pub hyperparameters: Hyperparameters,

    /// Evaluate every so many steps [default: at the end only; with --load-best or --early-stopping after each epoch]
    #[arg(long, value_name = "STEPS", help_heading = WATCHING)]
    pub eval_steps: Option<NonZeroU64>,
    /// Give the bundle the adapter of the best step, not of the last one; it is saved as soon as it is found
    #[arg(long, alias = "load-best-model-at-end", help_heading = WATCHING)]
    pub load_best: bool,
    /// The metric that tells which step is best, such as loss, accuracy or f1_macro (an unknown name lists them) [default: loss]
    #[arg(long, alias = "metric-for-best-model", value_name = "NAME", help_heading = WATCHING)]
    pub metric: Option<String>,
    /// End the run after so many evaluations without a better one; implies --load-best
    #[arg(long, alias = "early-stopping-patience", value_name = "EVALUATIONS", help_heading = WATCHING)]
    pub early_stopping: Option<NonZeroUsize>,
    /// Show so many rows of the eval data in the report, as they were answered before and are after; 0: none [default: 4]
    #[arg(long, value_name = "ROWS", value_parser = sizes::rows_or_none, help_heading = WATCHING)]
    pub samples: Option<usize>,
    /// Also write the run's curves as files of another program
    #[arg(long, value_name = "PROGRAM", default_value = "none", help_heading = WATCHING)]
    pub report_to: ReportTo,
    /// Write a checkpoint every so many steps [default: none before the end]
    #[arg(long, value_name = "STEPS", help_heading = WATCHING)]
    pub save_steps: Option<NonZeroU64>,
    /// Keep only this many checkpoints, the newest
    #[arg(long, value_name = "COUNT", help_heading = WATCHING)]
    pub save_total_limit: Option<NonZeroUsize>,
    /// Continue the newest run, or that of --run, bit for bit, with its options where others are not said; or continue from a checkpoint's folder
    #[arg(long, alias = "resume-from-checkpoint", value_name = "CHECKPOINT", num_args = 0..=1, group = "start", help_heading = START)]
    #[serde(skip)]
    pub resume: Option<Option<PathBuf>>,
    /// Begin a new run from the trained adapter, with a new optimizer
    #[arg(long = "continue", group = "start", help_heading = START)]
    #[serde(skip)]
    pub continued: bool,
    /// Begin a new run from the untrained adapter, as `inject` wrote it
    #[arg(long, group = "start", help_heading = START)]
    #[serde(skip)]
    pub restart: bool,
    /// The name of the new run, or of the one to resume [default: the next number; the newest]
    #[arg(long, value_name = "NAME", help_heading = START)]
    #[serde(skip)]
    pub run: Option<String>,
    /// Print a line every so many steps where there is no progress bar [default: about forty lines in all]
    #[arg(long, alias = "logging-steps", value_name = "STEPS", help_heading = WATCHING)]
    #[serde(skip)]
    pub log_every: Option<NonZeroU64>,

    /// Device: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu, help_heading = "Computing")]
    #[serde(serialize_with = "by_name")]
    pub device: Device,
    /// What to compute in: float32, tf32 (GPU), bf16 (GPU) or fp16. The adapter, its gradient's sum, the optimizer and the loss are float32 in all of them
    #[arg(long, value_name = "PRECISION", default_value_t = Precision::default(), help_heading = "Computing")]
    #[serde(serialize_with = "by_name")]
    pub precision: Precision,
    /// Keep copies of the weights in the order in which products read them, on the processor: a step takes about a tenth less time, and twice the model's size more memory
    #[arg(long, help_heading = "Computing")]
    pub prepack_weights: bool,
    /// What several processes part among them beside the rows of a step: 0 nothing; 1 the optimizer's moments (ZeRO stage 1), of which each then has its share
    #[arg(long, value_name = "STAGE", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1), help_heading = "Computing")]
    pub zero_stage: u8,
    /// Number of threads [default: as many as this process may use; of several processes, its share of the host's cores]
    #[arg(long, value_name = "COUNT", help_heading = "Computing")]
    pub threads: Option<NonZeroUsize>,
}

/// Numbers of the optimizer, of every command that writes or makes its steps.
#[derive(Clone, Copy, Debug, Serialize, clap::Args)]
#[serde(rename_all = "kebab-case")]
pub struct Hyperparameters {
    /// Decoupled weight decay of all trainable parameters
    #[arg(long, value_name = "DECAY", default_value_t = 0.0, help_heading = "Optimizer (AdamW)")]
    pub weight_decay: f64,
    /// Decay of the gradient's running mean
    #[arg(long, value_name = "BETA", default_value_t = 0.9, help_heading = "Optimizer (AdamW)")]
    pub adam_beta1: f64,
    /// Decay of the squared gradient's running mean
    #[arg(long, value_name = "BETA", default_value_t = 0.999, help_heading = "Optimizer (AdamW)")]
    pub adam_beta2: f64,
    /// Added to the root of the squared gradient's running mean
    #[arg(long, value_name = "EPSILON", default_value_t = 1e-8, help_heading = "Optimizer (AdamW)")]
    pub adam_epsilon: f64,
    /// Clip gradients to this norm; 0 turns clipping off
    #[arg(long, aliases = ["clip", "clip-grad-norm", "gradient-clipping"], value_name = "NORM", default_value_t = 1.0, help_heading = "Optimizer (AdamW)")]
    pub max_grad_norm: f64,
}

impl Hyperparameters {
    /// The numbers by the names of the graphs' inputs.
    pub(super) fn values(&self) -> [(&'static str, f64); 5] {
        [
            ("weight_decay", self.weight_decay),
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
            ("adam_epsilon", self.adam_epsilon),
            ("max_grad_norm", self.max_grad_norm),
        ]
    }
}

/// Writes what has a name by that.
fn by_name<S: Serializer>(value: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

/// Trains the adapter of a bundle.
///
/// # Errors
/// Whatever [`training::train`] refuses, and options that do not go with the bundle.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let Some(trained) = args.training.run(&args.bundle, args.base.as_deref(), global)? else { return Ok(()) };
    // Training may have named the classes.
    report(args, global, &trained, &Manifest::read(&args.bundle)?.class_names)
}

impl Training {
    /// Trains the adapter of a bundle. Of several processes, the one that leads has a summary.
    ///
    /// # Errors
    /// As [`run`].
    pub(super) fn run(&self, bundle: &Path, base: Option<&Path>, global: &Global) -> Result<Option<Summary>> {
        const SAVES: signals::First = signals::First::Asks("saving after this step");
        if self.resume.is_some() && Runs::of(bundle).newest()?.is_some() {
            global.note("options that are not said are those of the run that goes on (its config.yaml)");
        }
        let group = Group::join();
        let manifest = Manifest::read(bundle)?;
        let options = self.options(bundle, base, &manifest, group.communicator().size())?;
        let runtime = global.runtime(self.threads.or_else(|| group.threads()))?;
        // Until the run has a folder there is nothing to save. Of several processes, none may end alone.
        let stop = signals::listen(if group.communicator().size() > 1 { SAVES } else { signals::First::Ends });
        let ranks = Ranks::of(group.communicator(), stop);
        let mut progress = if ranks.is_lead() { Progress::new(global, self.log_every) } else { Progress::silent() };
        let trained = training::train_among(runtime, &options, &ranks, &mut |event| {
            if matches!(event, training::Event::Read) {
                signals::listen(SAVES);
            }
            progress.show(&event);
        });
        progress.finish();
        let summary = group.ended(trained, ranks.are_settled(), global)?;
        if let Some(summary) = &summary {
            samples::show(runtime, &options, summary);
        }
        Ok(summary)
    }

    /// Options that mean nothing without rows to measure on, where there are none.
    pub(super) fn unmeasured(&self) -> Option<&'static str> {
        let asks = [
            (self.eval_steps.is_some(), "--eval-steps"),
            (self.load_best, "--load-best"),
            (self.metric.is_some(), "--metric"),
            (self.early_stopping.is_some(), "--early-stopping"),
            (self.samples.is_some_and(|rows| rows > 0), "--samples"),
        ];
        let is_measured = self.eval_data.is_some() || self.val_size.is_some();
        asks.iter().find(|(is_asked, _)| *is_asked && !is_measured).map(|(_, option)| *option)
    }

    fn options(&self, bundle: &Path, base: Option<&Path>, manifest: &Manifest, processes: usize) -> Result<Options> {
        let learning_rate = self.learning_rate.unwrap_or_else(|| default_rate(&manifest.method));
        let epochs = self.max_steps.is_none().then(|| self.epochs.unwrap_or(EPOCHS));
        let load_best = self.load_best || self.early_stopping.is_some();
        let used = Self { learning_rate: Some(learning_rate), epochs, load_best, ..self.clone() };
        let used = Args { bundle: bundle.to_path_buf(), base: base.map(Path::to_path_buf), training: used };
        Ok(Options {
            bundle: bundle.to_path_buf(),
            base: base.map(Path::to_path_buf),
            data: DataOptions {
                file: self.data.clone(),
                eval: match (&self.eval_data, self.val_size) {
                    (Some(file), _) => EvalData::File(file.clone()),
                    (None, Some(size)) => EvalData::HeldOut(HeldOut { size, seed: self.seed }),
                    (None, None) => EvalData::Nothing,
                },
                columns: self.columns.renamed(),
                tokenizer: self.tokenizer.clone(),
                max_length: self.max_length,
                stride: self.doc_stride,
                sampler: self.batch_sampler.into(),
                augmentation: Change::all(&self.augment),
                packing: match (self.packing, self.packing_strategy.unwrap_or(PackingStrategy::Bfd)) {
                    (false, _) => Packing::Off,
                    (true, PackingStrategy::Bfd) => Packing::Whole,
                    (true, PackingStrategy::Wrapped) => Packing::Concatenate,
                },
                order: match (self.no_shuffle, self.group_by_length) {
                    (true, _) => Order::File,
                    (false, true) => Order::ByLength { seed: self.seed },
                    (false, false) => Order::Shuffled { seed: self.seed },
                },
                batch_size: batch_size_to_train(self.batch_size, &manifest.feeding).in_file(bundle)?,
            },
            reference: self.reference,
            accumulation: self.gradient_accumulation_steps,
            micro_batch: self.micro_batch_size.map_or(MicroBatch::Whole, |rows| rows.0),
            length: self.max_steps.map_or(Length::Epochs(epochs.unwrap_or(EPOCHS)), |steps| Length::Steps(steps.get())),
            optimizer: Optimizer {
                learning_rate,
                weight_decay: self.hyperparameters.weight_decay,
                beta1: self.hyperparameters.adam_beta1,
                beta2: self.hyperparameters.adam_beta2,
                epsilon: self.hyperparameters.adam_epsilon,
                max_grad_norm: self.hyperparameters.max_grad_norm,
            },
            decay: self.lr_scheduler,
            warmup: match (self.warmup_steps, self.lr_scheduler) {
                (Some(steps), _) => Warmup::Steps(steps),
                (None, Decay::Constant) => Warmup::Steps(0),
                (None, _) => Warmup::Share(0.03),
            },
            seed: self.seed,
            watching: Watching {
                every: self.eval_steps,
                goal: self.metric.as_deref().map(Goal::of).unwrap_or_default(),
                load_best,
                patience: self.early_stopping,
                samples: self.samples.unwrap_or(SAMPLES),
            },
            saving: Saving { every: self.save_steps, keep: self.save_total_limit },
            start: match &self.resume {
                Some(None) => Start::Resumed,
                Some(Some(folder)) => Start::ResumedFrom(folder.clone()),
                None if self.continued => Start::Continued,
                None if self.restart => Start::Restarted,
                None => Start::Untrained,
            },
            run: self.run.clone(),
            config: config::text("train", &used)? + &group::note(processes),
            tensorboard: self.report_to == ReportTo::Tensorboard,
            device: self.device,
            precision: self.precision,
            packs_weights: self.prepack_weights,
            parts_state: self.zero_stage > 0,
            waiting: match self.device {
                // Memory that is there already: nothing is gained by waiting.
                Device::Cpu => NonZeroUsize::MIN,
                Device::Cuda(_) => STEPS_ON_GPU,
            },
        })
    }
}

/// How often all rows are read if nothing is said.
pub(super) const EPOCHS: f64 = 3.0;

/// Rows that a report shows if nothing is said.
const SAMPLES: usize = 4;

/// Steps whose losses wait on a GPU at most: what a batch of them costs to fetch does not count any more.
const STEPS_ON_GPU: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// What the help says of the learning rate: the methods by their defaults.
fn rates() -> String {
    let mut by_rate: Vec<(f64, Vec<&str>)> = vec![];
    for row in methods::METHODS {
        match by_rate.iter_mut().find(|(rate, _)| rate.total_cmp(&row.learning_rate).is_eq()) {
            Some((_, names)) => names.push(row.name),
            None => by_rate.push((row.learning_rate, vec![row.name])),
        }
    }
    by_rate.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let rates: Vec<String> = by_rate.into_iter().map(|(rate, names)| format!("{rate:e} for {}", names.join(", "))).collect();
    format!("Peak learning rate [default: {}]", rates.join("; "))
}

/// The rate at which a method learns well, by its name in the manifest.
pub(super) fn default_rate(method: &str) -> f64 {
    methods::named(method).map_or(5e-4, |row| row.learning_rate)
}

fn report(args: &Args, global: &Global, summary: &Summary, classes: &[String]) -> Result<()> {
    if global.json {
        return output::print_json(&json!({
            "run": summary.run,
            "steps": summary.steps,
            "kept_step": summary.kept,
            "stopped_early": summary.stopped_early,
            "best": summary.best.as_ref().map(|(metric, value)| json!({"metric": metric, "value": value})),
            "loss": summary.loss,
            "first_loss": summary.first_loss,
            "tokens": summary.tokens,
            "seconds": summary.time.as_secs_f64(),
            "eval": summary.evaluation.as_ref().map(Evaluation::json),
            "class_names": classes,
            "adapter": summary.adapter,
        }));
    }
    if global.quiet {
        return Ok(());
    }
    let next = (!summary.was_finished).then(|| format!("next      peft-onnx merge {} -o tuned.onnx", args.bundle.display()));
    output::print(&lines(summary, classes).into_iter().chain(next).collect::<Vec<_>>().join("\n"))
}

/// What a run did, in lines for people.
pub(super) fn lines(summary: &Summary, classes: &[String]) -> Vec<String> {
    if summary.was_finished {
        let Summary { run, steps, .. } = summary;
        return vec![format!("run {run} is finished: step {steps} was its last; a larger --max-steps or --epochs continues it")];
    }
    let (tokens, time) = (output::count(summary.tokens), output::duration(summary.time));
    let mut lines = vec![format!("trained to step {} in run {}: {tokens} tokens in {time}", summary.steps, summary.run)];
    if let (Some(first), Some(last)) = (summary.first_loss, summary.loss) {
        lines.push(format!("loss      {first:.4} -> {last:.4} (first and last tenth of the steps)"));
    }
    if let Some((metric, value)) = &summary.best {
        let early = if summary.stopped_early { "; nothing was better since, so the run ended early" } else { "" };
        lines.push(format!("best      step {} ({metric} {value:.4}){early}", summary.kept));
    }
    lines.extend(summary.evaluation.as_ref().map(|evaluation| format!("eval      {}", evaluation.line())));
    if !classes.is_empty() {
        let numbered: Vec<String> = classes.iter().enumerate().map(|(number, name)| format!("{number} {name}")).collect();
        lines.push(format!("classes   {}", numbered.join(", ")));
    }
    lines.push(format!("adapter   {}", summary.adapter.display()));
    lines
}
