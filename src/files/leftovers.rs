//! What processes that were ended left behind: temporary files and folders under names that tell whose they were.

use std::fs;
use std::path::Path;

/// What the names of temporary files and folders begin with; the number of their process follows.
pub const MARK: &str = ".peft-onnx-";

/// What the names of this process's temporary files and folders begin with.
#[must_use]
pub fn prefix() -> String {
    format!("{MARK}{}-", std::process::id())
}

/// Removes from a folder what processes that are gone left there. What cannot be removed stays.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(MARK)?.split_once('-')?.0.parse().ok());
        if owner.is_some_and(is_gone) {
            let path = entry.path();
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
        let mut left: Vec<String> =
            fs::read_dir(folder.path())?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        left.sort();
        let mut expected = names[1..].to_vec();
        expected.sort();
        assert_eq!(left, expected);
        Ok(())
    }
}
