//! Metrics of a task, from what a graph predicts for rows: the one place that says which metrics a task has.

mod vectors;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::vectors::Vectors;
use super::frames::counted_frames;
use crate::adapter::config::Task;
use crate::data::{Answer, Example, IGNORED, Labels, Tokenizer, UNLABELLED};
use crate::error::{Error, Result};
use crate::measure::{self, Confusion, Entities, ErrorRate, LabelSets};
use crate::num;
use crate::ort::HostTensor;
use crate::train::formula::FRAMES;
use crate::train::losses::{COMPLETION, DESIRABLE, END_POSITIONS, LABELS, REFERENCE};
use crate::train::plan::LossPlan;

/// What is measured, by name, in the order in which it is told.
pub type Metrics = Vec<(&'static str, f64)>;

/// What rows and predictions are gathered for.
pub struct Meter {
    kind: Kind,
    /// Rows whose labels are known.
    rows: usize,
}

enum Kind {
    /// The loss, and where predictions are tokens the share of right ones: counted in the graph.
    Tokens,
    Classes(Confusion),
    Sets(LabelSets),
    Numbers {
        predicted: Vec<f64>,
        right: Vec<f64>,
    },
    Relevance {
        scores: Vec<f64>,
        labels: Vec<f64>,
        queries: Vec<String>,
        above: f64,
    },
    Tags {
        entities: Entities,
        right: usize,
        all: usize,
        names: Vec<String>,
    },
    /// The best answer of all windows of a text, by the text.
    Answers(BTreeMap<String, Best>),
    Vectors(Vectors),
    Rewards {
        chosen: Vec<f64>,
        rejected: Vec<f64>,
        beta: f64,
        of_means: bool,
    },
    Scores {
        chosen: Vec<f64>,
        rejected: Vec<f64>,
    },
    /// What is heard in each frame, by whom symbols are spelled.
    Frames {
        rate: ErrorRate,
        blank: i32,
        speller: Option<Arc<Tokenizer>>,
    },
}

/// The best answer so far to a question.
struct Best {
    score: f32,
    text: String,
    right: Arc<[String]>,
}

/// What a loss makes of the outputs that are measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scoring {
    /// What log-probabilities are multiplied with.
    pub beta: f64,
    /// Whether a completion's mean log-probability counts, not its log-ratio to the reference's.
    pub of_means: bool,
    /// The output above which a passage is relevant: a probability of a half, as a logit where the loss learns logits.
    pub relevant_above: f64,
}

impl Scoring {
    /// That of a loss.
    #[must_use]
    pub fn of(loss: &LossPlan) -> Self {
        let relevant_above = if loss.is_of_probabilities() { 0.0 } else { 0.5 };
        Self { beta: loss.options.get("beta").copied().unwrap_or(1.0), of_means: !loss.needs_reference(), relevant_above }
    }
}

impl Meter {
    /// Forgets what was gathered.
    pub fn clear(&mut self) {
        self.rows = 0;
        match &mut self.kind {
            Kind::Tokens => {}
            Kind::Classes(table) => *table = Confusion::new(table.classes()),
            Kind::Sets(sets) => *sets = LabelSets::new(sets.labels()),
            Kind::Numbers { predicted, right } => {
                predicted.clear();
                right.clear();
            }
            Kind::Relevance { scores, labels, queries, .. } => {
                scores.clear();
                labels.clear();
                queries.clear();
            }
            Kind::Tags { entities, right, all, .. } => (*entities, *right, *all) = (Entities::default(), 0, 0),
            Kind::Answers(answers) => answers.clear(),
            Kind::Vectors(vectors) => *vectors = Vectors::default(),
            Kind::Frames { rate, .. } => *rate = ErrorRate::default(),
            Kind::Rewards { chosen, rejected, .. } | Kind::Scores { chosen, rejected } => {
                chosen.clear();
                rejected.clear();
            }
        }
    }

