//! How large a length may grow.
//!
//! A few nodes that multiply and add lengths make polynomials of any size. Shapes of real graphs have a handful of symbols; what is larger
//! than that is of no use to anybody, and is known only to be the same as itself.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::symbol::{Function, Symbol};
use super::{Dim, Repr, Terms};

/// Symbols and terms of a length, those inside maxima and quotients too.
pub(super) const SIZE: usize = 128;
/// Rounds of a division of polynomials.
pub(super) const ROUNDS: usize = 32;
/// Bytes of a name.
const NAME: usize = 128;

/// What gave a length that is too large.
#[derive(Clone, Copy, Hash)]
pub(super) enum Operation {
    Add,
    Mul,
    FloorDiv,
    Applied(Function),
}

/// A name as it is; of one that is too long its start, and a number that only it has.
pub(super) fn name(name: &str) -> Arc<str> {
    const START: usize = 32;
    if name.len() <= NAME {
        return name.into();
    }
    let start: String = name.chars().take(START).collect();
    format!("?{start}..{}", fingerprint(&name)).into()
}

/// 128 bits that stand for a value.
fn fingerprint(value: &impl Hash) -> String {
    let half = |seed: u64| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        value.hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016x}{:016x}", half(0), half(1))
}

impl Dim {
    /// The number of symbols and terms, those inside maxima and quotients too.
    pub(in crate::ir) fn size(&self) -> usize {
        match &self.0 {
            Repr::Known(_) => 1,
            Repr::Polynomial(terms) => size(terms),
        }
    }

    /// What stands for a result that is too large. It is a length if the result certainly is one.
    pub(super) fn beyond(operation: Operation, left: &Self, right: &Self) -> Self {
        let name = format!("?large.{}", fingerprint(&(operation, left, right)));
        let is_length = left.surely_not_negative() && right.surely_not_negative();
        if is_length { Self::symbol(&name) } else { Self::number(&name) }
    }

    /// `self + other`, unless that is too large.
    pub(super) fn sum(&self, other: &Self) -> Option<Self> {
        if let (Repr::Known(a), Repr::Known(b)) = (&self.0, &other.0) {
            return a.checked_add(*b).map(Self::known);
        }
        let mut sum = (*self.terms()).clone();
        for (product, coefficient) in &*other.terms() {
            let entry = sum.entry(product.clone()).or_insert(0);
            *entry = entry.checked_add(*coefficient)?;
        }
        Some(Self::from_terms(sum)).filter(|sum| sum.size() <= SIZE)
    }

    /// `self * other`, unless that is too large.
    pub(super) fn times(&self, other: &Self) -> Option<Self> {
        if let (Repr::Known(a), Repr::Known(b)) = (&self.0, &other.0) {
            return a.checked_mul(*b).map(Self::known);
        }
        let mut sum = Terms::new();
        for (left, a) in &*self.terms() {
            for (right, b) in &*other.terms() {
                let mut product = [left.as_slice(), right].concat();
                product.sort();
                let entry = sum.entry(product).or_insert(0);
                *entry = entry.checked_add(a.checked_mul(*b)?)?;
                if sum.len() > SIZE {
                    return None;
                }
            }
        }
        Some(Self::from_terms(sum)).filter(|product| product.size() <= SIZE)
    }
}

fn size(terms: &Terms) -> usize {
    terms.keys().map(|product| 1 + product.iter().map(Symbol::size).sum::<usize>()).sum()
}

impl Symbol {
    fn size(&self) -> usize {
        match self {
            Self::Length(_) | Self::Number(_) => 1,
            Self::Applied(applied) => applied.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(name: &str) -> Dim {
        Dim::symbol(name)
    }

    #[test]
    fn a_length_stops_growing_and_stays_equal_to_itself() {
        let grown = || {
            let (mut sum, step) = (d("a"), d("b"));
            for _ in 0..200 {
                sum = &(&sum + &step) * &sum;
                assert!(sum.size() <= SIZE);
            }
            sum
        };
        assert_eq!(grown(), grown());
        assert!(grown().surely_not_negative() && grown().is_length());
        assert_eq!(&grown() - &grown(), Dim::known(0));
        let squared = (0..100).fold(d("a"), |product, _| &product * &product);
        assert!(squared.size() <= SIZE && squared != d("a"));
    }

    #[test]
    fn maxima_and_quotients_stop_growing_too() {
        type Step = fn(&Dim, &Dim) -> Dim;
        let steps: [(&str, Step); 5] = [
            ("larger", |a, b| (a + b).larger(&(a - b))),
            ("smaller", |a, b| a.smaller(b).larger(&(a - b)).smaller(&(b - a))),
            ("floor_div", |a, b| a.floor_div(&(b + &Dim::known(2)))),
            ("modulo", |a, b| a.modulo(&(a + b))),
            ("both", |a, b| a.floor_div(b).larger(&b.floor_div(a))),
        ];
        for (name, step) in steps {
            let (mut a, mut b) = (d("a"), Dim::number("b"));
            for round in 0..60 {
                (a, b) = (step(&a, &b), step(&b, &a));
                assert!(a.size() <= SIZE && b.size() <= SIZE, "{name}, round {round}");
                assert!(a.to_string().len() <= SIZE * NAME, "{name}");
            }
        }
    }

    #[test]
    fn numbers_beyond_64_bits_are_not_known() {
        let (most, least, two) = (Dim::known(i64::MAX), Dim::known(i64::MIN), Dim::known(2));
        for (name, result) in [
            ("sum", &most + &two),
            ("product", &most * &two),
            ("difference", &least - &two),
            ("negation", -&least),
            ("quotient", least.floor_div(&Dim::known(-1))),
            ("coefficient", &(&d("n") * &most) * &two),
            ("sum of coefficients", &(&d("n") * &most) + &d("n")),
        ] {
            assert_eq!(result.as_known(), None, "{name}: {result}");
        }
        assert!((&most * &two).surely_not_negative());
        assert!(!(&least - &two).surely_not_negative());
        assert_eq!(least.modulo(&Dim::known(-1)), Dim::known(0));
    }

    #[test]
    fn long_names_are_cut_and_still_tell_lengths_apart() {
        let (a, b) = (format!("{}a", "n".repeat(100_000)), format!("{}b", "n".repeat(100_000)));
        assert!(d(&a).to_string().len() < NAME);
        assert_eq!(d(&a), d(&a));
        assert_ne!(d(&a), d(&b));
    }
}
