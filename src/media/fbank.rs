//! Mel filter banks as Kaldi has them, which transformers' `ASTFeatureExtractor` takes (`audio_utils.py`: `spectrogram` with `mel_scale="kaldi"`).

use std::f64::consts::PI;

use realfft::RealFftPlanner;

use crate::num::float;

/// A filter bank's settings, with its filters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FilterBank {
    bands: usize,
    /// Samples of a transform, a power of two.
    size: usize,
    hop: usize,
    window: Vec<f64>,
    /// `[bands, size / 2 + 1]`.
    filters: Vec<f64>,
}

/// The lowest frequency that counts, in Hz; the highest is half the rate.
const LOWEST: f64 = 20.0;
/// How much of each sample is taken from the one behind it.
const PREEMPHASIS: f64 = 0.97;
/// The least power of a band: the smallest step of float32 at 1.
const LEAST: f64 = 1.192_092_955_078_125e-7;

impl FilterBank {
    /// So many bands, of windows of 25 ms every 10 ms.
    pub(super) fn new(bands: usize, rate: u32) -> Self {
        let (length, hop) = (millis(rate, 25), millis(rate, 10));
        let size = length.next_power_of_two();
        // A symmetric Hann window.
        let window = (0..length).map(|at| 0.5 - 0.5 * (2.0 * PI * float(at) / float(length - 1).max(1.0)).cos()).collect();
        Self { bands, size, hop, window, filters: filters(bands, size / 2 + 1, f64::from(rate)) }
    }

    /// Samples of a transform, and from one to the next.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.size, self.hop)
    }

    /// `[frames, bands]`: logarithms of powers, of as many whole windows as there are, at most `most`.
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "computed in float64, rounded once")]
    pub(super) fn of(&self, samples: &[f32], most: usize) -> Vec<f32> {
        let (bins, length) = (self.size / 2 + 1, self.window.len());
        let transform = RealFftPlanner::<f64>::new().plan_fft_forward(self.size);
        let (mut input, mut output) = (transform.make_input_vec(), transform.make_output_vec());
        let mut logs = vec![];
        for part in samples.windows(length).step_by(self.hop).take(most) {
            self.fill(&mut input, part);
            if transform.process(&mut input, &mut output).is_err() {
                continue;
            }
            for filter in self.filters.chunks_exact(bins) {
                let power: f64 = filter.iter().zip(&output).map(|(weight, value)| weight * value.norm_sqr()).sum();
                logs.push(power.max(LEAST).ln() as f32);
            }
        }
        logs
    }

    /// A window of samples without their mean, with high tones raised.
    fn fill(&self, input: &mut [f64], part: &[f32]) {
        input.fill(0.0);
        let mean = part.iter().copied().map(f64::from).sum::<f64>() / float(part.len().max(1));
        let mut before = part.first().map_or(0.0, |first| f64::from(*first) - mean);
        for ((value, sample), window) in input.iter_mut().zip(part).zip(&self.window) {
            let own = f64::from(*sample) - mean;
            *value = (own - PREEMPHASIS * before) * window;
            before = own;
        }
    }
}

fn millis(rate: u32, count: u32) -> usize {
    usize::try_from(rate.saturating_mul(count) / 1000).unwrap_or_default().max(1)
}

/// Triangles on Kaldi's mel scale, straight there.
fn filters(bands: usize, bins: usize, rate: f64) -> Vec<f64> {
    let mel = |frequency: f64| 1127.0 * (frequency / 700.0).ln_1p();
    let (low, high) = (mel(LOWEST), mel((rate / 2.0).floor()));
    let edges: Vec<f64> = (0..bands + 2).map(|at| low + (high - low) * float(at) / float(bands + 1)).collect();
    let width = rate / (2.0 * float(bins - 1).max(1.0));
    let triangle = |edges: &[f64]| {
        let (from, top, to) = (edges[0], edges[1], edges[2]);
        let at = move |bin: usize| {
            let here = mel(width * float(bin));
            ((here - from) / (top - from)).min((to - here) / (to - top)).max(0.0)
        };
        (0..bins).map(at).collect::<Vec<_>>()
    };
    edges.windows(3).flat_map(triangle).collect()
}
