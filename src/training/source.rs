//! The data of a run: files, read with the bundle's tokenizer and limits.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::folder;
use crate::adapter::config::Task;
use crate::anatomy::{self, Feeding, Padding, SEGMENTS};
use crate::data::{
    self, Asked, Collation, ColumnMap, Dataset, HeldOut, Limits, Media, OtherNames, Packing, Reading, Renamed, Sampler, Tokenizer,
};
use crate::error::{Context, Error, Result};
use crate::export::{Bundle, Manifest};
use crate::ir::Graph;
use crate::media::Augmentation;
use crate::model::{Beside, Model, class_names, declared};
use crate::train::plan::LossPlan;
use crate::train::verbalizer::HardPrompt;
use crate::train::weights::WEIGHTS;

/// How files are read for a bundle.
pub struct Source {
    task: Task,
    tokenizer: Option<Arc<Tokenizer>>,
    limits: Limits,
    max_length: Option<usize>,
    stride: Option<usize>,
    packing: Packing,
    class_names: Vec<String>,
    hard_prompt: Option<HardPrompt>,
    feeding: Feeding,
    columns: ColumnMap,
    loss: LossPlan,
    media: Media,
    micro_batch: Option<usize>,
    /// Why rows cannot be kept apart in one; none if they can.
    unpackable: Option<String>,
    takes_weights: bool,
    decoder_start: Option<i32>,
    sampler: Sampler,
    threads: Option<NonZeroUsize>,
    augmentation: Augmentation,
}

impl Source {
    /// Reads for a bundle: its task, its limits, and the named tokenizer or the one beside the bundle or its base.
    ///
    /// # Errors
    /// If the named tokenizer cannot be opened, or the task is unknown.
    pub fn of(bundle: &Bundle, tokenizer: Option<&Path>) -> Result<Self> {
        let manifest = bundle.manifest();
        let task = Task::from_name(&manifest.task)
            .ok_or_else(|| Error::not_found("task", &*manifest.task))
            .in_file(bundle.folder().join(crate::export::manifest::FILE))?;
        let tokenizer = match tokenizer {
            Some(path) => Some(Tokenizer::open(path)?),
            None => tokenizer_near(&bundle.places())?,
        };
        Self::reading_with(bundle, task, tokenizer)
    }

    /// Reads for a bundle with this tokenizer, or none, where files of tokens are read.
    ///
    /// # Errors
    /// If the task is unknown.
    pub fn with_tokenizer(bundle: &Bundle, tokenizer: Option<Tokenizer>) -> Result<Self> {
        let task = &bundle.manifest().task;
        let task = Task::from_name(task).ok_or_else(|| Error::not_found("task", &**task))?;
        Self::reading_with(bundle, task, tokenizer)
    }

    fn reading_with(bundle: &Bundle, task: Task, tokenizer: Option<Tokenizer>) -> Result<Self> {
        let manifest = bundle.manifest();
        let source = Self::with(task, tokenizer, manifest.classes, manifest.vocabulary, manifest.max_positions);
        let source = source.fed_as(manifest.feeding.clone());
        let Manifest { virtual_tokens, positions_without_label, .. } = *manifest;
        let classes = source.limits.classes.or_else(|| manifest.numbers_of_vectors());
        let limits = Limits { virtual_tokens, positions_without_label, classes, ..source.limits };
        let media = Media::near(&bundle.places(), None);
        let loss = manifest.loss.clone();
        // A bundle in memory has no files beside it.
        let beside = if bundle.places().is_empty() { Beside::default() } else { Beside::near(bundle.model()) };
        let decoder_start = decoder_start(&beside)?;
        let (hard_prompt, class_names) = (manifest.hard_prompt.clone(), manifest.class_names.clone());
        let (unpackable, takes_weights) = (unpackable(manifest), takes_weights(manifest));
        let max_length = folder::longest_text(&beside, task)?;
        let columns = ColumnMap::kept(manifest.columns.iter().map(|(column, role)| Renamed::new(column, role)));
        let source = Self { limits, max_length, columns, media, unpackable, takes_weights, decoder_start, ..source };
        Ok(Self { class_names, hard_prompt, loss, ..source })
    }

