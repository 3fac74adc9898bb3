//! Pictures: decoded, resized, cropped and normalised as transformers' image processors do it with Pillow.

mod file;
mod kinds;
mod sizes;

use std::path::Path;

use image::RgbImage;
use serde::Deserialize;

use kinds::Does;
use sizes::{Size, Target, check};

use super::resample::{self, Filter};
use super::{Augmentation, Features};
use crate::error::{Context, Error, Result};
use crate::files;

/// What becomes of a picture, as `preprocessor_config.json` has it (transformers 4.57, `image_processing_vit.py`, `_clip.py`, `_convnext.py`).
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    /// What a picture becomes first, where it becomes the target in two steps.
    first: Option<Target>,
    target: Option<Target>,
    filter: Filter,
    crop: Option<(u32, u32)>,
    factor: f64,
    mean: [f64; 3],
    std: [f64; 3],
    /// Whether blue comes first (`do_flip_channel_order`).
    blue_first: bool,
}

/// Steps that change nothing here: pictures are read in RGB, and labels are no maps.
const HARMLESS: [&str; 2] = ["do_convert_rgb", "do_reduce_labels"];

/// The most pixels of what is made of a picture: as float32, 768 MiB.
const MOST_MADE: u64 = 1 << 26;

#[derive(Deserialize)]
struct Config {
    do_resize: Option<bool>,
    size: Option<Size>,
    resample: Option<u32>,
    crop_pct: Option<f64>,
    do_center_crop: Option<bool>,
    crop_size: Option<Size>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<Vec<f64>>,
    image_std: Option<Vec<f64>>,
    do_pad: Option<bool>,
    do_image_splitting: Option<bool>,
    max_image_size: Option<Size>,
    do_flip_channel_order: Option<bool>,
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

impl ImageProcessor {
    /// Reads `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) or [`Format`](crate::ErrorKind::Format) with the file; [`Unsupported`](crate::ErrorKind::Unsupported) for what is
    /// done to pictures in ways that this does not know.
    pub fn read(path: &Path) -> Result<Self> {
        let config = files::json::fields(&files::read(path)?, "an image processor's configuration").in_file(path)?;
        Self::of(&config).in_file(path)
    }

    /// Resizes to a size and maps `0..255` to `-1..1`: what is done where a model comes without a configuration.
    #[must_use]
    pub fn plain(height: u32, width: u32) -> Self {
        let half = [0.5; 3];
        Self {
            first: None,
            target: Some(Target::Exact(height, width)),
            filter: Filter::Bilinear,
            crop: None,
            factor: 1.0 / 255.0,
            mean: half,
            std: half,
            blue_first: false,
        }
    }

    fn of(config: &Config) -> Result<Self> {
        let is_step = |(name, value): &(&String, &serde_json::Value)| name.starts_with("do_") && value.as_bool() == Some(true);
        if let Some((step, _)) = config.others.iter().filter(is_step).find(|(name, _)| !HARMLESS.contains(&name.as_str())) {
            let error = Error::unsupported(step.clone(), "what this step of a processor does to pictures is not known");
            return Err(error.with_hint(kinds::HINT));
        }
        let kind = kinds::of(&config.others)?;
        if let Some(most) = config.max_image_size.and_then(Size::longest) {
            return Self::in_one_piece(config, most);
        }
        if config.do_pad == Some(true) {
            return Err(Error::unsupported("do_pad", "this processor pads pictures, as detectors want it; only classifiers' are known"));
        }
        let is_said = config.crop_size.is_some();
        let crops = config.do_center_crop.unwrap_or(is_said && kind.is_some_and(|kind| kind.crops));
        let crop = if crops { config.crop_size.or(config.size).map(|size| size.exact("crop_size")).transpose()? } else { None };
        let size = config.size.map(|size| kind.map_or(size, |kind| kind.named(size)));
        let does = kind.map_or(Does::AsWritten, |kind| kind.does);
        let (size, share) = match (does, config.crop_pct) {
            (Does::LargerShorter, _) => (size.map(|size| size.with_shorter_times(256.0 / 224.0)), None),
            (Does::OverShare, Some(share)) if share > 0.0 => (size.map(|size| size.over(share)), None),
            (Does::Middle, share) => (size, share.or(Some(224.0 / 256.0))),
            (_, share) => (size, share),
        };
        let (target, crop) = match size.filter(|_| config.do_resize.unwrap_or(true)) {
            None => (None, crop),
            Some(size) => size.target(share, crops, crop)?,
        };
        if let Some((height, width)) = crop {
            check("crop_size", (width, height), MOST_MADE)?;
        }
        let numbers = Self::normalising(config)?;
        let numbers = if does == Does::DividesTwice { numbers.dividing_twice(config)? } else { numbers };
        Ok(Self { target, crop, ..numbers })
    }

