//! Activations with the bias before them, and products with what is around them.

use super::{Fused, Outputs, known};
use crate::error::Refusal;
use crate::ir::{Attr, Expr};

/// `√(2/π)`
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
/// The cubic term of the approximation by `tanh` (Hendrycks and Gimpel, Gaussian Error Linear Units, section 2).
const CUBIC: f64 = 0.044_715;
/// The opset that came with `Gelu`.
const GELU_OPSET: i64 = 20;

/// The input with the bias that may be added first.
pub(super) fn biased<'g>(f: &Fused<'g>) -> Result<Expr<'g>, Refusal> {
    let x = f.x(0)?;
    Ok(f.given(1).map_or(x, |bias| x + bias))
}

/// `x/2 · (1 + erf(x/√2))`
pub(super) fn gelu(x: Expr<'_>) -> Expr<'_> {
    if x.b().model().opset() >= GELU_OPSET {
        return x.b().op("Gelu", &[x], &[]);
    }
    x * 0.5 * ((x * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0)
}

/// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`
pub(super) fn tanh_gelu(x: Expr<'_>) -> Expr<'_> {
    if x.b().model().opset() >= GELU_OPSET {
        return x.b().op("Gelu", &[x], &[("approximate", Attr::from("tanh"))]);
    }
    x * 0.5 * (((x + x * x * x * CUBIC) * SQRT_2_OVER_PI).tanh() + 1.0)
}

/// `x · sigmoid(α x)`
pub(super) fn quick_gelu(x: Expr<'_>, alpha: f64) -> Expr<'_> {
    x * scaled(x, alpha).sigmoid()
}

#[expect(clippy::float_cmp, reason = "exactly one is the attributes' default")]
fn scaled(x: Expr<'_>, alpha: f64) -> Expr<'_> {
    if alpha == 1.0 { x } else { x * alpha }
}

/// With `x + bias` in two halves `a`, `b` along the last axis: `a · gelu(b)`.
pub(super) fn split_gelu<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let x = f.x(0)? + f.x(1)?;
    let half = known(x, -1, "the length of the last axis")? / 2;
    let halves = x.split(&[half, half], -1);
    Ok(vec![Some(halves[0] * gelu(halves[1]))])
}

/// `α A' B'`, where `'` stands for the transposition that `transA` and `transB` ask for.
pub(super) fn fused_mat_mul<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    f.refuse_attrs(&["transBatchA", "transBatchB"])?;
    let operand = |input: usize, name: &str| {
        let x = f.x(input)?;
        let is_matrix = x.dims().is_none_or(|dims| dims.len() >= 2);
        Ok::<_, Refusal>(if f.int(name, 0) != 0 && is_matrix { x.t() } else { x })
    };
    let y = operand(0, "transA")?.matmul(operand(1, "transB")?);
    Ok(vec![Some(scaled(y, f.float("alpha", 1.0)))])
}

/// The activations that a product may have behind it, with their own attributes in the order of `activation_alpha`, `_beta`, `_gamma`.
const ACTIVATIONS: &[(&str, &[&str])] = &[
    ("Elu", &["alpha"]),
    ("HardSigmoid", &["alpha", "beta"]),
    ("LeakyRelu", &["alpha"]),
    ("Relu", &[]),
    ("Selu", &["alpha", "gamma"]),
    ("Sigmoid", &[]),
    ("Softplus", &[]),
    ("Tanh", &[]),
];

/// `Gemm` with an activation behind it.
pub(super) fn fused_gemm<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let name = f.node.str("activation").ok_or("its activation is not given")?;
    let &(op, own) = ACTIVATIONS.iter().find(|(op, _)| *op == name).ok_or_else(|| format!("with the activation {name}"))?;
    let inputs: Vec<Option<Expr<'g>>> = (0..f.node.inputs.len()).map(|input| f.given(input)).collect();
    let attrs = f.node.attrs.iter().filter(|(name, _)| !name.starts_with("activation"));
    let attrs: Vec<(&str, Attr)> = attrs.map(|(name, attr)| (&**name, attr.clone())).collect();
    let y = f.product("Gemm", &inputs, &attrs)?;
    let given = |name: &&'static str| f.node.attrs.get(format!("activation_{name}").as_str()).map(|attr| (*name, attr.clone()));
    Ok(vec![Some(f.b.op(op, &[y], &own.iter().filter_map(given).collect::<Vec<_>>()))])
}