    /// For a task with so many classes, named so where their names are known.
    #[must_use]
    pub fn new(task: Task, classes: usize, names: &[String], scoring: Scoring) -> Self {
        let name = |class: usize| names.get(class).cloned().unwrap_or_else(|| format!("B-{class}"));
        let kind = match task {
            Task::CausalLm | Task::MaskedLm | Task::Seq2SeqLm | Task::SpeechSeq2Seq => Kind::Tokens,
            Task::Ctc => Kind::Frames { rate: ErrorRate::default(), blank: 0, speller: None },
            Task::SeqCls | Task::ImageCls | Task::AudioCls => Kind::Classes(Confusion::new(classes)),
            Task::MultiLabel => Kind::Sets(LabelSets::new(classes)),
            Task::Regression => Kind::Numbers { predicted: vec![], right: vec![] },
            Task::Rerank => Kind::Relevance { scores: vec![], labels: vec![], queries: vec![], above: scoring.relevant_above },
            Task::TokenCls => Kind::Tags { entities: Entities::default(), right: 0, all: 0, names: (0..classes).map(name).collect() },
            Task::Qa => Kind::Answers(BTreeMap::new()),
            Task::Embedding => Kind::Vectors(Vectors::default()),
            Task::Preference => Kind::Rewards { chosen: vec![], rejected: vec![], beta: scoring.beta, of_means: scoring.of_means },
            Task::Reward => Kind::Scores { chosen: vec![], rejected: vec![] },
        };
        Self { kind, rows: 0 }
    }

    /// The same, where frames are symbols that this tokenizer spells, all but the blank of the loss.
    #[must_use]
    pub fn spelled_by(mut self, tokenizer: Option<Arc<Tokenizer>>, loss: &LossPlan) -> Self {
        if let Kind::Frames { blank, speller, .. } = &mut self.kind {
            (*blank, *speller) = (loss.blank(), tokenizer);
        }
        self
    }

