//! What all branches of a LoRA have in common: how they start, and what they add to a weight.

use ndarray::Array2;

use super::{LoraConfig, LoraInit};
use crate::adapter::params::init;
use crate::adapter::params::matrices::matrix;
use crate::ir::Tensor;
use crate::{Error, Result};

/// How the branches of fresh adapters start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// `A` uniform as PyTorch's `Linear`, `B` zero: the adapter changes nothing at first.
    Default,
    /// `A` normal with deviation `1 / r`, `B` zero.
    Gaussian,
    /// Both random, for tests.
    Random,
}

/// Everything about the branches but where they go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Branches {
    /// How fresh ones start.
    pub(crate) start: Start,
    /// The seed of fresh values.
    pub(crate) seed: u64,
    /// Share of the input's elements that are dropped while training.
    pub(crate) dropout: f64,
    /// Whether `B` has a bias (`lora_bias`).
    pub(crate) bias: bool,
    /// Whether weights are decomposed into magnitude and direction.
    pub(crate) dora: bool,
}

impl Branches {
    pub(crate) fn of(config: &LoraConfig, seed: u64) -> Self {
        let start = match config.init {
            LoraInit::Kaiming | LoraInit::FromFile(_) | LoraInit::Pissa { .. } | LoraInit::Olora => Start::Default,
            LoraInit::Gaussian => Start::Gaussian,
            LoraInit::Random => Start::Random,
        };
        Self { start, seed, dropout: config.dropout, bias: config.lora_bias, dora: config.use_dora }
    }

    pub(crate) fn fresh_a(&self, name: &str, shape: &[usize; 2]) -> Tensor {
        let mut rng = init::generator(self.seed, name);
        match self.start {
            // PyTorch's `kaiming_uniform_(a=√5)`: a bound of 1/√fan_in.
            Start::Default | Start::Random => init::uniform(&mut rng, shape, init::to_f32(shape[1]).sqrt().recip()),
            Start::Gaussian => init::normal(&mut rng, shape, init::to_f32(shape[0]).recip()),
        }
    }

    pub(crate) fn fresh_b(&self, name: &str, shape: &[usize; 2]) -> Tensor {
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
pub(crate) fn delta(a: &Tensor, b: &Tensor, scaling: f64) -> Result<Array2<f32>> {
    let (a, b) = (matrix(a)?, matrix(b)?);
    if a.nrows() != b.ncols() {
        return Err(Error::mismatch("rank of lora_B", a.nrows(), b.ncols()));
    }
    Ok(b.dot(&a) * init::narrow(scaling))
}
