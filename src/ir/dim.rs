//! Lengths of axes, known or symbolic.

mod limit;
mod order;
mod symbol;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

use limit::Operation;
pub(super) use symbol::Function;
use symbol::{Applied, Symbol};

/// The length of an axis, or an element of a shape tensor: a polynomial with integer coefficients over named symbols.
///
/// `batch * seq`, `past + 1` and `4 * heads` are all exact, and two equal polynomials compare equal, so that shape arithmetic
/// done by a graph (`Shape`, `Gather`, `Concat`, `Mul`, ...) can be followed without running it. What a polynomial cannot say
/// (a floor division, a maximum) becomes a symbol of its own. The symbol keeps its operands, so equal expressions are equal
/// symbols. Symbols are lengths, so never negative, except those made by [`number`](Self::number).
///
/// A result of more than a few hundred symbols, or with a number beyond 64 bits, is an opaque symbol; the same operands give the same one (`limit`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Known(i64),
    /// Never a constant: those are `Known`.
    Polynomial(Arc<Terms>),
}

/// Coefficient of each product of symbols; the empty product is the constant term. No zero coefficients.
type Terms = BTreeMap<Vec<Symbol>, i64>;

impl Dim {
    /// A length that is known.
    #[must_use]
    pub const fn known(length: i64) -> Self {
        Self(Repr::Known(length))
    }

    /// A length that has only a name, such as `batch`.
    #[must_use]
    pub fn symbol(name: &str) -> Self {
        Self::of(Symbol::Length(limit::name(name)))
    }

    /// An element of a tensor of which only a name is known; unlike a length it may be negative.
    #[must_use]
    pub fn number(name: &str) -> Self {
        Self::of(Symbol::Number(limit::name(name)))
    }

    fn of(symbol: Symbol) -> Self {
        Self(Repr::Polynomial(Arc::new(BTreeMap::from([(vec![symbol], 1)]))))
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
        self.symbol_name().filter(|name| !name.contains('?'))
    }

    /// The name, if this is a single symbol that was not made by arithmetic.
    pub(super) fn symbol_name(&self) -> Option<&str> {
        match self.as_symbol()? {
            Symbol::Length(name) | Symbol::Number(name) => Some(name),
            Symbol::Applied(_) => None,
        }
    }

    fn as_symbol(&self) -> Option<&Symbol> {
        match &self.0 {
            Repr::Known(_) => None,
            Repr::Polynomial(terms) => match (terms.len(), terms.first_key_value()) {
                (1, Some((product, 1))) if product.len() == 1 => product.first(),
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
            (Repr::Known(a), Repr::Known(b)) if *b != 0 => {
                floor_div(*a, *b).map_or_else(|| Self::beyond(Operation::FloorDiv, self, divisor), Self::known)
            }
            _ => self.exact_div(divisor).unwrap_or_else(|| Self::applied(Function::FloorDiv, self, divisor)),
        }
    }

    /// The remainder of [`floor_div`](Self::floor_div).
    #[must_use]
    pub fn modulo(&self, divisor: &Self) -> Self {
        match (&self.0, &divisor.0) {
            (Repr::Known(a), Repr::Known(b)) if *b != 0 => {
                // The only quotient beyond 64 bits leaves no remainder.
                Self::known(floor_div(*a, *b).map_or(0, |quotient| a.wrapping_sub(quotient.wrapping_mul(*b))))
            }
            _ if self.exact_div(divisor).is_some() => Self::known(0),
            _ => Self::applied(Function::Mod, self, divisor),
        }
    }

    /// Whether this is made of lengths and constants alone, with no [`number`](Self::number) in it.
    #[must_use]
    pub fn is_length(&self) -> bool {
        self.terms().keys().flatten().all(|symbol| match symbol {
            Symbol::Length(_) => true,
            Symbol::Number(_) => false,
            Symbol::Applied(a) => a.left.is_length() && a.right.is_length(),
        })
    }

    /// The product of the lengths of a shape: its number of elements.
    #[must_use]
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Self>) -> Self {
        dims.into_iter().fold(Self::known(1), |product, dim| &product * dim)
    }

    /// `self / divisor`, if the division leaves no remainder whatever the symbols stand for.
    #[must_use]
    pub fn exact_div(&self, divisor: &Self) -> Option<Self> {
        let divisor = divisor.terms();
        let (lead, coefficient) = leading(&divisor)?;
        let (mut rest, mut quotient) = (self.clone(), Self::known(0));
        // Each round takes the leading term away. Divisions that go on for long are of no graph's shapes.
        for _ in 0..limit::ROUNDS {
            let terms = rest.terms();
            let Some((product, c)) = leading(&terms) else { return Some(quotient) };
            if c.checked_rem(*coefficient)? != 0 {
                return None;
            }
            let mut factor = product.clone();
            for symbol in lead {
                factor.remove(factor.iter().position(|s| s == symbol)?);
            }
            let step = Self::from_terms(BTreeMap::from([(factor, c / coefficient)]));
            quotient = &quotient + &step;
            rest = &rest - &(&step * &Self::from_terms((*divisor).clone()));
        }
        None
    }

