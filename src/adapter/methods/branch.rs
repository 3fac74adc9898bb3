//! Methods that attach to linear projections: what each does at one of them is a [`Branch`], and everything else is written once, here.

use std::fmt::Debug;
use std::ops::Range;

use indexmap::IndexMap;
use ndarray::{Array2, Axis};

use super::new_input::Again;
use super::trained;
use crate::adapter::config::{Bias, Scope};
use crate::adapter::method::{Configuration, Method, Placed, Places};
use crate::adapter::params::budget;
use crate::adapter::part::{Change, Folding, Insertion, Part, boxed};
use crate::adapter::targets::{self, Ranks, split_modules};
use crate::adapter::weights::fold;
use crate::anatomy::{Anatomy, Layout, Projection};
use crate::ir::{Builder, DType, Expr};
use crate::num;
use crate::{Error, Place, Result};

/// What a method does at one module.
pub trait Branch: Debug + Send + Sync {
    /// Where it is, and what is asked of every branch.
    fn attached(&self) -> Attached<'_>;

    /// The module's path.
    fn module(&self) -> &str {
        self.attached().module
    }

    /// How many parameters it has, or about as many.
    fn numbers(&self, anatomy: &Anatomy) -> u128 {
        budget::of_factors(anatomy, self.module(), self.attached().rank)
    }

    /// Where the module is changed.
    fn side(&self) -> Side {
        Side::Output
    }

    /// Asks for the branch's tensors, and says what becomes of the module's output (or input) at each of its calls.
    ///
    /// # Errors
    /// Tensors that cannot be made.
    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>>;

    /// The weight that stands for base and branch together; both are `[out_features, in_features]`. Where the graph has the module in parts,
    /// `weight` are some of its rows.
    ///
    /// # Errors
    /// Tensors that are missing, or of other shapes.
    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, rows: Option<&Range<i64>>) -> Result<Array2<f32>>;

    /// Folds what belongs into the module's bias.
    ///
    /// # Errors
    /// Tensors that are missing; a module without a bias that there is something to fold into.
    fn fold_bias(&self, at: &Folding<'_>) -> Result<()> {
        let _ = at;
        Ok(())
    }

    /// What it makes of one of the module's projections, if that is an update of low rank; of a module in parts, for all of its rows.
    ///
    /// # Errors
    /// Tensors that are missing, or of other shapes.
    fn change(&self, at: &Folding<'_>, projection: &Projection) -> Result<Option<Change>> {
        let _ = (at, projection);
        Ok(None)
    }

    /// What is added to the loss while training, float32, rank 0.
    fn penalty<'g>(&self, at: &Insertion<'g, '_>) -> Option<Expr<'g>> {
        let _ = at;
        None
    }
}

/// Where a branch is, and what is asked of every branch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attached<'a> {
    /// What stands before the module's path in the names of nodes.
    pub name: &'static str,
    /// The module's path.
    pub module: &'a str,
    /// Length of the inner axis, 0 if there is none.
    pub rank: usize,
    /// Probability with which an element of the input is dropped while training.
    pub dropout: f64,
}

/// A side of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What it takes.
    Input,
    /// What it gives.
    Output,
}

/// Gives the new output (or input) at a call of a module.
pub type Forward<'s, 'g> = Box<dyn Fn(&Call<'g, '_>) -> Expr<'g> + 's>;

/// One place where a module is called.
pub struct Call<'g, 'a> {
    /// The projection.
    pub projection: &'a Projection,
    /// Its input, float32 `[.., in_features]`.
    pub x: Expr<'g>,
    /// The same after dropout, if the branch has any and the graph is for training.
    pub dropped: Expr<'g>,
    /// Its output (its input, for branches that change that), as the base computes it.
    pub y: Expr<'g>,
}

