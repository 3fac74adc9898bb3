//! Fewer passes over memory: each form gives the numbers of the plain graph, and is taken where it should be.

use peft_onnx::ir::Transposed::{No, Yes};
use peft_onnx::ir::{Attr, Builder, DType, Dim, Expr, Graph, ModelInfo, fuse, simplify};
use peft_onnx::onnx::{self, WriteOptions};
use peft_onnx::ort::{Feed, HostTensor, Options, Runtime, Session, Settings};

/// What is computed of `x: [batch, seq, 72]`, `y` of the same shape, `a: [4, 72]` and `w: [72, 72]`.
type Write = for<'g> fn(&'g Builder, [Expr<'g>; 4]) -> Expr<'g>;

/// A graph; an operator, and how often it stands in the graph before and after.
struct Row {
    name: &'static str,
    write: Write,
    counts: &'static [(&'static str, usize, usize)],
}

const ROWS: &[Row] = &[
    Row {
        name: "a projection and an update of low rank: one matrix, which the second product adds to",
        write: |_, [x, _, a, w]| x.matmul(w) + (x.matmul(a.t()) * 1.5).matmul(a),
        counts: &[("Add", 1, 0), ("Mul", 1, 0), ("Gemm", 0, 2), ("MatMul", 3, 1)],
    },
    Row {
        name: "gradients of a shared input: views of products",
        write: |_, [x, y, a, w]| {
            let wide = x.rows().gemm(No, w, Yes).reshape_like(x);
            let short = y.rows().gemm(No, a, Yes) * 0.25;
            wide + short.gemm(No, a, No).reshape_like(x) + y
        },
        counts: &[("Add", 2, 1), ("Mul", 1, 0), ("Gemm", 3, 3)],
    },
    Row {
        name: "an update beside something else",
        write: |_, [x, y, a, _]| x.matmul(a.t()).matmul(a) + y.tanh(),
        counts: &[("Add", 1, 0), ("Gemm", 0, 1)],
    },
    Row {
        name: "a narrow product that two read stays",
        write: |_, [x, y, a, _]| {
            let update = x.matmul(a.t()).matmul(a);
            (update + y) * update
        },
        counts: &[("Add", 1, 1), ("Gemm", 0, 0)],
    },
    Row {
        name: "an update that is broadcast stays",
        write: |b, [x, y, a, _]| b.op("ReduceSum", &[x, b.ints(&[1])], &[]).matmul(a.t()).matmul(a) + y,
        counts: &[("Add", 1, 1), ("Gemm", 0, 0)],
    },
    Row {
        name: "the gradient of two halves",
        write: |b, [x, y, ..]| {
            let half = |of: Expr<'_>, from: i64| of.slice(&[from], &[from + 36], &[2]).id();
            let first = b.expr(half(x, 36)).pad_at(b.ints(&[0, 36]), &[2]);
            let second = b.expr(half(y, 0)).pad_at(b.ints(&[36, 0]), &[2]);
            second + first
        },
        counts: &[("Pad", 2, 0), ("Add", 1, 0), ("Concat", 0, 1)],
    },
    Row {
        name: "parts that overlap are added",
        write: |b, [x, y, ..]| {
            let part = |of: Expr<'_>| of.slice(&[0], &[69], &[2]).id();
            b.expr(part(x)).pad_at(b.ints(&[0, 3]), &[2]) + b.expr(part(y)).pad_at(b.ints(&[3, 0]), &[2])
        },
        counts: &[("Pad", 2, 2), ("Add", 1, 1), ("Concat", 0, 0)],
    },
    Row {
        name: "a mean's gradient, which is the same for all of a row",
        write: |_, [x, y, ..]| (2.0 * x.mean(&[-1]).expand_like(y)) * y,
        counts: &[("Expand", 1, 0), ("Mul", 2, 2)],
    },
    Row {
        name: "what is repeated on both sides stays repeated",
        write: |_, [x, y, ..]| x.mean(&[-1]).expand_like(y) * y.mean(&[1]).expand_like(x),
        counts: &[("Expand", 2, 1), ("Mul", 1, 1)],
    },
    Row {
        name: "the gradient of transposed keys",
        write: |_, [x, y, ..]| (x.t().matmul(y) * 0.5).t(),
        counts: &[("Transpose", 2, 1), ("MatMul", 1, 1), ("Mul", 1, 1)],
    },
    Row {
        name: "a product of what was not transposed stays",
        write: |_, [x, y, ..]| x.matmul(y.t()).t(),
        counts: &[("Transpose", 2, 2), ("MatMul", 1, 1)],
    },
];