    /// The outputs of an evaluation graph that are read beside its sums.
    #[must_use]
    pub fn reads(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Tokens => &[],
            Kind::Answers(_) => &["start_logits", "end_logits"],
            Kind::Vectors(_) => &["embeddings"],
            Kind::Rewards { .. } => &["token_logps"],
            _ => &["logits"],
        }
    }

    /// The names of all that [`metrics`](Self::metrics) may give.
    #[must_use]
    pub fn names(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Tokens => &[],
            Kind::Classes(_) => &["accuracy", "f1_macro", "f1_micro", "mcc"],
            Kind::Sets(_) => &["f1_micro", "f1_macro", "accuracy"],
            Kind::Numbers { .. } => &["mse", "mae", "pearson", "spearman"],
            Kind::Relevance { .. } => &["accuracy", "average_precision", "mrr@10", "ndcg@10"],
            Kind::Tags { .. } => &["accuracy", "precision", "recall", "f1"],
            Kind::Answers { .. } => &["exact_match", "f1"],
            Kind::Frames { .. } => &["wer", "cer"],
            Kind::Vectors(_) => &["cosine", "spearman", "pearson", "recall@1", "recall@10", "mrr@10", "ndcg@10", "triplet_accuracy"],
            Kind::Rewards { .. } | Kind::Scores { .. } => &["accuracy", "margin"],
        }
    }

    /// What is read beside, where a graph gives it.
    #[must_use]
    pub fn may_read(&self) -> &'static [&'static str] {
        if matches!(self.kind, Kind::Frames { .. }) { &[FRAMES] } else { &[] }
    }

    /// Adds what was predicted for rows; `found` as [`reads`](Self::reads) names it, then what of [`may_read`](Self::may_read) there is.
    ///
    /// # Errors
    /// Predictions of another shape than the rows ask for.
    pub fn add(&mut self, rows: &[Example], found: &[HostTensor]) -> Result<()> {
        let Some(first) = found.first() else { return Ok(()) };
        let values = first.to_f32()?;
        let width = first.shape().last().copied().unwrap_or(1).max(1);
        let texts = rows.iter().map(|row| 1 + row.others.len()).max().unwrap_or(1);
        if values.len() < rows.len() * texts * width && !matches!(self.kind, Kind::Tags { .. } | Kind::Frames { .. }) {
            return Err(Error::mismatch("predictions", format!("{} rows of {width}", rows.len() * texts), format!("{:?}", first.shape())));
        }
        let row_of = |at: usize| &values[at * width..(at + 1) * width];
        self.rows += labelled(rows).filter(|(_, row)| row.labels != Labels::Class(UNLABELLED)).count();
        match &mut self.kind {
            Kind::Tokens => {}
            Kind::Classes(table) => {
                for (at, row) in rows.iter().enumerate() {
                    // Of what is no number no class is the largest: such rows are told of, and count in the loss alone.
                    if let (Labels::Class(class @ 0..), false) = (&row.labels, has_nan(row_of(at))) {
                        table.add(num::index((*class).into()), largest(row_of(at)));
                    }
                }
            }
            Kind::Sets(sets) => {
                for (at, row) in labelled(rows).filter(|(at, _)| !has_nan(row_of(*at))) {
                    let right: Vec<bool> = column(row, LABELS).iter().map(|truth| *truth >= 0.5).collect();
                    // A probability of a half is a logit of 0.
                    let predicted: Vec<bool> = row_of(at).iter().map(|logit| *logit > 0.0).collect();
                    sets.add(&right, &predicted);
                }
            }
            Kind::Numbers { predicted, right } => {
                for (at, row) in labelled(rows) {
                    predicted.extend(row_of(at).iter().copied().map(f64::from));
                    right.extend(column(row, LABELS));
                }
            }
            Kind::Relevance { scores, labels, queries, .. } => {
                for (at, row) in labelled(rows) {
                    scores.push(f64::from(row_of(at)[0]));
                    labels.extend(column(row, LABELS).first());
                    queries.push(row.group.clone().unwrap_or_default());
                }
            }
            Kind::Tags { entities, right, all, names } => {
                let length = first.shape().get(1).copied().unwrap_or_default();
                for (at, row) in rows.iter().enumerate() {
                    let Labels::Tokens(labels) = &row.labels else { continue };
                    let (mut own, mut predicted) = (vec![], vec![]);
                    let counts = |place: usize, label: i32| label != IGNORED && place < length && !has_nan(row_of(at * length + place));
                    for (place, label) in labels.iter().enumerate().filter(|(place, label)| counts(*place, **label)) {
                        let class = largest(row_of(at * length + place));
                        let label = num::index((*label).into());
                        *all += 1;
                        *right += usize::from(class == label);
                        own.push(names.get(label).map_or("O", String::as_str));
                        predicted.push(names.get(class).map_or("O", String::as_str));
                    }
                    entities.add(&own, &predicted);
                }
            }
            Kind::Frames { rate, blank, speller } => {
                let frames = first.shape().get(1).copied().unwrap_or_default();
                let own = counted_frames(rows, frames, found.get(1))?;
                for (at, row) in rows.iter().enumerate() {
                    let Some(speller) = speller.as_ref() else { continue };
                    let said = match (row.texts.first(), &row.labels) {
                        (Some(text), _) => text.clone(),
                        (None, Labels::Tokens(symbols)) => speller.spell(symbols)?,
                        (None, _) => continue,
                    };
                    let symbols: Vec<i32> =
                        (0..own[at]).map(|frame| i32::try_from(largest(row_of(at * frames + frame))).unwrap_or_default()).collect();
                    rate.add(&said, &speller.hear(&symbols, *blank)?);
                }
            }
            Kind::Answers(answers) => {
                let ends = found.get(1).ok_or_else(|| Error::not_found("output", END_POSITIONS))?.to_f32()?;
                for (at, row) in rows.iter().enumerate() {
                    let Some(context) = &row.context else { continue };
                    let found = Answer::best(context.answers_by(row_of(at), &ends[at * width..(at + 1) * width]));
                    let score = found.first().map_or(f32::NEG_INFINITY, |answer| answer.score);
                    let text = found.first().map(|answer| context.text_of(answer).to_owned()).unwrap_or_default();
                    let group = row.group.clone().unwrap_or_else(|| format!("line {}", row.line));
                    if answers.get(&group).is_none_or(|best| score > best.score) {
                        answers.insert(group, Best { score, text, right: context.answers.clone() });
                    }
                }
            }
            Kind::Vectors(vectors) => vectors.add(rows, &|text| row_of(text)),
            Kind::Rewards { chosen, rejected, beta, of_means } => {
                let (beta, of_means) = (*beta, *of_means);
                add_rewards(rows, &|text, row| reward(row_of(text), row, beta, of_means), chosen, rejected);
            }
            Kind::Scores { chosen, rejected } => {
                for at in 0..rows.len() {
                    chosen.push(f64::from(row_of(at)[0]));
                    rejected.push(f64::from(row_of(rows.len() + at)[0]));
                }
            }
        }
        Ok(())
    }

    /// The metrics of all rows.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        match &self.kind {
            Kind::Tokens | Kind::Frames { speller: None, .. } => vec![],
            // What nobody counted is no zero.
            _ if self.rows == 0 => vec![],
            Kind::Classes(table) if table.classes() == 0 => vec![],
            Kind::Classes(table) => {
                vec![("accuracy", table.accuracy()), ("f1_macro", table.f1_macro()), ("f1_micro", table.accuracy()), ("mcc", table.mcc())]
            }
            Kind::Sets(sets) => vec![("f1_micro", sets.f1_micro()), ("f1_macro", sets.f1_macro()), ("accuracy", sets.accuracy())],
            Kind::Numbers { predicted, right } => {
                let mut metrics =
                    vec![("mse", measure::mean_squared_error(predicted, right)), ("mae", measure::mean_absolute_error(predicted, right))];
                metrics.extend(measure::pearson(predicted, right).map(|value| ("pearson", value)));
                metrics.extend(measure::spearman(predicted, right).map(|value| ("spearman", value)));
                metrics
            }
            Kind::Relevance { scores, labels, queries, above } => relevance(scores, labels, queries, *above),
            Kind::Tags { entities, right, all, .. } => vec![
                ("accuracy", measure::float(*right) / measure::float((*all).max(1))),
                ("precision", entities.precision()),
                ("recall", entities.recall()),
                ("f1", entities.f1()),
            ],
            Kind::Answers(answers) => {
                let mean = |measure: fn(&str, &[String]) -> f64| {
                    answers.values().map(|best| measure(&best.text, &best.right)).sum::<f64>() / measure::float(answers.len().max(1))
                };
                vec![("exact_match", mean(measure::exact_match)), ("f1", mean(measure::token_f1))]
            }
            Kind::Vectors(vectors) => vectors.metrics(),
            Kind::Frames { rate, .. } => vec![("wer", rate.words()), ("cer", rate.characters())],
            Kind::Rewards { chosen, rejected, .. } | Kind::Scores { chosen, rejected } => preferences(chosen, rejected),
        }
    }

    /// Right answers among classes: which were taken for which.
    #[must_use]
    pub fn confusion(&self) -> Option<&Confusion> {
        if let Kind::Classes(table) = &self.kind { Some(table) } else { None }
    }
}

