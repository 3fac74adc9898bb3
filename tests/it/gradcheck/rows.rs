//! The rows: every operator with a rule, and the forms of it that take ways of their own.

use super::row::Input::{self, Computed, Constant, Held, LeftOut};
use super::row::{Domain, Row, any, fixed, kinked, list, numbers, positive, row, table, truth, whole, within};

/// Lengths that are known only when the graph runs.
const BATCH: i64 = -1;
const SEQ: i64 = -2;
/// 1 in one run, the batch in the other.
const ONE_OR_BATCH: i64 = -3;

/// All rows.
pub(crate) fn rows() -> Vec<Row> {
    [
        arithmetic(),
        functions(),
        activations(),
        matrices(),
        windows(),
        signals(),
        reductions(),
        norms(),
        layout(),
        indices(),
        attention(),
        broadcast(),
        symbolic(),
    ]
    .concat()
}

fn arithmetic() -> Vec<Row> {
    vec![
        row("Identity", [any(&[2, 3])]),
        row("Cast", [any(&[2, 3])]).int("to", 1).single(),
        row("CastLike", [any(&[2, 3]), fixed(&[1])]).single(),
        row("Neg", [any(&[2, 3])]),
        row("Mod", [any(&[2, 3]), Constant(0.7)]).int("fmod", 1),
        row("Mod", [positive(&[2, 3]), numbers(&[3], Domain::Within(0.21, 0.22))]).int("fmod", 1),
        row("Pow", [positive(&[2, 3]), positive(&[3])]),
        row("Pow", [any(&[2, 3]), Constant(2.0)]),
        row("Pow", [any(&[2, 3]), Constant(3.0)]),
        row("Pow", [any(&[2, 3]), Constant(1.0)]),
        row("Pow", [positive(&[2, 3]), Constant(0.5)]),
        row("Pow", [positive(&[2, 3]), Constant(-0.5)]),
        row("Pow", [positive(&[2, 3]), Constant(-1.0)]),
        row("Pow", [positive(&[2, 3]), Constant(1.7)]),
        row("Pow", [any(&[2, 3]), list(&[2, 3, 4])]),
        row("Sum", [any(&[2, 3]), any(&[3]), any(&[2, 1])]),
        row("Mean", [any(&[2, 3]), any(&[3]), any(&[2, 1])]).single(),
        row("Max", [any(&[2, 3]), any(&[3]), any(&[2, 1])]),
        row("Min", [any(&[2, 3]), any(&[3]), any(&[2, 1])]),
        row("Where", [truth(&[2, 3], &[1, 0, 1, 0, 0, 1]), any(&[2, 3]), any(&[3])]),
        row("Where", [truth(&[3], &[1, 0, 1]), any(&[2, 1]), any(&[1])]),
    ]
}

fn functions() -> Vec<Row> {
    vec![
        row("Abs", [kinked()]),
        row("Sqrt", [positive(&[2, 3])]),
        row("Reciprocal", [kinked()]),
        row("Exp", [any(&[2, 3])]),
        row("Log", [positive(&[2, 3])]),
        row("Erf", [any(&[2, 3])]).single(),
        row("Sin", [any(&[2, 3])]),
        row("Cos", [any(&[2, 3])]),
        row("Tan", [within(-1.0, 1.0)]).single(),
        row("Asin", [within(-0.8, 0.8)]).single(),
        row("Acos", [within(-0.8, 0.8)]).single(),
        row("Atan", [any(&[2, 3])]).single(),
        row("Sinh", [any(&[2, 3])]).single(),
        row("Cosh", [any(&[2, 3])]).single(),
        row("Tanh", [any(&[2, 3])]),
        row("Asinh", [any(&[2, 3])]).single(),
        row("Acosh", [within(1.3, 3.0)]).single(),
        row("Atanh", [within(-0.8, 0.8)]).single(),
    ]
}

