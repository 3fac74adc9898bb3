//! Mixtures of experts that choose inside: every expert is run on every token, and what it gives is weighed, with 0 where it was not chosen.
//!
//! Weights stand on the left of their products, as they are stored: the tokens are turned instead.

use super::quantized::{Packed, Packing};
use super::{Fused, Outputs, activation, known};
use crate::error::Refusal;
use crate::ir::{Attr, Expr};

/// One of the (up to three) layers of all experts.
#[derive(Clone, Copy)]
struct ExpertLayer<'g> {
    /// `[experts, out, in]`
    weight: Expr<'g>,
    /// `[experts, out]`
    bias: Option<Expr<'g>>,
}

impl<'g> ExpertLayer<'g> {
    /// `W x + b` for tokens in columns: `x` `[in, tokens]` or `[experts, in, tokens]`, the result `[experts, out, tokens]`.
    fn of(self, x: Expr<'g>) -> Expr<'g> {
        let y = self.weight.matmul(x);
        self.bias.map_or(y, |bias| y + bias.unsqueeze(&[2]))
    }
}

/// Inputs: `x` `[.., hidden]`, scores of the experts `[tokens, experts]`, weight and bias of layers 1, 2 and 3.
pub(super) fn plain<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let layer = |weight: usize| f.given(weight).map(|stored| ExpertLayer { weight: stored, bias: f.given(weight + 1) });
    let [first, second] = [2, 4].map(layer).map(|layer| layer.ok_or("a layer is missing"));
    mixed(f, first?, second?, layer(6), None)
}

/// The same with quantised weights. Inputs: `x`, scores, then weight, scales and bias of layers 1, 2 and 3, zero points of each, and
/// the numbers that weigh the experts if those are not the scores.
pub(super) fn quantized<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    f.refuse_inputs(&[15, 16, 17, 18, 19])?;
    if f.node.str("quant_type").is_some_and(|kind| kind != "int") {
        return Err("with numbers that are not integers".into());
    }
    if f.int("weights_prepacked", -1) > 0 {
        return Err("with weights in the order of one kernel".into());
    }
    let hidden = known(f.x(0)?, -1, "the number of hidden units")?;
    let [first, second] = [dequantised(f, 1, hidden)?, dequantised(f, 2, inner(f)?)?];
    let third = f.given(8).is_some().then(|| dequantised(f, 3, hidden)).transpose()?;
    mixed(f, first, second, third, f.given(14))
}

/// The numbers of an expert between its layers: the width of the second one's rows.
fn inner(f: &Fused<'_>) -> Result<i64, Refusal> {
    let bytes = known(f.x(5)?, 2, "the width of an expert's weight")?;
    (bytes * 8).checked_div(bits(f, 2)).ok_or_else(|| "with 0 bits".into())
}

fn bits(f: &Fused<'_>, layer: usize) -> i64 {
    f.int(&format!("fc{layer}_expert_weight_bits"), f.int("expert_weight_bits", 4))
}

/// ExpertLayer 1, 2 or 3, whose rows hold `columns` numbers each.
fn dequantised<'g>(f: &Fused<'g>, layer: usize, columns: i64) -> Result<ExpertLayer<'g>, Refusal> {
    let at = 3 * layer - 1;
    let values = f.x(at)?;
    let [experts, rows] = [known(values, 0, "the number of experts")?, known(values, 1, "the width of an expert")?];
    let block = f.int("block_size", 0);
    let packing = Packing::new(f, experts * rows, columns, if block > 0 { block } else { columns }, bits(f, layer))?;
    let weight = packing.weight(f, Packed { values, scales: f.x(at + 1)?, zeros: f.given(10 + layer) })?;
    let weight = weight.cast(f.x(0)?.dtype()).reshape(&[experts, rows, columns]);
    Ok(ExpertLayer { weight, bias: f.given(at + 2) })
}

