//! LoRA: `y = W·x + scaling · B·A·dropout(x)` (Hu et al., LoRA, equation 3; PEFT `tuners/lora/layer.py`).

use ndarray::{Array2, Axis};

use super::config::{LoraConfig, LoraInit, Method, Selection, Targets};
use super::decomposed::{self, Decomposed, Decomposition};
use super::dora::Dora;
use super::dropout::Masks;
use super::key::{Key, Part as KeyPart};
use super::lora_embedding::LoraEmbedding;
use super::param::{PEFT_PREFIX, Params};
use super::part::{Folding, Insertion, Part, Placed, Places, boxed};
use super::targets::{self, CandidateKind};
use super::tokens::{self, Tokens};
use super::{fold, init, packing, trained};
use crate::anatomy::Projection;
use crate::ir::{DType, Expr, Tensor};
use crate::{Error, Result};

/// One module that gets a branch.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The module's path.
    pub module: String,
    /// Rows of `A`, columns of `B`.
    pub rank: usize,
    /// What the branch is multiplied with: `alpha / r`, or `alpha / √r` for rank-stabilised LoRA.
    pub scaling: f64,
}

/// How the branches of fresh adapters start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// `A` uniform as PyTorch's `Linear`, `B` zero: the adapter changes nothing at first.
    Default,
    /// `A` normal with deviation `1 / r`, `B` zero.
    Gaussian,
    /// Both random, for tests.
    Random,
}

/// Everything about the branches but where they go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Branches {
    /// How fresh ones start.
    pub(super) start: Start,
    /// The seed of fresh values.
    pub(super) seed: u64,
    /// Share of the input's elements that are dropped while training.
    dropout: f64,
    /// Whether `B` has a bias (`lora_bias`).
    bias: bool,
    /// Whether weights are decomposed into magnitude and direction.
    dora: bool,
}

/// The branches at linear projections.
#[derive(Debug)]
struct Lora {
    sites: Vec<Site>,
    branches: Branches,
}

/// Finds where LoRA attaches: projections, embeddings, rows of embeddings.
pub(super) fn place(config: &LoraConfig, at: &Places<'_>) -> Result<Placed> {
    let mut config = config.clone();
    config.scope.modules_to_save = at.saved.to_vec();
    let candidates = targets::candidates(at.anatomy);
    let none = Targets::Only(Selection::Names(vec![]));
    let only_tokens = config.scope.targets == none && !config.trainable_token_indices.is_empty();
    let sites = if only_tokens { vec![] } else { targets::resolve(&config, &candidates, at.strictness)? };
    let is_table = |site: &Site| candidates.iter().any(|c| c.module == site.module && c.kind == CandidateKind::Embedding);
    let (tables, sites): (Vec<Site>, Vec<Site>) = sites.into_iter().partition(is_table);
    if config.use_dora && !tables.is_empty() {
        return Err(Error::unsupported("DoRA of embeddings", "only those of linear projections are written"));
    }
    let start = match config.init {
        LoraInit::Kaiming | LoraInit::FromFile(_) | LoraInit::Pissa { .. } | LoraInit::Olora => Start::Default,
        LoraInit::Gaussian => Start::Gaussian,
        LoraInit::Random => Start::Random,
    };
    let branches = Branches { start, seed: at.seed, dropout: config.dropout, bias: config.lora_bias, dora: config.use_dora };
    let modules: Vec<String> = sites.iter().chain(&tables).map(|site| site.module.clone()).collect();
    let mut parts: Vec<Box<dyn Part>> = vec![];
    let decomposition = Decomposition::of(&config.init);
    if decomposition.is_some() && !tables.is_empty() {
        return Err(Error::unsupported("starting LoRA of embeddings from their values", "only those of linear projections do"));
    }
    match decomposition {
        _ if sites.is_empty() => {}
        Some(decomposition) => parts.push(boxed(Decomposed::new(sites, decomposition, branches.dropout, at.seed))),
        None => parts.push(boxed(Lora { sites, branches })),
    }
    parts.extend(tables.into_iter().map(|site| boxed(LoraEmbedding { site, branches })));
    let rows = tokens::find(&config, at)?;
    config.trainable_token_indices = rows.iter().map(Tokens::setting).collect();
    parts.extend(rows.into_iter().map(boxed));
    let attached: Vec<(String, usize)> = parts.iter().flat_map(|part| part.targets()).collect();
    parts.extend(trained::biases(at, config.bias, &attached));

    let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
    config.scope.settle(&modules, at.saved);
    config.fan_in_fan_out |= at.anatomy.projections.iter().any(|p| p.conv1d && modules.contains(&p.module.as_str()));
    let config = if decomposition.is_some() { decomposed::settled(config) } else { config };
    Ok(Placed { parts, settled: Method::Lora(config) })
}

