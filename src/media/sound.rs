//! Sound: decoded, mixed to one channel, resampled and normalised as transformers' feature extractors want it.

use std::fs::File;
use std::path::Path;

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};
use serde::Deserialize;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error as DecodeError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;

use super::Features;
use super::mel::LogMel;
use crate::error::{Context, Error, Result};

/// The longest sound that is read, in seconds: a file that says it is longer is refused before it fills the memory.
const LONGEST: usize = 3600;

/// One channel of sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Waveform {
    /// Samples a second, in Hz.
    pub rate: u32,
    /// The samples, from -1 to 1.
    pub samples: Vec<f32>,
}

impl Waveform {
    /// Decodes a file (WAV, FLAC, MP3 or OGG Vorbis); several channels are mixed to their mean.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) or [`Format`](crate::ErrorKind::Format) with the file.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).in_file(path)?;
        let found = Self::decode(file).map_err(|error| match error {
            Broken::Decoder(error) => Error::format("sound (WAV, FLAC, MP3 or OGG)", error),
            Broken::Other(error) => error,
        });
        found.in_file(path)
    }

    fn decode(file: File) -> std::result::Result<Self, Broken> {
        let stream = MediaSourceStream::new(Box::new(file), MediaSourceStreamOptions::default());
        let mut format =
            symphonia::default::get_probe().probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())?;
        let nothing = || Broken::Other(Error::invalid("no sound in this file"));
        let track = format.default_track(TrackType::Audio).ok_or_else(nothing)?;
        let (number, params) = (track.id, track.codec_params.as_ref().and_then(|params| params.audio()).ok_or_else(nothing)?);
        let mut decoder = symphonia::default::get_codecs().make_audio_decoder(params, &AudioDecoderOptions::default())?;
        let (mut rate, mut samples, mut interleaved) = (0, vec![], vec![]);
        while let Some(packet) = format.next_packet()? {
            if packet.track_id != number {
                continue;
            }
            let buffer = decoder.decode(&packet)?;
            let channels = buffer.spec().channels().count().max(1);
            rate = buffer.spec().rate();
            interleaved.resize(buffer.samples_interleaved(), 0.0_f32);
            buffer.copy_to_slice_interleaved(&mut interleaved);
            samples.extend(interleaved.chunks_exact(channels).map(mean));
            if samples.len() > LONGEST.saturating_mul(usize::try_from(rate).unwrap_or(usize::MAX)) {
                return Err(Broken::Other(Error::mismatch("seconds of sound", format!("at most {LONGEST}"), "more")));
            }
        }
        if samples.is_empty() || rate == 0 { Err(nothing()) } else { Ok(Self { rate, samples }) }
    }

    /// The same at another rate.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the rates do not go together.
    pub fn resampled(self, rate: u32) -> Result<Self> {
        if rate == self.rate {
            return Ok(self);
        }
        let bad =
            |error: &dyn std::fmt::Display| Error::invalid(format!("sound of {} Hz cannot be resampled to {rate} Hz: {error}", self.rate));
        let size = |rate: u32| usize::try_from(rate).unwrap_or(usize::MAX);
        let length = self.samples.len();
        let input = InterleavedSlice::new(&self.samples, 1, length).map_err(|e| bad(&e))?;
        let mut resampler = Fft::<f32>::new(size(self.rate), size(rate), 1024, 1, FixedSync::Both).map_err(|e| bad(&e))?;
        let output = resampler.process_all(&input, length, None).map_err(|e| bad(&e))?;
        Ok(Self { rate, samples: output.take_data() })
    }
}

/// Why a sound was not decoded.
enum Broken {
    Decoder(DecodeError),
    Other(Error),
}

impl From<DecodeError> for Broken {
    fn from(error: DecodeError) -> Self {
        Self::Decoder(error)
    }
}

/// What becomes of a sound, as `preprocessor_config.json` has it.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureExtractor {
    rate: u32,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// The samples themselves, perhaps with mean 0 and variance 1 (`Wav2Vec2FeatureExtractor`).
    Samples { normalises: bool },
    /// Log-mel frames of a fixed length (`WhisperFeatureExtractor`).
    LogMel { frames: LogMel, samples: usize },
}

