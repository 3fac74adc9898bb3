//! What a new head stands on: the representation that the network ends in.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

use super::{LOGITS, channels};
use crate::adapter::config::{HeadModules, NewHead, Pooling, Task};
use crate::anatomy::{self, Anatomy, Ending, Projection, Reads};
use crate::ir::{Builder, DType, Expr, Fact, Graph, Trait, ValueId};
use crate::num;
use crate::{Error, Result};

/// What a head stands on.
#[derive(Clone, Debug)]
pub struct Features {
    value: ValueId,
    fact: Fact,
    /// Its name in the graph.
    name: String,
    /// The axis of features.
    axis: usize,
    /// Length of that axis.
    width: usize,
    pooling: Pooling,
    /// Whether positions see only what is before them.
    is_of_decoder: bool,
}

/// The hidden states nearest to a body's end, `[batch, seq, hidden]`.
#[must_use]
pub fn token_states(graph: &Graph, anatomy: &Anatomy) -> Option<ValueId> {
    let search = Search { graph, anatomy, learned: learned(graph, anatomy) };
    search.states().filter(|&id| graph.fact(id).rank() == Some(3))
}

impl Features {
    /// Finds what a head for `task` can stand on: what the model's own head reads, else what the graph gives; before any pooling that the
    /// model does itself, if another one was asked for.
    ///
    /// # Errors
    /// A graph without such values; a task without classes; an encoder-decoder, or the decoder of one.
    pub fn find(graph: &Graph, anatomy: &Anatomy, head: &NewHead, task: Task) -> Result<Self> {
        head.check()?;
        if head.labels < 2 && (task.is_one_class() || task.row().reads == Reads::TokenLogits) {
            let error = Error::mismatch("num_labels", format!("at least 2 classes for {task}"), head.labels);
            return Err(error.with_hint("one number for each text is a regression or a relevance: `task regression` or `task rerank`"));
        }
        let each_position = match task.row().reads {
            Reads::TokenLogits | Reads::Frames => true,
            Reads::Logits => false,
            Reads::Vocabulary | Reads::Spans | Reads::Embeddings | Reads::TokenLogProbs => {
                let error = Error::mismatch("the task of a new head with labels", "a task with classes or numbers", task);
                return Err(error.with_hint("leave `num_labels` out to keep the model's own head"));
            }
        };
        if anatomy.inputs.decoder_input_ids.is_some() {
            return Err(Error::unsupported("a new head on this graph", "it has an encoder and a decoder")
                .with_hint("export the encoder alone (`encoder_model.onnx` of optimum), and put the head on that"));
        }
        if let Some(why) = anatomy::missing_encoder(graph, anatomy) {
            return Err(Error::unsupported("a new head on this graph", why).with_hint("put the head on the encoder: `encoder_model.onnx`"));
        }
        if let Some(wanted) = head.pooling.filter(|pooling| each_position && *pooling != Pooling::Nothing) {
            let error = Error::mismatch("pooling for token-cls", Pooling::Nothing, wanted);
            return Err(error.with_hint("each token has a class of its own: leave `pooling` out"));
        }
        let search = Search { graph, anatomy, learned: learned(graph, anatomy) };
        let (value, pooling) = if each_position { (search.states(), Pooling::Nothing) } else { search.of_text(head.pooling) };
        let value = value.ok_or_else(|| search.nothing(each_position, pooling))?;
        let fact = graph.fact(value).clone();
        let place = search.features(value).ok_or_else(|| search.nothing(each_position, pooling))?;
        let name = graph.value_name(value).to_owned();
        Ok(Self { value, fact, name, axis: place.axis, width: place.width, pooling, is_of_decoder: search.is_decoder() })
    }

    /// The value that the head reads.
    #[must_use]
    pub fn value(&self) -> ValueId {
        self.value
    }

    /// The value's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn fact(&self) -> &Fact {
        &self.fact
    }

    pub(super) fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// The features as the head reads them: `[batch, width]`, or `[batch, places, width]`.
    pub(super) fn rows<'g>(&self, b: &'g Builder) -> Expr<'g> {
        let (value, rank) = (b.expr(self.value), self.fact.rank().unwrap_or(0));
        let axes = 0..num::int(rank);
        let own = num::int(self.axis);
        let perm: Vec<i64> = axes.filter(|&axis| axis != own).chain([own]).collect();
        let last = value.transpose(&perm);
        if rank < 4 {
            return last;
        }
        last.reshape(&[0, -1, i64::try_from(self.width).unwrap_or(-1)])
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

