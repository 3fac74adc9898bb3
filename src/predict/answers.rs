//! What a model gives for a row, in words: classes by their names, entities, answers, scores, vectors.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::numbers::{self, cosine, largest, order, rounded, sigmoid, softmax};
use super::runner::Outputs;
use crate::adapter::config::Task;
use crate::data::{Answer, Asked, Example, IGNORED, Labels, Question, Shown};
use crate::error::{Error, Place, Result};
use crate::measure::entities;
use crate::train::plan::LossPlan;
use crate::training::Source;

/// What of an answer is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// From which probability on a label of many is one of the row's.
    pub threshold: f64,
    /// How many classes, words and answers are told with their probabilities.
    pub top: usize,
    /// What stands before the names of the answer's columns.
    pub prefix: String,
}

/// Labels from a probability of a half on, ten of everything, columns under their own names.
impl Default for Shape {
    fn default() -> Self {
        Self { threshold: 0.5, top: 10, prefix: String::new() }
    }
}

/// What answers are made with.
pub(super) struct Answers<'a> {
    pub source: &'a Source,
    pub shape: &'a Shape,
    pub loss: &'a LossPlan,
    pub names: &'a [String],
}

type Columns = Map<String, Value>;

impl Answers<'_> {
    /// The answers to questions, of what the model gave for each of their parts.
    pub(super) fn of_scores(&self, asked: &[Asked], found: &[Vec<Outputs>]) -> Result<Vec<Columns>> {
        let answer =
            |(row, found): (&Asked, &Vec<Outputs>)| self.answer(&row.question, found).map_err(|error| error.at(Place::Line(row.line)));
        let answers = asked.iter().zip(found).map(answer).collect::<Result<Vec<_>>>()?;
        let without = asked.iter().zip(found).zip(&answers).filter(|((row, found), answer)| self.is_without_numbers(row, found, answer));
        let lines: Vec<usize> = without.map(|((row, _), _)| row.line).collect();
        if let Some(first) = lines.first() {
            tracing::warn!(
                "the model gives no numbers (NaN) for {} of {} rows, from line {first} on: they have no answer",
                lines.len(),
                asked.len()
            );
        }
        Ok(answers)
    }

    /// Whether what the model gave for a row are no numbers, where they count.
    fn is_without_numbers(&self, asked: &Asked, found: &[Outputs], answer: &Columns) -> bool {
        let is_nan = |values: &[f32]| values.iter().any(|value| value.is_nan());
        let tags = || {
            let parts = asked.question.parts.first().zip(found.first());
            parts.is_some_and(|((_, example), found)| places(example).any(|(at, _)| is_nan(row(found, at))))
        };
        match self.source.task() {
            Task::TokenCls => tags(),
            // Places that nobody asks for may be anything.
            Task::Qa | Task::MaskedLm | Task::Ctc | Task::CausalLm => {
                ["prediction", "probability"].iter().any(|name| answer.get(*name).is_some_and(Value::is_null))
            }
            _ => found.iter().flatten().any(|(_, values)| is_nan(values)),
        }
    }

    fn answer(&self, question: &Question, found: &[Outputs]) -> Result<Columns> {
        let missing = || Error::not_found("output", "of the model for this row");
        let (example, first) = question.parts.first().map(|(_, example)| example).zip(found.first()).ok_or_else(missing)?;
        let (_, scores) = first.first().ok_or_else(missing)?;
        match self.source.task() {
            _ if self.source.hard_prompt().is_some() => self.word(example, first),
            Task::SeqCls | Task::ImageCls | Task::AudioCls => Ok(self.class(scores)),
            Task::MultiLabel => Ok(self.labels(scores)),
            Task::Regression => Ok(one("prediction", numbers_of(scores))),
            Task::Rerank => {
                Ok(one("prediction", if self.loss.tells_probabilities() { rounded(sigmoid(scores[0])) } else { numbers::json(scores[0]) }))
            }
            Task::TokenCls => Ok(self.tags(question, example, first)),
            Task::Qa => Ok(self.span(question, found)),
            Task::Embedding => Ok(vectors(question, found)),
            Task::Reward => {
                let scores: Vec<f64> = found.iter().filter_map(|found| found.first()?.1.first()).copied().map(f64::from).collect();
                Ok(compared(question, &scores, "score"))
            }
            Task::MaskedLm => self.filled(example, first),
            Task::Ctc => self.spoken(first),
            Task::CausalLm | Task::Seq2SeqLm | Task::Preference | Task::SpeechSeq2Seq => Err(missing()),
        }
    }

    /// A class by its name, or by its number where it has none.
    fn name(&self, class: usize) -> Value {
        self.names.get(class).map_or_else(|| Value::from(class), |name| Value::from(name.as_str()))
    }

    fn named(&self, class: usize) -> String {
        self.names.get(class).cloned().unwrap_or_else(|| class.to_string())
    }

    /// The most probable classes with their probabilities.
    fn probabilities(&self, all: &[f64]) -> Value {
        let most = order(all).into_iter().take(self.shape.top);
        Value::Object(most.map(|class| (self.named(class), rounded(all[class]))).collect())
    }

    fn class(&self, logits: &[f32]) -> Columns {
        let all = softmax(logits);
        let (best, probability) = largest(&all).map_or((Value::Null, Value::Null), |best| (self.name(best), rounded(all[best])));
        columns([("prediction", best), ("probability", probability), ("probabilities", self.probabilities(&all))])
    }

    fn labels(&self, logits: &[f32]) -> Columns {
        let all: Vec<f64> = logits.iter().copied().map(sigmoid).collect();
        let chosen = || (0..all.len()).filter(|&label| all[label] >= self.shape.threshold).map(|label| self.name(label)).collect();
        let prediction = largest(&all).map_or(Value::Null, |_| Value::Array(chosen()));
        columns([("prediction", prediction), ("probabilities", self.probabilities(&all))])
    }

    /// What frames say, or their symbols where no tokenizer spells them.
    fn spoken(&self, found: &Outputs) -> Result<Columns> {
        let frames = found.first().and_then(|(shape, _)| shape.first().copied()).unwrap_or_default();
        let symbol = |frame: usize| largest(&softmax(row(found, frame))).map(|symbol| i32::try_from(symbol).unwrap_or_default());
        let Some(symbols) = (0..frames).map(symbol).collect::<Option<Vec<i32>>>() else { return Ok(one("prediction", Value::Null)) };
        Ok(one(
            "prediction",
            match self.source.tokenizer() {
                Some(tokenizer) => tokenizer.hear(&symbols, self.loss.blank())?.into(),
                None => symbols.into(),
            },
        ))
    }

    /// The label whose words a language model holds for the most probable.
    fn word(&self, example: &Example, found: &Outputs) -> Result<Columns> {
        let prompt = self.source.hard_prompt().ok_or_else(|| Error::not_found("template", "of the model"))?;
        let place = places(example).next().map_or(0, |(at, _)| at);
        let at = if self.source.task() == Task::CausalLm { place.saturating_sub(1) } else { place };
        let logits = row(found, at);
        let beyond = || Error::mismatch("logits", "one for each token of the label words", logits.len());
        let all = softmax(&prompt.scores(logits).ok_or_else(beyond)?);
        let name = |class: usize| prompt.labels.get(class).map(|label| label.name.clone()).unwrap_or_default();
        let probabilities = order(&all).into_iter().take(self.shape.top).map(|class| (name(class), rounded(all[class]))).collect();
        let (best, probability) = largest(&all).map_or((Value::Null, Value::Null), |best| (name(best).into(), rounded(all[best])));
        Ok(columns([("prediction", best), ("probability", probability), ("probabilities", Value::Object(probabilities))]))
    }

    /// A tag for each word, and the entities that they make.
    fn tags(&self, question: &Question, example: &Example, found: &Outputs) -> Columns {
        let Shown::Words { text, words } = &question.shown else {
            let tags = (0..example.input_ids.len())
                .map(|at| largest(&softmax(row(found, at))).map_or(Value::Null, |tag| self.name(tag)))
                .collect();
            return one("prediction", Value::Array(tags));
        };
        // Words behind the end of what the model reads have no tag.
        let mut tags: Vec<Option<(usize, f64)>> = vec![None; words.len()];
        for (at, word) in places(example) {
            let all = softmax(row(found, at));
            let Some(class) = largest(&all) else { continue };
            if let Some(tag) = usize::try_from(word).ok().and_then(|word| tags.get_mut(word)) {
                *tag = Some((class, all[class]));
            }
        }
        let entities: Vec<Value> = self.entities(&tags).iter().map(|entity| entity.json(text.as_deref(), words)).collect();
        let told = tags.iter().map(|tag| tag.map_or(Value::Null, |(class, _)| self.name(class))).collect();
        match text {
            Some(_) => columns([("prediction", Value::Array(entities))]),
            None => columns([("prediction", Value::Array(told)), ("entities", Value::Array(entities))]),
        }
    }

    /// Words with tags that belong together: by B- and I-; else, where one tag is O, neighbours with the same tag; else each word.
    fn entities(&self, tags: &[Option<(usize, f64)>]) -> Vec<Entity> {
        let name = |tag: &Option<(usize, f64)>| tag.map_or_else(|| "O".to_owned(), |(class, _)| self.named(class));
        let names: Vec<String> = tags.iter().map(name).collect();
        let is_marked = self.names.iter().any(|name| name.starts_with("B-") || name.starts_with("I-"));
        if !is_marked && !self.names.iter().any(|name| name == "O") {
            // Every word is something by itself.
            let each = tags.iter().enumerate().filter_map(|(at, tag)| Some((at, (*tag)?)));
            return each.map(|(at, (class, probability))| Entity { label: self.named(class), words: at..at + 1, probability }).collect();
        }
        let marked: Vec<String> =
            if is_marked { names } else { names.iter().map(|name| if name == "O" { name.clone() } else { format!("I-{name}") }).collect() };
        let marked: Vec<&str> = marked.iter().map(String::as_str).collect();
        let mean = |words: &Range<usize>| {
            let all: Vec<f64> = tags[words.clone()].iter().flatten().map(|(_, probability)| *probability).collect();
            all.iter().sum::<f64>() / crate::measure::float(all.len().max(1))
        };
        let mut found: Vec<Entity> = entities(&marked)
            .into_iter()
            .map(|(label, first, last)| Entity { label: label.to_owned(), words: first..last + 1, probability: mean(&(first..last + 1)) })
            .collect();
        found.sort_by_key(|entity| entity.words.start);
        found
    }

    /// The best answer of all windows of a text.
    fn span(&self, question: &Question, found: &[Outputs]) -> Columns {
        let of_window = |((_, example), found): (&(String, Example), &Outputs)| match (&example.context, &found[..]) {
            (Some(context), [(_, starts), (_, ends)]) => context.answers_by(starts, ends),
            _ => vec![],
        };
        let best = Answer::best(question.parts.iter().zip(found).flat_map(of_window).collect());
        let text =
            question.parts.first().and_then(|(_, example)| example.context.as_ref()).map(|context| &*context.text).unwrap_or_default();
        let all = softmax(&best.iter().map(|answer| answer.score).collect::<Vec<_>>());
        let told = |(answer, probability): (&Answer, &f64)| {
            columns([
                ("text", text.get(answer.bytes.clone()).unwrap_or_default().into()),
                ("start", characters(text, answer.bytes.start).into()),
                ("end", characters(text, answer.bytes.end).into()),
                ("probability", rounded(*probability)),
            ])
        };
        let answers: Vec<Columns> = best.iter().zip(&all).map(told).collect();
        let first = answers.first().cloned().unwrap_or_else(|| columns([("text", Value::Null)]));
        let mut answer = Columns::new();
        for (name, value) in first {
            answer.insert(if name == "text" { "prediction".to_owned() } else { name }, value);
        }
        let others: Vec<Value> = answers.into_iter().take(self.shape.top).map(Value::Object).collect();
        answer.insert("candidates".to_owned(), others.into());
        answer
    }

    /// A text with its masked words filled in by the most probable ones.
    fn filled(&self, example: &Example, found: &Outputs) -> Result<Columns> {
        let tokenizer = self
            .source
            .tokenizer()
            .ok_or_else(|| Error::invalid("masked words need a tokenizer").with_hint("name one with `tokenizer FILE`"))?;
        let mask = tokenizer.mask().ok_or_else(|| Error::invalid("the tokenizer has no mask token"))?;
        let hidden: Vec<usize> = (0..example.input_ids.len()).filter(|&at| example.input_ids[at] == mask).collect();
        if hidden.is_empty() {
            let token = tokenizer.token(mask).unwrap_or_default();
            let error = Error::mismatch("text", format!("one with a hidden word, {token}"), "one without");
            return Err(error.with_hint(format!("a masked language model fills in what stands as {token}: The sky is {token}.")));
        }
        let mut ids = example.input_ids.clone();
        let mut words = vec![];
        for at in hidden {
            let all = softmax(row(found, at));
            let best = order(&all);
            let token = |place: usize| i32::try_from(place).unwrap_or(IGNORED);
            ids[at] = best.first().map_or(mask, |&place| token(place));
            let word = |&place: &usize| json!({"token": tokenizer.token(token(place)), "probability": rounded(all[place])});
            words.push(Value::Array(best.iter().take(self.shape.top).map(word).collect()));
        }
        Ok(columns([("prediction", tokenizer.decode(&ids)?.into()), ("words", Value::Array(words))]))
    }
}

