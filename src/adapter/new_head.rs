//! A new head on a body: pooling, linear layers, logits.
//!
//! ```text
//! hidden states [batch, seq, width] → pooled [batch, width] → classifier.0 → Relu → classifier.2 → .. → logits [batch, labels]
//! ```
//!
//! The head is written into the base before anything else happens, with the values it starts from as constants. So it is a module like others:
//! methods train and save it as a whole (`modules_to_save`), merging puts the trained numbers in place.

use std::collections::BTreeSet;

use super::budget::{self, wide};
use super::config::{HeadModules, NewHead, Pooling, Task};
use super::init;
use crate::anatomy::{Anatomy, Projection};
use crate::ir::{Builder, DType, Expr, Fact, Graph, Tensor, ValueId};
use crate::{Error, Result};

/// The output that the head gives.
pub const LOGITS: &str = "logits";

/// What a head stands on.
#[derive(Clone, Debug)]
pub struct Features {
    /// The value: hidden states, or one vector for each text.
    value: ValueId,
    fact: Fact,
    /// Length of the last axis.
    width: usize,
    pooling: Pooling,
    /// Whether positions see only what is before them.
    is_of_decoder: bool,
}

impl Features {
    /// Finds what a head for `task` can stand on: what the model's own head reads, else what the graph gives; before any pooling that the
    /// model does itself, if another one was asked for.
    ///
    /// # Errors
    /// A graph without such values; a task without classes; an encoder-decoder.
    pub fn find(graph: &Graph, anatomy: &Anatomy, head: &NewHead, task: Task) -> Result<Self> {
        head.check()?;
        let each_position = match task {
            Task::TokenCls => true,
            Task::SeqCls | Task::ImageCls => false,
            Task::CausalLm | Task::MaskedLm | Task::Seq2SeqLm => {
                let error = Error::mismatch("the task of a new head with labels", "seq-cls, token-cls or image-cls", task);
                return Err(error.with_hint("leave --num-labels out to keep the model's own head"));
            }
        };
        if anatomy.inputs.decoder_input_ids.is_some() {
            return Err(Error::unsupported("a new head on this graph", "it has an encoder and a decoder"));
        }
        if let Some(wanted) = head.pooling.filter(|pooling| each_position && *pooling != Pooling::Nothing) {
            let error = Error::mismatch("pooling for token-cls", Pooling::Nothing, wanted);
            return Err(error.with_hint("each token has a class of its own: leave --pooling out"));
        }
        let search = Search { graph, anatomy };
        let (value, pooling) = if each_position { (search.states(), Pooling::Nothing) } else { search.of_text(head.pooling) };
        let value = value.ok_or_else(|| search.nothing(each_position, pooling))?;
        let fact = graph.fact(value).clone();
        let width = fact.shape.as_ref().and_then(|shape| usize::try_from(shape.last()?.as_known()?).ok());
        let name = graph.value_name(value);
        let width = width.ok_or_else(|| Error::unsupported(format!("a new head on {name}"), "the width of its rows is not known"))?;
        Ok(Self { value, fact, width, pooling, is_of_decoder: search.is_decoder() })
    }

    /// The value that the head reads.
    #[must_use]
    pub fn value(&self) -> ValueId {
        self.value
    }

    /// The head with what was left to the body.
    #[must_use]
    pub fn settle(&self, head: &NewHead) -> NewHead {
        let is_last = self.pooling == Pooling::Last;
        let is_hugging_faces = self.is_of_decoder && head.layers.is_empty() && (is_last || self.fact.rank() == Some(3));
        let modules = match &head.modules {
            Some(modules) => modules.clone(),
            None if is_hugging_faces && matches!(self.pooling, Pooling::Last | Pooling::Nothing) => HeadModules::score(!is_last),
            None => HeadModules::usual(head.layers.len()),
        };
        NewHead { pooling: Some(self.pooling), modules: Some(modules), ..head.clone() }
    }

    /// Widths of all layers, from the features to the logits.
    #[must_use]
    pub fn widths(&self, head: &NewHead) -> Vec<usize> {
        std::iter::once(self.width).chain(head.layers.iter().copied()).chain([head.labels]).collect()
    }
}

/// Words in the names that exporters give to what bodies end in.
const OF_BODIES: [&str; 3] = ["pool", "hidden", "embed"];

/// Where features are looked for.
struct Search<'a> {
    graph: &'a Graph,
    anatomy: &'a Anatomy,
}