    /// What EfficientNet's processor makes of numbers: `(x / 255 - offset - mean) / std / std`.
    fn dividing_twice(self, config: &Config) -> Result<Self> {
        let says = |key: &str, usual: bool| config.others.get(key).and_then(serde_json::Value::as_bool).unwrap_or(usual);
        let offset = if says("rescale_offset", false) && config.do_rescale != Some(false) { 1.0 } else { 0.0 };
        let own = match &config.image_std {
            Some(std) if says("include_top", true) => three("image_std", std)?,
            _ => [1.0; 3],
        };
        let each = |of: &dyn Fn(usize) -> f64| [of(0), of(1), of(2)];
        Ok(Self { mean: each(&|at| self.mean[at] + offset), std: each(&|at| self.std[at] * own[at]), ..self })
    }

    /// A picture in a square of this side, at first as large as its longer side is to be (Idefics3's processor without `do_image_splitting`).
    fn in_one_piece(config: &Config, side: u32) -> Result<Self> {
        if config.do_image_splitting != Some(false) {
            let error = Error::unsupported("do_image_splitting", "a picture becomes several, each with tokens of its own");
            return Err(error.with_hint("with \"do_image_splitting\": false the model sees the whole picture at once"));
        }
        let resizes = config.do_resize.unwrap_or(true);
        let first = config.size.filter(|_| resizes).and_then(Size::longest).map(Target::Longer);
        Ok(Self { first, target: Some(Target::Exact(side, side)), ..Self::normalising(config)? })
    }

    /// What becomes of a picture's numbers, and with which filter it is resized.
    fn normalising(config: &Config) -> Result<Self> {
        let rescales = config.do_rescale.unwrap_or(true);
        if config.do_normalize == Some(true) && (config.image_mean.is_none() || config.image_std.is_none()) {
            let error = Error::not_found("key", if config.image_mean.is_none() { "image_mean" } else { "image_std" });
            return Err(error.with_hint("with do_normalize pixels are normalised by image_mean and image_std"));
        }
        let (mean, std) = match (config.do_normalize.unwrap_or(true), &config.image_mean, &config.image_std) {
            (true, Some(mean), Some(std)) => (three("image_mean", mean)?, three("image_std", std)?),
            _ => ([0.0; 3], [1.0; 3]),
        };
        let blue_first = config.do_flip_channel_order.unwrap_or(false);
        let differ = |numbers: &[f64; 3]| numbers.iter().any(|number| number.total_cmp(&numbers[0]).is_ne());
        if blue_first && (differ(&mean) || differ(&std)) {
            let error = Error::unsupported("do_flip_channel_order with do_normalize", "which channel a mean is for is not told");
            return Err(error.with_hint("rows may have pixel_values, as the processor makes them"));
        }
        if let Some(bad) = std.iter().find(|std| **std <= 0.0) {
            return Err(Error::mismatch("image_std", "numbers above 0, by which pixels are divided", bad));
        }
        Ok(Self {
            first: None,
            target: None,
            filter: filter(config.resample.unwrap_or(2))?,
            crop: None,
            factor: if rescales { config.rescale_factor.unwrap_or(1.0 / 255.0) } else { 1.0 },
            mean,
            std,
            blue_first,
        })
    }

