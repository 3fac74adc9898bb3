//! What was found in a transformer.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ending::Probabilities;
use super::input_role::{MaskForm, Role};
use super::task::Guess;
use super::walk::Miss;
use crate::ir::ValueId;

/// What was recognised in a graph. Values are those of the graph that was read, and keep their ids in graphs written on top of it.
#[derive(Clone, Debug, Default)]
pub struct Anatomy {
    /// Every linear projection with a constant weight, in the order of execution.
    pub projections: Vec<Projection>,
    /// Every embedding table that is read by index.
    pub embeddings: Vec<Embedding>,
    /// Every attention, in the order of execution.
    pub attentions: Vec<Attention>,
    /// The token embedding's place in `embeddings`.
    pub token_embedding: Option<usize>,
    /// The prediction head.
    pub head: Option<Head>,
    /// Every constant that is a parameter of a module, by its Hugging Face name, in the order of the names.
    pub parameters: Vec<Parameter>,
    /// Key-value cache inputs and outputs, layer by layer.
    pub cache: Vec<CacheSlot>,
    /// Inputs by what they are for.
    pub inputs: Inputs,
    /// The largest number of positions, where a learned position table tells: the rows that can be read from position 0 on.
    pub max_positions: Option<i64>,
    /// Every place where a position is read, to look a row up or to rotate by an angle, in the order of execution.
    pub positions: Vec<PositionUse>,
    /// What the model was made for.
    pub task: Guess,
    /// What stands in front of the names of modules in the graph and is not the model's own, with its dot: `m.`; empty if nothing does.
    pub wrapper: String,
    /// What is missing in front of the scopes of nodes, by their first word, with its dot: modules whose own code was not run.
    pub skipped: BTreeMap<String, String>,
    /// What was looked for and not found.
    pub misses: Vec<Miss>,
}

impl Anatomy {
    /// Tokens that the model has an embedding of, where it has a table of them.
    #[must_use]
    pub fn vocabulary(&self) -> Option<i64> {
        Some(self.embeddings.get(self.token_embedding?)?.rows)
    }
}

/// What positions see of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Only what is before them.
    Back,
    /// What is behind them as well.
    BothWays,
    /// It cannot be told: no attention was recognised, or one has a mask of an unknown kind.
    Unknown,
}

impl Anatomy {
    /// What positions see of each other, as far as masks and caches tell.
    #[must_use]
    pub fn sight(&self) -> Sight {
        let own = || self.attentions.iter().filter(|attention| !attention.cross);
        if own().any(|attention| attention.causal) || !self.cache.is_empty() {
            Sight::Back
        } else if own().next().is_none() || own().any(|attention| attention.may_be_causal) {
            Sight::Unknown
        } else {
            Sight::BothWays
        }
    }
}

/// `y = x · W (+ bias)` with a constant `W`: a `Linear` or a `Conv1D` of the original model.
#[derive(Clone, Debug)]
pub struct Projection {
    /// The module's path as Hugging Face names it: `model.layers.3.self_attn.q_proj`.
    pub module: String,
    /// The input, `[.., in_features]`.
    pub x: ValueId,
    /// The product before any bias, `[.., out_features]`, with the same leading axes as `x`. For a `Gemm` with bias: the product with it.
    pub y: ValueId,
    /// What the module gives: the product with its bias added, if it has one.
    pub output: ValueId,
    /// The constant.
    pub weight: Weight,
    /// The constant that is added, `[out_features]`.
    pub bias: Option<ValueId>,
    /// Length of the last axis of `x`.
    pub in_features: i64,
    /// Length of the last axis of `y`.
    pub out_features: i64,
    /// The output features of the module that are this projection's, where the graph has the module in parts. `None` for all.
    pub rows: Option<Range<i64>>,
    /// Whether the original model stores this weight as `[in, out]` (GPT-2's `Conv1D`), which PEFT calls `fan_in_fan_out`.
    pub conv1d: bool,
    /// Whether the module may be one that PEFT calls linear: no exporter says that it is of another class, as those are that hold a bare
    /// parameter (a router, experts in one tensor).
    pub is_linear: bool,
}

