//! The graphs of a model, from the file's own to the one that is trained, and what was recognised in them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::upcast::upcast;
use crate::adapter::Plan;
use crate::adapter::config::{NewHead, Task};
use crate::adapter::new_head::{self, Features};
use crate::adapter::targets::align_names;
use crate::anatomy::{self, Anatomy};
use crate::decompose::{self, Decoder, Stilled};
use crate::ir::{DType, Graph, Tensor, ValueId};
use crate::num;
use crate::{Result, onnx, train};

/// A base model, ready to be adapted.
#[derive(Clone, Debug)]
pub struct Base {
    /// The graph of the file: functions inlined, randomness removed, a vector of its own for each module. Adapters are folded into it.
    pub raw: Graph,
    /// The same in the dialect spoken inside, with projections that fused operators pack made visible, and without choices that training has
    /// made. What runs at inference.
    pub fused: Graph,
    /// The same with attention and embeddings decomposed. Used for virtual tokens where the fused graph has no insertion point.
    open: Graph,
    /// The same with all fused operators decomposed. What is recognised and trained.
    ///
    /// Values keep their ids from each of the graphs to the next.
    pub graph: Graph,
    /// `graph` with its logits among its outputs, computed in float32: what is trained, where `graph` itself is not.
    wide: Option<Graph>,
    /// What was recognised in `graph`.
    pub anatomy: Anatomy,
    /// What was random, or computed statistics of the batch, and is neither now.
    pub stilled: Stilled,
}

/// A base model with a new head.
#[derive(Clone, Debug)]
pub struct WithHead {
    /// The model.
    pub base: Base,
    /// The head with what was left to the model.
    pub head: NewHead,
    /// The value of the graph that the head reads.
    pub on: String,
}

impl Base {
    /// Recognises a model without functions of its own.
    ///
    /// # Errors
    /// Operators of a form that is not known.
    pub fn of(raw: &Graph) -> Result<Self> {
        let (raw, stilled) = decompose::still(raw)?;
        Self::with_decoder(anatomy::apart(&raw)?, stilled, Decoder::WithoutCache)
    }

