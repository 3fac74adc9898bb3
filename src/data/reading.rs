//! How a data file is read.

use std::num::NonZeroUsize;
use std::sync::LazyLock;
use std::thread;

use super::column_map::ColumnMap;
use super::example::Limits;
use super::media::Media;
use super::tokenizer::Tokenizer;
use super::weights;
use crate::adapter::config::Task;
use crate::anatomy::Feeding;
use crate::train::plan::LossPlan;
use crate::train::verbalizer::HardPrompt;

/// Whether short rows are put together into long ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// A row is an example.
    #[default]
    Off,
    /// Whole rows, as many as there is room for; each attends to itself alone.
    Whole,
    /// All rows one after another, an end token between, cut every `max_length` tokens. What stands before a row in its block is attended to.
    Concatenate,
}

/// How a data file is read.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// What the model is trained for.
    pub task: Task,
    /// Turns text into tokens; only files of tokens do without.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Where rows are cut, in tokens.
    pub max_length: Option<usize>,
    /// Tokens that a window of a long text shares with the one before; without it the text is cut.
    pub stride: Option<usize>,
    /// Whether rows are put together.
    pub packing: Packing,
    /// What numbers the model takes.
    pub limits: Limits,
    /// What columns are renamed to.
    pub columns: &'a ColumnMap,
    /// What the model's own inputs are for; columns with their names go there.
    pub feeding: Option<&'a Feeding>,
    /// The names of classes that are known, in the order of their numbers.
    pub class_names: &'a [String],
    /// What becomes of names that are not known.
    pub other_names: OtherNames,
    /// How rows of text are shown to a language model that is asked for a label's word.
    pub hard_prompt: Option<&'a HardPrompt>,
    /// What is minimised, which tells apart the forms of rows that a task has.
    pub loss: &'a LossPlan,
    /// What pictures and sounds are read with.
    pub media: &'a Media,
    /// The token that a decoder starts with, where it is known.
    pub decoder_start: Option<i32>,
    /// Whether rows, or their labels, may weigh differently.
    pub takes_weights: bool,
    /// Threads that make examples of rows; as many as this process may use, if it is not said.
    pub threads: Option<NonZeroUsize>,
}

static NOTHING: ColumnMap = ColumnMap::NOTHING;

static PLAIN: LazyLock<LossPlan> = LazyLock::new(LossPlan::default);

static NO_MEDIA: Media = Media::NOTHING;

impl Reading<'_> {
    /// Reads for a task, without a tokenizer, cuts or limits.
    #[must_use]
    pub fn for_task(task: Task) -> Self {
        Self {
            task,
            tokenizer: None,
            max_length: None,
            stride: None,
            packing: Packing::Off,
            limits: Limits::default(),
            columns: &NOTHING,
            feeding: None,
            class_names: &[],
            other_names: OtherNames::Numbered,
            hard_prompt: None,
            loss: &PLAIN,
            media: &NO_MEDIA,
            decoder_start: None,
            takes_weights: false,
            threads: None,
        }
    }

    /// How many threads make examples of rows.
    pub(super) fn threads(&self) -> usize {
        self.threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }

    /// Whether the column of weights says what rows weigh: it does not where the model, or a loss of the user's, has an input of that name.
    pub(super) fn weighs_rows(&self) -> bool {
        self.takes_weights && !self.feeding.is_some_and(|feeding| feeding.inputs.contains_key(weights::COLUMN))
    }
}

/// What becomes of class names that are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherNames {
    /// They take the next numbers, in alphabetical order: in data that is learnt from.
    Numbered,
    /// They are an error: in data that is measured. Where no name is known, the file must have one for each class, so that their order is certain.
    Refused,
}
