//! Operators that slide windows over images: convolutions, pools; and those that resample.

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, MAX_RANK, Shape};
use super::question::{List, axes_at, number};
use super::{Answer, Question, Rule};
use crate::error::Refusal;

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("AffineGrid", affine_grid),
    ("AveragePool", pool),
    ("Col2Im", col2im),
    ("Conv", conv),
    ("ConvInteger", conv_integer),
    ("ConvTranspose", conv_transpose),
    ("DeformConv", conv),
    ("GlobalAveragePool", global_pool),
    ("GlobalLpPool", global_pool),
    ("GlobalMaxPool", global_pool),
    ("GridSample", grid_sample),
    ("ImageDecoder", image_decoder),
    ("LpPool", pool),
    ("MaxPool", pool),
    ("MaxRoiPool", roi_pool),
    ("MaxUnpool", max_unpool),
    ("QLinearConv", qlinear_conv),
    ("Resize", resize),
    ("RoiAlign", roi_pool),
    ("Upsample", resize),
    ("com.microsoft:FusedConv", conv),
    ("com.microsoft:QLinearAveragePool", qlinear_pool),
    ("com.microsoft:QLinearGlobalAveragePool", qlinear_pool),
];

/// The window of one spatial axis.
struct Window {
    kernel: Dim,
    stride: i64,
    dilation: i64,
    /// Before and after together; `None` for as many as keep the length (divided by the stride).
    pads: Option<Dim>,
}

/// The windows of all spatial axes.
fn windows(q: &Question<'_>, kernel: &[Dim]) -> Vec<Window> {
    let rank = kernel.len();
    let nth = |name: &str, i: usize, default: i64| q.ints(name).and_then(|all| all.get(i).copied()).unwrap_or(default);
    let pads = |i: usize| match q.str("auto_pad") {
        Some("SAME_UPPER" | "SAME_LOWER") => None,
        Some("VALID") => Some(Dim::known(0)),
        _ => Some(&Dim::known(nth("pads", i, 0)) + &Dim::known(nth("pads", i + rank, 0))),
    };
    kernel
        .iter()
        .enumerate()
        .map(|(i, kernel)| Window { kernel: kernel.clone(), stride: nth("strides", i, 1), dilation: nth("dilations", i, 1), pads: pads(i) })
        .collect()
}

impl Window {
    /// How far from its first to behind its last element.
    fn span(&self) -> Dim {
        &(&(&self.kernel - &Dim::known(1)) * &Dim::known(self.dilation)) + &Dim::known(1)
    }

    /// The number of places for the window.
    fn places(&self, length: &Dim) -> Dim {
        let stride = Dim::known(self.stride);
        match &self.pads {
            None => (length + &(&stride - &Dim::known(1))).floor_div(&stride),
            Some(pads) => &(&(length + pads) - &self.span()).floor_div(&stride) + &Dim::known(1),
        }
    }

    /// The length that a transposed convolution gives an axis.
    fn spread(&self, length: &Dim, extra: i64) -> Dim {
        let stride = Dim::known(self.stride);
        match &self.pads {
            None => length * &stride,
            Some(pads) => &(&(&(&(length - &Dim::known(1)) * &stride) + &self.span()) + &Dim::known(extra)) - pads,
        }
    }
}

/// The input's shape, by parts.
struct Image<'a> {
    batch: &'a Dim,
    channels: &'a Dim,
    spatial: &'a [Dim],
}

fn image<'a>(q: &'a Question<'_>) -> Result<Option<Image<'a>>, Refusal> {
    match q.shape(0).map(Vec::as_slice) {
        Some([batch, channels, spatial @ ..]) => Ok(Some(Image { batch, channels, spatial })),
        Some(dims) => Err(format!("rank of the input: expected at least 2, found {} ({dims:?})", dims.len()).into()),
        None => Ok(None),
    }
}

