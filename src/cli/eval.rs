//! `peft-onnx eval`

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::output::{self, Align, Table};
use super::{Global, ModelArgs, RowArgs};
use crate::adapter::config::Task;
use crate::anatomy::{self, Reads};
use crate::contract::{GraphName, Input};
use crate::data::{Dataset, Survey};
use crate::error::{Context, Error, OnlyWith, Result};
use crate::evaluate::reference::{Referee, Reference};
use crate::evaluate::teacher::Teacher;
use crate::evaluate::{Evaluation, Evaluator, Metrics};
use crate::export::objective::{self, LossRequest};
use crate::export::{INFERENCE, adapter_file};
use crate::model::Model;
use crate::onnx::Runnable;
use crate::ort::{Feed, HostTensor, Purpose, Runtime, Session, Settings};
use crate::predict::Transcriber;
use crate::train::cached;
use crate::train::logits;
use crate::train::objective::Objective;
use crate::train::plan::LossPlan;
use crate::train::prediction;
use crate::training::{Source, as_tuned, open_graph, open_loss_of_all, taught};

const AFTER_HELP: &str = "\
Prints the loss and the task's metrics. The loss is the training loss, averaged over all labels that count.

Examples:
  peft-onnx eval model.lora --data eval.jsonl
  peft-onnx eval model.onnx --data eval.jsonl --tokenizer tokenizer.json
  peft-onnx eval tuned.onnx --data eval.jsonl --json
  peft-onnx eval masked.onnx --data reviews.jsonl --verbalizer '{\"positive\": [\"great\", \"good\"], \"negative\": [\"bad\", \"awful\"]}' \\
      --template '{text} It was [MASK].' --template 'Just [MASK]! {text}'";

/// Options of `eval`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Its rows.
    #[command(flatten)]
    pub rows: RowArgs,
    /// What dpo, ipo and kto compare with: the base without the adapter, or the adapter as `inject` wrote it
    #[arg(long, value_name = "WHICH", default_value = "base")]
    pub reference: Referee,
    /// Let a language model choose a label's word at `[MASK]`; several templates are compared [default: the bundle's]
    #[arg(long, value_name = "TEMPLATE", help_heading = super::hard_prompt::HEADING)]
    pub template: Vec<String>,
    /// The words of each label, each one token, as JSON (see the examples below) or in a file [default: the bundle's]
    #[arg(long, value_name = "JSON", requires = "template", help_heading = super::hard_prompt::HEADING)]
    pub verbalizer: Option<String>,
}

/// What is measured: whether it is a bundle, its task, and the loss.
struct Case {
    is_bundle: bool,
    task: Task,
    loss: LossPlan,
}

/// Options that not every task, or not every loss, has a use for.
#[rustfmt::skip]
static OPTIONS: &[OnlyWith<Args, Case>] = &[
    OnlyWith { option: "task",       is_given: |args| args.rows.task.is_some(),       with: "a model: a bundle knows its task",                 holds: |case| !case.is_bundle },
    OnlyWith { option: "reference",  is_given: |args| args.reference == Referee::Initial, with: "a bundle whose loss compares (dpo, ipo, kto)", holds: |case| case.is_bundle && case.loss.needs_reference() },
];

impl Case {
    fn check(&self, args: &Args) -> Result<()> {
        let what = if self.is_bundle { "a bundle" } else { "a model" };
        let what = format!("{what} for {}", self.task);
        args.rows.check(self.task, what.clone()).and_then(|()| OnlyWith::check(OPTIONS, args, self, what)).in_file(&args.model.path)
    }
}

/// What was measured with one template, or without.
struct Measured {
    task: Task,
    template: Option<String>,
    evaluation: Evaluation,
    rows: usize,
}

impl Measured {
    fn json(&self) -> Value {
        let mut json = self.evaluation.json();
        if let (Some(template), Some(object)) = (&self.template, json.as_object_mut()) {
            object.insert("template".into(), template.clone().into());
        }
        json
    }
}