    /// Where the model chooses between a decoder with a cache and one without, it is the latter that is recognised and trained: the same with the
    /// other one.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn with_cache(&self) -> Result<Option<Self>> {
        let is_choice = decompose::is_merged_export(&self.raw);
        is_choice.then(|| Self::with_decoder(self.raw.clone(), self.stilled, Decoder::WithCache)).transpose()
    }

    fn with_decoder(raw: Graph, stilled: Stilled, decoder: Decoder) -> Result<Self> {
        let separate = |graph: Graph| decompose::separate(&graph);
        let fused = onnx::raise(&raw).and_then(separate)?;
        let fused = decompose::specialise(&fused, decoder).and_then(separate)?;
        let open = decompose::open(&fused)?;
        let graph = decompose::decompose(&open)?;
        let anatomy = anatomy::read(&graph);
        let (fused, open) = (decompose::without_unread_cache(&fused)?, decompose::without_unread_cache(&open)?);
        Ok(Self { raw, fused, open, graph, wide: None, anatomy, stilled })
    }

    /// The same, ready to be trained.
    ///
    /// # Errors
    /// Nodes of half precision that do not go together in float32.
    pub fn to_train(self) -> Result<Self> {
        let with_logits = train::logits::shown(&self.graph, &self.anatomy)?;
        let wide = upcast(with_logits.as_ref().unwrap_or(&self.graph))?.or(with_logits);
        Ok(Self { wide, ..self })
    }

    /// What is trained: in float32, whatever the base computes in.
    #[must_use]
    pub fn trained(&self) -> &Graph {
        self.wide.as_ref().unwrap_or(&self.graph)
    }

    /// The coarsest type that weights are stored in, of those that computing in takes exact kernels for.
    #[must_use]
    pub fn precision(&self) -> DType {
        let types: BTreeSet<DType> =
            self.raw.initializers().map(|(_, tensor)| tensor).filter(|t| t.shape().len() > 1).map(Tensor::dtype).collect();
        [DType::BF16, DType::F16].into_iter().find(|dtype| types.contains(dtype)).unwrap_or(DType::F32)
    }

    /// The same model with a new head in place of its own, or of its outputs.
    ///
    /// # Errors
    /// A model that gives nothing for a head to stand on; a task without classes.
    pub fn with_head(&self, head: &NewHead, task: Task, seed: u64) -> Result<WithHead> {
        let features = Features::find(&self.graph, &self.anatomy, head, task)?;
        let is_there = features.value().index() < self.fused.values().len();
        let body = if is_there { &self.fused } else { &self.graph };
        let settled = features.settle(head);
        let graph = new_head::put(body, &self.anatomy, &features, &settled, seed)?;
        let mut with_head = Self { stilled: self.stilled, ..Self::of(&graph)? };
        if with_head.anatomy.wrapper != self.anatomy.wrapper {
            // What wraps the model may be told from the head that is gone.
            align_names::take_off(&mut with_head.anatomy, &self.anatomy.wrapper);
        }
        Ok(WithHead { base: with_head, head: settled, on: features.name().to_owned() })
    }

    /// The least decomposed graph that contains every value the plan touches, with its anatomy: inference graphs and merged ones are written on it.
    #[must_use]
    pub fn carrier(&self, plan: &Plan) -> (&Graph, Anatomy) {
        let fitting = |graph| {
            let anatomy = self.anatomy_in(graph);
            holds(graph, &anatomy, plan).then_some((graph, anatomy))
        };
        [&self.fused, &self.open].into_iter().find_map(fitting).unwrap_or_else(|| (&self.graph, self.anatomy.clone()))
    }

    fn anatomy_in(&self, graph: &Graph) -> Anatomy {
        let mut anatomy = self.anatomy.clone();
        for projection in anatomy.projections.iter_mut().filter(|projection| !is_there(graph, projection.output)) {
            // A fused operator adds the bias; a branch may be added before it as well.
            (projection.output, projection.bias) = (projection.y, None);
        }
        anatomy
    }

    /// Whether an adapter can be folded into a module: if it is a projection or a table, its weight is stored as floats.
    #[must_use]
    pub fn is_foldable(&self, module: &str) -> bool {
        let mut projections = self.anatomy.projections.iter().filter(|projection| projection.module == module);
        let mut tables = self.anatomy.embeddings.iter().filter(|table| table.module == module);
        let is_float = |tensor: &Tensor| tensor.dtype().is_float();
        projections.all(|p| self.raw.stored(p.weight.value).is_some_and(is_float))
            && tables.all(|table| self.raw.stored(table.weight).is_none_or(is_float))
    }

    /// The files that the base's constants lie in, absolute, beside the model's own.
    #[must_use]
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let origins = self.raw.initializers().filter_map(|(_, tensor)| tensor.origin());
        origins.map(|origin| origin.file.to_path_buf()).collect()
    }

    /// The number of numbers in the base's constants.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.raw.initializers().map(|(_, tensor)| num::wide(tensor.len())).sum()
    }
}

fn is_there(graph: &Graph, value: ValueId) -> bool {
    value.index() < graph.values().len()
}

/// Whether a graph has every value that a plan touches.
fn holds(graph: &Graph, anatomy: &Anatomy, plan: &Plan) -> bool {
    let is_there = |value| is_there(graph, value);
    let touched = plan.touched();
    let mut projections = anatomy.projections.iter().filter(|p| touched.contains(&p.module));
    let mut tables = anatomy.embeddings.iter().filter(|e| touched.contains(&e.module));
    let has_modules = projections.all(|p| is_there(p.x) && is_there(p.y)) && tables.all(|e| is_there(e.output));
    if plan.virtual_tokens() == 0 {
        return has_modules && plan.touches_modules();
    }
    let tokens = anatomy.token_embedding.and_then(|place| anatomy.embeddings.get(place));
    let has_attention = || {
        let heads = anatomy.attentions.iter().flat_map(|a| [&a.keys, &a.values, &a.key, &a.value]).all(|heads| is_there(heads.value));
        let scores = anatomy.attentions.iter().flat_map(|a| a.scores.into_iter().chain([a.output])).all(is_there);
        let masks = anatomy.attentions.iter().flat_map(|a| &a.masks).all(|mask| is_there(mask.value));
        heads && scores && masks && anatomy.positions.iter().all(|place| is_there(place.output))
    };
    has_modules && tokens.is_some_and(|table| is_there(table.output)) && (!plan.touches_attention() || has_attention())
}
