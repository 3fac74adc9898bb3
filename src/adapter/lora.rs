//! LoRA: `y = W·x + scaling · B·A·dropout(x)` (Hu et al., LoRA, equation 3; PEFT `tuners/lora/layer.py`).

use super::dropout::Masks;
use super::init;
use super::param::Params;
use crate::anatomy::{Anatomy, Projection};
use crate::ir::{DType, Tensor};

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
pub enum Start {
    /// `A` uniform as PyTorch's `Linear`, `B` zero: the adapter changes nothing at first.
    Default,
    /// `A` normal with deviation `1 / r`, `B` zero.
    Gaussian,
    /// Both random, for tests.
    Random,
}

/// Everything about the branches but where they go.
#[derive(Clone, Copy, Debug)]
pub struct Branches {
    /// How fresh ones start.
    pub start: Start,
    /// The seed of fresh values.
    pub seed: u64,
    /// Share of the input's elements that are dropped while training.
    pub dropout: f64,
    /// Whether `B` has a bias (`lora_bias`).
    pub bias: bool,
}

/// Adds a branch at each site: to every place where the module is used.
///
/// `A` is `[rank, in_features]`, `B` `[out_features, rank]`, as PEFT stores them. The branch is computed in float32.
pub fn insert<'g>(params: &Params<'g>, anatomy: &Anatomy, sites: &[Site], branches: &Branches, masks: Option<Masks<'g>>) {
    let mut place = 0;
    for site in sites {
        for projection in anatomy.projections.iter().filter(|p| p.module == site.module) {
            place += 1;
            branch(params, projection, site, branches, masks.map(|masks| (masks, place)));
        }
    }
}

fn branch<'g>(params: &Params<'g>, projection: &Projection, site: &Site, branches: &Branches, masks: Option<(Masks<'g>, u32)>) {
    let size = |n: i64| usize::try_from(n).unwrap_or(0);
    let (n_in, n_out) = (size(projection.in_features), size(projection.out_features));
    let Site { module, rank, scaling } = site;
    let a_name = format!("{module}.lora_A.weight");
    let b_name = format!("{module}.lora_B.weight");
    let a = params.get(&a_name, || fresh_a(branches, &a_name, &[*rank, n_in]));
    let b = params.get(&b_name, || fresh_b(branches, &b_name, &[n_out, *rank]));
    let bias = branches.bias.then(|| params.get(&format!("{module}.lora_B.bias"), || init::zeros(&[n_out])));
    let builder = a.b();
    let (x, output) = (builder.expr(projection.x), builder.expr(projection.output));
    builder.scoped(&format!("lora/{module}"), || {
        builder.rewire(output, |y| {
            let x = x.cast(DType::F32);
            let x = masks.map_or(x, |(masks, place)| masks.drop(x, branches.dropout, place));
            // The scale goes onto the narrow side.
            let down = x.matmul(a.t()) * *scaling;
            let up = down.matmul(b.t());
            let up = bias.map_or(up, |bias| up + bias * *scaling);
            y + up.cast(y.dtype())
        });
    });
}

fn fresh_a(branches: &Branches, name: &str, shape: &[usize; 2]) -> Tensor {
    let mut rng = init::generator(branches.seed, name);
    match branches.start {
        // PyTorch's `kaiming_uniform_(a=√5)`: a bound of 1/√fan_in.
        Start::Default | Start::Random => init::uniform(&mut rng, shape, to_f32(shape[1]).sqrt().recip()),
        Start::Gaussian => init::normal(&mut rng, shape, to_f32(shape[0]).recip()),
    }
}

fn fresh_b(branches: &Branches, name: &str, shape: &[usize; 2]) -> Tensor {
    match branches.start {
        Start::Default | Start::Gaussian => init::zeros(shape),
        Start::Random => init::uniform(&mut init::generator(branches.seed, name), shape, to_f32(shape[1]).sqrt().recip()),
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "lengths of axes are far below 2^24")]
fn to_f32(length: usize) -> f32 {
    length as f32
}

/// What folding adds to the module's weight, `[out_features, in_features]`: `scaling · B · A`.
///
/// # Errors
/// Tensors that are not float32 matrices that go together.
pub fn delta(a: &Tensor, b: &Tensor, scaling: f64) -> crate::Result<ndarray::Array2<f32>> {
    let (a, b) = (super::matrix(a)?, super::matrix(b)?);
    if a.nrows() != b.ncols() {
        return Err(crate::Error::mismatch("rank of lora_B", a.nrows(), b.ncols()));
    }
    let [scale] = [scaling].map(|s| Tensor::from_f64(DType::F32, &[], &[s]).ok().and_then(|t| t.scalar()).unwrap_or(s));
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "the branch is float32")]
    let scale = scale as f32;
    Ok(b.dot(&a) * scale)
}