/// Measures the loss.
///
/// # Errors
/// Data that does not fit the model; a model whose logits are not recognised.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let runtime = global.runtime(args.model.threads)?;
    let measured = if args.model.is_bundle() { of_bundle(args, runtime)? } else { of_model(args, runtime)? };
    match (&measured[..], global.json) {
        ([only], true) => output::print_json(&only.json()),
        ([only], false) => output::print(&describe(only)),
        (several, true) => output::print_json(&json!({"templates": several.iter().map(Measured::json).collect::<Vec<_>>()})),
        (several, false) => output::print(table(several).trim_end()),
    }
}

fn describe(measured: &Measured) -> String {
    let Measured { task, template, evaluation, rows } = measured;
    // A row is right if all of its labels are.
    let of = if *task == Task::MultiLabel { "rows" } else { "labels" };
    let mut lines: Vec<String> = template.iter().map(|template| format!("template    {template}")).collect();
    lines.push(format!("loss        {:.6}", evaluation.loss));
    lines.extend(evaluation.perplexity.map(|perplexity| format!("perplexity  {perplexity:.4}")));
    lines.extend(evaluation.accuracy.map(|accuracy| format!("accuracy    {:.2} % of the {of}", 100.0 * accuracy)));
    let others = evaluation.metrics.iter().filter(|(name, _)| *name != "accuracy");
    lines.extend(others.map(|(name, value)| format!("{name:<10}  {value:.4}")));
    let (tokens, time) = (output::count(evaluation.tokens), output::duration(evaluation.time));
    lines.push(format!("counted     {} labels in {rows} rows, {tokens} tokens, in {time}", output::count(evaluation.labels)));
    lines.join("\n")
}

fn table(several: &[Measured]) -> String {
    let mut table = Table::new(&[("template", Align::Left), ("accuracy", Align::Right), ("loss", Align::Right)]);
    for Measured { template, evaluation, .. } in several {
        let accuracy = evaluation.accuracy.map(|accuracy| format!("{:.2} %", 100.0 * accuracy)).unwrap_or_default();
        table.row([template.clone().unwrap_or_default(), accuracy, format!("{:.4}", evaluation.loss)]);
    }
    table.render(0)
}

/// Measures once for each template, or once without any; `source` reads the data, `measure` runs the model on it.
fn each(
    args: &Args,
    runtime: &Runtime,
    source: impl Fn() -> Result<Source>,
    measure: impl Fn(&Source, Dataset) -> Result<Evaluation>,
) -> Result<Vec<Measured>> {
    let verbalizer = args.verbalizer.as_deref().map(super::hard_prompt::verbalizer).transpose()?;
    let templates: Vec<Option<&String>> = if args.template.is_empty() { vec![None] } else { args.template.iter().map(Some).collect() };
    let one = |template: Option<&String>| {
        let mut source = source()?.mapped(&args.rows.columns.renamed()).cut(args.rows.max_length).parted(args.rows.doc_stride);
        source = source.computing_on(runtime.facts().threads);
        if let Some(template) = template {
            source = source.shown_in(template, verbalizer.as_deref())?;
        }
        let dataset = source.read_to_measure(&args.rows.data, None)?;
        let template = source.hard_prompt().map(|prompt| prompt.template.clone());
        let rows = dataset.examples.len();
        Ok::<_, Error>(Measured { task: source.task(), template, evaluation: measure(&source, dataset)?, rows })
    };
    templates.into_iter().map(one).collect()
}

