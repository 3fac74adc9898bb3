//! LoRA: `y = W·x + scaling · B·A·dropout(x)` (Hu et al., LoRA, equation 3; PEFT `tuners/lora/layer.py`).

mod branches;
pub mod decomposed;
mod dora;
mod embedding;

use ndarray::Axis;

use self::branches::{Branches, Start, delta};
use self::decomposed::{Decomposed, Decomposition};
use self::dora::Dora;
use self::embedding::LoraEmbedding;
use crate::adapter::config::{LoraConfig, LoraInit, Method, Selection, Targets};
use crate::adapter::methods::{
    trainable_tokens::{self, Tokens},
    trained,
};
use crate::adapter::params::{
    dropout::Masks,
    init,
    key::{Key, Part as KeyPart},
};
use crate::adapter::part::{Folding, Insertion, Part, Placed, Places, boxed};
use crate::adapter::targets::{self, CandidateKind, Site, split_modules};
use crate::adapter::weights::fold;
use crate::anatomy::Projection;
use crate::ir::{DType, Expr};
use crate::{Error, Result};

/// The branches at linear projections.
#[derive(Debug)]
struct Lora {
    sites: Vec<Site>,
    branches: Branches,
}

/// Finds where LoRA attaches: projections, embeddings, rows of embeddings.
pub(crate) fn place(config: &LoraConfig, at: &Places<'_>) -> Result<Placed> {
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
    let rows = trainable_tokens::find(&config.trainable_token_indices, at)?;
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
                let delta = delta.slice_axis(Axis(0), rows.map_or(0..delta.nrows(), split_modules::places).into());
                match &magnitude {
                    Some(magnitude) => dora::folded(&(weight + delta), magnitude),
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
        let (n_in, n_out) = (size(projection.in_features), size(split_modules::out_features(at.anatomy, projection)));
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