fn convolved(q: &Question<'_>, weight: usize) -> Result<Option<Shape>, Refusal> {
    let (Some(Image { batch, spatial, .. }), Some(dims)) = (image(q)?, q.shape(weight)) else {
        return Ok(q.rank(0).map(|rank| q.fresh_shape(0, rank)));
    };
    if dims.len() != spatial.len() + 2 {
        return Err(format!("rank of the weight: expected {}, found {} ({dims:?})", spatial.len() + 2, dims.len()).into());
    }
    let windows = windows(q, &dims[2..]);
    let places = windows.iter().zip(spatial).map(|(window, length)| window.places(length));
    Ok(Some([batch.clone(), dims[0].clone()].into_iter().chain(places).collect()))
}

fn conv(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(q.dtype(0), convolved(q, 1)?)])
}

/// Whole numbers of 8 bits; sums of 32.
fn conv_integer(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(Some(DType::I32), convolved(q, 1)?)])
}

/// Scales and zero points stand between the operands; the result has the type of the last zero point.
fn qlinear_conv(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(q.dtype(7), convolved(q, 3)?)])
}

fn conv_transpose(q: &Question<'_>) -> Answer {
    let (Some(Image { batch, spatial, .. }), Some(dims)) = (image(q)?, q.shape(1)) else {
        return Ok(vec![Fact::partial(q.dtype(0), q.rank(0).map(|rank| q.fresh_shape(0, rank)))]);
    };
    if dims.len() != spatial.len() + 2 {
        return Err(format!("rank of the weight: expected {}, found {} ({dims:?})", spatial.len() + 2, dims.len()).into());
    }
    let channels = &dims[1] * &Dim::known(q.int("group", 1));
    let told = q.ints("output_shape").unwrap_or_default();
    let extra = |i: usize| q.ints("output_padding").and_then(|all| all.get(i).copied()).unwrap_or(0);
    let windows = windows(q, &dims[2..]);
    let lengths = windows.iter().zip(spatial).enumerate().map(|(i, (window, length))| match told.get(i) {
        Some(&told) => Dim::known(told),
        None => window.spread(length, extra(i)),
    });
    Ok(vec![Fact::partial(q.dtype(0), Some([batch.clone(), channels].into_iter().chain(lengths).collect()))])
}

/// Pools; the second output of `MaxPool` has the places of the largest elements.
fn pool(q: &Question<'_>) -> Answer {
    let kernel: Vec<Dim> = q.ints("kernel_shape").unwrap_or_default().iter().copied().map(Dim::known).collect();
    let Some(Image { batch, channels, spatial }) = image(q)? else {
        let shape = (kernel.len() < MAX_RANK).then(|| q.fresh_shape(0, kernel.len() + 2));
        return Ok(vec![Fact::partial(q.dtype(0), shape.clone()), Fact::partial(Some(DType::I64), shape)]);
    };
    if kernel.len() != spatial.len() {
        return Err(format!("kernel_shape: expected {} lengths, found {}", spatial.len(), kernel.len()).into());
    }
    let upwards = q.int("ceil_mode", 0) != 0;
    let mut shape = vec![batch.clone(), channels.clone()];
    for (i, (window, length)) in windows(q, &kernel).iter().zip(spatial).enumerate() {
        // Whether a last window that starts in the padding counts differs from version to version.
        let whole =
            window.pads.as_ref().is_some_and(|pads| (&(length + pads) - &window.span()).exact_div(&Dim::known(window.stride)).is_some());
        shape.push(if !upwards || whole { window.places(length) } else { q.fresh(0, i + 2) });
    }
    Ok(vec![Fact::partial(q.dtype(0), Some(shape.clone())), Fact::new(DType::I64, shape)])
}

fn global_pool(q: &Question<'_>) -> Answer {
    let shape = image(q)?.map(|Image { batch, channels, spatial }| {
        [batch.clone(), channels.clone()].into_iter().chain(spatial.iter().map(|_| Dim::known(1))).collect()
    });
    Ok(vec![Fact::partial(q.dtype(0), shape)])
}

/// Channels may stand last.
fn qlinear_pool(q: &Question<'_>) -> Answer {
    match (q.int("channels_last", 0), q.op) {
        (0, "com.microsoft:QLinearGlobalAveragePool") => global_pool(q),
        (0, _) => pool(q),
        _ => Ok(vec![Fact::partial(q.dtype(0), q.rank(0).map(|rank| q.fresh_shape(0, rank)))]),
    }
}