/// A constant matrix where it is used.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The initializer.
    pub value: ValueId,
    /// How the initializer is stored.
    pub layout: Layout,
    /// The output features of the initializer (and of the bias) that are the projection's own, where it holds those of others too:
    /// queries, keys and values in one. `None` for all.
    pub part: Option<Range<i64>>,
}

/// The order of a stored weight's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[in_features, out_features]`: `MatMul`, `Gemm`, `Conv1D`.
    InOut,
    /// `[out_features, in_features]`: `Gemm` with `transB`, a `Transpose` before the `MatMul`, PyTorch's own order.
    OutIn,
}

/// Rows of a table, read by index.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// The module's path: `model.embed_tokens`.
    pub module: String,
    /// The table, `[rows, hidden]`.
    pub weight: ValueId,
    /// Whether it is stored as `[hidden, rows]`.
    pub transposed: bool,
    /// The indices.
    pub indices: ValueId,
    /// The rows, `[.., hidden]`.
    pub output: ValueId,
    /// What the module gives: the rows, multiplied by a number where the module itself does that.
    pub scaled: ValueId,
    /// The number that the rows are multiplied with next, whoever does it.
    pub scaling: Option<Scaling>,
    /// Number of rows.
    pub rows: i64,
    /// Length of a row.
    pub hidden: i64,
    /// Whether its rows are cosines or sines of angles: a table of rotations, which no module holds as a parameter.
    pub is_rotation: bool,
}

/// Rows of a table times a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// The product.
    pub product: ValueId,
    /// The number, if it is a constant that can be read.
    pub factor: Option<f64>,
    /// Whether names tell if the table's own module multiplies, or the model that has it.
    pub is_told: bool,
}

/// `softmax(q · kᵀ · scale + mask) · v`, head by head.
#[derive(Clone, Debug)]
pub struct Attention {
    /// The module's path, from its projections: `model.layers.3.self_attn`.
    pub module: String,
    /// Place of the projection that makes the queries among [`Anatomy::projections`]; the same for `q`, `k` and `v` where one
    /// projection makes all three. `None` where it was not found.
    pub q: Option<usize>,
    /// See `q`.
    pub k: Option<usize>,
    /// See `q`.
    pub v: Option<usize>,
    /// The projection after the heads are joined.
    pub o: Option<usize>,
    /// The keys as they are multiplied with the queries: transposed, scaled, repeated for grouped queries.
    pub keys: Heads,
    /// The values as they are multiplied with the probabilities: repeated for grouped queries.
    pub values: Heads,
    /// The keys after rotation and past, before scaling, transposition and repetition: what a cache holds.
    pub key: Heads,
    /// The values after past, before repetition: what a cache holds.
    pub value: Heads,
    /// Scores before the softmax, unless the attention is one operator.
    pub scores: Option<ValueId>,
    /// What hides keys, in the order of application.
    pub masks: Vec<Mask>,
    /// The values, weighted: `[batch, heads, seq, head]`, before the heads are joined (one operator may join them itself).
    pub output: ValueId,
    /// Whether a position cannot see later ones.
    pub causal: bool,
    /// Whether a mask is of a kind that cannot be told: it may be one that hides later positions.
    pub may_be_causal: bool,
    /// Whether keys come from other hidden states than queries: a decoder that looks at its encoder.
    pub cross: bool,
    /// Number of query heads.
    pub heads: Option<i64>,
    /// Number of key and value heads.
    pub kv_heads: Option<i64>,
    /// Length of a head.
    pub head_size: Option<i64>,
    /// What the product of queries and keys is multiplied with, wherever that happens.
    pub scale: Option<f64>,
    /// What the keys are multiplied with between `key` and `keys`; a part of `scale`.
    pub key_scale: Option<f64>,
}

/// Queries, keys or values, head by head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heads {
    /// The tensor.
    pub value: ValueId,
    /// What its axes are, in order.
    pub axes: Vec<Axis>,
}

