//! Ranks and scales of modules, as `rank_pattern` and `alpha_pattern` give them (`get_pattern_key` in `peft/utils/other.py`).

use indexmap::IndexMap;

use super::nearest::near;
use super::pattern::Pattern;
use super::{Candidate, Complaint, Strictness, report, select};
use crate::adapter::config::Scope;
use crate::error::Result;

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

/// Ranks and alphas by module.
#[derive(Clone, Copy, Debug)]
pub struct Ranks<'c> {
    /// The rank of modules without one of their own.
    pub rank: usize,
    /// The alpha of modules without one of their own.
    pub alpha: f64,
    /// Other ranks: the first key that matches a module's path as `(.*\.)?(key)$`.
    pub rank_pattern: &'c IndexMap<String, usize>,
    /// Other alphas, found like ranks.
    pub alpha_pattern: &'c IndexMap<String, f64>,
    /// Whether the scale is `alpha / √rank` instead of `alpha / rank`.
    pub use_rslora: bool,
}

impl Ranks<'_> {
    /// Rank and scale of a module.
    ///
    /// # Errors
    /// If a pattern is not a regular expression.
    pub fn site(&self, module: &str) -> Result<Site> {
        self.compiled()?.site(module)
    }

    /// The modules that a scope chooses, in the order of the candidates, with their ranks and scales.
    ///
    /// # Errors
    /// As [`select`]; with [`Strictness::Every`] also if a pattern matches none of the modules.
    pub fn resolve(&self, scope: &Scope, candidates: &[Candidate], strictness: Strictness) -> Result<Vec<Site>> {
        let compiled = self.compiled()?;
        let chosen = select(scope, candidates, strictness)?;
        let sites: Vec<Site> = chosen.into_iter().map(|place| compiled.site(&candidates[place].module)).collect::<Result<_>>()?;
        let chosen: Vec<&str> = sites.iter().map(|site| site.module.as_str()).collect();
        unused(&compiled.ranks, "target for the rank pattern", &chosen, strictness)?;
        unused(&compiled.alphas, "target for the alpha pattern", &chosen, strictness)?;
        Ok(sites)
    }

    fn compiled(&self) -> Result<Compiled<'_>> {
        let ranks = patterns("rank_pattern", self.rank_pattern.iter().map(|(key, &rank)| (key.as_str(), rank)))?;
        let alphas = patterns("alpha_pattern", self.alpha_pattern.iter().map(|(key, &alpha)| (key.as_str(), alpha)))?;
        Ok(Compiled { of: self, ranks, alphas })
    }
}

/// The same with its patterns compiled.
struct Compiled<'c> {
    of: &'c Ranks<'c>,
    ranks: Vec<Keyed<usize>>,
    alphas: Vec<Keyed<f64>>,
}

impl Compiled<'_> {
    fn site(&self, module: &str) -> Result<Site> {
        let rank = first_hit(&self.ranks, module)?.unwrap_or(self.of.rank);
        let alpha = first_hit(&self.alphas, module)?.unwrap_or(self.of.alpha);
        Ok(Site { module: module.to_owned(), rank, scaling: scaling(alpha, rank, self.of.use_rslora) })
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "a rank is far below 2^53")]
fn scaling(alpha: f64, rank: usize, use_rslora: bool) -> f64 {
    let rank = rank as f64;
    if use_rslora { alpha / rank.sqrt() } else { alpha / rank }
}

/// Names, compiled, with what they stand for.
struct Keyed<T> {
    key: String,
    pattern: Pattern,
    value: T,
}

fn patterns<'k, T>(field: &str, entries: impl Iterator<Item = (&'k str, T)>) -> Result<Vec<Keyed<T>>> {
    entries.map(|(key, value)| Ok(Keyed { key: key.to_owned(), pattern: Pattern::tail(field, key)?, value })).collect()
}

fn first_hit<T: Copy>(patterns: &[Keyed<T>], module: &str) -> Result<Option<T>> {
    for keyed in patterns {
        if keyed.pattern.matches(module)? {
            return Ok(Some(keyed.value));
        }
    }
    Ok(None)
}

fn unused<T>(patterns: &[Keyed<T>], what: &'static str, chosen: &[&str], strictness: Strictness) -> Result<()> {
    for Keyed { key, pattern, .. } in patterns {
        let mut hit = false;
        for module in chosen {
            hit = hit || pattern.matches(module)?;
        }
        if !hit {
            report(Complaint { what, name: key.clone(), candidates: near(key, chosen) }, strictness)?;
        }
    }
    Ok(())
}