fn activations() -> Vec<Row> {
    vec![
        row("Sigmoid", [any(&[2, 3])]),
        row("HardSigmoid", [within(-4.0, 4.0)]).single(),
        row("HardSigmoid", [kinked()]).attr("alpha", 0.5_f32).attr("beta", 0.4_f32).single(),
        row("Relu", [kinked()]),
        row("LeakyRelu", [kinked()]).attr("alpha", 0.3_f32).single(),
        row("ThresholdedRelu", [kinked()]).attr("alpha", 0.2_f32).single(),
        row("PRelu", [kinked(), any(&[3, 1])]),
        row("Elu", [kinked()]).attr("alpha", 0.7_f32).single(),
        row("Selu", [kinked()]).single(),
        row("Celu", [kinked()]).attr("alpha", 0.7_f32).single(),
        row("Softplus", [any(&[2, 3])]).single(),
        row("Softsign", [kinked()]).single(),
        row("Mish", [any(&[2, 3])]).single(),
        row("Swish", [any(&[2, 3])]).attr("alpha", 1.3_f32).opset(24),
        row("HardSwish", [within(-2.5, 2.5)]).single(),
        row("HardSwish", [within(-9.0, -3.5)]).single(),
        row("HardSwish", [within(3.5, 9.0)]).single(),
        row("Gelu", [any(&[2, 3])]).opset(20).single(),
        row("Gelu", [any(&[2, 3])]).attr("approximate", "tanh").opset(20).single(),
        row("Shrink", [kinked()]).attr("lambd", 0.2_f32).single(),
        row("Clip", [any(&[2, 8]), Constant(-0.5), Constant(0.7)]),
        row("Clip", [any(&[2, 8]), numbers(&[], Domain::Within(-0.6, -0.5)), numbers(&[], Domain::Within(0.5, 0.6))]),
        row("Clip", [any(&[2, 8]), LeftOut, Constant(0.7)]),
        row("Dropout", [any(&[2, 3])]),
        // A ratio of 0 drops nothing, so that each run gives the same.
        row("Dropout", [any(&[2, 3]), Constant(0.0), truth(&[], &[1])]).outputs(2, &[0]),
    ]
}

fn matrices() -> Vec<Row> {
    let mut rows = vec![
        row("MatMul", [any(&[3, 4]), any(&[4, 5])]),
        row("MatMul", [any(&[2, 3, 4]), any(&[4, 5])]),
        row("MatMul", [any(&[3, 4]), any(&[2, 4, 5])]),
        row("MatMul", [any(&[2, 3, 4]), any(&[2, 4, 5])]),
        row("MatMul", [any(&[2, 1, 3, 4]), any(&[3, 4, 5])]),
        row("MatMul", [any(&[4]), any(&[4, 5])]),
        row("MatMul", [any(&[4]), any(&[2, 4, 5])]),
        row("MatMul", [any(&[3, 4]), any(&[4])]),
        row("MatMul", [any(&[2, 3, 4]), any(&[4])]),
        row("MatMul", [any(&[4]), any(&[4])]),
        row("Gemm", [any(&[3, 4]), any(&[4, 5])]).attr("alpha", 0.7_f32).attr("beta", 1.3_f32),
        row("Einsum", [any(&[2, 3, 4]), any(&[2, 5, 4])]).attr("equation", "bqd,bkd->bqk"),
        row("Einsum", [any(&[2, 3, 4]), any(&[4, 5])]).attr("equation", "...i,ij->...j"),
        row("Einsum", [any(&[2, 3]), any(&[3, 4]), any(&[4, 5])]).attr("equation", "ij,jk,kl->il"),
        row("Einsum", [any(&[2, 3])]).attr("equation", "ij->ji"),
        row("Einsum", [any(&[2, 3]), any(&[3, 4])]).attr("equation", "ij,jk"),
        row("Einsum", [any(&[2, 3, 4])]).attr("equation", "ijk->j"),
        row("Einsum", [any(&[2, 3, 4]), any(&[4])]).attr("equation", "i...k,k->..."),
        row("Einsum", [any(&[2, 3]), any(&[4, 3])]).attr("equation", "ij,kj->i"),
    ];
    for (trans_a, trans_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let a: &[i64] = if trans_a == 1 { &[4, 3] } else { &[3, 4] };
        let b: &[i64] = if trans_b == 1 { &[5, 4] } else { &[4, 5] };
        let c: &[i64] = [&[5][..], &[3, 1], &[3, 5], &[]][usize::try_from(2 * trans_a + trans_b).expect("small")];
        rows.push(row("Gemm", [any(a), any(b), any(c)]).int("transA", trans_a).int("transB", trans_b));
    }
    rows
}

