//! Finds the ONNX Runtime library. Knows folders and file names; loading is [`session`](super::session)'s.
//!
//! Places, in order; the first library that is new enough wins:
//!
//! | source | where |
//! |---|---|
//! | option | `--onnxruntime PATH`: the library or a folder that has it |
//! | variable | `ORT_DYLIB_PATH`, the same |
//! | project | `$PEFT_ONNX_HOME/.ort`; `.ort` in the current folder, beside the executable, and in the parents of both (`scripts/get_onnxruntime.sh` fills it) |
//! | python | the `onnxruntime` package of the active Python: `VIRTUAL_ENV`, `CONDA_PREFIX`, the Python that started this program, the installations on `PATH`, the user's site folder, then what `python3` itself says |
//! | system | the loader's folders |
//!
//! What is named outright (option, variable) must load; what is merely found and does not is passed over.

use std::env;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};

/// What to do when there is no library, or none that will do.
pub const HINT: &str = "run `pip install -U \"onnxruntime>=1.31\"` (onnxruntime-gpu for CUDA) or scripts/get_onnxruntime.sh, or name a library with --onnxruntime PATH";

/// How a library was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Named on the command line.
    Option,
    /// Named by the environment variable `ORT_DYLIB_PATH`.
    Variable,
    /// The folder `.ort` of the project.
    Project,
    /// The `onnxruntime` package of the active Python.
    Python,
    /// A folder of the system's loader.
    System,
}

impl Source {
    /// Whether the user named the library, so that no other one may take its place.
    #[must_use]
    pub fn is_named(self) -> bool {
        matches!(self, Self::Option | Self::Variable)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Option => "--onnxruntime",
            Self::Variable => "ORT_DYLIB_PATH",
            Self::Project => "the project's .ort folder",
            Self::Python => "the active Python's onnxruntime package",
            Self::System => "the system's libraries",
        })
    }
}

/// One source, looked through.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The source.
    pub source: Source,
    /// The files and folders that were looked at.
    pub places: Vec<PathBuf>,
    /// The library there, if any.
    pub found: Option<PathBuf>,
    /// Why the library that was found will not do.
    pub refused: Option<String>,
}

/// What decides where to look: a snapshot of the process, so that a search can be repeated anywhere.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The path given on the command line.
    pub option: Option<PathBuf>,
    /// The current folder.
    pub folder: PathBuf,
    /// The running executable.
    pub executable: Option<PathBuf>,
    /// Environment variables.
    pub variables: Vec<(OsString, OsString)>,
    /// The program that started this one, as it was called; known on Linux.
    pub parent: Option<PathBuf>,
}

impl Surroundings {
    /// The surroundings of this process, with the path given on the command line.
    #[must_use]
    pub fn of_process(option: Option<PathBuf>) -> Self {
        Self {
            option,
            folder: env::current_dir().unwrap_or_default(),
            executable: env::current_exe().ok(),
            variables: env::vars_os().collect(),
            parent: parent(),
        }
    }

    fn variable(&self, name: &str) -> Option<&OsString> {
        self.variables.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value)
    }

    fn folder_of(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from)
    }

    fn folders_of(&self, name: &str) -> Vec<PathBuf> {
        self.variable(name).map(|value| env::split_paths(value).collect()).unwrap_or_default()
    }
}

/// Looks through the sources in order, each only when it is asked for.
pub fn attempts(surroundings: &Surroundings) -> impl Iterator<Item = Attempt> + '_ {
    type Places = fn(&Surroundings) -> Vec<PathBuf>;
    const SOURCES: [(Source, Places); 5] = [
        (Source::Option, |around| around.option.iter().cloned().collect()),
        (Source::Variable, |around| around.folder_of("ORT_DYLIB_PATH").into_iter().collect()),
        (Source::Project, project_folders),
        (Source::Python, python_folders),
        (Source::System, system_folders),
    ];
    SOURCES.into_iter().map(|(source, places_of)| {
        let mut places = places_of(surroundings);
        let mut found = places.iter().find_map(|place| library_at(place));
        if found.is_none() && source == Source::Python {
            let told = ask_python(surroundings);
            found = told.as_deref().and_then(library_at);
            places.extend(told);
        }
        Attempt { source, places, found, refused: None }
    })
}

