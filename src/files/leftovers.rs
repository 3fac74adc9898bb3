//! What processes that were ended left behind: temporary files and folders under names that tell whose they were, and data whose model did not get
//! its place.

use std::fs;
use std::path::Path;

/// What the names of temporary files and folders begin with; the number of their process follows.
pub const MARK: &str = ".peft-onnx-";

/// What the names of this process's temporary files and folders begin with.
#[must_use]
pub fn prefix() -> String {
    format!("{MARK}{}-", std::process::id())
}

/// What the names of notes end with: which files of data are those that a model alone may name, while they get their places one after the other.
pub(super) const NOTE: &str = ".note";

/// The most bytes of a note that are read.
const LONGEST: u64 = 1 << 16;

/// Removes the data of a note that its model does not name.
fn settle(folder: &Path, note: &Path) {
    let is_long = note.symlink_metadata().map_or(true, |facts| !facts.is_file() || facts.len() > LONGEST);
    let Some(text) = fs::read_to_string(note).ok().filter(|_| !is_long) else { return };
    let mut names = text.lines();
    let Some(model) = names.next().filter(|name| is_plain(name)) else { return };
    let path = folder.join(model);
    // A model that cannot be read may name all of them.
    let bytes = match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bytes::Bytes::new(),
        _ => match super::map(&path) {
            Ok(bytes) => bytes,
            Err(_) => return,
        },
    };
    // Whoever wrote the note, it is about the data of this model.
    let is_own = |name: &&str| is_plain(name) && name.len() > model.len() && name.starts_with(model);
    for name in names.filter(is_own) {
        let data = folder.join(name);
        let is_named = bytes.windows(name.len()).any(|part| part == name.as_bytes());
        if !is_named && data.symlink_metadata().is_ok_and(|facts| facts.is_file()) && fs::remove_file(&data).is_ok() {
            tracing::info!("removed {}, whose model a process that is gone did not write", data.display());
        }
    }
}

/// Whether a name is that of an entry of a folder.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && Path::new(name).file_name().is_some_and(|own| own == name)
}

/// Removes from a folder what processes that are gone left there. What cannot be removed stays.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(MARK)?.split_once('-')?.0.parse().ok());
        if owner.is_some_and(is_gone) {
            let path = entry.path();
            if name.to_str().is_some_and(|name| name.ends_with(NOTE)) {
                settle(folder, &path);
            }
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Ok(()) => tracing::info!("removed {}, which a process that is gone left behind", path.display()),
                Err(error) => tracing::debug!("{} stays: {error}", path.display()),
            }
        }
    }
}

#[cfg(unix)]
fn is_gone(process: i32) -> bool {
    use rustix::process::{Pid, test_kill_process};
    Pid::from_raw(process).is_some_and(|process| test_kill_process(process) == Err(rustix::io::Errno::SRCH))
}

#[cfg(not(unix))]
fn is_gone(_: i32) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn names_in(folder: &Path) -> crate::Result<Vec<String>> {
        let mut names: Vec<String> =
            fs::read_dir(folder)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn data_without_its_model_goes_and_the_model_keeps_its_own() -> crate::Result<()> {
        // The model that is there when a process has ended, and the data that is left of the two files of its note.
        let rows: [(Option<&str>, &[&str]); 4] = [
            (None, &[]),
            (Some("old: m.onnx.data"), &["m.onnx.data"]),
            (Some("new: m.onnx.2.data"), &["m.onnx.2.data"]),
            (Some("m.onnx.2.data m.onnx.data"), &["m.onnx.2.data", "m.onnx.data"]),
        ];
        let mut child = std::process::Command::new("true").spawn()?;
        let gone = child.id();
        child.wait()?;
        for (model, left) in rows {
            let folder = tempfile::tempdir()?;
            let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
            model.map_or(Ok(()), |text| write("m.onnx", text))?;
            for name in ["m.onnx.data", "m.onnx.2.data", "other.data"] {
                write(name, "numbers")?;
            }
            write(&format!("{MARK}{gone}-x{NOTE}"), "m.onnx\nm.onnx.2.data\nm.onnx.data\nother.data\nm.onnx/../other.data")?;
            sweep(folder.path());
            let mut expected: Vec<&str> = left.iter().copied().chain(["other.data"]).chain(model.map(|_| "m.onnx")).collect();
            expected.sort_unstable();
            assert_eq!(names_in(folder.path())?, expected, "{model:?}");
        }
        Ok(())
    }

    #[test]
    fn only_what_a_gone_process_left_is_removed() -> crate::Result<()> {
        let folder = tempfile::tempdir()?;
        let mut child = std::process::Command::new("true").spawn()?;
        let gone = child.id();
        child.wait()?;
        let names = [format!("{MARK}{gone}-a"), format!("{}b", prefix()), format!("{MARK}notes"), "model.onnx".to_owned()];
        for name in &names {
            fs::write(folder.path().join(name), "x")?;
        }
        fs::create_dir(folder.path().join(format!("{MARK}{gone}-folder")))?;
        sweep(folder.path());
        let left = names_in(folder.path())?;
        let mut expected = names[1..].to_vec();
        expected.sort();
        assert_eq!(left, expected);
        Ok(())
    }
}
