//! `peft-onnx data mine-negatives`

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::adapter::config::{Pooling, Task};
use crate::cli::opening::Opening;
use crate::cli::{Columns, Global, Which, output, target};
use crate::data::Fields;
use crate::error::{Error, OnlyWith, Result};
use crate::files::Staged;
use crate::ort::Device;
use crate::predict::mining::{self, Choice, Negative, Pair};
use crate::predict::{Predictor, Running, Shape};

const AFTER_HELP: &str = "\
Rows have anchor and positive (or query and passage, question and answer). All texts are encoded with the model; for each pair the nearest texts
among all positives, and those of --corpus, that do not answer the query are its negatives. Options are those of sentence-transformers'
mine_hard_negatives.

Examples:
  peft-onnx data mine-negatives pairs.jsonl --model model.onnx -o triplets.jsonl
  peft-onnx data mine-negatives pairs.jsonl --model my.lora --range-min 10 --relative-margin 0.05 --num-negatives 5 --output-format n-tuple -o rows.jsonl";

/// Options of `data mine-negatives`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The pairs
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The model, or bundle, that encodes texts
    #[arg(long, value_name = "MODEL|BUNDLE")]
    pub model: PathBuf,
    /// The model that the bundle was made of, if it moved
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// Which adapter
    #[command(flatten)]
    pub which: Which,
    /// More texts that may be negatives: rows with text (or positive, passage)
    #[arg(long, value_name = "FILE")]
    pub corpus: Option<PathBuf>,
    /// Where to write the rows
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
    /// What columns are for.
    #[command(flatten)]
    pub columns: Columns,
    /// tokenizer.json, or its folder [default: beside the model]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// How a text's vector is made of its tokens' (for models; a bundle knows it): cls, mean, last or none
    #[arg(long, value_name = "POOLING")]
    pub pooling: Option<Pooling>,
    /// Negatives for each pair
    #[arg(long, value_name = "COUNT", default_value = "3", help_heading = "Choice of negatives")]
    pub num_negatives: NonZeroUsize,
    /// Leave out so many of the nearest
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = "Choice of negatives")]
    pub range_min: usize,
    /// Look at so many of the nearest [default: as many as the other options ask for]
    #[arg(long, value_name = "COUNT", help_heading = "Choice of negatives")]
    pub range_max: Option<usize>,
    /// The highest cosine of a negative
    #[arg(long, value_name = "COSINE", help_heading = "Choice of negatives")]
    pub max_score: Option<f64>,
    /// The lowest cosine of a negative
    #[arg(long, value_name = "COSINE", help_heading = "Choice of negatives")]
    pub min_score: Option<f64>,
    /// How far below the positive's cosine a negative's must be
    #[arg(long, alias = "margin", value_name = "NUMBER", help_heading = "Choice of negatives")]
    pub absolute_margin: Option<f64>,
    /// The same as a share of the positive's cosine: 0.05 takes negatives up to 95 % of it
    #[arg(long, value_name = "SHARE", help_heading = "Choice of negatives")]
    pub relative_margin: Option<f64>,
    /// Which of those that are left: the nearest, or drawn ones
    #[arg(long, value_name = "WHICH", default_value = "top", help_heading = "Choice of negatives")]
    pub sampling_strategy: Sampling,
    /// Random seed of --sampling-strategy random [default: 42]
    #[arg(long, value_name = "NUMBER", help_heading = "Choice of negatives")]
    pub seed: Option<u64>,
    /// Rows: triplet (one for each negative), n-tuple (negative_1, negative_2, ..), labeled-pair (anchor, passage, label 1 or 0)
    #[arg(long, value_name = "FORMAT", default_value = "triplet")]
    pub output_format: Format,
    /// Batch size, in texts
    #[arg(long, value_name = "TEXTS", default_value = "32")]
    pub batch_size: NonZeroUsize,
    /// Truncate texts to this many tokens [default: as many as the model takes]
    #[arg(long, aliases = ["max-seq-length", "max-seq-len"], value_name = "TOKENS")]
    pub max_length: Option<NonZeroUsize>,
    /// Device: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu, help_heading = "Computing")]
    pub device: Device,
    /// Number of threads [default: as many as this process may use]
    #[arg(long, value_name = "COUNT", help_heading = "Computing")]
    pub threads: Option<NonZeroUsize>,
}

/// Which of the candidates are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sampling {
    /// The nearest.
    Top,
    /// Drawn ones.
    Random,
}

/// Forms of rows with negatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A row for each negative.
    Triplet,
    /// All negatives of a pair in one row.
    NTuple,
    /// A row for the positive and for each negative.
    LabeledPair,
}

/// Options of drawn negatives.
static OPTIONS: &[OnlyWith<Args, Sampling>] = &[OnlyWith {
    option: "seed",
    is_given: |args| args.seed.is_some(),
    with: "the sampling strategy random",
    holds: |strategy| *strategy == Sampling::Random,
}];

