//! What is certain of the order of two lengths.

use std::cell::Cell;

use super::symbol::{Function, Symbol};
use super::{Dim, Repr};

impl Dim {
    /// The larger of two lengths.
    #[must_use]
    pub fn larger(&self, other: &Self) -> Self {
        if self.surely_at_most(other) {
            other.clone()
        } else if other.surely_at_most(self) {
            self.clone()
        } else {
            Self::applied(Function::Max, self.min(other), self.max(other))
        }
    }

    /// The smaller of two lengths.
    #[must_use]
    pub fn smaller(&self, other: &Self) -> Self {
        if self.surely_at_most(other) {
            self.clone()
        } else if other.surely_at_most(self) {
            other.clone()
        } else {
            Self::applied(Function::Min, self.min(other), self.max(other))
        }
    }

    /// Whether this is at least 0 whatever the symbols stand for. `false` where that cannot be told.
    #[must_use]
    pub fn surely_not_negative(&self) -> bool {
        match &self.0 {
            Repr::Known(length) => *length >= 0,
            Repr::Polynomial(terms) => terms.iter().all(|(product, c)| *c >= 0 && product.iter().all(Symbol::surely_not_negative)),
        }
    }

    /// Whether `self <= other` whatever the symbols stand for. `false` where that cannot be told.
    #[must_use]
    pub fn surely_at_most(&self, other: &Self) -> bool {
        // Of maxima in minima in maxima, each pair of parts would be compared in each order that leads to it.
        const COMPARISONS: u32 = 64;
        self.is_at_most(other, &Cell::new(COMPARISONS))
    }

    fn is_at_most(&self, other: &Self, left: &Cell<u32>) -> bool {
        if let (Repr::Known(a), Repr::Known(b)) = (&self.0, &other.0) {
            return a <= b;
        }
        let Some(rest) = left.get().checked_sub(1) else { return false };
        left.set(rest);
        let bounded_by_part = || match self.as_symbol() {
            Some(Symbol::Applied(a)) if a.function == Function::Min => a.left.is_at_most(other, left) || a.right.is_at_most(other, left),
            Some(Symbol::Applied(a)) if a.function == Function::Max => a.left.is_at_most(other, left) && a.right.is_at_most(other, left),
            Some(Symbol::Applied(a)) if a.function == Function::FloorDiv => {
                a.right.as_known().is_some_and(|by| by > 0) && a.left.surely_not_negative() && a.left.is_at_most(other, left)
            }
            _ => false,
        };
        let bounds_part = || match other.as_symbol() {
            Some(Symbol::Applied(a)) if a.function == Function::Max => self.is_at_most(&a.left, left) || self.is_at_most(&a.right, left),
            Some(Symbol::Applied(a)) if a.function == Function::Min => self.is_at_most(&a.left, left) && self.is_at_most(&a.right, left),
            _ => false,
        };
        (other - self).surely_not_negative() || bounded_by_part() || bounds_part()
    }

    /// Whether two lengths are different whatever the symbols stand for.
    #[must_use]
    pub fn surely_differs(&self, other: &Self) -> bool {
        if let (Repr::Known(a), Repr::Known(b)) = (&self.0, &other.0) {
            return a != b;
        }
        let difference = self - other;
        let positive = |difference: &Self| (difference - &Self::known(1)).surely_not_negative();
        positive(&difference) || positive(&-&difference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(name: &str) -> Dim {
        Dim::symbol(name)
    }

    #[test]
    fn lengths_are_not_negative_and_numbers_may_be() {
        assert!(d("seq").surely_differs(&Dim::known(-1)));
        assert!(!Dim::number("n").surely_differs(&Dim::known(-1)));
        assert_eq!(d("seq").larger(&Dim::known(0)), d("seq"));
        assert_eq!(Dim::number("n").larger(&Dim::known(0)).to_string(), "max(0, n)");
    }

    #[test]
    fn a_minimum_is_at_most_its_parts() {
        let least = d("seq").smaller(&(&Dim::known(1024) - &d("past")).larger(&Dim::known(0)));
        assert!(least.surely_at_most(&d("seq")));
        assert!(!d("seq").surely_at_most(&least));
        assert!(least.surely_not_negative());
        assert_eq!(least.larger(&d("seq")), d("seq"));
    }

    #[test]
    fn only_certain_differences_count() {
        assert!((&d("seq") + &Dim::known(1)).surely_differs(&d("seq")));
        assert!(!d("seq").surely_differs(&d("batch")));
        assert!(!d("seq").surely_differs(&Dim::known(1)));
    }
}
