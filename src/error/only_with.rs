//! Options that do something in some cases alone, as rows of tables.

use std::fmt;

use super::{Error, Result};

/// An option of `O` that goes with some cases `C` alone: given in another one it would do nothing, so it is refused.
pub struct OnlyWith<O, C> {
    /// The option, in snake case.
    pub option: &'static str,
    /// Whether it was given.
    pub is_given: fn(&O) -> bool,
    /// What it goes with: `the task qa`.
    pub with: &'static str,
    /// Whether that is the case.
    pub holds: fn(&C) -> bool,
}

impl<O, C> OnlyWith<O, C> {
    /// Refuses the first option of a table that was given and does not go with the case; `found` says what the case is.
    ///
    /// # Errors
    /// [`ErrorKind::Setting`](super::ErrorKind::Setting), with what the option goes with.
    pub fn check(table: &[Self], options: &O, case: &C, found: impl fmt::Display) -> Result<()> {
        let refused = table.iter().find(|row| (row.is_given)(options) && !(row.holds)(case));
        refused.map_or(Ok(()), |row| Err(Error::setting(row.option, row.with, found).with_hint("leave it out: nothing reads it here")))
    }
}
