//! LoRA: `y = W·x + scaling · B·A·dropout(x)` (Hu et al., LoRA, equation 3; PEFT `tuners/lora/layer.py`).

mod branches;
mod config;
pub mod decomposed;
mod dora;
mod embedding;

use std::collections::BTreeSet;
use std::ops::Range;

use ndarray::Array2;
use serde_json::Value;

pub use self::config::{LoraConfig, LoraInit};

use self::branches::{Branches, delta};
use self::decomposed::{Decomposed, Decomposition};
use self::dora::Dora;
use self::embedding::LoraEmbedding;
use super::branch::{self, Attached, Branch, Call, Forward, added};
use super::trainable_tokens::{self, TOKEN_DELTA, Tokens};
use super::{head, trained};
use crate::adapter::config::fields::Fields;
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::settings::Settings;
use crate::adapter::config::{Scope, Selection, Targets};
use crate::adapter::method::{Configuration, Method, Placed, Places, Row};
use crate::adapter::params::init;
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::part::{Change, Folding, Insertion, Part, boxed};
use crate::adapter::targets::{self, CandidateKind, Site};
use crate::adapter::weights::fold;
use crate::anatomy::Projection;
use crate::ir::{Expr, Tensor, ValueId};
use crate::{Error, Result};

/// `[rank, in_features]`
pub const LORA_A: KeyPart = KeyPart::new("lora_A", "weight");
/// `[out_features, rank]`
pub const LORA_B: KeyPart = KeyPart::new("lora_B", "weight");
/// `[out_features]`
pub const LORA_B_BIAS: KeyPart = KeyPart::new("lora_B", "bias");
/// `[rank, rows]` of a table.
pub const EMBEDDING_A: KeyPart = KeyPart::new("lora_embedding_A", "");
/// `[hidden, rank]`
pub const EMBEDDING_B: KeyPart = KeyPart::new("lora_embedding_B", "");
/// `[out_features]`
pub const MAGNITUDE: KeyPart = KeyPart::new("lora_magnitude_vector", "");

/// The row of LoRA.
pub static ROW: Row = Row {
    name: "lora",
    aliases: &[],
    variants: &["dora", "rslora", "pissa", "olora"],
    about: "Low-rank updates of projections",
    peft_type: "LORA",
    learning_rate: 5e-4,
    family: Family::Tuner,
    tensors: Tensors { parts: &[LORA_A, LORA_B, LORA_B_BIAS, EMBEDDING_A, EMBEDDING_B, MAGNITUDE, TOKEN_DELTA], shared: &[] },
    adapter_file: "lora",
    takes: &[
        SCOPE,
        &[
            "rank",
            "alpha",
            "dropout",
            "rank_pattern",
            "alpha_pattern",
            "use_rslora",
            "use_dora",
            "bias",
            "init_lora_weights",
            "trainable_token_indices",
        ],
    ],
    page: "lora.md",
    read,
    configure: |options: &Options| LoraConfig::asked(options).map(Method::from),
};

/// Reads a LoRA, or the head alone that is written as one.
fn read(fields: &Fields<'_>) -> Result<Method> {
    let mut config = LoraConfig::read(fields)?;
    if fields.value("target_modules").and_then(Value::as_str) != Some(head::NO_TARGETS) {
        return Ok(config.into());
    }
    config.scope.targets = Targets::Only(Selection::Names(vec![]));
    if config.trainable_token_indices.is_empty() { (head::ROW.read)(fields) } else { Ok(config.into()) }
}

/// The branch at a linear projection.
#[derive(Debug)]
struct Lora {
    site: Site,
    in_features: usize,
    out_features: usize,
    branches: Branches,
}

impl Configuration for LoraConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        self.checked()
    }

    fn write(&self, settings: &mut Settings) {
        self.written(settings);
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }

    fn scope_mut(&mut self) -> Option<&mut Scope> {
        Some(&mut self.scope)
    }

    fn takes_parts(&self) -> bool {
        !self.use_dora && !self.lora_bias && !self.init.is_decomposed()
    }

    /// Finds where LoRA attaches: projections, embeddings, rows of embeddings.
    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        place(self.clone(), at)
    }

    fn constants(&self) -> Vec<(&'static str, String)> {
        vec![trainable_tokens::constant_beside(&self.trainable_token_indices)]
    }

    fn fitted(&self, graph: &Method, key: &Key, tensor: Tensor) -> Result<Tensor> {
        let (Some(graph), Key::Module { module, part }) = (graph.get::<Self>(), key) else { return Ok(tensor) };
        let (own, wanted) = (graph.ranks().site(module)?.scaling, self.ranks().site(module)?.scaling);
        // Tensors that the graph multiplies with the scale, each once.
        if ![LORA_B, LORA_B_BIAS, EMBEDDING_B].contains(part) || own.to_bits() == wanted.to_bits() {
            return Ok(tensor);
        }
        let values = tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()))?;
        let scaled: Vec<f64> = values.iter().map(|number| f64::from(*number) * wanted / own).collect();
        Tensor::from_f64(tensor.dtype(), tensor.shape(), &scaled)
    }
}

