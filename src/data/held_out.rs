//! Rows that are held back from training, to measure on: `--val-size`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::example::Labels;
use super::examples::Examples;
use super::shuffle::{self, Use};
use crate::error::{Error, Result};
use crate::measure::float;

/// How many rows are held back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValSize {
    /// This share of all rows, above 0 and below 1.
    Share(f64),
    /// So many rows.
    Rows(usize),
}

impl FromStr for ValSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::mismatch("a validation size", "a share above 0 and below 1, as 0.1, or a number of rows", text);
        if let Ok(rows) = text.parse() {
            return if rows > 0 { Ok(Self::Rows(rows)) } else { Err(wrong()) };
        }
        let share: f64 = text.parse().map_err(|_| wrong())?;
        if share > 0.0 && share < 1.0 { Ok(Self::Share(share)) } else { Err(wrong()) }
    }
}

impl fmt::Display for ValSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{share}"),
            Self::Rows(rows) => write!(f, "{rows}"),
        }
    }
}

/// As it is read: `0.1`.
impl serde::Serialize for ValSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which rows are held back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    /// How many.
    pub size: ValSize,
    /// Random seed of the choice.
    pub seed: u64,
}

/// Rows that must not be parted: one query's passages, one text's windows.
struct Unit {
    places: Vec<usize>,
    /// The class, where rows have one.
    class: Option<i32>,
}

impl HeldOut {
    /// Training and eval examples, each in file order. Every class has its share of both. The windows of one text, and the passages
    /// of one query, stay together.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if no training example would be left.
    pub(super) fn split(self, examples: &Examples) -> Result<(Examples, Examples)> {
        let units = units(examples);
        let count = units.len();
        let wanted = match self.size {
            ValSize::Share(share) => rounded(share * float(count)).max(1),
            ValSize::Rows(rows) => rows,
        };
        if wanted >= count {
            let error = Error::mismatch("rows to hold back", format!("fewer than the {count} of the data"), wanted);
            return Err(error.with_hint("a smaller `val_size`, or `eval_data FILE` with rows of its own"));
        }
        let mut order = shuffle::permutation(Use::HeldOut, self.seed, count);
        order.sort_by_key(|&unit| units[unit].class);
        let mut is_held = vec![false; examples.len()];
        for number in 0..wanted {
            // Steps of equal length through the classes, one behind the other.
            let unit = order[(2 * number + 1) * count / (2 * wanted)];
            units[unit].places.iter().for_each(|&place| is_held[place] = true);
        }
        Ok(examples.parted(|row| !is_held[row]))
    }
}

fn units(examples: &Examples) -> Vec<Unit> {
    let mut units: Vec<Unit> = vec![];
    let mut of_groups: BTreeMap<(Option<String>, usize), usize> = BTreeMap::new();
    for (place, example) in examples.iter().enumerate() {
        let key = match &example.group {
            Some(group) => (Some(group.clone()), 0),
            None => (None, example.row),
        };
        let unit = *of_groups.entry(key).or_insert(units.len());
        if unit == units.len() {
            let class = if let Labels::Class(class) = example.labels { Some(class) } else { None };
            units.push(Unit { places: vec![], class });
        }
        units[unit].places.push(place);
    }
    units
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a number of rows")]
fn rounded(number: f64) -> usize {
    number.round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Example;

    fn rows(classes: &[i32]) -> Vec<Example> {
        let row = |(line, class): (usize, &i32)| Example { line: line + 1, row: line, labels: Labels::Class(*class), ..Example::default() };
        classes.iter().enumerate().map(row).collect()
    }

    fn split(size: ValSize, seed: u64, rows: Vec<Example>) -> Result<(Vec<usize>, Vec<usize>)> {
        let lines = |rows: Examples| rows.iter().map(|row| row.line).collect::<Vec<_>>();
        HeldOut { size, seed }.split(&rows.into()).map(|(kept, held)| (lines(kept), lines(held)))
    }

    #[test]
    fn every_class_has_its_share_and_every_row_is_on_one_side() -> Result<()> {
        let classes: Vec<i32> = (0..100).map(|row| i32::from(row % 5 == 0)).collect();
        for seed in 0..5 {
            let (kept, held) = split(ValSize::Share(0.1), seed, rows(&classes))?;
            assert_eq!((kept.len(), held.len()), (90, 10));
            assert_eq!(held.iter().filter(|line| classes[**line - 1] == 1).count(), 2, "{held:?}");
            let mut all = [kept.clone(), held.clone()].concat();
            all.sort_unstable();
            assert_eq!(all, (1..=100).collect::<Vec<_>>());
            assert!(kept.is_sorted() && held.is_sorted());
            assert_eq!(split(ValSize::Share(0.1), seed, rows(&classes))?.1, held, "the seed decides");
        }
        assert_ne!(split(ValSize::Rows(10), 1, rows(&classes))?.1, split(ValSize::Rows(10), 2, rows(&classes))?.1);
        Ok(())
    }

    #[test]
    fn rows_that_belong_together_stay_together() -> Result<()> {
        let mut all = rows(&[0; 20]);
        for (place, row) in all.iter_mut().enumerate() {
            row.group = Some(format!("query {}", place / 4));
        }
        let (_, held) = split(ValSize::Share(0.2), 3, all)?;
        assert_eq!(held.len(), 4);
        assert_eq!((held[3] - held[0], (held[0] - 1) % 4), (3, 0), "{held:?}");
        Ok(())
    }

    #[test]
    fn sizes_are_shares_or_rows_and_leave_something_to_learn_from() {
        assert_eq!("0.25".parse::<ValSize>().ok(), Some(ValSize::Share(0.25)));
        assert_eq!("12".parse::<ValSize>().ok(), Some(ValSize::Rows(12)));
        for wrong in ["0", "1.0", "1.5", "-1", "-0.1", "nan", "some"] {
            assert!(wrong.parse::<ValSize>().is_err(), "{wrong}");
        }
        assert!(split(ValSize::Rows(3), 1, rows(&[0, 1, 0])).is_err());
        assert!(split(ValSize::Share(0.5), 1, rows(&[0])).is_err());
    }
}