fn of_bundle(args: &Args, runtime: &Runtime) -> Result<Vec<Measured>> {
    let bundle = args.model.which.open(&args.model.path, args.model.base.as_deref())?;
    let manifest = bundle.manifest();
    let source = || Source::of(&bundle, args.model.tokenizer.as_deref());
    Case { is_bundle: true, task: source()?.task(), loss: manifest.loss.clone() }.check(args)?;
    if manifest.hard_prompt.is_none() && !args.template.is_empty() {
        // The graphs of training have logits of all tokens; the words are picked out of those of the inference graph.
        let model = bundle.runnable(INFERENCE)?;
        return each(args, runtime, source, |source, dataset| of_logits(args, runtime, model.clone(), &manifest.logits, source, &dataset));
    }
    let trainable = HostTensor::vector(adapter_file::read(bundle.adapter(), manifest)?);
    let places = [args.model.path.join("inference.onnx"), bundle.model().to_path_buf()];
    each(args, runtime, source, |source, mut dataset| {
        taught::fill(runtime, &bundle, args.model.device, source, &mut dataset)?;
        let dataset = &dataset;
        let session = open_graph(runtime, &bundle, GraphName::Evaluation, args.model.device)?;
        let evaluator = Evaluator::new(session, dataset, source.collation(), source.batch_size(args.rows.batch_size).get());
        let names = dataset.class_names.clone().unwrap_or_else(|| manifest.class_names.clone());
        let evaluator = evaluator.narrowed_to(source.hard_prompt()).measuring(source.classes(), &names, &manifest.loss);
        let evaluator = evaluator.spelled_by(source.tokenizer(), &manifest.loss);
        let mut found = evaluator
            .comparing_all(|| open_loss_of_all(runtime, &bundle, args.model.device))?
            .compared_with(Reference::of(runtime, &bundle, args.reference, args.model.device)?)
            .taught_by(Teacher::of(runtime, &bundle, args.model.device, &source.collation())?)
            .measure(Some(Feed::host(Input::Trainable.name(), &trainable)))?;
        found.metrics.extend(written(args, runtime, || bundle.runnable(INFERENCE), &places, source, dataset)?);
        Ok(found)
    })
}

/// The error rates of transcripts; empty for tasks without transcripts, and without a tokenizer.
fn written(
    args: &Args,
    runtime: &Runtime,
    graph: impl FnOnce() -> Result<Runnable>,
    places: &[PathBuf],
    source: &Source,
    dataset: &Dataset,
) -> Result<Metrics> {
    /// As many tokens as any text of Whisper's has.
    const MOST: usize = 448;
    if source.task() != Task::SpeechSeq2Seq || source.tokenizer().is_none() {
        return Ok(vec![]);
    }
    Transcriber::open(runtime, graph()?, source, places, MOST, args.model.device)?.error_rates(&dataset.examples)
}

fn of_logits(args: &Args, runtime: &Runtime, model: Runnable, logits: &str, source: &Source, dataset: &Dataset) -> Result<Evaluation> {
    let settings = Settings { device: args.model.device, purpose: Purpose::Inference, ..Settings::default() };
    let session = Session::open(runtime, model, &settings)?;
    let evaluator = Evaluator::of_logits(session, logits, dataset, source.collation(), source.batch_size(args.rows.batch_size).get())?;
    let names = dataset.class_names.clone().unwrap_or_else(|| source.class_names().to_vec());
    let evaluator = evaluator.measuring(source.classes(), &names, &LossPlan::default_of(source.task()));
    evaluator.narrowed_to(source.hard_prompt()).measure(None)
}

