//! Log-mel spectrograms, as transformers' `WhisperFeatureExtractor` computes them (`audio_utils.py`: `spectrogram`, `mel_filter_bank`).

use std::f64::consts::PI;

use realfft::RealFftPlanner;

use crate::num;

/// A spectrogram's settings, with its filters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LogMel {
    mels: usize,
    size: usize,
    hop: usize,
    window: Vec<f64>,
    /// `[mels, size / 2 + 1]`.
    filters: Vec<f64>,
}

/// Frequencies above this do not count, in Hz.
const HIGHEST: f64 = 8000.0;

impl LogMel {
    /// A spectrogram of so many mel bands, of windows of `size` samples every `hop` samples.
    pub(super) fn new(mels: usize, size: usize, hop: usize, rate: u32) -> Self {
        // A periodic Hann window.
        let window = (0..size).map(|at| 0.5 - 0.5 * (2.0 * PI * float(at) / float(size)).cos()).collect();
        Self { mels, size, hop, window, filters: filters(mels, size / 2 + 1, f64::from(rate)) }
    }

    pub(super) fn mels(&self) -> usize {
        self.mels
    }

    /// `[mels, frames]`: decibel-like values, at most 8 powers of ten below the largest, scaled as Whisper wants them: `(log₁₀ + 4) / 4`.
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "computed in float64, rounded once")]
    pub(super) fn of(&self, samples: &[f32]) -> Vec<f32> {
        let padded = reflected(samples, self.size / 2);
        // The last frame, centred behind the end, is dropped.
        let frames = (samples.len() / self.hop).max(1);
        let bins = self.size / 2 + 1;
        let transform = RealFftPlanner::<f64>::new().plan_fft_forward(self.size);
        let (mut input, mut output) = (transform.make_input_vec(), transform.make_output_vec());
        let mut logs = vec![0.0_f64; self.mels * frames];
        for frame in 0..frames {
            let start = frame * self.hop;
            let part = padded.get(start..start + self.size).unwrap_or(&[]);
            input.fill(0.0);
            for ((value, sample), window) in input.iter_mut().zip(part).zip(&self.window) {
                *value = f64::from(*sample) * window;
            }
            if transform.process(&mut input, &mut output).is_err() {
                continue;
            }
            for (mel, filter) in self.filters.chunks_exact(bins).enumerate() {
                let power: f64 = filter.iter().zip(&output).map(|(weight, value)| weight * value.norm_sqr()).sum();
                logs[mel * frames + frame] = power.max(1e-10).log10();
            }
        }
        let floor = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max) - 8.0;
        logs.into_iter().map(|log| ((log.max(floor) + 4.0) / 4.0) as f32).collect()
    }
}

/// The samples with `count` more on each side, mirrored at the ends (the ends themselves are not repeated).
fn reflected(samples: &[f32], count: usize) -> Vec<f32> {
    let last = samples.len().saturating_sub(1);
    let at = |place: i64| {
        let period = num::int(2 * last.max(1));
        let place = usize::try_from(place.rem_euclid(period)).unwrap_or(0);
        samples.get(if place > last { (2 * last).saturating_sub(place) } else { place }).copied().unwrap_or(0.0)
    };
    let (count, length) = (num::int(count), num::int(samples.len()));
    (-count..length + count).map(at).collect()
}

/// Triangles on Slaney's mel scale from 0 Hz to [`HIGHEST`], each of area 1.
fn filters(mels: usize, bins: usize, rate: f64) -> Vec<f64> {
    let (low, high) = (mel(0.0), mel(HIGHEST));
    let edges: Vec<f64> = (0..mels + 2).map(|at| hertz(low + (high - low) * float(at) / float(mels + 1))).collect();
    let frequency = |bin: usize| float(bin) * rate / 2.0 / float(bins - 1).max(1.0);
    let triangle = |edges: &[f64]| {
        let (from, top, to) = (edges[0], edges[1], edges[2]);
        (0..bins)
            .map(|bin| ((frequency(bin) - from) / (top - from)).min((to - frequency(bin)) / (to - top)).max(0.0) * 2.0 / (to - from))
            .collect::<Vec<_>>()
    };
    edges.windows(3).flat_map(triangle).collect()
}

/// Slaney's mel scale: linear below 1000 Hz, logarithmic above.
fn mel(frequency: f64) -> f64 {
    if frequency < 1000.0 { 3.0 * frequency / 200.0 } else { 15.0 + (frequency / 1000.0).ln() * 27.0 / 6.4_f64.ln() }
}

fn hertz(mel: f64) -> f64 {
    if mel < 15.0 { 200.0 * mel / 3.0 } else { 1000.0 * (6.4_f64.ln() / 27.0 * (mel - 15.0)).exp() }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "sizes of windows and filters are small")]
fn float(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_mirrored_at_their_ends() {
        assert_eq!(reflected(&[1.0, 2.0, 3.0], 2), [3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]);
        assert_eq!(reflected(&[1.0], 1), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn mels_go_back_to_hertz() {
        for frequency in [0.0, 500.0, 1000.0, 4000.0, 8000.0] {
            assert!((hertz(mel(frequency)) - frequency).abs() < 1e-6);
        }
    }
}
