//! `peft-onnx finetune`

mod decide;

use std::path::{Path, PathBuf};

use clap::ArgGroup;
use serde_json::json;
use serde_yaml_ng::Mapping;

use super::inject::{Adding, Place};
use super::merge::{Folder, Merging, Written};
use super::train::Training;
use super::{Global, config, output, signals, target};
use crate::error::{Error, Result};
use crate::evaluate::Evaluation;
use crate::export::{Bundle, Injected, Manifest, layout};
use crate::files;
use crate::model::parts::Split;
use crate::training::Summary;
use crate::training::report::by_name;
use crate::training::runs::Runs;
use decide::Decided;

const AFTER_HELP: &str = "\
It is `inject`, `train` and `merge` in one, and takes their options. What nobody says is decided by the data and the model's folder, and said: task and
classes, LoRA on all linear layers, a tenth of the rows to measure on, the best step kept. The folder has the tuned model with everything that belongs to
it, and config.yaml with what was decided; `--config` with that file does the same again (of a file that was named by its whole path it has the name alone:
say again where that is). The adapter, its runs and their reports are in a bundle beside the folder.

Examples:
  peft-onnx finetune model/ --data tickets.csv -o tuned/
  peft-onnx finetune model/ --data tickets.csv --map body=text --map category=label --layout transformers.js -o site/
  peft-onnx finetune smollm2/ --data chats.jsonl --rank 16 --epochs 1 --learning-rate 2e-4
  peft-onnx finetune minilm/ --data pairs.jsonl --eval-data heldout.jsonl --metric mrr@10
  peft-onnx finetune model/ --data tickets.csv -o tuned/ --resume          # after an interruption
  peft-onnx finetune --config tuned/config.yaml model/ --data more.csv -o tuned2/";

/// Options of `finetune`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP, group = ArgGroup::new("what").args(["method", "adapter"]))]
pub struct Args {
    /// The model, or its folder; it is not changed
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The folder to write [default: the model's name with -tuned behind it]
    #[arg(short, long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// Replace the folder and the bundle if they are there
    #[arg(long)]
    pub force: bool,
    /// How it is trained.
    #[command(flatten)]
    pub training: Training,
    /// What is put into the model.
    #[command(flatten)]
    pub adding: Adding,
    /// How it is merged.
    #[command(flatten)]
    pub merging: Merging,
    /// All options by their names, as they were said.
    #[arg(skip)]
    pub said: Mapping,
}

/// Makes a tuned model of a model and data.
///
/// # Errors
/// Whatever `inject`, `train` and `merge` refuse; data of which no task is told.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let places = Places::of(args)?;
    places.check(args)?;
    let mut decided = Decided::of(args)?;
    // What is missing for the training is told before anything is written.
    global.runtime(args.training.threads)?;
    let report = if args.goes_on() { None } else { Some(places.inject(args, &decided, global)?) };
    let manifest = Manifest::read(&places.bundle)?;
    decided.settle(&manifest, report.as_ref());
    for line in decided.lines(&manifest, &places.folder) {
        global.note(&line);
    }
    // The command line refused several processes: this one leads.
    let trained = decided.training.run(&places.bundle, None, global).inspect_err(|_| places.clear(report.as_ref()));
    let Some(summary) = trained? else { return Ok(()) };
    signals::listen(signals::First::Ends);
    let bundle = Bundle::open(&places.bundle, None)?;
    decided.keep_columns(bundle.manifest());
    // The folder is handed on: where files lie on this machine is nobody's business. The runs of the bundle know it.
    let named: Mapping = decided.options.iter().map(|(name, value)| (name.clone(), by_name(value))).collect();
    let config = config::text("finetune", &named)?;
    let tokenizer = args.training.tokenizer.as_deref();
    // A decoder with a cache belongs to the folder of one without.
    let beside =
        Split::inside(files::folder(bundle.model())).map(|split| split.all()).filter(|all| all.iter().any(|file| file == bundle.model()));
    let into = beside.unwrap_or_default();
    let folder = Folder { path: &places.folder, force: args.force || args.goes_on(), tokenizer, config: Some(&config), into: &into };
    // Virtual tokens and a new head are no part of any of several files: then these become one.
    let is_divisible = bundle.manifest().virtual_tokens == 0 && !layout::has_new_head(bundle.adapter())?;
    let merged =
        if is_divisible { args.merging.write(&bundle, &folder, global)? } else { args.merging.write_whole(&bundle, &folder, global)? };
    tell(args, global, &places, &summary, &bundle, &merged)?;
    merged.check()
}

