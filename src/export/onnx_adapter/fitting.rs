//! What another adapter needs for the graph of a bundle: the graph has the scales, rows and shared projections of the bundle's own adapter as
//! constants.

use crate::adapter::config::{LokrConfig, LoraConfig, Method, ProductConfig};
use crate::adapter::params::key::{Family, Key, Part};
use crate::adapter::targets;
use crate::ir::Tensor;
use crate::peft::AdapterFiles;
use crate::{Error, Place, Result};

/// Tensors that the graph multiplies with LoRA's scale, each once.
const SCALED: &[Part] = &[Part::LoraB, Part::LoraBBias, Part::LoraEmbeddingB];

/// The adapter with its scales brought to those of the bundle's `own`.
///
/// # Errors
/// Adapters of different methods; other rows, scales or shared projections than the graph has.
pub(super) fn fitted(mut files: AdapterFiles, own: &AdapterFiles) -> Result<AdapterFiles> {
    same_fixed(&files, own)?;
    match (&own.config.method, &files.config.method) {
        (Method::Lora(graph), Method::Lora(config)) => {
            same("trainable_token_indices", &rows(graph), &rows(config))?;
            let (graph, config) = (graph.clone(), config.clone());
            for (name, tensor) in &mut files.tensors {
                *tensor = rescaled(name, tensor, &config, &graph).map_err(|error| error.at(Place::Tensor(name.clone())))?;
            }
            Ok(files)
        }
        (Method::TrainableTokens(graph), Method::TrainableTokens(config)) => {
            same("token_indices", &graph.rows, &config.rows)?;
            Ok(files)
        }
        (Method::Loha(graph), Method::Loha(config))
        | (Method::Lokr(LokrConfig { product: graph, .. }), Method::Lokr(LokrConfig { product: config, .. })) => {
            same("scales of the updates", &scales(graph), &scales(config))?;
            Ok(files)
        }
        (Method::Prompt(_) | Method::PromptEncoder(_), Method::Prompt(_) | Method::PromptEncoder(_))
        | (Method::Prefix(_), Method::Prefix(_)) => Ok(files),
        (graph, method) => {
            same("method", &graph.name(), &method.name())?;
            Ok(files)
        }
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &'static str, graph: &T, adapter: &T) -> Result<()> {
    if graph == adapter {
        return Ok(());
    }
    Err(Error::mismatch(what, format!("{graph:?}"), format!("{adapter:?}"))
        .with_hint("they are constants of this graph; inject the adapter to get its own graph"))
}

/// The rows that are trained, whatever the table is called.
fn rows(config: &LoraConfig) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = config.trainable_token_indices.values().cloned().collect();
    rows.sort();
    rows
}

fn scales(config: &ProductConfig) -> String {
    let ProductConfig { rank, alpha, rank_pattern, alpha_pattern, .. } = config;
    format!("{alpha} / {rank} {rank_pattern:?} {alpha_pattern:?}")
}

/// What never changes is in the graph.
fn same_fixed(files: &AdapterFiles, own: &AdapterFiles) -> Result<()> {
    let differs = |(name, tensor): &(&String, &Tensor)| super::is_fixed(name) && own.tensors.get(*name).is_some_and(|own| own != *tensor);
    match files.tensors.iter().find(differs) {
        Some((name, _)) => Err(Error::invalid("other numbers than those in the graph, which never change")
            .at(Place::Tensor(name.clone()))
            .with_hint("their shared projections differ; inject the adapter to get its own graph")),
        None => Ok(()),
    }
}

fn rescaled(name: &str, tensor: &Tensor, config: &LoraConfig, graph: &LoraConfig) -> Result<Tensor> {
    let Some(Key::Module { module, part }) = Key::parse(name, Family::Tuner) else { return Ok(tensor.clone()) };
    let (own, wanted) = (targets::site(graph, &module)?.scaling, targets::site(config, &module)?.scaling);
    if !SCALED.contains(&part) || own.to_bits() == wanted.to_bits() {
        return Ok(tensor.clone());
    }
    let values = tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()))?;
    let scaled: Vec<f64> = values.iter().map(|number| f64::from(*number) * wanted / own).collect();
    Tensor::from_f64(tensor.dtype(), tensor.shape(), &scaled)
}
