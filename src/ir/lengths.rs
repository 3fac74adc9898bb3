//! Shapes that the graph computes when it runs.
//!
//! A length such as `batch * seq` is computed from the shapes of the graph's inputs, which are there throughout a run. Taking it from
//! the shape of the value that it describes would keep that value in memory until then, and a backward pass asks late.

use super::builder::Builder;
use super::builder::expr::Expr;
use super::dim::{Dim, Function};
use super::fact::Shape;
use super::graph::attr::Attr;

impl Builder {
    /// A shape as a vector, int64: a constant if all lengths are known, else computed from the shapes of the inputs; nothing if those
    /// do not tell.
    pub fn shape(&self, shape: &[Dim]) -> Option<Expr<'_>> {
        if let Some(known) = shape.iter().map(Dim::as_known).collect::<Option<Vec<i64>>>() {
            return Some(self.ints(&known));
        }
        let lengths: Vec<Expr> = shape.iter().map(|dim| self.length(dim)).collect::<Option<_>>()?;
        match &lengths[..] {
            [only] => Some(*only),
            [first, rest @ ..] => Some(first.concat(rest, 0)),
            [] => None,
        }
    }

    /// A length as a vector of one element, int64.
    fn length(&self, length: &Dim) -> Option<Expr<'_>> {
        let terms = length.summands().into_iter().map(|(symbols, coefficient)| {
            let mut factors = symbols.iter().map(|symbol| self.symbol(symbol)).collect::<Option<Vec<Expr>>>()?;
            if coefficient != 1 || factors.is_empty() {
                factors.push(self.ints(&[coefficient]));
            }
            factors.into_iter().reduce(|a, b| a * b)
        });
        let sum = terms.collect::<Option<Vec<Expr>>>()?.into_iter().reduce(|a, b| a + b);
        Some(sum.unwrap_or_else(|| self.ints(&[0])))
    }

    /// A length for each row, int64 `[rows]`, where `symbol` has another value in each: `values`, int64 `[rows]`. What a convolution makes of a signal of
    /// `seq` samples, it makes of a row of so many samples. Nothing if the inputs do not tell what else the length is made of.
    pub fn length_of_rows<'g>(&'g self, length: &Dim, symbol: &Dim, values: Expr<'g>) -> Option<Expr<'g>> {
        let of = |length: &Dim| self.length_of_rows(length, symbol, values);
        let factor = |factor: &Dim| {
            if factor == symbol {
                return Some(values);
            }
            let Some((function, left, right)) = factor.function() else { return self.symbol(factor) };
            let (left, right) = (of(left), of(right));
            if function == Function::Max && (left.is_none() || right.is_none()) {
                // Axes that go together are of one length, or one has length 1: that which the inputs tell is the length of both.
                return left.or(right);
            }
            let (left, right) = (left?, right?);
            Some(match function {
                // `Div` rounds towards zero.
                Function::FloorDiv => (left - left.modulo(right)) / right,
                Function::Mod => left.modulo(right),
                Function::Max => left.max(right),
                Function::Min => left.min(right),
            })
        };
        let terms = length.summands().into_iter().map(|(symbols, coefficient)| {
            let factors = symbols.iter().map(factor).collect::<Option<Vec<Expr<'_>>>>()?;
            let coefficient = self.ints(&[coefficient]);
            Some(factors.into_iter().fold(coefficient, |a, b| a * b))
        });
        let sum = terms.collect::<Option<Vec<Expr<'_>>>>()?.into_iter().reduce(|a, b| a + b);
        Some(sum.unwrap_or_else(|| self.ints(&[0])))
    }

    /// The length that a symbol stands for, from an input one of whose axes has it.
    fn symbol(&self, symbol: &Dim) -> Option<Expr<'_>> {
        let found = self.sources().into_iter().find_map(|input| {
            let axis = input.dims()?.iter().position(|dim| dim == symbol)?;
            Some((input, i64::try_from(axis).ok()?))
        });
        let Some((input, axis)) = found else { return self.told_length(symbol) };
        Some(self.op("Shape", &[input], &[("start", Attr::Int(axis)), ("end", Attr::Int(axis + 1))]))
    }
}

/// The lengths that a `Reshape` from one shape to another is given: known ones as they are, 0 for one that stays at its place, at most
/// one other as -1.
pub(super) fn reshape_lengths(from: &[Dim], to: &Shape) -> Option<Vec<i64>> {
    if to.iter().any(|dim| dim.as_known() == Some(0)) {
        return to.iter().map(Dim::as_known).collect();
    }
    let lengths: Vec<i64> =
        to.iter().enumerate().map(|(i, dim)| dim.as_known().unwrap_or(if from.get(i) == Some(dim) { 0 } else { -1 })).collect();
    (lengths.iter().filter(|&&length| length == -1).count() <= 1).then_some(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, ModelInfo};

    #[test]
    fn lengths_come_from_the_inputs() {
        let b = Builder::new(ModelInfo::dialect());
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        b.input("ids", DType::I64, &[batch.clone(), seq.clone()]);
        let wanted = [&batch * &(&seq + &Dim::known(8)), Dim::known(4), seq.clone()];
        let shape = b.shape(&wanted).expect("both symbols are lengths of an input");
        assert_eq!(shape.fact().contents, Some(wanted.to_vec()));
        assert!(b.shape(&[Dim::symbol("other")]).is_none());
        let values = b.ints(&[3, 5]);
        let half = seq.floor_div(&Dim::known(2));
        let of_rows = |length: &Dim| b.length_of_rows(length, &seq, values).and_then(|rows| rows.fact().known_contents());
        // A view whose length nothing tells was added to what a convolution gave.
        for (length, expected) in [
            (half.clone(), Some(vec![1, 2])),
            (Dim::symbol("?view").larger(&half), Some(vec![1, 2])),
            (&Dim::known(1) + &Dim::symbol("?view").larger(&Dim::symbol("?other").larger(&half)), Some(vec![2, 3])),
            (Dim::symbol("?view"), None),
        ] {
            assert_eq!(of_rows(&length), expected, "{length}");
        }
        assert_eq!(
            reshape_lengths(&[batch.clone(), seq.clone(), Dim::known(8)], &vec![batch.clone(), seq.clone(), 2.into(), 4.into()]),
            Some(vec![0, 0, 2, 4])
        );
        assert_eq!(reshape_lengths(&[&batch * &seq], &vec![batch, seq]), None);
    }
}