/// `[regions, channels, height, width]`
fn roi_pool(q: &Question<'_>) -> Answer {
    let regions = q.dim(1, 0).unwrap_or_else(|| q.fresh(0, 0));
    let channels = q.dim(0, 1).unwrap_or_else(|| q.fresh(0, 1));
    let (height, width) = match q.ints("pooled_shape") {
        Some(&[height, width]) => (height, width),
        _ => (q.int("output_height", 1), q.int("output_width", 1)),
    };
    Ok(vec![Fact::partial(q.dtype(0), Some(vec![regions, channels, Dim::known(height), Dim::known(width)]))])
}

/// The spatial lengths may be an input; else they follow from windows, not exactly.
fn max_unpool(q: &Question<'_>) -> Answer {
    let told: Option<Shape> = q.contents(2).filter(|all| all.iter().all(Dim::is_length)).map(<[Dim]>::to_vec);
    Ok(vec![Fact::partial(q.dtype(0), told.or_else(|| q.rank(0).map(|rank| q.fresh_shape(0, rank))))])
}

/// `[n, channels, ..]` of an image of `[n, channels, ..]` and places of `[n, .., axes]`.
fn grid_sample(q: &Question<'_>) -> Answer {
    let shape = match (q.shape(0).map(Vec::as_slice), q.shape(1).map(Vec::as_slice)) {
        (Some([batch, channels, ..]), Some([_, places @ .., _])) => Some([&[batch.clone(), channels.clone()], places].concat()),
        _ => q.rank(0).or(q.rank(1)).map(|rank| q.fresh_shape(0, rank)),
    };
    Ok(vec![Fact::partial(q.dtype(0), shape)])
}

/// `[n, .., axes]` for a size of `[n, channels, ..]`.
fn affine_grid(q: &Question<'_>) -> Answer {
    let told = |size: &[Dim]| (size.len() > 2 && size.iter().all(Dim::is_length)).then(|| [&size[..1], &size[2..]].concat());
    let shape = match (q.contents(1).and_then(told), q.rank_told_by(1)) {
        (Some(lead), _) => Some([lead.as_slice(), &[Dim::known(number(lead.len()) - 1)]].concat()),
        (None, Some(count)) => Some(q.fresh_shape(0, count)),
        (None, None) => None,
    };
    Ok(vec![Fact::partial(q.dtype(0), shape)])
}

/// `[n, channels * block, blocks]` to `[n, channels, ..image]`.
fn col2im(q: &Question<'_>) -> Answer {
    let batch = q.dim(0, 0).unwrap_or_else(|| q.fresh(0, 0));
    let block = q.contents(2).map(Dim::product);
    let channels = q.dim(0, 1).zip(block).map_or_else(|| q.fresh(0, 1), |(all, block)| all.floor_div(&block));
    let image = match (q.contents(1), q.rank_told_by(1)) {
        (Some(image), _) if image.iter().all(Dim::is_length) => Some(image.to_vec()),
        (_, count) => count.map(|count| (2..count + 2).map(|axis| q.fresh(0, axis)).collect()),
    };
    Ok(vec![Fact::partial(q.dtype(0), image.map(|image| [vec![batch, channels], image].concat()))])
}

/// `[height, width, channels]`
fn image_decoder(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::new(DType::U8, q.fresh_shape(0, 3))])
}

