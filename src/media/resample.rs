//! Pictures resized as Pillow does it (`src/libImaging/Resample.c`, 8 bits a channel): filters that widen when a picture shrinks, whole-number
//! weights, and a rounding to 8 bits after each direction.
//!
//! Libraries that come near differ by a step of 255 here and there, which a model's loss shows.

use image::RgbImage;

/// A filter: its value at a distance, and how far it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Nearest,
    Box,
    Bilinear,
    Hamming,
    Bicubic,
    Lanczos,
}

impl Filter {
    fn reach(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        use std::f64::consts::PI;
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
        let distance = x.abs();
        match self {
            Self::Nearest | Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Hamming if distance == 0.0 => 1.0,
            Self::Hamming if distance >= 1.0 => 0.0,
            Self::Hamming => (PI * distance).sin() / (PI * distance) * (0.54 + 0.46 * (PI * distance).cos()),
            // Keys' cubic with a = -0.5.
            Self::Bicubic if distance < 1.0 => ((1.5 * distance - 2.5) * distance) * distance + 1.0,
            Self::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5,
            Self::Lanczos if distance < 3.0 => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

/// Bits behind the point of a weight.
const PRECISION: u32 = 32 - 8 - 2;

/// What a line's pixels are made of: where each begins, and its weights.
struct Weights(Vec<(usize, Vec<i32>)>);

impl Weights {
    /// For a line of `from` pixels that gets `to`.
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "pixels' places and weights, cut as the original cuts them"
    )]
    fn new(filter: Filter, from: u32, to: u32) -> Self {
        let scale = f64::from(from) / f64::from(to);
        let stretch = scale.max(1.0);
        let support = filter.reach() * stretch;
        let pixel = |at: u32| {
            let centre = (f64::from(at) + 0.5) * scale;
            let first = ((centre - support + 0.5) as i64).max(0);
            let last = ((centre + support + 0.5) as i64).min(i64::from(from));
            let values: Vec<f64> = (first..last).map(|x| filter.at((x as f64 - centre + 0.5) / stretch)).collect();
            let sum: f64 = values.iter().sum();
            let fixed = |value: f64| {
                let value = if sum == 0.0 { value } else { value / sum } * f64::from(1_u32 << PRECISION);
                (if value < 0.0 { value - 0.5 } else { value + 0.5 }) as i32
            };
            (first as usize, values.into_iter().map(fixed).collect())
        };
        Self((0..to).map(pixel).collect())
    }
}

/// The picture at another size.
pub(super) fn resized(picture: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    if filter == Filter::Nearest {
        let (columns, rows) = (nearest(picture.width(), width), nearest(picture.height(), height));
        return RgbImage::from_fn(width, height, |x, y| *picture.get_pixel(columns[size(x)], rows[size(y)]));
    }
    let to_width = |picture: RgbImage| if width == picture.width() { picture } else { across(&picture, width, filter) };
    let to_height = |picture: RgbImage| if height == picture.height() { picture } else { down(&picture, height, filter) };
    // Rounding in between tells which direction came first: down, where the height shrinks by more than twice what the width does (Pillow 13).
    let shrinks = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let (lower, narrower) = (shrinks(picture.height(), height), shrinks(picture.width(), width));
    if lower > 0 && lower > 2 * narrower { to_width(to_height(picture.clone())) } else { to_height(to_width(picture.clone())) }
}

/// The pixel that each of `to` is, of `from`. Pillow adds the steps up (`ImagingScaleAffine` of `src/libImaging/Geometry.c`): where a centre is on an edge,
/// the sum's rounding decides.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places, cut as the original cuts them"
)]
fn nearest(from: u32, to: u32) -> Vec<u32> {
    let step = f64::from(from) / f64::from(to);
    let mut place = step * 0.5;
    let pixel = |_| {
        let pixel = (place as u32).min(from.saturating_sub(1));
        place += step;
        pixel
    };
    (0..to).map(pixel).collect()
}

fn across(picture: &RgbImage, width: u32, filter: Filter) -> RgbImage {
    let weights = Weights::new(filter, picture.width(), width);
    let line = size(picture.width()) * 3;
    let rows = picture.as_raw().chunks_exact(line);
    let pixels = rows.flat_map(|row| {
        weights.0.iter().flat_map(move |(first, weights)| {
            (0..3).map(move |channel| {
                summed(weights.iter().zip(row[3 * first..].iter().skip(channel).step_by(3)).map(|(w, p)| w * i32::from(*p)))
            })
        })
    });
    RgbImage::from_raw(width, picture.height(), pixels.collect()).unwrap_or_else(|| picture.clone())
}

fn down(picture: &RgbImage, height: u32, filter: Filter) -> RgbImage {
    let weights = Weights::new(filter, picture.height(), height);
    let (line, raw) = (size(picture.width()) * 3, picture.as_raw());
    let pixels = weights.0.iter().flat_map(|(first, weights)| {
        (0..line)
            .map(move |at| summed(weights.iter().zip(raw[first * line..].iter().skip(at).step_by(line)).map(|(w, p)| w * i32::from(*p))))
    });
    RgbImage::from_raw(picture.width(), height, pixels.collect()).unwrap_or_else(|| picture.clone())
}

/// Weighted pixels as one of 8 bits.
fn summed(parts: impl Iterator<Item = i32>) -> u8 {
    let sum = parts.fold(1 << (PRECISION - 1), |sum: i32, part| sum.wrapping_add(part));
    u8::try_from((sum >> PRECISION).clamp(0, 255)).unwrap_or(0)
}

fn size(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_pixel_is_that_of_the_sum_of_steps() {
        // Pillow 12: a line of 640 pixels that are their own places, made 224 and 24 wide.
        let ours = nearest(640, 224);
        assert_eq!((&ours[..4], ours[223]), (&[1, 4, 7, 10][..], 638));
        let rounded = |at: u32| u32::try_from((u64::from(2 * at + 1) * 640) / 448).expect("a place");
        assert_eq!((0..224).filter(|at| ours[size(*at)] != rounded(*at)).count(), 20);
        assert_eq!(nearest(3, 3), [0, 1, 2]);
        assert_eq!(nearest(2, 5), [0, 0, 1, 1, 1]);
    }
}
