//! All examples of a data file: read, labelled, cut, checked, packed.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::encoded::Encoded;
use super::example::{Example, IGNORED, Labels, UNLABELLED};
use super::examples::Examples;
use super::held_out::HeldOut;
use super::packing::packed;
use super::reading::{OtherNames, Packing, Reading};
use super::record::{Record, RowFile};
use crate::adapter::config::Task;
use crate::error::{Context, Error, Place, Result};
use crate::measure::float;
use crate::train::losses::LABELS;

/// All examples of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The file.
    pub path: PathBuf,
    /// What the examples are for.
    pub task: Task,
    /// The examples, in file order.
    pub examples: Examples,
    /// The names of the classes in the order of their numbers, if the file's labels are names.
    pub class_names: Option<Vec<String>>,
    /// What was read.
    pub summary: Summary,
    /// The weight of each class in the loss, or none: all 1.
    pub class_weights: Vec<f64>,
    /// Whether the loss is a mean over all numbers of a label.
    pub counts_numbers: bool,
    /// Tokens at the beginning of a row that nothing predicts: one in a causal model, none where virtual tokens stand before it.
    pub unpredicted: usize,
}

/// What was read, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows of the file.
    pub rows: usize,
    /// Rows that were cut at the greatest length.
    pub cut: usize,
    /// Examples in which no label counts.
    pub unlabelled: usize,
    /// Tokens of all examples, padding not counted.
    pub tokens: usize,
    /// Labels that count, of all examples.
    pub labels: usize,
    /// Tokens of the longest example.
    pub longest: usize,
}

impl Dataset {
    /// Reads a data file. See [`forms`](super::forms) for the forms of its rows, and the README for what each means.
    ///
    /// # Errors
    /// With file and line: [`Io`](crate::ErrorKind::Io), [`Format`](crate::ErrorKind::Format), [`Mismatch`](crate::ErrorKind::Mismatch),
    /// [`Unsupported`](crate::ErrorKind::Unsupported) or [`Invalid`](crate::ErrorKind::Invalid) for files and rows that cannot be read or that the
    /// model cannot take; [`Invalid`](crate::ErrorKind::Invalid) if no label counts in the whole file.
    pub fn read(path: &Path, reading: &Reading<'_>) -> Result<Self> {
        Self::of_file(&RowFile::open(path)?, path, reading)
    }

    /// Reads rows in memory: each an object with the columns that a line of a data file would have. Files that they name lie in the current folder.
    ///
    /// # Errors
    /// As [`read`](Self::read); a row that is no object.
    pub fn of_rows(rows: impl IntoIterator<Item = Value>, reading: &Reading<'_>) -> Result<Self> {
        let place = Path::new("rows");
        let record = |(row, at): (Value, usize)| match row {
            Value::Object(fields) => Ok(Record { line: at, fields }),
            other => Err(Error::mismatch("a row", "an object with its columns", other).at(Place::Line(at)).in_file(place)),
        };
        let records = rows.into_iter().zip(1..).map(record).collect::<Result<Vec<_>>>()?;
        if records.is_empty() {
            return Err(Error::invalid("no rows").in_file(place));
        }
        Self::of_file(&RowFile::of_rows(place, records), place, reading)
    }

    fn of_file(file: &RowFile, path: &Path, reading: &Reading<'_>) -> Result<Self> {
        let Encoded { examples, class_names, rows, cut } = Encoded::of(file, path, reading)?;
        Self::gathered(path, reading, examples, class_names, Summary { rows, cut, ..Summary::default() })
    }

    /// Reads a data file, some of whose rows are held back: the training and the eval examples.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Mismatch`](crate::ErrorKind::Mismatch) if no training example would be left.
    pub fn read_parted(path: &Path, reading: &Reading<'_>, held_out: HeldOut) -> Result<(Self, Self)> {
        let Encoded { examples, class_names, cut, .. } = Encoded::of(&RowFile::open(path)?, path, reading)?;
        let (kept, held) = held_out.split(&examples).in_file(path)?;
        let (of_held, of_kept) =
            (Summary { rows: held.len(), ..Summary::default() }, Summary { rows: kept.len(), cut, ..Summary::default() });
        let kept = Self::gathered(path, reading, kept, class_names.clone(), of_kept)?;
        Ok((kept, Self::gathered(path, reading, held, class_names, of_held)?))
    }

