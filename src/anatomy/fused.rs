//! Attentions that are one operator.
//!
//! Inputs and attributes are those of ONNX's `Attention` (opset 23) and of ONNX Runtime's operator pages (`com.microsoft`).

use super::walk::{NodeRef, ValueRef};
use super::{Attention, Axis, Mask, Masking};

/// What an operator calls its parts.
struct Naming {
    op: &'static str,
    /// Inputs with keys and values, if they are not in the first input together with the queries.
    keys: usize,
    values: usize,
    /// The input that is added to the scores.
    mask: Option<usize>,
    heads: &'static str,
    kv_heads: &'static str,
    /// The attribute that says that the attention is causal; none if it always is.
    causal: Option<&'static str>,
    /// Whether the operator holds the projections too.
    projects: bool,
}

const NAMINGS: &[Naming] = &[
    Naming {
        op: "Attention",
        keys: 1,
        values: 2,
        mask: Some(3),
        heads: "q_num_heads",
        kv_heads: "kv_num_heads",
        causal: Some("is_causal"),
        projects: false,
    },
    Naming {
        op: "com.microsoft:MultiHeadAttention",
        keys: 1,
        values: 2,
        mask: Some(5),
        heads: "num_heads",
        kv_heads: "num_heads",
        causal: Some("unidirectional"),
        projects: false,
    },
    Naming {
        op: "com.microsoft:GroupQueryAttention",
        keys: 1,
        values: 2,
        mask: None,
        heads: "num_heads",
        kv_heads: "kv_num_heads",
        causal: None,
        projects: false,
    },
    Naming {
        op: "com.microsoft:Attention",
        keys: 0,
        values: 0,
        mask: Some(5),
        heads: "num_heads",
        kv_heads: "num_heads",
        causal: Some("unidirectional"),
        projects: true,
    },
];

/// One such operator in a graph.
pub(super) struct Fused<'g> {
    pub(super) node: NodeRef<'g>,
    pub(super) query: ValueRef<'g>,
    pub(super) keys: ValueRef<'g>,
    pub(super) values: ValueRef<'g>,
    pub(super) causal: bool,
    /// Given as an attribute.
    pub(super) scale: Option<f64>,
    /// Whether the operator holds the projections too.
    pub(super) projects: bool,
    form: &'static Naming,
}

/// The node as an attention, if it is one.
pub(super) fn find(node: NodeRef<'_>) -> Option<Fused<'_>> {
    let form = NAMINGS.iter().find(|form| form.op == node.op())?;
    let query = node.input(0).ok()?;
    Some(Fused {
        node,
        query,
        keys: node.input(form.keys).unwrap_or(query),
        values: node.input(form.values).unwrap_or(query),
        causal: form.causal.is_none_or(|name| node.node().int(name, 0) != 0),
        scale: Some(f64::from(node.node().float("scale", 0.0))).filter(|&scale| scale > 0.0),
        projects: form.projects,
        form,
    })
}

/// The axes of an operand: heads apart, or side by side in the last axis.
pub(super) fn axes(value: ValueRef<'_>) -> Vec<Axis> {
    match value.fact().rank() {
        Some(3) => vec![Axis::Batch, Axis::Seq, Axis::HeadsSize],
        _ => vec![Axis::Batch, Axis::Heads, Axis::Seq, Axis::Size],
    }
}

impl Fused<'_> {
    pub(super) fn masks(&self) -> Vec<Mask> {
        let mask = self.form.mask.and_then(|input| self.node.input(input).ok());
        let kind = |mask: ValueRef<'_>| if mask.fact().dtype == Some(crate::ir::DType::Bool) { Masking::KeptWhere } else { Masking::Added };
        mask.map(|mask| Mask { value: mask.id(), kind: kind(mask), masked: None }).into_iter().collect()
    }

    /// Fills in what attributes say and shapes do not.
    pub(super) fn complete(&self, attention: &mut Attention) {
        let attribute = |name: &str| Some(self.node.node().int(name, 0)).filter(|&n| n > 0);
        attention.heads = attribute(self.form.heads).or(attention.heads);
        attention.kv_heads = attribute(self.form.kv_heads).or(attention.kv_heads);
        if attention.head_size.is_none() {
            // What comes out has all query heads side by side.
            let joined = self.node.output(0).ok().and_then(|output| output.length(output.fact().rank()?.checked_sub(1)?));
            attention.head_size =
                joined.zip(attention.heads).filter(|(joined, heads)| joined % heads == 0).map(|(joined, heads)| joined / heads);
        }
        let default = || attention.head_size.and_then(|size| i32::try_from(size).ok()).map(|size| f64::from(size).sqrt().recip());
        attention.scale = attention.scale.or_else(default);
    }
}