fn place(mut config: LoraConfig, at: &Places<'_>) -> Result<Placed> {
    config.scope.modules_to_save = at.saved.to_vec();
    let candidates = targets::candidates(at.anatomy);
    let none = Targets::Only(Selection::Names(vec![]));
    let only_tokens = config.scope.targets == none && !config.trainable_token_indices.is_empty();
    let sites = if only_tokens { vec![] } else { config.ranks().resolve(&config.scope, &candidates, at.strictness)? };
    let tables: BTreeSet<&str> = candidates.iter().filter(|c| c.kind == CandidateKind::Embedding).map(|c| &*c.module).collect();
    let (tables, sites): (Vec<Site>, Vec<Site>) = sites.into_iter().partition(|site| tables.contains(site.module.as_str()));
    if config.use_dora && !tables.is_empty() {
        return Err(Error::unsupported("DoRA of embeddings", "only those of linear projections are written"));
    }
    let branches = Branches::of(&config, at.seed);
    let modules: Vec<String> = sites.iter().chain(&tables).map(|site| site.module.clone()).collect();
    let mut parts: Vec<Box<dyn Part>> = vec![];
    let decomposition = Decomposition::of(&config.init);
    if decomposition.is_some() && !tables.is_empty() {
        return Err(Error::unsupported("starting LoRA of embeddings from their values", "only those of linear projections do"));
    }
    match decomposition {
        _ if sites.is_empty() => {}
        Some(decomposition) => parts.push(boxed(Decomposed::new(sites, decomposition, branches.dropout, at.seed))),
        None => {
            let lora = |site: Site| {
                let branch::Linear { in_features, out_features, .. } = branch::linear(&site.module, at.anatomy)?;
                Ok(Lora { site, in_features, out_features, branches })
            };
            parts.push(boxed(branch::Branches(sites.into_iter().map(lora).collect::<Result<Vec<_>>>()?)));
        }
    }
    parts.extend(tables.into_iter().map(|site| boxed(LoraEmbedding { site, branches })));
    let rows = trainable_tokens::find(&config.trainable_token_indices, at)?;
    config.trainable_token_indices = rows.iter().map(Tokens::setting).collect();
    parts.extend(rows.into_iter().map(boxed));
    let attached: Vec<(String, usize)> = parts.iter().flat_map(|part| part.targets()).collect();
    parts.extend(trained::biases(at, config.bias, &attached));

    let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
    config.fan_in_fan_out |= at.has_conv1d(&modules);
    config.scope.settle(&modules, at.saved);
    let config = if decomposition.is_some() { decomposed::settled(config) } else { config };
    Ok(Placed { parts, settled: config.into() })
}

/// What the branch adds at one call of its module.
struct AtCall<'g> {
    output: ValueId,
    b: Expr<'g>,
    bias: Option<Expr<'g>>,
    dora: Option<Dora<'g>>,
}

impl Branch for Lora {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "lora", module: &self.site.module, rank: self.site.rank, dropout: self.branches.dropout }
    }

    /// `A` is `[rank, in_features]`, `B` `[out_features, rank]`, as PEFT stores them. The branch is computed in float32.
    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let (Site { module, rank, scaling }, branches, params) = (&self.site, &self.branches, at.params);
        let (a_name, b_name) = (format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight"));
        let a = params.of(module, LORA_A, || branches.fresh_a(&a_name, &[*rank, self.in_features]));
        let b = params.of(module, LORA_B, || branches.fresh_b(&b_name, &[self.out_features, *rank]));
        let bias = branches.bias.then(|| params.of(module, LORA_B_BIAS, || init::zeros(&[self.out_features])));
        let at_call = |projection: &Projection| {
            let own_rows = |whole: Expr<'g>| projection.rows.as_ref().map_or(whole, |rows| whole.slice(&[rows.start], &[rows.end], &[0]));
            let (b, bias) = (own_rows(b), bias.map(own_rows));
            let dora = branches.dora.then(|| Dora::new(params, at.graph, projection, a, b, *scaling));
            AtCall { output: projection.output, b, bias, dora }
        };
        let calls: Vec<AtCall<'g>> = at.anatomy.projections.iter().filter(|p| p.module == *module).map(at_call).collect();
        Ok(Box::new(move |call: &Call<'g, '_>| {
            let Some(own) = calls.iter().find(|own| own.output == call.projection.output) else { return call.y };
            // The scale goes onto the narrow side.
            let down = call.dropped.matmul(a.t()) * *scaling;
            let up = down.matmul(own.b.t());
            let up = own.bias.map_or(up, |bias| up + bias * *scaling);
            call.plus(own.dora.map_or(up, |dora| dora.change(call.projection, call.dropped, up, call.dropped.id() != call.x.id())))
        }))
    }

    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, rows: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let module = self.module();
        let tensor = |part| at.tensor(&Key::module(module, part).to_string());
        let whole = added(weight, &delta(&tensor(LORA_A)?, &tensor(LORA_B)?, self.site.scaling)?, rows)?;
        if !self.branches.dora {
            return Ok(whole);
        }
        dora::folded(&whole, &at.numbers(&Key::module(module, MAGNITUDE).to_string())?)
    }

    fn change(&self, at: &Folding<'_>, projection: &Projection) -> Result<Option<Change>> {
        let module = self.module();
        let scaling = init::narrow(self.site.scaling);
        let mut change = Change::product(at.matrix(module, LORA_A)?, at.matrix(module, LORA_B)? * scaling);
        if self.branches.bias {
            change.shift = Some(at.vector(module, LORA_B_BIAS)?.iter().map(|bias| bias * scaling).collect());
        }
        if !self.branches.dora {
            return Ok(Some(change));
        }
        let magnitude = at.numbers(&Key::module(module, MAGNITUDE).to_string())?;
        dora::change(&fold::finite_weight_of(at.graph, projection)?, change, &magnitude).map(Some)
    }

    fn fold_bias(&self, at: &Folding<'_>) -> Result<()> {
        if !self.branches.bias {
            return Ok(());
        }
        let bias = at.tensor(&Key::module(self.module(), LORA_B_BIAS).to_string())?;
        fold::add_to_bias(at, self.module(), &bias, self.site.scaling)
    }
}
