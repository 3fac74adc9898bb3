//! What goes with every cross-entropy: weights of classes, and label smoothing, as `torch.nn.CrossEntropyLoss` has them.

use crate::ir::{Builder, DType, Dim, Expr, Tensor};
use crate::num;

/// The optional input with the weights of classes, where they are known only once there are data.
pub const CLASS_WEIGHTS: &str = "class_weights";

/// What goes with every cross-entropy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassTerms {
    /// The weights of the classes.
    pub weights: Weights,
    /// How much of each target is spread over all classes, in `[0, 1)`.
    pub smoothing: f64,
}

/// The weights of classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Weights {
    /// All 1.
    #[default]
    Equal,
    /// One for each class.
    Each(Vec<f64>),
    /// An input of so many numbers, all 1 if nobody gives it.
    Fed(usize),
}

impl Weights {
    /// One for each class; none: all 1.
    #[must_use]
    pub fn of(weights: Vec<f64>) -> Self {
        if weights.is_empty() { Self::Equal } else { Self::Each(weights) }
    }

    /// The weights in a graph, float32 `[classes]`; none where all are 1.
    #[must_use]
    pub fn write<'g>(&self, b: &'g Builder) -> Option<Expr<'g>> {
        match self {
            Self::Equal => None,
            Self::Each(weights) => {
                let numbers: Vec<f32> = weights.iter().map(|&weight| rounded(weight)).collect();
                Some(b.constant(Tensor::from_f32(&[numbers.len()], &numbers)))
            }
            Self::Fed(classes) => Some(b.input_named(CLASS_WEIGHTS).unwrap_or_else(|| {
                let input = b.input(CLASS_WEIGHTS, DType::F32, &[Dim::known(num::int(*classes))]);
                b.set_initializer(input.id(), Tensor::from_f32(&[*classes], &vec![1.0; *classes]));
                input
            })),
        }
    }
}

impl ClassTerms {
    /// Whether a plain cross-entropy says it all.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.weights == Weights::Equal && self.smoothing <= 0.0
    }
}

/// A number rounded once to float32.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "rounding is what is meant")]
fn rounded(number: f64) -> f32 {
    number as f32
}
