//! LoRAs that start from the base's own weights: from their largest singular values (Meng et al., PiSSA) or from their QR factors
//! (Büyükakyüz, OLoRA). PEFT: `pissa_init` and `olora_init` in `peft/tuners/lora/layer.py`.
//!
//! With `W = R + s·B₀·A₀`, these methods train `R + s·B·A` from `A₀`, `B₀` on. PEFT puts `R` into the base. Here the base's files stay as
//! they are: the branch is `s·(B·A − B₀·A₀)`, of which `A` and `B` alone are trained. In the adapter's file that is an ordinary LoRA of twice the
//! rank, `[A; A₀]` and `[B, −B₀]`, as PEFT saves it with `path_initial_model_for_weight_conversion`; what is trained is kept beside it.

use std::sync::OnceLock;

use indexmap::IndexMap;
use nalgebra::DMatrix;
use ndarray::{Array2, Axis, concatenate, s};

use super::{LORA_A, LORA_B, LoraConfig, LoraInit};
use crate::adapter::params::dropout::Masks;
use crate::adapter::params::key::Key;
use crate::adapter::params::matrices::{matrix, tensor};
use crate::adapter::params::{PEFT_PREFIX, init, input_name};
use crate::adapter::part::{Folding, Insertion, Part};
use crate::adapter::targets::Site;
use crate::adapter::weights::fold;
use crate::adapter::weights::linalg::{self, Decomposed as Values};
use crate::anatomy::Projection;
use crate::ir::{DType, Tensor};
use crate::{Error, Place, Result};

/// What stands before the key of a tensor that is trained while the adapter's file has what is made of it.
const TRAINED: &str = "trained.";

/// How factors are found in a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decomposition {
    /// The largest singular values and their vectors; with a number of iterations, nearly so and fast (Halko et al., algorithm 4.4).
    Singular { iterations: Option<usize> },
    /// The first columns of `Q` and rows of `R`.
    Orthogonal,
}

impl Decomposition {
    /// The decomposition that a start asks for.
    pub(crate) fn of(init: &LoraInit) -> Option<Self> {
        match init {
            LoraInit::Pissa { iterations } => Some(Self::Singular { iterations: *iterations }),
            LoraInit::Olora => Some(Self::Orthogonal),
            LoraInit::Kaiming | LoraInit::Gaussian | LoraInit::Random | LoraInit::FromFile(_) => None,
        }
    }
}

/// The settings of the ordinary LoRA that the file has: twice the rank, the same scale.
pub(crate) fn settled(config: LoraConfig) -> LoraConfig {
    let more = if config.use_rslora { std::f64::consts::SQRT_2 } else { 2.0 };
    LoraConfig {
        rank: 2 * config.rank,
        alpha: more * config.alpha,
        rank_pattern: config.rank_pattern.into_iter().map(|(name, rank)| (name, 2 * rank)).collect(),
        alpha_pattern: config.alpha_pattern.into_iter().map(|(name, alpha)| (name, more * alpha)).collect(),
        init: LoraInit::Kaiming,
        ..config
    }
}

/// The modules whose branches start from their weights.
#[derive(Debug)]
pub(crate) struct Decomposed {
    modules: Vec<Module>,
    decomposition: Decomposition,
    dropout: f64,
    seed: u64,
}

#[derive(Debug)]
struct Module {
    site: Site,
    /// Found once: it takes time.
    start: OnceLock<Start>,
}

/// The factors that a module starts from.
#[derive(Clone, Debug)]
struct Start {
    /// `[rank, in]`
    a: Array2<f32>,
    /// `[out, rank]`
    b: Array2<f32>,
}

impl Decomposed {
    pub(crate) fn new(sites: Vec<Site>, decomposition: Decomposition, dropout: f64, seed: u64) -> Self {
        let modules = sites.into_iter().map(|site| Module { site, start: OnceLock::new() }).collect();
        Self { modules, decomposition, dropout, seed }
    }

