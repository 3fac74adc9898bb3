//! `peft-onnx merge`

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::json;

use super::{Global, Which, output, target};
use crate::error::{Error, ErrorKind, Result};
use crate::evaluate::verify::{self, Comparison, Samples};
use crate::export::INFERENCE;
use crate::export::merge::{self, Quantised, Report, Request, Weights};
use crate::ir::DType;
use crate::model::Model;
use crate::onnx;

const AFTER_HELP: &str = "\
The merged model has the base's inputs and outputs, and runs in any ONNX runtime. Unless --no-verify is given, it is compared with the bundle's
inference graph on random inputs.

Examples:
  peft-onnx merge model.lora -o tuned.onnx
  peft-onnx merge model.lora -o tuned.onnx --weights external
  peft-onnx merge int4.lora -o tuned.onnx --requantize       # as small as the base; says what rounding cost";

/// Options of `merge`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// The model that the bundle was made of, if it moved
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// Which adapter
    #[command(flatten)]
    pub which: Which,
    /// The model to write
    #[arg(short, long, value_name = "MODEL")]
    pub output: PathBuf,
    /// Where its weights go
    #[arg(long, value_name = "WHERE", default_value = "as-base")]
    pub weights: WeightsName,
    /// Also fold the adapter into quantised weights, and quantise them again in their own scheme; by default the adapter stays beside them, which
    /// is exact
    #[arg(long)]
    pub requantize: bool,
    /// Replace the model if it is there
    #[arg(long)]
    pub force: bool,
    /// Do not compare the merged model with the unmerged one
    #[arg(long)]
    pub no_verify: bool,
}

/// Where weights go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightsName {
    /// As the base has them: inside the model's file, or in one file beside it
    AsBase,
    /// Inside the model's file
    Inline,
    /// In one file beside the model
    External,
}

/// Folds the adapter into the base.
///
/// # Errors
/// As [`merge::write`]; [`Diverged`](ErrorKind::Diverged) if the merged model computes something else than the unmerged one.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    target::file(&args.output, args.force)?;
    let weights = match args.weights {
        WeightsName::AsBase => Weights::AsBase,
        WeightsName::Inline => Weights::Inline,
        WeightsName::External => Weights::External,
    };
    let quantised = if args.requantize { Quantised::Requantised } else { Quantised::Beside };
    let bundle = args.which.open(&args.bundle, args.base.as_deref())?;
    let request = Request { bundle: &bundle, output: &args.output, weights, quantised };
    let model = Model::open(bundle.model())?;
    let samples = Samples::of_model(&model);
    let report = merge::write(model, &request)?;
    let is_rounded = report.requantised.weights > 0;
    let comparison = if args.no_verify { None } else { compared(args, global, &report, &samples)? };
    let size = size(&args.output);
    if global.json {
        output::print_json(&json!({
            "model": args.output,
            "modules": report.modules,
            "bytes": size,
            "requantized": is_rounded.then(|| json!({"weights": report.requantised.weights, "error": report.requantised.error()})),
            "verified": comparison.as_ref().map(Comparison::json),
        }))?;
    } else if !global.quiet {
        let mut lines = vec![format!("merged    {} modules into {} ({})", report.modules, args.output.display(), output::bytes(size))];
        if is_rounded {
            let error = 100.0 * report.requantised.error();
            lines.push(format!("rounded   {} weights again, off by {error:.3} % (root mean square)", report.requantised.weights));
        }
        match &comparison {
            Some(comparison) if is_rounded => lines.push(format!("logits    {comparison}, from rounding")),
            Some(comparison) => lines.push(format!("verified  {comparison}")),
            None if !args.no_verify => lines.push(format!("verified  not: {NO_BFLOAT16}")),
            None => {}
        }
        output::print(&lines.join("\n"))?;
    }
    match comparison.filter(|comparison| !is_rounded && !comparison.is_close(report.precision)) {
        None => Ok(()),
        Some(comparison) => {
            let error = Error::from(ErrorKind::Diverged(format!("the merged model is not the unmerged one: {comparison}")));
            Err(error.in_file(&args.output).with_hint("the model was written nevertheless: compare `peft-onnx eval` of the bundle and of the model on your data before you use it"))
        }
    }
}

const NO_BFLOAT16: &str = "ONNX Runtime computes in bfloat16 on CUDA only, not on the processor";

/// The merged model beside the unmerged one; nothing if they compute in a type that the processor has not.
fn compared(args: &Args, global: &Global, report: &Report, samples: &Samples) -> Result<Option<Comparison>> {
    let unmerged = report.bundle.runnable(INFERENCE)?;
    let runtime = global.runtime(None)?;
    let comparison = match verify::compare(runtime, unmerged, &args.output, samples) {
        Err(_) if report.precision == DType::BF16 => return Ok(None),
        comparison => comparison?,
    };
    // A model that rounds what it computes makes steps of differences in the last bit; it is the same model if it is so without them.
    let is_finite = !comparison.relative.is_nan();
    if is_finite && !comparison.is_close(report.precision) {
        let (unmerged, merged) = (report.bundle.adapted()?, onnx::read(&args.output)?);
        let unrounded = verify::compare_unrounded(runtime, &unmerged, &merged, &args.output, samples)?;
        return Ok(Some(match unrounded {
            Some(unrounded) => unrounded.after_rounding(&comparison),
            None => comparison,
        }));
    }
    Ok(Some(comparison))
}

/// Bytes of the model's file and of the files beside it whose names begin with its name.
fn size(model: &Path) -> u64 {
    let folder = model.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let own = files.filter(|file| file.file_name().to_string_lossy().starts_with(&*name));
    own.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}
