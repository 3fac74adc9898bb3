//! Finds the ONNX Runtime library. Knows folders and file names; loading is [`session`](super)'s.
//!
//! Places, in order; the first library that is new enough wins:
//!
//! | source | where |
//! |---|---|
//! | option | `--onnxruntime PATH`: the library or a folder that has it |
//! | variable | `ORT_DYLIB_PATH`, the same |
//! | project | `$PEFT_ONNX_HOME/.ort`, and `.ort` of the checkout whose `target` has the executable (`scripts/get_onnxruntime.sh` fills it) |
//! | program | beside the executable |
//! | user | the user's data folder: `$XDG_DATA_HOME/peft-onnx/onnxruntime`, by default below `~/.local/share` |
//! | python | the `onnxruntime` package of the Python beside the executable, and of the active one: `VIRTUAL_ENV`, `CONDA_PREFIX`, the Python that started this program, those on `PATH`, the user's site folder |
//! | system | the loader's folders |
//!
//! What is named outright (option, variable) must load; what is merely found and does not is passed over. A library is code: the current
//! folder and its parents are no place to look in, where a model that came from elsewhere may have brought one along, and neither are
//! relative entries of a variable; a relative `ORT_DYLIB_PATH` is refused. No program is run to find one, and what others could have changed is not loaded (see `trust`).

mod python;
mod trust;

mod fitness;

use std::env;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Refusal};

pub use fitness::unfit;

/// What to do when there is no library, or none that will do.
pub const HINT: &str = "run `peft-onnx runtime install cpu` (or cuda), or `pip install -U \"onnxruntime>=1.21\"` (onnxruntime-gpu for CUDA), or name a library with `onnxruntime PATH`";

/// How a library was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Named on the command line.
    Option,
    /// Named by the environment variable `ORT_DYLIB_PATH`.
    Variable,
    /// The folder `.ort` of the project.
    Project,
    /// The executable's own folder.
    Program,
    /// The user's data folder.
    User,
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
            Self::Option => "`onnxruntime`",
            Self::Variable => "ORT_DYLIB_PATH",
            Self::Project => "the project's .ort folder",
            Self::Program => "the program's folder",
            Self::User => "the user's data folder",
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
    pub refused: Option<Refusal>,
}

/// What decides where to look: a snapshot of the process, so that a search can be repeated anywhere.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The path given on the command line.
    pub option: Option<PathBuf>,
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
        Self { option, executable: env::current_exe().ok(), variables: env::vars_os().collect(), parent: parent() }
    }

    fn variable(&self, name: &str) -> Option<&OsString> {
        self.variables.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value)
    }

    /// The folder that a variable names. A relative one would be another's in every folder.
    fn folder_of(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute())
    }

    /// The folders that a variable lists, without relative and empty entries: those stand for the current folder.
    fn folders_of(&self, name: &str) -> Vec<PathBuf> {
        let listed = self.variable(name).into_iter().flat_map(env::split_paths);
        listed.filter(|folder| folder.is_absolute()).collect()
    }
}

/// Looks through the sources in order, each only when it is asked for.
pub fn attempts(surroundings: &Surroundings) -> impl Iterator<Item = Attempt> + '_ {
    type Places = fn(&Surroundings) -> Vec<PathBuf>;
    const SOURCES: [(Source, Places); 7] = [
        (Source::Option, |around| around.option.iter().cloned().collect()),
        (Source::Variable, |around| around.variable("ORT_DYLIB_PATH").map(PathBuf::from).into_iter().collect()),
        (Source::Project, project_folders),
        (Source::Program, |around| around.executable.iter().filter_map(|program| Some(program.parent()?.to_path_buf())).collect()),
        (Source::User, |around| user_folder(around).into_iter().collect()),
        (Source::Python, python::folders),
        (Source::System, system_folders),
    ];
    SOURCES.into_iter().map(|(source, places_of)| {
        let places = places_of(surroundings);
        let mut attempt = Attempt { source, places, found: None, refused: None };
        for library in attempt.places.iter().filter_map(|place| library_at(place)) {
            let refused = relative(&library, source).or_else(|| trust::check(&library, source).err());
            let is_trusted = refused.is_none();
            if is_trusted || attempt.found.is_none() {
                (attempt.found, attempt.refused) = (Some(library), refused);
            }
            if is_trusted {
                break;
            }
        }
        attempt
    })
}

