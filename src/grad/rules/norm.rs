//! Normalizations. `G` is `dY ⊙ scale` throughout, `X̂` the input less its mean and over its standard deviation.

use crate::grad::Forward;
use crate::ir::{DType, Expr};

/// The type that a normalization computes in: half precision is upcast, as the operators do themselves (`stash_type`).
fn wide(x: Expr<'_>) -> Expr<'_> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}

/// `dX = (G - mean G - X̂ ⊙ mean(G ⊙ X̂)) / σ`
fn centred_x<'g>(g: Expr<'g>, normal: &Normal<'g>) -> Expr<'g> {
    let (x_hat, axes) = (normal.x_hat, &normal.axes);
    (g - g.mean(axes) - x_hat * (g * x_hat).mean(axes)) * normal.inverse_deviation
}

/// A normalized input.
struct Normal<'g> {
    x_hat: Expr<'g>,
    inverse_deviation: Expr<'g>,
    axes: Vec<i64>,
}

/// `X̂` along `axes`, from its definition.
fn normal<'g>(f: &Forward<'g>, x: Expr<'g>, axes: Vec<i64>) -> Normal<'g> {
    let centred = x - x.mean(&axes);
    let inverse_deviation = 1.0 / (centred.square().mean(&axes) + f.float("epsilon", 1e-5)).sqrt();
    Normal { x_hat: centred * inverse_deviation, inverse_deviation, axes }
}

/// A value per channel, shaped to broadcast against `[batch, channel, ..]`.
fn per_channel<'g>(f: &Forward<'g>, value: Expr<'g>) -> Expr<'g> {
    let ones = usize::try_from(f.rank() - 2).unwrap_or(0);
    value.reshape(&[vec![-1], vec![1; ones]].concat())
}

/// Sums everything but the channels of `[batch, channel, ..]`.
fn sum_per_channel<'g>(f: &Forward<'g>, value: Expr<'g>) -> Expr<'g> {
    let axes: Vec<i64> = (0..f.rank()).filter(|&axis| axis != 1).collect();
    value.sum_away(&axes)
}

/// `dbias = Σ dY`, per channel.
pub(super) fn bias<'g>(f: &Forward<'g>) -> Expr<'g> {
    sum_per_channel(f, f.dy)
}

/// LayerNormalization-17: normalized over `axis` and all axes after it.
pub(super) mod layer {
    use super::{Expr, Forward, Normal, centred_x, wide};
    use crate::ir::Attr;

    /// `X̂` by the operator itself: one kernel, which also gives `1/σ`. With it the rule takes 31 ms, from the definition 53 ms
    /// (`[2048, 1024]`, ONNX Runtime 1.32, one processor).
    fn normal<'g>(f: &Forward<'g>) -> Normal<'g> {
        let attrs = [("axis", Attr::Int(f.int("axis", -1))), ("epsilon", Attr::Float(f.node().float("epsilon", 1e-5)))];
        let outputs = f.b().op_n("LayerNormalization", &[Some(f.x[0]), Some(f.x[1].filled_like(1.0))], &attrs, 3);
        let inverse_deviation = outputs[2].cast(wide(f.x[0]).dtype());
        Normal { x_hat: wide(outputs[0]), inverse_deviation, axes: (f.axis(-1)..f.rank()).collect() }
    }

    /// `dX = (G - mean G - X̂ ⊙ mean(G ⊙ X̂)) / σ`
    pub(in super::super) fn x<'g>(f: &Forward<'g>) -> Expr<'g> {
        centred_x(wide(f.dy * f.x[1]), &normal(f))
    }

    /// `dscale = dY ⊙ X̂`
    pub(in super::super) fn scale<'g>(f: &Forward<'g>) -> Expr<'g> {
        wide(f.dy) * normal(f).x_hat
    }
}

/// RMSNormalization-23, and SimplifiedLayerNormalization as ONNX Runtime calls it: `Y = X r ⊙ scale` with `r = 1 / √(mean X² + ε)`.
pub(super) mod rms {
    use super::{Expr, Forward, wide};

    fn inverse_root<'g>(f: &Forward<'g>, x: Expr<'g>, axes: &[i64]) -> Expr<'g> {
        1.0 / (x.square().mean(axes) + f.float("epsilon", 1e-5)).sqrt()
    }

    /// `dX = r G - X ⊙ r³ mean(G ⊙ X)`
    pub(in super::super) fn x<'g>(f: &Forward<'g>) -> Expr<'g> {
        let (x, g) = (wide(f.x[0]), wide(f.dy * f.x[1]));
        let axes: Vec<i64> = (f.axis(-1)..f.rank()).collect();
        let r = inverse_root(f, x, &axes);
        g * r - x * (r * r.square() * (g * x).mean(&axes))
    }

    /// `dscale = dY ⊙ X r`
    pub(in super::super) fn scale<'g>(f: &Forward<'g>) -> Expr<'g> {
        let x = wide(f.x[0]);
        let axes: Vec<i64> = (f.axis(-1)..f.rank()).collect();
        wide(f.dy) * (x * inverse_root(f, x, &axes))
    }
}

