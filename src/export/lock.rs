//! One writer a bundle: a lock that ends with its process. Readers need none.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::inside;
use crate::files::unfinished::Unfinished;

/// The lock's file in a bundle. Who made it removes it; that of a killed process stays. Whether somebody holds it is what the system knows, not whether it
/// is there.
pub const FILE: &str = ".lock";

/// How often a lock is tried for whose file is removed by others.
const ATTEMPTS: usize = 100;

/// The right to change a bundle, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: Option<File>,
    /// The file's name, where this made the file; a signal that ends the process removes it.
    made: Option<(PathBuf, Unfinished)>,
}

/// Who holds a lock: what the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The number of the process.
    pub pid: u32,
    /// When it took the lock, in seconds since 1970.
    pub since: u64,
    /// The command.
    pub work: String,
}

impl Lock {
    /// Takes the lock of a bundle for a command.
    ///
    /// # Errors
    /// If another process holds it, with that process; if the file cannot be opened.
    pub fn take(bundle: &Path, work: &str) -> Result<Self> {
        let path = bundle.join(FILE);
        // Who held it a moment ago may have removed its file since this process opened it: such a lock keeps nobody out.
        for _ in 0..ATTEMPTS {
            let is_new = inside::facts(&path)?.is_none();
            let mut file = inside::open(&path)?;
            match file.try_lock() {
                Ok(()) if !is_at(&file, &path) => continue,
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(held(bundle, &mut file)),
                Err(TryLockError::Error(error)) => {
                    tracing::warn!(
                        "{}: this file system has no locks ({error}): take care that nothing else changes the bundle",
                        path.display()
                    );
                    return Ok(Self { file: None, made: None });
                }
            }
            let holder = Holder { pid: std::process::id(), since: now(), work: work.to_owned() };
            // Who cannot tell, for want of room on the disk, holds it all the same.
            let _ = tell(&mut file, &holder);
            let made = is_new.then(|| (path.clone(), Unfinished::new(&path)));
            return Ok(Self { file: Some(file), made });
        }
        Err(Error::invalid("other commands change this bundle again and again").in_file(bundle).with_hint("wait until they are done"))
    }

    /// Who holds the lock of a bundle now, if anybody does.
    #[must_use]
    pub fn holder(bundle: &Path) -> Option<Holder> {
        let path: PathBuf = inside::path(bundle, &[FILE]).ok()?;
        let mut file = File::open(path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => asked(&mut file).or(Some(Holder { pid: 0, since: 0, work: "another command".to_owned() })),
            _ => None,
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A folder that took the bundle's place meanwhile may have a lock of its own.
        if let (Some(file), Some((path, _))) = (&self.file, &self.made)
            && is_at(file, path)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether a name still leads to an open file. Where files have no numbers it is taken to.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let number = |facts: std::io::Result<std::fs::Metadata>| facts.ok().map(|facts| (facts.dev(), facts.ino()));
    let there = number(std::fs::symlink_metadata(path));
    there.is_some() && there == number(file.metadata())
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

fn tell(file: &mut File, holder: &Holder) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&serde_json::to_vec(holder)?)
}

fn asked(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn held(bundle: &Path, file: &mut File) -> Error {
    let who = asked(file).map_or_else(
        || "another process".to_owned(),
        |Holder { pid, since, work }| format!("{work} (process {pid}, which began {} s ago)", now().saturating_sub(since)),
    );
    Error::invalid(format!("{who} is changing this bundle"))
        .in_file(bundle)
        .with_hint("wait until it is done, or stop it; what only reads the bundle need not wait")
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_writer_is_told_who_the_first_is() -> Result<()> {
        let bundle = tempfile::tempdir()?;
        std::fs::write(bundle.path().join(FILE), "left by a process that died")?;
        assert_eq!(Lock::holder(bundle.path()), None);
        let lock = Lock::take(bundle.path(), "peft-onnx train")?;
        let error = Lock::take(bundle.path(), "peft-onnx inject").unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.contains(&format!("peft-onnx train (process {pid}, which began")), "{error}");
        assert_eq!(Lock::holder(bundle.path()).map(|holder| holder.pid), Some(pid));
        drop(lock);
        Lock::take(bundle.path(), "peft-onnx inject").map(drop)
    }

    #[test]
    fn who_made_the_file_removes_it_and_nobody_elses() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (bundle, aside) = (folder.path().join("bundle"), folder.path().join("aside"));
        std::fs::create_dir(&bundle)?;
        let lock = Lock::take(&bundle, "peft-onnx inject")?;
        assert!(bundle.join(FILE).is_file());
        drop(lock);
        assert!(!bundle.join(FILE).exists());
        // A new bundle takes the place of the one that is held.
        let lock = Lock::take(&bundle, "peft-onnx inject")?;
        std::fs::rename(&bundle, &aside)?;
        std::fs::create_dir(&bundle)?;
        let other = Lock::take(&bundle, "peft-onnx train")?;
        drop(lock);
        assert!(bundle.join(FILE).is_file(), "the other's file stays");
        assert!(Lock::take(&bundle, "peft-onnx train").is_err());
        drop(other);
        // What somebody else left there stays.
        std::fs::write(bundle.join(FILE), "left by a process that died")?;
        Lock::take(&bundle, "peft-onnx train").map(drop)?;
        assert!(bundle.join(FILE).exists());
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_that_is_a_link_is_not_written_through() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let outside = folder.path().join("outside");
        std::fs::write(&outside, "precious")?;
        std::os::unix::fs::symlink(&outside, folder.path().join(FILE))?;
        assert!(Lock::take(folder.path(), "peft-onnx train").is_err());
        assert_eq!(std::fs::read(&outside)?, b"precious");
        Ok(())
    }
}
