//! `peft-onnx predict`

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::opening::Opening;
use super::{Global, ModelArgs, RowArgs, output, target};
use crate::adapter::config::{Pooling, Task};
use crate::error::{Error, OnlyWith, Result};
use crate::files::Staged;
use crate::predict::{Predictor, Running, Shape};

const AFTER_HELP: &str = "\
A row in, a row out, as jsonl: its columns, and behind them what the model says. Labels need not be there.

  seq-cls, image-cls, audio-cls  prediction (the class), probability, probabilities
  multi-label                    prediction (the labels), probabilities
  regression, rerank             prediction (a number)
  token-cls                      prediction: for tokens a tag each, for text the entities with start, end, label, text, probability
  qa                             prediction (the answer), start, end, probability, candidates
  embedding                      vector; for rows of several texts similarity and vectors
  causal-lm, seq2seq-lm          prediction (the text that goes on)
  masked-lm                      prediction (the text with its masked words), words
  preference, reward             prediction (chosen or rejected), and what each got; a number for a single answer

Examples:
  peft-onnx predict model.lora --data new.csv -o answers.jsonl
  peft-onnx predict tuned.onnx --data new.jsonl --task seq-cls --map headline=text
  cat new.jsonl | peft-onnx predict model.lora --data - | jq .prediction";

/// Options of `predict`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Its rows.
    #[command(flatten)]
    pub rows: RowArgs,
    /// Where to write the answered rows [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
    /// How a text's vector is made of its tokens' (for models; a bundle knows it): cls, mean, last or none
    #[arg(long, value_name = "POOLING")]
    pub pooling: Option<Pooling>,
    /// Whether vectors have length 1 (for models; a bundle knows it)
    #[arg(long, value_name = "true|false")]
    pub normalize: Option<bool>,
    /// Maximum number of tokens that a language model writes [default: 128]
    #[arg(long, aliases = ["max-tokens"], value_name = "TOKENS")]
    pub max_new_tokens: Option<usize>,
    /// For multi-label: take the labels from this probability on [default: 0.5]
    #[arg(long, value_name = "PROBABILITY")]
    pub threshold: Option<f64>,
    /// How many classes, words and answers are written with their probabilities [default: 10]
    #[arg(long, alias = "top-k", value_name = "COUNT")]
    pub top: Option<usize>,
    /// Put this before the names of the new columns
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub prefix: String,
}

/// Options that not every task has a use for.
#[rustfmt::skip]
static OF_TASKS: &[OnlyWith<Args, Task>] = &[
    OnlyWith { option: "threshold",      is_given: |args| args.threshold.is_some(),      with: "the task multi-label",               holds: |task| *task == Task::MultiLabel },
    OnlyWith { option: "top",            is_given: |args| args.top.is_some(),            with: "a task of classes, words or answers", holds: |task| task.is_one_class() || matches!(task, Task::MultiLabel | Task::MaskedLm | Task::Qa) },
    OnlyWith { option: "max_new_tokens", is_given: |args| args.max_new_tokens.is_some(), with: "a task that writes text",            holds: |task| matches!(task, Task::CausalLm | Task::Seq2SeqLm | Task::SpeechSeq2Seq) },
];

/// Answers rows.
///
/// # Errors
/// Rows that do not fit the model; a model that does not give what its task reads.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    if let Some(threshold) = args.threshold.filter(|threshold| !(0.0..=1.0).contains(threshold)) {
        return Err(Error::setting("threshold", "a probability, from 0 to 1", threshold));
    }
    if let Some(path) = &args.output {
        target::file(
            path,
            args.force,
            &[Some(&args.model.path), args.model.base.as_deref(), Some(&args.rows.data), args.model.tokenizer.as_deref()],
        )?;
    }
    let runtime = global.runtime(args.model.threads)?;
    let model = args.opening().open()?;
    let task = model.source.task();
    args.rows.check(task, format!("the task {task}"))?;
    OnlyWith::check(OF_TASKS, args, &task, format!("the task {task}"))?;
    let (usual, shown) = (Running::default(), Shape::default());
    let running = Running {
        device: args.model.device,
        batch_size: model.source.batch_size(args.rows.batch_size).get(),
        new_tokens: args.max_new_tokens.unwrap_or(usual.new_tokens),
    };
    let shape =
        Shape { threshold: args.threshold.unwrap_or(shown.threshold), top: args.top.unwrap_or(shown.top), prefix: args.prefix.clone() };
    let mut predictor = Predictor::open(runtime, model, shape, running)?;
    let mut lines = Lines::new(args.output.as_deref(), global.json)?;
    let count = predictor.answer(&args.rows.data, &mut |rows| rows.iter().try_for_each(|row| lines.write(row)))?;
    lines.finish()?;
    match &args.output {
        Some(path) if global.json => output::print_json(&json!({"rows": count, "task": predictor.task().name(), "output": path})),
        Some(path) if !global.quiet => output::print(&format!("answered {count} rows for {}: {}", predictor.task(), path.display())),
        _ => Ok(()),
    }
}

impl Args {
    fn opening(&self) -> Opening<'_> {
        Opening {
            model: &self.model.path,
            parts: &self.model.parts,
            base: self.model.base.as_deref(),
            which: &self.model.which,
            tokenizer: self.model.tokenizer.as_deref(),
            task: self.rows.task,
            rows: Some(&self.rows),
            pooling: self.pooling,
            normalize: self.normalize,
            columns: self.rows.columns.renamed(),
            max_length: self.rows.max_length,
            stride: self.rows.doc_stride,
        }
    }
}

/// Where answered rows go, a line each; one list of all, where JSON is asked for on standard output.
enum Lines {
    Output { is_list: bool, count: usize },
    File(Staged),
}

impl Lines {
    fn new(file: Option<&Path>, is_list: bool) -> Result<Self> {
        Ok(match file {
            Some(path) => Self::File(Staged::new(path)?),
            None => Self::Output { is_list, count: 0 },
        })
    }

    fn write(&mut self, row: &Map<String, Value>) -> Result<()> {
        let text = serde_json::to_string(row).map_err(|error| Error::format("JSON", error))?;
        match self {
            Self::File(file) => file.write(format!("{text}\n").as_bytes()),
            Self::Output { is_list, count } => {
                let before = match (*is_list, *count) {
                    (false, _) => "",
                    (true, 0) => "[\n",
                    (true, _) => ",\n",
                };
                *count += 1;
                let mut out = std::io::stdout().lock();
                Ok(write!(out, "{before}{text}{}", if *is_list { "" } else { "\n" })?)
            }
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::File(file) => file.finish(),
            Self::Output { is_list: true, .. } => output::print("\n]"),
            Self::Output { is_list: false, .. } => Ok(std::io::stdout().lock().flush()?),
        }
    }
}
