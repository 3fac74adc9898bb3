//! The table of gradient rules: one line for each operator, one function for each of its inputs.
//!
//! In a rule, `x` are the inputs, `y` is the output and `dy` its gradient. A rule never adds to a gradient, never casts, never names
//! nodes: [`engine`](super::engine) does so for all of them, and sums broadcast axes away; a rule does that itself only to compute on
//! with less. It is asked only for inputs whose gradient is needed, and may write the same nodes as its neighbour: equal nodes are
//! written once.

mod activation;
mod again;
mod attention;
mod conv;
mod einsum;
mod elementwise;
mod index;
mod layout;
mod linear;
mod norm;
mod quantized;
mod reduce;
mod resample;
mod spectrum;

use super::forward::Forward;
use crate::ir::Expr;
use activation::{celu, clip, elu, gelu, hard_sigmoid, hard_swish, leaky_relu, mish, selu, shrink, swish, thresholded_relu};
use attention::{attention_k, attention_mask, attention_past_k, attention_past_v, attention_q, attention_v, rotary};
use conv::{average_pool, conv_transpose_w, conv_transpose_x, conv_w, conv_x, global_average_pool, global_lp_pool, max_pool};
use einsum::einsum;
use elementwise::{extremum, pow_base, pow_exponent, share};
use index::{compress, gather, gather_elements, gather_nd, scatter_data, scatter_updates, slice, top_k};
use layout::{center_crop_pad, concat, cum_sum, depth_to_space, dropout, inverse, pad, reverse, split, tile, trilu};
use linear::{gemm_a, gemm_b, gemm_c, mat_mul_a, mat_mul_b};
use norm::{batch, group, instance, layer, lp_normalization, mean_variance, rms};
use reduce::{count, global_max_pool, kept, log_softmax, reduce_extremum, reduce_l2, reduce_prod, softmax};
use resample::resize;
use spectrum::dft;

/// The gradient of one input, from a forward node and the gradient of its output. Its shape is that of the input, or one that the
/// input was broadcast to.
pub type Vjp = for<'g> fn(&Forward<'g>) -> Expr<'g>;