fn windows() -> Vec<Row> {
    vec![
        row("Conv", [any(&[2, 3, 7]), any(&[4, 3, 3]), any(&[4])]).ints("pads", &[1, 0]).single(),
        row("Conv", [any(&[1, 2, 7, 6]), any(&[3, 2, 3, 2])]).ints("strides", &[2, 3]).ints("pads", &[1, 0, 0, 1]).single(),
        row("Conv", [any(&[1, 2, 9]), any(&[3, 2, 3])]).ints("dilations", &[2]).ints("strides", &[2]).single(),
        row("Conv", [any(&[1, 2, 4, 4]), any(&[3, 2, 2, 2])]).ints("strides", &[2, 2]).single(),
        row("ConvTranspose", [any(&[2, 3, 4]), any(&[3, 2, 3]), any(&[2])]).ints("strides", &[2]).ints("pads", &[1, 0]).single(),
        row("AveragePool", [any(&[2, 3, 6, 6])]).ints("kernel_shape", &[2, 3]).ints("strides", &[2, 2]).single(),
        row("AveragePool", [any(&[2, 3, 6])]).ints("kernel_shape", &[3]).ints("pads", &[1, 1]).int("count_include_pad", 1).single(),
        row("AveragePool", [any(&[2, 3, 6, 5])])
            .ints("kernel_shape", &[3, 3])
            .ints("pads", &[1, 1, 1, 0])
            .ints("strides", &[2, 1])
            .single(),
        row("AveragePool", [any(&[1, 2, 5])]).ints("kernel_shape", &[2]).attr("auto_pad", "SAME_LOWER").single(),
        row("Conv", [any(&[1, 2, SEQ]), any(&[3, 2, 2])]).ints("strides", &[2]).single(),
        row("Conv", [any(&[1, 2, SEQ]), any(&[3, 2, 3])]).ints("strides", &[3]).ints("pads", &[1, 2]).single(),
        row("Conv", [any(&[1, 2, SEQ, 7]), any(&[3, 2, 2, 2])])
            .ints("strides", &[3, 2])
            .ints("dilations", &[1, 2])
            .ints("pads", &[0, 1, 1, 0])
            .single(),
        row("Conv", [any(&[1, 2, 5, 6]), any(&[3, 2, 3, 2])]).ints("strides", &[2, 2]).attr("auto_pad", "SAME_UPPER").single(),
        row("GlobalAveragePool", [any(&[2, 3, 4, 5])]).single(),
        row("GlobalLpPool", [any(&[2, 3, 4, 5])]).single(),
        row("GlobalLpPool", [any(&[2, 3, 4])]).int("p", 3).single(),
        row("GlobalMaxPool", [any(&[2, 3, 2, 2])]).single(),
        row("MaxPool", [any(&[2, 3, 6, 5])]).ints("kernel_shape", &[3, 2]).ints("strides", &[2, 1]),
        row("MaxPool", [any(&[2, 3, 6])]).ints("kernel_shape", &[2]).ints("strides", &[2]).outputs(2, &[0]),
    ]
}