impl<'g> Call<'g, '_> {
    /// `y` with a float32 change added.
    #[must_use]
    pub fn plus(&self, change: Expr<'g>) -> Expr<'g> {
        self.y + change.cast(self.y.dtype())
    }

    /// `y` with float32 factors for its last axis.
    #[must_use]
    pub fn times(&self, factors: Expr<'g>) -> Expr<'g> {
        (self.y.cast(DType::F32) * factors).cast(self.y.dtype())
    }
}

/// The branches of a method.
#[derive(Debug)]
pub(crate) struct Branches<B>(pub(crate) Vec<B>);

impl<B: Branch> Branches<B> {
    fn add<'g>(at: &Insertion<'g, '_>, branch: &B, forward: &Forward<'_, 'g>, place: &mut u32) {
        let Attached { name, module, dropout, .. } = branch.attached();
        for projection in at.anatomy.projections.iter().filter(|projection| projection.module == module) {
            *place += 1;
            let call = |y| {
                let x = at.b.current(projection.x).cast(DType::F32);
                let dropped = at.purpose.masks().map_or(x, |masks| masks.drop(x, dropout, *place));
                forward(&Call { projection, x, dropped, y })
            };
            at.b.scoped(&format!("{name}/{module}"), || match branch.side() {
                Side::Output => at.b.rewire(at.b.expr(projection.output), call),
                Side::Input => {
                    let x = at.b.current(projection.x);
                    Again::reading(x, call(x)).rewire(projection.y);
                }
            });
        }
    }
}

impl<B: Branch> Part for Branches<B> {
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        // Before anything is rewired, what is equal in several branches is written once.
        let forwards: Vec<Forward<'_, '_>> = self.0.iter().map(|branch| branch.forward(at)).collect::<Result<_>>()?;
        let mut place = 0;
        for (branch, forward) in self.0.iter().zip(&forwards) {
            Self::add(at, branch, forward, &mut place);
        }
        Ok(())
    }

    fn fold(&self, at: &Folding<'_>) -> Result<()> {
        for branch in &self.0 {
            fold::change_weight(at, branch.module(), |weight, rows| branch.folded(at, weight, rows))?;
            branch.fold_bias(at)?;
        }
        Ok(())
    }

    fn changes(&self, at: &Folding<'_>) -> Result<Option<Vec<(usize, Change)>>> {
        let mut found = vec![];
        for branch in &self.0 {
            for (place, projection) in at.anatomy.projections.iter().enumerate().filter(|(_, p)| p.module == branch.module()) {
                let Some(change) = branch.change(at, projection)? else { return Ok(None) };
                found.push((place, change.of_rows(projection.rows.as_ref())));
            }
        }
        Ok(Some(found))
    }

    fn targets(&self) -> Vec<(String, usize)> {
        self.0.iter().map(Branch::attached).map(|branch| (branch.module.to_owned(), branch.rank)).collect()
    }

    fn numbers(&self, anatomy: &Anatomy) -> u128 {
        self.0.iter().map(|branch| branch.numbers(anatomy)).fold(0, u128::saturating_add)
    }

    fn dropout(&self) -> f64 {
        self.0.iter().map(|branch| branch.attached().dropout).fold(0.0, f64::max)
    }

    fn penalty<'g>(&self, at: &Insertion<'g, '_>) -> Option<Expr<'g>> {
        let all: Vec<Expr<'g>> = self.0.iter().filter_map(|branch| branch.penalty(at)).collect();
        let sum = all.iter().copied().reduce(|sum, next| sum + next)?;
        Some(sum * (1.0 / num::float(all.len())))
    }
}

/// A linear projection that a scope chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// The module's path.
    pub module: String,
    /// Rows of the weight.
    pub out_features: usize,
    /// Columns of the weight.
    pub in_features: usize,
}

/// The linear projections that a scope chooses.
///
/// # Errors
/// As [`targets::select`]; a target that is no linear projection.
pub fn choose(scope: &Scope, at: &Places<'_>) -> Result<Vec<Linear>> {
    let scope = Scope { modules_to_save: at.saved.to_vec(), ..scope.clone() };
    let candidates = targets::candidates(at.anatomy);
    let chosen = targets::select(&scope, &candidates, at.strictness)?;
    chosen.into_iter().map(|place| linear(&candidates[place].module, at.anatomy)).collect()
}

/// The linear projections that a scope chooses, each with its own of some ranks: a number for all, and others by patterns as LoRA's.
///
/// # Errors
/// As [`choose`]; patterns that are no regular expressions.
pub fn choose_ranks(rank: usize, rank_pattern: &IndexMap<String, usize>, scope: &Scope, at: &Places<'_>) -> Result<Vec<(Linear, usize)>> {
    let scope = Scope { modules_to_save: at.saved.to_vec(), ..scope.clone() };
    let none = IndexMap::new();
    let ranks = Ranks { rank, alpha: 1.0, rank_pattern, alpha_pattern: &none, use_rslora: false };
    let sites = ranks.resolve(&scope, &targets::candidates(at.anatomy), at.strictness)?;
    sites.into_iter().map(|site| Ok((linear(&site.module, at.anatomy)?, site.rank))).collect()
}

