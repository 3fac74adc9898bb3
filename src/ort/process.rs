//! The one ONNX Runtime of a process.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{fmt, thread};

use ort::ep::ExecutionProvider;

use super::refused;
use crate::error::{Error, ErrorKind, Result};
use crate::ort::library::{self, Attempt, Source, Surroundings};

/// How to start ONNX Runtime.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The library, or a folder that has it; if not given it is looked for, see [`library`].
    pub library: Option<PathBuf>,
    /// Threads for computing, shared by all sessions; if not given, as many as this process may use (processors, affinity, container limits).
    pub threads: Option<NonZeroUsize>,
}

/// ONNX Runtime, loaded: what every session needs. There is one in a process, and it stays.
pub struct Runtime {
    pub(super) environment: ort::environment::Environment,
    facts: Facts,
}

/// What is known about the library that was loaded; prints as a few lines for people.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The library's file.
    pub path: PathBuf,
    /// How it was found.
    pub source: Source,
    /// The library's version, where its file or its build information tells.
    pub version: Option<String>,
    /// What the library says about its own build.
    pub build: String,
    /// The execution providers that the library was built with, by their names in ONNX Runtime.
    pub providers: Vec<&'static str>,
    /// Threads for computing.
    pub threads: usize,
}

/// The newest version, behind `1.`, that graphs of ours were run on.
const NEWEST: u32 = 32;
/// What ONNX Runtime says of a graph that is newer than itself: of another version of the format, of an operator set, with an operator or a type of
/// tensors that it does not know.
const TOO_NEW: [&str; 5] = [
    "Unsupported model IR version",
    "only *guarantees* support for models stamped",
    "is not a registered function/op",
    "No Op registered for",
    "is not supported till opset",
];

impl Facts {
    /// Whether a message of the library is the one for graphs that are newer than the library.
    pub(super) fn is_behind(&self, message: &str) -> bool {
        let minor = self.version.as_deref().and_then(|version| version.split('.').nth(1)?.parse::<u32>().ok());
        minor.is_some_and(|minor| minor < NEWEST) && TOO_NEW.iter().any(|words| message.contains(words))
    }
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

impl Runtime {
    /// The ONNX Runtime of this process; the first call finds and loads the library, and later calls get the same one whatever their options.
    ///
    /// # Errors
    /// [`Runtime`](ErrorKind::Runtime) if there is no library, or none that is new enough, with every place that was tried.
    pub fn start(options: &Options) -> Result<&'static Self> {
        let _only_one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        match RUNTIME.get() {
            Some(runtime) => Ok(runtime),
            None => Self::load(options).map(|runtime| RUNTIME.get_or_init(|| runtime)),
        }
    }

    /// What is known about the library.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    fn load(options: &Options) -> Result<Self> {
        without_telemetry();
        let (builder, path, source) = find(options.library.clone())?;
        let threads = options.threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        // One pool for all sessions: with a pool each, the idle threads of one session spin while another computes.
        let pool = ort::environment::GlobalThreadPoolOptions::default()
            .with_intra_threads(threads)
            .and_then(|pool| pool.with_inter_threads(1))
            .and_then(|pool| pool.with_spin_control(true))
            .map_err(refused)?;
        let environment = builder.with_name("peft-onnx").with_telemetry(false).with_global_thread_pool(pool).build().map_err(refused)?;
        super::arena::register(&environment)?;
        let build = ort::info().to_owned();
        let version = library::version_in_name(&path).or_else(|| version_in_build(&build));
        Ok(Self { environment, facts: Facts { path, source, version, build, providers: providers(), threads } })
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "ONNX Runtime {} (1.{} or newer is needed)",
            self.version.as_deref().unwrap_or("of unknown version"),
            ort::MINOR_VERSION
        )?;
        writeln!(f, "  library    {}", self.path.display())?;
        writeln!(f, "  found by   {}", self.source)?;
        writeln!(f, "  providers  {}", self.providers.join(", "))?;
        writeln!(f, "  threads    {}", self.threads)?;
        write!(f, "  build      {}", self.build.trim_start_matches("ORT Build Info: "))
    }
}

/// Keeps ONNX Runtime from reporting to anybody: from 1.32 on it otherwise keeps files about its user and looks for a host, and it does so
/// from the moment it is loaded, before the API that turns it off can be called. The program calls this before it has a second thread.
#[expect(unsafe_code, reason = "the library takes this from the environment alone")]
pub fn without_telemetry() {
    const SWITCH: &str = "ORT_DISABLE_TELEMETRY";
    if std::env::var_os(SWITCH).is_none_or(|value| value != "1") {
        // SAFETY: the program has one thread when it calls this first; a caller of the library who has more must set the variable itself
        // if other code of its process reads the environment at the same time without Rust's lock.
        unsafe { std::env::set_var(SWITCH, "1") };
    }
}

