//! Pictures and sounds that rows name: read when a batch is made of them, and not kept.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use super::example::{Example, Numbers, Pixels};
use super::media::Media;
use crate::error::{Context, Place, Result};
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
    image: OnceCell<Arc<ImageProcessor>>,
    sound: OnceCell<Arc<FeatureExtractor>>,
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

fn known<T>(cell: &OnceCell<Arc<T>>, read: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
    if let Some(known) = cell.get() {
        return Ok(Arc::clone(known));
    }
    let made = Arc::new(read()?);
    Ok(Arc::clone(cell.get_or_init(|| made)))
}

impl Example {
    /// The row with the picture or the sound that it names in its columns.
    ///
    /// # Errors
    /// With the row's line, a file that cannot be read to its end.
    pub fn with_media(self) -> Result<Self> {
        self.with_media_changed(Augmentation::default(), &mut || 0.0)
    }

    /// The same, a picture changed by chance; `random` draws numbers from 0 to 1, 1 left out.
    pub(super) fn with_media_changed(mut self, augmentation: Augmentation, random: &mut dyn FnMut() -> f64) -> Result<Self> {
        let Some(MediaFile { path, kind }) = self.media.take() else { return Ok(self) };
        match kind {
            Kind::Picture(processor) => {
                let Features { shape, values } =
                    (if augmentation.is_none() { processor.pixels(&path) } else { processor.augmented(&path, augmentation, random) })
                        .hint(PICTURES)
                        .at(Place::Line(self.line))?;
                self.pixel_values = Some(Pixels { shape, values });
            }
            Kind::Sound { extractor, input, mask } => {
                let Features { shape, values } = extractor.features(&path).hint(SOUNDS).at(Place::Line(self.line))?;
                // Of a spectrogram the last axis is time.
                let seen = shape.last().copied().unwrap_or_default();
                let seen = mask.map(|mask| (mask.to_string(), Numbers { shape: vec![seen], values: vec![1.0; seen] }));
                let numbers = Numbers { shape, values: values.into_iter().map(f64::from).collect() };
                self.columns.extend([(input.to_string(), numbers)].into_iter().chain(seen));
            }
        }
        Ok(self)
    }
}