/// How gradient passes through an operator.
#[derive(Debug)]
pub enum Rule {
    /// A function for each input, in the order of the inputs. Only the first output carries gradient.
    Inputs(&'static [Vjp]),
    /// The same for an operator of several outputs, of which any may carry gradient.
    Outputs(&'static [Vjp]),
    /// One function for all inputs of an operator that takes any number of them; it is told which.
    Each(for<'g> fn(&Forward<'g>, usize) -> Expr<'g>),
    /// Rounding, differentiated as the identity: from the first output to the first input, even where either is of an integer type.
    StraightThrough(Vjp),
    /// Nothing passes: truth values, places, lengths, and steps whose slope is zero.
    Stop,
}
use Rule::{Each, Inputs, Outputs, Stop, StraightThrough};

/// The rule of an operator.
pub(super) fn rule(op: &str) -> Option<&'static Rule> {
    RULES.iter().find(|(name, _)| *name == op).map(|(_, rule)| rule)
}

/// All operators that have a rule, sorted by what they are for.
pub fn rules() -> impl Iterator<Item = (&'static str, &'static Rule)> {
    RULES.iter().map(|(op, rule)| (*op, rule))
}

/// Stands for an input that carries no gradient because it is a truth value or a whole number.
const NEVER: Vjp = |f| f.refuse("with respect to an input that is not a number");

/// `√π / 2`: the slope of `erf` at zero is its reciprocal.
const HALF_SQRT_PI: f64 = 0.886_226_925_452_758;

#[rustfmt::skip]
static RULES: &[(&str, Rule)] = &[
    // Arithmetic.
    ("Identity",           Inputs(&[|f| f.dy])),
    ("Cast",               Inputs(&[|f| f.dy])),
    ("CastLike",           Inputs(&[|f| f.dy])),
    ("Neg",                Inputs(&[|f| -f.dy])),
    ("Add",                Inputs(&[|f| f.dy, |f| f.dy])),
    ("Sub",                Inputs(&[|f| f.dy, |f| -f.dy.sum_to(f.x[1])])),
    ("Mul",                Inputs(&[|f| f.dy * f.x[1], |f| f.dy * f.x[0]])),
    ("Div",                Inputs(&[|f| f.dy / f.x[1], |f| -(f.dy * f.y).sum_to(f.x[1]) / f.x[1]])),
    ("Mod",                Inputs(&[|f| f.dy, |f| -f.dy * ((f.x[0] - f.y) / f.x[1])])),
    ("Pow",                Inputs(&[pow_base, pow_exponent])),
    ("Sum",                Each(|f, _| f.dy)),
    ("Mean",               Each(share)),
    ("Max",                Each(extremum)),
    ("Min",                Each(extremum)),
    ("Where",              Inputs(&[NEVER, |f| f.x[0].where_(f.dy, f.dy.same_type(0.0)), |f| f.x[0].where_(f.dy.same_type(0.0), f.dy)])),

    // Functions of one number.
    ("Abs",                Inputs(&[|f| f.dy * f.x[0].sign()])),
    ("Sqrt",               Inputs(&[|f| f.dy * 0.5 / f.y])),
    ("Reciprocal",         Inputs(&[|f| -f.dy * f.y.square()])),
    ("Exp",                Inputs(&[|f| f.dy * f.y])),
    ("Log",                Inputs(&[|f| f.dy / f.x[0]])),
    ("Erf",                Inputs(&[|f| f.dy * ((-f.x[0].square()).exp() * (1.0 / HALF_SQRT_PI))])),
    ("Sin",                Inputs(&[|f| f.dy * f.x[0].cos()])),
    ("Cos",                Inputs(&[|f| -f.dy * f.x[0].sin()])),
    ("Tan",                Inputs(&[|f| f.dy * (1.0 + f.y.square())])),
    ("Asin",               Inputs(&[|f| f.dy / (1.0 - f.x[0].square()).sqrt()])),
    ("Acos",               Inputs(&[|f| -f.dy / (1.0 - f.x[0].square()).sqrt()])),
    ("Atan",               Inputs(&[|f| f.dy / (1.0 + f.x[0].square())])),
    ("Sinh",               Inputs(&[|f| f.dy * f.x[0].cosh()])),
    ("Cosh",               Inputs(&[|f| f.dy * f.x[0].sinh()])),
    ("Tanh",               Inputs(&[|f| f.dy * (1.0 - f.y.square())])),
    ("Asinh",              Inputs(&[|f| f.dy / (f.x[0].square() + 1.0).sqrt()])),
    ("Acosh",              Inputs(&[|f| f.dy / (f.x[0].square() - 1.0).sqrt()])),
    ("Atanh",              Inputs(&[|f| f.dy / (1.0 - f.x[0].square())])),

    // Activations.
    ("Sigmoid",            Inputs(&[|f| f.dy * (f.y * (1.0 - f.y))])),
    ("HardSigmoid",        Inputs(&[hard_sigmoid])),
    ("Relu",               Inputs(&[|f| f.dy * f.y.sign()])),
    ("LeakyRelu",          Inputs(&[leaky_relu])),
    ("ThresholdedRelu",    Inputs(&[thresholded_relu])),
    ("PRelu",              Inputs(&[|f| f.x[0].greater(f.x[0].same_type(0.0)).where_(f.dy, f.dy * f.x[1]),
                                    |f| f.dy * f.x[0].min(f.x[0].same_type(0.0))])),
    ("Elu",                Inputs(&[elu])),
    ("Selu",               Inputs(&[selu])),
    ("Celu",               Inputs(&[celu])),
    ("Softplus",           Inputs(&[|f| f.dy * f.x[0].sigmoid()])),
    ("Softsign",           Inputs(&[|f| f.dy * (1.0 - f.y.abs()).square()])),
    ("Mish",               Inputs(&[mish])),
    ("Swish",              Inputs(&[swish])),
    ("HardSwish",          Inputs(&[hard_swish])),
    ("Gelu",               Inputs(&[gelu])),
    ("Shrink",             Inputs(&[shrink])),
    ("Clip",               Inputs(&[clip, |f| f.x[0].less(f.x[1]).where_(f.dy, f.dy.same_type(0.0)),
                                          |f| f.x[0].greater(f.x[2]).where_(f.dy, f.dy.same_type(0.0))])),
    ("Dropout",            Inputs(&[dropout])),

    // Matrices and convolutions.
    ("MatMul",             Inputs(&[mat_mul_a, mat_mul_b])),
    ("Gemm",               Inputs(&[gemm_a, gemm_b, gemm_c])),
    ("Einsum",             Each(einsum)),
    ("Conv",               Inputs(&[conv_x, conv_w, conv::bias])),
    ("ConvTranspose",      Inputs(&[conv_transpose_x, conv_transpose_w, conv::bias])),
    ("AveragePool",        Inputs(&[average_pool])),
    ("GlobalAveragePool",  Inputs(&[global_average_pool])),
    ("MaxPool",            Inputs(&[max_pool])),
    ("GlobalLpPool",       Inputs(&[global_lp_pool])),
    ("GlobalMaxPool",      Inputs(&[global_max_pool])),
    ("Resize",             Inputs(&[resize])),
    ("DFT",                Inputs(&[dft])),

    // Attention.
    ("Attention",          Outputs(&[attention_q, attention_k, attention_v, attention_mask, attention_past_k, attention_past_v])),
    ("RotaryEmbedding",    Inputs(&[rotary])),

    // Sums and other reductions.
    ("ReduceSum",          Inputs(&[|f| kept(f, f.dy).expand_like(f.x[0])])),
    ("ReduceMean",         Inputs(&[|f| (kept(f, f.dy) / count(f)).expand_like(f.x[0])])),
    ("ReduceMax",          Inputs(&[reduce_extremum])),
    ("ReduceMin",          Inputs(&[reduce_extremum])),
    ("ReduceProd",         Inputs(&[reduce_prod])),
    ("ReduceL1",           Inputs(&[|f| kept(f, f.dy) * f.x[0].sign()])),
    ("ReduceL2",           Inputs(&[reduce_l2])),
    ("ReduceSumSquare",    Inputs(&[|f| kept(f, f.dy * 2.0) * f.x[0]])),
    ("ReduceLogSum",       Inputs(&[|f| kept(f, f.dy / f.y.exp()).expand_like(f.x[0])])),
    ("ReduceLogSumExp",    Inputs(&[|f| kept(f, f.dy) * (f.x[0] - kept(f, f.y)).exp()])),
    ("CumSum",             Inputs(&[cum_sum])),

    // Normalization.
    ("Softmax",                      Inputs(&[softmax])),
    ("LogSoftmax",                   Inputs(&[log_softmax])),
    ("LayerNormalization",           Inputs(&[layer::x, layer::scale, |f| f.dy])),
    ("RMSNormalization",             Inputs(&[rms::x, rms::scale])),
    ("SimplifiedLayerNormalization", Inputs(&[rms::x, rms::scale])),
    ("BatchNormalization",           Inputs(&[batch::x, batch::scale, batch::bias, batch::mean, batch::variance])),
    ("InstanceNormalization",        Inputs(&[instance::x, instance::scale, norm::bias])),
    ("GroupNormalization",           Inputs(&[group::x, group::scale, norm::bias])),
    ("LpNormalization",              Inputs(&[lp_normalization])),
    ("MeanVarianceNormalization",    Inputs(&[mean_variance])),

    // Layout.
    ("Reshape",            Inputs(&[|f| f.dy.reshape_like(f.x[0])])),
    ("Flatten",            Inputs(&[|f| f.dy.reshape_like(f.x[0])])),
    ("Squeeze",            Inputs(&[|f| f.dy.reshape_like(f.x[0])])),
    ("Unsqueeze",          Inputs(&[|f| f.dy.reshape_like(f.x[0])])),
    ("Transpose",          Inputs(&[|f| f.dy.transpose(&inverse(f))])),
    ("Expand",             Inputs(&[|f| f.dy])),
    ("Tile",               Inputs(&[tile])),
    ("Concat",             Each(concat)),
    ("Split",              Outputs(&[split])),
    ("Slice",              Inputs(&[slice])),
    ("Pad",                Inputs(&[pad])),
    ("CenterCropPad",      Inputs(&[center_crop_pad])),
    ("Trilu",              Inputs(&[trilu])),
    ("DepthToSpace",       Inputs(&[depth_to_space])),
    ("SpaceToDepth",       Inputs(&[depth_to_space])),
    ("ReverseSequence",    Inputs(&[reverse])),

    // Reading and writing by index.
    ("Gather",             Inputs(&[gather])),
    ("GatherElements",     Inputs(&[gather_elements])),
    ("GatherND",           Inputs(&[gather_nd])),
    ("Compress",           Inputs(&[compress])),
    ("ScatterElements",    Inputs(&[scatter_data, NEVER, scatter_updates])),
    ("ScatterND",          Inputs(&[scatter_data, NEVER, scatter_updates])),
    ("TopK",               Inputs(&[top_k])),

    // Rounding to small integers and back.
    ("QuantizeLinear",        StraightThrough(|f| f.dy / quantized::scale(f))),
    ("DequantizeLinear",      StraightThrough(|f| f.dy * quantized::scale(f))),
    ("DynamicQuantizeLinear", StraightThrough(|f| f.dy / f.ys[1])),

    // Nothing passes.
    ("And", Stop), ("Or", Stop), ("Xor", Stop), ("Not", Stop), ("Equal", Stop), ("Greater", Stop), ("GreaterOrEqual", Stop),
    ("Less", Stop), ("LessOrEqual", Stop), ("IsNaN", Stop), ("IsInf", Stop), ("ArgMax", Stop), ("ArgMin", Stop), ("NonZero", Stop),
    ("Shape", Stop), ("Size", Stop), ("Range", Stop), ("Constant", Stop), ("ConstantOfShape", Stop), ("EyeLike", Stop), ("OneHot", Stop),
    ("RandomNormalLike", Stop), ("RandomUniformLike", Stop), ("Bernoulli", Stop), ("Multinomial", Stop),
    ("Sign", Stop), ("Floor", Stop), ("Ceil", Stop), ("Round", Stop), ("Hardmax", Stop), ("NonMaxSuppression", Stop),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_stands_in_the_table_once() {
        let mut names: Vec<&str> = rules().map(|(op, _)| op).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
