//! `peft-onnx runs`

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::output::{self, Align, Table};
use super::{Global, config};
use crate::error::Result;
use crate::export::Manifest;
use crate::export::lock::Lock;
use crate::training::runs::{Ended, Run, Runs};

const AFTER_HELP: &str = "\
A run is `finished`, `interrupted`, `diverged` (it left the range of numbers), `running`, or `killed`.

Examples:
  peft-onnx runs model.lora
  peft-onnx runs model.lora --json
  peft-onnx train model.lora --data train.jsonl --restart --run wide --learning-rate 1e-3";

/// Options of `runs`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
}

/// What is told of a run.
struct Told {
    name: String,
    state: &'static str,
    steps: u64,
    loss: Option<f64>,
    best: Option<f64>,
    saved: Vec<u64>,
    options: Map<String, Value>,
}

/// Lists the runs of a bundle.
///
/// # Errors
/// If the bundle cannot be read.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    Manifest::read(&args.bundle)?;
    let runs = Runs::of(&args.bundle).all()?;
    let is_held = Lock::holder(&args.bundle).is_some_and(|holder| holder.work.ends_with("train"));
    let newest = runs.last().map(|run| run.name.clone());
    let told: Vec<Told> = runs.iter().map(|run| told(run, is_held && Some(&run.name) == newest.as_ref())).collect::<Result<_>>()?;
    if global.json {
        return output::print_json(&told.iter().map(Told::json).collect::<Vec<_>>());
    }
    if told.is_empty() {
        return output::print("no runs yet: `peft-onnx train` begins one");
    }
    output::print(table(&told).trim_end())
}

impl Told {
    fn json(&self) -> Value {
        json!({
            "run": self.name,
            "state": self.state,
            "steps": self.steps,
            "loss": self.loss,
            "best_eval_loss": self.best,
            "checkpoints": self.saved,
            "options": self.options,
        })
    }
}

fn told(run: &Run, is_running: bool) -> Result<Told> {
    let metrics = run.told()?;
    let state = match run.record.ended {
        _ if is_running => "running",
        Some(Ended::Finished) => "finished",
        Some(Ended::Interrupted) => "interrupted",
        Some(Ended::Diverged) => "diverged",
        None => "killed",
    };
    let options = config::read(&run.config()).ok().and_then(|options| serde_json::to_value(options).ok());
    let options = if let Some(Value::Object(options)) = options { options } else { Map::new() };
    let saved = run.checkpoints()?.steps()?.into_iter().map(|(step, _)| step).collect();
    Ok(Told { name: run.name.clone(), state, steps: metrics.steps, loss: metrics.loss, best: metrics.best, saved, options })
}

/// A row a run; the options that are not the same in all of them.
fn table(runs: &[Told]) -> String {
    let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.options.keys()).collect();
    let differ: Vec<&String> =
        names.into_iter().filter(|name| runs.iter().any(|run| run.options.get(*name) != runs[0].options.get(*name))).collect();
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
