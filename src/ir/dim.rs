//! Lengths of axes, known or symbolic.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

/// The length of an axis, or an element of a shape tensor: a polynomial with integer coefficients over named symbols.
///
/// `batch * seq`, `past + 1` and `4 * heads` are all exact, and two equal polynomials compare equal, so that shape arithmetic
/// done by a graph (`Shape`, `Gather`, `Concat`, `Mul`, ...) can be followed without running it. What a polynomial cannot say
/// (a floor division, a maximum) becomes a symbol of its own, named after what it is, so that the same expression is the same symbol.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Known(i64),
    /// Never a constant: those are `Known`.
    Polynomial(Arc<Terms>),
}

/// Coefficient of each product of symbols; the empty product is the constant term. No zero coefficients.
type Terms = BTreeMap<Vec<Arc<str>>, i64>;

impl Dim {
    /// A length that is known.
    #[must_use]
    pub const fn known(length: i64) -> Self {
        Self(Repr::Known(length))
    }

    /// A length that has only a name, such as `batch`.
    #[must_use]
    pub fn symbol(name: &str) -> Self {
        Self(Repr::Polynomial(Arc::new(BTreeMap::from([(vec![Arc::from(name)], 1)]))))
    }

    /// The length, if it is known.
    #[must_use]
    pub fn as_known(&self) -> Option<i64> {
        match self.0 {
            Repr::Known(length) => Some(length),
            Repr::Polynomial(_) => None,
        }
    }

    /// The name, if this is a single symbol that an exporter or a user wrote (not one derived by arithmetic).
    #[must_use]
    pub fn as_name(&self) -> Option<&str> {
        let name = self.symbol_name()?;
        (!name.contains(['?', '(', ')'])).then_some(name)
    }

    pub(super) fn symbol_name(&self) -> Option<&str> {
        match &self.0 {
            Repr::Known(_) => None,
            Repr::Polynomial(terms) => match (terms.len(), terms.first_key_value()) {
                (1, Some((product, 1))) if product.len() == 1 => Some(&product[0]),
                _ => None,
            },
        }
    }

    /// The largest whole number not above `self / divisor`.
    #[must_use]
    pub fn floor_div(&self, divisor: &Self) -> Self {
        match (&self.0, &divisor.0) {
            (_, Repr::Known(1)) => self.clone(),
            (Repr::Known(0), _) => Self::known(0),
            (Repr::Known(a), Repr::Known(b)) if *b != 0 => Self::known(a.div_euclid(*b)),
            _ => self.exact_div(divisor).unwrap_or_else(|| self.opaque("floordiv", divisor)),
        }
    }

    /// The remainder of [`floor_div`](Self::floor_div).
    #[must_use]
    pub fn modulo(&self, divisor: &Self) -> Self {
        match (&self.0, &divisor.0) {
            (Repr::Known(a), Repr::Known(b)) if *b != 0 => Self::known(a.rem_euclid(*b)),
            _ if self.exact_div(divisor).is_some() => Self::known(0),
            _ => self.opaque("mod", divisor),
        }
    }

    /// The larger of two lengths.
    #[must_use]
    pub fn larger(&self, other: &Self) -> Self {
        match (&self.0, &other.0) {
            (Repr::Known(a), Repr::Known(b)) => Self::known(*a.max(b)),
            _ if self == other => self.clone(),
            _ => self.clone().min_by_name(other).opaque("max", &self.clone().max_by_name(other)),
        }
    }

    /// The smaller of two lengths.
    #[must_use]
    pub fn smaller(&self, other: &Self) -> Self {
        match (&self.0, &other.0) {
            (Repr::Known(a), Repr::Known(b)) => Self::known(*a.min(b)),
            _ if self == other => self.clone(),
            _ => self.clone().min_by_name(other).opaque("min", &self.clone().max_by_name(other)),
        }
    }

