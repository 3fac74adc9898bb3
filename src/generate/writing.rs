//! What an encoder-decoder writes: where its texts begin and end, and which tokens may come (transformers' `generation/logits_process.py`).

use std::collections::BTreeMap;

/// What is written, and when it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Writing {
    /// The tokens that the decoder begins with.
    pub start: Vec<i32>,
    /// Tokens that end a text.
    pub stop: Vec<i32>,
    /// Tokens to write at most.
    pub new_tokens: usize,
    /// The most tokens that a text may have with those that it begins with, where the model has a limit.
    pub positions: Option<usize>,
    /// Which tokens may come.
    pub rules: Rules,
    /// Texts that are followed at once (beam search); 1 follows the sampler.
    pub beams: usize,
    /// The power of its length that a text's log-probability is divided by, in beam search.
    pub length_penalty: f64,
    /// When beam search ends.
    pub ending: Ending,
}

/// When beam search ends, once as many texts have ended as are followed (`early_stopping`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// When the best text that goes on, at its length, is no better than the worst that ended (`false`).
    #[default]
    Unlikely,
    /// When it could not become better at any length (`"never"`).
    Impossible,
    /// At once (`true`).
    AtOnce,
}

/// Which tokens may come, in the order in which transformers looks.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// What the scores of tokens that have come are divided by (multiplied with, where they are below 0); 1: nothing.
    pub repetition_penalty: f64,
    /// So many tokens in a row come once; 0: as often as they like.
    pub no_repeat: usize,
    /// So many tokens in a row that the source has do not come; 0: they may.
    pub no_repeat_of_source: usize,
    /// Tokens in a row that never come.
    pub bad_words: Vec<Vec<i32>>,
    /// No text ends before it has so many tokens, with those that it begins with.
    pub least: usize,
    /// Tokens that certainly come at these places, counted from the start.
    pub forced: BTreeMap<usize, i32>,
    /// Tokens of which one certainly comes where a text has as many as it may; none: any.
    pub forced_last: Vec<i32>,
    /// Tokens that never come.
    pub suppressed: Vec<i32>,
    /// Tokens that do not come first, where nothing is forced to.
    pub suppressed_first: Vec<i32>,
    /// Whether what is left is made log-probabilities again.
    pub renormalize: bool,
}

/// Any token may come.
impl Default for Rules {
    fn default() -> Self {
        Self {
            repetition_penalty: 1.0,
            no_repeat: 0,
            no_repeat_of_source: 0,
            bad_words: vec![],
            least: 0,
            forced: BTreeMap::new(),
            forced_last: vec![],
            suppressed: vec![],
            suppressed_first: vec![],
            renormalize: false,
        }
    }
}

impl Writing {
    /// How many tokens may come.
    pub(super) fn most(&self) -> usize {
        let room = self.positions.map_or(usize::MAX, |most| most.saturating_sub(self.start.len()));
        self.new_tokens.min(room)
    }

    /// What stands behind a text that has ended.
    pub(super) fn filler(&self) -> i32 {
        self.stop.first().copied().unwrap_or_default()
    }

    /// A text without the tokens that it begins with, and without what ends it and stands behind.
    pub(super) fn written(&self, text: &[i32]) -> Vec<i32> {
        text[self.start.len()..].iter().copied().take_while(|token| !self.stop.contains(token)).collect()
    }

    /// Scores of all tokens with those taken out that may not come behind these `tokens`, of a text for the tokens of `source`. Where a token is forced,
    /// it is certain: its score is 0.
    pub(super) fn processed(&self, mut scores: Vec<f32>, tokens: &[i32], source: &[i32]) -> Vec<f32> {
        let rules = &self.rules;
        penalize(&mut scores, tokens, rules.repetition_penalty);
        hide(&mut scores, &followers(tokens, tokens, rules.no_repeat));
        hide(&mut scores, &followers(source, tokens, rules.no_repeat_of_source));
        hide(&mut scores, &self.bad_ends(tokens));
        if tokens.len() < rules.least {
            hide(&mut scores, &self.stop);
        }
        // Whisper forces tokens that it suppresses elsewhere.
        if keep(&mut scores, &self.forced(tokens.len())) {
            return scores;
        }
        hide(&mut scores, &rules.suppressed);
        if tokens.len() == self.first_free() {
            hide(&mut scores, &rules.suppressed_first);
        }
        if rules.renormalize {
            normalize(&mut scores);
        }
        scores
    }

    /// The tokens of which one certainly comes at a place; none: any.
    fn forced(&self, place: usize) -> Vec<i32> {
        if place + 1 == self.start.len() + self.most() && !self.rules.forced_last.is_empty() {
            return self.rules.forced_last.clone();
        }
        self.rules.forced.get(&place).copied().into_iter().collect()
    }

    /// The first place behind the start where nothing is forced.
    fn first_free(&self) -> usize {
        (self.start.len()..=self.start.len() + self.rules.forced.len())
            .find(|place| !self.rules.forced.contains_key(place))
            .unwrap_or_default()
    }

