//! Which files belong to a bundle or to a model: what commands read, and never replace.

use std::path::{Path, PathBuf};

use super::manifest::{self, Manifest};
use super::names::{INITIAL, RUNS};
use super::{card, layout, opened, pending};
use crate::onnx;

/// Whether what is at `path` belongs to what is read at `source`: to a bundle its own files and its base's, to a model its external data, to any other
/// folder an adapter's and a tokenizer's files.
#[must_use]
pub fn belongs(path: &Path, source: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    let has = |other: &Path| other.canonicalize().is_ok_and(|other| path.starts_with(other));
    if !source.is_dir() {
        return has(source) || data_files(source).iter().any(|file| has(file));
    }
    match Manifest::read(source) {
        Ok(manifest) => {
            let base = opened::BaseFiles::of(&manifest, source, None);
            let files = base.files.iter().chain(&base.parts).chain([&base.model]);
            own_names(&manifest).iter().any(|name| has(&source.join(name))) || files.into_iter().any(|file| has(file))
        }
        Err(_) => pending::ADAPTER_FILES.iter().chain(&layout::TOKENIZER).any(|name| has(&source.join(name))),
    }
}

/// What a bundle has at the top of its folder.
fn own_names(manifest: &Manifest) -> Vec<String> {
    let graphs = manifest.graphs.values().flat_map(|graph| [graph.file.clone(), format!("{}.data", graph.file.trim_end_matches(".onnx"))]);
    let others = [manifest::FILE, card::FILE, INITIAL, RUNS].into_iter().chain(pending::ADAPTER_FILES);
    graphs.chain(others.map(ToOwned::to_owned)).collect()
}

/// The files with a model's external data; none of what is no model.
fn data_files(model: &Path) -> Vec<PathBuf> {
    let is_model = model.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"));
    let graph = is_model.then(|| onnx::read(model).ok()).flatten();
    let origins = graph.iter().flat_map(crate::ir::Graph::initializers).filter_map(|(_, tensor)| Some(tensor.origin()?.file.to_path_buf()));
    let mut files: Vec<PathBuf> = origins.collect();
    files.dedup();
    files
}
