//! The model or bundle that a command is about.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::Which;
use crate::error::{OnlyWith, Result};
use crate::export::{Bundle, manifest};
use crate::model::parts::Files;
use crate::ort::Device;

/// The model or bundle that a command runs, and what it runs with: of every command that runs one.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArgs {
    /// An ONNX model, or a bundle
    #[arg(id = "model", value_name = "MODEL|BUNDLE")]
    pub path: PathBuf,
    /// The files that fill inputs of the model's: of a folder with a model in several files.
    #[arg(skip)]
    pub parts: Vec<PathBuf>,
    /// The model that the bundle was made of, if it moved
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// Which adapter
    #[command(flatten)]
    pub which: Which,
    /// tokenizer.json, or its folder [default: beside the model, if it is needed]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Device: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu, help_heading = "Computing")]
    pub device: Device,
    /// Number of threads [default: as many as this process may use]
    #[arg(long, value_name = "COUNT", help_heading = "Computing")]
    pub threads: Option<NonZeroUsize>,
}

/// The bundle that a command is about, and which of its adapters: of every command that takes a bundle alone.
#[derive(Clone, Debug, clap::Args)]
pub struct BundleArgs {
    /// The bundle
    #[arg(id = "bundle", value_name = "BUNDLE")]
    pub path: PathBuf,
    /// The model that the bundle was made of, if it moved
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// Which adapter
    #[command(flatten)]
    pub which: Which,
}

impl BundleArgs {
    /// Opens it with the adapter that is meant.
    ///
    /// # Errors
    /// As [`Which::open`].
    pub(super) fn open(&self) -> Result<Bundle> {
        self.which.open(&self.path, self.base.as_deref())
    }
}

/// Whether a path is a bundle's.
struct IsBundle(bool);

/// Options of a model that was made by `inject` alone.
#[rustfmt::skip]
static OF_BUNDLES: &[OnlyWith<ModelArgs, IsBundle>] = &[
    OnlyWith { option: "base",       is_given: |args| args.base.is_some(),             with: "a bundle", holds: |case| case.0 },
    OnlyWith { option: "checkpoint", is_given: |args| args.which.checkpoint.is_some(), with: "a bundle", holds: |case| case.0 },
    OnlyWith { option: "run",        is_given: |args| args.which.run.is_some(),        with: "a bundle", holds: |case| case.0 },
];

impl ModelArgs {
    /// Whether a bundle is named, not a model.
    pub(super) fn is_bundle(&self) -> bool {
        is_bundle(&self.path)
    }

    /// The files of the model.
    pub(super) fn files(&self) -> Files {
        Files { model: self.path.clone(), parts: self.parts.clone(), joins: vec![] }
    }

    /// Refuses options that a model has no use for.
    ///
    /// # Errors
    /// The first that does not go with the path.
    pub(super) fn check(&self) -> Result<()> {
        OnlyWith::check(OF_BUNDLES, self, &IsBundle(self.is_bundle()), "a model")
    }
}

fn is_bundle(path: &Path) -> bool {
    path.join(manifest::FILE).is_file()
}
