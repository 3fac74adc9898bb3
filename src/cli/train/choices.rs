//! What the options of `peft-onnx train` choose among.

use std::str::FromStr;

use clap::ValueEnum;
use serde::{Serialize, Serializer};

use crate::data::Sampler;
use crate::error::Refusal;
use crate::media::Augmentation;
use crate::num;
use crate::training::MicroBatch;

/// Which rows may be in one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BatchSampler {
    /// Any.
    #[value(alias = "batch-sampler", alias = "batch_sampler")]
    Any,
    /// None with a text that another one has.
    #[value(alias = "no_duplicates")]
    NoDuplicates,
}

impl From<BatchSampler> for Sampler {
    fn from(sampler: BatchSampler) -> Self {
        match sampler {
            BatchSampler::Any => Self::Any,
            BatchSampler::NoDuplicates => Self::NoDuplicates,
        }
    }
}

/// Random augmentation of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A part of any place, size and shape stands for the picture, as torchvision's RandomResizedCrop.
    #[value(alias = "crop", alias = "resized-crop")]
    RandomResizedCrop,
    /// Every other picture is mirrored.
    #[value(alias = "flip", alias = "random-horizontal-flip")]
    HorizontalFlip,
}

impl Change {
    /// All that is changed.
    pub(super) fn all(changes: &[Self]) -> Augmentation {
        Augmentation { resized_crop: changes.contains(&Self::RandomResizedCrop), horizontal_flip: changes.contains(&Self::HorizontalFlip) }
    }
}

/// Rows at a time: a number, or as many as there is memory for.
#[derive(Clone, Copy, Debug)]
pub struct RowsAtATime(pub(super) MicroBatch);

impl FromStr for RowsAtATime {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        if text == "auto" {
            return Ok(Self(MicroBatch::Fitting));
        }
        let rows = text.parse().map_err(|_| format!("expected a number of rows from 1, or auto, found {text:?}"))?;
        Ok(Self(MicroBatch::Rows(rows)))
    }
}

impl Serialize for RowsAtATime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            MicroBatch::Rows(rows) => serializer.serialize_u64(num::wide(rows.get())),
            MicroBatch::Fitting => serializer.serialize_str("auto"),
            MicroBatch::Whole => serializer.serialize_none(),
        }
    }
}

/// How rows are packed, in TRL's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PackingStrategy {
    /// Whole rows, best fit decreasing.
    Bfd,
    /// All rows one after another, cut into blocks.
    Wrapped,
}

/// Programs that read what happened in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ReportTo {
    /// metrics.jsonl and report.html alone
    None,
    /// TensorBoard: files of events in the run's folder
    Tensorboard,
}