    /// Tokens that would end a row of tokens that never comes.
    fn bad_ends(&self, tokens: &[i32]) -> Vec<i32> {
        let bad = self.rules.bad_words.iter().filter(|words| !matches!(words[..], [word] if self.stop.contains(&word)));
        // As transformers: several tokens are looked for where a text has as many.
        let bad = bad.filter(|words| words.len() == 1 || words.len() <= tokens.len());
        bad.filter_map(|words| words.split_last().filter(|(_, before)| tokens.ends_with(before)).map(|(end, _)| *end)).collect()
    }
}

/// Scores as log-probabilities.
pub(super) fn normalize(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|score| f64::from(score - most).exp()).sum();
    let by = f64::from(most) + sum.ln();
    for score in scores.iter_mut() {
        *score = crate::num::single(f64::from(*score) - by);
    }
}

/// Tokens that stand in `text` behind the last `count` - 1 of `tokens`.
fn followers(text: &[i32], tokens: &[i32], count: usize) -> Vec<i32> {
    let Some(before) = count.checked_sub(1).and_then(|before| tokens.len().checked_sub(before)) else { return vec![] };
    text.windows(count).filter(|row| row[..count - 1] == tokens[before..]).map(|row| row[count - 1]).collect()
}

fn places<'a>(tokens: &'a [i32], scores: &[f32]) -> impl Iterator<Item = usize> + 'a {
    let count = scores.len();
    tokens.iter().filter_map(|token| usize::try_from(*token).ok()).filter(move |place| *place < count)
}

fn hide(scores: &mut [f32], tokens: &[i32]) {
    for place in places(tokens, scores) {
        scores[place] = f32::NEG_INFINITY;
    }
}

/// Makes one of these tokens certain, if the model has any of them.
fn keep(scores: &mut [f32], tokens: &[i32]) -> bool {
    let kept: Vec<usize> = places(tokens, scores).collect();
    if kept.is_empty() {
        return false;
    }
    scores.fill(f32::NEG_INFINITY);
    for place in kept {
        scores[place] = 0.0;
    }
    true
}

fn penalize(scores: &mut [f32], tokens: &[i32], penalty: f64) {
    let mut seen: Vec<usize> = places(tokens, scores).collect();
    seen.sort_unstable();
    seen.dedup();
    for place in seen {
        let score = f64::from(scores[place]);
        scores[place] = crate::num::single(if score < 0.0 { score * penalty } else { score / penalty });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens that may come, of eight.
    fn left(writing: &Writing, tokens: &[i32], source: &[i32]) -> Vec<usize> {
        let scores = writing.processed(vec![1.0; 8], tokens, source);
        (0..8).filter(|token| scores[*token] > f32::NEG_INFINITY).collect()
    }

    #[test]
    fn tokens_that_may_not_come_are_those_of_transformers_processors() {
        let writing = |rules| Writing {
            start: vec![0],
            stop: vec![1],
            new_tokens: 4,
            positions: None,
            rules,
            beams: 1,
            length_penalty: 1.0,
            ending: Ending::default(),
        };
        let all_but = |gone: &[usize]| (0..8).filter(|token| !gone.contains(token)).collect::<Vec<usize>>();
        let none = Rules::default();
        for (what, rules, tokens, expected) in [
            ("nothing is asked", none.clone(), &[0, 2][..], all_but(&[])),
            ("forced_eos_token_id, early", Rules { forced_last: vec![1], ..none.clone() }, &[0, 2, 2], all_but(&[])),
            ("forced_eos_token_id, last", Rules { forced_last: vec![1], ..none.clone() }, &[0, 2, 2, 2], vec![1]),
            ("of several ends one", Rules { forced_last: vec![1, 3], ..none.clone() }, &[0, 2, 2, 2], vec![1, 3]),
            ("forced_bos_token_id", Rules { forced: [(1, 5)].into(), ..none.clone() }, &[0], vec![5]),
            ("a forced token is not suppressed", Rules { forced: [(1, 5)].into(), suppressed: vec![5], ..none.clone() }, &[0], vec![5]),
            (
                "first behind what is forced",
                Rules { forced: [(1, 5)].into(), suppressed_first: vec![3], ..none.clone() },
                &[0, 5],
                all_but(&[3]),
            ),
            ("no_repeat_ngram_size 2", Rules { no_repeat: 2, ..none.clone() }, &[0, 2, 3, 2, 4, 2], all_but(&[3, 4])),
            ("no_repeat_ngram_size 3, short", Rules { no_repeat: 3, ..none.clone() }, &[0], all_but(&[])),
            ("encoder_no_repeat_ngram_size 2", Rules { no_repeat_of_source: 2, ..none.clone() }, &[0, 6], all_but(&[7])),
            ("min_length", Rules { least: 3, ..none.clone() }, &[0, 2], all_but(&[1])),
            ("min_length, reached", Rules { least: 3, ..none.clone() }, &[0, 2, 2], all_but(&[])),
            (
                "bad_words_ids",
                Rules { bad_words: vec![vec![4], vec![2, 3], vec![6, 5], vec![1]], ..none.clone() },
                &[0, 2],
                all_but(&[3, 4]),
            ),
            ("bad_words_ids, longer than the text", Rules { bad_words: vec![vec![0, 3]], ..none }, &[0], all_but(&[])),
        ] {
            assert_eq!(left(&writing(rules), tokens, &[6, 7, 1]), expected, "{what}");
        }
    }
}
