//! Several adapters in PEFT's files made one.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;

use super::folder::AdapterFiles;
use crate::adapter::combine::{self, Factors, Recipe};
use crate::adapter::config::{Selection, Targets};
use crate::adapter::methods;
use crate::adapter::methods::lora::{EMBEDDING_A, EMBEDDING_B, LORA_A, LORA_B, LoraConfig};
use crate::adapter::params::key::{Family, Key, KeyPart};
use crate::adapter::params::matrices::{matrix, tensor};
use crate::error::{Error, Place, Result};
use crate::ir::Tensor;
use crate::num;

/// An adapter, and how much of it is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    /// The adapter.
    pub files: &'a AdapterFiles,
    /// Its weight in the sum.
    pub weight: f64,
}

/// The tensors of a module that stand for its update: those of projections, those of embeddings.
const FACTORS: &[(KeyPart, KeyPart)] = &[(LORA_A, LORA_B), (EMBEDDING_A, EMBEDDING_B)];

/// Makes one LoRA of several, as PEFT's `add_weighted_adapter` does: the settings are the first one's, the rank is what the technique gives
/// (`rank`, where it can be chosen), the scale is 1.
///
/// Unlike PEFT's, the combination is not rank-stabilised even if the first adapter is: PEFT keeps the switch, and so multiplies the sum with
/// the root of its rank. Modules that are saved as a whole stay as they are in the only adapter that has them.
///
/// # Errors
/// Adapters that are not LoRAs, are decomposed (DoRA) or have a bias at `B`; a tensor that cannot be combined and is in several of them;
/// factors that do not go together; a recipe that is not whole.
pub fn combine(shares: &[Share<'_>], recipe: &Recipe, rank: Option<usize>) -> Result<AdapterFiles> {
    recipe.check()?;
    let configs: Vec<&LoraConfig> = shares.iter().map(|share| lora(share.files)).collect::<Result<_>>()?;
    let [first, _, ..] = shares else { return Err(Error::invalid("a combination is of two adapters at least")) };
    let ranks: Vec<usize> = configs.iter().map(|config| config.rank_pattern.values().copied().fold(config.rank, usize::max)).collect();
    let rank = recipe.technique.rank(&ranks, rank)?;
    let mut tensors = IndexMap::new();
    let mut modules = BTreeSet::new();
    for (module, parts) in by_module(shares, &configs)? {
        let factors: Vec<Factors> = parts.factors;
        let (a, b) = combine::combine(&factors, recipe, rank, &module).map_err(|error| error.at(Place::Tensor(module.clone())))?;
        for (part, factor) in [(parts.names.0, a), (parts.names.1, b)] {
            tensors.insert(Key::module(&*module, part).to_string(), tensor(&factor.view()));
        }
        modules.insert(module);
    }
    for (name, tensor) in shares.iter().flat_map(|share| &share.files.tensors).filter(|(name, _)| !is_factor(name)) {
        if tensors.insert(name.clone(), tensor.clone()).is_some() {
            return Err(Error::unsupported("a tensor that several adapters train as a whole", "only factors are combined")
                .at(Place::Tensor(name.clone())));
        }
    }
    tensors.sort_unstable_keys();
    let mut config = first.files.config.clone();
    config.method = combined(&configs, rank, &modules).into();
    Ok(AdapterFiles { config, tensors, beside: None, stored: IndexMap::new() })
}

fn lora(files: &AdapterFiles) -> Result<&LoraConfig> {
    let method = &files.config.method;
    let refused = |what: &str, why: &'static str| Err(Error::unsupported(format!("combining {what}"), why));
    match method.get::<LoraConfig>() {
        None => refused(&format!("adapters of {}", method.name()), "only LoRAs can be combined"),
        Some(config) if config.use_dora => refused("DoRA", "the magnitudes of weights do not add up as updates do"),
        Some(config) if config.lora_bias => refused("LoRAs with lora_bias", "only factors are combined"),
        Some(config) => Ok(config),
    }
}

/// The settings of a combination: the first adapter's, with the modules of all.
fn combined(configs: &[&LoraConfig], rank: usize, modules: &BTreeSet<String>) -> LoraConfig {
    let mut config = configs[0].clone();
    let alpha = num::float(rank);
    (config.rank, config.alpha, config.use_rslora) = (rank, alpha, false);
    (config.rank_pattern, config.alpha_pattern) = (IndexMap::new(), IndexMap::new());
    config.trainable_token_indices = configs.iter().flat_map(|config| config.trainable_token_indices.clone()).collect();
    let saved: BTreeSet<&String> = configs.iter().flat_map(|config| &config.scope.modules_to_save).collect();
    config.scope.modules_to_save = saved.into_iter().cloned().collect();
    // Names find the same modules together as each alone, unless there is something else that decides.
    let is_plain = |config: &&LoraConfig| config.scope.exclude.is_none() && config.scope.layers_to_transform.is_empty();
    let names = configs.iter().map(|config| match &config.scope.targets {
        Targets::Only(Selection::Names(names)) if is_plain(config) => Some(names),
        _ => None,
    });
    let names: BTreeSet<String> = match names.collect::<Option<Vec<_>>>() {
        Some(names) => names.into_iter().flatten().cloned().collect(),
        None => modules.clone(),
    };
    config.scope.targets = Targets::Only(Selection::Names(names.into_iter().collect()));
    config.scope.exclude = None;
    config.scope.layers_to_transform.clear();
    config.scope.layers_pattern.clear();
    config
}

fn is_factor(name: &str) -> bool {
    let parts = |part| FACTORS.iter().any(|(a, b)| part == *a || part == *b);
    matches!(methods::key(name, Family::Tuner), Some(Key::Module { part, .. }) if parts(part))
}

/// What all adapters have at one module.
struct Parts {
    names: (KeyPart, KeyPart),
    factors: Vec<Factors>,
}

fn by_module(shares: &[Share<'_>], configs: &[&LoraConfig]) -> Result<BTreeMap<String, Parts>> {
    let mut modules = BTreeMap::<String, Parts>::new();
    for (share, config) in shares.iter().zip(configs) {
        for (name, a) in &share.files.tensors {
            let Some(Key::Module { module, part }) = methods::key(name, Family::Tuner) else { continue };
            let Some(&names) = FACTORS.iter().find(|(first, _)| *first == part) else { continue };
            let b = Key::module(&*module, names.1).to_string();
            let b = share.files.tensors.get(&b).ok_or_else(|| Error::not_found("tensor", b))?;
            let (a, b) = (read(name, a)?, read(name, b)?);
            let factors = Factors { a, b, scaling: config.ranks().site(&module)?.scaling, weight: share.weight };
            let parts = modules.entry(module).or_insert_with(|| Parts { names, factors: vec![] });
            if parts.names != names {
                return Err(Error::mismatch("kind of the factors", format!("{:?}", parts.names), format!("{names:?}"))
                    .at(Place::Tensor(name.clone())));
            }
            parts.factors.push(factors);
        }
    }
    Ok(modules)
}

fn read(name: &str, tensor: &Tensor) -> Result<ndarray::Array2<f32>> {
    matrix(tensor).map_err(|error| error.at(Place::Tensor(name.to_owned())))
}