/// The linear projection of a module.
pub(crate) fn linear(module: &str, anatomy: &Anatomy) -> Result<Linear> {
    let projection = anatomy.projections.iter().find(|projection| projection.module == module);
    let projection =
        projection.ok_or_else(|| Error::unsupported(format!("this method on {module}"), "only linear projections have updates"))?;
    let out_features = num::size("out_features", split_modules::out_features(anatomy, projection))?;
    let in_features = num::size("in_features", projection.in_features)?;
    Ok(Linear { module: module.to_owned(), out_features, in_features })
}

/// Says that PEFT has a method for `Linear` layers alone where a target is another one.
pub(crate) fn warn_of_conv1d<B: Branch>(method: &str, branches: &[B], at: &Places<'_>) {
    let modules: Vec<&str> = branches.iter().map(Branch::module).collect();
    if at.has_conv1d(&modules) {
        tracing::warn!("PEFT has {method} for Linear layers alone: it will not load this adapter of Conv1D; training and merging work");
    }
}

/// A method whose branches are placed, and the biases that are trained beside them.
#[must_use]
pub fn placed<C: Configuration, B: Branch + 'static>(config: C, branches: Vec<B>, bias: Bias, at: &Places<'_>) -> Placed {
    placed_among(config, branches, &[], bias, at)
}

/// The same of a method that leaves some of the modules that it attaches to as they are, but for their biases.
pub(super) fn placed_among<C: Configuration, B: Branch + 'static>(
    mut config: C,
    branches: Vec<B>,
    others: &[Linear],
    bias: Bias,
    at: &Places<'_>,
) -> Placed {
    let branches = Branches(branches);
    let others = others.iter().map(|linear| (linear.module.clone(), 0));
    let attached: Vec<(String, usize)> = branches.targets().into_iter().chain(others).collect();
    let modules: Vec<&str> = attached.iter().map(|(module, _)| module.as_str()).collect();
    if let Some(scope) = config.scope_mut() {
        scope.settle(&modules, at.saved);
    }
    if let Some(fan_in_fan_out) = config.fan_in_fan_out_mut() {
        *fan_in_fan_out |= at.has_conv1d(&modules);
    }
    let mut parts = vec![boxed(branches)];
    parts.extend(trained::biases(at, bias, &attached));
    Placed { parts, settled: Method::from(config) }
}

/// The frozen weight of a projection, float32, in the order of axes in which it is stored.
#[must_use]
pub fn stored_weight<'g>(b: &'g Builder, projection: &Projection) -> Expr<'g> {
    own_part(b.expr(projection.weight.value), projection, i64::from(projection.weight.layout != Layout::OutIn)).cast(DType::F32)
}

/// Refuses a module whose weight is quantised, for a branch that computes with [`stored_weight`].
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) with what it is stored as.
pub fn has_stored_weight(at: &Insertion<'_, '_>, module: &str) -> Result<()> {
    let mut own = at.anatomy.projections.iter().filter(|projection| projection.module == module);
    own.try_for_each(|projection| fold::is_stored_as_floats(at.graph, projection.weight.value))
        .map_err(|error| error.at(Place::Tensor(module.to_owned())))
}

/// The product of a projection's input with the frozen weight, without a bias, float32.
pub(crate) fn product<'g>(b: &'g Builder, projection: &Projection) -> Expr<'g> {
    let y = b.expr(projection.y).cast(DType::F32);
    // A `Gemm` adds the bias itself.
    let bias = projection.bias.filter(|_| projection.y == projection.output);
    bias.map_or(y, |bias| y - own_part(b.expr(bias), projection, 0).cast(DType::F32))
}

/// A projection's own part of a constant, along an axis.
pub(crate) fn own_part<'g>(stored: Expr<'g>, projection: &Projection, axis: i64) -> Expr<'g> {
    projection.weight.part.as_ref().map_or(stored, |part| stored.slice(&[part.start], &[part.end], &[axis]))
}

/// The rows of an update `[out_features, in_features]` that a part of its module has, added to them.
pub(crate) fn added(weight: Array2<f32>, delta: &Array2<f32>, rows: Option<&Range<i64>>) -> Result<Array2<f32>> {
    let own = delta.slice_axis(Axis(0), rows.map_or(0..delta.nrows(), split_modules::places).into());
    if weight.dim() != own.dim() {
        return Err(Error::mismatch("shape of the update", format!("{:?}", weight.dim()), format!("{:?}", own.dim())));
    }
    Ok(weight + own)
}
