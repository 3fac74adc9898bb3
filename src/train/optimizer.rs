//! AdamW and clipping by the global norm, as graph, on one flat vector.

use super::allocation::{self, Kept};
use crate::adapter::{Allocation, Constraint};
use crate::contract::{Input, NEXT, Output};
use crate::ir::{Builder, DType, Dim, Expr, Tensor};
use crate::num;

/// The hyper-parameters' defaults, which callers override through the optional inputs of the same names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of every trainable parameter.
    pub weight_decay: f64,
    /// Gradients of a larger global norm are scaled down to it; 0 turns that off.
    pub max_grad_norm: f64,
}

/// PyTorch's `AdamW` with clipping at 1, as Hugging Face's `Trainer` has it.
impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0 }
    }
}

/// What is done with a gradient.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// The optimizer.
    pub adamw: AdamW,
    /// The ranks that are allocated after its step, if any are.
    pub allocation: Option<Allocation>,
    /// What stays within a norm: the optimizer steps from where it does.
    pub constraints: Vec<Constraint>,
}

/// The state that goes around from step to step, each float32 `[N]`.
#[derive(Clone, Copy)]
pub struct State<'g> {
    /// The trainable vector.
    pub trainable: Expr<'g>,
    /// First moment.
    pub m: Expr<'g>,
    /// Second moment.
    pub v: Expr<'g>,
}

impl AdamW {
    /// Adds the moments as inputs, as long as the trainable vector. They start at zero.
    pub fn moments<'g>(b: &'g Builder, trainable: Expr<'g>) -> State<'g> {
        let moment = |name| b.input(name, DType::F32, &trainable.known_dims());
        State { trainable, m: moment(Input::AdamM.name()), v: moment(Input::AdamV.name()) }
    }
}

impl Update {
    /// Writes one step: inputs `step`, `learning_rate` and the optional hyper-parameters; outputs `grad_norm`, `updated` and the next state.
    ///
    /// Loshchilov & Hutter, Decoupled Weight Decay Regularization, algorithm 2, with the order of operations of PyTorch's
    /// `torch.optim.AdamW`. A gradient or a result that is not finite changes nothing. Bias corrections and `1 - β` are computed in float64, as PyTorch does: in float32 `1 - 0.999` is off by
    /// 5e-5 of itself.
    pub fn write<'g>(&self, b: &'g Builder, state: State<'g>, gradient: Expr<'g>) {
        self.written(b, state, gradient, None);
    }

    /// The same; where the gradient is a part of one, `whole` is the norm of all of it, which is known then and no output.
    fn written<'g>(&self, b: &'g Builder, state: State<'g>, gradient: Expr<'g>, whole: Option<Expr<'g>>) {
        let number = b.input_named(Input::Step.name()).unwrap_or_else(|| b.input(Input::Step.name(), DType::I64, &[]));
        let step = number.cast(DType::F64);
        let learning_rate = b.input(Input::LearningRate.name(), DType::F32, &[]);
        let scalar = |name: &str, value: f64, dtype| match Tensor::from_f64(dtype, &[], &[value]) {
            Ok(default) => b.optional_input(name, default),
            Err(error) => {
                b.fail(error);
                b.unknown()
            }
        };
        let weight_decay = scalar(Input::WeightDecay.name(), self.adamw.weight_decay, DType::F32);
        let beta1 = scalar(Input::AdamBeta1.name(), self.adamw.beta1, DType::F64);
        let beta2 = scalar(Input::AdamBeta2.name(), self.adamw.beta2, DType::F64);
        let epsilon = scalar(Input::AdamEpsilon.name(), self.adamw.epsilon, DType::F32);
        let max_grad_norm = scalar(Input::MaxGradNorm.name(), self.adamw.max_grad_norm, DType::F32);

        b.scoped("adamw", || {
            let norm = whole.unwrap_or_else(|| gradient.square().sum_all().sqrt());
            let g = gradient * clip_factor(norm, max_grad_norm);
            let keep = |beta: Expr<'g>| (beta.cast(DType::F32), (1.0 - beta).cast(DType::F32));
            let (keep_m, take_m) = keep(beta1);
            let (keep_v, take_v) = keep(beta2);
            let m = state.m * keep_m + g * take_m;
            let v = state.v * keep_v + g.square() * take_v;
            let correction1 = (1.0 - beta1.pow(step)).cast(DType::F32);
            let correction2 = (1.0 - beta2.pow(step)).sqrt().cast(DType::F32);
            let decayed = Constraint::all_kept(&self.constraints, state.trainable) * (1.0 - learning_rate * weight_decay);
            let next = decayed - (learning_rate / correction1) * (m / (v.sqrt() / correction2 + epsilon));
            let kept = |input, before, next| Kept { input, before, next };
            let mut states = vec![kept(Input::AdamM, state.m, m), kept(Input::AdamV, state.v, v)];
            let mut next = next;
            if let Some(allocation) = &self.allocation {
                let made = allocation::Made { number, gradient: g, trainable: next };
                let allocated = allocation::write(b, allocation, made);
                next = allocated.trainable;
                states.extend(allocated.states);
            }
            states.insert(0, kept(Input::Trainable, state.trainable, next));
            if whole.is_none() {
                b.output(Output::GradNorm.name(), norm);
            }
            // Zero times a number is 0, times what is none it is NaN, and so is the sum; then the comparison is false, and the step leaves everything as
            // it was: who runs the graph may look at the loss later, and has lost nothing. The first moment is finite where gradient and state are.
            let nothing = norm * 0.0 + (next * 0.0).sum_all() + (v * 0.0).sum_all();
            let uncertainty = states.iter().filter(|kept| kept.input == Input::Uncertainty);
            let nothing = uncertainty.fold(nothing, |sum, kept| sum + (kept.next * 0.0).sum_all());
            let is_finite = nothing.less(nothing.same_type(1.0));
            b.output(Output::Updated.name(), is_finite.cast(DType::F32));
            for Kept { input, next, before } in states {
                b.output(&format!("{input}{NEXT}"), is_finite.where_(next, before));
            }
        });
    }
}