/// Rows with their places, without those whose labels nobody knows.
fn labelled(rows: &[Example]) -> impl Iterator<Item = (usize, &Example)> {
    rows.iter()
        .enumerate()
        .filter(|(_, row)| row.columns.get(LABELS).is_none_or(|labels| !labels.values.iter().any(|label| label.is_nan())))
}

fn column(row: &Example, name: &str) -> Vec<f64> {
    row.columns.get(name).map(|numbers| numbers.values.clone()).unwrap_or_default()
}

/// Whether one of them is no number.
fn has_nan(values: &[f32]) -> bool {
    values.iter().any(|value| value.is_nan())
}

/// The first of the largest.
fn largest(values: &[f32]) -> usize {
    values.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (at, &value)| if value > best.1 { (at, value) } else { best }).0
}

/// How many of each query's passages are measured.
const DEPTH: usize = 10;

fn relevance(scores: &[f64], labels: &[f64], queries: &[String], above: f64) -> Metrics {
    let relevant: Vec<bool> = labels.iter().map(|label| *label >= 0.5).collect();
    let right = scores.iter().zip(&relevant).filter(|(score, relevant)| (**score > above) == **relevant).count();
    let mut metrics = vec![
        ("accuracy", measure::float(right) / measure::float(scores.len().max(1))),
        ("average_precision", measure::average_precision(scores, &relevant)),
    ];
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    queries.iter().enumerate().for_each(|(at, query)| groups.entry(query).or_default().push(at));
    if groups.values().any(|group| group.len() > 1) {
        let of_group = |group: &Vec<usize>| {
            let order = measure::ranks(&group.iter().map(|&at| scores[at]).collect::<Vec<_>>());
            let ranked: Vec<usize> = order.into_iter().map(|place| group[place]).collect();
            let all: Vec<f64> = group.iter().map(|&at| labels[at]).collect();
            let reciprocal = measure::reciprocal_rank(ranked.iter().map(|&at| relevant[at]), DEPTH);
            (reciprocal, measure::discounted_gain(ranked.iter().map(|&at| labels[at]), &all, DEPTH))
        };
        let (reciprocal, gain) = groups.values().map(of_group).fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        let count = measure::float(groups.len());
        metrics.extend([("mrr@10", reciprocal / count), ("ndcg@10", gain / count)]);
    }
    metrics
}

