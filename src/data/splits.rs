//! Folders of data: training, validation and test files; or a folder of pictures or sounds for each class.

use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// What a data file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To evaluate on while learning.
    Validation,
    /// To measure with at the end.
    Test,
}

/// The names that people give them, the most usual first.
const NAMES: [(Split, &[&str]); 3] = [
    (Split::Train, &["train", "training"]),
    (Split::Validation, &["validation", "valid", "val", "dev", "eval"]),
    (Split::Test, &["test", "testing"]),
];

/// The endings of data files.
pub(super) const ENDINGS: [&str; 7] = ["jsonl", "ndjson", "json", "csv", "tsv", "parquet", "txt"];

/// The endings of pictures and of sounds, and the column that they are.
const MEDIA: [(&[&str], &str); 2] =
    [(&["png", "jpg", "jpeg", "webp", "bmp", "gif"], "image"), (&["wav", "flac", "mp3", "ogg", "oga"], "audio")];

impl Split {
    /// Its usual name.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(split, _)| *split == self).map_or("", |(_, names)| names[0])
    }
}

/// The parts of a folder of data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splits(Vec<(Split, PathBuf)>);

impl Splits {
    /// What a folder has, or the folder `data` in it.
    ///
    /// # Errors
    /// A folder that cannot be read; several files for one purpose.
    pub fn of(folder: &Path) -> Result<Self> {
        let own = Self::directly(folder)?;
        let inner = folder.join("data");
        if own.0.is_empty() && inner.is_dir() { Self::directly(&inner) } else { Ok(own) }
    }

    fn directly(folder: &Path) -> Result<Self> {
        let mut found: Vec<(Split, PathBuf)> = vec![];
        for path in sorted(folder)? {
            let Some(split) =
                split_of(&path).filter(|_| !path.is_dir() || Classes::of(&path).is_ok_and(|classes| !classes.files.is_empty()))
            else {
                continue;
            };
            if let Some((_, other)) = found.iter().find(|(known, _)| *known == split) {
                let error =
                    Error::invalid(format!("two files for {}: {} and {}", split.name(), other.display(), path.display())).in_file(folder);
                return Err(error.with_hint("name the file itself, or write their rows into one"));
            }
            found.push((split, path));
        }
        Ok(Self(found))
    }

    /// The file, or the folder, for a purpose.
    #[must_use]
    pub fn get(&self, split: Split) -> Option<&Path> {
        self.0.iter().find(|(known, _)| *known == split).map(|(_, path)| path.as_path())
    }

    /// The first of some purposes that there is a file for.
    #[must_use]
    pub fn first(&self, wanted: &[Split]) -> Option<&Path> {
        wanted.iter().find_map(|split| self.get(*split))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `train.jsonl`, `train.csv.gz`, `train-00000-of-00001.parquet`, or a folder `train`.
fn split_of(path: &Path) -> Option<Split> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let stem = name.split(['.', '-']).next()?;
    let has_ending = path.is_dir() || name.split('.').skip(1).any(|ending| ENDINGS.contains(&ending));
    NAMES.iter().find(|(_, names)| names.contains(&stem)).map(|(split, _)| *split).filter(|_| has_ending)
}

/// Pictures or sounds in folders that are named after their classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Classes {
    /// The column that the files are: `image` or `audio`.
    pub column: &'static str,
    /// Each file's path from the folder, and its class.
    pub files: Vec<(String, String)>,
}

impl Classes {
    /// What lies in a folder of folders; none if it has no pictures and no sounds.
    ///
    /// # Errors
    /// A folder that cannot be read, or with both.
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let mut classes = Self::default();
        for class in sorted(folder)?.into_iter().filter(|path| path.is_dir()) {
            let name = class.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for file in sorted(&class)? {
                let ending = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
                let Some((_, column)) = MEDIA.iter().find(|(endings, _)| endings.contains(&ending.as_str())) else { continue };
                if !classes.files.is_empty() && classes.column != *column {
                    return Err(Error::invalid("pictures and sounds together")
                        .in_file(folder)
                        .with_hint("a folder of data has one kind of files"));
                }
                classes.column = column;
                let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                classes.files.push((format!("{name}/{file}"), name.clone()));
            }
        }
        Ok(classes)
    }
}

/// Whether a folder can be read as data.
#[must_use]
pub fn is_data(folder: &Path) -> bool {
    Splits::of(folder).map_or(true, |splits| !splits.is_empty()) || Classes::of(folder).is_ok_and(|classes| !classes.files.is_empty())
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = folder.read_dir().in_file(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| !path.file_name().unwrap_or_default().to_string_lossy().starts_with('.'));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_files_by_their_purpose() -> Result<()> {
        for (names, expected) in [
            (
                &["train.jsonl", "validation.csv.gz", "test.json", "README.md"][..],
                [Some("train.jsonl"), Some("validation.csv.gz"), Some("test.json")],
            ),
            (&["data/train-00000-of-00001.parquet", "data/val.tsv"], [Some("train-00000-of-00001.parquet"), Some("val.tsv"), None]),
            (&["rows.jsonl", "train.py"], [None, None, None]),
            (&["train/cat/1.png", "train/dog/1.jpg", "test/cat/2.png"], [Some("train"), None, Some("test")]),
        ] {
            let folder = tempfile::tempdir()?;
            for name in names {
                let path = folder.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap_or(folder.path()))?;
                std::fs::write(path, "")?;
            }
            let splits = Splits::of(folder.path())?;
            let found =
                [Split::Train, Split::Validation, Split::Test].map(|split| splits.get(split).and_then(|path| path.file_name()?.to_str()));
            assert_eq!(found, expected, "{names:?}");
        }
        let folder = tempfile::tempdir()?;
        for name in ["train.csv", "train.jsonl"] {
            std::fs::write(folder.path().join(name), "")?;
        }
        assert!(Splits::of(folder.path()).is_err_and(|error| error.to_string().contains("two files for train")));
        Ok(())
    }

    #[test]
    fn folders_of_pictures_are_rows_with_their_classes() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for name in ["cat/b.PNG", "cat/a.jpg", "dog/1.webp", "dog/notes.txt"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(folder.path()))?;
            std::fs::write(path, "")?;
        }
        let classes = Classes::of(folder.path())?;
        let files: Vec<(&str, &str)> = classes.files.iter().map(|(file, class)| (file.as_str(), class.as_str())).collect();
        assert_eq!((classes.column, files), ("image", vec![("cat/a.jpg", "cat"), ("cat/b.PNG", "cat"), ("dog/1.webp", "dog")]));
        assert!(is_data(folder.path()) && !is_data(&folder.path().join("cat")));
        Ok(())
    }
}