fn mixed<'g>(
    f: &Fused<'g>,
    first: ExpertLayer<'g>,
    second: ExpertLayer<'g>,
    third: Option<ExpertLayer<'g>>,
    weighing: Option<Expr<'g>>,
) -> Result<Outputs<'g>, Refusal> {
    f.refuse_attrs(&["use_sparse_mixer", "swiglu_limit_after_activation"])?;
    let x = f.x(0)?;
    let hidden = known(x, -1, "the number of hidden units")?;
    let tokens = x.reshape(&[-1, hidden]).transpose(&[1, 0]);
    let inner = match f.node.str("activation_type").unwrap_or("relu") {
        "swiglu" => swiglu(f, first, third, tokens)?,
        _ if third.is_some() => return Err("with a third layer that nothing says the use of".into()),
        "relu" => relu(first.of(tokens)),
        "gelu" => activation::tanh_gelu(first.of(tokens)),
        "silu" => activation::quick_gelu(first.of(tokens), 1.0),
        "identity" => first.of(tokens),
        other => return Err(format!("with the activation {other}").into()),
    };
    let shares = shares(f, weighing)?.transpose(&[1, 0]).unsqueeze(&[1]);
    let y = (second.of(inner) * shares).sum_away(&[0]).transpose(&[1, 0]);
    Ok(vec![Some(y.reshape_like(x))])
}

fn relu(x: Expr<'_>) -> Expr<'_> {
    x.b().op("Relu", &[x], &[])
}

/// How much each expert has part in each token, `[tokens, experts]`: 0 for all but the `k` highest scores.
fn shares<'g>(f: &Fused<'g>, weighing: Option<Expr<'g>>) -> Result<Expr<'g>, Refusal> {
    let (scores, b) = (f.x(1)?, f.b);
    let highest = b.op_n("TopK", &[Some(scores.without_gradient()), Some(b.ints(&[f.int("k", 1)]))], &[("axis", Attr::Int(-1))], 2)[1];
    let ones = highest.cast(scores.dtype()).filled_like(1.0);
    let chosen = scores.zeros_like().scatter_elements_add(highest, ones, -1);
    let shares = weighing.unwrap_or_else(|| scores.softmax(-1)) * chosen;
    Ok(if f.int("normalize_routing_weights", 0) == 0 { shares } else { shares / shares.sum(&[-1]) })
}

/// `G · sigmoid(α G) · (L + β)`, the gate `G` and the linear part `L` kept below a limit: two layers, or one whose rows are both.
fn swiglu<'g>(f: &Fused<'g>, first: ExpertLayer<'g>, third: Option<ExpertLayer<'g>>, tokens: Expr<'g>) -> Result<Expr<'g>, Refusal> {
    let y = first.of(tokens);
    let rows = known(y, 1, "the width of an expert")?;
    let (gate, linear) = match (f.int("swiglu_fusion", 0), third) {
        (0, Some(third)) => (y, third.of(tokens)),
        (1, None) => {
            let experts = known(y, 0, "the number of experts")?;
            let pairs = y.reshape(&[experts, rows / 2, 2, -1]);
            (pairs.gather(f.b.int(0), 2), pairs.gather(f.b.int(1), 2))
        }
        (2, None) => {
            let halves = y.split(&[rows / 2, rows / 2], 1);
            (halves[0], halves[1])
        }
        _ => return Err("with a gate in none of its three places".into()),
    };
    let (gate, linear) = match f.node.attrs.get("swiglu_limit") {
        Some(Attr::Float(limit)) => {
            let [low, high] = [-f64::from(*limit), f64::from(*limit)].map(|limit| gate.same_type(limit));
            (gate.min(high), linear.max(low).min(high))
        }
        _ => (gate, linear),
    };
    Ok(activation::quick_gelu(gate, f.float("activation_alpha", 1.0)) * (linear + f.float("activation_beta", 0.0)))
}
