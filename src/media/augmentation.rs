//! Random augmentation of the pictures of training examples, as torchvision does it (`torchvision/transforms/transforms.py`).

use image::{RgbImage, imageops};
use serde::{Deserialize, Serialize};

/// What is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Augmentation {
    /// A part of any place, size and shape stands for the picture (`RandomResizedCrop`).
    pub resized_crop: bool,
    /// Every other picture is mirrored (`RandomHorizontalFlip`).
    pub horizontal_flip: bool,
}

/// The smallest part of a picture's area that is taken, and the largest.
const SCALE: (f64, f64) = (0.08, 1.0);
/// The narrowest part, width over height, and the broadest.
const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// How often a part is drawn that may not lie inside of the picture.
const ATTEMPTS: usize = 10;

impl Augmentation {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// What tells runs that change pictures differently apart.
    #[must_use]
    pub fn mark(self) -> &'static str {
        match (self.resized_crop, self.horizontal_flip) {
            (false, false) => "",
            (true, false) => ", parts of pictures",
            (false, true) => ", pictures mirrored",
            (true, true) => ", parts of pictures mirrored",
        }
    }

    /// The picture changed; `random` draws numbers from 0 to 1, 1 left out.
    pub(super) fn of(self, picture: RgbImage, random: &mut dyn FnMut() -> f64) -> RgbImage {
        let picture = if self.resized_crop {
            let Part { x, y, width, height } = Part::drawn(picture.dimensions(), random);
            imageops::crop_imm(&picture, x, y, width, height).to_image()
        } else {
            picture
        };
        if self.horizontal_flip && random() < 0.5 { imageops::flip_horizontal(&picture) } else { picture }
    }
}

/// A part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

impl Part {
    fn drawn((width, height): (u32, u32), random: &mut dyn FnMut() -> f64) -> Self {
        let area = f64::from(width) * f64::from(height);
        for _ in 0..ATTEMPTS {
            let target = area * between(SCALE, random());
            let ratio = between((RATIO.0.ln(), RATIO.1.ln()), random()).exp();
            let (w, h) = (whole((target * ratio).sqrt().round()), whole((target / ratio).sqrt().round()));
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let (y, x) = (place(height - h, random()), place(width - w, random()));
                return Self { x, y, width: w, height: h };
            }
        }
        // The middle, as much of it as the ratios allow.
        let ratio = f64::from(width) / f64::from(height.max(1));
        let (w, h) = if ratio < RATIO.0 {
            (width, whole((f64::from(width) / RATIO.0).round()))
        } else if ratio > RATIO.1 {
            (whole((f64::from(height) * RATIO.1).round()), height)
        } else {
            (width, height)
        };
        let (w, h) = (w.clamp(1, width.max(1)), h.clamp(1, height.max(1)));
        Self { x: width.saturating_sub(w) / 2, y: height.saturating_sub(h) / 2, width: w, height: h }
    }
}

fn between((low, high): (f64, f64), share: f64) -> f64 {
    low + (high - low) * share
}

/// A place from 0 to `last`.
fn place(last: u32, share: f64) -> u32 {
    whole((f64::from(last) + 1.0) * share).min(last)
}

/// The whole part of a length.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length of a picture, saturating")]
fn whole(length: f64) -> u32 {
    length as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that a generator draws, by their places.
    fn drawn(numbers: &[f64]) -> impl FnMut() -> f64 + use<'_> {
        let mut left = numbers.iter().copied().cycle();
        move || left.next().unwrap_or(0.5)
    }

    #[test]
    fn parts_lie_inside_of_the_picture_with_areas_and_shapes_that_are_allowed() {
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(seed >> 33).unwrap_or_default()) / f64::from(1_u32 << 31)
        };
        for size in [(224, 224), (640, 480), (30, 500), (1, 1), (3, 2)] {
            for _ in 0..200 {
                let Part { x, y, width, height } = Part::drawn(size, &mut random);
                assert!(width >= 1 && height >= 1 && x + width <= size.0 && y + height <= size.1, "{size:?}");
                if size.0 > 100 && size.1 > 100 {
                    let share = f64::from(width) * f64::from(height) / (f64::from(size.0) * f64::from(size.1));
                    let ratio = f64::from(width) / f64::from(height);
                    assert!((0.07..=1.01).contains(&share) && (0.73..=1.37).contains(&ratio), "{share} {ratio}");
                }
            }
        }
    }

    #[test]
    fn half_of_the_pictures_are_mirrored() {
        let picture = RgbImage::from_fn(2, 1, |x, _| image::Rgb([u8::from(x == 0); 3]));
        let flip = Augmentation { horizontal_flip: true, ..Augmentation::default() };
        assert_eq!(flip.of(picture.clone(), &mut drawn(&[0.6])), picture);
        assert_eq!(flip.of(picture.clone(), &mut drawn(&[0.4])).get_pixel(1, 0).0, [1; 3]);
        assert_eq!(Augmentation::default().of(picture.clone(), &mut drawn(&[0.0])), picture);
    }
}