    /// Reads for a plain model, with the named tokenizer or the one beside it, and the class names beside it.
    ///
    /// # Errors
    /// If the named tokenizer or the model's configuration cannot be opened.
    pub fn of_model(model: &Model, task: Task, tokenizer: Option<&Path>) -> Result<Self> {
        let (graph, anatomy) = (model.graph(), model.anatomy());
        let near: Vec<PathBuf> = model.file().map(Path::to_path_buf).into_iter().collect();
        let tokenizer = match tokenizer {
            Some(path) => Some(Tokenizer::open(path)?),
            None => tokenizer_near(&near)?,
        };
        let classes = anatomy.head.as_ref().and_then(|head| head.classes);
        let class_names = class_names::of_model(model, task, classes)?;
        let source =
            Self::with(task, tokenizer, classes, anatomy.vocabulary(), anatomy.max_positions).fed_as(anatomy::feeding(graph, anatomy));
        let decoder_start = decoder_start(model.beside())?;
        let columns = ColumnMap::kept(folder::columns(model.beside())?);
        let max_length = folder::longest_text(model.beside(), task)?;
        Ok(Self { max_length, class_names, columns, media: Media::near(&near, None), decoder_start, ..source })
    }

    fn with(task: Task, tokenizer: Option<Tokenizer>, classes: Option<i64>, vocabulary: Option<i64>, positions: Option<i64>) -> Self {
        let size = |number: Option<i64>| number.and_then(|number| usize::try_from(number).ok());
        let limits = Limits {
            positions: size(positions),
            virtual_tokens: 0,
            positions_without_label: 0,
            vocabulary: size(if task.predicts_tokens() { classes.or(vocabulary) } else { vocabulary }),
            classes: size(classes).filter(|_| !task.predicts_tokens()),
        };
        Self {
            task,
            tokenizer: tokenizer.map(Arc::new),
            limits,
            max_length: None,
            stride: None,
            packing: Packing::Off,
            class_names: vec![],
            hard_prompt: None,
            feeding: Feeding::default(),
            columns: ColumnMap::default(),
            loss: LossPlan::default_of(task),
            media: Media::NOTHING,
            micro_batch: None,
            unpackable: Some("it is a plain model, not a bundle".to_owned()),
            takes_weights: false,
            decoder_start: None,
            sampler: Sampler::Any,
            threads: None,
            augmentation: Augmentation::default(),
        }
    }

    /// Fills inputs by their roles, and rows up to the lengths that the model insists on.
    fn fed_as(mut self, feeding: Feeding) -> Self {
        self.limits.positions = self.limits.positions.into_iter().chain(feeding.length).min();
        if feeding.length.is_some() && feeding.padding == Padding::Read {
            tracing::warn!(
                "the model takes only rows of {} tokens and has no mask: it reads the padding of short rows, and learns it, like text",
                feeding.length.unwrap_or_default()
            );
        }
        Self { feeding, ..self }
    }