/// Where things are written.
struct Places<'a> {
    model: &'a Path,
    folder: PathBuf,
    bundle: PathBuf,
}

impl<'a> Places<'a> {
    fn of(args: &'a Args) -> Result<Self> {
        let folder = args.folder()?;
        let method = if args.adding.method.method.is_none() && args.adding.adapter.is_none() { "lora" } else { args.adding.name()? };
        let bundle = beside(&folder, &format!(".{method}"))?;
        Ok(Self { model: &args.model, folder, bundle })
    }

    /// Refuses what would be refused at the end, before any work is done.
    fn check(&self, args: &Args) -> Result<()> {
        let Training { data, eval_data, tokenizer, .. } = &args.training;
        let others = [("evaluation's data", eval_data), ("tokenizer", tokenizer)];
        let others = others.iter().filter_map(|(what, path)| Some((*what, path.as_deref()?)));
        let read: Vec<(&str, &Path)> = [("base", self.model), ("data", data)].into_iter().chain(others).collect();
        target::not_around(&self.folder, &read)?;
        let names = layout::names(self.model)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        target::check_folder(&self.folder, args.force || args.goes_on(), &names)?;
        if args.goes_on() && !self.bundle.is_dir() {
            let error = Error::invalid("there is no bundle to go on with").in_file(&self.bundle);
            return Err(error.with_hint("leave out --resume, --continue or --restart to begin"));
        }
        Ok(())
    }

    /// Removes the bundle that was written for a training that never began: it would only stand in the way of the next try.
    fn clear(&self, written: Option<&Injected>) {
        if written.is_some() && matches!(Runs::of(&self.bundle).newest(), Ok(None)) {
            // What is left is named by the next try.
            let _ = std::fs::remove_dir_all(&self.bundle);
        }
    }

    fn inject(&self, args: &Args, decided: &Decided, global: &Global) -> Result<Injected> {
        let tokenizer = args.training.tokenizer.as_deref();
        let (map, seed) = (&decided.training.columns.map[..], args.training.seed);
        let place = Place { model: self.model, output: &self.bundle, force: args.force, tokenizer, map, seed };
        decided.adding.write(&place, global)
    }
}

/// The path of a folder or of a model with something behind its name.
fn beside(path: &Path, end: &str) -> Result<PathBuf> {
    let whole = std::path::absolute(path)?;
    // `folder/model.onnx` and `folder/onnx/model.onnx` are the model of the folder.
    let is_model = whole.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"));
    let is_usual = whole.file_stem().is_some_and(|stem| stem == "model");
    let folder = |path: &Path| path.parent().filter(|folder| folder.file_name().is_some()).map(Path::to_path_buf);
    let named = match (is_model, is_usual) {
        (true, true) => folder(&whole).and_then(|own| if own.ends_with("onnx") { folder(&own) } else { Some(own) }).unwrap_or(whole),
        (true, false) => whole.with_extension(""),
        (false, _) => whole,
    };
    let mut name = named.file_name().unwrap_or_default().to_os_string();
    name.push(end);
    Ok(named.with_file_name(name))
}

impl Args {
    /// The folder to write.
    fn folder(&self) -> Result<PathBuf> {
        self.output.clone().map_or_else(|| beside(&self.model, "-tuned"), Ok)
    }

