//! The rows: the forms of every fused operator.

use peft_onnx::ir::{Attr, DType};

use In::{Bytes, Ids, No, Number, W, Whole, X};

/// Symbolic lengths: their names and what they stand for.
pub(super) const LENGTHS: &[(&str, usize)] = &[("batch", 2), ("seq", 5), ("keys", 7), ("past", 3)];
const BATCH: i64 = -1;
const SEQ: i64 = -2;
const KEYS: i64 = -3;
const PAST: i64 = -4;

/// An input of a row. Negative lengths are symbolic.
#[derive(Clone, Debug)]
pub(super) enum In {
    /// Random floats that are fed.
    X(Vec<i64>),
    /// Random floats that the graph holds.
    W(Vec<usize>),
    /// Random bytes that the graph holds.
    Bytes(DType, Vec<usize>),
    /// Whole numbers that are fed.
    Ids(DType, Vec<i64>, Vec<i32>),
    /// Whole numbers that the graph holds.
    Whole(DType, Vec<usize>, Vec<i32>),
    /// One float that the graph holds.
    Number(f64),
    /// Nothing.
    No,
}
pub(super) struct Row {
    pub(super) op: &'static str,
    pub(super) what: &'static str,
    pub(super) inputs: Vec<In>,
    pub(super) attrs: Vec<(&'static str, Attr)>,
    /// The outputs that are compared: 1 for the first, 0 for one that is left out.
    pub(super) outputs: Vec<usize>,
    pub(super) tolerance: f32,
}

/// Sums of a few dozen float32 numbers of size 1, in another order.
const FLOATS: f32 = 2e-6;
/// ONNX Runtime's kernel computes `erf` and `tanh` by other approximations than its fused one.
const APPROXIMATE: f32 = 2e-5;
/// Activations are rounded to 8 bits inside the kernel (its accuracy level is not ours to choose below 4 bits of weights).
const ROUNDED: f32 = 2e-5;

fn row(op: &'static str, what: &'static str, inputs: Vec<In>, attrs: Vec<(&'static str, Attr)>) -> Row {
    Row { op, what, inputs, attrs, outputs: vec![1], tolerance: FLOATS }
}

impl Row {
    fn outputs(self, outputs: &[usize]) -> Self {
        Self { outputs: outputs.to_vec(), ..self }
    }
    fn within(self, tolerance: f32) -> Self {
        Self { tolerance, ..self }
    }
}

fn int(value: i64) -> Attr {
    Attr::Int(value)
}

pub(super) fn rows() -> Vec<Row> {
    [
        norms(),
        activations(),
        rotations(),
        packed_attentions(),
        attentions(),
        grouped_attentions(),
        products(),
        experts(),
        quantized_experts(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn norms() -> Vec<Row> {
    let x = || X(vec![BATCH, SEQ, 8]);
    let embeddings =
        |mask: In| vec![Ids(DType::I32, vec![BATCH, SEQ], ids(6)), No, W(vec![6, 8]), W(vec![5, 8]), No, W(vec![8]), W(vec![8]), mask];
    vec![
        row("SkipLayerNormalization", "with bias and sum", vec![x(), x(), W(vec![8]), W(vec![8]), W(vec![8])], vec![])
            .outputs(&[1, 0, 0, 1]),
        row("SkipLayerNormalization", "epsilon", vec![x(), x(), W(vec![8])], vec![("epsilon", Attr::Float(0.1))]),
        row("SkipSimplifiedLayerNormalization", "with sum", vec![x(), x(), W(vec![8])], vec![("epsilon", Attr::Float(1e-5))])
            .outputs(&[1, 0, 0, 1]),
        row("SkipSimplifiedLayerNormalization", "with bias", vec![x(), x(), W(vec![8]), W(vec![8])], vec![]),
        row("EmbedLayerNormalization", "no segments", embeddings(No), vec![]).outputs(&[1, 1]),
        row("EmbedLayerNormalization", "lengths and sum", embeddings(Ids(DType::I32, vec![BATCH, SEQ], lengths_mask(5))), vec![])
            .outputs(&[1, 1, 1]),
        row(
            "EmbedLayerNormalization",
            "segments",
            vec![
                Ids(DType::I32, vec![BATCH, SEQ], ids(6)),
                Ids(DType::I32, vec![BATCH, SEQ], ids(2)),
                W(vec![6, 8]),
                W(vec![5, 8]),
                W(vec![2, 8]),
                W(vec![8]),
                W(vec![8]),
            ],
            vec![],
        )
        .outputs(&[1, 1]),
    ]
}

/// Indices below `limit` for every place of a batch.
fn ids(limit: i32) -> Vec<i32> {
    (0..10).map(|i| (i * 7 + 3) % limit).collect()
}

/// A mask whose second row is padded by two at its end.
fn lengths_mask(keys: i32) -> Vec<i32> {
    (0..2 * keys).map(|i| i32::from(i < keys || i < 2 * keys - 2)).collect()
}

fn activations() -> Vec<Row> {
    let x = || X(vec![BATCH, SEQ, 8]);
    let half = || vec![("alpha", Attr::Float(0.5))];
    vec![
        row("Gelu", "", vec![x()], vec![]).within(APPROXIMATE),
        row("BiasGelu", "", vec![x(), W(vec![8])], vec![]).within(APPROXIMATE),
        row("FastGelu", "no bias", vec![x()], vec![]).within(APPROXIMATE),
        row("FastGelu", "bias", vec![x(), W(vec![8])], vec![]).within(APPROXIMATE),
        row("QuickGelu", "", vec![x()], vec![]).within(APPROXIMATE),
        row("QuickGelu", "alpha", vec![x()], half()).within(APPROXIMATE),
        row("FusedMatMul", "alpha and transB", vec![x(), W(vec![6, 8])], [half(), vec![("transB", int(1))]].concat()),
        row("FusedMatMul", "transA", vec![X(vec![BATCH, 8, SEQ]), X(vec![BATCH, 8, 3])], vec![("transA", int(1))]),
        row(
            "FusedGemm",
            "tanh",
            vec![X(vec![BATCH, 8]), W(vec![6, 8]), W(vec![6])],
            vec![("activation", "Tanh".into()), ("transB", int(1))],
        )
        .within(APPROXIMATE),
        row(
            "FusedGemm",
            "leaky relu",
            vec![X(vec![BATCH, 8]), W(vec![8, 6]), W(vec![6])],
            vec![("activation", "LeakyRelu".into()), ("activation_alpha", Attr::Float(0.3)), ("alpha", Attr::Float(0.5))],
        ),
    ]
}

fn rotations() -> Vec<Row> {
    let tables = |half: usize| [W(vec![9, half]), W(vec![9, half])];
    let positions = || Ids(DType::I64, vec![BATCH, SEQ], ids(9));
    let with = |x: In, positions: In, half: usize| [vec![x, positions], tables(half).to_vec()].concat();
    let flat = || X(vec![BATCH, SEQ, 24]);
    vec![
        row("RotaryEmbedding", "heads joined", with(flat(), positions(), 4), vec![]),
        row("RotaryEmbedding", "first position", with(flat(), Whole(DType::I64, vec![1], vec![3]), 4), vec![]),
        row("RotaryEmbedding", "heads apart", with(X(vec![BATCH, 3, SEQ, 8]), positions(), 4), vec![]),
        row("RotaryEmbedding", "interleaved", with(flat(), positions(), 4), vec![("interleaved", int(1))]),
        row("RotaryEmbedding", "partial", with(flat(), positions(), 2), vec![("rotary_embedding_dim", int(4)), ("num_heads", int(3))]),
        row(
            "RotaryEmbedding",
            "partial, interleaved, apart",
            with(X(vec![BATCH, 3, SEQ, 8]), positions(), 2),
            vec![("rotary_embedding_dim", int(4)), ("num_heads", int(3)), ("interleaved", int(1))],
        ),
    ]
}

fn packed_attentions() -> Vec<Row> {
    let held = || vec![X(vec![BATCH, SEQ, 6]), W(vec![6, 24]), W(vec![24])];
    let and = |more: Vec<In>| [held(), more].concat();
    let heads = || vec![("num_heads", int(2))];
    let mask = |shape: Vec<i64>, values: Vec<i32>| Ids(DType::I32, shape, values);
    let all_pairs = (0..50).map(|i| i32::from(i % 7 != 3)).collect::<Vec<i32>>();
    vec![
        row("Attention", "plain", held(), heads()),
        row("Attention", "causal", held(), [heads(), vec![("unidirectional", int(1))]].concat()),
        row("Attention", "lengths", and(vec![mask(vec![BATCH], vec![5, 3])]), heads()),
        row(
            "Attention",
            "mask of keys",
            and(vec![mask(vec![BATCH, SEQ], lengths_mask(5))]),
            [heads(), vec![("mask_filter_value", Attr::Float(-3.4e38))]].concat(),
        ),
        row(
            "Attention",
            "mask of pairs",
            and(vec![mask(vec![BATCH, SEQ, SEQ], all_pairs)]),
            [heads(), vec![("scale", Attr::Float(0.3))]].concat(),
        ),
        row("Attention", "bias of scores", and(vec![No, No, X(vec![BATCH, 2, SEQ, SEQ])]), heads()),
        row("Attention", "past", and(vec![No, X(vec![2, BATCH, 2, PAST, 4])]), [heads(), vec![("unidirectional", int(1))]].concat())
            .outputs(&[1, 1]),
        row(
            "Attention",
            "values of another size",
            vec![X(vec![BATCH, SEQ, 6]), W(vec![6, 20]), W(vec![20])],
            [heads(), vec![("qkv_hidden_sizes", vec![8_i64, 8, 4].into())]].concat(),
        ),
        row(
            "QAttention",
            "",
            vec![
                Bytes(DType::U8, vec![2, 5, 6]),
                Bytes(DType::U8, vec![6, 24]),
                W(vec![24]),
                Number(0.01),
                Number(0.01),
                mask(vec![2], vec![5, 3]),
                Whole(DType::U8, vec![], vec![120]),
                Whole(DType::U8, vec![], vec![125]),
            ],
            heads(),
        )
        .within(ROUNDED),
    ]
}

fn attentions() -> Vec<Row> {
    let whole = || vec![X(vec![BATCH, SEQ, 8]), X(vec![BATCH, SEQ, 8]), X(vec![BATCH, SEQ, 8])];
    let heads = || vec![("num_heads", int(2))];
    let and = |more: Vec<In>| [whole(), more].concat();
    let past = || X(vec![BATCH, 2, PAST, 4]);
    vec![
        row("MultiHeadAttention", "plain", whole(), heads()),
        row("MultiHeadAttention", "bias", and(vec![W(vec![24])]), heads()),
        row("MultiHeadAttention", "causal", whole(), [heads(), vec![("unidirectional", int(1))]].concat()),
        row("MultiHeadAttention", "cross", vec![X(vec![BATCH, SEQ, 8]), X(vec![BATCH, KEYS, 8]), X(vec![BATCH, KEYS, 8])], heads()),
        row(
            "MultiHeadAttention",
            "cross, split",
            vec![X(vec![BATCH, SEQ, 8]), X(vec![BATCH, 2, KEYS, 4]), X(vec![BATCH, 2, KEYS, 4])],
            heads(),
        ),
        // Keys and values packed into one input have no kernel on the processor.
        row("MultiHeadAttention", "mask of keys", and(vec![No, Ids(DType::I32, vec![BATCH, SEQ], lengths_mask(5))]), heads()),
        row(
            "MultiHeadAttention",
            "bias of scores",
            and(vec![No, No, X(vec![1, 2, SEQ, SEQ])]),
            [heads(), vec![("scale", Attr::Float(0.3))]].concat(),
        ),
        row("MultiHeadAttention", "past", and(vec![No, No, No, past(), past()]), heads()).outputs(&[1, 1, 1]),
    ]
}

fn grouped_attentions() -> Vec<Row> {
    let heads = || vec![("num_heads", int(4)), ("kv_num_heads", int(2))];
    let none = || Ids(DType::F32, vec![BATCH, 2, 0, 16], vec![]);
    let lengths = || [Whole(DType::I32, vec![2], vec![4, 4]), Whole(DType::I32, vec![], vec![5])];
    let apart =
        || [vec![X(vec![BATCH, SEQ, 64]), X(vec![BATCH, SEQ, 32]), X(vec![BATCH, SEQ, 32]), none(), none()], lengths().to_vec()].concat();
    let no_wide = || Ids(DType::F32, vec![BATCH, 2, 0, 32], vec![]);
    let wide = || {
        let new = vec![X(vec![BATCH, SEQ, 128]), X(vec![BATCH, SEQ, 64]), X(vec![BATCH, SEQ, 64]), no_wide(), no_wide()];
        [new, lengths().to_vec()].concat()
    };
    let packed = || [vec![X(vec![BATCH, SEQ, 128]), No, No, none(), none()], lengths().to_vec()].concat();
    let rotary = || vec![W(vec![9, 8]), W(vec![9, 8])];
    let one_with_past = || {
        let past = || X(vec![BATCH, 2, PAST, 16]);
        vec![
            X(vec![BATCH, 1, 64]),
            X(vec![BATCH, 1, 32]),
            X(vec![BATCH, 1, 32]),
            past(),
            past(),
            Whole(DType::I32, vec![2], vec![3, 3]),
            Whole(DType::I32, vec![], vec![4]),
        ]
    };
    let extended = |attrs: Vec<(&'static str, Attr)>| [heads(), attrs].concat();
    let turned = || ("do_rotary", int(1));
    let op = "GroupQueryAttention";
    vec![
        row(op, "plain", apart(), heads()).outputs(&[1, 1, 1]),
        row(op, "packed", packed(), heads()).outputs(&[1, 1, 1]),
        row(op, "rotary", [apart(), rotary()].concat(), extended(vec![turned()])).outputs(&[1, 1, 1]),
        row(op, "packed, rotary, interleaved", [packed(), rotary()].concat(), extended(vec![turned(), ("rotary_interleaved", int(1))]))
            .outputs(&[1, 1, 1]),
        row(op, "partial rotary", [wide(), rotary()].concat(), extended(vec![turned()])),
        row(op, "window", apart(), extended(vec![("local_window_size", int(3))])),
        row(op, "soft cap and scale", apart(), extended(vec![("softcap", Attr::Float(2.0)), ("scale", Attr::Float(0.7))])),
        row(op, "smooth softmax", apart(), extended(vec![("smooth_softmax", int(1))])),
        row(op, "sinks", [apart(), vec![No, No, No, No, W(vec![4])]].concat(), heads()),
        row(op, "bias of scores", [apart(), vec![No, No, No, X(vec![1, 4, SEQ, SEQ])]].concat(), heads()),
        row(op, "past", one_with_past(), heads()).outputs(&[1, 1, 1]),
        row(op, "past, rotary, window", [one_with_past(), rotary()].concat(), extended(vec![turned(), ("local_window_size", int(2))]))
            .outputs(&[1, 1, 1]),
    ]
}

fn products() -> Vec<Row> {
    let blocks = |n: usize, k: i64, bits: i64, block: i64| {
        let attrs = vec![
            ("N", int(i64::try_from(n).expect("a small number"))),
            ("K", int(k)),
            ("bits", int(bits)),
            ("block_size", int(block)),
            ("accuracy_level", int(1)),
        ];
        let (count, bytes) = (usize::try_from((k + block - 1) / block), usize::try_from(block * bits / 8));
        (attrs, count.expect("positive"), bytes.expect("positive"))
    };
    let with = |n: usize, k: i64, bits: i64, what: &'static str, more: &dyn Fn(usize) -> Vec<In>| {
        let (attrs, count, bytes) = blocks(n, k, bits, 16);
        let inputs = [vec![X(vec![BATCH, SEQ, k]), Bytes(DType::U8, vec![n, count, bytes]), W(vec![n * count])], more(count)].concat();
        row("MatMulNBits", what, inputs, attrs).within(ROUNDED)
    };
    let bnb4 = |n: i64, k: i64, block: i64, kind: i64, what: &'static str| {
        let size = |n: i64| usize::try_from(n).expect("positive");
        let attrs = vec![("N", int(n)), ("K", int(k)), ("block_size", int(block)), ("quant_type", int(kind))];
        let inputs = vec![X(vec![BATCH, SEQ, k]), Bytes(DType::U8, vec![size(n * k / 2)]), W(vec![size((n * k + block - 1) / block)])];
        row("MatMulBnb4", what, inputs, attrs).within(ROUNDED)
    };
    vec![
        with(6, 32, 4, "4 bits", &|_| vec![]),
        with(6, 32, 8, "8 bits", &|_| vec![]),
        with(6, 32, 4, "zero points", &|blocks| vec![Bytes(DType::U8, vec![6 * blocks.div_ceil(2)])]),
        with(6, 48, 4, "an odd number of blocks", &|blocks| vec![Bytes(DType::U8, vec![6 * blocks.div_ceil(2)])]),
        with(6, 32, 8, "8 bits and zero points", &|blocks| vec![Bytes(DType::U8, vec![6 * blocks])]),
        with(6, 40, 4, "half a block", &|_| vec![]),
        with(6, 32, 4, "zero points that are floats", &|blocks| vec![W(vec![6 * blocks])]),
        with(6, 32, 4, "groups", &|_| vec![No, Whole(DType::I32, vec![32], (0..32).map(|i| i % 2).collect())]),
        with(6, 32, 4, "bias", &|_| vec![No, No, W(vec![6])]),
        bnb4(6, 32, 16, 1, "NF4"),
        bnb4(6, 32, 16, 0, "FP4"),
        bnb4(5, 24, 32, 1, "NF4, a block over two rows"),
        row(
            "DynamicQuantizeMatMul",
            "",
            vec![X(vec![BATCH, SEQ, 8]), Bytes(DType::I8, vec![8, 6]), W(vec![]), Whole(DType::I8, vec![], vec![2]), W(vec![6])],
            vec![],
        )
        .within(ROUNDED),
        row(
            "MatMulIntegerToFloat",
            "",
            vec![
                Bytes(DType::U8, vec![2, 5, 8]),
                Bytes(DType::U8, vec![8, 6]),
                W(vec![]),
                W(vec![6]),
                Whole(DType::U8, vec![], vec![100]),
                No,
                W(vec![6]),
            ],
            vec![],
        )
        .within(ROUNDED),
    ]
}

fn experts() -> Vec<Row> {
    // Ten tokens of 8 numbers, four experts of 16.
    let tokens = || vec![X(vec![BATCH, SEQ, 8]), X(vec![10, 4])];
    let layers = |wide: usize| [tokens(), vec![W(vec![4, wide, 8]), W(vec![4, wide]), W(vec![4, 8, 16]), W(vec![4, 8])]].concat();
    let with =
        |activation: &str, more: Vec<(&'static str, Attr)>| [vec![("activation_type", activation.into()), ("k", int(2))], more].concat();
    let limited =
        || vec![("activation_alpha", Attr::Float(1.702)), ("activation_beta", Attr::Float(1.0)), ("swiglu_limit", Attr::Float(0.5))];
    let normal = || ("normalize_routing_weights", int(1));
    let op = "MoE";
    vec![
        row(op, "one expert", layers(16), vec![]),
        row(op, "relu, normalized", layers(16), with("relu", vec![normal()])),
        row(op, "gelu", layers(16), with("gelu", vec![])).within(APPROXIMATE),
        row(op, "silu, without biases", [tokens(), vec![W(vec![4, 16, 8]), No, W(vec![4, 8, 16])]].concat(), with("silu", vec![])),
        row(op, "identity", layers(16), with("identity", vec![])),
        row(op, "swiglu, pairs", layers(32), with("swiglu", vec![("swiglu_fusion", int(1)), normal()])),
        row(op, "swiglu, pairs within a limit", layers(32), with("swiglu", [limited(), vec![("swiglu_fusion", int(1))]].concat())),
    ]
}

fn quantized_experts() -> Vec<Row> {
    // Ten tokens of 32 numbers, three experts of 64.
    let tokens = || vec![X(vec![BATCH, SEQ, 32]), X(vec![10, 3])];
    let layers = |bits: usize, blocks: Option<(usize, usize)>, zeros: bool, wide: usize| {
        let scales = |rows: usize, blocks: Option<usize>| W([vec![3, rows], blocks.into_iter().collect()].concat());
        let points = |rows: usize, blocks: Option<usize>| match (zeros, blocks) {
            (false, _) => No,
            (true, None) => Bytes(DType::U8, vec![3, rows * bits / 8]),
            (true, Some(blocks)) => Bytes(DType::U8, vec![3, rows, (blocks * bits).div_ceil(8)]),
        };
        let (first, second) = (blocks.map(|of| of.0), blocks.map(|of| of.1));
        let held = vec![
            Bytes(DType::U8, vec![3, wide, 32 * bits / 8]),
            scales(wide, first),
            W(vec![3, wide]),
            Bytes(DType::U8, vec![3, 32, 64 * bits / 8]),
            scales(32, second),
            W(vec![3, 32]),
        ];
        [tokens(), held, vec![No, No, No, points(wide, first), points(32, second)]].concat()
    };
    let with = |bits: i64, more: Vec<(&'static str, Attr)>| {
        [
            vec![
                ("expert_weight_bits", int(bits)),
                ("k", int(2)),
                ("activation_type", "silu".into()),
                ("normalize_routing_weights", int(1)),
            ],
            more,
        ]
        .concat()
    };
    let pairs = || vec![("activation_type", "swiglu".into()), ("swiglu_fusion", int(1)), ("block_size", int(16))];
    let op = "QMoE";
    vec![
        row(op, "4 bits", layers(4, None, false, 64), with(4, vec![])).within(ROUNDED),
        row(op, "4 bits, blocks", layers(4, Some((2, 4)), false, 64), with(4, vec![("block_size", int(16))])).within(ROUNDED),
        row(op, "4 bits, blocks and zero points", layers(4, Some((2, 4)), true, 64), with(4, vec![("block_size", int(16))]))
            .within(ROUNDED),
        row(op, "4 bits, blocks, swiglu in pairs", layers(4, Some((2, 4)), false, 128), with(4, pairs())).within(ROUNDED),
        row(op, "8 bits", layers(8, None, false, 64), with(8, vec![])).within(ROUNDED),
        row(op, "8 bits and zero points", layers(8, None, true, 64), with(8, vec![])).within(ROUNDED),
    ]
}