    /// How many classes there are, as far as it is known.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.limits.classes.unwrap_or_default()
    }

    /// Rows in a batch: as many as were asked for, else as many as the model takes at once, else the usual number.
    #[must_use]
    pub fn batch_size(&self, asked: Option<NonZeroUsize>) -> NonZeroUsize {
        super::batch_size(asked, &self.feeding)
    }

    /// Parts batches into so many rows at a time.
    #[must_use]
    pub fn in_parts_of(mut self, rows: Option<NonZeroUsize>) -> Self {
        self.micro_batch = rows.map(NonZeroUsize::get);
        self
    }

    /// Cuts rows at a length, in tokens; without one, texts of vectors where sentence-transformers' files beside the model say. Else a row that is longer than the model takes is an error.
    #[must_use]
    pub fn cut(mut self, max_length: Option<NonZeroUsize>) -> Self {
        self.max_length = max_length.map(NonZeroUsize::get).or(self.max_length);
        self
    }

    /// Where rows are cut, in tokens.
    #[must_use]
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// Reads columns under the names of their roles; those that the data of the training had stay where nothing else is said.
    #[must_use]
    pub fn mapped(mut self, columns: &ColumnMap) -> Self {
        self.columns = columns.given_over(&self.columns);
        self
    }

    /// The roles of columns that whoever reads such data later must know.
    #[must_use]
    pub(super) fn roles_to_keep(&self) -> Vec<Renamed> {
        self.columns.to_keep()
    }

    /// Reads rows for a loss, where a task's rows have several forms.
    #[must_use]
    pub fn learning(self, loss: &LossPlan) -> Self {
        Self { loss: loss.clone(), ..self }
    }

    /// Has the columns that a loss of a model without a bundle reads fed.
    #[must_use]
    pub fn feeding_columns(mut self, graph: &Graph, columns: impl Iterator<Item = String>) -> Self {
        self.feeding.feed_columns(graph, columns);
        self
    }

    /// Shows rows in a template, and asks for the words of a verbalizer; without one, for those that were asked for so far.
    ///
    /// # Errors
    /// As [`hard_prompt`](data::hard_prompt); without a verbalizer, words that have other tokens in this template.
    pub fn shown_in(mut self, template: &str, verbalizer: Option<&str>) -> Result<Self> {
        let missing = || Error::invalid("a template needs a tokenizer").with_hint("name one with `tokenizer FILE`");
        let tokenizer = self.tokenizer.as_deref().ok_or_else(missing)?;
        let before = self.hard_prompt.take();
        let words = match (verbalizer, &before) {
            (Some(verbalizer), _) => verbalizer.to_owned(),
            (None, Some(prompt)) => prompt.verbalizer(),
            (None, None) => {
                let error = Error::invalid("a template needs the words that labels stand for");
                return Err(error.with_hint("name them with `verbalizer '{\"positive\": [\"great\"], \"negative\": [\"bad\"]}'`"));
            }
        };
        let prompt = data::hard_prompt(template, &words, tokenizer, self.task)?;
        let largest = prompt.labels.iter().flat_map(|label| &label.tokens).max().copied();
        if let Some((token, size)) =
            largest.zip(self.limits.vocabulary).filter(|(token, size)| usize::try_from(*token).is_ok_and(|token| token >= *size))
        {
            let error = Error::mismatch("tokens of the label words", format!("below {size}, the model's vocabulary"), token);
            return Err(error.with_hint("is the tokenizer that of the model?"));
        }
        if let Some(before) = before.filter(|before| before.labels != prompt.labels) {
            let names = |prompt: &HardPrompt| prompt.verbalizer();
            let error = Error::mismatch("the words that labels stand for", names(&before), names(&prompt));
            return Err(error.with_hint("the bundle's graphs have its words, with their tokens, inside: inject another bundle for others"));
        }
        self.hard_prompt = Some(prompt);
        Ok(self)
    }

    /// The words that labels stand for, if a language model is asked for one of them.
    #[must_use]
    pub fn hard_prompt(&self) -> Option<&HardPrompt> {
        self.hard_prompt.as_ref()
    }

    /// Joins short rows.
    ///
    /// # Errors
    /// Whole rows, for graphs that cannot keep them apart.
    pub fn packed(mut self, packing: Packing) -> Result<Self> {
        if let (Packing::Whole, Some(why)) = (packing, &self.unpackable) {
            let hint = "`group_by_length` pads little too; `packing_strategy wrapped` joins rows that see each other";
            return Err(Error::unsupported("`packing` with this bundle", why.clone()).with_hint(hint));
        }
        self.packing = packing;
        Ok(self)
    }

    /// What rows are filled up with.
    #[must_use]
    pub fn collation(&self) -> Collation {
        let collation = self.tokenizer.as_deref().map(Collation::of).unwrap_or_default();
        let (decoder_start, sampler, fills_alike) = (self.decoder_start, self.sampler, self.loss.reads_padding(self.task));
        let parted = Collation { feeding: self.feeding.clone(), micro_batch: self.micro_batch, ..collation };
        let asks_teacher = self.loss.teacher.is_some();
        let adds_rows_up = self.loss.adds_rows_up();
        let collation = Collation { decoder_start, fills_alike, adds_rows_up, asks_teacher, sampler, ..parted };
        // A token that was added to the tokenizer, and that the model does not have, cannot fill up rows.
        let is_known = usize::try_from(collation.pad).is_ok_and(|pad| self.limits.vocabulary.is_none_or(|vocabulary| pad < vocabulary));
        if is_known { collation } else { Collation { pad: 0, ..collation } }
    }

    /// What text is read and spelled with.
    #[must_use]
    pub fn tokenizer(&self) -> Option<Arc<Tokenizer>> {
        self.tokenizer.clone()
    }

    /// What the rows are for.
    #[must_use]
    pub fn task(&self) -> Task {
        self.task
    }

    /// The names of the classes that are known, in the order of their numbers.
    #[must_use]
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The longest row that the model takes, in tokens, where it is known.
    #[must_use]
    pub fn positions(&self) -> Option<usize> {
        self.limits.positions
    }

    /// Refuses rows of more positions.
    #[must_use]
    pub fn within(mut self, positions: Option<usize>) -> Self {
        self.limits.positions = self.limits.positions.into_iter().chain(positions).min();
        self
    }

    /// Parts long texts that answers are looked for in into windows, of which each begins with so many tokens of the one before.
    #[must_use]
    pub fn parted(mut self, stride: Option<usize>) -> Self {
        self.stride = stride;
        self
    }

    /// The same, rows made examples by so many threads.
    #[must_use]
    pub fn computing_on(mut self, threads: usize) -> Self {
        self.threads = NonZeroUsize::new(threads);
        self
    }

    /// Chooses which rows may be in one batch.
    #[must_use]
    pub fn sampled(mut self, sampler: Sampler) -> Self {
        self.sampler = sampler;
        self
    }

    /// Augments the pictures of training examples.
    #[must_use]
    pub fn augmented(mut self, augmentation: Augmentation) -> Self {
        self.augmentation = augmentation;
        self
    }

    /// What the rows that are learnt from are made into batches with: pictures change. A teacher and a measurement see them as they are.
    #[must_use]
    pub fn learning_collation(&self) -> Collation {
        Collation { augmentation: self.augmentation, ..self.collation() }
    }

    /// Reads a file to be answered: rows without labels, `count` at a time.
    ///
    /// # Errors
    /// As [`ask`](data::ask).
    pub fn ask(&self, path: &Path, count: usize, answer: &mut dyn FnMut(Vec<Asked>) -> Result<()>) -> Result<()> {
        data::ask(path, &self.reading(&self.class_names, OtherNames::Refused), count, answer)
    }

    /// Reads some rows of a file to be answered, by their numbers from 1.
    ///
    /// # Errors
    /// As [`ask_some`](data::ask_some).
    pub fn ask_some(&self, path: &Path, numbers: &[usize]) -> Result<Vec<Asked>> {
        data::ask_some(path, &self.reading(&self.class_names, OtherNames::Refused), numbers)
    }

    /// Reads the rows of a file as they are, with the names of their roles.
    ///
    /// # Errors
    /// As [`each_row`](data::each_row).
    pub fn each_row(&self, path: &Path, visit: &mut dyn FnMut(usize, data::Fields, data::Fields) -> Result<()>) -> Result<()> {
        data::each_row(path, &self.reading(&self.class_names, OtherNames::Refused), visit)
    }

    /// A text of a column as it is asked about.
    ///
    /// # Errors
    /// A text that the model cannot take; no tokenizer.
    pub fn ask_text(&self, text: &str, column: &str) -> Result<Asked> {
        self.ask_row([(column.to_owned(), text.into())].into_iter().collect())
    }

    /// A row of columns under the names of their roles as it is asked about.
    ///
    /// # Errors
    /// A row that the model cannot take; no tokenizer.
    pub fn ask_row(&self, fields: data::Fields) -> Result<Asked> {
        data::ask_row(fields, &self.reading(&self.class_names, OtherNames::Refused))
    }

    /// Reads training examples from a file: class names that are not known yet take the next numbers.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn read_to_learn(&self, path: &Path) -> Result<Dataset> {
        Dataset::read(path, &self.reading(&self.class_names, OtherNames::Numbered))
    }

    /// Reads training examples from memory: objects with the columns that a line of a data file would have.
    ///
    /// # Errors
    /// As [`Dataset::of_rows`].
    pub fn rows_to_learn(&self, rows: impl IntoIterator<Item = Value>) -> Result<Dataset> {
        Dataset::of_rows(rows, &self.reading(&self.class_names, OtherNames::Numbered))
    }

    /// Reads training examples from a file, some of which are held back for evaluation.
    ///
    /// # Errors
    /// As [`Dataset::read_parted`].
    pub fn read_parted(&self, path: &Path, held_out: HeldOut) -> Result<(Dataset, Dataset)> {
        Dataset::read_parted(path, &self.reading(&self.class_names, OtherNames::Numbered), held_out)
    }

    /// Reads a file to measure on, whose class names must be known: those of the data that is learnt from, if there is any, else those of the model.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn read_to_measure(&self, path: &Path, learnt: Option<&Dataset>) -> Result<Dataset> {
        let names = learnt.and_then(|learnt| learnt.class_names.as_ref()).unwrap_or(&self.class_names);
        Dataset::read(path, &self.reading(names, OtherNames::Refused))
    }

    fn reading<'a>(&'a self, class_names: &'a [String], other_names: OtherNames) -> Reading<'a> {
        Reading {
            task: self.task,
            tokenizer: self.tokenizer.as_deref(),
            max_length: self.max_length,
            stride: self.stride,
            packing: self.packing,
            limits: self.limits,
            columns: &self.columns,
            loss: &self.loss,
            media: &self.media,
            decoder_start: self.decoder_start,
            feeding: Some(&self.feeding),
            class_names,
            other_names,
            hard_prompt: self.hard_prompt.as_ref(),
            takes_weights: self.takes_weights,
            threads: self.threads,
        }
    }
}