/// Resampling and spectra.
fn signals() -> Vec<Row> {
    let to = |sizes: &[i64]| [any(&[1, 2, 3, 4]), LeftOut, LeftOut, list(sizes)];
    let by = |scales: &[f32]| [any(&[1, 2, 3, 4]), LeftOut, Held(scales.to_vec())];
    let resize = |inputs: Vec<Input>, mode: &'static str| row("Resize", inputs).attr("mode", mode).single();
    let dft = |shape: &[i64]| row("DFT", [any(shape)]);
    vec![
        resize(to(&[1, 2, 5, 7]).to_vec(), "nearest"),
        resize(to(&[1, 2, 5, 7]).to_vec(), "linear"),
        resize(to(&[1, 2, 2, 3]).to_vec(), "linear").attr("coordinate_transformation_mode", "align_corners"),
        resize(to(&[1, 2, 2, 3]).to_vec(), "linear").int("antialias", 1),
        resize(to(&[1, 2, 6, 5]).to_vec(), "cubic").attr("cubic_coeff_a", -0.5_f32),
        resize(by(&[1.0, 1.0, 2.0, 1.5]).to_vec(), "linear").attr("coordinate_transformation_mode", "asymmetric"),
        resize(by(&[1.0, 1.0, 1.0, 2.0]).to_vec(), "nearest").attr("nearest_mode", "floor"),
        resize(vec![any(&[1, 2, 3, 4]), LeftOut, LeftOut, list(&[5, 2])], "linear").ints("axes", &[3, 2]),
        resize(vec![any(&[1, 4, 3, 2]), LeftOut, Held(vec![1.0, 2.0, 1.0, 1.0])], "nearest").opset(19),
        dft(&[2, 5, 3, 1]),
        dft(&[2, 5, 3, 2]).int("axis", 2),
        dft(&[2, 4, 2]).int("inverse", 1),
        dft(&[2, 6, 1]).int("onesided", 1),
        dft(&[2, 5, 1]).int("onesided", 1).opset(20),
        row("DFT", [any(&[3, 4, 2]), LeftOut, whole(0)]).opset(20),
    ]
}

fn reductions() -> Vec<Row> {
    let mut rows =
        vec![row("CumSum", [any(&[2, 4]), whole(1)]), row("CumSum", [any(&[2, 4]), whole(0)]).int("exclusive", 1).int("reverse", 1)];
    let ops = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"];
    let names = [
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSum",
        "ReduceLogSumExp",
    ];
    for (kind, op) in ops.into_iter().zip(names) {
        let x = || if matches!(kind, "Prod" | "LogSum") { within(0.3, 2.0) } else { kinked() };
        let kernel = |row: Row| if matches!(kind, "L1" | "L2" | "LogSum") { row.single() } else { row };
        rows.push(kernel(row(op, [x(), list(&[1])])));
        rows.push(kernel(row(op, [x(), list(&[-1, 0])]).int("keepdims", 0)));
        rows.push(kernel(row(op, [x()]).int("keepdims", 0)));
        rows.push(kernel(row(op, [x()])));
    }
    rows.push(row("ReduceSum", [any(&[2, 3]), list(&[])]).int("noop_with_empty_axes", 1));
    rows
}