    /// Reads as much of a file as tells that it is a picture.
    ///
    /// # Errors
    /// As [`pixels`](Self::pixels), but for what is wrong behind a file's head.
    pub fn check(path: &Path) -> Result<()> {
        file::check(path)
    }

    /// The pixels of a picture's file, float32 `[3, height, width]`.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) or [`Format`](crate::ErrorKind::Format) with the file, if it cannot be read or is no PNG, JPEG, WebP, BMP or GIF.
    pub fn pixels(&self, path: &Path) -> Result<Features> {
        let picture = self.begun(file::pixels(path)?).in_file(path)?;
        let (width, height) = self.target.map_or(picture.dimensions(), |target| target.of(picture.width(), picture.height()));
        self.sized(picture, (width, height), self.crop).in_file(path)
    }

    /// The same of an augmented picture; `random` draws numbers from 0 to 1, 1 left out.
    ///
    /// # Errors
    /// As [`pixels`](Self::pixels).
    pub fn augmented(&self, path: &Path, augmentation: Augmentation, random: &mut dyn FnMut() -> f64) -> Result<Features> {
        let picture = augmentation.of(file::pixels(path)?, random);
        let own = self.target.map_or(picture.dimensions(), |target| target.of(picture.width(), picture.height()));
        // A part has any shape: it becomes what the model takes, as a whole.
        let (size, crop) = match (augmentation.resized_crop, self.crop, self.target) {
            (true, Some((height, width)), _) => ((width, height), None),
            (true, None, Some(Target::Shorter(side))) => ((side, side), None),
            _ => (own, self.crop),
        };
        self.sized(picture, size, crop).in_file(path)
    }

    /// A picture after the first of two steps.
    fn begun(&self, picture: RgbImage) -> Result<RgbImage> {
        let Some(first) = self.first else { return Ok(picture) };
        let (width, height) = first.of(picture.width(), picture.height());
        check("the size that a picture gets", (width, height), MOST_MADE)?;
        Ok(resample::resized(&picture, width, height, self.filter))
    }

    /// A picture resized to a width and a height, of which the middle is taken, as numbers.
    fn sized(&self, picture: RgbImage, (width, height): (u32, u32), crop: Option<(u32, u32)>) -> Result<Features> {
        check("the size that a picture gets", (width, height), MOST_MADE)?;
        let picture = if picture.dimensions() != (width, height) || self.target.is_some() {
            resample::resized(&picture, width, height, self.filter)
        } else {
            picture
        };
        let picture = if let Some((height, width)) = crop { cropped(&picture, height, width) } else { picture };
        Ok(self.normalised(&picture))
    }

    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "pixels are rounded to float32 once")]
    fn normalised(&self, picture: &RgbImage) -> Features {
        let channel = |channel: usize| {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            picture.pixels().map(move |pixel| ((f64::from(pixel.0[channel]) * self.factor - mean) / std) as f32)
        };
        let order = if self.blue_first { [2, 1, 0] } else { [0, 1, 2] };
        let axis = |length: u32| usize::try_from(length).unwrap_or(usize::MAX);
        Features { shape: vec![3, axis(picture.height()), axis(picture.width())], values: order.into_iter().flat_map(channel).collect() }
    }
}

fn three(what: &'static str, values: &[f64]) -> Result<[f64; 3]> {
    match values {
        [one] => Ok([*one; 3]),
        [r, g, b] => Ok([*r, *g, *b]),
        other => Err(Error::mismatch(what, "3 numbers", other.len())),
    }
}

