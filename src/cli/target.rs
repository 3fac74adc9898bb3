//! Where commands write. A command replaces a file or folder only if asked to, and only one of the kind that it writes.

use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::files::{self, StagedFolder, leftovers};

/// Makes sure that a file may be written, and that its folder is there.
pub(super) fn file(path: &Path, force: bool) -> Result<()> {
    if path.is_dir() {
        return Err(Error::invalid("a folder, where a file is to be written").in_file(path).with_hint("name the file with `-o`"));
    }
    if path.symlink_metadata().is_ok() && !force {
        return Err(Error::invalid("already there").in_file(path).with_hint("`--force` replaces it, `-o` names another file"));
    }
    let folder = files::folder(path);
    std::fs::create_dir_all(folder).in_file(folder)?;
    leftovers::sweep(folder);
    Ok(())
}

/// A folder to fill in the place of one that is not there, is empty, or has nothing but files of these names.
pub(super) fn folder(path: &Path, force: bool, names: &[&str]) -> Result<StagedFolder> {
    if path.symlink_metadata().is_ok() {
        let is_folder = path.is_dir();
        if !is_folder || !force {
            let hint = if is_folder { "`--force` replaces it, `-o` names another folder" } else { "`-o` names a folder" };
            let is_empty = is_folder && path.read_dir().in_file(path)?.next().is_none();
            if !is_empty {
                let what = if is_folder { "already there" } else { "a file, where a folder is to be written" };
                return Err(Error::invalid(what).in_file(path).with_hint(hint));
            }
        }
        for entry in path.read_dir().in_file(path)? {
            let name = entry.in_file(path)?.file_name();
            if !names.iter().any(|own| name == **own) {
                let error = Error::invalid("not replaced: it has other files than those that are written").in_file(path.join(name));
                return Err(error.with_hint("`-o` names another folder"));
            }
        }
    }
    StagedFolder::new(path)
}