fn norms() -> Vec<Row> {
    let x = || any(&[2, 3, 4]);
    vec![
        row("Softmax", [x()]),
        row("Softmax", [x()]).int("axis", 1),
        row("LogSoftmax", [x()]),
        row("LogSoftmax", [x()]).int("axis", 0),
        row("LayerNormalization", [x(), any(&[4]), any(&[4])]),
        row("LayerNormalization", [x(), any(&[3, 4])]).int("axis", 1).attr("epsilon", 1e-2_f32),
        row("RMSNormalization", [x(), any(&[4])]).attr("epsilon", 1e-2_f32).opset(23),
        row("RMSNormalization", [x(), any(&[3, 4])]).int("axis", -2).opset(23),
        row("SimplifiedLayerNormalization", [x(), any(&[4])]).attr("epsilon", 1e-2_f32),
        row("BatchNormalization", [x(), any(&[3]), any(&[3]), any(&[3]), positive(&[3])]),
        row("InstanceNormalization", [any(&[2, 3, 4, 2]), any(&[3]), any(&[3])]).single(),
        row("GroupNormalization", [any(&[2, 4, 3]), any(&[4]), any(&[4])]).int("num_groups", 2).opset(21).single(),
        row("LpNormalization", [x()]),
        row("LpNormalization", [kinked()]).int("p", 1).int("axis", 1),
        row("MeanVarianceNormalization", [any(&[2, 3, 4, 2])]).single(),
        row("MeanVarianceNormalization", [x()]).ints("axes", &[2]).single(),
    ]
}

fn layout() -> Vec<Row> {
    vec![
        row("Reshape", [any(&[2, 3, 4]), list(&[0, -1])]),
        row("Flatten", [any(&[2, 3, 4])]).int("axis", 2),
        row("Squeeze", [any(&[2, 1, 4, 1]), list(&[1, -1])]),
        row("Squeeze", [any(&[2, 1, 4, 1])]),
        row("Unsqueeze", [any(&[2, 4]), list(&[0, 2])]),
        row("Transpose", [any(&[2, 3, 4])]),
        row("Transpose", [any(&[2, 3, 4])]).ints("perm", &[1, 2, 0]),
        row("Expand", [any(&[3, 1]), list(&[2, 1, 4])]),
        row("Tile", [any(&[2, 3]), list(&[2, 3])]),
        row("Concat", [any(&[2, 3]), any(&[2, 1]), any(&[2, 2])]).int("axis", -1),
        row("Split", [any(&[2, 6]), list(&[1, 2, 3])]).int("axis", 1).outputs(3, &[0, 2]),
        row("Split", [any(&[6, 2])]).int("num_outputs", 2).outputs(2, &[0, 1]),
        row("Slice", [any(&[4, 6]), list(&[1, -3]), list(&[3, i64::MAX]), list(&[0, 1])]),
        row("Slice", [any(&[4, 6]), list(&[1, 1]), list(&[3, -1])]),
        row("Slice", [any(&[4, 6]), list(&[-1, 0]), list(&[i64::MIN, 6]), list(&[0, 1]), list(&[-1, 2])]),
        row("Pad", [any(&[2, 3]), list(&[1, 0, 2, 3])]),
        row("Pad", [any(&[2, 3]), list(&[1, -1]), LeftOut, list(&[1])]),
        row("Pad", [any(&[3, 4]), list(&[2, 1, 0, 2])]).attr("mode", "reflect"),
        row("Pad", [any(&[3, 4]), list(&[2, 1]), LeftOut, list(&[1])]).attr("mode", "edge"),
        row("Pad", [any(&[3, 4]), list(&[1, 2, 2, 0])]).attr("mode", "wrap").opset(19),
        row("CenterCropPad", [any(&[4, 5]), list(&[7, 2])]),
        row("CenterCropPad", [any(&[4, 5]), list(&[3])]).ints("axes", &[-2]),
        row("Trilu", [any(&[2, 4, 4])]),
        row("Trilu", [any(&[4, 5]), whole(1)]).int("upper", 0),
        row("DepthToSpace", [any(&[1, 8, 2, 3])]).int("blocksize", 2),
        row("DepthToSpace", [any(&[2, 8, 2, 3])]).int("blocksize", 2).attr("mode", "CRD"),
        row("SpaceToDepth", [any(&[1, 2, 4, 6])]).int("blocksize", 2),
        row("ReverseSequence", [any(&[4, 3]), list(&[4, 2, 1])]),
    ]
}

