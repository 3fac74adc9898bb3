//! Columns that the user gives roles: `--map COLUMN=ROLE`.

use std::str::FromStr;

use crate::error::{Error, Result};

/// What columns are renamed to before they are read: `--map COLUMN=ROLE`, and the roles that they had where the model was trained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnMap {
    /// What the user says. A column that is not there is an error.
    pub(super) given: Vec<Renamed>,
    /// What the training's data had; a file may have other columns.
    pub(super) kept: Vec<Renamed>,
}

impl ColumnMap {
    /// Columns are called by their roles.
    pub(super) const NOTHING: Self = Self { given: vec![], kept: vec![] };

    /// No roles but those that columns had where the model was trained.
    #[must_use]
    pub fn kept(kept: impl IntoIterator<Item = Renamed>) -> Self {
        Self { given: vec![], kept: kept.into_iter().collect() }
    }

    /// What is given here, before what was kept elsewhere.
    #[must_use]
    pub fn given_over(&self, before: &Self) -> Self {
        Self { given: self.given.clone(), kept: before.kept.clone() }
    }

    /// What is to be kept for those who read such data later: what the user gave, and what was kept before and does not speak against it.
    #[must_use]
    pub fn to_keep(&self) -> Vec<Renamed> {
        let goes_with = |old: &&Renamed| !self.given.iter().any(|new| new.column == old.column || new.role == old.role);
        self.given.iter().chain(self.kept.iter().filter(goes_with)).cloned().collect()
    }
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
        Self { given: items.into_iter().collect(), kept: vec![] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_wins_over_what_was_kept() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(column, role)| Renamed::new(column, role)).collect::<Vec<_>>();
        let kept = map(&[("body", "text"), ("category", "label")]);
        let row = |given: &[(&str, &str)], expected: &[(&str, &str)]| {
            let found = map(given).into_iter().collect::<ColumnMap>().given_over(&ColumnMap::kept(kept.clone())).to_keep();
            assert_eq!(found, map(expected), "{given:?}");
        };
        row(&[], &[("body", "text"), ("category", "label")]);
        row(&[("stars", "label")], &[("stars", "label"), ("body", "text")]);
        row(&[("body", "label"), ("head", "text")], &[("body", "label"), ("head", "text")]);
        row(&[("id", "ignore")], &[("id", "ignore"), ("body", "text"), ("category", "label")]);
    }
}