/// Operators whose outputs are no representation: numbers of classes, shares, rows of a table that the network has not seen yet.
const NO_FEATURES: &[&str] = &["OneHot", "Softmax", "LogSoftmax", "Hardmax", "ArgMax", "TopK", "Range", "CumSum"];

/// Operators that only show their first input.
const SHOWING: &[&str] = &[
    "Cast",
    "Identity",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Dropout",
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "Slice",
    "Expand",
];

/// Where the features of a place are.
struct Place {
    axis: usize,
    width: usize,
}

/// Where features are looked for.
struct Search<'a> {
    graph: &'a Graph,
    anatomy: &'a Anatomy,
    /// Which values the network has computed with its weights.
    learned: Vec<bool>,
}

/// What follows from a product or a window of constants, or from a table.
fn learned(graph: &Graph, anatomy: &Anatomy) -> Vec<bool> {
    let mut learned = vec![false; graph.values().len()];
    let windows = graph.nodes().iter().filter(|node| &*node.op == "Conv").filter_map(|node| node.output(0));
    let tables = anatomy.embeddings.iter().map(|table| table.output);
    for id in anatomy.projections.iter().map(|projection| projection.y).chain(windows).chain(tables) {
        learned[id.index()] = true;
    }
    for node in graph.nodes() {
        let follows = !Trait::Lengths.is_of(&node.op) && node.reads().any(|id| learned[id.index()]);
        for output in node.writes() {
            learned[output.index()] |= follows;
        }
    }
    learned
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
        let gives_states = self.graph.outputs().iter().any(|&id| id != head.output && self.has_positions(id));
        let name = self.graph.value_name(head.output);
        let is_vector = matches!(head.ending, Ending::Vector(_));
        if name != LOGITS && (is_vector || gives_states || OF_BODIES.iter().any(|word| name.contains(word))) {
            return None;
        }
        let last = self.anatomy.projections.get(head.projection?)?;
        Some(self.first_of_head(last).unwrap_or(last).x)
    }

    /// The first projection of a head that has several: masked language models have a dense layer in front of the last one, in the same
    /// module (`cls.predictions`, `lm_head`). A module that has more than such layers is no head but the network.
    fn first_of_head(&self, last: &Projection) -> Option<&Projection> {
        let (module, _) = last.module.rsplit_once('.')?;
        let is_in = |path: &str| path.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'));
        let is_inside = |projection: &&Projection| is_in(&projection.module);
        let of_attentions = self.anatomy.attentions.iter().flat_map(|attention| [attention.q, attention.k, attention.v, attention.o]);
        let has_layers = of_attentions.flatten().any(|place| is_inside(&&self.anatomy.projections[place]));
        let has_tables = self.anatomy.embeddings.iter().any(|table| is_in(&table.module));
        let first = self.anatomy.projections.iter().find(is_inside)?;
        let is_whole_network = self.anatomy.projections.iter().all(|projection| is_in(&projection.module));
        (!has_layers && !has_tables && !is_whole_network && self.leads_straight(first, last)).then_some(first)
    }

    /// Whether nothing but steps within one place stands between the output of a projection and the input of another.
    fn leads_straight(&self, first: &Projection, last: &Projection) -> bool {
        const MIXING: &[&str] = &["Conv", "Softmax", "ReduceMax", "MaxPool", "AveragePool", "GlobalAveragePool"];
        let mut after = BTreeSet::from([first.y]);
        let mut before_last = false;
        for node in self.graph.nodes() {
            if node.reads().any(|id| after.contains(&id)) && node.writes().any(|id| self.leads_to(id, last.x)) {
                if MIXING.contains(&&*node.op) {
                    return false;
                }
                after.extend(node.writes());
            }
            before_last |= after.contains(&last.x);
        }
        before_last
    }

    fn leads_to(&self, from: ValueId, to: ValueId) -> bool {
        let (mut seen, mut queue) = (BTreeSet::new(), vec![from]);
        while let Some(id) = queue.pop() {
            if id == to {
                return true;
            }
            if seen.insert(id) {
                queue.extend(self.graph.uses(id).iter().flat_map(|a_use| self.graph.node(a_use.node).writes()));
            }
        }
        false
    }

    /// Where bodies end: at the input of the model's own head, else at its outputs; the states behind the last layer before those of others.
    fn ends(&self) -> Vec<ValueId> {
        if let Some(input) = self.own_input() {
            return vec![input];
        }
        let is_cache = |id: &ValueId| self.anatomy.cache.iter().any(|slot| slot.present == Some(*id));
        let mut ends: Vec<ValueId> = self.graph.outputs().iter().copied().filter(|id| !is_cache(id)).collect();
        let called = |id: &ValueId, word: &str| self.graph.value_name(*id).contains(word);
        ends.sort_by_key(|id| (!called(id, "last_hidden"), !called(id, "hidden"), Reverse(self.graph.producer(*id))));
        ends
    }

    /// The nearest value from `end` backwards that is `[batch, seq, width]`, or features of the places of an image.
    fn states_behind(&self, end: ValueId) -> Option<ValueId> {
        let (mut seen, mut queue) = (BTreeSet::new(), VecDeque::from([end]));
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

    /// Whether a value has features for each position of a text, or each place of an image.
    fn has_positions(&self, id: ValueId) -> bool {
        let has_rank = matches!(self.graph.fact(id).rank(), Some(3 | 4));
        has_rank && self.is_representation(id) && self.starts_with_batch(id) && self.features(id).is_some()
    }

    /// Whether a value is `[batch, width]`.
    fn is_pooled(&self, id: ValueId) -> bool {
        self.graph.fact(id).rank() == Some(2) && self.is_representation(id) && self.starts_with_batch(id) && self.features(id).is_some()
    }

    /// The axis of a value's features, if its length is known.
    fn features(&self, id: ValueId) -> Option<Place> {
        let dims = self.graph.fact(id).shape.as_ref()?;
        let axis = if dims.len() < 3 { dims.len().checked_sub(1)? } else { channels::axis(self.graph, id)? };
        let width = usize::try_from(dims.get(axis)?.as_known()?).ok().filter(|&width| width > 0 && axis > 0)?;
        Some(Place { axis, width })
    }

    /// Whether a value is what the network made of its inputs, and no share, number of a class or map of attention.
    fn is_representation(&self, id: ValueId) -> bool {
        if !self.is_float(id) || !self.learned[id.index()] {
            return false;
        }
        let is_row = |value: ValueId| self.anatomy.embeddings.iter().any(|table| table.output == value);
        let mut at = id;
        while let Some(node) = self.graph.producer(at).map(|node| self.graph.node(node)) {
            // What a text's rows are pooled into is one; each row by itself knows of no other.
            let is_looked_up = self.graph.fact(id).rank() != Some(2) && is_row(at);
            if is_looked_up || NO_FEATURES.contains(&&*node.op) || self.is_map(node) {
                return false;
            }
            match node.input(0).filter(|_| SHOWING.contains(&&*node.op)) {
                Some(before) => at = before,
                None => break,
            }
        }
        true
    }

    /// Whether a node compares positions with positions: its product has none of the features of what it multiplies.
    fn is_map(&self, node: &crate::ir::Node) -> bool {
        let scores = self.anatomy.attentions.iter().filter_map(|attention| attention.scores);
        let is_scores = node.writes().any(|id| scores.clone().any(|score| score == id));
        let dims = |at: usize| node.input(at).and_then(|id| self.graph.fact(id).shape.clone());
        let is_product = &*node.op == "MatMul" && node.input(1).is_some_and(|id| self.learned[id.index()]);
        let compares =
            || dims(0).zip(dims(1)).is_some_and(|(a, b)| a.len() >= 2 && b.len() >= 2 && a.last().is_some_and(|d| d.as_known().is_some()));
        let columns = || node.output(0).and_then(|id| self.graph.fact(id).shape.clone()).and_then(|dims| dims.last().cloned());
        let positions = || self.anatomy.inputs.main.and_then(|id| self.graph.fact(id).shape.clone()).and_then(|dims| dims.get(1).cloned());
        is_scores || (is_product && compares() && columns().is_some() && columns() == positions())
    }

    fn is_float(&self, id: ValueId) -> bool {
        self.graph.initializer(id).is_none() && self.graph.fact(id).dtype.is_some_and(DType::is_float)
    }

    fn starts_with_batch(&self, id: ValueId) -> bool {
        let first = |id: ValueId| self.graph.fact(id).shape.as_ref().and_then(|shape| shape.first().cloned());
        let fed = self.anatomy.inputs.main.or_else(|| self.graph.data_inputs().next());
        fed.and_then(first).is_some_and(|batch| first(id) == Some(batch))
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
