//! What LoHa and LoKr share: updates that are products of small matrices, with ranks and scales by module.

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::branch::{self, Linear};
use crate::adapter::config::fields::{Fields, size};
use crate::adapter::config::options::Options;
use crate::adapter::config::settings::{Settings, number, numbers};
use crate::adapter::config::{Scope, at_least_one, probability, scaling};
use crate::adapter::method::Places;
use crate::adapter::targets::{self, Ranks};
use crate::error::{Error, Result};

/// The options of a method of products (`LoHaConfig`, and what `LoKrConfig` has of it).
#[derive(Clone, Debug, PartialEq)]
pub struct ProductConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// Length of the inner axis.
    pub rank: usize,
    /// Numerator of the scale `alpha / rank`.
    pub alpha: f64,
    /// Other ranks, found as for LoRA.
    pub rank_pattern: IndexMap<String, usize>,
    /// Other alphas, found as for LoRA.
    pub alpha_pattern: IndexMap<String, f64>,
    /// Probability with which a row of the update is dropped while training.
    pub rank_dropout: f64,
    /// Probability with which a module's whole update is dropped while training.
    pub module_dropout: f64,
}

impl Default for ProductConfig {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            rank: 8,
            alpha: 8.0,
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            rank_dropout: 0.0,
            module_dropout: 0.0,
        }
    }
}

/// A module that is updated.
#[derive(Clone, Debug)]
pub(super) struct ProductSite {
    pub(super) module: String,
    pub(super) out_features: usize,
    pub(super) in_features: usize,
    pub(super) rank: usize,
    /// `alpha / rank`
    pub(super) scaling: f64,
    pub(super) seed: u64,
}

impl ProductConfig {
    fn ranks(&self) -> Ranks<'_> {
        let Self { rank, alpha, rank_pattern, alpha_pattern, .. } = self;
        Ranks { rank: *rank, alpha: *alpha, rank_pattern, alpha_pattern, use_rslora: false }
    }

    /// The modules that are updated.
    pub(super) fn sites(&self, at: &Places<'_>) -> Result<Vec<ProductSite>> {
        if self.rank_dropout > 0.0 || self.module_dropout > 0.0 {
            let what = if self.rank_dropout > 0.0 { "rank_dropout" } else { "module_dropout" };
            let error = Error::unsupported(what, "updates are computed without dropout");
            return Err(error.with_hint("set them to 0"));
        }
        let scope = Scope { modules_to_save: at.saved.to_vec(), ..self.scope.clone() };
        let sites = self.ranks().resolve(&scope, &targets::candidates(at.anatomy), at.strictness)?;
        let site = |targets::Site { module, rank, scaling }: targets::Site| {
            let Linear { module, out_features, in_features } = branch::linear(&module, at.anatomy)?;
            Ok(ProductSite { module, out_features, in_features, rank, scaling, seed: at.seed })
        };
        sites.into_iter().map(site).collect()
    }

    pub(super) fn checked(&self) -> Result<()> {
        at_least_one("r", self.rank)?;
        scaling("alpha", self.alpha)?;
        probability("rank_dropout", self.rank_dropout)?;
        probability("module_dropout", self.module_dropout)?;
        self.scope.check()
    }

    pub(super) fn read(fields: &Fields<'_>) -> Result<Self> {
        fields.inert(&["init_weights", "use_effective_conv2d"]);
        let default = Self::default();
        Ok(Self {
            scope: Scope::read(fields)?,
            rank: fields.size("r")?.unwrap_or(default.rank),
            alpha: fields.number("alpha", default.alpha)?,
            rank_pattern: fields.by_name("rank_pattern", "ranks by name", size)?,
            alpha_pattern: fields.by_name("alpha_pattern", "alphas by name", Value::as_f64)?,
            rank_dropout: fields.number("rank_dropout", default.rank_dropout)?,
            module_dropout: fields.number("module_dropout", default.module_dropout)?,
        })
    }

    pub(super) fn written(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
        settings.put_layers(&self.scope);
        settings.put("r", self.rank);
        settings.put("alpha", number(self.alpha));
        settings.put("rank_pattern", json!(self.rank_pattern));
        settings.put("alpha_pattern", numbers(&self.alpha_pattern));
        settings.put("rank_dropout", self.rank_dropout);
        settings.put("module_dropout", self.module_dropout);
    }

    pub(super) fn asked(options: &Options) -> Self {
        let (rank, alpha) = options.rank_and_alpha(8);
        Self {
            scope: options.scope.clone(),
            rank,
            alpha,
            rank_pattern: options.rank_pattern.clone(),
            alpha_pattern: options.alpha_pattern.clone(),
            ..Self::default()
        }
    }

    /// The scales, which a graph has as constants.
    pub(super) fn scales(&self) -> Vec<(&'static str, String)> {
        let Self { rank, alpha, rank_pattern, alpha_pattern, .. } = self;
        vec![("scales of the updates", format!("{alpha} / {rank} {rank_pattern:?} {alpha_pattern:?}"))]
    }
}