fn indices() -> Vec<Row> {
    vec![
        row("Gather", [any(&[4, 3]), table(&[2, 2], &[1, -1, 1, 0])]),
        row("Gather", [any(&[4, 3]), whole(-2)]),
        row("Gather", [any(&[2, 4, 3]), whole(1)]).int("axis", 1),
        row("Gather", [any(&[2, 4, 3]), table(&[2, 2], &[1, -1, 1, 0])]).int("axis", 1),
        row("Gather", [any(&[2, 4, 3]), list(&[2, 2, 0])]).int("axis", -1),
        row("GatherElements", [any(&[2, 3]), table(&[2, 2], &[0, 2, -1, 2])]).int("axis", 1),
        row("GatherND", [any(&[2, 3, 4]), table(&[3, 2], &[0, 1, 1, -1, 0, 1])]),
        row("GatherND", [any(&[2, 3, 4]), table(&[2, 1], &[2, 0])]).int("batch_dims", 1),
        row("Compress", [any(&[3, 4]), truth(&[3], &[1, 0, 1])]).int("axis", 0),
        row("Compress", [any(&[3, 4]), truth(&[6], &[1, 0, 1, 0, 0, 1])]),
        row("ScatterElements", [any(&[2, 3]), table(&[2, 2], &[0, 2, 1, 0]), any(&[2, 2])]).int("axis", 1),
        row("ScatterElements", [any(&[2, 3]), table(&[2, 2], &[0, 0, 1, 0]), any(&[2, 2])]).int("axis", 1).attr("reduction", "add"),
        row("ScatterND", [any(&[4, 3]), table(&[2, 1], &[2, 0]), any(&[2, 3])]),
        row("ScatterND", [any(&[4, 3]), table(&[2, 1], &[2, 2]), any(&[2, 3])]).attr("reduction", "add"),
        row("TopK", [any(&[3, 5]), list(&[2])]).outputs(2, &[0]),
        row("TopK", [any(&[3, 5]), list(&[2])]).int("axis", 0).int("largest", 0).outputs(2, &[0]),
    ]
}

fn attention() -> Vec<Row> {
    let q = || any(&[2, 4, 3, 8]);
    let kv = |heads| [any(&[2, heads, 3, 8]), any(&[2, heads, 3, 6])];
    let mask = || truth(&[3, 3], &[1, 0, 0, 1, 1, 0, 0, 0, 0]);
    let causal = |row: Row| row.int("is_causal", 1).opset(23).single();
    let plain = |row: Row| row.opset(23).single();
    let [k, v] = kv(4);
    let [k2, v2] = kv(2);
    let past = || any(&[2, 2, 2, 8]);
    let past_v = || any(&[2, 2, 2, 6]);
    vec![
        plain(row("Attention", [q(), k.clone(), v.clone()])),
        plain(row("Attention", [q(), k.clone(), v.clone(), mask()])),
        plain(row("Attention", [q(), k.clone(), v.clone(), any(&[2, 1, 3, 3])])).attr("scale", 0.5_f32),
        plain(row("Attention", [q(), k, v])).attr("softcap", 0.8_f32),
        causal(row("Attention", [q(), k2.clone(), v2.clone()])),
        causal(row("Attention", [q(), k2.clone(), v2.clone(), mask()])).opset(24),
        causal(row("Attention", [q(), k2, v2, LeftOut, past(), past_v()])).outputs(3, &[0, 1, 2]),
        causal(row("Attention", [any(&[2, 3, 32]), any(&[2, 3, 16]), any(&[2, 3, 12])])).int("q_num_heads", 4).int("kv_num_heads", 2),
        plain(row("RotaryEmbedding", [any(&[2, 2, 3, 8]), fixed(&[2, 3, 4]), fixed(&[2, 3, 4])])),
        plain(row("RotaryEmbedding", [any(&[2, 3, 16]), fixed(&[5, 4]), fixed(&[5, 4]), table(&[2, 3], &[0, 1, 2, 2, 3, 4])]))
            .int("num_heads", 2)
            .int("interleaved", 1),
        plain(row("RotaryEmbedding", [any(&[2, 2, 3, 8]), fixed(&[2, 3, 2]), fixed(&[2, 3, 2])])).int("rotary_embedding_dim", 4),
    ]
}