/// What the gradient is multiplied with so that its norm is `max` at most; 1 where `max` is 0.
///
/// `min(1, max / (norm + 1e-6))`: PyTorch's `clip_grad_norm_`.
fn clip_factor<'g>(norm: Expr<'g>, max: Expr<'g>) -> Expr<'g> {
    let one = norm.same_type(1.0);
    let on = max.greater(norm.same_type(0.0));
    on.where_((max / (norm + 1e-6)).min(one), one)
}

/// The graph that takes a finished gradient of `count` numbers and makes the step: what accumulation and data-parallel training end in.
///
/// Inputs `trainable`, `gradient`, `adam_m`, `adam_v`, `step`, `learning_rate` and the optional hyper-parameters; outputs `grad_norm`,
/// `updated` and the next state. Where ranks are allocated, their state goes around as well.
pub fn update_graph(update: &Update, count: usize) -> crate::Result<crate::ir::Graph> {
    let b = Builder::new(crate::ir::ModelInfo::dialect());
    let length = Dim::known(num::int(count));
    let vector = b.input(Input::Trainable.name(), DType::F32, std::slice::from_ref(&length));
    let gradient = b.input(Input::Gradient.name(), DType::F32, &[length]);
    let state = AdamW::moments(&b, vector);
    update.write(&b, state, gradient);
    b.finish()
}

/// The input of [`part_graph`] that has the norm of the whole gradient, float32 without axes.
pub const WHOLE_NORM: &str = "whole_grad_norm";

/// The update of a part of the vector, `count` numbers of it: what a process computes that keeps the moments of that part alone (`ZeRO` stage 1: Rajbhandari et al. 2020,
/// `ZeRO`: Memory Optimizations Toward Training Trillion Parameter Models, section 5.1).
///
/// Inputs and outputs are those of [`update_graph`], of the part, but that the norm of the whole gradient comes in as [`WHOLE_NORM`]. `updated` is 0 where
/// that norm or this part's result is not finite: whether the others made theirs has to be asked.
///
/// # Errors
/// None for a count above zero.
pub fn part_graph(count: usize) -> crate::Result<crate::ir::Graph> {
    let b = Builder::new(crate::ir::ModelInfo::dialect());
    let length = Dim::known(num::int(count));
    let vector = b.input(Input::Trainable.name(), DType::F32, std::slice::from_ref(&length));
    let gradient = b.input(Input::Gradient.name(), DType::F32, &[length]);
    let norm = b.input(WHOLE_NORM, DType::F32, &[]);
    let state = AdamW::moments(&b, vector);
    Update::default().written(&b, state, gradient, Some(norm));
    b.finish()
}
