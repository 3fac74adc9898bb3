//! Following the elements of small integer tensors.

use super::super::dim::Dim;
use super::super::fact::{Fact, MAX_CONTENTS, Shape, broadcast};

/// A small tensor all of whose lengths are known, with its elements.
#[derive(Clone)]
pub(super) struct Small {
    pub(super) shape: Vec<usize>,
    pub(super) elements: Vec<Dim>,
}

impl Small {
    /// The elements that a fact knows, with their places.
    pub(super) fn of(fact: &Fact) -> Option<Self> {
        let elements = fact.contents.clone()?;
        let shape = sizes(fact.shape.as_ref()?)?;
        (count(&shape) == Some(elements.len())).then_some(Self { shape, elements })
    }

    /// A tensor of which each element is one of this one's, picked by its coordinates.
    pub(super) fn pick(&self, shape: &[usize], source: impl Fn(&[usize]) -> Option<Vec<usize>>) -> Option<Vec<Dim>> {
        coordinates(shape)?.iter().map(|at| self.at(&source(at)?)).collect()
    }

    /// The element at some coordinates.
    pub(super) fn at(&self, coordinates: &[usize]) -> Option<Dim> {
        let inside = coordinates.len() == self.shape.len() && coordinates.iter().zip(&self.shape).all(|(c, n)| c < n);
        let flat = coordinates.iter().zip(&self.shape).fold(0, |flat, (c, n)| flat * n + c);
        if inside { self.elements.get(flat).cloned() } else { None }
    }

    /// The element that stands at some coordinates after broadcasting.
    pub(super) fn broadcast_at(&self, coordinates: &[usize]) -> Option<Dim> {
        let skipped = coordinates.len().checked_sub(self.shape.len())?;
        let own: Vec<usize> = coordinates[skipped..].iter().zip(&self.shape).map(|(&c, &n)| if n == 1 { 0 } else { c }).collect();
        self.at(&own)
    }
}

/// The lengths of a shape if all are known.
pub(super) fn sizes(shape: &Shape) -> Option<Vec<usize>> {
    shape.iter().map(|dim| usize::try_from(dim.as_known()?).ok()).collect()
}

/// The number of elements of a shape, unless it has more than 64 bits.
pub(super) fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |count, &length| count.checked_mul(length))
}

/// The coordinates of all elements of a shape, in row-major order, unless there are too many.
pub(super) fn coordinates(shape: &[usize]) -> Option<Vec<Vec<usize>>> {
    let count = count(shape).filter(|&count| count <= MAX_CONTENTS)?;
    let at = |mut flat: usize| {
        let mut place: Vec<usize> = shape
            .iter()
            .rev()
            .map(|n| {
                let c = flat % n;
                flat /= n;
                c
            })
            .collect();
        place.reverse();
        place
    };
    Some((0..count).map(at).collect())
}

/// Computes an elementwise result element by element; `None` from `compute` is an element that nothing is known of.
pub(super) fn elementwise(inputs: &[&Fact], compute: impl Fn(&[Dim]) -> Option<Dim>, unknown: impl Fn(usize) -> Dim) -> Option<Vec<Dim>> {
    let inputs: Vec<Small> = inputs.iter().map(|fact| Small::of(fact)).collect::<Option<_>>()?;
    let lengths = |small: &Small| small.shape.iter().map(|&n| super::question::length(n)).collect::<Shape>();
    let shape = inputs.iter().try_fold(vec![], |shape, input| broadcast(&shape, &lengths(input)).ok())?;
    let one = |(i, at): (usize, &Vec<usize>)| {
        let operands: Vec<Dim> = inputs.iter().map(|input| input.broadcast_at(at)).collect::<Option<_>>()?;
        Some(compute(&operands).unwrap_or_else(|| unknown(i)))
    };
    coordinates(&sizes(&shape)?)?.iter().enumerate().map(one).collect()
}
