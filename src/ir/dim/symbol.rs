//! What polynomials are made of.

use std::fmt;
use std::sync::Arc;

use super::Dim;

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Symbol {
    /// A length.
    Length(Arc<str>),
    /// A whole number, perhaps negative.
    Number(Arc<str>),
    /// What no polynomial can say.
    Applied(Arc<Applied>),
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Applied {
    pub(super) function: Function,
    pub(super) left: Dim,
    pub(super) right: Dim,
    /// [`Dim::size`] of what this is made of.
    pub(super) size: usize,
}

/// What no polynomial can say, of two lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::ir) enum Function {
    /// The quotient, rounded down.
    FloorDiv,
    /// The remainder, with the sign of the divisor.
    Mod,
    /// The larger.
    Max,
    /// The smaller.
    Min,
}

impl Symbol {
    pub(super) fn surely_not_negative(&self) -> bool {
        match self {
            Self::Length(_) => true,
            Self::Number(_) => false,
            Self::Applied(a) => {
                let (left, right) = (a.left.surely_not_negative(), a.right.surely_not_negative());
                match a.function {
                    // A remainder has the sign of the divisor.
                    Function::Mod => right,
                    Function::Max => left || right,
                    Function::FloorDiv | Function::Min => left && right,
                }
            }
        }
    }

    pub(super) fn substitute_with(&self, value: &dyn Fn(&str) -> Option<Dim>) -> Dim {
        match self {
            Self::Length(name) | Self::Number(name) => value(name).unwrap_or_else(|| Dim::of(self.clone())),
            Self::Applied(a) => {
                let (left, right) = (a.left.substitute_with(value), a.right.substitute_with(value));
                match a.function {
                    Function::FloorDiv => left.floor_div(&right),
                    Function::Mod => left.modulo(&right),
                    Function::Max => left.larger(&right),
                    Function::Min => left.smaller(&right),
                }
            }
        }
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(name) | Self::Number(name) => f.write_str(name),
            Self::Applied(a) => {
                let name = match a.function {
                    Function::FloorDiv => "floordiv",
                    Function::Mod => "mod",
                    Function::Max => "max",
                    Function::Min => "min",
                };
                write!(f, "{name}({}, {})", a.left, a.right)
            }
        }
    }
}
