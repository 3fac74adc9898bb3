//! `peft-onnx data`

mod mine;
mod rows;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::output::{self, Align, Table};
use super::{Columns, Global};
use crate::data::profile::{Characters, Profile};
use crate::data::{Dataset, Labels};
use crate::error::{Error, Result};
use crate::export::Bundle;
use crate::num;
use crate::training::Source;

pub use mine::Args as MineArgs;

const AFTER_HELP: &str = "\
With a bundle, rows are read as `train` reads them: how long they are in tokens, which classes there are, what is cut, and a few rows with the tokens
that are learnt in colour (between « and » where there is no colour) and special tokens as they are.

Examples:
  peft-onnx data reviews.csv
  peft-onnx data reviews.csv model.lora --max-length 128
  peft-onnx data mine-negatives pairs.jsonl --model model.onnx -o triplets.jsonl";

/// Options of `data`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// What to do with data, other than showing it
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The data file
    #[arg(value_name = "FILE", required = true)]
    pub file: Option<PathBuf>,
    /// The bundle that is to be trained on it
    #[arg(value_name = "BUNDLE")]
    pub bundle: Option<PathBuf>,
    /// The model that the bundle was made of, if it moved
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// What columns are for.
    #[command(flatten)]
    pub columns: Columns,
    /// tokenizer.json, or its folder [default: beside the model, if it is needed]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Truncate rows to this many tokens [default: as many as the model takes]
    #[arg(long, aliases = ["max-seq-length", "max-seq-len", "cutoff-len"], value_name = "TOKENS")]
    pub max_length: Option<NonZeroUsize>,
    /// For qa: part long texts into windows that share this many tokens with the one before [default: texts are cut]
    #[arg(long, value_name = "TOKENS")]
    pub doc_stride: Option<usize>,
    /// How many rows to show
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub rows: usize,
}

/// What is done with data.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Find texts that are near a query and do not answer it, as negatives for training embeddings and rerankers
    MineNegatives(Box<mine::Args>),
}

/// What the rows are for a bundle.
#[derive(Serialize)]
struct ForBundle {
    task: &'static str,
    examples: usize,
    tokens: usize,
    labels: usize,
    /// Examples in which nothing is learnt.
    unlabelled: usize,
    /// Rows that are cut, and at how many tokens.
    cut: usize,
    max_length: Option<usize>,
    lengths: Lengths,
    classes: Vec<Class>,
    rows: Vec<rows::Row>,
}

/// Lengths in tokens.
#[derive(Serialize)]
struct Lengths {
    shortest: usize,
    mean: f64,
    median: usize,
    p90: usize,
    p99: usize,
    longest: usize,
    /// Parts of equal width: from, to, and how many rows there are.
    histogram: Vec<[usize; 3]>,
}

#[derive(Serialize)]
struct Class {
    name: String,
    rows: usize,
}

/// Shows a data file, or does what was asked with it.
///
/// # Errors
/// A file that cannot be read, or that the bundle cannot be trained on.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    match (&args.command, &args.file) {
        (Some(Command::MineNegatives(args)), _) => mine::run(args, global),
        (None, Some(file)) => show(args, file, global),
        (None, None) => Err(Error::invalid("no data file").with_hint("`peft-onnx data FILE`")),
    }
}

fn show(args: &Args, file: &std::path::Path, global: &Global) -> Result<()> {
    let profile = Profile::of(file)?;
    let read = args.bundle.as_ref().map(|bundle| read(args, file, bundle)).transpose()?;
    if global.json {
        return output::print_json(&json!({"file": file, "profile": profile, "training": read}));
    }
    let mut text = describe(&profile);
    if let Some(read) = &read {
        text += &read.describe();
    }
    rows::print(&text, read.as_ref().map(|read| &read.rows[..]).unwrap_or_default())
}

fn read(args: &Args, file: &std::path::Path, bundle: &std::path::Path) -> Result<ForBundle> {
    let bundle = Bundle::open(bundle, args.base.as_deref())?;
    let source = Source::of(&bundle, args.tokenizer.as_deref())?.mapped(&args.columns.renamed()).parted(args.doc_stride);
    let usual = source.max_length().or(source.positions()).and_then(NonZeroUsize::new);
    let max_length = args.max_length.or(usual);
    let source = source.cut(max_length);
    let dataset = source.read_to_learn(file)?;
    let names = dataset.class_names.clone().unwrap_or_else(|| bundle.manifest().class_names.clone());
    let summary = dataset.summary;
    Ok(ForBundle {
        task: source.task().name(),
        examples: dataset.examples.len(),
        tokens: summary.tokens,
        labels: summary.labels,
        unlabelled: summary.unlabelled,
        cut: summary.cut,
        max_length: max_length.map(NonZeroUsize::get),
        lengths: Lengths::of(&dataset),
        classes: classes(&dataset, &names),
        rows: dataset.examples.iter().take(args.rows).map(|example| rows::Row::of(&example, &source, &names)).collect::<Result<_>>()?,
    })
}

