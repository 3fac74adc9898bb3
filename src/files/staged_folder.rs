//! Folders that appear, or take another's place, as a whole.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::unfinished::Unfinished;
use super::{leftovers, sync_folder};
use crate::error::{Context, Error, Result};

/// A folder that is filled under another name and takes its own when it is complete. Dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct StagedFolder {
    temporary: TempDir,
    target: PathBuf,
    unfinished: Unfinished,
}

impl StagedFolder {
    /// Starts a folder that will stand at `target`. The folder above it is made if it is not there.
    ///
    /// # Errors
    /// If the folder above cannot be made or written to.
    pub fn new(target: &Path) -> Result<Self> {
        let target = std::path::absolute(target).in_file(target)?;
        let parent = target.parent().ok_or_else(|| Error::invalid("not a folder that can be replaced").in_file(&target))?;
        fs::create_dir_all(parent).in_file(parent)?;
        leftovers::sweep(parent);
        let make = || tempfile::Builder::new().prefix(&leftovers::prefix()).tempdir_in(parent);
        let (temporary, unfinished) = Unfinished::made(make, TempDir::path).in_file(parent)?;
        Ok(Self { temporary, target, unfinished })
    }

    /// Where it is filled.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Puts the folder in its place. What stood there is the old folder until it is the new one, and is removed afterwards.
    ///
    /// # Errors
    /// If the folder cannot be put there.
    pub fn finish(self) -> Result<()> {
        let target = &self.target;
        let old = fs::symlink_metadata(target).ok();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = old.as_ref().filter(|old| old.is_dir()).map_or(0o755, |old| old.permissions().mode());
            fs::set_permissions(self.path(), fs::Permissions::from_mode(mode)).in_file(self.path())?;
        }
        sync_folder(self.path());
        let filled = self.temporary.keep();
        // Afterwards the old one has the new one's name, and is what a signal removes.
        let placed = self.unfinished.placed(|| if old.is_some() { exchange(&filled, target) } else { fs::rename(&filled, target) });
        if let Err(error) = placed {
            let _ = fs::remove_dir_all(&filled);
            return Err(error).in_file(target);
        }
        sync_folder(target.parent().unwrap_or(target));
        if old.is_some() {
            // What cannot be removed now is swept later.
            let _ = if filled.is_symlink() || filled.is_file() { fs::remove_file(&filled) } else { fs::remove_dir_all(&filled) };
        }
        Ok(())
    }
}

/// Has two names change places.
fn exchange(new: &Path, target: &Path) -> std::io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, new, CWD, target, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
    }
    // Where the system or the file system cannot do that, the old one steps aside for a moment.
    let aside = new.with_extension("old");
    fs::rename(target, &aside)?;
    if let Err(error) = fs::rename(new, target) {
        let _ = fs::rename(&aside, target);
        return Err(error);
    }
    fs::rename(&aside, new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_takes_anothers_place_as_a_whole() -> Result<()> {
        let above = tempfile::tempdir()?;
        let target = above.path().join("deep/folder");
        for text in ["one", "two"] {
            let staged = StagedFolder::new(&target)?;
            fs::write(staged.path().join(text), text)?;
            staged.finish()?;
            assert_eq!(fs::read(target.join(text))?, text.as_bytes());
            assert_eq!(fs::read_dir(&target)?.count(), 1);
            assert_eq!(fs::read_dir(above.path().join("deep"))?.count(), 1);
        }
        drop(StagedFolder::new(&target)?);
        assert_eq!(fs::read_dir(above.path().join("deep"))?.count(), 1);
        Ok(())
    }
}