/// `Resize` and `Upsample`: sizes, or scales that multiply lengths; `Resize` has them as inputs 3 and 2 (scales as 1 in opset 10).
fn resize(q: &Question<'_>) -> Answer {
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(q.dtype(0), None)]);
    };
    let axes = match q.list("axes", usize::MAX) {
        List::Known(axes) => axes_at(&axes, dims.len())?,
        _ => (0..dims.len()).collect(),
    };
    let exact = matches!(q.str("keep_aspect_ratio_policy"), None | Some("stretch"));
    let sizes = q.contents(3).filter(|sizes| exact && q.op == "Resize" && sizes.len() == axes.len());
    let scales = scales(q).filter(|scales| scales.len() == axes.len());
    let mut shape = dims.clone();
    for (i, &axis) in axes.iter().enumerate() {
        let length = match (sizes, &scales) {
            (Some(sizes), _) => Some(sizes[i].clone()).filter(Dim::is_length),
            (None, Some(scales)) => whole_number(scales[i]).map(|scale| &dims[axis] * &Dim::known(scale)),
            _ => None,
        };
        shape[axis] = length.unwrap_or_else(|| q.fresh(0, axis));
    }
    Ok(vec![Fact::partial(q.dtype(0), Some(shape))])
}

fn scales(q: &Question<'_>) -> Option<Vec<f32>> {
    if let Some(crate::ir::graph::attr::Attr::Floats(scales)) = q.attrs.get("scales") {
        return Some(scales.clone());
    }
    let input = if q.op == "Resize" && q.opset >= 11 { 2 } else { 1 };
    let scales = q.tensor(input).filter(|scales| scales.len() <= MAX_RANK)?;
    scales.to_f32().filter(|scales| !scales.is_empty())
}

/// Only whole scales are followed: with others, rounding decides.
fn whole_number(scale: f32) -> Option<i64> {
    (1..=64_i16).find(|&n| f32::from(n).to_bits() == scale.to_bits()).map(i64::from)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{row, row_at};
    use crate::ir::Attr;

    #[test]
    fn convolutions() {
        let patches = [("strides", Attr::Ints(vec![16, 16])), ("kernel_shape", Attr::Ints(vec![16, 16]))];
        row("Conv", &["float[n, 3, 224, 224]", "float[64, 3, 16, 16]", "float[64]"], &patches, "float[n, 64, 14, 14]");
        row("Conv", &["float[n, 3, 16*h, w]", "float[64, 3, 16, 16]"], &patches, "float[n, 64, h, floordiv(w - 16, 16) + 1]");
        row("Conv", &["float[n, 3, s]", "float[8, 3, 3]"], &[("pads", Attr::Ints(vec![1, 1]))], "float[n, 8, s]");
        row("Conv", &["float[n, 3, 7]", "float[8, 3, 3]"], &[("auto_pad", "SAME_UPPER".into())], "float[n, 8, 7]");
        row("Conv", &["float[n, 3]", "float[8, 3, 3]"], &[], "error: rank of the weight: expected 2, found 3 ([8, 3, 3])");
        row("ConvTranspose", &["float[n, 8, s]", "float[8, 3, 2]"], &[("strides", Attr::Ints(vec![2]))], "float[n, 3, 2*s]");
    }

    #[test]
    fn pools() {
        let kernel = ("kernel_shape", Attr::Ints(vec![2]));
        let two = [kernel.clone(), ("strides", Attr::Ints(vec![2]))];
        row("MaxPool", &["float[n, c, 9]"], &two, "float[n, c, 4] int64[n, c, 4]");
        let upwards = [kernel, ("strides", Attr::Ints(vec![2])), ("ceil_mode", Attr::Int(1))];
        row("MaxPool", &["float[n, c, 9]"], &upwards, "float[n, c, ?y.0.2] int64[n, c, ?y.0.2]");
        row("GlobalAveragePool", &["float[n, c, h, w]"], &[], "float[n, c, 1, 1]");
    }

    #[test]
    fn resampling() {
        row("Resize", &["float[n, c, h, w]", "", "", "int64[4]{n, c, 8, 8}"], &[], "float[n, c, 8, 8]");
        row("Resize", &["float[n, c, h]", "", "float[3]"], &[], "float[?y.0.0, ?y.0.1, ?y.0.2]");
        row_at(7, "Upsample", &["float[n, h]"], &[("scales", Attr::Floats(vec![1.0, 2.0]))], "float[n, 2*h]");
        row("GridSample", &["float[n, c, h, w]", "float[n, 5, 6, 2]"], &[], "float[n, c, 5, 6]");
    }
}
