//! What a bundle's or a model's folder says of pictures and sounds.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;
use crate::media::{FeatureExtractor, ImageProcessor};

/// The file in which transformers keeps it.
const FILE: &str = "preprocessor_config.json";

/// How pictures and sounds become numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Media {
    config: Option<PathBuf>,
    /// Height and width that the model takes.
    size: Option<(u32, u32)>,
}

impl Media {
    /// Nothing is known.
    pub const NOTHING: Self = Self { config: None, size: None };

    /// As the configuration says that belongs to one of these files; else what fits pictures of this height and width.
    #[must_use]
    pub fn near(models: &[PathBuf], size: Option<(u32, u32)>) -> Self {
        let config = models.iter().find_map(|file| files::near::file(file, FILE));
        Self { config, size }
    }

    /// What pictures are read with.
    ///
    /// # Errors
    /// A configuration that cannot be read; none, where the model does not tell its size.
    pub fn image(&self) -> Result<ImageProcessor> {
        match (&self.config, self.size) {
            (Some(file), _) => ImageProcessor::read(file),
            (None, Some((height, width))) => Ok(ImageProcessor::plain(height, width)),
            (None, None) => {
                let error = Error::not_found("file", FILE);
                Err(error.with_hint("preprocessor_config.json beside the model says what becomes of pictures"))
            }
        }
    }

    /// What sounds are read with.
    ///
    /// # Errors
    /// A configuration that cannot be read.
    pub fn sound(&self) -> Result<FeatureExtractor> {
        self.config.as_deref().map_or_else(|| Ok(FeatureExtractor::plain()), FeatureExtractor::read)
    }

    /// The file that is read, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}
