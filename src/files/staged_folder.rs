//! Folders that appear, or take another's place, as a whole.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::unfinished::Unfinished;
use super::{leftovers, make_folder, sync_folder, temporary_folder};
use crate::error::{Context, Error, Result};

/// A folder that is filled under another name and takes its own when it is complete. Dropped before that, it leaves nothing.
///
/// A folder that cannot be moved, because something is mounted there or because somebody stands in it, is filled inside of it: its entries
/// change places one by one.
#[derive(Debug)]
pub struct StagedFolder {
    temporary: TempDir,
    target: PathBuf,
    unfinished: Unfinished,
    /// Whether the folder stays where it is.
    stays: bool,
}

impl StagedFolder {
    /// Starts a folder that will stand at `target`. The folder above it is made if it is not there.
    ///
    /// # Errors
    /// If the folder above cannot be made or written to.
    pub fn new(target: &Path) -> Result<Self> {
        let target = std::path::absolute(target).in_file(target)?;
        let above = target.parent().ok_or_else(|| Error::invalid("not a folder that can be replaced").in_file(&target))?;
        make_folder(above)?;
        let stays = is_fixed(&target, above);
        let place = if stays { &*target } else { above };
        leftovers::sweep(place);
        let make = || temporary_folder(&leftovers::prefix()).tempdir_in(place);
        let (temporary, unfinished) = Unfinished::made(make, TempDir::path).in_file(place)?;
        Ok(Self { temporary, target, unfinished, stays })
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
        if self.stays {
            return self.move_in();
        }
        let target = &self.target;
        let old = fs::symlink_metadata(target).ok();
        // A new folder is as open as the user's mask has it, one that is replaced as open as it was.
        if let Some(old) = old.as_ref().filter(|old| old.is_dir()) {
            fs::set_permissions(self.path(), old.permissions()).in_file(self.path())?;
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
    /// Has the new entries take the places of the old ones, which go with the temporary folder; no signal comes between.
    fn move_in(self) -> Result<()> {
        let (target, filled) = (&self.target, self.temporary.path());
        let (new, old) = (names(filled).in_file(filled)?, names(target).in_file(target)?);
        let gone: Vec<&OsString> = old.iter().filter(|name| !new.contains(name) && Some(name.as_os_str()) != filled.file_name()).collect();
        let moved = self.unfinished.placed(|| {
            for name in &new {
                let (from, to) = (filled.join(name), target.join(name));
                if old.contains(name) { exchange(&from, &to) } else { fs::rename(&from, &to) }?;
            }
            gone.into_iter().try_for_each(|name| fs::rename(target.join(name), filled.join(name)))
        });
        moved.in_file(target)?;
        sync_folder(target);
        Ok(())
    }
}

/// The names in a folder.
fn names(folder: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names: Vec<OsString> = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Whether a folder must stay where it is: something is mounted there, or this process stands in it.
fn is_fixed(folder: &Path, above: &Path) -> bool {
    let Ok(whole) = folder.canonicalize().map(|whole| (whole.is_dir(), whole)) else { return false };
    let (is_folder, whole) = whole;
    let stands_in_it = || std::env::current_dir().is_ok_and(|current| current.starts_with(&whole));
    is_folder && !folder.is_symlink() && (begins_file_system(folder, above) || is_mounted(folder) || stands_in_it())
}

/// Whether a folder is on another file system than the one above it.
#[cfg(unix)]
fn begins_file_system(folder: &Path, above: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| path.metadata().ok().map(|facts| facts.dev());
    device(folder).zip(device(above)).is_some_and(|(one, other)| one != other)
}

#[cfg(not(unix))]
fn begins_file_system(_: &Path, _: &Path) -> bool {
    false
}

/// Whether a folder is a place where something is mounted: a folder of the same file system, too, which is on no other device.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_mounted(folder: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    statx(CWD, folder, AtFlags::empty(), StatxFlags::empty()).is_ok_and(|facts| facts.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_mounted(_: &Path) -> bool {
    false
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

    /// Takes the mount away again.
    #[cfg(target_os = "linux")]
    struct Mounted<'a>(&'a Path);

    #[cfg(target_os = "linux")]
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_of_the_same_file_system_that_is_mounted_gets_new_entries() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (real, target) = (folder.path().join("real"), folder.path().join("mounted"));
        fs::create_dir(&real)?;
        fs::create_dir(&target)?;
        let mount = std::process::Command::new("mount").arg("-B").args([&real, &target]).stderr(std::process::Stdio::null()).status();
        if !mount.is_ok_and(|status| status.success()) {
            // Only an administrator may.
            return Ok(());
        }
        let _mounted = Mounted(&target);
        for text in ["one", "two"] {
            let staged = StagedFolder::new(&target)?;
            fs::write(staged.path().join(text), text)?;
            staged.finish()?;
            assert_eq!(names(&real)?, [text]);
        }
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_is_as_open_as_one_that_the_user_makes() -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let above = tempfile::tempdir()?;
        let mode = |path: &Path| fs::metadata(path).map(|facts| facts.permissions().mode());
        let (own, target) = (above.path().join("own"), above.path().join("target"));
        fs::create_dir(&own)?;
        StagedFolder::new(&target)?.finish()?;
        assert_eq!(mode(&target)?, mode(&own)?);
        fs::set_permissions(&target, fs::Permissions::from_mode(0o700))?;
        StagedFolder::new(&target)?.finish()?;
        assert_eq!(mode(&target)? & 0o777, 0o700);
        let placed = above.path().join("placed");
        super::super::unfinished::Folder::new(above.path())?.placed(&placed)?;
        assert_eq!(mode(&placed)?, mode(&own)?);
        Ok(())
    }

    #[test]
    fn a_folder_that_must_stay_gets_new_entries() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for name in ["old", "both"] {
            fs::write(folder.path().join(name), "before")?;
        }
        let (temporary, unfinished) = Unfinished::made(|| tempfile::tempdir_in(folder.path()), TempDir::path)?;
        let staged = StagedFolder { temporary, target: folder.path().to_path_buf(), unfinished, stays: true };
        for name in ["both", "new"] {
            fs::write(staged.path().join(name), "after")?;
        }
        staged.finish()?;
        assert_eq!(names(folder.path())?, ["both", "new"]);
        assert_eq!(fs::read_to_string(folder.path().join("both"))?, "after");
        Ok(())
    }
}