impl Heads {
    /// The place of an axis.
    #[must_use]
    pub fn axis(&self, wanted: Axis) -> Option<usize> {
        self.axes.iter().position(|&axis| axis == wanted)
    }
}

/// What an axis of a tensor of heads is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Examples.
    Batch,
    /// Heads of one example.
    Heads,
    /// Heads of all examples, one example after the other.
    BatchHeads,
    /// Positions.
    Seq,
    /// Numbers of one head.
    Size,
    /// Numbers of all heads of a position, one head after the other.
    HeadsSize,
}

/// An input of a node that is a position, int64 or int32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionUse {
    /// An output of the node.
    pub output: ValueId,
    /// Which of the node's inputs.
    pub input: usize,
}

/// Something that hides keys from queries. Its last axis is that of the keys, or has length 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask {
    /// The mask.
    pub value: ValueId,
    /// How it is applied to the scores.
    pub kind: Masking,
    /// The scores that it has been applied to; none inside one operator, which has batch and heads on axes of their own.
    pub masked: Option<ValueId>,
}

/// How a mask is applied to scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masking {
    /// Added: 0 where a key is seen, very small where it is not.
    Added,
    /// Subtracted: 0 where a key is seen, very large where it is not.
    Subtracted,
    /// Scores stay where it is true.
    KeptWhere,
    /// Scores are replaced where it is true.
    MaskedWhere,
}

/// What turns hidden states into predictions.
#[derive(Clone, Debug)]
pub struct Head {
    /// The logits: an output of the graph, or a value inside it where the graph gives only what it makes of them.
    pub logits: ValueId,
    /// The output that they are, or that is made of them.
    pub output: ValueId,
    /// What the graph makes of the logits.
    pub ending: Ending,
    /// Place of the last projection among [`Anatomy::projections`].
    pub projection: Option<usize>,
    /// Place of the projection that the last one reads and nothing else: a head of two layers.
    pub before: Option<usize>,
    /// Whether the projection's weight is the token embedding's table.
    pub tied: bool,
    /// Vocabulary size or number of labels.
    pub classes: Option<i64>,
}

/// What a graph makes of the last projection's numbers before it gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing: they are scores of classes.
    Scores,
    /// Probabilities.
    Probabilities(Probabilities),
    /// A representation: the node that ends it is an activation or a normalisation, as inside a network.
    Vector(String),
}

/// A constant of a module.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The name PyTorch would give it: `model.layers.3.input_layernorm.weight`.
    pub name: String,
    /// The initializer.
    pub value: ValueId,
    /// Whether the graph stores it with its two axes swapped, compared with PyTorch.
    pub transposed: bool,
    /// Whether it is stored as floats; integers that stand for floats are not trained.
    pub floats: bool,
    /// Whether it has one axis, but for axes of one number: norms and biases are vectors, products and tables are not.
    pub is_vector: bool,
    /// The elements of the initializer that are the parameter, where it holds others too: biases of queries, keys and values in one.
    /// `None` for all.
    pub part: Option<Range<i64>>,
}

/// One pair of cache inputs and outputs.
#[derive(Clone, Debug)]
pub struct CacheSlot {
    /// The layer, from 0.
    pub layer: usize,
    /// Key or value.
    pub part: CachePart,
    /// The input with the past.
    pub past: ValueId,
    /// The output with the present, if there is one.
    pub present: Option<ValueId>,
}

/// Which half of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachePart {
    /// Keys.
    Key,
    /// Values.
    Value,
}

/// The graph's data inputs by what they are for.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Token ids, `[batch, seq]`; pixels `[batch, channel, height, width]` for vision models.
    pub main: Option<ValueId>,
    /// Where there is a token.
    pub attention_mask: Option<ValueId>,
    /// How the mask says so.
    pub mask_form: MaskForm,
    /// Positions.
    pub position_ids: Option<ValueId>,
    /// Segments.
    pub token_type_ids: Option<ValueId>,
    /// The decoder's token ids.
    pub decoder_input_ids: Option<ValueId>,
    /// Every data input with what it is for, in the graph's order.
    pub roles: Vec<(ValueId, Role)>,
}