impl Search<'_> {
    /// What stands for a whole text, and how it is made of positions if it is not yet.
    ///
    /// What the model's own head read is taken as it is: it was trained for that. What a body without a head pools is not: the poolers of encoders
    /// are often left over from another task.
    fn of_text(&self, wanted: Option<Pooling>) -> (Option<ValueId>, Pooling) {
        let pooled = self.ends().into_iter().find(|&end| self.is_pooled(end));
        match (wanted, pooled) {
            (Some(Pooling::Nothing), _) => (pooled, Pooling::Nothing),
            (Some(wanted), _) => (self.states(), wanted),
            (None, Some(_)) if self.own_input().is_some() || !self.ends().iter().any(|&end| self.has_positions(end)) => {
                (pooled, Pooling::Nothing)
            }
            (None, _) => (self.states(), self.usual_pooling()),
        }
    }

    /// The hidden states nearest to the body's end.
    fn states(&self) -> Option<ValueId> {
        self.ends().into_iter().find_map(|end| self.states_behind(end))
    }

    /// What the model's own head reads. The pooler of a body that also gives its hidden states looks like a head, but is none.
    fn own_input(&self) -> Option<ValueId> {
        let head = self.anatomy.head.as_ref()?;
        let gives_states = self.graph.outputs().iter().any(|&id| id != head.logits && self.has_positions(id));
        let name = self.graph.value_name(head.logits);
        if name != LOGITS && (gives_states || OF_BODIES.iter().any(|word| name.contains(word))) {
            return None;
        }
        let last = self.anatomy.projections.get(head.projection?)?;
        Some(self.first_of_head(&last.module).unwrap_or(last).x)
    }

    /// The first projection of a head that has several: masked language models have a dense layer in front of the last one, in the same
    /// module (`cls.predictions`, `lm_head`).
    fn first_of_head(&self, last: &str) -> Option<&Projection> {
        let (module, _) = last.rsplit_once('.')?;
        let is_inside = |projection: &Projection| projection.module.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'));
        let of_attentions = self.anatomy.attentions.iter().flat_map(|attention| [attention.q, attention.k, attention.v, attention.o]);
        let has_layers = of_attentions.flatten().any(|place| is_inside(&self.anatomy.projections[place]));
        self.anatomy.projections.iter().find(|projection| is_inside(projection)).filter(|_| !has_layers)
    }

    /// Where bodies end: at the input of the model's own head, else at its outputs.
    fn ends(&self) -> Vec<ValueId> {
        if let Some(input) = self.own_input() {
            return vec![input];
        }
        let is_cache = |id: &ValueId| self.anatomy.cache.iter().any(|slot| slot.present == Some(*id));
        let named = |id: &ValueId| self.graph.value_name(*id).contains("hidden");
        let mut ends: Vec<ValueId> = self.graph.outputs().iter().copied().filter(|id| !is_cache(id)).collect();
        ends.sort_by_key(|id| !named(id));
        ends
    }

    /// The nearest value from `end` backwards that is `[batch, seq, width]`.
    fn states_behind(&self, end: ValueId) -> Option<ValueId> {
        let (mut seen, mut queue) = (BTreeSet::new(), std::collections::VecDeque::from([end]));
        while let Some(id) = queue.pop_front() {
            if !seen.insert(id) || !self.is_float(id) {
                continue;
            }
            if self.has_positions(id) {
                return Some(id);
            }
            let producer = self.graph.producer(id).map(|node| self.graph.node(node));
            queue.extend(producer.into_iter().flat_map(|node| node.reads().collect::<Vec<_>>()));
        }
        None
    }

    /// Whether a value is `[batch, seq, width]`.
    fn has_positions(&self, id: ValueId) -> bool {
        self.is_float(id) && self.starts_with_batch(id) && self.graph.fact(id).rank() == Some(3)
    }

    /// Whether a value is `[batch, width]`.
    fn is_pooled(&self, id: ValueId) -> bool {
        self.is_float(id) && self.starts_with_batch(id) && self.graph.fact(id).rank() == Some(2)
    }

    fn is_float(&self, id: ValueId) -> bool {
        self.graph.initializer(id).is_none() && self.graph.fact(id).dtype.is_some_and(DType::is_float)
    }

    fn starts_with_batch(&self, id: ValueId) -> bool {
        let first = |id: ValueId| self.graph.fact(id).shape.as_ref().and_then(|shape| shape.first().cloned());
        self.anatomy.inputs.main.and_then(first).is_some_and(|batch| first(id) == Some(batch))
    }

    /// Of a model whose positions see only what is before them, the last one knows all; else all of them do.
    fn usual_pooling(&self) -> Pooling {
        if self.is_decoder() { Pooling::Last } else { Pooling::Mean }
    }

    fn is_decoder(&self) -> bool {
        self.anatomy.attentions.iter().any(|attention| attention.causal)
    }

    fn nothing(&self, each_position: bool, pooling: Pooling) -> Error {
        let outputs: Vec<String> =
            self.graph.outputs().iter().map(|&id| format!("{} {}", self.graph.value_name(id), self.graph.fact(id))).collect();
        let wanted = match pooling {
            Pooling::Nothing if !each_position => "[batch, width], a vector that the model itself pooled",
            _ => "[batch, seq, width]",
        };
        let why = format!("nothing before its outputs ({}) is {wanted}", outputs.join(", "));
        let hint = match pooling {
            Pooling::Nothing if !each_position => "export the body with what it pools (`pooler_output`) among its outputs",
            _ => "export the model so that it gives its last hidden states: `optimum-cli export onnx --task feature-extraction`",
        };
        Error::unsupported("a new head on this graph", why).with_hint(hint)
    }
}