/// Whether the graphs have an input that tells what rows weigh.
fn takes_weights(manifest: &Manifest) -> bool {
    manifest.graph("training").is_ok_and(|graph| graph.inputs.iter().any(|input| input.name == WEIGHTS))
}

/// Why rows cannot be kept apart in one; none if the graphs have an input that tells them.
fn unpackable(manifest: &Manifest) -> Option<String> {
    let has_input = || manifest.graph("training").is_ok_and(|graph| graph.inputs.iter().any(|input| input.name == SEGMENTS));
    let before = || "the bundle was written by a version that could not do it; inject the adapter again".to_owned();
    manifest.unpackable.clone().or_else(|| (!has_input()).then(before))
}

/// The token that a model's decoder starts with, where the files beside it say so.
///
/// # Errors
/// A file that is not JSON.
fn decoder_start(beside: &Beside) -> Result<Option<i32>> {
    let number = |config: Option<serde_json::Value>| {
        let config = config.unwrap_or_default();
        let named = [&config["decoder_start_token_id"], &config["decoder"]["decoder_start_token_id"]];
        named.into_iter().find_map(serde_json::Value::as_i64).and_then(|token| i32::try_from(token).ok())
    };
    let own = number(beside.json(declared::CONFIG)?);
    Ok(own.or(number(beside.json(declared::GENERATION)?)))
}

/// The tokenizer beside the first of these files that has one.
///
/// # Errors
/// If there is one that cannot be opened.
pub fn tokenizer_near(files: &[PathBuf]) -> Result<Option<Tokenizer>> {
    for file in files {
        if let Some(tokenizer) = Tokenizer::beside(file)? {
            return Ok(Some(tokenizer));
        }
    }
    Ok(None)
}
