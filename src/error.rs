//! One error type: *where* (a list of places, outermost first), *what* (a kind) and, where something can be done about it, a hint.

mod only_with;
mod refusal;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;

pub use only_with::OnlyWith;
pub use refusal::{Refusal, Refused};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and where.
///
/// Prints as `model.onnx: node /layers.3/MatMul: expected ..., found ...`; the hint is printed apart, see [`Error::hint`].
pub struct Error(Box<Inner>);

struct Inner {
    places: Vec<Place>,
    kind: ErrorKind,
    hint: Option<Cow<'static, str>>,
}

/// Where an error happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file or folder.
    File(PathBuf),
    /// A node of a graph, by name.
    Node(String),
    /// A tensor or value, by name.
    Tensor(String),
    /// A line of a text file, from 1.
    Line(usize),
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused a read or a write.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Bytes that are not of the format they should be.
    #[error("not {format}: {why}")]
    Format {
        /// What was expected, with its article: `an ONNX model`.
        format: &'static str,
        /// What is wrong with the bytes.
        why: String,
    },
    /// Two things that should agree do not.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// The property compared: `shape`, `dtype`, `base fingerprint`.
        what: Cow<'static, str>,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// An option that cannot be what it is. The command line names it as its flag.
    #[error("{option}: expected {expected}, found {found}")]
    Setting {
        /// The option, in snake case: `learning_rate`.
        option: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A thing that was named is not there.
    #[error("no {what} named {name:?}")]
    NotFound {
        /// The kind of thing looked for: `tensor`, `module`.
        what: &'static str,
        /// The name that was asked for.
        name: String,
    },
    /// Ops on the differentiable path for which there is no gradient. All of them at once.
    #[error("no gradient for {} {}:{}", .0.len(), if .0.len() == 1 { "node" } else { "nodes" }, list(.0))]
    NoGradient(Vec<String>),
    /// A node that a rule refuses, with the reason (see [`Refusal`]).
    #[error("{op}: {why}")]
    Refused {
        /// The operator, with its domain in front unless that is ONNX's own.
        op: String,
        /// What stands in the way.
        why: Cow<'static, str>,
    },
    /// Something valid that this tool does not do.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// The thing.
        what: String,
        /// Why not.
        why: String,
    },
    /// A value that does not fit where it was given.
    #[error("{0}")]
    Invalid(String),
    /// A graph that breaks the rules of ONNX: a cycle, a value written twice, an input of the wrong rank.
    #[error("invalid graph: {0}")]
    Graph(String),
    /// ONNX Runtime could not be loaded or refused something.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
    /// The computation left the range of numbers.
    #[error("{0}")]
    Diverged(String),
    /// The user stopped the work.
    #[error("interrupted")]
    Interrupted,
    /// A process of several ended as the others did, and the one that leads them says why.
    #[error("process 0 says why")]
    Elsewhere,
}

/// What can be done about a refusal of the operating system, whatever was read or written.
fn hint_about(refusal: io::ErrorKind) -> Option<&'static str> {
    match refusal {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Some("there is no room there: make some, or write to another place; nothing unfinished was left behind")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Some("this user may not do that there: name another place"),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => Some("a part of this path is a file where a folder should be"),
        io::ErrorKind::NotFound => Some("is the path spelled right?"),
        _ => None,
    }
}

fn list(items: &[String]) -> String {
    items.iter().fold(String::new(), |text, item| text + "\n  " + item)
}

impl Error {
    /// What went wrong, without the places.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The places, outermost first.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.0.places
    }

    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref().or_else(|| match &self.0.kind {
            ErrorKind::Io(error) => hint_about(error.kind()),
            _ => None,
        })
    }

    /// Adds the place that encloses those already known; once, where it is the last that was added.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        if self.0.places.first() != Some(&place) {
            self.0.places.insert(0, place);
        }
        self
    }

    /// Adds the file that encloses the places already known.
    #[must_use]
    pub fn in_file(self, path: impl Into<PathBuf>) -> Self {
        self.at(Place::File(path.into()))
    }

    /// Says what can be done; the first hint stays.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Says what can be done, in place of what was said before.
    #[must_use]
    pub fn hinted(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// An [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        ErrorKind::Invalid(message.into()).into()
    }

    /// An [`ErrorKind::Graph`].
    pub fn graph(message: impl Into<String>) -> Self {
        ErrorKind::Graph(message.into()).into()
    }

    /// An [`ErrorKind::Format`].
    pub fn format(format: &'static str, why: impl fmt::Display) -> Self {
        ErrorKind::Format { format, why: why.to_string() }.into()
    }

    /// An [`ErrorKind::Mismatch`].
    pub fn mismatch(what: impl Into<Cow<'static, str>>, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        ErrorKind::Mismatch { what: what.into(), expected: expected.to_string(), found: found.to_string() }.into()
    }

    /// An [`ErrorKind::Setting`].
    pub fn setting(option: &'static str, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        ErrorKind::Setting { option, expected: expected.to_string(), found: found.to_string() }.into()
    }

    /// An [`ErrorKind::NotFound`].
    pub fn not_found(what: &'static str, name: impl Into<String>) -> Self {
        ErrorKind::NotFound { what, name: name.into() }.into()
    }

    /// An [`ErrorKind::Unsupported`].
    pub fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        ErrorKind::Unsupported { what: what.into(), why: why.into() }.into()
    }
}

/// Places and hints for any result that this crate's error can hold.
pub trait Context<T> {
    /// Adds the enclosing file to an error.
    ///
    /// # Errors
    /// The error it was given, with the place.
    fn in_file(self, path: impl Into<PathBuf>) -> Result<T>;
    /// Adds the enclosing place to an error.
    ///
    /// # Errors
    /// The error it was given, with the place.
    fn at(self, place: Place) -> Result<T>;
    /// Adds a hint to an error.
    ///
    /// # Errors
    /// The error it was given, with the hint.
    fn hint(self, hint: impl Into<Cow<'static, str>>) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn in_file(self, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|e| e.into().in_file(path))
    }
    fn at(self, place: Place) -> Result<T> {
        self.map_err(|e| e.into().at(place))
    }
    fn hint(self, hint: impl Into<Cow<'static, str>>) -> Result<T> {
        self.map_err(|e| e.into().with_hint(hint))
    }
}

impl<K: Into<ErrorKind>> From<K> for Error {
    fn from(kind: K) -> Self {
        Self(Box::new(Inner { places: vec![], kind: kind.into(), hint: None }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.places.iter().try_for_each(|place| write!(f, "{place}: "))?;
        self.0.kind.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Tensor(name) => write!(f, "tensor {name}"),
            Self::Line(number) => write!(f, "line {number}"),
        }
    }
}

impl std::error::Error for Error {
    /// The kind has been printed already; what comes next is the kind's own source.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.kind.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_printed_outermost_first() {
        let error = Error::mismatch("shape", "[768, 8]", "[8, 768]").at(Place::Tensor("lora_B".into())).in_file("adapter.safetensors");
        assert_eq!(error.to_string(), "adapter.safetensors: tensor lora_B: shape: expected [768, 8], found [8, 768]");
    }

    #[test]
    fn the_first_hint_stays() {
        let error = Error::invalid("x").with_hint("inner").with_hint("outer");
        assert_eq!(error.hint(), Some("inner"));
    }
}