/// Puts a settled head on a graph, in place of its outputs but those of a cache. `graph` has the features' value.
///
/// # Errors
/// A graph that cannot be written on; a head beyond all proportion to it.
pub fn put(graph: &Graph, anatomy: &Anatomy, features: &Features, head: &NewHead, seed: u64) -> Result<Graph> {
    let b = Builder::on(graph);
    b.assume(features.value, features.fact.clone());
    let hidden = b.expr(features.value).cast(DType::F32);
    let mask = anatomy.inputs.attention_mask.filter(|&mask| b.fact(mask).rank() == Some(2)).map(|mask| b.expr(mask));
    let pooled = b.scoped("pooling", || pooled(hidden, mask, features.pooling));
    let presents: Vec<ValueId> = anatomy.cache.iter().filter_map(|slot| slot.present).collect();
    b.clear_outputs();
    let widths = features.widths(head);
    budget::check(widths.windows(2).map(|pair| wide(pair[0]) * wide(pair[1])).sum(), anatomy)?;
    let modules = head.modules.clone().unwrap_or_else(|| HeadModules::usual(head.layers.len()));
    let layers = widths.windows(2).zip(modules.names).map(|(pair, module)| Layer {
        path: anatomy.wrapper.clone() + &module,
        module,
        inner: pair[0],
        outer: pair[1],
        bias: modules.bias,
    });
    let logits = layers.enumerate().fold(pooled, |x, (at, layer)| {
        let x = if at == 0 { x } else { b.scoped(&layer.path, || b.op("Relu", &[x], &[])) };
        layer.write(&b, x, seed)
    });
    b.output(LOGITS, logits);
    for present in presents {
        b.output(&b.name(present), b.expr(present));
    }
    b.finish()
}

struct Layer {
    module: String,
    /// The module's path in the graph, with what wraps all others.
    path: String,
    inner: usize,
    outer: usize,
    bias: bool,
}

impl Layer {
    /// `x · W + b`, starting as PyTorch's `Linear` does (uniform in `±1/√in`), but with a bias of zero.
    fn write<'g>(&self, b: &'g Builder, x: Expr<'g>, seed: u64) -> Expr<'g> {
        let mut random = init::generator(seed, &format!("{}.weight", self.module));
        let weight = init::uniform(&mut random, &[self.inner, self.outer], 1.0 / init::to_f32(self.inner).sqrt());
        // A name that ends in `.weight` alone would say that PyTorch stores it in this order.
        let weight = b.initializer(&format!("{}.MatMul.weight", self.path), weight);
        let zeros = || Tensor::from_f32(&[self.outer], &vec![0.0; self.outer]);
        let bias = self.bias.then(|| b.initializer(&format!("{}.MatMul.bias", self.path), zeros()));
        b.scoped(&self.path, || bias.map_or(x.matmul(weight), |bias| x.matmul(weight) + bias))
    }
}

/// `[batch, width]` of `[batch, seq, width]`.
fn pooled<'g>(hidden: Expr<'g>, mask: Option<Expr<'g>>, pooling: Pooling) -> Expr<'g> {
    let b = hidden.b();
    let shares = |of_positions: Expr<'g>| of_positions.unsqueeze(&[1]).matmul(hidden).squeeze(&[1]);
    match (pooling, mask.map(|mask| own_positions(mask, hidden))) {
        (Pooling::Nothing, _) => hidden,
        (Pooling::First, _) => hidden.gather(b.int(0), 1),
        (Pooling::Mean, None) => hidden.mean(&[1]).squeeze(&[1]),
        (Pooling::Mean, Some(mask)) => {
            let tokens = mask.cast(DType::F32);
            let count = tokens.sum(&[1]);
            shares(tokens / count.max(count.same_type(1.0)))
        }
        (Pooling::Last, None) => hidden.gather(b.int(-1), 1),
        (Pooling::Last, Some(mask)) => {
            // 1, 2, 3, .. at tokens, 0 at padding, whichever side it is on.
            let positions = hidden.length(1).reshape(&[]).range_from(b.int(0)) + b.int(1);
            let numbers = positions.unsqueeze(&[0]) * mask.cast(DType::I64);
            let last = numbers.equal(numbers.reduce_max(1)).cast(DType::F32);
            // A text without any token has every position equal: what it gives does not matter, but it must be finite.
            shares(last / last.sum(&[1]))
        }
    }
}