/// The error that says where was looked, and what came of it.
#[must_use]
pub fn not_found(attempts: &[Attempt]) -> Error {
    let mut text = "no library found; looked in".to_owned();
    for Attempt { source, places, found, refused } in attempts {
        let outcome = match (found, refused, &places[..]) {
            (Some(path), Some(why), _) => format!("{}: {why}", path.display()),
            (Some(path), None, _) => path.display().to_string(),
            (None, _, []) if source.is_named() => "not given".to_owned(),
            (None, _, []) => "no such place".to_owned(),
            (None, _, places) => {
                format!("nothing in {}", places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", "))
            }
        };
        write!(text, "\n  {source}: {outcome}").expect("writing to a string does not fail");
    }
    Error::from(ErrorKind::Runtime(text)).with_hint(HINT)
}

/// The version in a library's file name, links followed: `libonnxruntime.so.1.32.0` is `1.32.0`.
#[must_use]
pub fn version_in_name(path: &Path) -> Option<String> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = path.file_name()?.to_str()?;
    let version = name.trim_start_matches("lib").trim_start_matches("onnxruntime").trim_end_matches(".dylib");
    let version = version.trim_start_matches(".so").trim_matches('.');
    let is_version =
        version.contains('.') && version.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    is_version.then(|| version.to_owned())
}

/// The library that a path names: a file itself, or the newest one in a folder.
fn library_at(place: &Path) -> Option<PathBuf> {
    if place.is_file() {
        return Some(place.to_path_buf());
    }
    let mut libraries: Vec<_> =
        std::fs::read_dir(place).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_library(path)).collect();
    libraries.sort_by_key(|path| (version_numbers(path), path.clone()));
    libraries.pop()
}

fn version_numbers(path: &Path) -> Vec<u32> {
    version_in_name(path).iter().flat_map(|version| version.split('.')).filter_map(|part| part.parse().ok()).collect()
}

fn is_library(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let is_named_so = match env::consts::OS {
        "windows" => name.eq_ignore_ascii_case("onnxruntime.dll"),
        "macos" => name.strip_prefix("libonnxruntime.").is_some_and(|rest| rest.split('.').next_back() == Some("dylib")),
        _ => name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so."),
    };
    is_named_so && path.is_file()
}

fn project_folders(around: &Surroundings) -> Vec<PathBuf> {
    let executable = around.executable.as_deref().and_then(Path::parent);
    let starts = [Some(around.folder.as_path()), executable];
    let parents = starts.into_iter().flatten().flat_map(Path::ancestors).map(|folder| folder.join(".ort"));
    around.folder_of("PEFT_ONNX_HOME").map(|home| home.join(".ort")).into_iter().chain(parents.filter(|folder| folder.is_dir())).collect()
}

fn python_folders(around: &Surroundings) -> Vec<PathBuf> {
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| around.folder_of(name));
    let on_path =
        around.folders_of("PATH").into_iter().filter(|folder| has_python(folder)).filter_map(|folder| Some(folder.parent()?.to_path_buf()));
    let started_by = around.parent.iter().filter_map(|program| program.parent()).filter(|folder| has_python(folder));
    let started_by = started_by.filter_map(|folder| Some(folder.parent()?.to_path_buf()));
    let user = around.folder_of("HOME").map(|home| home.join(".local"));
    let mut folders = vec![];
    for prefix in environments.chain(started_by).chain(on_path).chain(user) {
        for folder in package_folders(&prefix).into_iter().filter(|folder| folder.is_dir()) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    folders
}

/// The program that started this one. A virtual environment's Python is a link to another; what it was called tells which it is.
#[cfg(target_os = "linux")]
fn parent() -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let line = std::fs::read(format!("/proc/{}/cmdline", std::os::unix::process::parent_id())).ok()?;
    let program = line.split(|&byte| byte == 0).next()?;
    Some(PathBuf::from(OsString::from_vec(program.to_vec())))
}

#[cfg(not(target_os = "linux"))]
fn parent() -> Option<PathBuf> {
    None
}

fn has_python(folder: &Path) -> bool {
    ["python3", "python", "python.exe"].iter().any(|name| folder.join(name).exists())
}

/// Where an installation or environment of Python keeps the library of its `onnxruntime` package, newest Python first.
fn package_folders(prefix: &Path) -> Vec<PathBuf> {
    const PACKAGE: &str = "onnxruntime/capi";
    let mut pythons: Vec<_> =
        std::fs::read_dir(prefix.join("lib")).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    pythons.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("python3")));
    pythons.sort();
    let unix = pythons.iter().rev().flat_map(|python| ["site-packages", "dist-packages"].map(|site| python.join(site).join(PACKAGE)));
    unix.chain([prefix.join("Lib/site-packages").join(PACKAGE)]).collect()
}