    /// Replaces each symbol by what `value` gives for it; symbols it gives nothing for stay.
    #[must_use]
    pub fn substitute(&self, value: impl Fn(&str) -> Option<Self>) -> Self {
        self.substitute_with(&value)
    }

    fn substitute_with(&self, value: &dyn Fn(&str) -> Option<Self>) -> Self {
        let mut sum = Self::known(0);
        for (product, coefficient) in &*self.terms() {
            let term = product.iter().fold(Self::known(*coefficient), |term, symbol| &term * &symbol.substitute_with(value));
            sum = &sum + &term;
        }
        sum
    }

    /// The names of all symbols, those inside maxima and quotients too.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let of = |symbol: &Symbol| match symbol {
            Symbol::Length(name) | Symbol::Number(name) => vec![name.to_string()],
            Symbol::Applied(a) => [a.left.names(), a.right.names()].concat(),
        };
        self.terms().keys().flatten().flat_map(of).collect()
    }

    fn applied(function: Function, left: &Self, right: &Self) -> Self {
        let size = 1 + left.size() + right.size();
        if size > limit::SIZE {
            return Self::beyond(Operation::Applied(function), left, right);
        }
        Self::of(Symbol::Applied(Arc::new(Applied { function, left: left.clone(), right: right.clone(), size })))
    }

    /// What this length is a function of, if it is a single symbol that stands for what no polynomial can say.
    pub(super) fn function(&self) -> Option<(Function, &Self, &Self)> {
        match self.as_symbol()? {
            Symbol::Applied(applied) => Some((applied.function, &applied.left, &applied.right)),
            Symbol::Length(_) | Symbol::Number(_) => None,
        }
    }

    /// The sum that this length is: products of symbols, each with its coefficient; the product of no symbols is the constant.
    #[must_use]
    pub fn summands(&self) -> Vec<(Vec<Self>, i64)> {
        let factors = |symbols: &[Symbol]| symbols.iter().cloned().map(Self::of).collect();
        self.terms().iter().map(|(symbols, coefficient)| (factors(symbols), *coefficient)).collect()
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

/// The quotient rounded down; `divisor` is not 0. None if it has more than 64 bits.
fn floor_div(dividend: i64, divisor: i64) -> Option<i64> {
    let quotient = dividend.checked_div(divisor)?;
    let inexact = dividend.wrapping_rem(divisor) != 0;
    Some(if inexact && (dividend < 0) != (divisor < 0) { quotient - 1 } else { quotient })
}

/// The term of the highest degree, and of those the last by name: an order that multiplication keeps.
fn leading(terms: &Terms) -> Option<(&Vec<Symbol>, &i64)> {
    terms.iter().max_by_key(|(product, _)| (product.len(), *product))
}

impl Add for &Dim {
    type Output = Dim;
    fn add(self, other: &Dim) -> Dim {
        self.sum(other).unwrap_or_else(|| Dim::beyond(Operation::Add, self.min(other), self.max(other)))
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
        self.times(other).unwrap_or_else(|| Dim::beyond(Operation::Mul, self.min(other), self.max(other)))
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
        let (constant, products): (Vec<_>, Vec<_>) = terms.iter().partition(|(product, _)| product.is_empty());
        for (i, (product, coefficient)) in products.into_iter().chain(constant).enumerate() {
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
                (1, false) => f.write_str(&joined(product))?,
                (_, false) => write!(f, "{size}*{}", joined(product))?,
            }
        }
        Ok(())
    }
}

fn joined(product: &[Symbol]) -> String {
    product.iter().map(ToString::to_string).collect::<Vec<_>>().join("*")
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
    fn polynomials_divide() {
        let total = &d("past") + &d("seq");
        let elements = &(&d("batch") * &total) * &Dim::known(64);
        assert_eq!(elements.exact_div(&(&d("batch") * &total)), Some(Dim::known(64)));
        assert_eq!(elements.exact_div(&total), Some(&d("batch") * &Dim::known(64)));
        assert_eq!(elements.exact_div(&d("seq")), None);
        assert_eq!((&total + &Dim::known(1)).exact_div(&total), None);
        assert_eq!(total.exact_div(&Dim::known(0)), None);
        assert_eq!(total.exact_div(&Dim::known(-1)), Some(-&total));
    }

    #[test]
    fn substitution_computes_what_was_kept() {
        let n = d("seq").floor_div(&Dim::known(2)).larger(&d("batch"));
        let value = |name: &str| Some(Dim::known(if name == "seq" { 9 } else { 3 }));
        assert_eq!(n.substitute(value), Dim::known(4));
        assert_eq!(Dim::known(-7).floor_div(&Dim::known(2)), Dim::known(-4));
        assert_eq!(Dim::known(-7).modulo(&Dim::known(2)), Dim::known(1));
    }

    #[test]
    fn printing_puts_the_constant_last() {
        assert_eq!((&(&d("b") * &d("s")) + &Dim::known(-3)).to_string(), "b*s - 3");
        assert_eq!(d("a").larger(&d("b")), d("b").larger(&d("a")));
    }
}
