//! What is known of a model, as data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use indexmap::IndexMap;
use serde::Serialize;

use super::kind;
use super::sites::Sites;
use crate::anatomy::{self, Anatomy, Layout, Masking};
use crate::ir::{DType, Dim, Graph, ValueId};
use crate::model::{Beside, Model, declared};
use crate::{grad, onnx};

/// What is known of a model.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The program that wrote it.
    pub producer: Option<String>,
    pub file: String,
    pub opset: i64,
    pub domains: Vec<Domain>,
    pub ir_version: i64,
    pub nodes: usize,
    pub constants: Vec<Constants>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// What it is, if no transformer was recognised.
    pub kind: Option<String>,
    pub unknown_operators: Vec<String>,
    pub task: Option<&'static str>,
    pub task_because: String,
    pub layers: usize,
    pub max_positions: Option<i64>,
    pub projections: Vec<Projection>,
    pub attentions: Vec<Attention>,
    pub embeddings: Vec<Embedding>,
    pub head: Option<Head>,
    pub cache: Option<Cache>,
    pub sites: Sites,
    pub operators: Vec<Operator>,
    pub no_gradient: Vec<NoGradient>,
    pub misses: Vec<Miss>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Known>>,
}

/// What is known of a value without running the graph.
#[derive(Debug, Serialize)]
pub(super) struct Known {
    pub name: String,
    pub dtype: Option<&'static str>,
    /// Lengths of the axes; `?` for one of which nothing is known. None if even their number is unknown.
    pub shape: Option<Vec<String>>,
    /// The operator that makes it; none for inputs and constants.
    pub made_by: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Domain {
    pub name: String,
    pub version: i64,
}

/// Constants of one type.
#[derive(Debug, Serialize)]
pub(super) struct Constants {
    pub dtype: &'static str,
    pub tensors: usize,
    pub numbers: u64,
    pub bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Port {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Option<Vec<String>>,
    pub optional: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Projection {
    pub module: String,
    pub in_features: i64,
    pub out_features: i64,
    pub layout: &'static str,
    pub bias: bool,
    pub conv1d: bool,
    pub parameters: i64,
    pub weight: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Attention {
    pub module: String,
    pub heads: Option<i64>,
    pub kv_heads: Option<i64>,
    pub head_size: Option<i64>,
    pub scale: Option<f64>,
    pub causal: bool,
    pub cross: bool,
    pub masks: Vec<&'static str>,
    pub q: Option<String>,
    pub k: Option<String>,
    pub v: Option<String>,
    pub o: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Embedding {
    pub module: String,
    pub rows: i64,
    pub hidden: i64,
    pub tokens: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Head {
    pub logits: String,
    pub module: Option<String>,
    pub classes: Option<i64>,
    pub tied: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Cache {
    pub layers: usize,
    pub inputs: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Operator {
    pub name: String,
    pub count: usize,
    /// `yes`, `none needed` or `no`.
    pub gradient: &'static str,
    /// How many of them stand between adapters and logits and stop gradients.
    pub missing: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct NoGradient {
    pub node: String,
    pub operator: String,
    pub why: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Miss {
    pub at: String,
    pub wanted: String,
}

impl Report {
    /// Looks at a model. Whatever is not recognised is missing from the answer and named in `misses`.
    pub(super) fn of(file: &Path, raw: &Graph) -> Self {
        let declared = declared::of_model(&Beside::near(file)).unwrap_or_default();
        let mut sites = Sites::default();
        let (graph, anatomy, not_raised) = match Model::of_file(raw, file) {
            Ok(Model { base, .. }) => {
                let guess = anatomy::guess(&base.graph, &base.anatomy, &declared);
                sites = Sites::of(&base, guess.task);
                (base.graph, base.anatomy, None)
            }
            Err(error) => {
                (raw.clone(), Anatomy::default(), Some(Miss { at: "the graph".into(), wanted: format!("operators of opset 18: {error}") }))
            }
        };
        let guess = anatomy::guess(&graph, &anatomy, &declared);
        let no_gradient = no_gradient(&graph, &anatomy);
        let misses = anatomy.misses.iter().map(|miss| Miss { at: miss.at.clone(), wanted: miss.wanted.clone() });
        Self {
            file: file.display().to_string(),
            producer: onnx::producer(raw.model()),
            opset: raw.model().opset(),
            domains: domains(raw),
            ir_version: raw.model().ir_version,
            nodes: raw.nodes().len(),
            constants: constants(raw),
            inputs: raw.inputs().iter().map(|&id| port(raw, id)).collect(),
            outputs: raw.outputs().iter().map(|&id| port(raw, id)).collect(),
            kind: (anatomy.projections.is_empty() && anatomy.attentions.is_empty()).then(|| kind::kind(raw)),
            unknown_operators: kind::unknown_operators(raw),
            task: guess.task.map(anatomy::Task::name),
            task_because: guess.instead.map(|instead| format!("{}: ", instead.what)).unwrap_or_default() + &guess.why,
            layers: layers(&anatomy),
            max_positions: anatomy.max_positions,
            projections: projections(&graph, &anatomy),
            attentions: attentions(&anatomy),
            embeddings: embeddings(&anatomy),
            head: head(&graph, &anatomy),
            cache: cache(&graph, &anatomy),
            sites,
            operators: operators(raw, &no_gradient),
            no_gradient,
            misses: not_raised.into_iter().chain(misses).collect(),
            values: None,
        }
    }
}

/// Every value of a graph.
pub(super) fn values(graph: &Graph) -> Vec<Known> {
    let rows = graph.value_ids().map(|(id, value)| Known {
        name: value.name.to_string(),
        dtype: value.fact.dtype.map(DType::name),
        shape: value.fact.shape.as_ref().map(|dims| dims.iter().map(length).collect()),
        made_by: graph.producer(id).map(|node| graph.node(node).op.to_string()),
    });
    rows.collect()
}

/// A length for people; `?` if nothing is known of it.
fn length(dim: &Dim) -> String {
    Some(dim.to_string()).filter(|text| !text.contains('?')).unwrap_or_else(|| "?".to_owned())
}

fn domains(graph: &Graph) -> Vec<Domain> {
    let others = graph.model().opsets.iter().filter(|opset| !opset.domain.is_empty());
    others.map(|opset| Domain { name: opset.domain.to_string(), version: opset.version }).collect()
}

fn constants(graph: &Graph) -> Vec<Constants> {
    let mut found = BTreeMap::<DType, Constants>::new();
    for (_, tensor) in graph.initializers() {
        let dtype = tensor.dtype();
        let row = found.entry(dtype).or_insert_with(|| Constants { dtype: dtype.name(), tensors: 0, numbers: 0, bytes: 0 });
        row.tensors += 1;
        row.numbers += u64::try_from(tensor.len()).unwrap_or_default();
        row.bytes += u64::try_from(dtype.bytes(tensor.len())).unwrap_or_default();
    }
    let mut rows: Vec<Constants> = found.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    rows
}

fn port(graph: &Graph, id: ValueId) -> Port {
    let fact = graph.fact(id);
    Port {
        name: graph.value_name(id).to_owned(),
        dtype: fact.dtype.map_or("unknown", DType::name),
        shape: fact.shape.as_ref().map(|shape| shape.iter().map(length).collect()),
        optional: graph.initializer(id).is_some(),
    }
}

fn layers(anatomy: &Anatomy) -> usize {
    let number = |module: &str| module.split('.').find_map(|segment| segment.parse::<usize>().ok());
    let modules = anatomy.projections.iter().map(|projection| projection.module.as_str());
    modules.filter_map(number).collect::<BTreeSet<_>>().len()
}

fn projections(graph: &Graph, anatomy: &Anatomy) -> Vec<Projection> {
    let rows = anatomy.projections.iter().map(|projection| Projection {
        module: projection.module.clone(),
        in_features: projection.in_features,
        out_features: projection.out_features,
        layout: match projection.weight.layout {
            Layout::InOut => "[in, out]",
            Layout::OutIn => "[out, in]",
        },
        bias: projection.bias.is_some(),
        conv1d: projection.conv1d,
        parameters: projection.out_features * (projection.in_features + i64::from(projection.bias.is_some())),
        weight: graph.value_name(projection.weight.value).to_owned(),
    });
    rows.collect()
}

fn attentions(anatomy: &Anatomy) -> Vec<Attention> {
    let module = |at: Option<usize>| at.and_then(|at| anatomy.projections.get(at)).map(|projection| projection.module.clone());
    let rows = anatomy.attentions.iter().map(|attention| Attention {
        module: attention.module.clone(),
        heads: attention.heads,
        kv_heads: attention.kv_heads,
        head_size: attention.head_size,
        scale: attention.scale,
        causal: attention.causal,
        cross: attention.cross,
        masks: attention.masks.iter().map(|mask| masking(mask.kind)).collect(),
        q: module(attention.q),
        k: module(attention.k),
        v: module(attention.v),
        o: module(attention.o),
    });
    rows.collect()
}

fn masking(kind: Masking) -> &'static str {
    match kind {
        Masking::Added => "added",
        Masking::Subtracted => "subtracted",
        Masking::KeptWhere => "kept where true",
        Masking::MaskedWhere => "masked where true",
    }
}

/// Tables of embeddings, each once, however often it is read.
fn embeddings(anatomy: &Anatomy) -> Vec<Embedding> {
    let mut rows = IndexMap::<(&str, ValueId), Embedding>::new();
    for (at, embedding) in anatomy.embeddings.iter().enumerate().filter(|(_, embedding)| !embedding.is_rotation) {
        let row = rows.entry((&embedding.module, embedding.weight)).or_insert_with(|| Embedding {
            module: embedding.module.clone(),
            rows: embedding.rows,
            hidden: embedding.hidden,
            tokens: false,
        });
        row.tokens |= anatomy.token_embedding == Some(at);
    }
    rows.into_values().collect()
}

fn head(graph: &Graph, anatomy: &Anatomy) -> Option<Head> {
    let head = anatomy.head.as_ref()?;
    let module = head.projection.and_then(|at| anatomy.projections.get(at)).map(|projection| projection.module.clone());
    Some(Head { logits: graph.value_name(head.output).to_owned(), module, classes: head.classes, tied: head.tied })
}

fn cache(graph: &Graph, anatomy: &Anatomy) -> Option<Cache> {
    let layers: BTreeSet<usize> = anatomy.cache.iter().map(|slot| slot.layer).collect();
    let inputs = anatomy.cache.iter().map(|slot| graph.value_name(slot.past).to_owned()).collect();
    (!layers.is_empty()).then_some(Cache { layers: layers.len(), inputs })
}

/// The nodes between projections and logits that gradients cannot pass.
fn no_gradient(graph: &Graph, anatomy: &Anatomy) -> Vec<NoGradient> {
    let Some(head) = &anatomy.head else { return vec![] };
    let from: Vec<ValueId> = anatomy.projections.iter().map(|projection| projection.output).collect();
    match grad::missing(graph, &from, &[head.logits]) {
        Ok(missing) => missing.into_iter().map(|at| NoGradient { node: at.node, operator: at.op, why: at.why }).collect(),
        Err(error) => vec![NoGradient { node: String::new(), operator: String::new(), why: error.to_string() }],
    }
}

fn operators(graph: &Graph, no_gradient: &[NoGradient]) -> Vec<Operator> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for node in graph.nodes() {
        *counts.entry(&node.op).or_default() += 1;
    }
    let rules: BTreeMap<&str, &grad::Rule> = grad::rules().collect();
    let mut rows: Vec<Operator> = counts
        .into_iter()
        .map(|(name, count)| Operator {
            name: name.to_owned(),
            count,
            gradient: match rules.get(name) {
                Some(grad::Rule::Stop) => "none needed",
                Some(_) => "yes",
                None => "no",
            },
            missing: no_gradient.iter().filter(|at| at.operator == name).count(),
        })
        .collect();
    rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
    rows
}
