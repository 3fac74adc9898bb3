//! Operators of floats that gradient is not passed through, with the reason.
//!
//! An operator of ONNX that makes floats from floats has either a rule or a row here; `docs/OPERATORS.md` is made from both tables, and
//! `tests/it/gradcheck` fails where an operator has neither, or both.

/// Values that are lists of tensors, which rules cannot add up.
const NO_TENSOR: &str = "its values are not tensors; export without sequences and optionals";
/// Graphs that run a number of times which only the running graph knows.
const CONTROL: &str = "a body that runs again and again would have to be run backwards; only an If whose condition is known is resolved";
/// Recurrent layers.
const RECURRENT: &str = "it is a loop over time, whose inner states no output holds; adapt the layers behind it";
/// Detection.
const REGIONS: &str = "it reads an image at computed places, as detectors do; adapt the layers behind it";
/// Losses.
const LOSS: &str = "training starts from the logits, with a loss of its own; export the model without its loss";
/// Audio.
const AUDIO: &str = "it stands before a model, where nothing is trained";
/// Vision models before transformers.
const CONVOLUTIONAL: &str = "it is found in convolutional networks only";
/// Experts chosen inside one operator.
const EXPERTS: &str = "it is decomposed with every expert run on every token, unless it is a form that only one kernel knows";
/// Integers.
const INTEGERS: &str = "integers have no slope; products of matrices are decomposed into products of floats, this is not";

#[rustfmt::skip]
static REFUSALS: &[(&str, &str)] = &[
    ("AffineGrid", REGIONS),
    ("Col2Im", CONVOLUTIONAL),
    ("ConcatFromSequence", NO_TENSOR),
    ("ConvInteger", INTEGERS),
    ("DeformConv", REGIONS),
    ("Det", "no transformer takes determinants of what it computes"),
    ("GRU", RECURRENT),
    ("GridSample", REGIONS),
    ("If", "its condition is known only when the graph runs"),
    ("LRN", CONVOLUTIONAL),
    ("LSTM", RECURRENT),
    ("Loop", CONTROL),
    ("LpPool", CONVOLUTIONAL),
    ("MatMulInteger", "what rounds its operands and scales its result was not found around it"),
    ("MaxRoiPool", REGIONS),
    ("MaxUnpool", CONVOLUTIONAL),
    ("MelWeightMatrix", AUDIO),
    ("NegativeLogLikelihoodLoss", LOSS),
    ("Optional", NO_TENSOR),
    ("OptionalGetElement", NO_TENSOR),
    ("QLinearConv", INTEGERS),
    ("QLinearMatMul", "it is decomposed into a product of floats, unless its scales or zero points are missing"),
    ("RNN", RECURRENT),
    ("RoiAlign", REGIONS),
    ("STFT", AUDIO),
    ("Scan", CONTROL),
    ("SequenceAt", NO_TENSOR),
    ("SequenceConstruct", NO_TENSOR),
    ("SequenceErase", NO_TENSOR),
    ("SequenceInsert", NO_TENSOR),
    ("SequenceMap", NO_TENSOR),
    ("SoftmaxCrossEntropyLoss", LOSS),
    ("SplitToSequence", NO_TENSOR),
    ("TensorScatter", "it fills a cache of fixed length, as while generating; export without a cache, or with one that grows"),
    ("com.microsoft:MoE", EXPERTS),
    ("com.microsoft:QMoE", EXPERTS),
    ("Unique", "which elements are equal is no smooth question; nothing but their sorting would pass"),
];

/// All operators that are refused, with the reason, by name.
pub fn refusals() -> impl Iterator<Item = (&'static str, &'static str)> {
    REFUSALS.iter().copied()
}

/// Why gradient does not pass an operator that has no rule.
pub(super) fn reason(op: &str) -> &'static str {
    REFUSALS.iter().find(|(name, _)| *name == op).map_or("there is no rule for it", |(_, why)| why)
}
