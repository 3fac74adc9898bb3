//! Whether code may be loaded from a file: nobody but its owner and the administrator may be able to change it.
//!
//! As ssh judges its configuration: the file, its folder and every folder above belong to the administrator or to this user, and nobody
//! else may write to them. A folder above that anybody may write to is well where its entries belong to their owners alone (`/tmp`).
//! What the user named outright may belong to others, an installation of a group's for instance, but not be open to everybody.

use std::path::Path;

use super::Source;
use crate::error::Refusal;

/// Why a library will not be loaded, if it will not.
///
/// # Errors
/// What is wrong with which file or folder, and how to set it right.
pub(super) fn check(library: &Path, source: Source) -> Result<(), Refusal> {
    let real = library.canonicalize().map_err(|error| error.to_string())?;
    check_path(&real, source)?;
    // Where the path has a link in it, who may change the link decides too.
    let folder = library.parent().filter(|folder| !folder.as_os_str().is_empty()).and_then(|folder| folder.canonicalize().ok());
    match folder {
        Some(folder) if Some(folder.as_path()) != real.parent() => {
            check_path(&folder.join(library.file_name().unwrap_or_default()), source)
        }
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn check_path(library: &Path, source: Source) -> Result<(), Refusal> {
    use std::os::unix::fs::MetadataExt as _;

    const WRITABLE_BY_OTHERS: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    const ADMINISTRATOR: u32 = 0;
    let user = rustix::process::geteuid().as_raw();
    for (above, place) in library.ancestors().enumerate() {
        let facts = place.metadata().map_err(|error| format!("{}: {error}", place.display()))?;
        let (owner, mode) = (facts.uid(), facts.mode());
        if !source.is_named() && owner != ADMINISTRATOR && owner != user {
            return Err(
                format!("{} belongs to user {owner}, who is neither the administrator nor the one who runs this", place.display()).into()
            );
        }
        // Entries of a sticky folder are their owners' alone; in the library's own folder others could still put what it loads.
        let open = mode & WRITABLE_BY_OTHERS != 0 && (above < 2 || mode & STICKY == 0);
        if open {
            let place = place.display();
            return Err(format!("others may write to {place}, and could have changed it (to allow it: chmod go-w '{place}')").into());
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_path(_library: &Path, _source: Source) -> Result<(), Refusal> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_others_can_change_is_not_loaded() {
        struct Case {
            folder: u32,
            file: u32,
            above: u32,
            loads: bool,
        }
        let case = |above, folder, file, loads| Case { folder, file, above, loads };
        for Case { folder, file, above, loads } in [
            case(0o755, 0o755, 0o644, true),
            case(0o700, 0o700, 0o600, true),
            case(0o1777, 0o755, 0o644, true),
            case(0o755, 0o755, 0o664, false),
            case(0o755, 0o755, 0o646, false),
            case(0o755, 0o775, 0o644, false),
            case(0o755, 0o1777, 0o644, false),
            case(0o777, 0o755, 0o644, false),
        ] {
            let root = tempfile::tempdir().expect("a folder");
            let (parent, inner) = (root.path().join("above"), root.path().join("above/lib"));
            let library = inner.join("libonnxruntime.so");
            fs::create_dir_all(&inner).expect("folders");
            fs::write(&library, b"").expect("a file");
            for (path, mode) in [(&library, file), (&inner, folder), (&parent, above)] {
                fs::set_permissions(path, Permissions::from_mode(mode)).expect("modes");
            }
            for source in [Source::Variable, Source::Python] {
                let found = check(&library, source);
                assert_eq!(found.is_ok(), loads, "{source}, {above:o} {folder:o} {file:o}: {found:?}");
            }
        }
    }

    #[test]
    fn a_link_is_judged_by_its_own_folder_and_by_what_it_leads_to() {
        let root = tempfile::tempdir().expect("a folder");
        let (open, closed) = (root.path().join("open"), root.path().join("closed"));
        for folder in [&open, &closed] {
            fs::create_dir(folder).expect("a folder");
            fs::write(folder.join("libonnxruntime.so.1"), b"").expect("a file");
        }
        fs::set_permissions(&open, Permissions::from_mode(0o777)).expect("modes");
        for (from, to) in [(&open, &closed), (&closed, &open)] {
            let link = from.join("libonnxruntime.so");
            std::os::unix::fs::symlink(to.join("libonnxruntime.so.1"), &link).expect("a link");
            assert!(check(&link, Source::System).is_err(), "{}", link.display());
        }
    }

    #[test]
    fn the_library_of_another_user_is_loaded_only_where_it_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        let library = root.path().join("libonnxruntime.so");
        fs::write(&library, b"").expect("a file");
        // Only the administrator can give files away.
        if std::os::unix::fs::chown(&library, Some(12345), None).is_ok() {
            assert!(check(&library, Source::Python).is_err_and(|refusal| refusal.to_string().contains("user 12345")));
            assert_eq!(check(&library, Source::Option), Ok(()));
        }
    }
}
