//! Beam search: the most probable ways on of several texts, and the texts that ended, kept as transformers' `_beam_search` keeps them.

use super::writing::{Ending, Writing, normalize};
use crate::error::{ErrorKind, Result};
use crate::measure::float;

/// Texts of one source that are followed, and those that ended.
pub(super) struct Search<'a> {
    writing: &'a Writing,
    beams: Vec<Beam>,
    /// With scores that lengths have divided, the best first.
    ended: Vec<Beam>,
    is_over: bool,
}

/// A text that is followed.
#[derive(Clone, Debug)]
struct Beam {
    tokens: Vec<i32>,
    score: f64,
}

/// A token behind one of the texts.
struct Candidate {
    from: usize,
    token: i32,
    score: f64,
}

impl<'a> Search<'a> {
    pub(super) fn new(writing: &'a Writing) -> Self {
        let beam = |at: usize| Beam { tokens: writing.start.clone(), score: if at == 0 { 0.0 } else { f64::NEG_INFINITY } };
        Self { writing, beams: (0..writing.beams.max(1)).map(beam).collect(), ended: vec![], is_over: writing.most() == 0 }
    }

    pub(super) fn goes_on(&self) -> bool {
        !self.is_over
    }

    /// The texts, all of one length.
    pub(super) fn texts(&self) -> Vec<Vec<i32>> {
        self.beams.iter().map(|beam| beam.tokens.clone()).collect()
    }

    /// Follows the best ways on, by the logits behind each text for a source of these tokens. Gives the text that each goes on from.
    ///
    /// # Errors
    /// Logits that are no numbers.
    pub(super) fn follow(&mut self, logits: Vec<Vec<f32>>, source: &[i32]) -> Result<Vec<usize>> {
        let (count, length) = (self.beams.len(), self.beams[0].tokens.len() + 1);
        let mut next: Vec<(usize, Beam)> = vec![];
        for (rank, candidate) in self.candidates(logits, source)?.into_iter().enumerate() {
            let mut tokens = self.beams[candidate.from].tokens.clone();
            if !self.writing.stop.contains(&candidate.token) {
                tokens.push(candidate.token);
                next.push((candidate.from, Beam { tokens, score: candidate.score }));
            } else if rank < count {
                self.ended.push(Beam { tokens, score: self.weighed(candidate.score, length) });
            }
        }
        next.truncate(count);
        self.ended.sort_by(|one, other| other.score.total_cmp(&one.score));
        self.ended.truncate(count);
        let is_last = self.written(length) >= self.writing.most();
        if !is_last && self.is_decided(next.first().map(|(_, beam)| beam.score), length) {
            next.clear();
        }
        self.is_over = is_last || next.is_empty();
        let order = next.iter().map(|(from, _)| *from).chain(std::iter::repeat(0)).take(count).collect();
        let filler = || {
            let tokens = self.beams[0].tokens.iter().copied().chain([self.writing.filler()]).collect();
            Beam { tokens, score: f64::NEG_INFINITY }
        };
        let rest = std::iter::repeat_with(filler);
        self.beams = next.into_iter().map(|(_, beam)| beam).chain(rest).take(count).collect();
        Ok(order)
    }

    /// The best text: of those that ended, and of those that could not go on.
    pub(super) fn best(self) -> Vec<i32> {
        let open = self.beams.iter().map(|beam| Beam { score: self.weighed(beam.score, beam.tokens.len()), ..beam.clone() });
        let open = open.filter(|beam| beam.score > f64::NEG_INFINITY);
        // Of equal ones the first.
        let best = self.ended.iter().cloned().chain(open).rev().max_by(|one, other| one.score.total_cmp(&other.score));
        best.map(|beam| self.writing.written(&beam.tokens)).unwrap_or_default()
    }

