//! What is known of a model, as data: what `inspect` shows and `inspect --json` prints.

mod kind;
mod report;
mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use indexmap::IndexMap;

use crate::anatomy::{self, Anatomy, Layout, Masking};
use crate::ir::{DType, Dim, Graph, ValueId};
use crate::model::{Beside, Model, declared};
use crate::num;
use crate::{grad, onnx};

pub use report::{Attention, Cache, Constants, Domain, Embedding, Head, Known, Miss, NoGradient, Operator, Port, Projection, Report};
pub use sites::Sites;

impl Report {
    /// Looks at a model's graph, and at the files that belong to it. Whatever is not recognised is missing from the answer and named in `misses`.
    #[must_use]
    pub fn of(file: &Path, raw: &Graph, beside: &Beside) -> Self {
        let declared = declared::of_model(beside).unwrap_or_default();
        let mut sites = Sites::default();
        let (graph, anatomy, not_raised) = match Model::of(raw) {
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
#[must_use]
pub fn values(graph: &Graph) -> Vec<Known> {
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
        row.numbers += num::wide(tensor.len());
        row.bytes += num::wide(dtype.bytes(tensor.len()));
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
        Ok(missing) => missing.into_iter().map(NoGradient::from).collect(),
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