/// Mines negatives.
///
/// # Errors
/// Rows without anchor and positive; a model that gives no vectors.
pub(super) fn run(args: &Args, global: &Global) -> Result<()> {
    let read = [Some(args.model.as_path()), args.base.as_deref(), Some(&args.file), args.corpus.as_deref(), args.tokenizer.as_deref()];
    target::file(&args.output, args.force, &read)?;
    OnlyWith::check(OPTIONS, args, &args.sampling_strategy, "the nearest")?;
    let opening = Opening {
        model: &args.model,
        parts: &[],
        base: args.base.as_deref(),
        which: &args.which,
        tokenizer: args.tokenizer.as_deref(),
        task: (!args.model.is_dir()).then_some(Task::Embedding),
        rows: None,
        pooling: args.pooling,
        normalize: None,
        columns: args.columns.renamed(),
        max_length: args.max_length,
        stride: None,
    };
    let mut model = opening.open()?;
    let max_length = args.max_length.or(model.source.positions().and_then(NonZeroUsize::new));
    model.source = model.source.cut(max_length);
    let mut pairs: Vec<(Pair, Fields)> = vec![];
    model.source.each_row(&args.file, &mut |_, own, read| {
        pairs.push((Pair { anchor: text(&read, &["anchor"])?, positive: text(&read, &["positive"])? }, own));
        Ok(())
    })?;
    let mut corpus = vec![];
    if let Some(file) = &args.corpus {
        model.source.each_row(file, &mut |_, _, read| {
            corpus.push(text(&read, &["text", "positive", "sentence", "anchor"])?);
            Ok(())
        })?;
    }
    let shape = Shape::default();
    let running = Running { device: args.device, batch_size: args.batch_size.get(), new_tokens: 0 };
    let mut predictor = Predictor::open(global.runtime(args.threads)?, model, shape, running)?;
    let limits: [(&'static str, Option<f64>); 4] = [
        ("max_score", args.max_score),
        ("min_score", args.min_score),
        ("absolute_margin", args.absolute_margin),
        ("relative_margin", args.relative_margin),
    ];
    if let Some((option, value)) = limits.into_iter().find_map(|(option, value)| Some((option, value.filter(|value| !value.is_finite())?)))
    {
        return Err(Error::setting(option, "a finite number", value));
    }
    let choice = Choice {
        count: args.num_negatives.get(),
        range_min: args.range_min,
        range_max: args.range_max,
        max_score: args.max_score,
        min_score: args.min_score,
        absolute_margin: args.absolute_margin,
        relative_margin: args.relative_margin,
        seed: (args.sampling_strategy == Sampling::Random).then(|| args.seed.unwrap_or(42)),
    };
    let (only, own): (Vec<Pair>, Vec<Fields>) = pairs.into_iter().unzip();
    let found = mining::negatives(&mut predictor, &only, &corpus, &choice)?;
    let rows: Vec<Value> = only.iter().zip(&own).zip(&found).flat_map(|((pair, own), found)| args.rows(pair, own, found)).collect();
    let mut file = Staged::new(&args.output)?;
    rows.iter().try_for_each(|row| file.write(format!("{row}\n").as_bytes()))?;
    file.finish()?;
    report(args, global, &found, rows.len())
}

impl Args {
    fn rows(&self, pair: &Pair, own: &Fields, found: &[Negative]) -> Vec<Value> {
        match self.output_format {
            Format::Triplet => {
                found.iter().map(|negative| json!({"anchor": pair.anchor, "positive": pair.positive, "negative": negative.text})).collect()
            }
            // Rows of one batch have the same number of texts.
            Format::NTuple if found.len() < self.num_negatives.get() => vec![],
            Format::NTuple => {
                let mut row = own.clone();
                row.retain(|name, _| name != "negative" && !name.starts_with("negative_"));
                row.extend(found.iter().zip(1..).map(|(negative, number)| (format!("negative_{number}"), negative.text.clone().into())));
                vec![Value::Object(row)]
            }
            Format::LabeledPair => {
                let row = |passage: &str, label: u8| json!({"query": pair.anchor, "passage": passage, "label": label});
                std::iter::once(row(&pair.positive, 1)).chain(found.iter().map(|negative| row(&negative.text, 0))).collect()
            }
        }
    }
}

fn report(args: &Args, global: &Global, found: &[Vec<Negative>], rows: usize) -> Result<()> {
    let negatives: usize = found.iter().map(Vec::len).sum();
    let short = found.iter().filter(|negatives| negatives.len() < args.num_negatives.get()).count();
    let mean = found.iter().flatten().map(|negative| negative.score).sum::<f64>() / crate::measure::float(negatives.max(1));
    if global.json {
        let report =
            json!({"pairs": found.len(), "negatives": negatives, "short": short, "mean_score": mean, "rows": rows, "output": args.output});
        return output::print_json(&report);
    }
    if global.quiet {
        return Ok(());
    }
    let told = match (short, args.output_format) {
        (0, _) => String::new(),
        (short, Format::NTuple) => format!("; {short} pairs have fewer than {} and are left out", args.num_negatives),
        (short, _) => format!("; {short} pairs have fewer than {}", args.num_negatives),
    };
    output::print(&format!(
        "{negatives} negatives for {} pairs, of a mean cosine of {mean:.3}{told}\nwrote {rows} rows: {}",
        found.len(),
        args.output.display()
    ))
}

/// The text in the first of these columns that there is.
fn text(fields: &Fields, names: &[&'static str]) -> Result<String> {
    let found = names.iter().find_map(|name| fields.get(*name)).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    found.map(ToOwned::to_owned).ok_or_else(|| {
        let error = Error::not_found("column", names.join(" or "));
        error.with_hint("a pair has anchor and positive, a row of the corpus has text; --map COLUMN=ROLE says which is which")
    })
}