/// BatchNormalization-15 with the statistics it was given: `Y = (X - mean) / √(variance + ε) ⊙ scale + bias`, per channel.
pub(super) mod batch {
    use super::{Expr, Forward, per_channel, sum_per_channel};

    fn inverse_deviation<'g>(f: &Forward<'g>) -> Expr<'g> {
        if f.int("training_mode", 0) != 0 {
            return f.refuse("training_mode = 1");
        }
        1.0 / (f.x[4] + f.float("epsilon", 1e-5)).sqrt()
    }

    /// `dX = dY ⊙ scale / σ`
    pub(in super::super) fn x<'g>(f: &Forward<'g>) -> Expr<'g> {
        f.dy * per_channel(f, f.x[1] * inverse_deviation(f))
    }

    /// `dscale = Σ dY ⊙ (X - mean) / σ`
    pub(in super::super) fn scale<'g>(f: &Forward<'g>) -> Expr<'g> {
        sum_per_channel(f, f.dy * (f.x[0] - per_channel(f, f.x[3]))) * inverse_deviation(f)
    }

    /// `dbias = Σ dY`
    pub(in super::super) fn bias<'g>(f: &Forward<'g>) -> Expr<'g> {
        super::bias(f)
    }

    /// `dmean = -Σ dX`
    pub(in super::super) fn mean<'g>(f: &Forward<'g>) -> Expr<'g> {
        -sum_per_channel(f, x(f))
    }

    /// `dvariance = -½ dscale ⊙ scale / σ²`
    pub(in super::super) fn variance<'g>(f: &Forward<'g>) -> Expr<'g> {
        scale(f) * f.x[1] * inverse_deviation(f).square() * -0.5
    }
}

/// InstanceNormalization-6: each channel of each sample by itself, scaled per channel.
pub(super) mod instance {
    use super::{Expr, Forward, Normal, centred_x, per_channel, sum_per_channel};

    fn normal<'g>(f: &Forward<'g>) -> Normal<'g> {
        super::normal(f, f.x[0], (2..f.rank()).collect())
    }

    /// `dX = (G - mean G - X̂ ⊙ mean(G ⊙ X̂)) / σ`
    pub(in super::super) fn x<'g>(f: &Forward<'g>) -> Expr<'g> {
        centred_x(f.dy * per_channel(f, f.x[1]), &normal(f))
    }

    /// `dscale = Σ dY ⊙ X̂`
    pub(in super::super) fn scale<'g>(f: &Forward<'g>) -> Expr<'g> {
        sum_per_channel(f, f.dy * normal(f).x_hat)
    }
}

/// GroupNormalization-21: `num_groups` groups of channels of each sample, scaled per channel.
pub(super) mod group {
    use super::{Expr, Forward, Normal, centred_x, per_channel, sum_per_channel};

    /// `[batch, channel, ..]` as `[batch, group, rest]`.
    fn grouped<'g>(f: &Forward<'g>, value: Expr<'g>) -> Expr<'g> {
        value.reshape(&[0, f.int("num_groups", 1), -1])
    }

    fn normal<'g>(f: &Forward<'g>) -> Normal<'g> {
        super::normal(f, grouped(f, f.x[0]), vec![2])
    }

    /// `dX = (G - mean G - X̂ ⊙ mean(G ⊙ X̂)) / σ`, the means over groups.
    pub(in super::super) fn x<'g>(f: &Forward<'g>) -> Expr<'g> {
        centred_x(grouped(f, f.dy * per_channel(f, f.x[1])), &normal(f)).reshape_like(f.x[0])
    }

    /// `dscale = Σ dY ⊙ X̂`
    pub(in super::super) fn scale<'g>(f: &Forward<'g>) -> Expr<'g> {
        sum_per_channel(f, f.dy * normal(f).x_hat.reshape_like(f.x[0]))
    }
}

/// LpNormalization-22: `Y = X / n` with the norm `n` along `axis`: `dX = (dY - Y' Σ dY ⊙ Y) / n`, where `Y'` is `Y` for `p` = 2, the sign of
/// `X` for `p` = 1; and 0 where the norm is 0.
pub(super) fn lp_normalization<'g>(f: &Forward<'g>) -> Expr<'g> {
    let (x, axes) = (f.x[0], [f.int("axis", -1)]);
    let (norm, slope) = match f.int("p", 2) {
        1 => (x.abs().sum(&axes), x.sign()),
        _ => (x.square().sum(&axes).sqrt(), f.y),
    };
    let zero = x.same_type(0.0);
    norm.equal(zero).where_(zero, (f.dy - slope * (f.dy * f.y).sum(&axes)) / norm)
}

/// MeanVarianceNormalization-13: `dX = (dY - mean dY - Y ⊙ mean(dY ⊙ Y)) / σ`, the means along `axes`.
pub(super) fn mean_variance<'g>(f: &Forward<'g>) -> Expr<'g> {
    // What the operator's page adds to the deviation.
    const EPSILON: f64 = 1e-9;
    let axes = f.ints("axes").unwrap_or(&[0, 2, 3]).to_vec();
    let deviation = (f.x[0] - f.x[0].mean(&axes)).square().mean(&axes).sqrt();
    centred_x(f.dy, &Normal { x_hat: f.y, inverse_deviation: 1.0 / (deviation + EPSILON), axes })
}
