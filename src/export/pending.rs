//! A bundle's adapter follows a checkpoint. Where it is more than one file, a note says which checkpoint until all of them are there: whoever opens the
//! bundle meanwhile, or after a crash, takes the checkpoint's files, which belong together.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::names::RUNS;
use crate::error::{Context, Error, Result};
use crate::files::{self, fault, inside};
use crate::peft;
use crate::peft::written::{self, Others};

/// The note's file in a bundle.
const FILE: &str = ".adapter-follows.json";

/// The files that an adapter consists of; the last two only for methods that have them.
pub const ADAPTER_FILES: [&str; 4] = [peft::CONFIG_FILE, peft::WEIGHTS_FILE, peft::ENCODER_FILE, peft::FACTORS_FILE];

/// A checkpoint by the names of its folders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The run.
    pub run: String,
    /// The step.
    pub step: u64,
}

impl Source {
    /// The checkpoint's folder, if it is there and nothing on the way is a link.
    fn folder(&self, bundle: &Path) -> Option<PathBuf> {
        let step = format!("step-{}", self.step);
        if Path::new(&self.run).components().count() != 1 || self.run.starts_with('.') {
            return None;
        }
        let folder = inside::path(bundle, &[RUNS, &self.run, "checkpoints", &step]).ok()?;
        folder.join(peft::WEIGHTS_FILE).is_file().then_some(folder)
    }
}

/// The folder that has the adapter of a bundle: the bundle itself, or the checkpoint whose files have not all arrived there.
#[must_use]
pub fn adapter_folder(bundle: &Path) -> PathBuf {
    let note = read(bundle).and_then(|source| source.folder(bundle));
    note.unwrap_or_else(|| bundle.to_owned())
}

fn read(bundle: &Path) -> Option<Source> {
    serde_json::from_slice(&inside::read(&bundle.join(FILE)).ok()?).ok()
}

/// Puts a checkpoint's adapter into the bundle.
///
/// # Errors
/// If a file cannot be read or written; then the bundle's adapter is still the old one, or counts as the checkpoint's.
pub fn follow(bundle: &Path, source: &Source) -> Result<()> {
    let folder =
        source.folder(bundle).ok_or_else(|| Error::not_found("checkpoint", format!("step-{} of run {}", source.step, source.run)))?;
    let mut different = vec![];
    for name in ADAPTER_FILES {
        let new = folder.join(name);
        if inside::facts(&new)?.is_some() {
            let bytes = files::map(&new)?;
            if inside::facts(&bundle.join(name))?.is_none() || files::map(&bundle.join(name))? != bytes {
                different.push((name, bytes));
            }
        }
    }
    let note = bundle.join(FILE);
    if different.len() > 1 {
        let text = serde_json::to_vec(source).map_err(|error| Error::format("JSON", error))?;
        files::replace(&note, &text)?;
    }
    written::expect(bundle, &folder, &different.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
    for (name, bytes) in &different {
        files::replace(&bundle.join(name), bytes)?;
    }
    written::note(bundle, Others::Replace)?;
    match fault::point().and_then(|()| fs::remove_file(&note)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).in_file(&note),
        _ => Ok(()),
    }
}

/// Completes what a crash left half done, and says whether there was any.
///
/// # Errors
/// As [`follow`].
pub fn complete(bundle: &Path) -> Result<bool> {
    let Some(source) = read(bundle) else { return Ok(false) };
    if source.folder(bundle).is_some() {
        return follow(bundle, &source).map(|()| true);
    }
    tracing::warn!(
        "{}: the adapter's files may not belong together: the checkpoint that they should follow, step {} of run {}, is gone",
        bundle.display(),
        source.step,
        source.run
    );
    let note = bundle.join(FILE);
    fs::remove_file(&note).in_file(&note).map(|()| false)
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;
    use crate::ir::Tensor;
    use crate::safetensors;

    #[test]
    fn two_files_change_as_one() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let bundle = folder.path();
        let source = Source { run: "001".into(), step: 4 };
        let checkpoint = bundle.join("runs/001/checkpoints/step-4");
        fs::create_dir_all(&checkpoint)?;
        let tensors = |number| safetensors::to_bytes(&IndexMap::from([("w".to_owned(), Tensor::from_f32(&[1], &[number]))]));
        for (place, number) in [(bundle, 1.0), (&checkpoint, 2.0)] {
            fs::write(place.join(peft::CONFIG_FILE), format!("{number}"))?;
            for name in [peft::WEIGHTS_FILE, peft::ENCODER_FILE] {
                fs::write(place.join(name), tensors(number)?)?;
            }
        }
        assert_eq!(adapter_folder(bundle), bundle);
        // A crash behind the first of two files.
        files::replace(&bundle.join(FILE), &serde_json::to_vec(&source).expect("JSON"))?;
        fs::write(bundle.join(peft::WEIGHTS_FILE), tensors(2.0)?)?;
        assert_eq!(adapter_folder(bundle), checkpoint);
        assert!(complete(bundle)?);
        assert_eq!(adapter_folder(bundle), bundle);
        assert_eq!(fs::read(bundle.join(peft::ENCODER_FILE))?, tensors(2.0)?);
        // A note that leads elsewhere is not followed.
        files::replace(&bundle.join(FILE), br#"{"run": "../../elsewhere", "step": 4}"#)?;
        assert_eq!(adapter_folder(bundle), bundle);
        assert!(!complete(bundle)?);
        Ok(())
    }
}