fn preferences(chosen: &[f64], rejected: &[f64]) -> Metrics {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / measure::float(values.len().max(1));
    let mut metrics = vec![];
    if chosen.len() == rejected.len() {
        let right = chosen.iter().zip(rejected).filter(|(chosen, rejected)| chosen > rejected).count();
        metrics.push(("accuracy", measure::float(right) / measure::float(chosen.len().max(1))));
    }
    metrics.push(("margin", mean(chosen) - mean(rejected)));
    metrics
}

/// The reward of a text by the log-probabilities of its tokens: `β` times their sum over the completion less the reference's, or their mean.
fn reward(log_p: &[f32], row: &Example, beta: f64, of_means: bool) -> f64 {
    let mask = column(row, COMPLETION);
    let sum: f64 = log_p.iter().zip(&mask).map(|(log_p, counts)| f64::from(*log_p) * counts).sum();
    let length: f64 = mask.iter().sum::<f64>().max(1.0);
    beta * if of_means { sum / length } else { sum - column(row, REFERENCE).first().copied().unwrap_or_default() }
}

/// Rewards of pairs, and of completions that are told to be desirable or not.
fn add_rewards(rows: &[Example], reward: &dyn Fn(usize, &Example) -> f64, chosen: &mut Vec<f64>, rejected: &mut Vec<f64>) {
    for (at, row) in rows.iter().enumerate() {
        match (row.others.first(), row.columns.get(DESIRABLE)) {
            (_, Some(label)) if label.values.first() == Some(&1.0) => chosen.push(reward(at, row)),
            (_, Some(_)) => rejected.push(reward(at, row)),
            (Some(other), None) => {
                chosen.push(reward(at, row));
                rejected.push(reward(rows.len() + at, other));
            }
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_is_relevant_from_a_half_on_whether_logits_or_numbers_are_learnt() {
        let accuracy = |above| relevance(&[0.1, 0.9, -2.0], &[0.0, 1.0, 0.0], &[], above)[0];
        assert_eq!(accuracy(Scoring::of(&LossPlan { name: "mse".to_owned(), ..LossPlan::default() }).relevant_above), ("accuracy", 1.0));
        let of_logits = accuracy(Scoring::of(&LossPlan { name: "bce".to_owned(), ..LossPlan::default() }).relevant_above);
        assert!((of_logits.1 - 2.0 / 3.0).abs() < 1e-9, "{of_logits:?}");
    }
}
