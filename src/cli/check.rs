//! `peft-onnx check`

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::output::{self, Align, Table};
use super::{BundleArgs, Columns, Global, sizes};
use crate::adapter::config::Task;
use crate::contract::GraphName;
use crate::data::{Batch, Batches, Order};
use crate::decompose;
use crate::error::{Error, ErrorKind, Result};
use crate::evaluate::reference::{Referee, Reference};
use crate::evaluate::teacher::Teacher;
use crate::evaluate::verify::{self, Samples};
use crate::export::Bundle;
use crate::ir::Graph;
use crate::model::Model;
use crate::onnx::Runnable;
use crate::ort::{Device, Purpose, Runtime, Session, Settings};
use crate::train::held::held;
use crate::training::check::{self, Row, Verdict};
use crate::training::{Source, open_graph, taught};

const AFTER_HELP: &str = "\
Moves the adapter a small step in several directions and compares the change of the loss with what the gradient predicts. If activations are
rounded to small integers, both are those of the loss without that rounding. Exit code 1 means that they differ.

Examples:
  peft-onnx check model.lora
  peft-onnx check model.lora --data train.jsonl";

/// Options of `check`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The bundle.
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// Data; the check takes the first few rows [default: random tokens]
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// What columns are for.
    #[command(flatten)]
    pub columns: Columns,
    /// tokenizer.json, or its folder [default: beside the model, if it is needed]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Number of rows
    #[arg(long, value_name = "ROWS", default_value = "3", value_parser = sizes::rows)]
    pub batch_size: NonZeroUsize,
    /// Number of threads [default: as many as this process may use]
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<NonZeroUsize>,
}

/// Compares gradients with finite differences.
///
/// # Errors
/// [`Diverged`](ErrorKind::Diverged) if they disagree.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let bundle = args.bundle.open()?;
    let runtime = global.runtime(args.threads)?;
    let session = open(runtime, &bundle)?;
    let batches = match &args.data {
        Some(data) => rows(args, runtime, &bundle, data, &session)?,
        None => samples(args, &bundle, &session)?,
    };
    let rows = check::check(session, bundle.adapter(), bundle.manifest(), &batches)?;
    if global.json {
        output::print_json(&rows)?;
    } else if !global.quiet {
        output::print(&table(&rows))?;
    }
    let count = |verdict: Verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let (wrong, steps) = (count(Verdict::Wrong), count(Verdict::Steps));
    let rounding = if steps > 0 { roundings(&bundle.graph(GraphName::Gradient)?) } else { String::new() };
    if steps > 0 {
        tracing::warn!(
            "in {steps} of {} directions the loss has steps wherever one looks, so that there is no gradient to compare with{rounding}",
            rows.len()
        );
    }
    let error = |what: String| Error::from(ErrorKind::Diverged(what)).in_file(&args.bundle.path);
    if wrong > 0 {
        let what = format!("the gradient is not that of the loss in {wrong} of {} directions", rows.len());
        return Err(error(what).with_hint(
            "try other rows (--data, --batch-size): if they agree, the loss has a step here; if not, the rule of an operator is wrong",
        ));
    }
    if 2 * steps > rows.len() {
        let what = format!("the loss has steps in {steps} of {} directions: that says nothing of its gradient{rounding}", rows.len());
        return Err(error(what).with_hint("take fewer rows (--batch-size 1), or check the adapter on the model before it was quantised"));
    }
    Ok(())
}

/// The gradient graph, without the rounding of activations to small integers: gradients go straight through that, as if it were not there, so that
/// they are those of the loss without it. What gradients do not pass is held.
fn open(runtime: &Runtime, bundle: &Bundle) -> Result<Session> {
    const GRADIENT: GraphName = GraphName::Gradient;
    let graph = bundle.graph(GRADIENT)?;
    let unrounded = decompose::without_rounding(&graph)?;
    if unrounded.is_some() {
        tracing::warn!(
            "this model rounds activations to small integers, which gradients pass straight through: the loss without that is what they are compared with"
        );
    }
    let held = held(unrounded.as_ref().unwrap_or(&graph))?;
    let Some(changed) = held.or(unrounded) else { return open_graph(runtime, bundle, GRADIENT, Device::Cpu) };
    let path = bundle.runnable(GRADIENT)?.path;
    let settings = Settings { device: Device::Cpu, purpose: Purpose::Training, ..Settings::default() };
    Session::open(runtime, Runnable::of(&changed, &path)?, &settings)
}

