//! Several LoRAs made one: for each module new factors from those of all, as `LoraModel.add_weighted_adapter` of PEFT makes them
//! (`peft/tuners/lora/model.py`, `peft/utils/merge_utils.py`).
//!
//! | name | what is combined | pruned | combined by |
//! |---|---|---|---|
//! | `linear` | factors | - | sum |
//! | `cat` | factors | - | one behind the other: the exact sum, of a rank as large as all together |
//! | `svd` | updates | - | sum, then the nearest of the rank asked for |
//! | `ties` | factors | smallest | sum of those of the majority's sign (Yadav et al., TIES-Merging) |
//! | `dare_linear` | factors | random, the rest made larger (Yu et al., Language Models are Super Mario) | sum |
//! | `dare_ties` | factors | random | as `ties` |
//! | `magnitude_prune` | factors | smallest | sum |
//! | `.._svd` | updates | as without | as without, then the nearest of the rank asked for |

mod tensors;

use ndarray::{Array2, Axis, concatenate, s};

use crate::adapter::params::init::narrow;
use crate::adapter::weights::linalg;
use crate::error::{Error, Result};

/// A way to combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Technique {
    /// Its name, PEFT's `combination_type`.
    pub name: &'static str,
    space: Space,
    pruning: Pruning,
    merging: Merging,
}

/// What is combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    /// `A` with `A`, `B` with `B`.
    Factors,
    /// The factors, one behind the other.
    Stacked,
    /// The products `B·A`.
    Updates,
}

/// Which numbers are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pruning {
    None,
    /// The smallest.
    Magnitude,
    /// Random ones; those that stay are divided by the share that stays.
    Random,
}

/// How numbers of several adapters become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merging {
    /// Their weighted sum.
    Sum,
    /// The weighted mean of those that have the sign of the majority.
    Majority,
}

const TECHNIQUES: &[Technique] = &[
    technique("linear", Space::Factors, Pruning::None, Merging::Sum),
    technique("cat", Space::Stacked, Pruning::None, Merging::Sum),
    technique("svd", Space::Updates, Pruning::None, Merging::Sum),
    technique("ties", Space::Factors, Pruning::Magnitude, Merging::Majority),
    technique("ties_svd", Space::Updates, Pruning::Magnitude, Merging::Majority),
    technique("dare_linear", Space::Factors, Pruning::Random, Merging::Sum),
    technique("dare_linear_svd", Space::Updates, Pruning::Random, Merging::Sum),
    technique("dare_ties", Space::Factors, Pruning::Random, Merging::Majority),
    technique("dare_ties_svd", Space::Updates, Pruning::Random, Merging::Majority),
    technique("magnitude_prune", Space::Factors, Pruning::Magnitude, Merging::Sum),
    technique("magnitude_prune_svd", Space::Updates, Pruning::Magnitude, Merging::Sum),
];

const fn technique(name: &'static str, space: Space, pruning: Pruning, merging: Merging) -> Technique {
    Technique { name, space, pruning, merging }
}

impl Technique {
    /// The technique of a name.
    ///
    /// # Errors
    /// A name that is not PEFT's; the message has those that are.
    pub fn from_name(name: &str) -> Result<Self> {
        TECHNIQUES.iter().find(|technique| technique.name == name).copied().ok_or_else(|| {
            let names: Vec<&str> = TECHNIQUES.iter().map(|technique| technique.name).collect();
            Error::mismatch("way to combine", names.join(", "), name)
        })
    }

    /// The rank of the combination of adapters of these ranks; `wanted` is for combinations that can have any.
    ///
    /// # Errors
    /// Different ranks, where they must be the same; a rank that the technique does not let one choose.
    pub fn rank(&self, ranks: &[usize], wanted: Option<usize>) -> Result<usize> {
        let largest = ranks.iter().copied().max().unwrap_or(0);
        let rank = match self.space {
            Space::Updates => return Ok(wanted.unwrap_or(largest)),
            Space::Stacked => ranks.iter().sum(),
            Space::Factors if ranks.iter().any(|&rank| rank != largest) => {
                return Err(Error::mismatch("ranks of the adapters", format!("the same for {}", self.name), format!("{ranks:?}"))
                    .with_hint("`method cat` and `method svd` combine adapters of different ranks"));
            }
            Space::Factors => largest,
        };
        match wanted {
            Some(wanted) if wanted != rank => Err(Error::mismatch(format!("rank of a combination by {}", self.name), rank, wanted)
                .with_hint("the rank can be chosen with `method svd` and the others that end in svd")),
            _ => Ok(rank),
        }
    }
}

/// Whose sign counts where adapters disagree (`majority_sign_method`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Majority {
    /// That of the sum.
    #[default]
    Total,
    /// That which more adapters have.
    Frequency,
}

/// How adapters are combined.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The way.
    pub technique: Technique,
    /// Share of the numbers that are kept, where some are left out.
    pub density: Option<f64>,
    /// Whose sign counts.
    pub majority: Majority,
    /// Random seed of which elements are left out.
    pub seed: u64,
}

