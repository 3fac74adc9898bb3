//! The models in a folder.

use std::path::{Path, PathBuf};

use super::files_in;
use crate::files::Kind;

/// The models in a folder and in its folder `onnx`: whole ones, as far as their first bytes tell.
pub(super) fn models(folder: &Path) -> Vec<PathBuf> {
    onnx_files(folder).into_iter().filter(|path| Kind::of(path) == Some(Kind::Onnx)).collect()
}

pub(super) fn onnx_files(folder: &Path) -> Vec<PathBuf> {
    let is_model = |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"));
    [folder.to_owned(), folder.join("onnx")].iter().flat_map(|folder| files_in(folder, is_model)).collect()
}