/// Why a library that a variable names is not loaded: a relative path is another library in every folder, and one of them may have come with a model.
fn relative(library: &Path, source: Source) -> Option<Refusal> {
    let is_relative = source == Source::Variable && library.is_relative();
    is_relative.then(|| "a relative path in a variable is another library in every folder (to load this one: write the whole path)".into())
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
    path.file_name().and_then(|name| name.to_str()).is_some_and(is_named_as_library) && path.is_file()
}

/// Whether a file's name is that of ONNX Runtime's library on this system.
#[must_use]
pub fn is_named_as_library(name: &str) -> bool {
    match env::consts::OS {
        "windows" => name.eq_ignore_ascii_case("onnxruntime.dll"),
        "macos" => name.strip_prefix("libonnxruntime.").is_some_and(|rest| rest.split('.').next_back() == Some("dylib")),
        _ => name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so."),
    }
}

fn project_folders(around: &Surroundings) -> Vec<PathBuf> {
    let checkout = around.executable.as_deref().and_then(checkout_of);
    let projects = around.folder_of("PEFT_ONNX_HOME").into_iter().chain(checkout);
    projects.map(|project| project.join(".ort")).filter(|folder| folder.is_dir()).collect()
}

/// The checkout that an executable was built in: the folder around its `target`.
fn checkout_of(executable: &Path) -> Option<PathBuf> {
    // target/release/x, target/debug/deps/x, target/x86_64-unknown-linux-gnu/release/x
    let target = executable.ancestors().skip(2).take(3).find(|folder| folder.ends_with("target"))?;
    let project = target.parent()?;
    project.join("Cargo.toml").is_file().then(|| project.to_path_buf())
}

