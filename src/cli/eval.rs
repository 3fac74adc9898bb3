//! `peft-onnx eval`

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::{Global, output};
use crate::adapter::config::Task;
use crate::error::{Context, Error, Result};
use crate::export::Manifest;
use crate::runtime::data::Dataset;
use crate::runtime::evaluate::{Evaluation, Evaluator};
use crate::runtime::session::{Feed, Purpose, Runtime, Session, Settings};
use crate::runtime::trainer::{Source, open_graph};
use crate::runtime::{Device, HostTensor, adapter_file};
use crate::{anatomy, onnx};

const AFTER_HELP: &str = "\
The loss is the mean over the labels that count: of a model's own logits, or of a bundle with its adapter as it is now.

Examples:
  peft-onnx eval model.lora --data eval.jsonl
  peft-onnx eval model.onnx --data eval.jsonl --tokenizer tokenizer.json
  peft-onnx eval tuned.onnx --data eval.jsonl --json";

/// Options of `eval`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// An ONNX model, or a bundle
    #[arg(value_name = "MODEL|BUNDLE")]
    pub model: PathBuf,
    /// Rows to measure the loss on
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// tokenizer.json, or its folder [default: beside the model, if it is needed]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// What the model was made for; for models, where the graph does not tell
    #[arg(long, value_name = "TASK", value_parser = super::inject::task)]
    pub task: Option<Task>,
    /// Rows a batch
    #[arg(long, value_name = "ROWS", default_value = "8")]
    pub batch_size: NonZeroUsize,
    /// Cut rows to this many tokens [default: none is cut; a row longer than the model takes is an error]
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<NonZeroUsize>,
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu, help_heading = "Computing")]
    pub device: Device,
    /// Threads for computing [default: as many as this process may use]
    #[arg(long, value_name = "COUNT", help_heading = "Computing")]
    pub threads: Option<NonZeroUsize>,
}

/// Measures the loss.
///
/// # Errors
/// Data that does not fit the model; a model whose logits are not recognised.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let runtime = global.runtime(args.threads)?;
    let (evaluation, dataset) = if args.model.is_dir() { of_bundle(args, runtime)? } else { of_model(args, runtime)? };
    if global.json {
        return output::print_json(&evaluation.json());
    }
    let mut lines = vec![format!("loss        {:.6}", evaluation.loss)];
    lines.extend(evaluation.perplexity.map(|perplexity| format!("perplexity  {perplexity:.4}")));
    lines.push(format!("accuracy    {:.2} % of the labels", 100.0 * evaluation.accuracy));
    let (rows, tokens) = (dataset.examples.len(), output::count(evaluation.tokens));
    let time = output::duration(evaluation.time);
    lines.push(format!("counted     {} labels in {rows} rows, {tokens} tokens, in {time}", output::count(evaluation.labels)));
    output::print(&lines.join("\n"))
}

fn of_bundle(args: &Args, runtime: &Runtime) -> Result<(Evaluation, Dataset)> {
    let manifest = Manifest::read(&args.model)?;
    let source = Source::of(&args.model, &manifest, args.tokenizer.as_deref())?.cut(args.max_length);
    let dataset = source.read(&args.data, None)?;
    let session = open_graph(runtime, &args.model, &manifest, "evaluation", args.device)?;
    let trainable = HostTensor::vector(adapter_file::read(&args.model, &manifest)?);
    let mut evaluator = Evaluator::new(session, &dataset, source.filling(), args.batch_size.get());
    let evaluation = evaluator.measure(Some(Feed::host("trainable", &trainable)))?;
    Ok((evaluation, dataset))
}

fn of_model(args: &Args, runtime: &Runtime) -> Result<(Evaluation, Dataset)> {
    let graph = onnx::read(&args.model)?;
    let graph = onnx::inline_functions(&graph).and_then(|graph| onnx::raise(&graph)).in_file(&args.model)?;
    let anatomy = anatomy::read(&graph);
    let unknown = |what: &str, hint: &'static str| Error::unsupported("measuring this model", what).in_file(&args.model).with_hint(hint);
    let head = anatomy.head.as_ref();
    let head = head.ok_or_else(|| {
        unknown("it has no output that looks like logits", "`peft-onnx inspect MODEL --explain` says what was looked for")
    })?;
    let guessed = anatomy.task.task.and_then(|task| Task::from_name(task.name()));
    let task = args.task.or(guessed).ok_or_else(|| unknown("its task is not recognised", "name it with --task"))?;
    let source = Source::of_model(&args.model, task, &anatomy, args.tokenizer.as_deref())?.cut(args.max_length);
    let dataset = source.read(&args.data, None)?;
    let settings = Settings { device: args.device, purpose: Purpose::Inference, ..Settings::default() };
    let session = Session::open(runtime, &args.model, &settings)?;
    let mut evaluator = Evaluator::of_logits(session, graph.value_name(head.logits), &dataset, source.filling(), args.batch_size.get())?;
    let evaluation = evaluator.measure(None)?;
    Ok((evaluation, dataset))
}
