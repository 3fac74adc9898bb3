//! What a method is made of, once it has found its places in a graph.

mod change;

pub use change::Change;

use std::cell::Cell;
use std::fmt::Debug;

use ndarray::{Array1, Array2};

use crate::adapter::params::key::{Key, KeyPart};
use crate::adapter::params::matrices::matrix;
use crate::adapter::params::{Given, ParamForm, Params, budget, dropout::Masks};

use crate::Result;

use crate::anatomy::Anatomy;
use crate::ir::{Builder, Expr, Graph, Tensor};
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
    pub(crate) fn form(&self) -> ParamForm {
        if matches!(self, Self::Merged) { ParamForm::Constants } else { ParamForm::Inputs }
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
pub struct Insertion<'g, 'a> {
    /// What writes it.
    pub b: &'g Builder,
    /// The graph that the builder started from.
    pub graph: &'a Graph,
    /// What was recognised in it.
    pub anatomy: &'a Anatomy,
    /// The adapter's tensors.
    pub params: &'a Params<'g>,
    /// What the graph is for.
    pub purpose: Purpose<'g>,
}

/// A graph whose constants an adapter is being folded into.
pub struct Folding<'a> {
    /// What writes it.
    pub b: &'a Builder,
    /// The graph that the builder started from.
    pub graph: &'a Graph,
    /// What was recognised in it.
    pub anatomy: &'a Anatomy,
    /// The adapter's tensors by key.
    pub given: &'a Given<'a>,
    /// What rounding quantised weights again has cost so far.
    pub(crate) requantised: &'a Cell<Requantised>,
}

impl Folding<'_> {
    /// A float32 matrix of the adapter that belongs to a module.
    ///
    /// # Errors
    /// One that it does not have, or that is none.
    pub fn matrix(&self, module: &str, part: KeyPart) -> Result<Array2<f32>> {
        let key = Key::module(module, part).to_string();
        matrix(&self.tensor(&key)?).map_err(|error| error.at(Place::Tensor(key)))
    }

    /// The numbers of a tensor of the adapter that belongs to a module.
    ///
    /// # Errors
    /// One that it does not have; integers.
    pub fn vector(&self, module: &str, part: KeyPart) -> Result<Array1<f32>> {
        self.numbers(&Key::module(module, part).to_string()).map(Array1::from)
    }

    /// A tensor of the adapter.
    ///
    /// # Errors
    /// One that it does not have.
    pub fn tensor(&self, key: &str) -> Result<Tensor> {
        (self.given)(key).ok_or_else(|| Error::not_found("tensor", key))
    }

    /// A tensor of the adapter as float32 numbers.
    ///
    /// # Errors
    /// One that it does not have; integers.
    pub fn numbers(&self, key: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(key)?;
        tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()).at(Place::Tensor(key.to_owned())))
    }
}

/// One part of a method, with its places.
pub trait Part: Debug + Send + Sync {
    /// Writes the part into a graph.
    ///
    /// # Errors
    /// Places that are written in a way that is not known.
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()>;

    /// Folds the part into the base's constants.
    ///
    /// # Errors
    /// Tensors that are missing; weights that are not stored as plain floats.
    fn fold(&self, at: &Folding<'_>) -> Result<()>;

    /// What the part makes of projections, each by its place in the anatomy; none if that is more than updates of low rank.
    ///
    /// # Errors
    /// Tensors that are missing, or of other shapes.
    fn changes(&self, at: &Folding<'_>) -> Result<Option<Vec<(usize, Change)>>> {
        let _ = at;
        Ok(None)
    }

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

    /// What is added to the loss while training, float32, rank 0.
    fn penalty<'g>(&self, at: &Insertion<'g, '_>) -> Option<Expr<'g>> {
        let _ = at;
        None
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
