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
use super::fbank::FilterBank;
use super::mel::LogMel;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::files::wall::{SOUND, behind_wall};

/// The longest sound that is read, in seconds: a longer one is refused before it fills the memory.
const LONGEST: u64 = 3600;
/// The highest rate, in Hz: four times that of studios.
const FASTEST: u32 = 768_000;
/// The most samples of a sound, at its own rate and at the model's: an hour at 48 kHz.
const MOST_SAMPLES: u64 = LONGEST * 48_000;

/// How much of a file is decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    First,
    Whole,
}

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
        let file = files::ordinary(path)?;
        Self::behind_the_wall(file, Extent::Whole).in_file(path)
    }

    /// Reads as much of a file as tells that it is a sound.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for what is wrong behind a file's first packet.
    pub fn check(path: &Path) -> Result<()> {
        let file = files::ordinary(path)?;
        Self::behind_the_wall(file, Extent::First).map(drop).in_file(path)
    }

    fn behind_the_wall(file: File, extent: Extent) -> Result<Self> {
        behind_wall(SOUND, || Self::decode(file, extent)).and_then(|decoded| {
            decoded.map_err(|error| match error {
                Broken::Decoder(error) => SOUND.refused(error),
                Broken::Other(error) => error,
            })
        })
    }

    fn decode(file: File, extent: Extent) -> std::result::Result<Self, Broken> {
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
            check_rate("samples a second", rate).map_err(Broken::Other)?;
            interleaved.resize(buffer.samples_interleaved(), 0.0_f32);
            buffer.copy_to_slice_interleaved(&mut interleaved);
            samples.extend(interleaved.chunks_exact(channels).map(mean));
            check_length(samples.len(), rate).map_err(Broken::Other)?;
            if extent == Extent::First {
                break;
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
        check_rate("samples a second", self.rate)?;
        check_rate("sampling_rate", rate)?;
        check_length(length, self.rate)?;
        let resampled = count(length).saturating_mul(u64::from(rate)) / u64::from(self.rate);
        check_length(usize::try_from(resampled).unwrap_or(usize::MAX), rate)?;
        let input = InterleavedSlice::new(&self.samples, 1, length).map_err(|e| bad(&e))?;
        let mut resampler = Fft::<f32>::new(size(self.rate), size(rate), 1024, 1, FixedSync::Both).map_err(|e| bad(&e))?;
        let output = resampler.process_all(&input, length, None).map_err(|e| bad(&e))?;
        Ok(Self { rate, samples: output.take_data() })
    }
}

fn check_rate(what: &'static str, rate: u32) -> Result<()> {
    if (1..=FASTEST).contains(&rate) { Ok(()) } else { Err(Error::mismatch(what, format!("1 to {FASTEST}"), rate)) }
}

fn check_length(samples: usize, rate: u32) -> Result<()> {
    let most = MOST_SAMPLES.min(LONGEST * u64::from(rate));
    if count(samples) <= most {
        return Ok(());
    }
    let error = Error::mismatch("samples of a sound", format!("at most {most}: an hour, at 48 kHz at most"), "more");
    Err(error.with_hint("cut the sound: the model takes some seconds of it"))
}

fn count(samples: usize) -> u64 {
    u64::try_from(samples).unwrap_or(u64::MAX)
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
    Samples { normalises: Normalises },
    /// Log-mel frames of a fixed length (`WhisperFeatureExtractor`).
    LogMel { frames: LogMel, samples: usize },
    /// Kaldi's filter bank, of a fixed number of frames, perhaps normalised with the mean and twice the deviation of the data that the model learnt from
    /// (`ASTFeatureExtractor`).
    FilterBank { bank: FilterBank, bands: usize, frames: usize, normal: Option<(f64, f64)> },
}

/// When samples get mean 0 and variance 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Normalises {
    Never,
    /// Each sound as it is: where a mask tells what fills it up.
    Alone,
    /// With the zeros that fill it up: where no mask tells them apart.
    Filled,
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
    return_attention_mask: Option<bool>,
    num_mel_bins: Option<usize>,
    max_length: Option<usize>,
    mean: Option<f64>,
    std: Option<f64>,
    padding_side: Option<String>,
    padding_value: Option<f64>,
    dither: Option<f64>,
}

impl Config {
    /// Refuses what is not followed.
    fn check(&self) -> Result<()> {
        let not_zero = |value: Option<f64>| value.filter(|value| *value != 0.0).map(|value| value.to_string());
        let other = [
            ("padding_side", self.padding_side.clone().filter(|side| side != "right"), "right"),
            ("padding_value", not_zero(self.padding_value), "0"),
            ("dither", not_zero(self.dither), "0"),
        ];
        let Some((name, Some(found), expected)) = other.into_iter().find(|(_, found, _)| found.is_some()) else { return Ok(()) };
        let error = Error::unsupported(format!("{name} {found}"), format!("sounds are read with {expected}"));
        Err(error.with_hint("make the features yourself and give them as a column with the name of the model's input"))
    }
}

