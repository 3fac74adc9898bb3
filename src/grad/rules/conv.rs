//! Convolutions and pooling.

use super::again::with_attrs_of;
use super::index::add_at;
use crate::grad::Forward;
use crate::ir::{Attr, Expr};

/// Strides, dilations and pads of a convolution or pool, one (of pads: two) for each spatial axis.
struct Window {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
}

impl Window {
    /// The window of a node, unless its pads are left to the operator.
    fn of(f: &Forward<'_>, kernel: Vec<i64>) -> Option<Self> {
        let axes = kernel.len();
        let numbers = |name, default, count| f.ints(name).map_or_else(|| vec![default; count], <[i64]>::to_vec);
        let (strides, dilations) = (numbers("strides", 1, axes), numbers("dilations", 1, axes));
        let window = Self { kernel, strides, dilations, pads: numbers("pads", 0, 2 * axes) };
        match f.str("auto_pad", "NOTSET") {
            _ if f.int("ceil_mode", 0) != 0 => None,
            "NOTSET" => Some(window),
            "VALID" => Some(Self { pads: vec![0; 2 * axes], ..window }),
            same => window.with_same_lengths(f.x[0], same == "SAME_UPPER"),
        }
    }

    /// The same window with the pads that leave an axis of length `n` with `⌈n / stride⌉` places; the odd one behind, if `upper`.
    fn with_same_lengths(self, x: Expr<'_>, upper: bool) -> Option<Self> {
        let totals = (0..self.kernel.len()).map(|i| {
            let (length, stride) = (x.dims()?.get(i + 2)?.as_known()?, self.strides[i]);
            let places = length.checked_add(stride - 1)?.checked_div(stride)?;
            Some(((places - 1) * stride + (self.kernel[i] - 1) * self.dilations[i] + 1 - length).max(0))
        });
        let totals: Vec<i64> = totals.collect::<Option<_>>()?;
        let (less, more) = (totals.iter().map(|n| n / 2), totals.iter().map(|n| n - n / 2));
        let pads = if upper { less.chain(more).collect() } else { more.chain(less).collect() };
        Some(Self { pads, ..self })
    }

    /// The window of a convolution whose weight is input 1.
    fn of_weight(f: &Forward<'_>) -> Option<Self> {
        Self::of(f, f.x[1].fact().known_shape()?.get(2..)?.to_vec())
    }

    /// How many of the last elements of each spatial axis of `longer` the window does not reach, going over `shorter`.
    fn rest(&self, longer: Expr<'_>, shorter: Expr<'_>) -> Option<Vec<i64>> {
        let axes = self.kernel.len();
        let length = |x: Expr<'_>, i: usize| x.dims()?.get(i + 2)?.as_known();
        (0..axes)
            .map(|i| {
                let padded = length(longer, i)? + self.pads[i] + self.pads[i + axes];
                let reached = (length(shorter, i)? - 1) * self.strides[i] + (self.kernel[i] - 1) * self.dilations[i] + 1;
                Some(padded - reached)
            })
            .collect()
    }

    /// Strides of 1 leave nothing out, whatever the lengths.
    fn rest_of(&self, longer: Expr<'_>, shorter: Expr<'_>) -> Option<Vec<i64>> {
        if self.strides.iter().all(|&stride| stride == 1) { Some(vec![0; self.kernel.len()]) } else { self.rest(longer, shorter) }
    }

    fn attrs(&self, group: i64) -> Vec<(&'static str, Attr)> {
        vec![
            ("strides", Attr::Ints(self.strides.clone())),
            ("dilations", Attr::Ints(self.dilations.clone())),
            ("pads", Attr::Ints(self.pads.clone())),
            ("group", Attr::Int(group)),
        ]
    }
}

const UNKNOWN: &str = "with lengths that are known only when the graph runs";

const TOLD: &str = "with an output_shape, or pads that follow from it";

/// `dX`: the transposed convolution of `dY` with the same weight.
pub(super) fn conv_x<'g>(f: &Forward<'g>) -> Expr<'g> {
    let Some(window) = Window::of_weight(f) else { return f.refuse(UNKNOWN) };
    match window.rest_of(f.x[0], f.y) {
        Some(rest) => {
            let attrs = [window.attrs(f.int("group", 1)), vec![("output_padding", Attr::Ints(rest))]].concat();
            f.b().op("ConvTranspose", &[f.dy, f.x[1]], &attrs)
        }
        None => conv_x_of_any_length(f, &window),
    }
}

/// The same where only the run tells how many elements at the end the window does not reach: all that it reaches and fewer zeros than a stride, cut to the
/// length of `X`.
fn conv_x_of_any_length<'g>(f: &Forward<'g>, window: &Window) -> Expr<'g> {
    let count = window.kernel.len();
    let axes: Vec<i64> = (2..f.rank()).collect();
    let pads = window.pads[..count].iter().copied().chain(vec![0; count]).collect();
    let reached = Window { pads, kernel: window.kernel.clone(), strides: window.strides.clone(), dilations: window.dilations.clone() };
    let reached = f.b().op("ConvTranspose", &[f.dy, f.x[1]], &reached.attrs(f.int("group", 1)));
    let zeros: Vec<i64> = vec![0; count].into_iter().chain(window.strides.iter().map(|stride| stride - 1)).collect();
    let padded = reached.pad_at(f.b().ints(&zeros), &axes);
    padded.slice_at(f.b().ints(&vec![0; count]), f.x[0].shape_of_axes(&axes), &axes).reshape_like(f.x[0])
}

/// `dW`: the convolution of `X` with `dY`, batch and channels exchanged, strides and dilations exchanged.
pub(super) fn conv_w<'g>(f: &Forward<'g>) -> Expr<'g> {
    weight(f, f.x[0], f.dy)
}