    /// The product of the lengths of a shape: its number of elements.
    #[must_use]
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Self>) -> Self {
        dims.into_iter().fold(Self::known(1), |product, dim| &product * dim)
    }

    /// `self / divisor`, if the division leaves no remainder whatever the symbols stand for.
    #[must_use]
    pub fn exact_div(&self, divisor: &Self) -> Option<Self> {
        if self == divisor {
            return Some(Self::known(1));
        }
        let divisor = divisor.terms();
        let (by, coefficient) = match divisor.first_key_value() {
            Some((product, coefficient)) if divisor.len() == 1 => (product, *coefficient),
            _ => return None,
        };
        let mut quotient = Terms::new();
        for (product, c) in &*self.terms() {
            if c % coefficient != 0 {
                return None;
            }
            let mut rest = product.clone();
            for symbol in by {
                rest.remove(rest.iter().position(|s| s == symbol)?);
            }
            quotient.insert(rest, c / coefficient);
        }
        Some(Self::from_terms(quotient))
    }

    /// Whether two lengths are different whatever the symbols stand for.
    #[must_use]
    pub fn surely_differs(&self, other: &Self) -> bool {
        (self - other).as_known().is_some_and(|difference| difference != 0)
    }

    /// Replaces each symbol by what `value` gives for it; symbols it gives nothing for stay.
    #[must_use]
    pub fn substitute(&self, value: impl Fn(&str) -> Option<Self>) -> Self {
        let mut sum = Self::known(0);
        for (product, coefficient) in &*self.terms() {
            let factor = |symbol: &Arc<str>| value(symbol).unwrap_or_else(|| Self::symbol(symbol));
            let term = product.iter().fold(Self::known(*coefficient), |term, symbol| &term * &factor(symbol));
            sum = &sum + &term;
        }
        sum
    }

    fn min_by_name(self, other: &Self) -> Self {
        std::cmp::min(self, other.clone())
    }

    fn max_by_name(self, other: &Self) -> Self {
        std::cmp::max(self, other.clone())
    }

    fn opaque(&self, function: &str, other: &Self) -> Self {
        Self::symbol(&format!("{function}({self}, {other})"))
    }

    fn terms(&self) -> Arc<Terms> {
        match &self.0 {
            Repr::Known(0) => Arc::new(Terms::new()),
            Repr::Known(length) => Arc::new(BTreeMap::from([(vec![], *length)])),
            Repr::Polynomial(terms) => Arc::clone(terms),
        }
    }

    fn from_terms(mut terms: Terms) -> Self {
        terms.retain(|_, coefficient| *coefficient != 0);
        match (terms.len(), terms.first_key_value()) {
            (0, _) => Self::known(0),
            (1, Some((product, coefficient))) if product.is_empty() => Self::known(*coefficient),
            _ => Self(Repr::Polynomial(Arc::new(terms))),
        }
    }
}

impl Add for &Dim {
    type Output = Dim;
    fn add(self, other: &Dim) -> Dim {
        if let (Repr::Known(a), Repr::Known(b)) = (&self.0, &other.0) {
            return Dim::known(a.saturating_add(*b));
        }
        let mut sum = (*self.terms()).clone();
        for (product, coefficient) in &*other.terms() {
            let entry = sum.entry(product.clone()).or_insert(0);
            *entry = entry.saturating_add(*coefficient);
        }
        Dim::from_terms(sum)
    }
}

impl Neg for &Dim {
    type Output = Dim;
    fn neg(self) -> Dim {
        self * &Dim::known(-1)
    }
}

impl Sub for &Dim {
    type Output = Dim;
    fn sub(self, other: &Dim) -> Dim {
        self + &-other
    }
}

impl Mul for &Dim {
    type Output = Dim;
    fn mul(self, other: &Dim) -> Dim {
        if let (Repr::Known(a), Repr::Known(b)) = (&self.0, &other.0) {
            return Dim::known(a.saturating_mul(*b));
        }
        let mut sum = Terms::new();
        for (left, a) in &*self.terms() {
            for (right, b) in &*other.terms() {
                let mut product = [left.as_slice(), right].concat();
                product.sort();
                let entry = sum.entry(product).or_insert(0);
                *entry = entry.saturating_add(a.saturating_mul(*b));
            }
        }
        Dim::from_terms(sum)
    }
}

impl From<i64> for Dim {
    fn from(length: i64) -> Self {
        Self::known(length)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repr::Polynomial(terms) = &self.0 else {
            return write!(f, "{}", self.as_known().unwrap_or(0));
        };
        // Products first, the constant last: `past + 1`.
        for (i, (product, coefficient)) in terms.iter().rev().enumerate() {
            let sign = match (i, *coefficient < 0) {
                (0, false) => "",
                (0, true) => "-",
                (_, false) => " + ",
                (_, true) => " - ",
            };
            f.write_str(sign)?;
            let size = coefficient.unsigned_abs();
            match (size, product.is_empty()) {
                (_, true) => write!(f, "{size}")?,
                (1, false) => f.write_str(&product.join("*"))?,
                (_, false) => write!(f, "{size}*{}", product.join("*"))?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(name: &str) -> Dim {
        Dim::symbol(name)
    }

    #[test]
    fn equal_polynomials_are_equal() {
        let (batch, seq, two) = (d("batch"), d("seq"), Dim::known(2));
        assert_eq!(&(&batch * &seq) * &two, &two * &(&seq * &batch));
        assert_eq!(&(&batch + &seq) - &seq, batch);
        assert_eq!(&batch - &batch, Dim::known(0));
    }

    #[test]
    fn division_is_exact_where_it_can_be() {
        let heads = &d("batch") * &Dim::known(12);
        assert_eq!(heads.floor_div(&Dim::known(4)), &d("batch") * &Dim::known(3));
        assert_eq!(heads.floor_div(&d("batch")), Dim::known(12));
        assert_eq!(d("seq").floor_div(&Dim::known(2)), d("seq").floor_div(&Dim::known(2)));
        assert_eq!(d("seq").floor_div(&Dim::known(2)).as_known(), None);
    }

    #[test]
    fn only_certain_differences_count() {
        assert!((&d("seq") + &Dim::known(1)).surely_differs(&d("seq")));
        assert!(!d("seq").surely_differs(&d("batch")));
        assert!(!d("seq").surely_differs(&Dim::known(1)));
    }

    #[test]
    fn printing_puts_the_constant_last() {
        assert_eq!((&(&d("b") * &d("s")) + &Dim::known(-3)).to_string(), "b*s - 3");
        assert_eq!(d("a").larger(&d("b")), d("b").larger(&d("a")));
    }
}
