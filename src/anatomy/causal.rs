//! Which masks keep a position from looking at later ones.
//!
//! Exporters write that as a comparison of positions with positions, as `Trilu`, or as a stored triangle.

use crate::ir::{DType, Graph, Node, Tensor, Trait, ValueId};

/// Three kinds of values: positions, values computed from a triangle, values computed from another mask.
#[derive(Clone, Debug)]
pub(super) struct Causal {
    position: Vec<bool>,
    triangular: Vec<bool>,
    unclear: Vec<bool>,
}

/// Operators that give positions.
const COUNTING: &[&str] = &["Range", "CumSum", "NonZero"];

/// Operators that positions stay positions through.
const MOVING: &[&str] = &[
    "Add",
    "Cast",
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Mul",
    "Reshape",
    "Slice",
    "Squeeze",
    "Sub",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

impl Causal {
    /// Looks through the graph once.
    pub(super) fn find(graph: &Graph) -> Self {
        let count = graph.values().len();
        let (mut position, mut triangular, mut unclear) = (vec![false; count], vec![false; count], vec![false; count]);
        for &input in graph.inputs() {
            position[input.index()] = graph.value_name(input).contains("position");
            // A mask that the caller makes, a row for each query.
            unclear[input.index()] = graph.fact(input).rank() >= Some(3) && graph.value_name(input).contains("mask");
        }
        for (id, tensor) in graph.initializers() {
            position[id.index()] |= counts(tensor);
            let hides = hides(tensor);
            triangular[id.index()] = hides == Hides::Later;
            unclear[id.index()] |= hides == Hides::Some;
        }
        for node in graph.nodes() {
            let is = |ops: &[&str]| ops.contains(&&*node.op);
            let has = |property: Trait| property.is_of(&node.op);
            let is_mask = !has(Trait::Weighs) && !has(Trait::ShapeOnly);
            let any = |flags: &[bool]| node.reads().any(|id| flags[id.index()]);
            let is_position = is(COUNTING) || (is(MOVING) && any(&position)) || stored(graph, node).is_some_and(counts);
            let compares = has(Trait::Comparison) && node.reads().all(|id| position[id.index()]);
            let hides = stored(graph, node).map_or(Hides::Nothing, hides);
            let is_causal = is(&["Trilu"]) || compares || (is_mask && any(&triangular)) || hides == Hides::Later;
            let is_unclear = (is_mask && any(&unclear)) || hides == Hides::Some;
            for output in node.writes() {
                position[output.index()] = is_position;
                triangular[output.index()] = is_causal;
                unclear[output.index()] = is_unclear;
            }
        }
        Self { position, triangular, unclear }
    }

    /// Whether a mask is made with a triangle.
    pub(super) fn is(&self, mask: ValueId) -> bool {
        self.triangular[mask.index()]
    }

    /// Whether a mask hides some positions by a rule that cannot be told.
    pub(super) fn is_unclear(&self, mask: ValueId) -> bool {
        self.unclear[mask.index()]
    }

    /// Whether a value counts positions.
    pub(super) fn is_position(&self, value: ValueId) -> bool {
        self.position[value.index()]
    }
}

fn stored<'g>(graph: &'g Graph, node: &Node) -> Option<&'g Tensor> {
    (&*node.op == "Constant").then(|| node.output(0)).flatten().and_then(|id| graph.constant(id))
}

/// Whether a constant is 0, 1, 2, ...
fn counts(tensor: &Tensor) -> bool {
    // A few are enough: nothing else starts so.
    const LOOK_AT: usize = 8;
    let is_row = tensor.shape().last().is_some_and(|&n| n == tensor.len() && n >= 2) && !tensor.dtype().is_float();
    let size = tensor.dtype().bytes(1);
    let start = tensor.bytes().filter(|_| is_row).map(|bytes| bytes.slice(..size * tensor.len().min(LOOK_AT)));
    let start = start.and_then(|bytes| Tensor::new(tensor.dtype(), vec![bytes.len() / size.max(1)], bytes).ok());
    start.and_then(|t| t.to_i64()).is_some_and(|values| values.iter().zip(0..).all(|(&v, i)| v == i))
}

/// What a stored mask hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hides {
    /// Nothing, or it is no mask.
    Nothing,
    /// Every later position.
    Later,
    /// Some positions, by a rule that cannot be told.
    Some,
}

/// A number that masks what it is added to.
const MASKED: f64 = -1e4;

