//! Pictures and sound as files, made into what a model takes, as Hugging Face transformers' processors make it.
//!
//! ```text
//! photo.jpg ─decode─▶ RGB ─resize─▶ ─crop─▶ ─rescale, normalise─▶ pixel_values   [3, height, width]
//! word.wav  ─decode─▶ mono ─resample─▶ ─normalise─▶ input_values [samples], or ─log-mel─▶ input_features [mels, frames]
//!                                                                      or ─filter bank─▶ input_values [frames, bands]
//! ```
//! What is done is read from `preprocessor_config.json` beside the model. Knows no graph and no task.

mod augmentation;
mod fbank;
mod image;
mod mel;
mod resample;
mod sound;

pub use self::augmentation::Augmentation;
pub use self::image::ImageProcessor;
pub use self::sound::{FeatureExtractor, Waveform, normalised};

/// Numbers of a row that came from a file, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// The length of every axis.
    pub shape: Vec<usize>,
    /// The values.
    pub values: Vec<f32>,
}
