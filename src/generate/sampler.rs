//! Which token comes next.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::{Error, ErrorKind, Result};
use crate::num;

/// How tokens are chosen, with the names and the order of transformers' logits processors (`generation/logits_process.py`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0: always the most probable token.
    pub temperature: f64,
    /// Only so many of the most probable tokens may come; none: all.
    pub top_k: Option<usize>,
    /// Only the most probable tokens that together have this probability may come.
    pub top_p: f64,
    /// What the logits of tokens that have come already are divided by (multiplied with, where they are below 0); 1: nothing.
    pub repetition_penalty: f64,
    /// Decides the choices.
    pub seed: u64,
}

/// Always the most probable token.
impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: 1.0, repetition_penalty: 1.0, seed: 42 }
    }
}

/// Chooses tokens.
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

/// A token that may come.
#[derive(Clone, Copy)]
struct Candidate {
    token: usize,
    weight: f64,
}

impl Sampler {
    /// A sampler at the start of its choices.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) for numbers that make no sense.
    pub fn new(sampling: Sampling) -> Result<Self> {
        let Sampling { temperature, top_p, repetition_penalty, .. } = sampling;
        let rows: [(&'static str, f64, &str, bool); 3] = [
            ("temperature", temperature, "a number from 0", temperature >= 0.0),
            ("top-p", top_p, "a number above 0, up to 1", top_p > 0.0 && top_p <= 1.0),
            ("repetition penalty", repetition_penalty, "a number above 0", repetition_penalty > 0.0),
        ];
        match rows.into_iter().find(|(_, value, _, is_fine)| !(*is_fine && value.is_finite())) {
            Some((what, value, expected, _)) => return Err(Error::mismatch(what, expected, value)),
            None => rows
                .into_iter()
                .try_for_each(|(what, value, ..)| num::in_float32(value, |expected, found| Error::mismatch(what, expected, found)))?,
        }
        Ok(Self { sampling, random: ChaCha8Rng::seed_from_u64(sampling.seed) })
    }

    /// The next token, after the tokens so far.
    ///
    /// # Errors
    /// [`Diverged`](ErrorKind::Diverged) if there is no logit that is a number.
    pub fn pick(&mut self, mut logits: Vec<f32>, tokens: &[i32]) -> Result<i32> {
        self.penalize(&mut logits, tokens);
        let token = if self.sampling.temperature > 0.0 { self.sample(&logits) } else { most_probable(&logits) };
        let token = token.and_then(|token| i32::try_from(token).ok());
        token.ok_or_else(|| ErrorKind::Diverged("the model's logits are no numbers".to_owned()).into())
    }

    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "logits are float32, the penalty is not")]
    fn penalize(&self, logits: &mut [f32], tokens: &[i32]) {
        let penalty = self.sampling.repetition_penalty as f32;
        let mut seen: Vec<usize> = tokens.iter().filter_map(|token| usize::try_from(*token).ok()).collect();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some(logit) = logits.get_mut(token) {
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
    }

    fn sample(&mut self, logits: &[f32]) -> Option<usize> {
        let most = f64::from(logits[most_probable(logits)?]);
        let weight = |logit: f32| ((f64::from(logit) - most) / self.sampling.temperature).exp();
        let candidates = logits.iter().enumerate().filter(|(_, logit)| !logit.is_nan());
        let mut candidates: Vec<Candidate> = candidates.map(|(token, logit)| Candidate { token, weight: weight(*logit) }).collect();
        // Sorting is stable: equal weights stay in the order of their tokens.
        candidates.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        candidates.truncate(self.sampling.top_k.unwrap_or(usize::MAX).max(1));
        self.keep_top_p(&mut candidates);
        let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        let mut left = self.uniform() * total;
        let chosen = candidates.iter().find(|candidate| {
            left -= candidate.weight;
            left < 0.0
        });
        chosen.or(candidates.first()).map(|candidate| candidate.token)
    }

    /// Keeps the smallest number of candidates that together have the probability `top_p`.
    fn keep_top_p(&self, candidates: &mut Vec<Candidate>) {
        let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        let mut sum = 0.0;
        let enough = candidates.iter().position(|candidate| {
            sum += candidate.weight;
            sum >= self.sampling.top_p * total
        });
        if let Some(last) = enough {
            candidates.truncate(last + 1);
        }
    }

    /// A number from 0 to below 1.
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "53 bits are what a double has")]
    fn uniform(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The first of the largest logits.
fn most_probable(logits: &[f32]) -> Option<usize> {
    let numbers = logits.iter().enumerate().filter(|(_, logit)| !logit.is_nan());
    let best = numbers.fold(None, |best: Option<(usize, f32)>, (token, logit)| match best {
        Some((_, most)) if *logit <= most => best,
        _ => Some((token, *logit)),
    });
    best.map(|(token, _)| token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sampling: Sampling, logits: &[f32]) -> Result<Vec<u32>> {
        let mut sampler = Sampler::new(sampling)?;
        let mut counts = vec![0; logits.len()];
        for _ in 0..10_000 {
            let token = sampler.pick(logits.to_vec(), &[])?;
            counts[usize::try_from(token).expect("a token is not negative")] += 1;
        }
        Ok(counts)
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() -> Result<()> {
        let mut sampler = Sampler::new(Sampling::default())?;
        assert_eq!(sampler.pick(vec![0.0, 3.0, 3.0, f32::NAN], &[])?, 1);
        assert!(sampler.pick(vec![f32::NAN; 3], &[]).is_err());
        let mut penalized = Sampler::new(Sampling { repetition_penalty: 2.0, ..Sampling::default() })?;
        assert_eq!(penalized.pick(vec![2.0, 3.0, -1.0], &[1, 1])?, 0);
        Ok(())
    }

    #[test]
    fn tokens_come_as_often_as_their_probability_says() -> Result<()> {
        let logits = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
        let warm = Sampling { temperature: 1.0, ..Sampling::default() };
        // Standard deviations are below 51.
        let seen = counts(warm, &logits)?;
        assert!(seen.iter().zip([5000, 3000, 2000]).all(|(seen, expected): (&u32, u32)| seen.abs_diff(expected) < 250), "{seen:?}");
        assert_eq!(counts(Sampling { top_k: Some(2), ..warm }, &logits)?[2], 0);
        assert_eq!(counts(Sampling { top_p: 0.5, ..warm }, &logits)?[1..], [0, 0]);
        assert!(counts(Sampling { temperature: 0.25, ..warm }, &logits)?[2] < 500);
        assert_eq!(counts(warm, &logits)?, seen);
        Ok(())
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        for sampling in [
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { repetition_penalty: f64::NAN, ..Sampling::default() },
            Sampling { repetition_penalty: 1e-300, ..Sampling::default() },
            Sampling { temperature: 1e300, ..Sampling::default() },
        ] {
            assert!(Sampler::new(sampling).is_err(), "{sampling:?}");
        }
    }
}
