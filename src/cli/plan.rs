//! `peft-onnx plan`

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::output::{self, Align, Table};
use super::{Global, memory, sizes};
use crate::error::{Error, Result};
use crate::export::{Bundle, Manifest};
use crate::num;
use crate::train::precision::Precision;
use crate::training::need::{self, Need, Step};
use crate::training::speed;

const AFTER_HELP: &str = "\
Told from the graph: every value's size, in the order in which ONNX Runtime computes them, and in the pieces of memory that it keeps. Rows of texts that are
compared are taken to have two, each of --max-length tokens. Memory is the process's own; weights are mapped from the
model's files and are not counted. Time is that of the products at the speed that this machine multiplies with now: steps take longer.

Examples:
  peft-onnx plan model.lora
  peft-onnx plan model.lora --batch-size 4 --max-length 2048
  peft-onnx plan model.lora --max-length 1024 --memory 8GB     # the largest batch that fits";

/// Options of `plan`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// The model that the bundle was made of, if it moved
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// Rows of a batch [default: 1, 2, 4, 8 and 16]
    #[arg(long, value_name = "ROWS", value_parser = sizes::rows)]
    pub batch_size: Option<NonZeroUsize>,
    /// Rows that the model runs on at a time, as `train --micro-batch-size` [default: the batch]
    #[arg(long, value_name = "ROWS", value_parser = sizes::rows)]
    pub micro_batch_size: Option<NonZeroUsize>,
    /// Tokens of a row [default: 128, 512 and 2048, as far as the model takes them]
    #[arg(long, value_name = "TOKENS", value_parser = sizes::tokens)]
    pub max_length: Option<NonZeroUsize>,
    /// Say the largest batch that fits into this much memory: 8GB, 500MB [default: what is available now]
    #[arg(long, value_name = "SIZE", value_parser = memory::parse)]
    pub memory: Option<u64>,
    /// What to compute in, as `train --precision`: half precision takes less for values, and keeps the weights that it casts
    #[arg(long, value_name = "PRECISION", default_value_t = Precision::default())]
    pub precision: Precision,
    /// With copies of the weights, as `train --prepack-weights` has them
    #[arg(long)]
    pub prepack_weights: bool,
    /// Number of threads, for the estimate of time [default: as many as this process may use]
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<NonZeroUsize>,
}

/// One row of the answer.
struct Planned {
    rows: i64,
    tokens: i64,
    need: Need,
    time: Duration,
}

/// Foretells memory and time of a step.
///
/// # Errors
/// A bundle that cannot be read, or lengths that its graphs do not take.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let bundle = Bundle::open(&args.bundle, args.base.as_deref())?;
    let manifest = bundle.manifest();
    let tokens = tokens(args, manifest)?;
    let step = Step::read(&bundle, args.micro_batch_size.is_some(), args.precision)?;
    let step = if args.prepack_weights { step.with_packed_weights() } else { step };
    let rate = speed::matmul_rate(global.runtime(args.threads)?)?;
    let batches: Vec<i64> = match (args.batch_size, manifest.feeding.rows) {
        (Some(rows), _) => vec![whole(rows.get())],
        (None, Some(rows)) => vec![whole(rows)],
        (None, None) => vec![1, 2, 4, 8, 16],
    };
    let mut planned = vec![];
    for &tokens in &tokens {
        for &rows in &batches {
            let at_a_time = step.rows_at_a_time(args.micro_batch_size.map_or(rows, |micro| whole(micro.get()).min(rows)));
            let need = step.need(at_a_time, tokens)?;
            let runs = f64::from(i32::try_from((rows + at_a_time - 1) / at_a_time).unwrap_or(i32::MAX));
            let time = Duration::try_from_secs_f64(runs * need.operations / rate).unwrap_or(Duration::MAX);
            planned.push(Planned { rows, tokens, need, time });
        }
    }
    let budget = args.memory.or_else(need::available);
    let most: Vec<(i64, Option<i64>)> = match budget {
        Some(budget) => tokens.iter().map(|&tokens| Ok((tokens, step.most_rows(tokens, budget)?))).collect::<Result<_>>()?,
        None => vec![],
    };
    if global.json {
        return output::print_json(&json!({
            "plan": planned.iter().map(Planned::json).collect::<Vec<_>>(),
            "memory": budget,
            "largest_batch": most.iter().map(|(tokens, rows)| json!({"max_length": tokens, "rows": rows})).collect::<Vec<_>>(),
            "matmul_flops_per_second": rate,
            "recompute": manifest.recompute.to_string(),
            "precision": args.precision.to_string(),
        }));
    }
    output::print(describe(&planned, &most, budget, rate).trim_end())
}

/// The lengths of rows that are asked for, or that the model takes.
fn tokens(args: &Args, manifest: &Manifest) -> Result<Vec<i64>> {
    let most = manifest.max_positions.into_iter().chain(manifest.feeding.length.map(whole)).min();
    if let Some((asked, most)) = args.max_length.map(|asked| whole(asked.get())).zip(most).filter(|(asked, most)| asked > most) {
        return Err(Error::mismatch("--max-length", format!("at most {most}, the model's positions"), asked));
    }
    let usual: Vec<i64> = [128, 512, 2048].into_iter().filter(|&tokens| most.is_none_or(|most| tokens <= most)).collect();
    Ok(match (args.max_length, manifest.feeding.length, most) {
        (Some(asked), _, _) => vec![whole(asked.get())],
        (None, Some(only), _) => vec![whole(only)],
        (None, None, Some(most)) if usual.is_empty() => vec![most],
        (None, None, _) => usual,
    })
}

fn whole(number: usize) -> i64 {
    num::int(number)
}

impl Planned {
    fn json(&self) -> Value {
        let Self { rows, tokens, need, time } = self;
        json!({
            "batch_size": rows,
            "max_length": tokens,
            "bytes": need.bytes,
            "value_bytes": need.values,
            "kept_bytes": need.kept,
            "at": need.at,
            "flops": need.operations,
            "seconds": time.as_secs_f64(),
        })
    }
}

fn describe(planned: &[Planned], most: &[(i64, Option<i64>)], budget: Option<u64>, rate: f64) -> String {
    let mut table = Table::new(&[
        ("batch", Align::Right),
        ("tokens", Align::Right),
        ("memory", Align::Right),
        ("TFLOP", Align::Right),
        ("at least", Align::Right),
    ]);
    for Planned { rows, tokens, need, time } in planned {
        table.row([
            rows.to_string(),
            tokens.to_string(),
            output::bytes(need.bytes),
            format!("{:.3}", need.operations / 1e12),
            format!("{:.2} s", time.as_secs_f64()),
        ]);
    }
    let mut lines = vec![table.render(0).trim_end().to_owned(), format!("products run at {:.0} GFLOP/s here", rate / 1e9)];
    for (tokens, rows) in most {
        let fits = match rows {
            Some(rows) => format!("the largest batch of {tokens} tokens is {rows}"),
            None => format!("one row of {tokens} tokens does not fit; --recompute layer at `inject` takes the least"),
        };
        lines.push(format!("in {}: {fits}", output::bytes(budget.unwrap_or_default())));
    }
    lines.join("\n")
}