    fn gathered(
        path: &Path,
        reading: &Reading<'_>,
        mut examples: Examples,
        class_names: Option<Vec<String>>,
        mut summary: Summary,
    ) -> Result<Self> {
        if reading.packing != Packing::Off {
            examples = packed(&examples, reading).in_file(path)?;
        }
        let unpredicted = if reading.limits.positions_without_label > 0 { 0 } else { unpredicted(reading.task) };
        for example in examples.iter() {
            let labels = example.label_count(unpredicted);
            summary.labels += labels;
            summary.tokens += example.tokens();
            summary.unlabelled += usize::from(labels == 0);
            summary.longest = summary.longest.max(example.input_ids.len());
        }
        if summary.labels == 0 {
            let error = Error::invalid("no label counts in any row of this data file").in_file(path);
            return Err(error.with_hint(
                "a label counts if it is not -100 and, for causal-lm, not the first of its row; `max_length` may have cut all off",
            ));
        }
        let classes = reading.limits.classes.filter(|_| reading.loss.balances_classes && reading.other_names == OtherNames::Numbered);
        let class_weights = match classes {
            Some(classes) if reading.loss.class_weights.is_empty() => balanced(&examples, classes),
            _ => reading.loss.class_weights.clone(),
        };
        let counts_numbers = reading.task.labels_numbers();
        Ok(Self {
            path: path.to_path_buf(),
            task: reading.task,
            examples,
            class_names,
            summary,
            class_weights,
            counts_numbers,
            unpredicted,
        })
    }

    /// Rows that were made, not read.
    #[must_use]
    pub fn of(path: &Path, task: Task, examples: Vec<Example>) -> Self {
        let counts_numbers = task.labels_numbers();
        Self {
            path: path.to_path_buf(),
            task,
            examples: examples.into(),
            class_names: None,
            summary: Summary::default(),
            class_weights: vec![],
            counts_numbers,
            unpredicted: unpredicted(task),
        }
    }

    /// What a row adds to what the loss is divided by.
    #[must_use]
    pub fn weight(&self, example: &Example) -> f64 {
        let of_class = |class: i32| match usize::try_from(class) {
            Ok(class) => self.class_weights.get(class).copied().unwrap_or(1.0),
            Err(_) => 0.0,
        };
        self.counted(example, &of_class)
    }

    /// What a row adds to what the second term of the loss is divided by: of preferences the chosen answer's tokens that something predicts, else its
    /// labels, however their classes weigh.
    #[must_use]
    pub fn second_weight(&self, example: &Example) -> f64 {
        match self.task {
            Task::Preference => float(example.label_count(1)),
            _ => self.counted(example, &|class| if class < 0 { 0.0 } else { 1.0 }),
        }
    }

    fn counted(&self, example: &Example, of_class: &dyn Fn(i32) -> f64) -> f64 {
        // Of texts that are compared, and of those that are heard, each row counts.
        let counts_rows = self.task.row().reads.stacks_texts() || self.task == Task::Ctc;
        let count = match &example.labels {
            Labels::Tokens(labels) if !counts_rows => {
                let weights = example.weights_of_labels();
                let counted = labels.iter().zip(weights).skip(self.unpredicted);
                return counted.map(|(label, weight)| weight * of_class(*label)).sum();
            }
            Labels::Class(UNLABELLED) => 1.0,
            Labels::Class(class) => of_class(*class),
            Labels::Column if self.counts_numbers => float(example.columns.get(LABELS).map_or(1, |numbers| numbers.values.len())),
            Labels::Column | Labels::Row | Labels::Tokens(_) => 1.0,
            Labels::Hidden => float(example.label_count(self.unpredicted)),
        };
        count * example.weight()
    }
}

impl Example {
    /// Labels that count, where nothing predicts the row's first ones. Of tokens that will be hidden, each counts as one label here.
    #[must_use]
    pub fn label_count(&self, unpredicted: usize) -> usize {
        match &self.labels {
            Labels::Tokens(labels) => labels.iter().skip(unpredicted).filter(|label| **label != IGNORED).count(),
            Labels::Class(_) | Labels::Column | Labels::Row => 1,
            Labels::Hidden => self.tokens(),
        }
    }
}

/// A causal model predicts each token from those before it, so that the first of a row has nothing to be predicted from.
fn unpredicted(task: Task) -> usize {
    usize::from(task == Task::CausalLm)
}

/// `rows / (classes · rows of the class)` for each class, as scikit-learn's `balanced`; 1 for a class that no row has.
fn balanced(examples: &Examples, classes: usize) -> Vec<f64> {
    let mut counts = vec![0_usize; classes];
    for example in examples.iter() {
        let labels: &[i32] = match &example.labels {
            Labels::Class(class) => std::slice::from_ref(class),
            Labels::Tokens(labels) => labels,
            Labels::Hidden | Labels::Column | Labels::Row => &[],
        };
        for count in labels.iter().filter_map(|label| usize::try_from(*label).ok()) {
            counts.get_mut(count).into_iter().for_each(|count| *count += 1);
        }
    }
    let (all, present) = (counts.iter().sum::<usize>(), counts.iter().filter(|count| **count > 0).count());
    counts.into_iter().map(|count| if count == 0 { 1.0 } else { float(all) / (float(present) * float(count)) }).collect()
}