impl Part for Lora {
    /// Adds a branch at each site: to every place where the module is used.
    ///
    /// `A` is `[rank, in_features]`, `B` `[out_features, rank]`, as PEFT stores them. The branch is computed in float32.
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        let mut place = 0;
        for site in &self.sites {
            for projection in at.anatomy.projections.iter().filter(|p| p.module == site.module) {
                place += 1;
                self.branch(at, projection, site, at.purpose.masks().map(|masks| (masks, place)));
            }
        }
        Ok(())
    }

    fn fold(&self, at: &Folding<'_>) -> Result<()> {
        for Site { module, scaling, .. } in &self.sites {
            let part = |part| at.tensor(&Key::module(module, part).to_string());
            let delta = delta(&part(KeyPart::LoraA)?, &part(KeyPart::LoraB)?, *scaling)?;
            let magnitude = self.branches.dora.then(|| at.numbers(&Key::module(module, KeyPart::LoraMagnitude).to_string())).transpose()?;
            fold::change_parts(at, module, |weight, rows| {
                let delta = delta.slice_axis(Axis(0), rows.map_or(0..delta.nrows(), packing::places).into());
                match &magnitude {
                    Some(magnitude) => super::dora::folded(&(weight + delta), magnitude),
                    None => Ok(weight + delta),
                }
            })?;
            if self.branches.bias {
                fold::add_to_bias(at, module, &part(KeyPart::LoraBBias)?, *scaling)?;
            }
        }
        Ok(())
    }

    fn targets(&self) -> Vec<(String, usize)> {
        self.sites.iter().map(|site| (site.module.clone(), site.rank)).collect()
    }

    fn dropout(&self) -> f64 {
        self.branches.dropout
    }
}

impl Lora {
    fn branch<'g>(&self, at: &Insertion<'g, '_>, projection: &Projection, site: &Site, masks: Option<(Masks<'g>, u32)>) {
        let (branches, params) = (&self.branches, at.params);
        let size = |n: i64| usize::try_from(n).unwrap_or(0);
        let (n_in, n_out) = (size(projection.in_features), size(packing::out_features(at.anatomy, projection)));
        let Site { module, rank, scaling } = site;
        let a_name = format!("{module}.lora_A.weight");
        let b_name = format!("{module}.lora_B.weight");
        let a = params.get(&a_name, || branches.fresh_a(&a_name, &[*rank, n_in]));
        let b = params.get(&b_name, || branches.fresh_b(&b_name, &[n_out, *rank]));
        let bias = branches.bias.then(|| params.get(&format!("{module}.lora_B.bias"), || init::zeros(&[n_out])));
        let own_rows = |whole: Expr<'g>| projection.rows.as_ref().map_or(whole, |rows| whole.slice(&[rows.start], &[rows.end], &[0]));
        let (b, bias) = (own_rows(b), bias.map(own_rows));
        let dora = branches.dora.then(|| Dora::new(params, at.graph, projection, a, b, *scaling));
        let builder = a.b();
        let (x, output) = (builder.current(projection.x), builder.expr(projection.output));
        builder.scoped(&format!("lora/{module}"), || {
            builder.rewire(output, |y| {
                let whole = x.cast(DType::F32);
                let x = masks.map_or(whole, |(masks, place)| masks.drop(whole, branches.dropout, place));
                // The scale goes onto the narrow side.
                let down = x.matmul(a.t()) * *scaling;
                let up = down.matmul(b.t());
                let up = bias.map_or(up, |bias| up + bias * *scaling);
                match dora {
                    Some(dora) => y + dora.change(projection, x, up, x.id() != whole.id()).cast(y.dtype()),
                    None => y + up.cast(y.dtype()),
                }
            });
        });
    }
}

impl Branches {
    fn fresh_a(&self, name: &str, shape: &[usize; 2]) -> Tensor {
        let mut rng = init::generator(self.seed, name);
        match self.start {
            // PyTorch's `kaiming_uniform_(a=√5)`: a bound of 1/√fan_in.
            Start::Default | Start::Random => init::uniform(&mut rng, shape, init::to_f32(shape[1]).sqrt().recip()),
            Start::Gaussian => init::normal(&mut rng, shape, init::to_f32(shape[0]).recip()),
        }
    }

    fn fresh_b(&self, name: &str, shape: &[usize; 2]) -> Tensor {
        match self.start {
            Start::Default | Start::Gaussian => init::zeros(shape),
            Start::Random => init::uniform(&mut init::generator(self.seed, name), shape, init::to_f32(shape[1]).sqrt().recip()),
        }
    }
}

/// What folding adds to the module's weight, `[out_features, in_features]`: `scaling · B · A`.
///
/// # Errors
/// Tensors that are not float32 matrices that go together.
pub(super) fn delta(a: &Tensor, b: &Tensor, scaling: f64) -> Result<Array2<f32>> {
    let (a, b) = (super::matrix(a)?, super::matrix(b)?);
    if a.nrows() != b.ncols() {
        return Err(Error::mismatch("rank of lora_B", a.nrows(), b.ncols()));
    }
    Ok(b.dot(&a) * init::narrow(scaling))
}

/// The input of a graph that has a tensor of an adapter by its module and part, without PEFT's prefix.
pub(super) fn input_name(key: &Key) -> String {
    let key = key.to_string();
    key.strip_prefix(PEFT_PREFIX).map_or_else(|| key.clone(), str::to_owned)
}

/// A tensor of a module, under PEFT's name.
pub(super) fn param<'g>(params: &Params<'g>, module: &str, part: KeyPart, fresh: impl FnOnce() -> Tensor) -> Expr<'g> {
    let key = Key::module(module, part);
    params.keyed(&key.to_string(), &input_name(&key), fresh)
}

/// Uniform numbers as PyTorch's `kaiming_uniform_(a=√5)`: a bound of `1/√columns`.
pub(super) fn narrow_uniform(seed: u64, key: &Key, shape: [usize; 2]) -> Tensor {
    init::uniform(&mut init::generator(seed, &key.to_string()), &shape, init::to_f32(shape[1]).sqrt().recip())
}
