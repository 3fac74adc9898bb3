//! Finds the parts of a transformer in a graph: what a method can attach to, under the names that Hugging Face gives them.
//!
//! Everything is found from structure and from the names that an exporter left; nothing from a list of known models. What is not
//! found is not an error but a [`Miss`], which says where the search stopped and what it wanted.

mod embedding;
mod linear;
mod names;
mod parameters;
mod projections;
mod walk;

use crate::ir::{Graph, ValueId};

/// Finds the parts of a transformer. Never fails: what is not found is missing from the answer, and said in [`Anatomy::misses`].
///
/// Takes time linear in the number of nodes; looks at weights only to compare a few rows of the head with the token embedding.
#[must_use]
pub fn read(graph: &Graph) -> Anatomy {
    let (linears, mut misses) = linear::find(graph);
    let tables = embedding::find(graph);
    let named = projections::name(graph, linears, &tables);
    misses.extend(named.misses);
    let parameters = parameters::find(graph, &named.projections, &named.embeddings, &named.namer);
    Anatomy { projections: named.projections, embeddings: named.embeddings, parameters, misses, ..Anatomy::default() }
}

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
    /// The largest number of positions, where a learned position table tells.
    pub max_positions: Option<i64>,
    /// What was looked for and not found.
    pub misses: Vec<Miss>,
}

/// Why a search stopped: shown by `inspect --explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// Node or value.
    pub at: String,
    /// What would have been recognised there.
    pub wanted: String,
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
    /// Whether the original model stores this weight as `[in, out]` (GPT-2's `Conv1D`), which PEFT calls `fan_in_fan_out`.
    pub conv1d: bool,
}

/// A constant matrix where it is used.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The initializer.
    pub value: ValueId,
    /// How the initializer is stored.
    pub layout: Layout,
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
    /// The indices.
    pub indices: ValueId,
    /// The rows, `[.., hidden]`.
    pub output: ValueId,
    /// Number of rows.
    pub rows: i64,
    /// Length of a row.
    pub hidden: i64,
}

/// `softmax(q · kᵀ · scale + mask) · v`, head by head.
#[derive(Clone, Debug)]
pub struct Attention {
    /// The module's path, from its projections: `model.layers.3.self_attn`.
    pub module: String,
    /// Places of the projections among [`Anatomy::projections`]; `None` where they were not found or are packed into one.
    pub q: Option<usize>,
    /// See `q`.
    pub k: Option<usize>,
    /// See `q`.
    pub v: Option<usize>,
    /// The projection after the heads are joined.
    pub o: Option<usize>,
    /// The value that is multiplied with the scores as keys, `[batch, heads, keys, head]`, after rotation and before any repetition for grouped queries.
    pub key: ValueId,
    /// The values, `[batch, heads, keys, head]`, before any repetition for grouped queries.
    pub value: ValueId,
    /// Scores before the softmax.
    pub scores: ValueId,
    /// What is added to the scores, if anything is.
    pub mask: Option<ValueId>,
    /// Number of query heads.
    pub heads: Option<i64>,
    /// Number of key and value heads.
    pub kv_heads: Option<i64>,
    /// Length of a head.
    pub head_size: Option<i64>,
    /// What the scores are multiplied with.
    pub scale: Option<f64>,
}

/// What turns hidden states into predictions.
#[derive(Clone, Debug)]
pub struct Head {
    /// The logits: an output of the graph.
    pub logits: ValueId,
    /// Place of the last projection among [`Anatomy::projections`].
    pub projection: Option<usize>,
    /// Whether the projection's weight is the token embedding's table.
    pub tied: bool,
    /// Vocabulary size or number of labels.
    pub classes: Option<i64>,
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
    /// 1 where there is a token.
    pub attention_mask: Option<ValueId>,
    /// Positions.
    pub position_ids: Option<ValueId>,
    /// Segments.
    pub token_type_ids: Option<ValueId>,
    /// The decoder's token ids.
    pub decoder_input_ids: Option<ValueId>,
}