impl Recipe {
    /// Checks that the recipe is whole.
    ///
    /// # Errors
    /// A technique that leaves numbers out without the share that is kept, or the other way round; a share that is none.
    pub fn check(&self) -> Result<()> {
        let name = self.technique.name;
        match (self.technique.pruning, self.density) {
            (Pruning::None, None) => Ok(()),
            (Pruning::None, Some(_)) => Err(Error::invalid(format!("{name} leaves no numbers out, so it has no density"))),
            (_, None) => Err(Error::invalid(format!("{name} needs the share of the numbers that are kept")).with_hint("`density 0.5`")),
            (_, Some(density)) if density > 0.0 && density <= 1.0 => Ok(()),
            (_, Some(density)) => Err(Error::mismatch("density", "above 0 and up to 1", density)),
        }
    }

    fn density(&self) -> f64 {
        self.density.unwrap_or(1.0)
    }
}

/// One adapter's factors of one module.
#[derive(Clone, Debug)]
pub struct Factors {
    /// `[rank, in]`
    pub a: Array2<f32>,
    /// `[out, rank]`
    pub b: Array2<f32>,
    /// What `B·A` is multiplied with.
    pub scaling: f64,
    /// The weight of the adapter in the combination.
    pub weight: f64,
}

/// Combines the factors of a module: `A` `[rank, in]` and `B` `[out, rank]`, to be used with a scale of 1. `name` tells modules apart for
/// which elements are left out at random.
///
/// # Errors
/// Factors that do not go together; numbers that are not finite.
pub fn combine(parts: &[Factors], recipe: &Recipe, rank: usize, name: &str) -> Result<(Array2<f32>, Array2<f32>)> {
    for Factors { a, b, .. } in parts {
        let first = &parts[0];
        let fits = a.nrows() == b.ncols() && a.ncols() == first.a.ncols() && b.nrows() == first.b.nrows();
        if !fits {
            let (expected, found) = ((first.b.nrows(), first.a.ncols()), (b.nrows(), a.ncols()));
            return Err(Error::mismatch("shape of the update", format!("{expected:?}"), format!("{found:?}")));
        }
    }
    let (a, b) = match recipe.technique.space {
        Space::Stacked => stacked(parts),
        Space::Factors => factors(parts, recipe, name)?,
        Space::Updates if recipe.technique.pruning == Pruning::None => {
            let (a, b) = stacked(parts);
            linalg::nearest_product(&a, &b, rank)?
        }
        Space::Updates => {
            let updates = parts.iter().map(|part| part.b.dot(&part.a) * narrow(part.scaling)).collect();
            let weights: Vec<f32> = parts.iter().map(|part| narrow(part.weight)).collect();
            linalg::nearest(&tensors::combine(updates, &weights, recipe, name), rank)?
        }
    };
    Ok(padded(a, b, rank))
}

fn stacked(parts: &[Factors]) -> (Array2<f32>, Array2<f32>) {
    let a: Vec<Array2<f32>> = parts.iter().map(|part| &part.a * narrow(part.weight) * narrow(part.scaling)).collect();
    let a: Vec<_> = a.iter().map(|a| a.view()).collect();
    let b: Vec<_> = parts.iter().map(|part| part.b.view()).collect();
    let same = "lengths were compared";
    (concatenate(Axis(0), &a).expect(same), concatenate(Axis(1), &b).expect(same))
}

/// Each factor gets the root of the weight, and `A` its sign, so that the product has the weight.
fn factors(parts: &[Factors], recipe: &Recipe, name: &str) -> Result<(Array2<f32>, Array2<f32>)> {
    let ranks: Vec<usize> = parts.iter().map(|part| part.a.nrows()).collect();
    if ranks.iter().any(|rank| *rank != ranks[0]) {
        return Err(Error::mismatch("ranks of the module", "the same in every adapter", format!("{ranks:?}")));
    }
    let roots: Vec<f32> = parts.iter().map(|part| narrow((part.weight * part.scaling).abs().sqrt())).collect();
    let signed: Vec<f32> =
        parts.iter().zip(&roots).map(|(part, root)| if part.weight * part.scaling < 0.0 { -root } else { *root }).collect();
    let (a, b) = parts.iter().map(|part| (part.a.clone(), part.b.clone())).unzip();
    Ok((tensors::combine(a, &signed, recipe, &format!("{name}.A")), tensors::combine(b, &roots, recipe, &format!("{name}.B"))))
}

/// Factors of exactly the rank: zeros behind those of a smaller one.
fn padded(a: Array2<f32>, b: Array2<f32>, rank: usize) -> (Array2<f32>, Array2<f32>) {
    if a.nrows() == rank {
        return (a, b);
    }
    let (mut wide_a, mut wide_b) = (Array2::zeros((rank, a.ncols())), Array2::zeros((b.nrows(), rank)));
    wide_a.slice_mut(s![..a.nrows(), ..]).assign(&a);
    wide_b.slice_mut(s![.., ..b.ncols()]).assign(&b);
    (wide_a, wide_b)
}
