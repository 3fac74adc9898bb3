//! A folder whose subfolders are adapters: they come, change and go while the server runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::peft::{CONFIG_FILE, WEIGHTS_FILE};

/// The adapters that are in a folder now, by name.
pub(super) fn list(folder: &Path) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let adapters = entries.filter(|path| path.join(CONFIG_FILE).is_file() && path.join(WEIGHTS_FILE).is_file());
    adapters
        .filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path.clone())))
        .filter(|(name, _)| !name.starts_with('.'))
        .collect()
}

/// What tells one state of an adapter's files from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<(u64, Option<SystemTime>)>);

impl Stamp {
    /// The stamp of an adapter's folder.
    pub(super) fn of(folder: &Path) -> Self {
        let facts = [CONFIG_FILE, WEIGHTS_FILE, crate::export::manifest::FILE].map(|file| folder.join(file).metadata());
        Self(facts.map(|facts| facts.map_or((0, None), |facts| (facts.len(), facts.modified().ok()))).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_adapters_are_listed() {
        let root = tempfile::tempdir().expect("a folder");
        for (name, files) in [
            ("b", &[CONFIG_FILE, WEIGHTS_FILE][..]),
            ("a", &[CONFIG_FILE, WEIGHTS_FILE]),
            ("half", &[CONFIG_FILE]),
            (".tmp", &[CONFIG_FILE, WEIGHTS_FILE]),
        ] {
            std::fs::create_dir(root.path().join(name)).expect("a folder");
            for file in files {
                std::fs::write(root.path().join(name).join(file), b"").expect("a file");
            }
        }
        assert_eq!(list(root.path()).into_keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(list(&root.path().join("none")).is_empty());
        let before = Stamp::of(&root.path().join("a"));
        std::fs::write(root.path().join("a").join(WEIGHTS_FILE), b"more").expect("a file");
        assert_ne!(Stamp::of(&root.path().join("a")), before);
    }
}