/// The part of a mask that is of these positions: with a cache it covers the past too.
fn own_positions<'g>(mask: Expr<'g>, hidden: Expr<'g>) -> Expr<'g> {
    if mask.dim(1) == hidden.dim(1) {
        return mask;
    }
    let b = hidden.b();
    mask.slice_at(b.ints(&[0]) - hidden.length(1), b.ints(&[i64::MAX]), &[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy;
    use crate::ir::{Dim, ModelInfo};

    /// What a body gives: hidden states, one vector for each text, logits of a head on it, or token numbers.
    #[derive(Clone, Copy, PartialEq)]
    enum Gives {
        States,
        Pooled,
        Logits,
        Tokens,
    }

    fn body(outputs: &[Gives]) -> (Graph, Anatomy) {
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        b.input("attention_mask", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let matrix =
            |name: &str, rows: usize, columns: usize| b.initializer(name, Tensor::from_f32(&[rows, columns], &vec![0.5; rows * columns]));
        let states = matrix("embed.weight", 40, 4).gather(ids, 0).tanh();
        let pooled = b.scoped("pool", || states.mean(&[1]).squeeze(&[1]).matmul(matrix("pool.dense", 4, 6)).tanh());
        for gives in outputs {
            match gives {
                Gives::States => b.output("last_hidden_state", states),
                Gives::Pooled => b.output("pooler_output", pooled),
                Gives::Logits => b.output("logits", b.scoped("score", || pooled.matmul(matrix("score.dense", 6, 5)))),
                Gives::Tokens => b.output("tokens", ids + b.int(1)),
            }
        }
        let graph = b.finish().expect("a valid graph");
        let anatomy = anatomy::read(&graph);
        (graph, anatomy)
    }

    fn head(pooling: Option<Pooling>) -> NewHead {
        NewHead { layers: vec![3], labels: 2, pooling, modules: None }
    }

    #[test]
    fn a_head_stands_on_what_fits() {
        use Gives::{Logits, Pooled, States, Tokens};
        type Found = Option<(Pooling, usize)>;
        let rows: &[(&[Gives], Task, Option<Pooling>, Found)] = &[
            (&[States], Task::SeqCls, None, Some((Pooling::Mean, 4))),
            (&[Pooled, States], Task::SeqCls, None, Some((Pooling::Mean, 4))),
            (&[Pooled, States], Task::SeqCls, Some(Pooling::Nothing), Some((Pooling::Nothing, 6))),
            (&[Pooled], Task::SeqCls, None, Some((Pooling::Nothing, 6))),
            (&[Pooled], Task::SeqCls, Some(Pooling::First), Some((Pooling::First, 4))),
            (&[Logits], Task::SeqCls, None, Some((Pooling::Nothing, 6))),
            (&[Logits], Task::TokenCls, None, Some((Pooling::Nothing, 4))),
            (&[States], Task::SeqCls, Some(Pooling::Nothing), None),
            (&[States], Task::TokenCls, Some(Pooling::Mean), None),
            (&[States], Task::MaskedLm, None, None),
            (&[Tokens], Task::SeqCls, None, None),
        ];
        for (outputs, task, pooling, expected) in rows {
            let (graph, anatomy) = body(outputs);
            let found = Features::find(&graph, &anatomy, &head(*pooling), *task);
            let row = || format!("{} outputs, {task}, {pooling:?}", outputs.len());
            assert_eq!(found.as_ref().ok().map(|found| (found.pooling, found.width)), *expected, "{}", row());
            if let Err(error) = found {
                assert!(error.hint().is_some(), "{}: {error}", row());
            }
        }
    }

    #[test]
    fn a_head_is_a_module_like_others() -> Result<()> {
        let (graph, anatomy) = body(&[Gives::Logits]);
        let features = Features::find(&graph, &anatomy, &head(None), Task::SeqCls)?;
        let with_head = put(&graph, &anatomy, &features, &head(None), 1)?;
        let anatomy = anatomy::read(&with_head);
        let head_parameters: Vec<&str> =
            anatomy.parameters.iter().map(|p| p.name.as_str()).filter(|name| name.starts_with("classifier")).collect();
        assert_eq!(head_parameters, ["classifier.0.bias", "classifier.0.weight", "classifier.2.bias", "classifier.2.weight"]);
        assert!(anatomy.projections.iter().all(|p| !p.conv1d && p.module != "score"), "PyTorch's order of axes; the old head is gone");
        assert_eq!((anatomy.task.task, anatomy.head.and_then(|head| head.classes)), (Some(Task::SeqCls), Some(2)));
        Ok(())
    }
}