fn graph(write: Write) -> Graph {
    let b = Builder::new(ModelInfo::dialect());
    let [batch, seq] = ["batch", "seq"].map(Dim::symbol);
    let long = [batch, seq, Dim::known(72)];
    let [x, y] = ["x", "y"].map(|name| b.input(name, DType::F32, &long));
    let [a, w] = [("a", 4), ("w", 72)].map(|(name, rows)| b.input(name, DType::F32, &[Dim::known(rows), Dim::known(72)]));
    b.output("out", write(&b, [x, y, a, w]));
    simplify(&b.finish().expect("a sound graph")).expect("a simpler one")
}

fn numbers(shape: &[usize], seed: usize) -> HostTensor {
    let count: usize = shape.iter().product();
    let number = |at: usize| (f32::from(u16::try_from((at * 7 + seed * 3 + 1) % 31).expect("small")) - 15.0) / 10.0;
    HostTensor::new(shape.to_vec(), (0..count).map(number).collect::<Vec<f32>>()).expect("as many as the shape has")
}

fn computed(graph: &Graph) -> Vec<f32> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("graph.onnx");
    onnx::write(graph, &path, &WriteOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let runtime = Runtime::start(&Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let mut session = Session::open(runtime, &path, &Settings::default()).unwrap_or_else(|error| panic!("{error}"));
    let fed = [("x", &[2, 3, 72][..]), ("y", &[2, 3, 72]), ("a", &[4, 72]), ("w", &[72, 72])];
    let fed: Vec<(&str, HostTensor)> = fed.iter().enumerate().map(|(seed, (name, shape))| (*name, numbers(shape, seed))).collect();
    let feeds: Vec<Feed<'_>> =
        fed.iter().filter(|(name, _)| session.input(name).is_some()).map(|(name, value)| Feed::host(name, value)).collect();
    session.run(&feeds, &["out"]).unwrap_or_else(|error| panic!("{error}"))[0].to_f32().expect("float32")
}

#[test]
fn each_form_gives_the_numbers_of_the_plain_graph_and_is_taken_where_it_should_be() {
    let mut wrong = vec![];
    for row in ROWS {
        let plain = graph(row.write);
        let fused = simplify(&fuse(&plain).expect("a fused graph")).expect("a simpler one");
        for &(op, before, after) in row.counts {
            let found = [&plain, &fused].map(|graph| graph.nodes().iter().filter(|node| &*node.op == op).count());
            if found != [before, after] {
                wrong.push(format!("{}: {op} stands {found:?} times", row.name));
            }
        }
        let (expected, found) = (computed(&plain), computed(&fused));
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs().max(1.0);
        if expected.len() != found.len() || !found.iter().zip(&expected).all(close) {
            wrong.push(format!("{}: {found:?}, expected {expected:?}", row.name));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_number_that_is_an_attribute_already_is_multiplied() {
    let plain = {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::known(3), Dim::known(4)]);
        let w = b.input("w", DType::F32, &[Dim::known(4), Dim::known(5)]);
        b.output("y", b.op("Gemm", &[x * 3.0, w], &[("alpha", Attr::Float(0.5))]));
        b.finish().expect("a sound graph")
    };
    let fused = fuse(&plain).expect("a fused graph");
    let nodes: Vec<_> = fused.nodes().iter().map(|node| (&*node.op, node.float("alpha", 1.0))).collect();
    assert_eq!(nodes, [("Gemm", 1.5)]);
}