/// Pillow's filters by their numbers (`PIL.Image.Resampling`).
fn filter(resample: u32) -> Result<Filter> {
    Ok(match resample {
        0 => Filter::Nearest,
        1 => Filter::Lanczos,
        2 => Filter::Bilinear,
        3 => Filter::Bicubic,
        4 => Filter::Box,
        5 => Filter::Hamming,
        other => return Err(Error::mismatch("resample", "one of Pillow's filters, 0 to 5", other)),
    })
}

/// The middle of a picture; what lies outside of it is black (transformers' `center_crop`).
fn cropped(picture: &RgbImage, height: u32, width: u32) -> RgbImage {
    let (offset_x, offset_y) = (middle(picture.width(), width), middle(picture.height(), height));
    RgbImage::from_fn(width, height, |x, y| {
        let inside = |at: u32, offset: i64| u32::try_from(i64::from(at) + offset).ok();
        let place = inside(x, offset_x).zip(inside(y, offset_y));
        place.and_then(|(x, y)| picture.get_pixel_checked(x, y)).copied().unwrap_or(image::Rgb([0; 3]))
    })
}

/// Where a crop begins; below 0 where it is larger than what there is.
fn middle(length: u32, crop: u32) -> i64 {
    (i64::from(length) - i64::from(crop)).div_euclid(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(json: &str) -> Result<ImageProcessor> {
        ImageProcessor::of(&serde_json::from_str(json).map_err(|e| Error::format("JSON", e))?)
    }

    #[test]
    fn sizes_are_those_of_the_configuration() -> Result<()> {
        for (json, picture, resized, crop) in [
            (r#"{"size": {"height": 32, "width": 48}}"#, (100, 50), (48, 32), None),
            (r#"{"size": 224}"#, (100, 50), (224, 224), None),
            (r#"{"size": {"shortest_edge": 256}, "do_center_crop": true, "crop_size": 224}"#, (100, 50), (512, 256), Some((224, 224))),
            (
                r#"{"size": 224, "do_center_crop": true, "crop_size": {"height": 200, "width": 100}}"#,
                (50, 75),
                (224, 336),
                Some((200, 100)),
            ),
            (r#"{"size": {"shortest_edge": 224}, "crop_pct": 0.875}"#, (50, 50), (256, 256), Some((224, 224))),
            (r#"{"size": {"shortest_edge": 384}, "crop_pct": 0.875}"#, (50, 100), (384, 384), None),
        ] {
            let found = processor(json)?;
            assert_eq!((found.target.map(|target| target.of(picture.0, picture.1)), found.crop), (Some(resized), crop), "{json}");
        }
        let in_one_piece =
            r#"{"do_pad": true, "size": {"longest_edge": 40}, "max_image_size": {"longest_edge": 10}, "do_image_splitting": false}"#;
        let found = processor(in_one_piece)?;
        let of = |target: Option<Target>, width, height| target.map(|target| target.of(width, height));
        assert_eq!(
            (of(found.first, 30, 16), of(found.first, 16, 30), of(found.target, 40, 22)),
            (Some((40, 22)), Some((22, 40)), Some((10, 10)))
        );
        let in_several = processor(r#"{"max_image_size": {"longest_edge": 10}}"#).unwrap_err();
        assert!(in_several.to_string().contains("do_image_splitting") && in_several.hint().is_some(), "{in_several}");
        for step in
            [r#"{"do_color_quantize": true}"#, r#"{"do_flip_channel_order": true, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}"#]
        {
            assert!(processor(step).unwrap_err().hint().is_some_and(|hint| hint.contains("pixel_values")), "{step}");
        }
        assert!(processor(r#"{"do_convert_rgb": true, "do_color_quantize": false}"#).is_ok());
        let picture = RgbImage::from_pixel(1, 1, image::Rgb([255, 51, 0]));
        let flipped = processor(r#"{"do_flip_channel_order": true, "do_resize": false}"#).expect("a processor").normalised(&picture);
        assert_eq!(flipped.values, [0.0, 0.2, 1.0], "blue comes first");
        assert!(processor(r#"{"do_pad": true}"#).is_err() && processor(r#"{"size": {"longest_edge": 800, "shortest_edge": 3}}"#).is_err());
        for bomb in
            [r#"{"size": 8, "crop_size": 4294967295, "do_center_crop": true}"#, r#"{"size": 8, "crop_size": 0, "do_center_crop": true}"#]
        {
            assert!(processor(bomb).unwrap_err().to_string().contains("crop_size: expected sides of 1 to"), "{bomb}");
        }
        let divides_by_nothing = processor(r#"{"image_mean": [0, 0, 0], "image_std": [1, 0, 1]}"#).unwrap_err();
        assert!(divides_by_nothing.to_string().contains("image_std: expected numbers above 0"), "{divides_by_nothing}");
        assert!(processor(r#"{"resample": 9}"#).is_err() && processor(r#"{"image_mean": [1, 2], "image_std": [1, 2]}"#).is_err());
        Ok(())
    }

    /// A PNG that says how large it is, and then nothing more than `rows` bytes of zeros.
    fn png(width: u32, height: u32, rows: usize) -> Vec<u8> {
        let chunk = |kind: &[u8; 4], data: &[u8]| {
            let body = [&kind[..], data].concat();
            let mut check = flate2::Crc::new();
            check.update(&body);
            [&u32::try_from(data.len()).unwrap_or(0).to_be_bytes(), &body[..], &check.sum().to_be_bytes()].concat()
        };
        let mut packed = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::default());
        std::io::Write::write_all(&mut packed, &vec![0; rows]).expect("memory takes it");
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        let parts = [chunk(b"IHDR", &header), chunk(b"IDAT", &packed.finish().expect("it is packed")), chunk(b"IEND", &[])];
        [&b"\x89PNG\r\n\x1a\n"[..], &parts.concat()].concat()
    }

    #[test]
    fn what_a_picture_says_of_itself_is_checked_before_memory_is_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("bomb.png");
        let (plain, as_it_is) = (ImageProcessor::plain(8, 8), processor(r#"{"do_resize": false}"#).expect("a processor"));
        let stretched = processor(r#"{"size": {"shortest_edge": 4000}}"#).expect("a processor");
        for (width, height, rows, processor, expected) in [
            (65_535, 65_535, 100, &plain, "the size of a picture: expected sides of 1 to 65536, and at most 178956970 pixels"),
            (2_000_000_000, 1, 100, &plain, "not a picture"),
            (13_000, 13_000, 100, &plain, "not a picture"),
            (10_000, 10_000, 0, &as_it_is, "not a picture"),
            (300, 2, 301 * 6, &stretched, "the size that a picture gets"),
        ] {
            std::fs::write(&file, png(width, height, rows)).expect("it is written");
            let error = processor.pixels(&file).unwrap_err();
            assert!(error.to_string().contains(expected) && error.hint().is_some(), "{width} x {height}: {error}");
        }
        std::fs::write(&file, png(20, 10, 10 * 61)).expect("it is written");
        assert_eq!(plain.pixels(&file).expect("a picture").shape, [3, 8, 8]);
    }

    #[test]
    fn a_crop_is_taken_from_the_middle_and_filled_with_black() {
        let picture = RgbImage::from_fn(3, 1, |x, _| image::Rgb([u8::try_from(x + 1).unwrap_or(0); 3]));
        let row = |width| cropped(&picture, 1, width).pixels().map(|pixel| pixel.0[0]).collect::<Vec<_>>();
        assert_eq!((row(1), row(2), row(3)), (vec![2], vec![1, 2], vec![1, 2, 3]));
        assert_eq!((row(4), row(5)), (vec![0, 1, 2, 3], vec![0, 1, 2, 3, 0]));
    }
}