/// Asks the `python3` of the current `PATH`, without importing the package; gives up after some seconds.
fn ask_python(around: &Surroundings) -> Option<PathBuf> {
    const QUESTION: &str =
        "import importlib.util as u; s = u.find_spec('onnxruntime'); print(s.submodule_search_locations[0] if s else '')";
    const PATIENCE: Duration = Duration::from_secs(5);
    let python = around.folders_of("PATH").into_iter().map(|folder| folder.join("python3")).find(|python| python.is_file())?;
    let mut child =
        Command::new(python).args(["-c", QUESTION]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let asked = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if asked.elapsed() > PATIENCE {
            child.kill().ok()?;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let answer = String::from_utf8(child.wait_with_output().ok()?.stdout).ok()?;
    let package = answer.trim();
    (!package.is_empty()).then(|| Path::new(package).join("capi"))
}

fn system_folders(around: &Surroundings) -> Vec<PathBuf> {
    const UNIX: [&str; 5] = ["/usr/local/lib", "/usr/lib64", "/usr/lib", "/opt/onnxruntime/lib", "/opt/homebrew/lib"];
    let variables: &[&str] =
        if cfg!(windows) { &["PATH"] } else { &["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"] };
    let named = variables.iter().flat_map(|name| around.folders_of(name));
    let usual = UNIX.iter().map(PathBuf::from).chain([PathBuf::from(format!("/usr/lib/{}-linux-gnu", env::consts::ARCH))]);
    named.chain(usual.filter(|_| cfg!(unix))).filter(|folder| folder.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = if cfg!(windows) {
        "onnxruntime.dll"
    } else if cfg!(target_os = "macos") {
        "libonnxruntime.1.32.0.dylib"
    } else {
        "libonnxruntime.so.1.32.0"
    };

    fn put(root: &Path, file: &str) -> PathBuf {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("the folder is made");
        std::fs::write(&path, b"").expect("the file is written");
        path
    }

    #[test]
    fn versions_are_read_from_names() {
        struct Case(&'static str, Option<&'static str>);
        for Case(name, version) in [
            Case("libonnxruntime.so.1.32.0", Some("1.32.0")),
            Case("libonnxruntime.so", None),
            Case("libonnxruntime.1.31.1.dylib", Some("1.31.1")),
            Case("libonnxruntime.so.1", None),
            Case("onnxruntime.dll", None),
        ] {
            assert_eq!(version_in_name(Path::new(name)).as_deref(), version, "{name}");
        }
    }

    #[test]
    fn sources_are_looked_through_in_order() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path();
        let option = put(root, &format!("named/{NAME}"));
        let variable = put(root, "elsewhere/any-name.so");
        let project = put(root, &format!("project/.ort/{NAME}"));
        let python = put(root, &format!("venv/lib/python3.11/site-packages/onnxruntime/capi/{NAME}"));
        let mut around = Surroundings {
            option: Some(root.join("named")),
            folder: root.join("project/deeper"),
            executable: None,
            variables: [("ORT_DYLIB_PATH", variable.clone()), ("VIRTUAL_ENV", root.join("venv"))]
                .map(|(key, value)| (key.into(), value.into()))
                .into(),
            parent: None,
        };
        let found = |around: &Surroundings| attempts(around).take(4).map(|attempt| attempt.found).collect::<Vec<_>>();
        assert_eq!(found(&around), [Some(option), Some(variable), Some(project), Some(python.clone())]);
        around.option = None;
        around.variables.remove(0);
        around.folder = root.join("nowhere");
        assert_eq!(found(&around), [None, None, None, Some(python)]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_newest_library_of_a_folder_is_taken() {
        let root = tempfile::tempdir().expect("a folder");
        for name in ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.32.0", "libonnxruntime_providers_shared.so", "libonnxruntime.so"] {
            put(root.path(), name);
        }
        assert_eq!(library_at(root.path()), Some(root.path().join("libonnxruntime.so.1.32.0")));
    }

    #[test]
    fn the_error_names_every_place_and_what_to_do() {
        let attempts = [
            Attempt { source: Source::Option, places: vec![], found: None, refused: None },
            Attempt { source: Source::Project, places: vec!["a/.ort".into(), ".ort".into()], found: None, refused: None },
            Attempt {
                source: Source::Python,
                places: vec!["capi".into()],
                found: Some("capi/x.so".into()),
                refused: Some("version 1.17.0".into()),
            },
        ];
        let error = not_found(&attempts);
        assert_eq!(
            error.to_string(),
            "ONNX Runtime: no library found; looked in\n  --onnxruntime: not given\n  the project's .ort folder: nothing in a/.ort, .ort\n  \
             the active Python's onnxruntime package: capi/x.so: version 1.17.0"
        );
        assert!(error.hint().is_some_and(|hint| hint.contains("scripts/get_onnxruntime.sh") && hint.contains("pip install onnxruntime")));
    }
}
