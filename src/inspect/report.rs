//! The parts of a report.

use serde::Serialize;

use super::sites::Sites;
use crate::error::Refusal;

/// What is known of a model.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The program that wrote it.
    pub producer: Option<String>,
    /// Its file, or what stands for it.
    pub file: String,
    /// The version of ONNX's own operators.
    pub opset: i64,
    /// Other sets of operators.
    pub domains: Vec<Domain>,
    /// The version of the file format.
    pub ir_version: i64,
    /// Nodes of the outermost graph.
    pub nodes: usize,
    /// Constants by their types, those with the most bytes first.
    pub constants: Vec<Constants>,
    /// What is fed.
    pub inputs: Vec<Port>,
    /// What comes out.
    pub outputs: Vec<Port>,
    /// What it is, if no transformer was recognised.
    pub kind: Option<String>,
    /// Operators of which neither types nor gradients are known.
    pub unknown_operators: Vec<String>,
    /// The task that the model speaks for.
    pub task: Option<&'static str>,
    /// Why.
    pub task_because: String,
    /// Layers with projections.
    pub layers: usize,
    /// The largest number of positions, where it is known.
    pub max_positions: Option<i64>,
    /// Linear projections.
    pub projections: Vec<Projection>,
    /// Attentions.
    pub attentions: Vec<Attention>,
    /// Tables of embeddings, each once.
    pub embeddings: Vec<Embedding>,
    /// What the logits come from.
    pub head: Option<Head>,
    /// The cache of keys and values.
    pub cache: Option<Cache>,
    /// How much methods would train.
    pub sites: Sites,
    /// Operators, the commonest first.
    pub operators: Vec<Operator>,
    /// Nodes between projections and logits that gradients cannot pass.
    pub no_gradient: Vec<NoGradient>,
    /// What was looked for in vain.
    pub misses: Vec<Miss>,
    /// Every value, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Known>>,
}

/// What is known of a value without running the graph.
#[derive(Debug, Serialize)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// ONNX's name of the element type.
    pub dtype: Option<&'static str>,
    /// Lengths of the axes; `?` for one of which nothing is known. None if even their number is unknown.
    pub shape: Option<Vec<String>>,
    /// The operator that makes it; none for inputs and constants.
    pub made_by: Option<String>,
}

/// A set of operators.
#[derive(Debug, Serialize)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: i64,
}

/// Constants of one type.
#[derive(Debug, Serialize)]
pub struct Constants {
    /// ONNX's name of the element type.
    pub dtype: &'static str,
    /// Tensors of it.
    pub tensors: usize,
    /// Their numbers.
    pub numbers: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An input or output.
#[derive(Debug, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// ONNX's name of the element type.
    pub dtype: &'static str,
    /// Lengths of the axes; `?` for one of which nothing is known.
    pub shape: Option<Vec<String>>,
    /// Whether it has a default.
    pub optional: bool,
}

/// A linear projection.
#[derive(Debug, Serialize)]
pub struct Projection {
    /// The module's path.
    pub module: String,
    /// Width of what goes in.
    pub in_features: i64,
    /// Width of what comes out.
    pub out_features: i64,
    /// The order of the weight's axes.
    pub layout: &'static str,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether it is GPT-2's `Conv1D`.
    pub conv1d: bool,
    /// Numbers of weight and bias.
    pub parameters: i64,
    /// The value with the weight.
    pub weight: String,
}

/// An attention.
#[derive(Debug, Serialize)]
pub struct Attention {
    /// The module's path.
    pub module: String,
    /// Heads of the queries.
    pub heads: Option<i64>,
    /// Heads of keys and values.
    pub kv_heads: Option<i64>,
    /// Width of a head.
    pub head_size: Option<i64>,
    /// What scores are multiplied with.
    pub scale: Option<f64>,
    /// Whether a position sees those before it alone.
    pub causal: bool,
    /// Whether keys are another model's.
    pub cross: bool,
    /// How masks are put on the scores.
    pub masks: Vec<&'static str>,
    /// The projection of the queries.
    pub q: Option<String>,
    /// That of the keys.
    pub k: Option<String>,
    /// That of the values.
    pub v: Option<String>,
    /// That of the output.
    pub o: Option<String>,
}

/// A table of embeddings.
#[derive(Debug, Serialize)]
pub struct Embedding {
    /// The module's path.
    pub module: String,
    /// Rows of the table.
    pub rows: i64,
    /// Their width.
    pub hidden: i64,
    /// Whether it is that of the tokens.
    pub tokens: bool,
}

/// What the logits come from.
#[derive(Debug, Serialize)]
pub struct Head {
    /// The output with the logits.
    pub logits: String,
    /// The module's path.
    pub module: Option<String>,
    /// Classes or tokens, where their number is known.
    pub classes: Option<i64>,
    /// Whether it shares the table of the tokens.
    pub tied: bool,
}

/// A cache of keys and values.
#[derive(Debug, Serialize)]
pub struct Cache {
    /// Layers with a cache.
    pub layers: usize,
    /// Its inputs.
    pub inputs: Vec<String>,
}

/// An operator.
#[derive(Debug, Serialize)]
pub struct Operator {
    /// Its name, with its domain.
    pub name: String,
    /// How often it occurs.
    pub count: usize,
    /// `yes`, `none needed` or `no`.
    pub gradient: &'static str,
    /// How many of them stand between adapters and logits and stop gradients.
    pub missing: usize,
}

/// A node that gradients cannot pass.
#[derive(Debug, Serialize)]
pub struct NoGradient {
    /// The node.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Why gradients do not pass.
    pub why: String,
}

impl From<Refusal> for NoGradient {
    fn from(Refusal { node, why }: Refusal) -> Self {
        let (node, operator) = node.map(|node| (node.name, node.op)).unwrap_or_default();
        Self { node, operator, why: why.into_owned() }
    }
}

/// What was looked for in vain.
#[derive(Debug, Serialize)]
pub struct Miss {
    /// Where the search ended.
    pub at: String,
    /// What was wanted there.
    pub wanted: String,
}
