//! What a method is made of, once it has found its places in a graph.

use std::cell::Cell;
use std::fmt::Debug;

use ndarray::Array2;

use crate::Result;
use crate::adapter::config::Method;
use crate::adapter::params::{Form, Given, Params, budget, dropout::Masks};
use crate::adapter::targets::Strictness;
use crate::anatomy::Anatomy;
use crate::ir::{Builder, Graph, Tensor};
use crate::{Error, Place};

/// What an adapted graph is for.
#[derive(Clone, Copy)]
pub enum Purpose<'g> {
    /// To be trained: whole sequences, logits at the virtual tokens too, dropout if there are masks.
    Training(Option<Masks<'g>>),
    /// To be run: the base's outputs, the adapter as inputs with default values.
    Inference,
    /// To be run as a model of its own: the adapter as constants.
    Merged,
}

impl<'g> Purpose<'g> {
    pub(crate) fn form(&self) -> Form {
        if matches!(self, Self::Merged) { Form::Constants } else { Form::Inputs }
    }

    /// The source of dropout masks.
    pub(crate) fn masks(&self) -> Option<Masks<'g>> {
        match self {
            Self::Training(masks) => *masks,
            Self::Inference | Self::Merged => None,
        }
    }

    pub(crate) fn is_training(&self) -> bool {
        matches!(self, Self::Training(_))
    }
}

/// What rounding cost, over all weights that were rounded again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Requantised {
    /// Weights that were rounded again.
    pub weights: usize,
    squared_error: f64,
    squared: f64,
}

impl Requantised {
    /// With one more weight, which was `wanted` and became `rounded`.
    pub(crate) fn and(self, wanted: &Array2<f32>, rounded: &Array2<f32>) -> Self {
        let Self { weights, mut squared_error, mut squared } = self;
        for (wanted, rounded) in wanted.iter().zip(rounded) {
            squared_error += f64::from(wanted - rounded).powi(2);
            squared += f64::from(*wanted).powi(2);
        }
        Self { weights: weights + 1, squared_error, squared }
    }

    /// The root of the mean squared error, as a share of the root of the mean squared weight.
    #[must_use]
    pub fn error(&self) -> f64 {
        if self.squared > 0.0 { (self.squared_error / self.squared).sqrt() } else { 0.0 }
    }
}

/// A graph that an adapter is being written into.
pub(crate) struct Insertion<'g, 'a> {
    pub(crate) b: &'g Builder,
    /// The graph that the builder started from.
    pub(crate) graph: &'a Graph,
    pub(crate) anatomy: &'a Anatomy,
    pub(crate) params: &'a Params<'g>,
    pub(crate) purpose: Purpose<'g>,
}

/// A graph whose constants an adapter is being folded into.
pub(crate) struct Folding<'a> {
    pub(crate) b: &'a Builder,
    /// The graph that the builder started from.
    pub(crate) graph: &'a Graph,
    pub(crate) anatomy: &'a Anatomy,
    pub(crate) given: &'a Given<'a>,
    /// What rounding quantised weights again has cost so far.
    pub(crate) requantised: &'a Cell<Requantised>,
}

impl Folding<'_> {
    /// A tensor of the adapter.
    pub(crate) fn tensor(&self, key: &str) -> Result<Tensor> {
        (self.given)(key).ok_or_else(|| Error::not_found("tensor", key))
    }

    /// A tensor of the adapter as float32 numbers.
    pub(crate) fn numbers(&self, key: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(key)?;
        tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()).at(Place::Tensor(key.to_owned())))
    }
}

/// One part of a method, with its places.
pub(crate) trait Part: Debug + Send + Sync {
    /// Writes the part into a graph.
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()>;

    /// Folds the part into the base's constants.
    fn fold(&self, at: &Folding<'_>) -> Result<()>;

    /// Whether there is nothing to fold into: a merged model has the part in its graph, as constants.
    fn is_baked(&self) -> bool {
        false
    }

    /// The modules that the part attaches to, with the length of its inner axis, 0 if it has none.
    fn targets(&self) -> Vec<(String, usize)> {
        vec![]
    }

    /// How many numbers the part has when it is fresh, or about as many.
    fn numbers(&self, anatomy: &Anatomy) -> u128 {
        self.targets().iter().map(|(module, rank)| budget::of_factors(anatomy, module, *rank)).fold(0, u128::saturating_add)
    }

    /// The parameters of the base that are trained as a whole.
    fn trained(&self) -> Vec<String> {
        vec![]
    }

    /// The parameters of the base that have other numbers and are not trained.
    fn replaced(&self) -> Vec<String> {
        vec![]
    }

    /// Whether the part is put into keys and values.
    fn touches_attention(&self) -> bool {
        false
    }

    /// Share of activations that are dropped while training.
    fn dropout(&self) -> f64 {
        0.0
    }

    /// Positions that virtual tokens take.
    fn virtual_tokens(&self) -> usize {
        0
    }

    /// Positions in front of those that have labels.
    fn positions_without_label(&self) -> usize {
        0
    }
}

/// A part, boxed.
pub(crate) fn boxed(part: impl Part + 'static) -> Box<dyn Part> {
    Box::new(part)
}

/// What is known when a method looks for its places.
pub(crate) struct Places<'a> {
    pub(crate) anatomy: &'a Anatomy,
    pub(crate) strictness: Strictness,
    pub(crate) seed: u64,
    /// Names of modules that are trained as a whole: those that were asked for, and the task's heads.
    pub(crate) saved: &'a [String],
    /// Values by key, for an adapter that is not fresh.
    pub(crate) given: &'a Given<'a>,
}

/// A method that found its places.
pub(crate) struct Placed {
    pub(crate) parts: Vec<Box<dyn Part>>,
    /// The method with what was found written down, so that PEFT comes to the same.
    pub(crate) settled: Method,
}
