//! Places inside a folder that may have come from elsewhere: nothing is written, read or removed through a link in it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::fault;
use crate::error::{Context, Error, Result};

/// The path of `parts` below `root`, if none of them that is there is a link.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) with the link.
pub fn path(root: &Path, parts: &[&str]) -> Result<PathBuf> {
    let mut path = root.to_owned();
    for part in parts {
        path.push(part);
        facts(&path)?;
    }
    Ok(path)
}

/// Checks that a folder and its named subfolders contain only files, folders, and links that stay inside.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) with the first link that leads elsewhere, or pipe; a folder that cannot be read.
pub fn own(root: &Path, folders: &[&str]) -> Result<()> {
    let below = folders.iter().map(|folder| root.join(folder)).filter(|folder| folder.is_dir());
    for folder in std::iter::once(root.to_owned()).chain(below) {
        for entry in folder.read_dir().in_file(&folder)? {
            let path = entry.in_file(&folder)?.path();
            if !leads_below(&path) {
                facts(&path)?;
            }
        }
    }
    Ok(())
}

/// What stands at a path, if anything; a link is refused, and what is neither a file nor a folder.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) for these; [`Io`](crate::ErrorKind::Io) where the path cannot be asked for.
pub fn facts(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(facts) if facts.file_type().is_symlink() => Err(is_link(path)),
        Ok(facts) if facts.is_file() || facts.is_dir() => Ok(Some(facts)),
        Ok(_) => Err(is_no_file(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).in_file(path),
    }
}

/// Makes the folder of `parts` below `root`, unless it is there.
///
/// # Errors
/// As [`facts`]; if a folder cannot be made.
pub fn make_folder(root: &Path, parts: &[&str]) -> Result<PathBuf> {
    let mut path = root.to_owned();
    for part in parts {
        path.push(part);
        if facts(&path)?.is_none() {
            fault::point().and_then(|()| fs::create_dir(&path)).in_file(&path)?;
        }
    }
    Ok(path)
}

/// A file to add to, made if it is not there.
///
/// # Errors
/// As [`facts`]; if the file cannot be opened.
pub fn append(path: &Path) -> Result<File> {
    facts(path)?;
    fault::point().in_file(path)?;
    unlinked(OpenOptions::new().create(true).append(true)).open(path).in_file(path)
}

/// A file to read and write, made if it is not there; what it holds stays.
///
/// # Errors
/// As [`facts`]; if the file cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    facts(path)?;
    unlinked(OpenOptions::new().create(true).read(true).write(true).truncate(false)).open(path).in_file(path)
}

/// The bytes of a file.
///
/// # Errors
/// As [`facts`]; if the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    facts(path)?;
    fs::read(path).in_file(path)
}

/// Refuses links where the system can do so while it opens a file.
fn unlinked(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW);
    options
}

/// Whether a path is a link to what lies below the link's own folder, or would.
fn leads_below(path: &Path) -> bool {
    let is_plain = |target: &Path| target.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !fs::read_link(path).is_ok_and(|target| is_plain(&target)) {
        return false;
    }
    let own = path.parent().and_then(|folder| folder.canonicalize().ok());
    match path.canonicalize() {
        Ok(target) => own.is_some_and(|own| target.starts_with(own)) && (target.is_file() || target.is_dir()),
        // What it led to is gone.
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// What is neither a file nor a folder: reading a pipe could wait for ever.
pub(super) fn is_no_file(path: &Path) -> Error {
    Error::invalid("no ordinary file").in_file(path).with_hint("it is a pipe, a socket or a device: put a file in its place")
}

fn is_link(path: &Path) -> Error {
    Error::invalid("a link, which is not followed inside a bundle")
        .in_file(path)
        .with_hint("a bundle from elsewhere could reach any file through it: remove it, or put what it leads to in its place")
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_refused_wherever_they_stand() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("real"))?;
        fs::create_dir(&outside)?;
        fs::write(outside.join("file"), "precious")?;
        symlink("../outside", root.join("runs"))?;
        symlink("../../outside/file", root.join("real/file"))?;
        assert!(path(&root, &["real", "x"]).is_ok());
        let tries: [Result<()>; 5] = [
            path(&root, &["runs", "x"]).map(drop),
            make_folder(&root, &["runs", "x"]).map(drop),
            append(&root.join("real/file")).map(drop),
            open(&root.join("real/file")).map(drop),
            read(&root.join("real/file")).map(drop),
        ];
        for tried in tries {
            assert!(tried.unwrap_err().to_string().contains("a link, which is not followed"));
        }
        assert_eq!(fs::read(outside.join("file"))?, b"precious");
        assert_eq!(fs::read_dir(&outside)?.count(), 1);
        Ok(())
    }
}
