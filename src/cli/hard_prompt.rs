//! The options of hard prompts.

use std::path::Path;

use crate::error::Result;
use crate::files;

pub(super) const HEADING: &str = "Hard prompts (PET): a language model is asked for one of a few words";

/// A verbalizer: JSON, or a file that has it.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn verbalizer(text: &str) -> Result<String> {
    if text.trim_start().starts_with('{') || !Path::new(text).is_file() {
        return Ok(text.to_owned());
    }
    files::read_text(Path::new(text))
}