    fn start<'m>(&self, at: &Insertion<'_, '_>, module: &'m Module, projection: &Projection) -> Result<&'m Start> {
        if let Some(start) = module.start.get() {
            return Ok(start);
        }
        let Site { module: name, rank, scaling } = &module.site;
        let found = || -> Result<Start> {
            let weight = fold::finite_weight_of(at.graph, projection)?;
            let most = weight.nrows().min(weight.ncols());
            if *rank > most {
                return Err(Error::mismatch("rank", format!("{most} at most"), rank));
            }
            self.decomposition.factors(&weight, *rank, *scaling, &mut init::generator(self.seed, name))
        };
        let found = found().map_err(|error| error.at(Place::Tensor(name.clone())))?;
        Ok(module.start.get_or_init(|| found))
    }

    /// The branch that is trained, less the one that it starts from.
    fn train<'g>(&self, at: &Insertion<'g, '_>, module: &Module, projection: &Projection, masks: Option<(Masks<'g>, u32)>) -> Result<()> {
        let start = self.start(at, module, projection)?;
        let (b, scaling) = (at.b, module.site.scaling);
        let (a0, b0) = (tensor(&start.a.view()), tensor(&start.b.view()));
        let [key_a, key_b] = module.keys().map(|key| format!("{TRAINED}{}", input_name(&key)));
        let (new_a, new_b) = (at.params.encoder(&key_a, || a0.clone()), at.params.encoder(&key_b, || b0.clone()));
        b.scoped(&format!("lora/{}", module.site.module), || {
            b.rewire(b.expr(projection.output), |y| {
                let x = b.current(projection.x).cast(DType::F32);
                let seen = masks.map_or(x, |(masks, place)| masks.drop(x, self.dropout, place));
                let new = (seen.matmul(new_a.t()) * scaling).matmul(new_b.t());
                let old = (x.matmul(b.constant(a0).t()) * scaling).matmul(b.constant(b0).t());
                y + (new - old).cast(y.dtype())
            });
        });
        Ok(())
    }

    /// The ordinary branch of twice the rank.
    fn run(&self, at: &Insertion<'_, '_>, module: &Module, projection: &Projection) -> Result<()> {
        let (a, up) = self.start(at, module, projection)?.joined()?;
        let (b, scaling) = (at.b, module.site.scaling);
        let [key_a, key_b] = module.keys();
        let a = at.params.keyed(&key_a.to_string(), &input_name(&key_a), || a);
        let up = at.params.keyed(&key_b.to_string(), &input_name(&key_b), || up);
        b.scoped(&format!("lora/{}", module.site.module), || {
            let x = b.current(projection.x);
            b.rewire(b.expr(projection.output), |y| y + (x.cast(DType::F32).matmul(a.t()) * scaling).matmul(up.t()).cast(y.dtype()));
        });
        Ok(())
    }
}

impl Module {
    fn keys(&self) -> [Key; 2] {
        [LORA_A, LORA_B].map(|part| Key::module(&*self.site.module, part))
    }
}

impl Part for Decomposed {
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        let mut place = 0;
        for module in &self.modules {
            for projection in at.anatomy.projections.iter().filter(|p| p.module == module.site.module) {
                place += 1;
                if at.purpose.is_training() {
                    self.train(at, module, projection, at.purpose.masks().map(|masks| (masks, place)))?;
                } else {
                    self.run(at, module, projection)?;
                }
            }
        }
        Ok(())
    }

    fn fold(&self, _: &Folding<'_>) -> Result<()> {
        Err(Error::invalid("what starts from the base's weights is folded as the ordinary LoRA that it is kept as"))
    }

    fn targets(&self) -> Vec<(String, usize)> {
        self.modules.iter().map(|module| (module.site.module.clone(), module.site.rank)).collect()
    }

    fn dropout(&self) -> f64 {
        self.dropout
    }
}