/// The most numbers of a spectrogram: 40 times what Whisper takes.
const MOST_NUMBERS: usize = 1 << 24;
/// The most products of a spectrogram, `frames · mels · bins`: 50 times what Whisper takes.
const MOST_PRODUCTS: usize = 1 << 32;
/// The largest window, in samples.
const LARGEST_WINDOW: usize = 1 << 14;

impl FeatureExtractor {
    /// Reads `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) or [`Format`](crate::ErrorKind::Format) with the file; [`Unsupported`](crate::ErrorKind::Unsupported) for an
    /// extractor that is not known.
    pub fn read(path: &Path) -> Result<Self> {
        let config = files::json::fields(&files::read(path)?, "a feature extractor's configuration").in_file(path)?;
        Self::of(&config).in_file(path)
    }

    /// Samples of 16 kHz with mean 0 and variance 1: what is done where a model of sound comes without a configuration.
    #[must_use]
    pub fn plain() -> Self {
        Self { rate: 16_000, kind: Kind::Samples { normalises: Normalises::Alone } }
    }

    fn of(config: &Config) -> Result<Self> {
        let rate = config.sampling_rate.unwrap_or(16_000);
        check_rate("sampling_rate", rate)?;
        config.check()?;
        let kind = match config.feature_extractor_type.as_deref() {
            Some("Wav2Vec2FeatureExtractor") => Kind::Samples {
                normalises: match (config.do_normalize, config.return_attention_mask) {
                    (Some(false), _) => Normalises::Never,
                    (_, Some(true)) => Normalises::Alone,
                    (_, _) => Normalises::Filled,
                },
            },
            Some("ASTFeatureExtractor") => {
                let (bands, frames) = (config.num_mel_bins.unwrap_or(128), config.max_length.unwrap_or(1024));
                // The window is checked before its filters are made.
                check_sizes(bands, usize::try_from(rate / 20).unwrap_or(usize::MAX), 1, frames)?;
                let bank = FilterBank::new(bands, rate);
                let (size, hop) = bank.sizes();
                check_sizes(bands, size, hop, frames.saturating_mul(hop))?;
                // What transformers has for AudioSet.
                let normal = (config.mean.unwrap_or(-4.267_739_3), config.std.unwrap_or(4.568_997_4));
                Kind::FilterBank { bank, bands, frames, normal: config.do_normalize.unwrap_or(true).then_some(normal) }
            }
            Some("WhisperFeatureExtractor") => {
                let seconds = config.chunk_length.unwrap_or(30);
                let samples = config.n_samples.unwrap_or(seconds.saturating_mul(usize::try_from(rate).unwrap_or(usize::MAX)));
                let (mels, size, hop) = (config.feature_size.unwrap_or(80), config.n_fft.unwrap_or(400), config.hop_length.unwrap_or(160));
                check_sizes(mels, size, hop, samples)?;
                Kind::LogMel { frames: LogMel::new(mels, size, hop, rate), samples }
            }
            other => {
                let error = Error::unsupported(
                    format!("the feature extractor {}", other.unwrap_or("without a type")),
                    "Wav2Vec2FeatureExtractor, WhisperFeatureExtractor and ASTFeatureExtractor are known",
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

    /// The same for a batch of sounds that zeros fill up and no mask tells apart, and whether each is to be normalised with them then.
    ///
    /// # Errors
    /// As [`Waveform::read`].
    pub fn features_to_fill(&self, path: &Path) -> Result<(Features, bool)> {
        if !matches!(self.kind, Kind::Samples { normalises: Normalises::Filled }) {
            return Ok((self.features(path)?, false));
        }
        let samples = Waveform::read(path)?.resampled(self.rate).in_file(path)?.samples;
        Ok((Features { shape: vec![samples.len()], values: samples }, true))
    }

    /// The same of samples at the extractor's rate.
    #[must_use]
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "computed in float64, rounded once")]
    pub fn of_samples(&self, mut samples: Vec<f32>) -> Features {
        match &self.kind {
            Kind::FilterBank { bank, bands, frames, normal } => {
                let mut values = bank.of(&samples, *frames);
                values.resize(bands * frames, 0.0);
                if let Some((mean, deviation)) = normal {
                    for value in &mut values {
                        *value = ((f64::from(*value) - mean) / (2.0 * deviation)) as f32;
                    }
                }
                Features { shape: vec![*frames, *bands], values }
            }
            Kind::Samples { normalises } => {
                if *normalises != Normalises::Never {
                    samples = normalised(samples.iter().copied().map(f64::from)).into_iter().map(|value| value as f32).collect();
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

/// Refuses sizes of a spectrogram that take more memory or time than models of speech want.
fn check_sizes(mels: usize, size: usize, hop: usize, samples: usize) -> Result<()> {
    let frames = samples.checked_div(hop).unwrap_or(0).max(1);
    let (numbers, bins) = (mels.saturating_mul(frames), size / 2 + 1);
    let is_possible = [mels, size, hop, samples].iter().all(|&size| size > 0)
        && size <= LARGEST_WINDOW
        && samples.max(numbers).max(mels.saturating_mul(bins)) <= MOST_NUMBERS
        && numbers.saturating_mul(bins) <= MOST_PRODUCTS;
    if is_possible {
        return Ok(());
    }
    let found = format!("feature_size {mels}, n_fft {size}, hop_length {hop}, n_samples {samples}");
    let expected = format!("sizes above 0, n_fft up to {LARGEST_WINDOW}, and up to {MOST_NUMBERS} numbers");
    Err(Error::mismatch("sizes of the feature extractor", expected, found))
}

/// Samples with mean 0 and variance 1: `(x − mean) / √(variance + 1e-7)` (`zero_mean_unit_var_norm`).
#[must_use]
pub fn normalised(samples: impl ExactSizeIterator<Item = f64> + Clone) -> Vec<f64> {
    let count = crate::num::float(samples.len().max(1));
    let mean = samples.clone().sum::<f64>() / count;
    let variance = samples.clone().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let scale = 1.0 / (variance + 1e-7).sqrt();
    samples.map(|x| (x - mean) * scale).collect()
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "channels are few")]
fn mean(frame: &[f32]) -> f32 {
    frame.iter().sum::<f32>() / frame.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A WAV of silence: 8 bits, one channel; its header says that there are `says` bytes of it.
    fn wav(rate: u32, samples: usize, says: u32) -> Vec<u8> {
        let format = [
            &1_u16.to_le_bytes()[..],
            &1_u16.to_le_bytes(),
            &rate.to_le_bytes(),
            &rate.to_le_bytes(),
            &1_u16.to_le_bytes(),
            &8_u16.to_le_bytes(),
        ];
        let head =
            [&b"RIFF"[..], &u32::MAX.to_le_bytes(), b"WAVEfmt ", &16_u32.to_le_bytes(), &format.concat(), b"data", &says.to_le_bytes()];
        [head.concat(), vec![128; samples]].concat()
    }

    #[test]
    fn headers_that_lie_are_refused_or_read_for_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.wav");
        for (rate, says, expected) in [
            (16_000, 4000, None),
            (16_000, u32::MAX, Some("unexpected end of file")),
            (1, 4000, Some("at most 3600")),
            // A prime: the transform that goes from one rate to the other would be as long.
            (4_294_967_291, 4000, Some("samples a second: expected 1 to 768000, found 4294967291")),
            (0, 4000, Some("")),
        ] {
            std::fs::write(&file, wav(rate, 4000, says)).expect("it is written");
            let read = Waveform::read(&file).and_then(|sound| sound.resampled(8_000).map(|sound| sound.samples.len()));
            match (read, expected) {
                (Ok(samples), None) => assert!((2000..2100).contains(&samples), "{rate}: {samples}"),
                (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{rate}: {error}"),
                (read, _) => panic!("{rate}, {says}: {read:?}"),
            }
        }
        let long = Waveform { rate: 10, samples: vec![0.0; 36_000] };
        assert!(long.resampled(768_000).unwrap_err().to_string().contains("samples of a sound"));
    }

    #[test]
    fn sizes_of_a_configuration_are_checked_before_they_are_computed_with() {
        let extractor = |config: &str| FeatureExtractor::of(&serde_json::from_str(config).expect("JSON"));
        for bomb in [
            r#""sampling_rate": 4294967295"#,
            r#""sampling_rate": 0"#,
            r#""hop_length": 1, "n_samples": 60000000"#,
            r#""hop_length": 0"#,
            r#""feature_size": 4096, "n_fft": 65536"#,
            r#""feature_size": 18446744073709551615"#,
            r#""chunk_length": 18446744073709551615"#,
            r#""feature_size": 512, "n_fft": 16384, "hop_length": 1, "n_samples": 30000"#,
        ] {
            let error = extractor(&format!(r#"{{"feature_extractor_type": "WhisperFeatureExtractor", {bomb}}}"#)).unwrap_err();
            assert!(error.to_string().contains("expected"), "{bomb}: {error}");
        }
        assert!(extractor(r#"{"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128}"#).is_ok());
    }

    #[test]
    fn what_a_configuration_says_of_padding_is_followed_or_refused() {
        for (said, refused) in [
            (r#""padding_side": "left""#, "padding_side left"),
            (r#""padding_value": -1.0"#, "padding_value -1"),
            (r#""dither": 0.1"#, "dither 0.1"),
            (r#""padding_side": "right", "padding_value": 0.0, "dither": 0"#, ""),
        ] {
            for kind in ["Wav2Vec2FeatureExtractor", "WhisperFeatureExtractor", "ASTFeatureExtractor"] {
                let config = format!(r#"{{"feature_extractor_type": "{kind}", {said}}}"#);
                let found = FeatureExtractor::of(&serde_json::from_str(&config).expect("JSON")).map_err(|error| error.to_string());
                assert!(found.is_ok() == refused.is_empty() && found.err().unwrap_or_default().contains(refused), "{kind}: {said}");
            }
        }
    }
}