    /// Whether those that ended are enough, and none that goes on is waited for, of which the best has this score.
    fn is_decided(&self, best: Option<f64>, length: usize) -> bool {
        let Some(best) = best.filter(|best| *best > f64::NEG_INFINITY) else { return true };
        let Some(worst) = self.ended.last().filter(|_| self.ended.len() == self.beams.len()).map(|beam| beam.score) else { return false };
        let longest = self.writing.start.len() + self.writing.most();
        match self.writing.ending {
            Ending::AtOnce => true,
            Ending::Impossible if self.writing.length_penalty > 0.0 => worst >= self.weighed(best, longest),
            Ending::Unlikely | Ending::Impossible => worst >= self.weighed(best, length),
        }
    }

    /// How many tokens were written of a text of this length.
    fn written(&self, length: usize) -> usize {
        length - self.writing.start.len()
    }

    fn weighed(&self, score: f64, length: usize) -> f64 {
        score / float(self.written(length).max(1)).powf(self.writing.length_penalty)
    }

    /// The most probable ways on, of all texts together: so many that enough are left where the best all end.
    fn candidates(&self, logits: Vec<Vec<f32>>, source: &[i32]) -> Result<Vec<Candidate>> {
        let count = (1 + self.writing.stop.len()).max(2) * self.beams.len();
        let mut all: Vec<Candidate> = vec![];
        for (from, (beam, mut scores)) in self.beams.iter().zip(logits).enumerate() {
            // As transformers: log-probabilities are those of all tokens, and of those that are left some are taken out.
            normalize(&mut scores);
            if scores.iter().any(|score| score.is_nan()) {
                return Err(ErrorKind::Diverged("the model's logits are no numbers".to_owned()).into());
            }
            let scores = self.writing.processed(scores, &beam.tokens, source);
            let is_left = |(score, _): &(&f32, i32)| **score > f32::NEG_INFINITY;
            let candidate = |(score, token): (&f32, i32)| Candidate { from, token, score: beam.score + f64::from(*score) };
            let mut own: Vec<Candidate> = scores.iter().zip(0..).filter(is_left).map(candidate).collect();
            own.sort_by(|one, other| other.score.total_cmp(&one.score));
            own.truncate(count);
            all.extend(own);
        }
        all.sort_by(|one, other| other.score.total_cmp(&one.score));
        all.truncate(count);
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::writing::Rules;
    use super::*;

    type Table = [[f32; 8]; 8];

    /// The logits behind each token of a small vocabulary, in which a text begins with 0 and ends with 1.
    #[rustfmt::skip]
    const FIRST: Table = [
        [0.0, 0.4, -0.3, -1.1, -0.5, -1.2, 0.1, 1.6], [-0.6, -0.7, 0.6, 0.4, 0.1, -1.1, -0.0, 0.8], [-1.6, -0.5, -2.3, -1.5, -2.2, -0.3, -1.5, 0.3],
        [0.2, -0.2, -3.0, -0.6, -0.1, 0.1, -1.8, -0.6], [-1.2, -1.0, 1.3, -1.0, -0.0, 1.1, -0.7, -0.1], [0.1, 0.1, -1.5, 0.1, 1.6, -1.9, 1.0, 0.1],
        [-0.8, 2.4, 0.9, -1.4, 0.1, 0.7, -0.2, 0.8], [-0.1, 0.8, 1.7, -0.8, 0.2, -0.6, 0.2, -1.4],
    ];
    #[rustfmt::skip]
    const SECOND: Table = [
        [0.4, 1.0, 0.4, -1.6, 1.1, 0.5, -0.6, 0.7], [0.4, 0.4, 0.0, 0.7, -0.9, -0.2, -0.6, 0.7], [0.0, -0.4, -0.9, -0.3, 0.0, -0.3, 1.6, 1.2],
        [-3.3, -2.3, -0.2, -0.5, 0.3, 0.3, 2.5, -1.3], [-0.5, 2.5, 0.8, 0.8, -0.6, -2.0, 0.2, 0.1], [-1.5, -0.8, -0.1, -1.1, -0.1, 0.1, 0.0, -0.6],
        [0.7, 1.1, 0.4, -1.0, 0.9, -0.6, 1.1, -1.3], [1.1, -0.0, -1.5, -0.4, 0.1, 0.3, -1.2, -1.3],
    ];

    fn writing(beams: usize, rules: Rules) -> Writing {
        let ending = Ending::Unlikely;
        Writing { start: vec![0], stop: vec![1], new_tokens: 6, positions: None, rules, beams, length_penalty: 1.0, ending }
    }

    fn found(table: &Table, writing: &Writing) -> Vec<i32> {
        let row = |text: &Vec<i32>| table[usize::try_from(text[text.len() - 1]).expect("a token")].to_vec();
        let mut search = Search::new(writing);
        while search.goes_on() {
            let logits = search.texts().iter().map(row).collect();
            search.follow(logits, &[]).expect("numbers");
        }
        search.best()
    }

    /// What transformers 4.57's `generate` finds with the same logits and settings.
    #[test]
    fn texts_are_those_that_transformers_finds() {
        let with = |beams, rules| writing(beams, rules);
        let plain = |beams| writing(beams, Rules::default());
        let bad = || vec![vec![7], vec![4, 2]];
        #[rustfmt::skip]
        let rows: Vec<(&str, &Table, Writing, &[i32])> = vec![
            ("3 beams", &FIRST, plain(3), &[7, 2, 7, 2, 7, 2]),
            ("forced_eos_token_id", &FIRST, with(3, Rules { forced_last: vec![1], ..Rules::default() }), &[7, 2, 7, 2, 7]),
            ("forced_bos_token_id", &FIRST, Writing { length_penalty: 2.0, ..with(3, Rules { forced: [(1, 5)].into(), ..Rules::default() }) }, &[5, 4, 2, 7, 2, 7]),
            ("early_stopping", &FIRST, Writing { ending: Ending::AtOnce, ..plain(3) }, &[7]),
            ("no_repeat_ngram_size", &FIRST, with(3, Rules { no_repeat: 2, ..Rules::default() }), &[7, 2, 5, 4, 2, 7]),
            ("repetition_penalty", &FIRST, with(3, Rules { repetition_penalty: 1.5, ..Rules::default() }), &[7, 2, 5, 6]),
            ("bad_words_ids", &FIRST, with(3, Rules { bad_words: bad(), ..Rules::default() }), &[2, 5, 4, 5, 6]),
            ("renormalize_logits", &FIRST, with(3, Rules { bad_words: bad(), renormalize: true, ..Rules::default() }), &[6]),
            ("suppress_tokens", &FIRST, with(2, Rules { suppressed: vec![2], suppressed_first: vec![7], ..Rules::default() }), &[6]),
            ("begin_suppress_tokens", &FIRST, with(2, Rules { suppressed_first: vec![7], ..Rules::default() }), &[0, 7, 2, 7, 2, 7]),
            ("two ends", &FIRST, Writing { stop: vec![1, 5], length_penalty: 0.5, ..plain(2) }, &[7]),
            ("length_penalty 0", &FIRST, Writing { length_penalty: 0.0, ..plain(2) }, &[]),
            ("early_stopping false", &SECOND, Writing { length_penalty: 1.5, ..plain(2) }, &[7, 0, 4]),
            ("early_stopping never", &SECOND, Writing { length_penalty: 1.5, ending: Ending::Impossible, ..plain(2) }, &[7, 0, 7, 0, 4]),
            ("early_stopping true", &SECOND, Writing { length_penalty: 1.5, ending: Ending::AtOnce, ..plain(2) }, &[4]),
        ];
        let wrong = rows.iter().filter_map(|(what, table, writing, expected)| {
            let found = found(table, writing);
            (found != *expected).then(|| format!("{what}: {found:?}, expected {expected:?}"))
        });
        let wrong: Vec<String> = wrong.collect();
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    #[test]
    fn no_number_among_logits_is_an_error() {
        let writing = writing(2, Rules::default());
        assert!(Search::new(&writing).follow(vec![vec![f32::NAN; 8]; 2], &[]).is_err());
    }
}
