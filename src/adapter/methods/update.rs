//! Methods that add a learned matrix to weights: `y = (W + ΔW)·x`, where `ΔW` is a product of small ones.

use std::fmt::Debug;

use ndarray::Array2;

use crate::adapter::config::{ProductConfig, Scope};
use crate::adapter::part::{Folding, Insertion, Part, Places, boxed};
use crate::adapter::targets::{self, pattern::Pattern};
use crate::adapter::weights::fold;
use crate::anatomy::Anatomy;
use crate::ir::{DType, Expr};
use crate::{Error, Result};

/// How one module's update is made of its tensors.
pub(crate) trait Update: Debug + Send + Sync + 'static {
    /// The module's path.
    fn module(&self) -> &str;

    /// Length of the inner axis.
    fn rank(&self) -> usize;

    /// How many numbers its tensors have.
    fn numbers(&self) -> u128;

    /// Writes `ΔW` `[out_features, in_features]`.
    fn write<'g>(&self, at: &Insertion<'g, '_>) -> Expr<'g>;

    /// Computes `ΔW` `[out_features, in_features]`.
    fn compute(&self, at: &Folding<'_>) -> Result<Array2<f32>>;
}

impl<U: Update> Part for U {
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        let b = at.b;
        let delta = b.scoped(&format!("update/{}", self.module()), || self.write(at));
        for projection in at.anatomy.projections.iter().filter(|projection| projection.module == self.module()) {
            b.scoped(&format!("update/{}", self.module()), || {
                let x = b.current(projection.x).cast(DType::F32);
                b.rewire(b.expr(projection.output), |y| y + x.matmul(delta.t()).cast(y.dtype()));
            });
        }
        Ok(())
    }

    fn fold(&self, at: &Folding<'_>) -> Result<()> {
        let delta = self.compute(at)?;
        fold::change_weight(at, self.module(), |weight| {
            if weight.dim() == delta.dim() {
                Ok(weight + delta)
            } else {
                Err(Error::mismatch("shape of the update", format!("{:?}", weight.dim()), format!("{:?}", delta.dim())))
            }
        })
    }

    fn targets(&self) -> Vec<(String, usize)> {
        vec![(self.module().to_owned(), self.rank())]
    }

    fn numbers(&self, _: &Anatomy) -> u128 {
        Update::numbers(self)
    }
}

/// A module that is updated.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) module: String,
    pub(crate) out_features: usize,
    pub(crate) in_features: usize,
    pub(crate) rank: usize,
    /// `alpha / rank`
    pub(crate) scaling: f64,
    pub(crate) seed: u64,
}

/// The linear projections that a scope chooses: module, outputs, inputs.
pub(crate) fn projections(scope: &Scope, at: &Places<'_>) -> Result<Vec<(String, usize, usize)>> {
    let candidates = targets::candidates(at.anatomy);
    let size = |n: i64| usize::try_from(n).unwrap_or(0);
    targets::select(scope, &candidates, at.strictness)?
        .into_iter()
        .map(|place| {
            let module = &candidates[place].module;
            let projection = at.anatomy.projections.iter().find(|projection| projection.module == *module);
            let projection =
                projection.ok_or_else(|| Error::unsupported(format!("this method on {module}"), "only linear projections have updates"))?;
            Ok((module.clone(), size(projection.out_features), size(projection.in_features)))
        })
        .collect()
}

/// The parts of a method of products, and its configuration with what was found written down.
pub(crate) fn place<U: Update>(
    config: &ProductConfig,
    at: &Places<'_>,
    make: impl Fn(Site) -> U,
) -> Result<(Vec<Box<dyn Part>>, ProductConfig)> {
    if config.rank_dropout > 0.0 || config.module_dropout > 0.0 {
        return Err(
            Error::unsupported("rank_dropout and module_dropout", "updates are computed without dropout").with_hint("set them to 0")
        );
    }
    let mut config = config.clone();
    config.scope.modules_to_save = at.saved.to_vec();
    let mut parts = vec![];
    let mut modules = vec![];
    for (module, out_features, in_features) in projections(&config.scope, at)? {
        let rank = first_hit("rank_pattern", &config.rank_pattern, &module)?.unwrap_or(config.rank);
        let alpha = first_hit("alpha_pattern", &config.alpha_pattern, &module)?.unwrap_or(config.alpha);
        let scaling = alpha / f64::from(u32::try_from(rank).unwrap_or(u32::MAX));
        modules.push(module.clone());
        parts.push(boxed(make(Site { module, out_features, in_features, rank, scaling, seed: at.seed })));
    }
    let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
    config.scope.settle(&modules, at.saved);
    Ok((parts, config))
}

fn first_hit<T: Copy>(field: &str, patterns: &indexmap::IndexMap<String, T>, module: &str) -> Result<Option<T>> {
    for (pattern, &value) in patterns {
        if Pattern::tail(field, pattern)?.matches(module)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}