#[derive(Deserialize)]
struct Config {
    feature_extractor_type: Option<String>,
    sampling_rate: Option<u32>,
    do_normalize: Option<bool>,
    feature_size: Option<usize>,
    n_fft: Option<usize>,
    hop_length: Option<usize>,
    chunk_length: Option<usize>,
    n_samples: Option<usize>,
}

/// The largest sizes of a configuration that are computed with.
const LARGEST: usize = 1 << 26;

impl FeatureExtractor {
    /// Reads `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) or [`Format`](crate::ErrorKind::Format) with the file; [`Unsupported`](crate::ErrorKind::Unsupported) for an
    /// extractor that is not known.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).in_file(path)?;
        let config: Config =
            serde_json::from_str(&text).map_err(|e| Error::format("a feature extractor's configuration", e).in_file(path))?;
        Self::of(&config).in_file(path)
    }

    /// Samples of 16 kHz with mean 0 and variance 1: what is done where a model of sound comes without a configuration.
    #[must_use]
    pub fn plain() -> Self {
        Self { rate: 16_000, kind: Kind::Samples { normalises: true } }
    }

    fn of(config: &Config) -> Result<Self> {
        let rate = config.sampling_rate.unwrap_or(16_000);
        let kind = match config.feature_extractor_type.as_deref() {
            Some("Wav2Vec2FeatureExtractor") => Kind::Samples { normalises: config.do_normalize.unwrap_or(true) },
            Some("WhisperFeatureExtractor") => {
                let seconds = config.chunk_length.unwrap_or(30);
                let samples = config.n_samples.unwrap_or(seconds.saturating_mul(usize::try_from(rate).unwrap_or(usize::MAX)));
                let (mels, size, hop) = (config.feature_size.unwrap_or(80), config.n_fft.unwrap_or(400), config.hop_length.unwrap_or(160));
                let is_sane =
                    [mels, size, hop, samples].iter().all(|&size| (1..=LARGEST).contains(&size)) && mels <= 4096 && size <= 1 << 16;
                if !is_sane {
                    return Err(Error::mismatch("sizes of the feature extractor", "sizes above 0 of a few seconds", "others"));
                }
                Kind::LogMel { frames: LogMel::new(mels, size, hop, rate), samples }
            }
            other => {
                let error = Error::unsupported(
                    format!("the feature extractor {}", other.unwrap_or("without a type")),
                    "Wav2Vec2FeatureExtractor and WhisperFeatureExtractor are known",
                );
                return Err(error.with_hint("make the features yourself and give them as a column with the name of the model's input"));
            }
        };
        Ok(Self { rate, kind })
    }

    /// What the model takes of a sound's file: `input_values` `[samples]` or `input_features` `[mels, frames]`.
    ///
    /// # Errors
    /// As [`Waveform::read`].
    pub fn features(&self, path: &Path) -> Result<Features> {
        let sound = Waveform::read(path)?.resampled(self.rate).in_file(path)?;
        Ok(self.of_samples(sound.samples))
    }

    /// The same of samples at the extractor's rate.
    #[must_use]
    pub fn of_samples(&self, mut samples: Vec<f32>) -> Features {
        match &self.kind {
            Kind::Samples { normalises } => {
                if *normalises {
                    normalise(&mut samples);
                }
                Features { shape: vec![samples.len()], values: samples }
            }
            Kind::LogMel { frames, samples: length } => {
                samples.resize(*length, 0.0);
                let values = frames.of(&samples);
                Features { shape: vec![frames.mels(), values.len() / frames.mels()], values }
            }
        }
    }
}

/// Mean 0 and variance 1: `(x − mean) / √(variance + 1e-7)` (`zero_mean_unit_var_norm`).
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "sums in float64, rounded once")]
fn normalise(samples: &mut [f32]) {
    let count = samples.len().max(1) as f64;
    let mean = samples.iter().copied().map(f64::from).sum::<f64>() / count;
    let variance = samples.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    let scale = 1.0 / (variance + 1e-7).sqrt();
    for x in samples {
        *x = ((f64::from(*x) - mean) * scale) as f32;
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "channels are few")]
fn mean(frame: &[f32]) -> f32 {
    frame.iter().sum::<f32>() / frame.len() as f32
}
