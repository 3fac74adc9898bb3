//! Where files that belong to a model lie.

use std::path::{Path, PathBuf};

/// The folders in which files that belong to a model's file, or folder, may lie, the nearest first: its own, and the one above it
/// (`onnx/model.onnx`). Where the path is a link, as those of a hub's cache are, what lies beside the link comes before what lies beside the
/// file that it leads to.
#[must_use]
pub fn folders(model: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = vec![];
    for place in [std::path::absolute(model).ok(), model.canonicalize().ok()].into_iter().flatten() {
        let folder = if place.is_dir() { Some(place.as_path()) } else { place.parent() };
        for folder in folder.into_iter().flat_map(|folder| folder.ancestors().take(2)) {
            if folder.is_dir() && !found.iter().any(|known| known == folder) {
                found.push(folder.to_path_buf());
            }
        }
    }
    found
}

/// The nearest file of a name, if there is one.
#[must_use]
pub fn file(model: &Path, name: &str) -> Option<PathBuf> {
    folders(model).into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_beside_the_model_come_before_those_above_it() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |name: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
            std::fs::write(&path, name).expect("it is written");
            path
        };
        let (model, above) = (write("a/onnx/model.onnx"), write("a/config.json"));
        assert_eq!(file(&model, "config.json"), Some(above));
        let own = write("a/onnx/config.json");
        assert_eq!((file(&model, "config.json"), file(&model, "tokenizer.json")), (Some(own), None));
        write("far.json");
        assert_eq!(file(&model, "far.json"), None, "two folders above is another model's");
    }

    #[cfg(unix)]
    #[test]
    fn files_beside_a_link_come_before_those_beside_what_it_leads_to() {
        let root = tempfile::tempdir().expect("a folder");
        let path = |name: &str| root.path().join(name);
        for folder in ["blobs/deep", "snapshot"] {
            std::fs::create_dir_all(path(folder)).expect("it is made");
        }
        std::fs::write(path("blobs/deep/1a2b"), "").expect("it is written");
        std::os::unix::fs::symlink(path("blobs/deep/1a2b"), path("snapshot/model.onnx")).expect("a link");
        let model = path("snapshot/model.onnx");
        std::fs::write(path("blobs/deep/config.json"), "target").expect("it is written");
        let found = || file(&model, "config.json").map(|file| std::fs::read_to_string(file).expect("it is there"));
        assert_eq!(found().as_deref(), Some("target"));
        std::fs::write(path("snapshot/config.json"), "link").expect("it is written");
        assert_eq!(found().as_deref(), Some("link"));
    }
}