impl Decomposition {
    /// Factors with `s·B·A` a part of the weight `[out, in]`.
    fn factors(self, weight: &Array2<f32>, rank: usize, scaling: f64, rng: &mut rand_chacha::ChaCha8Rng) -> Result<Start> {
        let weight = linalg::double(&weight.view());
        let Values { u, values, v_t } = match self {
            Self::Orthogonal => {
                let (q, r) = linalg::orthogonal(weight);
                return Ok(Start { a: linalg::single(&r.rows(0, rank).into_owned()), b: linalg::single(&q.columns(0, rank).into_owned()) });
            }
            Self::Singular { iterations: None } => linalg::decompose(&weight, rank)?,
            Self::Singular { iterations: Some(iterations) } => {
                let random = matrix(&init::normal(rng, &[weight.ncols(), rank], 1.0))?;
                linalg::decompose_nearly(&weight, &linalg::double(&random.view()), iterations)?
            }
        };
        if scaling <= 0.0 {
            return Err(Error::mismatch("scale of a LoRA that starts from singular values", "above 0", scaling));
        }
        let roots: Vec<f64> = values.iter().map(|value| (value / scaling).sqrt()).collect();
        let roots = DMatrix::from_diagonal(&roots.into());
        Ok(Start { a: linalg::single(&(&roots * v_t)), b: linalg::single(&(u * &roots)) })
    }
}

impl Start {
    /// `[A₀; A₀]` and `[B₀, −B₀]`, of which nothing is the sum.
    fn joined(&self) -> Result<(Tensor, Tensor)> {
        let a = concatenate(Axis(0), &[self.a.view(), self.a.view()]).map_err(|error| Error::invalid(error.to_string()))?;
        let minus = self.b.mapv(|number| -number);
        let b = concatenate(Axis(1), &[self.b.view(), minus.view()]).map_err(|error| Error::invalid(error.to_string()))?;
        Ok((tensor(&a.view()), tensor(&b.view())))
    }
}

/// The adapter's tensors with what was trained in their first halves.
///
/// # Errors
/// A trained tensor that has no place, or another shape than half of it.
pub fn with_trained(kept: &IndexMap<String, Tensor>, trained: &IndexMap<String, Tensor>) -> Result<IndexMap<String, Tensor>> {
    let place = |name: &str, half: &Tensor| -> Result<(String, Tensor)> {
        let key = format!("{}{}", PEFT_PREFIX, name.strip_prefix(TRAINED).unwrap_or(name));
        let whole = kept.get(&key).ok_or_else(|| Error::not_found("tensor", &*key))?;
        let (mut whole, half) = (matrix(whole)?, matrix(half)?);
        let ((rows, columns), (own_rows, own_columns)) = (whole.dim(), half.dim());
        if (2 * own_rows, own_columns) == (rows, columns) {
            whole.slice_mut(s![..own_rows, ..]).assign(&half);
        } else if (own_rows, 2 * own_columns) == (rows, columns) {
            whole.slice_mut(s![.., ..own_columns]).assign(&half);
        } else {
            return Err(Error::mismatch("shape", format!("half of {:?}", whole.dim()), format!("{:?}", half.dim())));
        }
        Ok((key, tensor(&whole.view())))
    };
    trained.iter().map(|(name, half)| place(name, half).map_err(|error| error.at(Place::Tensor(name.clone())))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_a_part_of_the_weight() -> Result<()> {
        let mut rng = init::generator(1, "weight");
        let weight = matrix(&init::normal(&mut rng, &[6, 9], 1.0))?;
        let rest = |decomposition: Decomposition, rank| -> Result<Array2<f32>> {
            let Start { a, b } = decomposition.factors(&weight, rank, 2.0, &mut init::generator(2, "start"))?;
            assert_eq!((a.dim(), b.dim()), ((rank, 9), (6, rank)));
            let scale = if decomposition == Decomposition::Orthogonal { 1.0 } else { 2.0 };
            Ok(&weight - &(b.dot(&a) * init::narrow(scale)))
        };
        let norm = |matrix: &Array2<f32>| matrix.iter().map(|number| number * number).sum::<f32>().sqrt();
        let exact = Decomposition::Singular { iterations: None };
        let nearly = Decomposition::Singular { iterations: Some(16) };
        // Of full rank nothing is left; of less, singular vectors leave the least.
        for decomposition in [exact, nearly, Decomposition::Orthogonal] {
            assert!(norm(&rest(decomposition, 6)?) < 1e-4, "{decomposition:?}");
        }
        let (best, close, other) = (norm(&rest(exact, 2)?), norm(&rest(nearly, 2)?), norm(&rest(Decomposition::Orthogonal, 2)?));
        assert!(best <= close && close < 1.02 * best && best < other && best < norm(&weight), "{best} {close} {other}");
        Ok(())
    }
}
