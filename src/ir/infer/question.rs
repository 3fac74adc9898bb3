//! What rules ask of a [`Question`].

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, MAX_RANK, Shape};
use super::super::tensor::Tensor;
use super::Question;
use crate::error::Refusal;
use crate::ir::graph::attr::Attr;
use crate::num;

/// Longer lists of whole numbers are data, not lengths or axes.
const MAX_LISTED: usize = 1 << 16;

/// A list of whole numbers that an operator takes as an attribute in its older form and as an input in its newer one.
pub(super) enum List {
    /// It was left out.
    Absent,
    /// It is computed by the graph; the number of its elements may be known.
    Unknown(Option<usize>),
    /// Its elements.
    Known(Vec<i64>),
}

impl Question<'_> {
    pub(super) fn given(&self, input: usize) -> bool {
        self.inputs.get(input).is_some_and(Option::is_some)
    }

    /// The fact of an input, if it was not left out.
    pub(super) fn fact(&self, input: usize) -> Option<&Fact> {
        self.inputs.get(input)?.as_ref().map(|(fact, _)| *fact)
    }

    pub(super) fn tensor(&self, input: usize) -> Option<&Tensor> {
        self.inputs.get(input)?.as_ref()?.1
    }

    pub(super) fn dtype(&self, input: usize) -> Option<DType> {
        self.fact(input)?.dtype
    }

    pub(super) fn shape(&self, input: usize) -> Option<&Shape> {
        self.fact(input)?.shape.as_ref()
    }

    pub(super) fn rank(&self, input: usize) -> Option<usize> {
        self.shape(input).map(Vec::len)
    }

    /// The length of one axis of an input; a negative axis counts from the last.
    pub(super) fn dim(&self, input: usize, axis: i64) -> Option<Dim> {
        let shape = self.shape(input)?;
        axis_at(axis, shape.len()).ok().map(|at| shape[at].clone())
    }

    pub(super) fn contents(&self, input: usize) -> Option<&[Dim]> {
        self.fact(input)?.contents.as_deref()
    }

    /// The elements of an input of whole numbers, if all are known.
    pub(super) fn known(&self, input: usize) -> Option<Vec<i64>> {
        let small = || self.tensor(input).filter(|tensor| tensor.len() <= MAX_LISTED);
        self.fact(input)?.known_contents().or_else(|| small()?.to_i64())
    }

    /// The only element of an input.
    pub(super) fn element(&self, input: usize) -> Option<&Dim> {
        match self.contents(input)? {
            [element] => Some(element),
            _ => None,
        }
    }

    pub(super) fn attr_int(&self, name: &str) -> Option<i64> {
        self.attrs.get(name).and_then(Attr::as_int)
    }

    /// A number of things, or the default of the operator's page.
    pub(super) fn count(&self, name: &str, default: usize) -> Result<usize, Refusal> {
        let Some(given) = self.attr_int(name) else { return Ok(default) };
        usize::try_from(given).map_err(|_| format!("{name}: expected a number from 0, found {given}").into())
    }

    /// An integer attribute, or the default of the operator's page.
    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attr_int(name).unwrap_or(default)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attrs.get(name)? {
            Attr::Ints(values) => Some(values),
            _ => None,
        }
    }

    pub(super) fn str(&self, name: &str) -> Option<&str> {
        self.attrs.get(name).and_then(Attr::as_str)
    }

    /// The element type that an integer attribute names.
    pub(super) fn dtype_attr(&self, name: &str) -> Option<DType> {
        self.attr_int(name).and_then(|code| i32::try_from(code).ok()).and_then(DType::from_code)
    }

    /// A list that stands in an attribute or in an input.
    pub(super) fn list(&self, name: &str, input: usize) -> List {
        if let Some(values) = self.ints(name) {
            return List::Known(values.to_vec());
        }
        match (self.given(input), self.known(input)) {
            (false, _) => List::Absent,
            (true, Some(values)) => List::Known(values),
            (true, None) => List::Unknown(self.rank_told_by(input)),
        }
    }

    /// The number of elements of an input that lists axes or lengths, unless no value has as many axes.
    pub(super) fn rank_told_by(&self, input: usize) -> Option<usize> {
        let count = usize::try_from(self.shape(input)?.first()?.as_known()?).ok()?;
        (count <= MAX_RANK).then_some(count)
    }

    /// A length of which nothing is known.
    pub(super) fn fresh(&self, output: usize, axis: usize) -> Dim {
        Dim::symbol(&format!("?{}.{output}.{axis}", self.symbol))
    }

    /// A shape of which only the rank is known.
    pub(super) fn fresh_shape(&self, output: usize, rank: usize) -> Shape {
        (0..rank).map(|axis| self.fresh(output, axis)).collect()
    }

    /// An element of which nothing is known.
    pub(super) fn fresh_element(&self, output: usize, index: usize) -> Dim {
        Dim::number(&format!("?{}.{output}[{index}]", self.symbol))
    }
}

/// The axis that a perhaps negative number names.
pub(super) fn axis_at(axis: i64, rank: usize) -> Result<usize, Refusal> {
    let length = number(rank);
    let at = if axis < 0 { axis + length } else { axis };
    match usize::try_from(at) {
        Ok(at) if at < rank => Ok(at),
        _ => Err(format!("axis {axis} of a value of rank {rank}").into()),
    }
}

/// The axes that perhaps negative numbers name.
pub(super) fn axes_at(axes: &[i64], rank: usize) -> Result<Vec<usize>, Refusal> {
    axes.iter().map(|&axis| axis_at(axis, rank)).collect()
}

/// A count as one of ONNX's whole numbers.
pub(super) fn number(count: usize) -> i64 {
    num::int(count)
}

/// A count as a length.
pub(super) fn length(count: usize) -> Dim {
    Dim::known(number(count))
}

/// Says that a rank is not what the operator asks for.
pub(super) fn expect_rank(what: &str, shape: &Shape, rank: usize) -> Result<(), Refusal> {
    if shape.len() == rank { Ok(()) } else { Err(format!("rank of {what}: expected {rank}, found {} ({shape:?})", shape.len()).into()) }
}

impl List {
    pub(super) fn is_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }
}
