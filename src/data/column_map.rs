//! Columns that the user gives roles: `--map COLUMN=ROLE`.

use std::str::FromStr;

use crate::error::{Error, Result};

/// What columns are renamed to before they are read: `--map COLUMN=ROLE`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnMap(pub(super) Vec<Renamed>);

impl ColumnMap {
    /// Columns are called by their roles.
    pub(super) const NOTHING: Self = Self(vec![]);
}

/// A column and its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    pub(super) column: String,
    pub(super) role: String,
}

impl Renamed {
    /// A column with a role.
    #[must_use]
    pub fn new(column: &str, role: &str) -> Self {
        Self { column: column.to_owned(), role: role.to_owned() }
    }

    /// The column.
    #[must_use]
    pub fn column(&self) -> &str {
        &self.column
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }
}

/// As it is read: `headline=text`.
impl std::fmt::Display for Renamed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.column, self.role)
    }
}

impl serde::Serialize for Renamed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Renamed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.rsplit_once('=').map(|(column, role)| (column.trim(), role.trim()));
        let Some((column, role)) = parts.filter(|(column, role)| !column.is_empty() && !role.is_empty()) else {
            return Err(Error::invalid(format!("expected COLUMN=ROLE, such as headline=text, found {text}")));
        };
        Ok(Self { column: column.to_owned(), role: role.to_owned() })
    }
}

impl FromIterator<Renamed> for ColumnMap {
    fn from_iter<Items: IntoIterator<Item = Renamed>>(items: Items) -> Self {
        Self(items.into_iter().collect())
    }
}