impl Lengths {
    fn of(dataset: &Dataset) -> Self {
        const PARTS: usize = 10;
        let mut all: Vec<usize> = dataset.examples.iter().map(|example| example.input_ids.len()).collect();
        all.sort_unstable();
        let (shortest, longest) = (all.first().copied().unwrap_or_default(), all.last().copied().unwrap_or_default());
        let share = |percent: usize| all.get((all.len() * percent / 100).min(all.len().saturating_sub(1))).copied().unwrap_or_default();
        let width = (longest - shortest + 1).div_ceil(PARTS).max(1);
        let parts =
            (0..PARTS).map(|part| (shortest + part * width, shortest + (part + 1) * width - 1)).filter(|(from, _)| *from <= longest);
        let count = |from: usize, to: usize| all.iter().filter(|length| (from..=to).contains(*length)).count();
        let sum = crate::measure::float(all.iter().sum());
        Self {
            shortest,
            mean: sum / crate::measure::float(all.len().max(1)),
            median: share(50),
            p90: share(90),
            p99: share(99),
            longest,
            histogram: parts.map(|(from, to)| [from, to, count(from, to)]).collect(),
        }
    }
}

/// How many rows each class has.
fn classes(dataset: &Dataset, names: &[String]) -> Vec<Class> {
    let mut counts: Vec<usize> = vec![0; names.len()];
    for example in dataset.examples.iter() {
        let Labels::Class(class) = example.labels else { continue };
        let Ok(class) = usize::try_from(class) else { continue };
        counts.resize(counts.len().max(class + 1), 0);
        counts[class] += 1;
    }
    if counts.iter().all(|count| *count == 0) {
        return vec![];
    }
    let name = |class: usize| names.get(class).cloned().unwrap_or_else(|| class.to_string());
    counts.into_iter().enumerate().map(|(class, rows)| Class { name: name(class), rows }).collect()
}

fn describe(profile: &Profile) -> String {
    let mut table = Table::new(&[("column", Align::Left), ("rows", Align::Right), ("values", Align::Left), ("first", Align::Left)]);
    for (name, column) in &profile.columns {
        let kinds = column.kinds.iter().copied().collect::<Vec<_>>().join(", ");
        let kinds = match column.characters {
            Some(Characters { shortest, longest, .. }) => format!("{kinds} of {shortest} to {longest} characters"),
            None => kinds,
        };
        table.row([name.clone(), output::count(wide(column.rows)), kinds, column.example.clone()]);
    }
    let mut parts = vec![format!("{} rows\n\n{}", output::count(wide(profile.rows)), table.render(0))];
    if profile.duplicates > 0 {
        let first = profile.duplicate_lines.iter().take(5).map(|[one, other]| format!("{other} (as {one})")).collect::<Vec<_>>().join(", ");
        parts.push(format!("\n{} rows equal an earlier one: lines {first}\n", output::count(wide(profile.duplicates))));
    }
    parts.concat()
}

impl ForBundle {
    fn describe(&self) -> String {
        let Self { task, tokens, labels, unlabelled, cut, lengths, .. } = self;
        let mut parts =
            vec![format!("\nread for {task}: {} tokens, {} labels\n", output::count(wide(*tokens)), output::count(wide(*labels)))];
        let Lengths { shortest, mean, median, p90, p99, longest, histogram } = lengths;
        parts.push(format!(
            "tokens in a row: {shortest} to {longest}, mean {mean:.1}, median {median}, 90 % up to {p90}, 99 % up to {p99}\n"
        ));
        let most = histogram.iter().map(|[_, _, count]| *count).max().unwrap_or_default().max(1);
        for [from, to, count] in histogram {
            parts.push(format!("  {from:>6} to {to:<6} {:<40} {}\n", "█".repeat((40 * count).div_ceil(most)), output::count(wide(*count))));
        }
        if let Some(length) = self.max_length.filter(|_| *cut > 0) {
            parts.push(format!("{} rows are longer than {length} tokens and are cut there\n", output::count(wide(*cut))));
        }
        if *unlabelled > 0 {
            parts.push(format!("{} rows have nothing to learn\n", output::count(wide(*unlabelled))));
        }
        if !self.classes.is_empty() {
            let mut table = Table::new(&[("class", Align::Left), ("rows", Align::Right)]);
            self.classes.iter().for_each(|class| table.row([class.name.clone(), output::count(wide(class.rows))]));
            parts.push(format!("\n{}", table.render(0)));
        }
        parts.concat()
    }
}

fn wide(count: usize) -> u64 {
    num::wide(count)
}
