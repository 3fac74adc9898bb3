//! Gets an ONNX Runtime without Python: out of the wheel that pip would install, into the folder of the user's data where the library is looked for.
//!
//! ```text
//! index ─page→ files ─for this machine→ wheel ─download, SHA-256→ zip ─→ libonnxruntime.* in the user's data folder
//! ```
//! Nothing is run that was fetched before its hash is the index's.

mod address;
mod download;
mod file;
mod index;
mod machine;
mod unpack;

use std::path::{Path, PathBuf};

pub use address::{Address, OFFICIAL};
pub use file::File;
pub use machine::Machine;

use crate::error::{Context, Error, Result};
use crate::files::{StagedFolder, leftovers};

/// Which build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Build {
    /// Computes on processors.
    Cpu,
    /// Computes on NVIDIA's GPUs, too.
    Cuda,
}

impl Build {
    /// The Python package that has it.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::Cpu => "onnxruntime",
            Self::Cuda => "onnxruntime-gpu",
        }
    }
}

/// What was put where.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The folder.
    pub folder: PathBuf,
    /// The wheel's name.
    pub wheel: String,
    /// The wheel's SHA-256.
    pub sha256: String,
    /// The files in the folder, the library first.
    pub files: Vec<String>,
}

impl Installed {
    /// The version that the wheel's name says.
    #[must_use]
    pub fn version(&self) -> &str {
        self.wheel.split('-').nth(1).unwrap_or_default()
    }
}

/// The newest file of a build for a machine that an index has, or the one of a version.
///
/// # Errors
/// An index that cannot be reached or read; no file for the machine.
pub fn find(address: &Address, build: Build, machine: &Machine, version: Option<&str>) -> Result<File> {
    let files = index::files(address, build.package())?;
    index::chosen(files, build, machine, version)
}

/// What looks at a folder of libraries before it takes its place.
pub type Check<'a> = &'a dyn Fn(&Path) -> Result<()>;

/// Fetches a file of an index and puts its library into a folder, in place of what is there, when `check` has nothing against it. `told` gets the
/// bytes so far and in all.
///
/// # Errors
/// A file that cannot be fetched, or is another one than the index says; a folder that cannot be written to.
pub fn fetch(address: &Address, file: &File, folder: &Path, check: Check<'_>, told: &mut dyn FnMut(u64, Option<u64>)) -> Result<Installed> {
    let within = crate::files::folder(folder);
    crate::files::make_folder(within)?;
    leftovers::sweep(within);
    let (wheel, sha256) = download::to_file(address, file, within, told)?;
    put(wheel.path(), &file.name, sha256, folder, check)
}

/// Puts the library of a wheel that was fetched by other means into a folder.
///
/// # Errors
/// A file that is no wheel with ONNX Runtime's library for this machine; a folder that cannot be written to.
pub fn from_file(wheel: &Path, build: Build, machine: &Machine, folder: &Path, check: Check<'_>) -> Result<Installed> {
    let name = wheel.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    index::check_name(name, build, machine).in_file(wheel)?;
    let within = crate::files::folder(folder);
    crate::files::make_folder(within)?;
    put(wheel, name, download::hash(wheel)?, folder, check)
}

fn put(wheel: &Path, name: &str, sha256: String, folder: &Path, check: Check<'_>) -> Result<Installed> {
    let staged = StagedFolder::new(folder)?;
    let files = unpack::libraries(wheel, staged.path()).map_err(|error| error.in_file(name))?;
    close_to_others(staged.path())?;
    check(staged.path())?;
    let note = format!("{name}\nsha256 {sha256}\n");
    crate::files::replace(&staged.path().join("package.txt"), note.as_bytes())?;
    staged.finish()?;
    Ok(Installed { folder: folder.to_path_buf(), wheel: name.to_owned(), sha256, files })
}

/// Takes from others what a generous umask gave them: a library that they could have changed is not loaded.
#[cfg(unix)]
fn close_to_others(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let files = std::fs::read_dir(folder).in_file(folder)?.map(|entry| Ok(entry?.path()));
    for path in files.collect::<std::io::Result<Vec<_>>>().in_file(folder)?.iter().map(PathBuf::as_path).chain([folder]) {
        let mut permissions = path.metadata().in_file(path)?.permissions();
        permissions.set_mode(permissions.mode() & !0o022);
        std::fs::set_permissions(path, permissions).in_file(path)?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn close_to_others(_folder: &Path) -> Result<()> {
    Ok(())
}

/// What to do where the network or the index does not help.
fn by_hand(error: Error, build: Build, machine: &Machine) -> Error {
    let (package, tag) = (build.package(), machine.words());
    error.with_hint(format!(
        "fetch the wheel of {package} for {tag} on a machine with a network (`pip download --no-deps {package}`), then `peft-onnx runtime install {} --from FILE.whl`; \
         another index: `index URL` or PIP_INDEX_URL",
        if build == Build::Cpu { "cpu" } else { "cuda" }
    ))
}

/// Adds what can be done by hand to an error of the network.
///
/// # Errors
/// Those that it is given.
pub fn or_by_hand<T>(result: Result<T>, build: Build, machine: &Machine) -> Result<T> {
    result.map_err(|error| if error.hint().is_some() { error } else { by_hand(error, build, machine) })
}
