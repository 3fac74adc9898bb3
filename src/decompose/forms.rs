//! The table: operator and what it is written as. Inputs and attributes are those of ONNX Runtime's page on contrib operators
//! (`docs/ContribOperators.md`), and ONNX's own pages for operators without a domain.

use super::{Fused, Outputs};
use super::{activation, attention, bits4, class_losses, experts, grouped, norm, packed, quantized, resample, rotary};
use crate::error::Refusal;

/// Writes a fused node out. The error is why it cannot.
pub(super) type Decomposition = for<'g> fn(&Fused<'g>) -> Result<Outputs<'g>, Refusal>;

/// Attention, and what stands around it: where virtual tokens are put.
#[rustfmt::skip]
pub(super) static ATTENTION: &[(&str, Decomposition)] = &[
    ("com.microsoft:EmbedLayerNormalization", norm::embeddings),
    ("com.microsoft:RotaryEmbedding",    rotary::embedding),
    ("com.microsoft:Attention",          packed::attention),
    ("com.microsoft:QAttention",         packed::quantized_attention),
    ("com.microsoft:MultiHeadAttention", attention::multi_head),
    ("com.microsoft:GroupQueryAttention", grouped::attention),
    ("com.microsoft:FusedMatMul",        activation::fused_mat_mul),
    ("com.microsoft:TransposeMatMul",    activation::fused_mat_mul),
];

/// Everything else.
#[rustfmt::skip]
pub(super) static ELSEWHERE: &[(&str, Decomposition)] = &[
    // Norms.
    ("com.microsoft:SkipLayerNormalization",           norm::skip_layer),
    ("com.microsoft:SkipSimplifiedLayerNormalization", norm::skip_rms),
    ("com.microsoft:SimplifiedLayerNormalization",     norm::rms),

    // Activations.
    ("com.microsoft:Gelu",               |f| Ok(vec![Some(activation::gelu(f.x(0)?))])),
    ("com.microsoft:BiasGelu",           |f| Ok(vec![Some(activation::gelu(f.x(0)? + f.x(1)?))])),
    ("com.microsoft:FastGelu",           |f| Ok(vec![Some(activation::tanh_gelu(activation::biased(f)?))])),
    ("com.microsoft:QuickGelu",          |f| Ok(vec![Some(activation::quick_gelu(f.x(0)?, f.float("alpha", 1.702)))])),
    ("com.microsoft:BiasSplitGelu",      activation::split_gelu),
    ("com.microsoft:BiasAdd",            |f| Ok(vec![Some(f.x(0)? + f.x(1)? + f.x(2)?)])),
    ("com.microsoft:FusedGemm",          activation::fused_gemm),

    // Losses of classes, in losses that are graphs.
    ("SoftmaxCrossEntropyLoss",          class_losses::softmax_cross_entropy),
    ("NegativeLogLikelihoodLoss",        class_losses::negative_log_likelihood),

    // Experts.
    ("com.microsoft:MoE",                experts::plain),
    ("com.microsoft:QMoE",               experts::quantized),

    // Quantised products.
    ("com.microsoft:MatMulNBits",            quantized::blocks),
    ("com.microsoft:MatMulBnb4",             bits4::product),
    ("com.microsoft:DynamicQuantizeMatMul",  quantized::dynamic),
    ("com.microsoft:MatMulIntegerToFloat",   quantized::integer_to_float),
    ("QLinearMatMul",                        quantized::linear),
];

/// Projections made visible, attention left as one operator.
#[rustfmt::skip]
pub(super) static SEPARATE: &[(&str, Decomposition)] = &[
    ("com.microsoft:Attention",          packed::separate_attention),
    ("com.microsoft:GroupQueryAttention", grouped::separate),
    ("Resize",                           resample::cubic),
];