/// The folder of the user's data in which the library is looked for.
#[must_use]
pub fn user_folder(around: &Surroundings) -> Option<PathBuf> {
    let home = |below: &str| around.folder_of("HOME").map(|home| home.join(below));
    let data = match env::consts::OS {
        "windows" => around.folder_of("LOCALAPPDATA"),
        "macos" => home("Library/Application Support"),
        _ => around.folder_of("XDG_DATA_HOME").or_else(|| home(".local/share")),
    };
    data.map(|data| data.join("peft-onnx").join("onnxruntime"))
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

    fn found(around: &Surroundings) -> Vec<(Source, PathBuf)> {
        let system_aside = attempts(around).take(6);
        system_aside.filter_map(|attempt| Some((attempt.source, attempt.found.filter(|_| attempt.refused.is_none())?))).collect()
    }

    #[test]
    fn sources_are_looked_through_in_order() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path();
        let option = put(root, &format!("named/{NAME}"));
        let variable = put(root, "elsewhere/any-name.so");
        put(root, "checkout/Cargo.toml");
        let project = put(root, &format!("checkout/.ort/{NAME}"));
        let program = put(root, &format!("checkout/target/release/{NAME}"));
        let user = put(root, &format!("data/peft-onnx/onnxruntime/{NAME}"));
        let python = put(root, &format!("venv/lib/python3.11/site-packages/onnxruntime/capi/{NAME}"));
        let data = if cfg!(windows) { "LOCALAPPDATA" } else { "XDG_DATA_HOME" };
        let mut around = Surroundings {
            option: Some(root.join("named")),
            executable: Some(root.join("checkout/target/release/peft-onnx")),
            variables: [("ORT_DYLIB_PATH", variable.clone()), ("VIRTUAL_ENV", root.join("venv")), (data, root.join("data"))]
                .map(|(key, value)| (key.into(), value.into()))
                .into(),
            parent: None,
        };
        let mut expected =
            vec![(Source::Option, option), (Source::Variable, variable), (Source::Project, project), (Source::Program, program)];
        expected.extend((!cfg!(target_os = "macos")).then_some((Source::User, user)));
        expected.push((Source::Python, python.clone()));
        assert_eq!(found(&around), expected);
        around.option = None;
        around.variables = vec![("VIRTUAL_ENV".into(), root.join("venv").into())];
        around.executable = Some(root.join("bin/peft-onnx"));
        assert_eq!(found(&around), [(Source::Python, python)]);
    }

    #[test]
    fn what_lies_in_the_current_folder_is_not_found() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path().canonicalize().expect("it is there");
        for place in [".ort", "onnxruntime/capi", "lib/python3.11/site-packages/onnxruntime/capi", ".", "peft-onnx/onnxruntime"] {
            put(&root, &format!("{place}/{NAME}"));
        }
        for python in ["bin/python3", "python3"] {
            put(&root, python);
        }
        // The current folder is that of the process, which tests share: relative paths are resolved against none at all.
        let relative = ["", ".", "..", "bin", "./bin", "venv"];
        let names = ["PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "HOME", "XDG_DATA_HOME", "LOCALAPPDATA", "PEFT_ONNX_HOME"];
        for value in relative {
            for parent in ["python3", "bin/python3", "./bin/python3"] {
                let variables = names.iter().map(|name| ((*name).into(), value.into())).collect();
                let around = Surroundings { variables, parent: Some(parent.into()), ..Surroundings::default() };
                let relative: Vec<_> = attempts(&around).flat_map(|attempt| attempt.places).filter(|place| place.is_relative()).collect();
                assert_eq!(relative, Vec::<PathBuf>::new(), "{value:?}, {parent}");
                assert_eq!(found(&around), []);
            }
        }
    }

    #[test]
    fn a_relative_path_in_the_variable_is_refused() {
        // A file that stands where tests run.
        for value in ["Cargo.toml", "./Cargo.toml", "src/../Cargo.toml"] {
            let around = Surroundings { variables: vec![("ORT_DYLIB_PATH".into(), value.into())], ..Surroundings::default() };
            let attempt = attempts(&around).find(|attempt| attempt.source == Source::Variable).expect("it is one of the sources");
            assert!(attempt.refused.is_some_and(|why| why.to_string().contains("write the whole path")), "{value}");
        }
    }

    #[test]
    fn a_checkout_is_known_by_its_target_folder() {
        let root = tempfile::tempdir().expect("a folder");
        put(root.path(), "checkout/Cargo.toml");
        put(root.path(), "other/target/model.onnx");
        for (executable, is_inside) in [
            ("checkout/target/release/peft-onnx", true),
            ("checkout/target/debug/deps/train-0123", true),
            ("checkout/target/x86_64-unknown-linux-musl/release/peft-onnx", true),
            ("checkout/models/peft-onnx", false),
            ("other/target/release/peft-onnx", false),
            ("checkout/target/a/b/c/d/peft-onnx", false),
        ] {
            assert_eq!(checkout_of(&root.path().join(executable)).is_some(), is_inside, "{executable}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_library_that_others_could_have_changed_is_passed_over() {
        let root = tempfile::tempdir().expect("a folder");
        let [open, closed] =
            ["a", "b"].map(|venv| put(root.path(), &format!("{venv}/lib/python3.11/site-packages/onnxruntime/capi/{NAME}")));
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("modes");
        let environments = [("VIRTUAL_ENV", "a"), ("CONDA_PREFIX", "b")];
        let variables: Vec<_> = environments.iter().map(|(name, venv)| ((*name).into(), root.path().join(venv).into())).collect();
        let mut around = Surroundings { variables, ..Surroundings::default() };
        assert_eq!(found(&around), [(Source::Python, closed)]);
        around.variables.pop();
        let attempt = attempts(&around).find(|attempt| attempt.source == Source::Python).expect("it is one of the sources");
        assert_eq!(attempt.found, Some(open));
        assert!(attempt.refused.is_some_and(|why| why.to_string().contains("chmod go-w")));
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
            "ONNX Runtime: no library found; looked in\n  `onnxruntime`: not given\n  the project's .ort folder: nothing in a/.ort, .ort\n  \
             the active Python's onnxruntime package: capi/x.so: version 1.17.0"
        );
        assert!(error.hint().is_some_and(|hint| hint.contains("runtime install") && hint.contains("pip install -U")));
    }
}
