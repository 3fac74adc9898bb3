//! What an index says of a file.

/// A file of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name: `onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl`.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// The SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Whether it was taken back.
    pub(super) is_yanked: bool,
}
