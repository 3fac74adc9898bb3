//! A wall around what others' code does with files of strangers: a panic behind it is an error on this side.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::error::{Error, Result};

/// What others' code reads: in the words of an error, and what to look at then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    name: &'static str,
    hint: &'static str,
}

/// tokenizer.json.
pub(crate) const TOKENIZER: Format =
    Format { name: "a tokenizer", hint: "is tokenizer.json complete, and the one that came with the model?" };
/// Tables.
pub(crate) const PARQUET: Format = Format { name: "a Parquet file", hint: "is the file complete?" };
/// Pictures.
pub(crate) const PICTURE: Format = Format { name: "a picture (PNG, JPEG, WebP, BMP or GIF)", hint: "is the file complete?" };
/// Sound.
pub(crate) const SOUND: Format = Format { name: "sound (WAV, FLAC, MP3 or OGG)", hint: "is the file complete?" };

impl Format {
    /// A file that is not of this format, for this reason.
    pub(crate) fn refused(self, why: impl std::fmt::Display) -> Error {
        Error::format(self.name, why).with_hint(self.hint)
    }
}

thread_local! {
    static IS_BEHIND: Cell<bool> = const { Cell::new(false) };
}

/// Does work of a crate that takes some parts of its files, which are of this format, on trust.
///
/// # Errors
/// [`Format`](crate::ErrorKind::Format) if the work panics, with the panic's own words.
pub(crate) fn behind_wall<T>(format: Format, work: impl FnOnce() -> T) -> Result<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_BEHIND.get() {
                told(panic);
            }
        }));
    });
    let before = IS_BEHIND.replace(true);
    // What was being built is dropped with the error; the tokenizer itself is never changed behind the wall.
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    IS_BEHIND.set(before);
    done.map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        let line = said.unwrap_or("it cannot be worked with").lines().next().unwrap_or_default();
        format.refused(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_behind_the_wall_is_an_error() {
        assert_eq!(behind_wall(TOKENIZER, || 1).ok(), Some(1));
        let error = behind_wall(TOKENIZER, || -> i32 { panic!("no {}", "decoder") }).unwrap_err();
        assert_eq!(error.to_string(), "not a tokenizer: no decoder");
    }
}