    /// Names the folder to write after what the user named, before that stands for the files in it.
    ///
    /// # Errors
    /// A name of a folder that is none.
    pub(super) fn settle_output(&mut self) -> Result<()> {
        self.output = Some(self.folder()?);
        Ok(())
    }

    /// The bundle that is trained.
    ///
    /// # Errors
    /// A name of a folder that is none.
    pub(super) fn bundle(&self) -> Result<PathBuf> {
        Places::of(self).map(|places| places.bundle)
    }

    /// Whether a bundle that is there is trained on.
    fn goes_on(&self) -> bool {
        self.training.resume.is_some() || self.training.continued || self.training.restart
    }
}

fn tell(args: &Args, global: &Global, places: &Places<'_>, summary: &Summary, bundle: &Bundle, merged: &Written) -> Result<()> {
    let classes = &bundle.manifest().class_names;
    if global.json {
        return output::print_json(&json!({
            "folder": places.folder,
            "model": merged.model(),
            "bundle": places.bundle,
            "task": bundle.manifest().task,
            "class_names": classes,
            "run": summary.run,
            "steps": summary.steps,
            "kept_step": summary.kept,
            "loss": summary.loss,
            "first_loss": summary.first_loss,
            "eval": summary.evaluation.as_ref().map(Evaluation::json),
            "merged": merged.json(),
        }));
    }
    if global.quiet {
        return Ok(());
    }
    let mut lines = super::train::lines(summary, classes);
    lines.extend(merged.lines(args.merging.no_verify));
    lines.push(format!("bundle    {} (adapter, runs, report: runs/{}/report.html)", places.bundle.display(), summary.run));
    lines.push(format!("next      {}", next(args, places, bundle.manifest(), merged.model())));
    output::print(&lines.join("\n"))
}

/// What to try.
fn next(args: &Args, places: &Places<'_>, manifest: &Manifest, model: &Path) -> String {
    let (model, bundle, rows) = (model.display(), places.bundle.display(), other_rows(&args.training.data));
    match &*manifest.task {
        "causal-lm" | "seq2seq-lm" => format!("peft-onnx generate {model} --prompt 'Once upon a time'"),
        "speech-seq2seq" => format!("peft-onnx generate {model} --audio speech.wav"),
        // Its losses compare with the base, which the bundle knows.
        "preference" => format!("peft-onnx eval {bundle} --data {rows}"),
        // The folder says what the model is for, and what columns are.
        _ => format!("peft-onnx eval {model} --data {rows}"),
    }
}

/// What other rows could be called, which are as those that were learnt from.
fn other_rows(data: &Path) -> String {
    if data.is_dir() {
        return "other/".to_owned();
    }
    let name = data.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    format!("other.{}", name.rsplit_once('.').map_or("jsonl", |(_, ending)| ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_the_command_that_is_told_are_of_the_form_of_those_that_were_given() {
        for (data, other) in [
            ("a/pairs.JSONL", "other.jsonl"),
            ("t.csv.gz", "other.csv"),
            ("-", "other.jsonl"),
            ("rows.parquet", "other.parquet"),
            (".", "other/"),
        ] {
            assert_eq!(other_rows(Path::new(data)), other, "{data}");
        }
    }

    #[test]
    fn what_is_written_stands_beside_what_was_given() -> Result<()> {
        for (path, expected) in [
            ("/a/minilm", "/a/minilm-tuned"),
            ("/a/SmolLM2-1.7B", "/a/SmolLM2-1.7B-tuned"),
            ("/a/minilm/model.onnx", "/a/minilm-tuned"),
            ("/a/minilm/onnx/model.onnx", "/a/minilm-tuned"),
            ("/a/bert.onnx", "/a/bert-tuned"),
            ("/a/v1.5.onnx", "/a/v1.5-tuned"),
            ("/model.onnx", "/model.onnx-tuned"),
        ] {
            assert_eq!(beside(Path::new(path), "-tuned")?, Path::new(expected), "{path}");
        }
        Ok(())
    }
}