/// The answers to questions that have answers, of their log-probabilities.
pub(super) fn of_chances(asked: &[Asked], found: &[Vec<f64>]) -> Vec<Columns> {
    let answer = |(row, chances): (&Asked, &Vec<f64>)| compared(&row.question, chances, "log_probability");
    asked.iter().zip(found).map(answer).collect()
}

/// Words that are something together.
struct Entity {
    label: String,
    words: Range<usize>,
    probability: f64,
}

impl Entity {
    /// Its place counts characters of the text, or words where there is none.
    fn json(&self, text: Option<&str>, words: &[(String, Option<Range<usize>>)]) -> Value {
        let own = &words[self.words.clone()];
        let bytes = own.first().and_then(|(_, place)| place.clone()).zip(own.last().and_then(|(_, place)| place.clone()));
        let (start, end, shown) = match (text, bytes) {
            (Some(text), Some((first, last))) => {
                let shown = text.get(first.start..last.end).unwrap_or_default().to_owned();
                (characters(text, first.start), characters(text, last.end), shown)
            }
            _ => (self.words.start, self.words.end, own.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(" ")),
        };
        json!({"start": start, "end": end, "label": self.label, "text": shown, "probability": rounded(self.probability)})
    }
}

/// The characters before a byte, as Python counts them.
fn characters(text: &str, byte: usize) -> usize {
    text.get(..byte).map_or(0, |before| before.chars().count())
}