/// Measures a model without an adapter as a bundle of its task is measured, by the task's first loss that reads its rows.
fn of_task(args: &Args, runtime: &Runtime, model: &Model, task: Task) -> Result<Vec<Measured>> {
    let (graph, anatomy, path) = (model.graph(), model.anatomy(), &args.model.path);
    Case { is_bundle: false, task, loss: LossPlan::default_of(task) }.check(args)?;
    // Texts with numbers beside them have losses of their own.
    let scored = if task == Task::Embedding { Survey::read(&args.rows.data, &args.rows.columns.map)?.loss_of_scores() } else { None };
    let asked = LossRequest { name: scored.map(ToOwned::to_owned), ..LossRequest::default() };
    let asked = as_tuned(&asked, model.beside(), task)?;
    let settled = objective::settle(&asked, task, model.beside(), graph, anatomy).in_file(path)?;
    let measuring = prediction::measuring(graph, anatomy, &settled.objective).in_file(path)?;
    let runnable = Runnable::of(&measuring, path)?;
    let settings = Settings { device: args.model.device, purpose: Purpose::Inference, ..Settings::default() };
    let source = || {
        let source = Source::of_model(model, task, args.model.tokenizer.as_deref())?.learning(&settled.plan);
        Ok(source.feeding_columns(graph, settled.columns()))
    };
    each(args, runtime, source, |source, dataset| {
        let session = Session::open(runtime, runnable.clone(), &settings)?;
        let names = dataset.class_names.clone().unwrap_or_else(|| source.class_names().to_vec());
        let evaluator = Evaluator::new(session, &dataset, source.collation(), source.batch_size(args.rows.batch_size).get());
        let evaluator = evaluator.measuring(source.classes(), &names, &settled.plan).spelled_by(source.tokenizer(), &settled.plan);
        evaluator.comparing_all(|| loss_of_all(runtime, &settled.objective, path, &settings))?.measure(None)
    })
}

/// The loss of the vectors of a whole batch, where it compares them.
fn loss_of_all(runtime: &Runtime, objective: &Objective, path: &Path, settings: &Settings) -> Result<Option<Session>> {
    match objective {
        Objective::Formula(formula) if formula.loss.whole_batch && formula.loss.reads == Reads::Embeddings => {
            Session::open(runtime, Runnable::of(&cached::loss_graph(formula)?, path)?, settings).map(Some)
        }
        _ => Ok(None),
    }
}

fn of_model(args: &Args, runtime: &Runtime) -> Result<Vec<Measured>> {
    let model = Model::open_files(&args.model.files())?;
    let (graph, anatomy, declared) = (model.graph(), model.anatomy(), model.declared()?);
    let decision = anatomy::decide(graph, anatomy, &declared, args.rows.task_of(&model)?).in_file(&args.model.path)?;
    if let Some(doubt) = decision.doubt {
        tracing::warn!("measured for {}, as asked, but {doubt}", decision.task);
    }
    if decision.task == Task::Preference {
        let why = "its losses compare the model with its base, and a model without an adapter has none";
        let hint = "name the bundle; `peft-onnx predict` tells what each answer gets from a model";
        return Err(Error::unsupported("measuring preferences of a model", why).with_hint(hint).in_file(&args.model.path));
    }
    if !decision.task.predicts_tokens() && args.template.is_empty() {
        return of_task(args, runtime, &model, decision.task);
    }
    let unknown = || {
        let error = Error::unsupported("measuring this model", "it has no output that looks like logits").in_file(&args.model.path);
        error.with_hint("`peft-onnx inspect MODEL --explain` says what was looked for")
    };
    let head = anatomy.head.as_ref().ok_or_else(unknown)?;
    Case { is_bundle: false, task: decision.task, loss: LossPlan::default_of(decision.task) }.check(args)?;
    let source = || Source::of_model(&model, decision.task, args.model.tokenizer.as_deref());
    // Of a file that gives probabilities, the logits behind them are measured.
    let (runnable, logits) = match logits::shown(graph, anatomy)? {
        Some(shown) => (Runnable::of(&shown, &args.model.path)?, logits::SHOWN),
        None => (model.runnable()?, graph.value_name(head.logits)),
    };
    each(args, runtime, source, |source, dataset| {
        let mut found = of_logits(args, runtime, runnable.clone(), logits, source, &dataset)?;
        found.metrics.extend(written(args, runtime, || model.runnable(), &model.places(), source, &dataset)?);
        Ok(found)
    })
}
