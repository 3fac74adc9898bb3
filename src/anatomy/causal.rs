//! Which masks keep a position from looking at later ones.
//!
//! Exporters write that as a comparison of positions with positions, as `Trilu`, or as a stored triangle.

use crate::ir::{Graph, Node, Tensor, ValueId};

/// Values that are positions, and values that are made with a triangle.
#[derive(Clone, Debug)]
pub(super) struct Causal {
    position: Vec<bool>,
    causal: Vec<bool>,
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

const COMPARING: &[&str] = &["Less", "LessOrEqual", "Greater", "GreaterOrEqual"];

/// Operators that end the search: what comes after them is no mask.
const NOT_A_MASK: &[&str] = &["MatMul", "Gemm", "Softmax", "Shape", "Size", "LayerNormalization", "RMSNormalization", "Attention"];

impl Causal {
    /// Looks through the graph once.
    pub(super) fn find(graph: &Graph) -> Self {
        let count = graph.values().len();
        let (mut position, mut causal) = (vec![false; count], vec![false; count]);
        for &input in graph.inputs() {
            position[input.index()] = graph.value_name(input).contains("position");
        }
        for (id, tensor) in graph.initializers() {
            position[id.index()] |= counts(tensor);
            causal[id.index()] = is_triangle(tensor);
        }
        for node in graph.nodes() {
            let is = |ops: &[&str]| ops.contains(&&*node.op);
            let any = |flags: &[bool]| node.reads().any(|id| flags[id.index()]);
            let is_position = is(COUNTING) || (is(MOVING) && any(&position)) || stored(graph, node).is_some_and(counts);
            let compares = is(COMPARING) && node.reads().all(|id| position[id.index()]);
            let is_causal = is(&["Trilu"]) || compares || (!is(NOT_A_MASK) && any(&causal)) || stored(graph, node).is_some_and(is_triangle);
            for output in node.writes() {
                position[output.index()] = is_position;
                causal[output.index()] = is_causal;
            }
        }
        Self { position, causal }
    }

    /// Whether a mask is made with a triangle.
    pub(super) fn is(&self, mask: ValueId) -> bool {
        self.causal[mask.index()]
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

/// Whether the last two axes hold one value below the diagonal and another above.
fn is_triangle(tensor: &Tensor) -> bool {
    // The ends of the first and the last row are enough: nothing else looks so.
    const LOOK_AT: usize = 16;
    let (&[.., rows, columns], size) = (tensor.shape(), tensor.dtype().bits() / 8) else { return false };
    let Some(bytes) = tensor.bytes().filter(|bytes| rows == columns && rows >= 2 && size > 0 && bytes.len() >= rows * columns * size)
    else {
        return false;
    };
    let at = |row: usize, column: usize| &bytes[(row * columns + column) * size..][..size];
    let (above, below) = (at(0, columns - 1), at(rows - 1, 0));
    let first_row = (1..columns).rev().take(LOOK_AT).all(|column| at(0, column) == above);
    let last_row = (0..columns).take(LOOK_AT).all(|column| at(rows - 1, column) == below);
    above != below && first_row && last_row && at(0, 0) == below
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, DType, Dim, Expr, ModelInfo};

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