/// The ways in which two shapes meet.
const PAIRS: [[&[i64]; 2]; 8] = [
    [&[2, 3, 4], &[2, 3, 4]],
    [&[2, 3, 4], &[4]],
    [&[4], &[2, 3, 4]],
    [&[2, 3, 4], &[2, 1, 4]],
    [&[2, 3, 1], &[2, 3, 4]],
    [&[2, 1, 4], &[1, 3, 1]],
    [&[1, 3, 4], &[2, 1, 1, 4]],
    [&[2, 3, 4], &[]],
];

fn broadcast() -> Vec<Row> {
    let pairs = |op| PAIRS.map(|[a, b]| row(op, [any(a), numbers(b, Domain::AwayFromZero)])).to_vec();
    ["Add", "Sub", "Mul", "Div"].map(pairs).concat()
}

/// Lengths that are known only when the graph runs.
fn symbolic() -> Vec<Row> {
    let x = || any(&[BATCH, SEQ, 4]);
    vec![
        row("Mul", [x(), any(&[ONE_OR_BATCH, 1, 4])]),
        row("Mul", [x(), any(&[SEQ, 1])]),
        row("MatMul", [x(), any(&[4, 5])]),
        row("MatMul", [any(&[BATCH, 2, SEQ, 4]), any(&[BATCH, 2, 4, SEQ])]),
        row("MatMul", [x(), any(&[4])]),
        row("Softmax", [any(&[BATCH, 2, SEQ, SEQ])]),
        row("LayerNormalization", [x(), any(&[4]), any(&[4])]),
        row("ReduceMean", [x(), list(&[1])]).int("keepdims", 0),
        row("ReduceSum", [x()]).int("keepdims", 0),
        row("ReduceMax", [x(), list(&[1])]),
        row("Reshape", [x(), list(&[0, 0, 2, 2])]),
        row("Reshape", [any(&[BATCH, SEQ, 2, 2]), list(&[0, 0, -1])]),
        row("Transpose", [any(&[BATCH, SEQ, 2, 2])]).ints("perm", &[0, 2, 1, 3]),
        row("Unsqueeze", [any(&[BATCH, SEQ]), list(&[1, 2])]),
        row("Expand", [any(&[BATCH, 1]), Computed(0)]),
        row("Tile", [any(&[BATCH, SEQ]), list(&[1, 2])]),
        row("Concat", [x(), any(&[BATCH, 2, 4]), any(&[BATCH, SEQ, 4])]).int("axis", 1),
        row("Slice", [x(), list(&[-1]), list(&[i64::MAX]), list(&[1])]),
        row("Slice", [x(), list(&[1, 2]), list(&[i64::MAX, 4]), list(&[1, 2])]),
        row("Slice", [x(), list(&[0]), list(&[-1]), list(&[1])]),
        row("Slice", [any(&[BATCH, SEQ]), list(&[0, 0]), Computed(0)]),
        row("Gather", [x(), whole(-1)]).int("axis", 1),
        row("Gather", [x(), whole(0)]).int("axis", 1),
        row("Gather", [x(), list(&[1, 1])]).int("axis", 1),
        row("GatherND", [x(), table(&[2, 2], &[0, 1, 1, 2])]),
        row("Attention", [any(&[BATCH, 4, SEQ, 8]), any(&[BATCH, 2, SEQ, 8]), any(&[BATCH, 2, SEQ, 8])])
            .int("is_causal", 1)
            .opset(23)
            .single(),
        row("RMSNormalization", [x(), any(&[4])]).opset(23),
    ]
}
