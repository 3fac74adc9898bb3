//! Which of the files in a folder is the model.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::models::onnx_files;
use super::{Role, listed, refusal, shown, wrong};
use crate::error::Result;
use crate::files;

/// The model of a folder.
pub(super) struct FoundModel {
    /// The model's file.
    pub(super) file: PathBuf,
    /// Models that lie beside it.
    others: Vec<PathBuf>,
}

impl FoundModel {
    /// What to say of the choice, if there was one.
    pub(super) fn note(&self, folder: &Path) -> Option<String> {
        let others: Vec<PathBuf> = self.others.iter().map(|file| file.strip_prefix(folder).unwrap_or(file).to_owned()).collect();
        (!others.is_empty()).then(|| format!("the model of {} is {} (not {})", folder.display(), shown(&self.file), listed(&others)))
    }
}

/// The files by which exporters call a model that is one file.
const NAMES: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

const GENAI: &str = "genai_config.json";

/// The model in a folder: the one that onnxruntime-genai's configuration names, `model.onnx`, `onnx/model.onnx`, or the only one.
///
/// # Errors
/// If there is none, or several that it could be.
pub(super) fn inside(folder: &Path) -> Result<FoundModel> {
    let all = onnx_files(folder);
    let mut named: Vec<PathBuf> = named_by_genai(folder).into_iter().chain(NAMES.map(|name| folder.join(name))).collect();
    named.retain(|path| path.is_file());
    named.dedup();
    let candidates = if named.is_empty() { all.clone() } else { named };
    match &candidates[..] {
        [only] => {
            super::look(Role::Model, only)?;
            Ok(FoundModel { file: only.clone(), others: all.into_iter().filter(|file| file != only).collect() })
        }
        [] => Err(wrong::folder(Role::Model, folder)),
        several => {
            let hint = format!("name the one that is meant: {}", listed(several));
            Err(refusal(Role::Model, folder, &format!("a folder with {} models", several.len()), hint))
        }
    }
}

/// The decoder's file, where onnxruntime-genai's configuration names it.
fn named_by_genai(folder: &Path) -> Option<PathBuf> {
    let config: Value = serde_json::from_slice(&files::read(&folder.join(GENAI)).ok()?).ok()?;
    let name = config.pointer("/model/decoder/filename")?.as_str()?;
    Some(folder.join(name))
}
