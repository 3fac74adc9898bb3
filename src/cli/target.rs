//! Where commands write. A command replaces a file or folder only if asked to, and only one of the kind that it writes.

use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::export::belongs::belongs;
use crate::export::manifest;
use crate::files::{self, StagedFolder, leftovers};

/// Makes sure that a file may be written, and that its folder is there. `read` is what the command reads, which is not replaced: models, bundles, data.
pub(super) fn file(path: &Path, force: bool, read: &[Option<&Path>]) -> Result<()> {
    if path.is_dir() {
        return Err(Error::invalid("a folder, where a file is to be written").in_file(path).with_hint("name the file with `-o`"));
    }
    is_named(path)?;
    // A device or a pipe is no place for a file, and is not ours to replace.
    if path.metadata().is_ok_and(|facts| !facts.is_file()) {
        let error = Error::invalid("no ordinary file: a pipe, a socket or a device, which is not replaced").in_file(path);
        return Err(error.with_hint("name a file with `-o`"));
    }
    if path.symlink_metadata().is_ok() && !force {
        return Err(Error::invalid("already there").in_file(path).with_hint("`--force` replaces it, `-o` names another file"));
    }
    is_not_read(path, read)?;
    let folder = files::folder(path);
    files::make_folder(folder)?;
    leftovers::sweep(folder);
    Ok(())
}

/// Refuses what belongs to something that the command reads, or to a bundle that it lies in.
fn is_not_read(path: &Path, read: &[Option<&Path>]) -> Result<()> {
    let is_around =
        |source: &Path| path.canonicalize().is_ok_and(|path| source.canonicalize().is_ok_and(|source| source.starts_with(path)));
    if let Some(source) = read.iter().flatten().find(|source| belongs(path, source) || is_around(source)) {
        let error = Error::invalid(format!("it is read, or belongs to what is read: {}", source.display())).in_file(path);
        return Err(error.with_hint("`-o` names another place; what a command reads is not replaced, with `--force` neither"));
    }
    let whole = path.canonicalize().unwrap_or_default();
    match whole.ancestors().skip(1).find(|above| above.join(manifest::FILE).is_file() && belongs(&whole, above)) {
        Some(bundle) => {
            let error = Error::invalid(format!("it belongs to the bundle {}", bundle.display())).in_file(path);
            Err(error.with_hint("`-o` names another place; only `inject` and `train` write a bundle's own files, with `--force` too"))
        }
        None => Ok(()),
    }
}

/// Refuses what stands for standard output in other programs.
fn is_named(path: &Path) -> Result<()> {
    if path != Path::new("-") {
        return Ok(());
    }
    let error = Error::invalid("- names no file, and only `predict` and `generate` write to standard output");
    Err(error.with_hint("leave `-o` out there; `./-` is a file of this name"))
}

/// A folder to fill in the place of one that is not there, is empty, or has nothing but files of these names.
///
/// `read` as in [`file()`].
pub(super) fn folder(path: &Path, force: bool, names: &[&str], read: &[Option<&Path>]) -> Result<StagedFolder> {
    is_not_read(path, read)?;
    check_folder(path, force, names)?;
    StagedFolder::new(path)
}

/// Refuses a folder that has something that is read, as `(what, path)`: a folder is replaced as a whole.
pub(super) fn not_around(folder: &Path, read: &[(&str, &Path)]) -> Result<()> {
    let Ok(whole) = folder.canonicalize() else { return Ok(()) };
    let is_inside = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(&whole));
    match read.iter().find(|(_, path)| is_inside(path)) {
        Some((what, path)) => {
            let error = Error::invalid(format!("the {what} is in this folder: {}", path.display())).in_file(folder);
            Err(error.with_hint("`-o` names another folder"))
        }
        None => Ok(()),
    }
}

/// Refuses what [`folder`] refuses, with nothing written.
pub(super) fn check_folder(path: &Path, force: bool, names: &[&str]) -> Result<()> {
    is_named(path)?;
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
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn devices_and_standard_output_are_no_files_to_replace() {
        for (path, said) in [("/dev/null", "no ordinary file"), ("-", "- names no file")] {
            let error = file(Path::new(path), true, &[]).unwrap_err();
            assert!(error.to_string().contains(said), "{path}: {error}");
        }
        assert!(folder(Path::new("-"), true, &[], &[]).is_err());
    }
}
