//! Pictures and sounds that rows name: read when a batch is made of them, and not kept.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::media::Media;
use crate::error::{Context, Result};
use crate::media::{Augmentation, FeatureExtractor, Features, ImageProcessor, Waveform};

/// A file that a row names, and what becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaFile {
    path: Arc<Path>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Picture(Arc<ImageProcessor>),
    Sound {
        extractor: Arc<FeatureExtractor>,
        /// The input that takes what is read.
        input: Arc<str>,
        /// The input that asks where there is sound.
        mask: Option<Arc<str>>,
    },
}

/// What pictures and sounds of a file's rows are read with: configurations are read once.
#[derive(Debug, Default)]
pub(super) struct Processors {
    image: OnceLock<Arc<ImageProcessor>>,
    sound: OnceLock<Arc<FeatureExtractor>>,
}

/// What is said where a picture cannot be read.
const PICTURES: &str = "pictures are PNG, JPEG, WebP, BMP or GIF files, named from the data file's folder";
/// What is said where a sound cannot be read.
const SOUNDS: &str = "sounds are WAV, FLAC, MP3 or OGG files, named from the data file's folder";

impl Processors {
    /// A picture whose file begins as one.
    ///
    /// # Errors
    /// A file that is not there or is no picture; a configuration that is not known.
    pub(super) fn picture(&self, media: &Media, path: &Path) -> Result<MediaFile> {
        let processor = known(&self.image, || media.image())?;
        ImageProcessor::check(path).hint(PICTURES)?;
        Ok(MediaFile { path: path.into(), kind: Kind::Picture(processor) })
    }

    /// A sound whose file begins as one, for an input, and perhaps one for its mask.
    ///
    /// # Errors
    /// As [`picture`](Self::picture).
    pub(super) fn sound(&self, media: &Media, path: &Path, input: &str, mask: Option<&str>) -> Result<MediaFile> {
        let extractor = known(&self.sound, || media.sound())?;
        Waveform::check(path).hint(SOUNDS)?;
        Ok(MediaFile { path: path.into(), kind: Kind::Sound { extractor, input: input.into(), mask: mask.map(Into::into) } })
    }
}

fn known<T>(cell: &OnceLock<Arc<T>>, read: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
    if let Some(known) = cell.get() {
        return Ok(Arc::clone(known));
    }
    let made = Arc::new(read()?);
    Ok(Arc::clone(cell.get_or_init(|| made)))
}

/// What a file gave, in the inputs that take it.
pub(super) enum Read {
    /// A picture.
    Pixels(Features),
    /// A sound, its input, and the input of its mask.
    Sound {
        features: Features,
        input: Arc<str>,
        mask: Option<Arc<str>>,
        /// Whether it is normalised once it is filled up.
        is_raw: bool,
    },
}

impl MediaFile {
    /// What the file gives, a picture augmented; `random` draws numbers from 0 to 1, 1 left out.
    ///
    /// # Errors
    /// A file that cannot be read to its end.
    pub(super) fn read(self, augmentation: Augmentation, random: &mut dyn FnMut() -> f64) -> Result<Read> {
        let Self { path, kind } = self;
        match kind {
            Kind::Picture(processor) if augmentation.is_none() => Ok(Read::Pixels(processor.pixels(&path).hint(PICTURES)?)),
            Kind::Picture(processor) => Ok(Read::Pixels(processor.augmented(&path, augmentation, random).hint(PICTURES)?)),
            Kind::Sound { extractor, input, mask: None } => {
                let (features, is_raw) = extractor.features_to_fill(&path).hint(SOUNDS)?;
                Ok(Read::Sound { features, input, mask: None, is_raw })
            }
            Kind::Sound { extractor, input, mask } => {
                Ok(Read::Sound { features: extractor.features(&path).hint(SOUNDS)?, input, mask, is_raw: false })
            }
        }
    }
}