/// What the last two axes of a constant hide, as the first of its matrices has it: one value right of the diagonal, another on it and others left of it,
/// where positions before the first row may be seen too.
fn hides(tensor: &Tensor) -> Hides {
    // A few elements of a few rows are enough: nothing else looks so.
    const LOOK_AT: usize = 16;
    let (&[.., rows, columns], size) = (tensor.shape(), tensor.dtype().bits() / 8) else { return Hides::Nothing };
    let bytes = tensor.bytes().filter(|bytes| rows >= 2 && columns >= 2 && size > 0 && bytes.len() >= rows * columns * size);
    let Some(bytes) = bytes else { return Hides::Nothing };
    let at = |row: usize, column: usize| bytes.slice((row * columns + column) * size..(row * columns + column + 1) * size);
    if columns >= rows {
        let (before, hidden) = (columns - rows, at(0, columns - 1));
        let seen = at(0, before);
        let is_cut = |row: usize| {
            let later = || row + before + 1..columns;
            let hides_later = later().take(LOOK_AT).chain(later().rev().take(LOOK_AT)).all(|column| at(row, column) == hidden);
            hides_later && at(row, row + before) == seen && seen != hidden
        };
        if at(rows - 1, columns - 2) != hidden && [0, rows / 2, rows - 1].into_iter().all(is_cut) {
            return Hides::Later;
        }
    }
    let sampled =
        (0..rows.min(LOOK_AT)).map(|row| at(row, columns - 1)).chain((0..columns.min(LOOK_AT)).map(|column| at(rows - 1, column)));
    let count = rows.min(LOOK_AT) + columns.min(LOOK_AT);
    let numbers =
        Tensor::new(tensor.dtype(), vec![count], sampled.flatten().collect::<Vec<u8>>().into()).ok().and_then(|sample| sample.to_f64());
    let is_hidden = |numbers: &[f64]| match tensor.dtype() {
        DType::Bool => numbers.iter().any(|&number| number > 0.0) && numbers.contains(&0.0),
        dtype => dtype.is_float() && numbers.iter().any(|&number| number <= MASKED),
    };
    if numbers.is_some_and(|numbers| is_hidden(&numbers)) { Hides::Some } else { Hides::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, Dim, Expr, ModelInfo};

    type Write = for<'g> fn(&'g Builder, Expr<'g>) -> Expr<'g>;

    fn range(x: Expr<'_>) -> Expr<'_> {
        let b = x.b();
        let length = b.op("Squeeze", &[b.op("Shape", &[x], &[])], &[]);
        b.op("Range", &[b.int(0), length, b.int(1)], &[])
    }

    const CASES: &[(&str, Write, bool)] = &[
        ("positions compared", |_, x| range(x).unsqueeze(&[0]).less(range(x).unsqueeze(&[1])), true),
        ("a distance compared with a number", |b, x| (range(x).unsqueeze(&[0]) - range(x).unsqueeze(&[1])).less(b.int(4)), false),
        ("a stored triangle", |b, _| b.initializer("t", Tensor::from_f32(&[1, 2, 2], &[1., 0., 1., 1.])).identity(), true),
        (
            "a stored window of a triangle",
            |b, _| {
                b.initializer("t", Tensor::from_f32(&[4, 4], &[1., 0., 0., 0., 1., 1., 0., 0., 0., 1., 1., 0., 0., 0., 1., 1.])).identity()
            },
            true,
        ),
        (
            "a stored triangle with a slope",
            |b, _| b.initializer("t", Tensor::from_f32(&[3, 3], &[0., -1e9, -1e9, -0.5, 0., -1e9, -1., -0.5, 0.])).identity(),
            true,
        ),
        (
            "a stored triangle behind a past",
            |b, _| b.initializer("t", Tensor::from_f32(&[2, 3], &[0., 0., -1e9, 0., 0., 0.])).identity(),
            true,
        ),
        ("a stored diagonal", |b, _| b.initializer("t", Tensor::from_f32(&[2, 2], &[1., 0., 0., 1.])).identity(), false),
        ("a stored matrix", |b, _| b.initializer("t", Tensor::from_f32(&[2, 2], &[1., 2., 3., 4.])).identity(), false),
        ("a mask of padding", |_, x| 1.0 - x, false),
    ];

    #[test]
    fn triangles_are_told_from_other_masks() {
        for (what, write, expected) in CASES {
            let b = Builder::new(ModelInfo::dialect());
            let x = b.input("x", DType::F32, &[Dim::symbol("seq")]);
            let mask = write(&b, x);
            b.output("mask", mask);
            let id = mask.id();
            let graph = b.finish().expect("the case is a valid graph");
            assert_eq!(Causal::find(&graph).is(id), *expected, "{what}");
        }
    }
}