/// `dX`: the convolution of `dY` with the same weight.
pub(super) fn conv_transpose_x<'g>(f: &Forward<'g>) -> Expr<'g> {
    match transposed_window(f) {
        Some(window) => f.b().op("Conv", &[f.dy, f.x[1]], &window.attrs(f.int("group", 1))),
        None => f.refuse(TOLD),
    }
}

/// `dW`: as for `Conv`, with `dY` in the place of `X` and `X` in the place of `dY`.
pub(super) fn conv_transpose_w<'g>(f: &Forward<'g>) -> Expr<'g> {
    match transposed_window(f) {
        Some(_) => weight(f, f.dy, f.x[0]),
        None => f.refuse(TOLD),
    }
}

/// `dB = Σ dY`, per channel.
pub(super) fn bias<'g>(f: &Forward<'g>) -> Expr<'g> {
    super::norm::bias(f)
}

fn transposed_window(f: &Forward<'_>) -> Option<Window> {
    let told = f.ints("output_shape").is_none() && !f.str("auto_pad", "NOTSET").starts_with("SAME");
    Window::of_weight(f).filter(|_| told)
}

fn weight<'g>(f: &Forward<'g>, long: Expr<'g>, short: Expr<'g>) -> Expr<'g> {
    if f.int("group", 1) != 1 {
        return f.refuse("with respect to the weight of a grouped convolution");
    }
    let Some(window) = Window::of_weight(f) else { return f.refuse(UNKNOWN) };
    let exchange: Vec<i64> = [1, 0].into_iter().chain(2..f.rank()).collect();
    let exchanged = Window { strides: window.dilations.clone(), dilations: window.strides.clone(), ..window };
    let product = f.b().op("Conv", &[long.transpose(&exchange), short.transpose(&exchange)], &exchanged.attrs(1));
    // Elements that the window never reached make the result longer than the kernel.
    let axes: Vec<i64> = (2..f.rank()).collect();
    product.slice(&vec![0; axes.len()], &exchanged.kernel, &axes).transpose(&exchange)
}

/// `dX = dY / n` at each of the `n` elements of a window, summed over windows.
pub(super) fn average_pool<'g>(f: &Forward<'g>) -> Expr<'g> {
    if f.int("ceil_mode", 0) != 0 {
        return f.refuse("ceil_mode = 1");
    }
    let window = Window::of(f, f.ints("kernel_shape").unwrap_or_default().to_vec());
    let rest = window.and_then(|w| Some((w.rest_of(f.x[0], f.y)?, w)));
    let Some((rest, window)) = rest else { return f.refuse(UNKNOWN) };
    let kernel = f.b().ints(&[vec![1, 1], window.kernel.clone()].concat()).filled(1.0, f.dy.dtype());
    let of_each = f.dy / counted(f, &window, kernel);
    let attrs = [window.attrs(1), vec![("output_padding", Attr::Ints(rest))]].concat();
    // Each channel by itself: channels count as samples.
    f.b().op("ConvTranspose", &[samples(f, of_each), kernel], &attrs).reshape_like(f.x[0])
}

/// How many elements go into each average: all of the window, or those that are not padding.
fn counted<'g>(f: &Forward<'g>, window: &Window, ones: Expr<'g>) -> Expr<'g> {
    if window.pads.iter().all(|&n| n == 0) || f.int("count_include_pad", 0) != 0 {
        let elements = window.kernel.iter().product::<i64>();
        return f.dy.same_type(f64::from(i32::try_from(elements).unwrap_or(i32::MAX)));
    }
    let axes: Vec<i64> = (2..f.rank()).collect();
    let image = f.b().ints(&[1, 1]).concat(&[f.x[0].shape_of_axes(&axes)], 0).filled(1.0, f.dy.dtype());
    f.b().op("Conv", &[image, ones], &window.attrs(1))
}

/// `[batch, channel, ..]` as `[batch * channel, 1, ..]`.
fn samples<'g>(f: &Forward<'g>, value: Expr<'g>) -> Expr<'g> {
    let axes: Vec<i64> = (2..f.rank()).collect();
    value.reshape_to(f.b().ints(&[-1, 1]).concat(&[value.shape_of_axes(&axes)], 0))
}

/// `dX = dY / n` at each of the `n` elements of a channel.
pub(super) fn global_average_pool<'g>(f: &Forward<'g>) -> Expr<'g> {
    (f.dy / super::reduce::count(f)).expand_like(f.x[0])
}

/// `dX = dY ⊙ sign(X) ⊙ (|X| / Y)ᵖ⁻¹` for `Y = (Σ |X|ᵖ)^(1/p)`, and 0 where `Y` is 0.
pub(super) fn global_lp_pool<'g>(f: &Forward<'g>) -> Expr<'g> {
    let Some(p) = i32::try_from(f.int("p", 2)).ok().filter(|&p| p > 0) else { return f.refuse("p below 1") };
    let (x, y) = (f.x[0], f.y);
    let share = x.abs() / y.equal(y.same_type(0.0)).where_(y.same_type(1.0), y);
    f.dy * x.sign() * share.pow(share.same_type(f64::from(p - 1)))
}

/// Adds each element of `dY` to the place its maximum was found at.
pub(super) fn max_pool<'g>(f: &Forward<'g>) -> Expr<'g> {
    if f.int("storage_order", 0) != 0 {
        return f.refuse("storage_order = 1");
    }
    let places = f.ys.get(1).unwrap_or_else(|| with_attrs_of(f, &[Some(f.x[0])], 2)[1]);
    add_at(f.x[0], places, f.dy)
}