fn find(option: Option<PathBuf>) -> Result<(ort::environment::EnvironmentBuilder, PathBuf, Source)> {
    let surroundings = Surroundings::of_process(option);
    let mut tried: Vec<Attempt> = vec![];
    for mut attempt in library::attempts(&surroundings) {
        let named = attempt.places.first().filter(|_| attempt.source.is_named());
        match (&attempt.found, named, attempt.refused.is_some()) {
            (Some(path), named, true) => {
                if let (Some(_), Some(why)) = (named, &attempt.refused) {
                    return Err(Error::from(ErrorKind::Runtime(why.to_string())).in_file(path).with_hint(library::HINT));
                }
            }
            (Some(path), _, false) => match load_library(path) {
                Ok(builder) => return Ok((builder, path.clone(), attempt.source)),
                Err(error) if attempt.source.is_named() => return Err(error.with_hint(library::HINT)),
                Err(error) => attempt.refused = Some(error.to_string().into()),
            },
            (None, Some(place), _) => {
                let what = format!("{} names {}, where there is no library", attempt.source, place.display());
                return Err(Error::from(ErrorKind::Runtime(what)).with_hint(library::HINT));
            }
            (None, None, _) => {}
        }
        tried.push(attempt);
    }
    Err(library::not_found(&tried))
}

fn load_library(path: &Path) -> Result<ort::environment::EnvironmentBuilder> {
    // A library that is too old would be loaded and unloaded again just to ask it for its version.
    let minor = library::version_in_name(path).and_then(|version| version.split('.').nth(1)?.parse::<u32>().ok());
    if let Some(minor) = minor.filter(|minor| *minor < ort::MINOR_VERSION) {
        return Err(too_old(path, &format!("1.{minor}")));
    }
    if let Some(why) = library::unfit(path) {
        return Err(Error::from(ErrorKind::Runtime(format!("this library cannot be loaded: {why}"))).in_file(path));
    }
    // A relative path would be looked for beside the executable first.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    ort::init_from(&path).map_err(|error| match error {
        ort::LoadDynamicError::BadVersion { version_str, path } => too_old(&path, &version_str),
        ort::LoadDynamicError::Dlopen { error, path } => {
            let hint = format!("install what it needs (`ldd {}` lists that), or {}", path.display(), library::HINT);
            Error::from(ErrorKind::Runtime(with_causes(&error))).in_file(path).with_hint(hint)
        }
        ort::LoadDynamicError::MissingApi { path } => {
            Error::from(ErrorKind::Runtime("this library is another one: it has no `OrtGetApiBase`".to_owned())).in_file(path)
        }
        error @ ort::LoadDynamicError::InvalidVersionString => ErrorKind::Runtime(error.to_string()).into(),
    })
}

/// An error with all that caused it: the loader's own words come last.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn too_old(path: &Path, found: &str) -> Error {
    Error::mismatch("version of ONNX Runtime", format!("1.{} or newer", ort::MINOR_VERSION), found).in_file(path)
}

/// The version in `git-branch=rel-1.32.0`.
fn version_in_build(build: &str) -> Option<String> {
    let branch = build.split("git-branch=").nth(1)?.split(',').next()?;
    Some(branch.strip_prefix("rel-")?.to_owned())
}

fn providers() -> Vec<&'static str> {
    fn row<E: ExecutionProvider>() -> Option<&'static str> {
        E::is_available().unwrap_or(false).then_some(E::NAME)
    }
    [row::<ort::ep::CUDA>(), row::<ort::ep::CPU>()].into_iter().flatten().collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The library that tests run on where no variable names one: that of the project.
    fn project_library() -> Option<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ort");
        (std::env::var_os("ORT_DYLIB_PATH").is_none() && folder.is_dir()).then_some(folder)
    }

    /// The runtime that tests run on. Without a library they cannot pass, and say what to run.
    pub(in crate::ort) fn runtime() -> &'static Runtime {
        Runtime::start(&Options { library: project_library(), threads: None })
            .unwrap_or_else(|error| panic!("tests need ONNX Runtime: {error}\nhint: {}", error.hint().unwrap_or_default()))
    }

    #[test]
    fn the_library_tells_what_it_is() {
        let facts = runtime().facts();
        let minor = facts.version.as_deref().and_then(|version| version.split('.').nth(1)).and_then(|minor| minor.parse::<u32>().ok());
        assert!(minor.is_some_and(|minor| minor >= ort::MINOR_VERSION), "{facts}");
        assert!(facts.providers.contains(&"CPUExecutionProvider"));
        assert!(facts.path.is_file());
    }

    #[test]
    fn a_graph_that_is_newer_than_the_library_is_told_from_one_that_is_wrong() {
        let of = |version: &str| Facts { version: Some(version.to_owned()), ..runtime().facts().clone() };
        let newer = "Unsupported model IR version: 13, max supported IR version: 10";
        for (version, message, expected) in [
            ("1.20.1", newer, true),
            ("1.32.0", newer, false),
            ("1.20.1", "Fatal error: RMSNormalization(-1) is not a registered function/op", true),
            ("1.20.1", "Node (x) Op (MatMul) [ShapeInferenceError] Incompatible dimensions", false),
        ] {
            assert_eq!(of(version).is_behind(message), expected, "{version}: {message}");
        }
    }

    #[test]
    fn a_library_that_is_too_old_is_refused_by_its_name() {
        let error = load_library(Path::new("libonnxruntime.so.1.17.0")).map(|_| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("libonnxruntime.so.1.17.0: version of ONNX Runtime: expected 1.{} or newer, found 1.17", ort::MINOR_VERSION)
        );
    }

    #[test]
    fn a_named_library_that_is_not_there_is_an_error_and_nothing_takes_its_place() {
        let error = find(Some("no/such/library.so".into())).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "ONNX Runtime: `onnxruntime` names no/such/library.so, where there is no library");
        assert!(error.hint().is_some());
    }
}