/// Operators whose results go in steps, by how many a graph has, as the end of a sentence.
fn roundings(graph: &Graph) -> String {
    const STEPS: [&str; 9] = [
        "Round",
        "Floor",
        "Ceil",
        "Sign",
        "QuantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "com.microsoft:MatMulIntegerToFloat",
        "com.microsoft:DynamicQuantizeMatMul",
    ];
    let count = |op: &str| graph.nodes().iter().filter(|node| &*node.op == op).count();
    let found: Vec<String> = STEPS.iter().map(|op| (op, count(op))).filter(|(_, n)| *n > 0).map(|(op, n)| format!("{n} {op}")).collect();
    if found.is_empty() { String::new() } else { format!(" (what rounds: {})", found.join(", ")) }
}

/// The first batch of a file, with what a teacher and the base without its adapter say of it.
fn rows(args: &Args, runtime: &Runtime, bundle: &Bundle, data: &Path, session: &Session) -> Result<Vec<Batch>> {
    let source = Source::of(bundle, args.tokenizer.as_deref())?.mapped(&args.columns.renamed()).cut(None);
    let mut dataset = source.read_to_measure(data, None)?;
    // What lies behind the first batch is not looked at.
    dataset.examples.truncate(args.batch_size.get());
    taught::fill(runtime, bundle, Device::Cpu, &source, &mut dataset)?;
    let mut reference = Reference::of(runtime, bundle, Referee::default(), Device::Cpu)?;
    let mut teacher = Teacher::of(runtime, bundle, Device::Cpu, &source.collation())?;
    let mut parts = Batches::new(&dataset, session.inputs(), args.batch_size.get(), Order::File, source.collation())?.next_parts()?;
    for part in &mut parts {
        reference.as_mut().map(|reference| reference.complete(part)).transpose()?;
        teacher.as_mut().map(|teacher| teacher.complete(part)).transpose()?;
    }
    Ok(parts)
}

fn samples(args: &Args, bundle: &Bundle, session: &Session) -> Result<Vec<Batch>> {
    let manifest = bundle.manifest();
    let task = Task::from_name(&manifest.task).unwrap_or(Task::CausalLm);
    // A label's number stands where its word does.
    let prompt = manifest.hard_prompt.as_ref();
    let samples = Samples {
        task: if prompt.is_some() { Task::TokenCls } else { task },
        classes: prompt.map(|prompt| prompt.labels.len()).or_else(|| manifest.classes.and_then(|classes| usize::try_from(classes).ok())),
        batches: vec![(0..args.batch_size.get()).map(|row| 5 + 3 * (row % 3)).collect()],
        beside: check::FED.map(str::to_owned).to_vec(),
        feeding: manifest.feeding.clone(),
        ..Samples::of_model(&Model::open_files(bundle.model_files())?)
    };
    verify::sample_batches(session, &samples)
}

fn table(rows: &[Row]) -> String {
    let columns = [("tensors moved", Align::Left), ("", Align::Left), ("gradient", Align::Right), ("differences", Align::Right)];
    let mut table = Table::new(&[&columns[..], &[("apart", Align::Right), ("", Align::Left)]].concat());
    for row in rows {
        table.row([
            row.tensors.clone(),
            row.direction.to_owned(),
            format!("{:.6e}", row.gradient),
            format!("{:.6e}", row.difference),
            format!("{:.1e}", (row.gradient - row.difference).abs()),
            match row.verdict {
                Verdict::Right => "ok",
                Verdict::Wrong => "WRONG",
                Verdict::Steps => "steps",
            }
            .to_owned(),
        ]);
    }
    table.render(0)
}
