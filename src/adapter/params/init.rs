//! The values that fresh adapters start from.

use std::cell::Cell;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use sha2::{Digest, Sha256};

use crate::ir::Tensor;

/// A source of random values that depends on the seed and the tensor's name alone, not on the order of asking.
#[must_use]
pub fn generator(seed: u64, name: &str) -> ChaCha8Rng {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name.as_bytes()).finalize();
    ChaCha8Rng::from_seed(digest.into())
}

thread_local! {
    static OF_SHAPES: Cell<bool> = const { Cell::new(false) };
}

/// What `make` makes, where the shapes of its random tensors are all that is asked for: their numbers are zeros, which take neither time nor memory.
pub fn of_shapes<T>(make: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            OF_SHAPES.set(self.0);
        }
    }
    let _before = Before(OF_SHAPES.replace(true));
    make()
}

/// Uniform in `[-bound, bound)`.
#[must_use]
pub fn uniform(rng: &mut ChaCha8Rng, shape: &[usize], bound: f32) -> Tensor {
    if OF_SHAPES.get() {
        return zeros(shape);
    }
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect();
    Tensor::from_f32(shape, &values)
}

/// Normal with mean 0.
#[must_use]
pub fn normal(rng: &mut ChaCha8Rng, shape: &[usize], deviation: f32) -> Tensor {
    if OF_SHAPES.get() {
        return zeros(shape);
    }
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| Distribution::<f32>::sample(&StandardNormal, rng) * deviation).collect();
    Tensor::from_f32(shape, &values)
}

/// Zeros.
#[must_use]
pub fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape)
}

/// A length as a number.
#[must_use]
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "lengths of axes are far below 2^24")]
pub fn to_f32(length: usize) -> f32 {
    length as f32
}

/// A number as adapters compute with it.
#[must_use]
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "adapters are float32")]
pub fn narrow(number: f64) -> f32 {
    number as f32
}
