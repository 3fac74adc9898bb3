//! The option that says what columns of data are for; of every command that reads rows.

use serde::Serialize;

use crate::data::{ColumnMap, Renamed};

/// What columns are for.
#[derive(Clone, Debug, Default, Serialize, clap::Args)]
pub struct Columns {
    /// Give a column a role, as headline=text or stars=label; `ignore` leaves a column out. May be given several times
    #[arg(long, value_name = "COLUMN=ROLE", help_heading = "Data")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub map: Vec<Renamed>,
}

impl Columns {
    /// All columns that were named.
    #[must_use]
    pub fn renamed(&self) -> ColumnMap {
        self.map.iter().cloned().collect()
    }
}
