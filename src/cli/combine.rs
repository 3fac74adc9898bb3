//! `peft-onnx combine`

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Global, output, target};
use crate::adapter::combine::{Majority, Recipe, Technique};
use crate::adapter::config::finite;
use crate::adapter::methods::lora::LoraConfig;
use crate::error::{Context, Error, Result};
use crate::export::pending::ADAPTER_FILES;
use crate::peft::combine::Share;
use crate::peft::{self, AdapterFiles};

/// The largest rank that is made: above it are no updates of low rank.
const MOST_RANK: usize = 1 << 14;

const AFTER_HELP: &str = "\
Each adapter is a bundle or a folder that PEFT wrote. Methods, with PEFT's names:
  cat              the exact weighted sum; its rank is that of all adapters together
  svd              the weighted sum, brought to --rank by its largest singular values
  linear           factors added to factors, for adapters of one rank: rough
  ties, dare_ties, dare_linear, magnitude_prune       some numbers of the factors left out before (--density)
  ties_svd, dare_ties_svd, dare_linear_svd, magnitude_prune_svd       the same with updates instead of factors, then as svd

Examples:
  peft-onnx combine polite.lora terse.lora --weights 0.7,0.3 --method svd --rank 8 -o both
  peft-onnx combine a b c --method ties --density 0.5 -o all
  peft-onnx inject model.onnx --adapter both                 # a bundle of the combination";

/// Options of `combine`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The adapters, at least two
    #[arg(value_name = "ADAPTER", num_args = 2.., required = true)]
    pub adapters: Vec<PathBuf>,
    /// The weight of each adapter [default: 1 for each]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', allow_hyphen_values = true)]
    pub weights: Vec<f64>,
    /// The way to combine
    #[arg(long, value_name = "METHOD", default_value = "cat", value_parser = Technique::from_name)]
    pub method: Technique,
    /// Rank of the combination, for svd and the methods that end in it [default: the largest of the adapters]
    #[arg(long, value_name = "RANK")]
    pub rank: Option<usize>,
    /// Share of the entries to keep, for ties, dare and magnitude_prune
    #[arg(long, value_name = "SHARE")]
    pub density: Option<f64>,
    /// Whose sign counts where adapters disagree, for ties
    #[arg(long, value_name = "WHOSE", default_value = "total")]
    pub majority_sign: Majority,
    /// Random seed of what dare drops
    #[arg(long, value_name = "NUMBER", default_value_t = 42)]
    pub seed: u64,
    /// The folder to write
    #[arg(short, long, value_name = "FOLDER")]
    pub output: PathBuf,
    /// Replace an adapter that is there
    #[arg(long)]
    pub force: bool,
}

/// Makes one adapter of several.
///
/// # Errors
/// An adapter that cannot be read; as [`peft::combine::combine`]; a folder that is there already.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let read: Vec<Option<&Path>> = args.adapters.iter().map(|adapter| Some(adapter.as_path())).collect();
    let folder = target::folder(&args.output, args.force, &ADAPTER_FILES, &read)?;
    let adapters: Vec<AdapterFiles> = args.adapters.iter().map(|folder: &PathBuf| peft::read(folder)).collect::<Result<_>>()?;
    if let Some(rank) = args.rank.filter(|rank| *rank > MOST_RANK) {
        return Err(Error::setting("rank", format!("{MOST_RANK} at most"), rank));
    }
    args.weights.iter().try_for_each(|weight| finite("weights", *weight).hint("weights are numbers of float32, as 0.7,0.3"))?;
    let weights = match args.weights.len() {
        0 => vec![1.0; adapters.len()],
        count if count == adapters.len() => args.weights.clone(),
        count => return Err(Error::mismatch("number of weights", adapters.len(), count)),
    };
    let shares: Vec<Share<'_>> = adapters.iter().zip(weights).map(|(files, weight)| Share { files, weight }).collect();
    let recipe = Recipe { technique: args.method, density: args.density, majority: args.majority_sign, seed: args.seed };
    let combined = peft::combine::combine(&shares, &recipe, args.rank)?;
    let hint = "the adapters' numbers leave the range of float32 where they are multiplied and added: smaller `weights` keep within it";
    peft::write(folder.path(), &combined).hint(hint)?;
    folder.finish()?;
    let Some(config) = combined.config.method.get::<LoraConfig>() else { return Ok(()) };
    if global.json {
        return output::print_json(&json!({"adapter": args.output, "rank": config.rank, "tensors": combined.tensors.len()}));
    }
    let (rank, count) = (config.rank, combined.tensors.len());
    if global.quiet { Ok(()) } else { output::print(&format!("wrote {}: rank {rank}, {count} tensors", args.output.display())) }
}
