//! `peft-onnx runs`

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::output::{self, Align, Table};
use super::{Global, config, target};
use crate::error::Result;
use crate::export::Manifest;
use crate::export::lock::Lock;
use crate::training::report::{self, Curves};
use crate::training::runs::{Run, Runs};

const AFTER_HELP: &str = "\
A run is `finished`, `interrupted`, `diverged` (it left the range of numbers), `running`, or `killed`.

Examples:
  peft-onnx runs model.lora
  peft-onnx runs model.lora 001 wide               # what differs, their best metrics, their curves
  peft-onnx runs model.lora 001 wide --html compared.html
  peft-onnx runs model.lora --json
  peft-onnx train model.lora --data train.jsonl --restart --run wide --learning-rate 1e-3";

/// Options of `runs`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// Runs to look at closely, beside each other
    #[arg(value_name = "RUN")]
    pub runs: Vec<String>,
    /// Also write them as a page, with curves over each other [default runs: all]
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Replace the page if it is there
    #[arg(long, requires = "html")]
    pub force: bool,
}

/// What is reported of a run.
struct Told {
    name: String,
    state: &'static str,
    steps: u64,
    loss: Option<f64>,
    best: Option<f64>,
    saved: Vec<u64>,
    kept: Option<u64>,
    options: Map<String, Value>,
}

/// Lists the runs of a bundle, or compares some of them.
///
/// # Errors
/// If the bundle cannot be read; names of runs that there are not.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    Manifest::read(&args.bundle)?;
    let all = Runs::of(&args.bundle);
    let newest = all.newest()?.map(|run| run.name);
    let chosen = if args.runs.is_empty() { all.all()? } else { args.runs.iter().map(|name| all.named(name)).collect::<Result<_>>()? };
    let is_held = Lock::holder(&args.bundle).is_some_and(|holder| holder.work.ends_with("train"));
    let told: Vec<Told> = chosen.iter().map(|run| told(run, is_held && Some(&run.name) == newest.as_ref())).collect::<Result<_>>()?;
    if let Some(path) = &args.html {
        target::file(path, args.force, &[Some(&args.bundle)])?;
        report::compare(path, &chosen)?;
    }
    let curves = Curves::of(&chosen)?;
    if global.json {
        let rows = told.iter().enumerate().map(|(place, told)| told.json(&curves, place));
        return output::print_json(&rows.collect::<Vec<_>>());
    }
    if told.is_empty() {
        return output::print("no runs yet: `peft-onnx train` begins one");
    }
    let mut parts = vec![table(&told).trim_end().to_owned()];
    if !args.runs.is_empty() {
        parts.extend([differences(&told), measured(&told, &curves), report::terminal(&curves.losses())]);
    }
    parts.extend(args.html.iter().map(|path| format!("wrote {}", path.display())));
    parts.retain(|part| !part.is_empty());
    output::print(parts.iter().map(|part| part.trim_end()).collect::<Vec<_>>().join("\n\n").trim_end())
}

/// Options with other values in some runs than in others, a row each.
fn differences(runs: &[Told]) -> String {
    let rows = differing(runs).into_iter().map(|name| {
        let values = runs.iter().map(|run| run.options.get(name).map(plain).unwrap_or_default());
        std::iter::once(name.clone()).chain(values).collect::<Vec<_>>()
    });
    beside("option", runs, rows.collect())
}

/// The best value of every metric on the evaluation data, a row each.
fn measured(runs: &[Told], curves: &Curves) -> String {
    let rows = curves.measured().into_iter().map(|metric| {
        let values = curves
            .best_of(&metric)
            .into_iter()
            .map(|best| best.map_or_else(String::new, |(step, value)| format!("{value:.4} (step {step})")));
        let values: Vec<String> = values.collect();
        std::iter::once(metric).chain(values).collect::<Vec<_>>()
    });
    beside("best eval", runs, rows.collect())
}

/// Rows with a column for every run; nothing without rows.
fn beside(first: &str, runs: &[Told], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let names = runs.iter().map(|run| (run.name.clone(), Align::Right));
    let mut table = Table::named(std::iter::once((first.to_owned(), Align::Left)).chain(names).collect());
    for row in rows {
        table.row(row);
    }
    table.render(0)
}

impl Told {
    fn json(&self, curves: &Curves, place: usize) -> Value {
        let best = curves.measured().into_iter().filter_map(|metric| {
            let (step, value) = curves.best_of(&metric)[place]?;
            Some((metric, json!({"step": step, "value": value})))
        });
        json!({
            "run": self.name,
            "state": self.state,
            "steps": self.steps,
            "loss": self.loss,
            "best_eval_loss": self.best,
            "best": best.collect::<Map<String, Value>>(),
            "kept_step": self.kept,
            "checkpoints": self.saved,
            "options": self.options,
        })
    }
}

fn told(run: &Run, is_running: bool) -> Result<Told> {
    let metrics = run.told()?;
    let state = match run.record.ended {
        _ if is_running => "running",
        Some(ended) => ended.word(),
        None => "killed",
    };
    let options = config::read(&run.config()).ok().and_then(|options| serde_json::to_value(options).ok());
    let options = if let Some(Value::Object(options)) = options { options } else { Map::new() };
    let saved = run.checkpoints()?.steps()?.into_iter().map(|(step, _)| step).collect();
    Ok(Told {
        name: run.name.clone(),
        state,
        steps: metrics.steps,
        loss: metrics.loss,
        best: metrics.best,
        saved,
        kept: run.record.kept,
        options,
    })
}

/// Names of options that are not the same in all runs.
fn differing(runs: &[Told]) -> Vec<&String> {
    let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.options.keys()).collect();
    names.into_iter().filter(|name| runs.iter().any(|run| run.options.get(*name) != runs[0].options.get(*name))).collect()
}

/// A row a run; the options that are not the same in all of them.
fn table(runs: &[Told]) -> String {
    let differ = differing(runs);
    let columns =
        [("run", Align::Left), ("state", Align::Left), ("steps", Align::Right), ("loss", Align::Right), ("best eval", Align::Right)];
    let mut table = Table::new(&[&columns[..], &[("options", Align::Left)]].concat());
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
    for run in runs {
        let option = |name: &&String| Some(format!("{name} {}", plain(run.options.get(*name)?)));
        let options = differ.iter().filter_map(option).collect::<Vec<_>>().join(", ");
        table.row([run.name.clone(), run.state.to_owned(), run.steps.to_string(), number(run.loss), number(run.best), options]);
    }
    table.render(0)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