/// The places that an answer is read at, with their labels.
fn places(example: &Example) -> impl Iterator<Item = (usize, i32)> + '_ {
    let labels: &[i32] = if let Labels::Tokens(labels) = &example.labels { labels } else { &[] };
    labels.iter().copied().enumerate().filter(|(_, label)| *label != IGNORED)
}

/// The scores of a position.
fn row(found: &Outputs, at: usize) -> &[f32] {
    let Some((shape, values)) = found.first() else { return &[] };
    let width = shape.last().copied().unwrap_or_default();
    values.get(at * width..(at + 1) * width).unwrap_or_default()
}

/// One number, or all.
fn numbers_of(values: &[f32]) -> Value {
    match values {
        [number] => numbers::json(*number),
        numbers => numbers.iter().copied().map(numbers::json).collect(),
    }
}

/// The vector of a row's text; of a row of several texts the vector of each, and how alike each is to the first.
fn vectors(question: &Question, found: &[Outputs]) -> Columns {
    let values = |found: &Outputs| found.first().map(|(_, values)| values.clone()).unwrap_or_default();
    let all: Vec<Vec<f32>> = found.iter().map(values).collect();
    let told = |vector: &Vec<f32>| Value::Array(vector.iter().copied().map(numbers::json).collect());
    if let [vector] = &all[..] {
        return one("vector", told(vector));
    }
    let names = || question.parts.iter().map(|(name, _)| name.clone());
    let vectors = names().zip(&all).map(|(name, vector)| (name, told(vector))).collect();
    let cosines = names().zip(&all).skip(1).map(|(name, vector)| (name, rounded(cosine(&all[0], vector)))).collect();
    columns([("similarity", Value::Object(cosines)), ("vectors", Value::Object(vectors))])
}

/// The better one of a row's answers, and what each got; of a single one, what it got.
fn compared(question: &Question, values: &[f64], what: &str) -> Columns {
    let named = || question.parts.iter().map(|(name, _)| name.as_str()).zip(values);
    if let [only] = values {
        return one("prediction", rounded(*only));
    }
    let best = named().fold(
        None::<(&str, f64)>,
        |best, (name, &value)| if best.is_none_or(|(_, most)| value > most) { Some((name, value)) } else { best },
    );
    let mut answer = one("prediction", best.map_or(Value::Null, |(name, _)| name.into()));
    answer.extend(named().map(|(name, value)| (format!("{name}_{what}"), rounded(*value))));
    answer
}

fn one(name: &str, value: Value) -> Columns {
    columns([(name, value)])
}

fn columns<'n>(columns: impl IntoIterator<Item = (&'n str, Value)>) -> Columns {
    columns.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
