//! What memory a run needs, and what the machine has.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use super::options::{MicroBatch, Options};
use crate::adapter::config::Task;
use crate::data::Dataset;
use crate::error::Result;
use crate::export::Bundle;
use crate::forecast::{self, Lengths};
use crate::ir::{Attr, Builder, Graph, Node, Trait, ValueId};
use crate::num;
use crate::parallel::{Ranks, Reader, Writer};
use crate::train::precision::{Precision, lowered};

/// Private memory of the program with ONNX Runtime loaded and no graph open, in bytes; measured with 1.32 on Linux.
const PROGRAM: u64 = 12 << 20;
/// Private memory of a session for each node of its graph, in bytes; measured with 1.32 on graphs of 1,400 to 23,000 nodes, which took 10 to 17 KB.
const NODE: u64 = 14 << 10;

/// What a step needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    /// Private memory, in bytes: weights are mapped from their files and are not among it.
    pub bytes: u64,
    /// What the values of the graph take where there are most.
    pub values: u64,
    /// The memory that ONNX Runtime keeps for them.
    pub kept: u64,
    /// The node that runs when there are most.
    pub at: String,
    /// Multiplications and additions of products in a step.
    pub operations: f64,
}

/// The graph of a step, whose need can be asked for several lengths.
#[derive(Debug)]
pub struct Step {
    graph: Graph,
    state: u64,
    packed: u64,
    texts: i64,
    /// The only number of rows and of tokens that the graph computes with, where there is but one.
    only: [Option<i64>; 2],
}

impl Step {
    /// Reads the graph of the whole step, or of the gradient of a part of a batch, as a precision has it.
    ///
    /// # Errors
    /// A bundle without it.
    pub fn read(bundle: &Bundle, is_parted: bool, precision: Precision) -> Result<Self> {
        // In half precision, the update is a graph of its own.
        let is_parted = is_parted || precision.half().is_some();
        let graph = bundle.graph(if is_parted { "gradient" } else { "training" })?;
        let graph = match precision.half() {
            Some(half) => with_kept_casts(&lowered(&graph, half)?)?,
            None => graph,
        };
        let numbers = num::wide(bundle.manifest().trainable_count);
        // The vector and its two moments; with parts, the gradient so far, and the next of each while they are updated.
        let vectors = if is_parted { 8 } else { 3 };
        let is_stacked = Task::from_name(&bundle.manifest().task).is_some_and(|task| task.row().reads.stacks_texts());
        let feeding = &bundle.manifest().feeding;
        let only = [feeding.rows, feeding.length].map(|only| only.map(num::int));
        let texts = if is_stacked { PAIR } else { 1 };
        Ok(Self { packed: 0, graph, state: numbers.saturating_mul(4 * vectors), texts, only })
    }

    /// With copies of the weights in the order in which products read them.
    #[must_use]
    pub fn with_packed_weights(mut self) -> Self {
        self.packed = packed(&self.graph, &BTreeMap::new());
        self
    }

    /// For rows of so many texts.
    #[must_use]
    pub fn of_texts(self, texts: i64) -> Self {
        Self { texts, ..self }
    }

    /// The rows that a step runs on at a time, of as many as are asked for.
    #[must_use]
    pub fn rows_at_a_time(&self, rows: i64) -> i64 {
        self.only[0].unwrap_or(rows)
    }

    /// What the step needs for so many rows of so many tokens, each text of a row; for its own where it computes with no others.
    ///
    /// # Errors
    /// Lengths that the graph cannot run with.
    pub fn need(&self, rows: i64, tokens: i64) -> Result<Need> {
        let [only_rows, only_tokens] = self.only;
        let lengths = Lengths { rows: only_rows.unwrap_or(rows), texts: self.texts, tokens: only_tokens.unwrap_or(tokens) };
        let settled = forecast::settled(&self.graph, lengths)?;
        let peak = forecast::peak(&self.graph, &settled);
        let nodes = num::wide(self.graph.nodes().len());
        let bytes = peak
            .kept
            .saturating_add(self.state)
            .saturating_add(self.packed)
            .saturating_add(PROGRAM)
            .saturating_add(nodes.saturating_mul(NODE));
        Ok(Need { bytes, values: peak.bytes, kept: peak.kept, at: peak.at, operations: peak.operations })
    }

    /// The most rows of so many tokens that a budget of bytes is enough for; none if it is not enough for one.
    ///
    /// # Errors
    /// As [`need`](Self::need).
    pub fn most_rows(&self, tokens: i64, budget: u64) -> Result<Option<i64>> {
        let fits = |rows: i64| Ok::<bool, crate::Error>(self.need(rows, tokens)?.bytes <= budget);
        if !fits(1)? {
            return Ok(None);
        }
        if let [Some(only), _] = self.only {
            return Ok(Some(only));
        }
        let (mut enough, mut too_many) = (1, 2);
        while too_many < MOST_ROWS && fits(too_many)? {
            (enough, too_many) = (too_many, too_many * 2);
        }
        while too_many - enough > 1 {
            let middle = enough + (too_many - enough) / 2;
            if fits(middle)? { enough = middle } else { too_many = middle }
        }
        Ok(Some(enough))
    }
}

/// The same graph with all weights that it casts to another type among its outputs: they are cast when the session opens, and stay.
fn with_kept_casts(graph: &Graph) -> Result<Graph> {
    let b = Builder::on(graph);
    let casts = graph.nodes().iter().filter(|node| &*node.op == "Cast" && node.reads().all(|id| graph.constant(id).is_some()));
    for value in casts.flat_map(Node::writes).filter(|&id| !graph.is_output(id)) {
        b.output(graph.value_name(value), b.expr(value));
    }
    b.finish()
}

/// Bytes of a copy of each product's weight, in a graph and its bodies. `outer` has those of the weights that a body reads from around it.
fn packed(graph: &Graph, outer: &BTreeMap<ValueId, u64>) -> u64 {
    let bytes = |id: ValueId| {
        let own = graph.constant(id).map(|tensor| num::wide(tensor.dtype().bytes(tensor.len())));
        own.or_else(|| outer.get(&id).copied())
    };
    let of_node = |node: &Node| {
        let mut captures = node.captures.iter();
        let bodies = node.attrs.values().flat_map(Attr::graphs).map(|body| {
            let read = body.captured().iter().zip(captures.by_ref());
            packed(body, &read.filter_map(|(&inside, &around)| Some((inside, bytes(around)?))).collect())
        });
        let weight = node.input(1).filter(|_| Trait::Product.is_of(&node.op)).and_then(bytes);
        bodies.sum::<u64>() + weight.unwrap_or_default()
    };
    graph.nodes().iter().map(of_node).sum()
}

/// The step of a run.
fn step(bundle: &Bundle, is_parted: bool, options: &Options) -> Result<Step> {
    let step = Step::read(bundle, is_parted, options.precision)?;
    Ok(if options.packs_weights { step.with_packed_weights() } else { step })
}

/// Texts of a row that is compared with another one, where no data say that it has more.
const PAIR: i64 = 2;
/// More rows than that are not asked for.
const MOST_ROWS: i64 = 1 << 14;

/// Rows that the model runs on at a time; none: the whole batch.
///
/// # Errors
/// A bundle whose graphs cannot be read.
pub(super) fn rows_at_a_time(bundle: &Bundle, options: &Options, dataset: &Dataset, ranks: &Ranks<'_>) -> Result<Option<NonZeroUsize>> {
    match options.micro_batch {
        MicroBatch::Whole => Ok(None),
        MicroBatch::Rows(rows) => Ok(Some(rows)),
        MicroBatch::Fitting => {
            let batch = options.data.batch_size;
            let own = fitting(bundle, options, dataset, ranks.on_this_host());
            // All take the least of what each has memory for: parts are numbered alike.
            let all = ranks.gather(own.map(|rows| Writer::default().count(rows.get()).finish()))?;
            let rows = all.iter().map(|bytes| Reader::new(bytes).count()).collect::<Result<Vec<_>>>()?.into_iter().min();
            let rows = rows.and_then(NonZeroUsize::new).filter(|rows| *rows < batch);
            if let Some(rows) = rows {
                tracing::info!("the model runs on {rows} of {batch} rows at a time: as many as there is memory for");
            }
            Ok(rows)
        }
    }
}

/// As many rows of a batch as one of so many processes of this host has memory for; all of them where that is not known.
fn fitting(bundle: &Bundle, options: &Options, dataset: &Dataset, processes: usize) -> Result<NonZeroUsize> {
    let batch = options.data.batch_size;
    let Some(memory) = share(processes) else { return Ok(batch) };
    let (tokens, texts) = (tokens(dataset), texts(dataset));
    // Other programs take some of it too.
    let budget = memory / 10 * 9;
    if step(bundle, false, options)?.of_texts(texts).need(whole(batch.get()), tokens)?.bytes <= budget {
        return Ok(batch);
    }
    let most = step(bundle, true, options)?.of_texts(texts).most_rows(tokens, budget)?.unwrap_or(1);
    Ok(usize::try_from(most).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN).min(batch))
}

/// The memory that one of so many processes of this host can take.
fn share(processes: usize) -> Option<u64> {
    Some(available()? / num::wide(processes.max(1)))
}

/// Says if a step needs more memory than there is; nothing where that is not known. `rows` run at a time.
pub(super) fn warn(bundle: &Bundle, dataset: &Dataset, rows: usize, options: &Options, processes: usize) {
    let Some(memory) = share(processes) else { return };
    let (rows, tokens) = (whole(rows), tokens(dataset));
    let is_parted = rows < whole(options.data.batch_size.get());
    let needed = self::step(bundle, is_parted, options).and_then(|step| step.of_texts(texts(dataset)).need(rows, tokens));
    match needed {
        Ok(need) if need.bytes > memory => tracing::warn!(
            "a step of {rows} x {tokens} tokens needs about {} MB of memory, and {} MB are available: `micro_batch_size auto` takes as many rows at \
             a time as fit, `max_length` cuts rows, and `inject --recompute layer` needs the least",
            need.bytes / 1_000_000,
            memory / 1_000_000
        ),
        Ok(_) => {}
        Err(error) => tracing::debug!("the memory of a step is not foretold: {error}"),
    }
}

/// Tokens of the longest text of any row.
fn tokens(dataset: &Dataset) -> i64 {
    whole(dataset.examples.iter().map(|example| example.longest()).max().unwrap_or_default().max(1))
}

/// Texts of a row, at most.
fn texts(dataset: &Dataset) -> i64 {
    whole(dataset.examples.iter().map(|example| 1 + example.others.len()).max().unwrap_or(1))
}

fn whole(number: usize) -> i64 {
    num::int(number)
}

/// Memory that processes can still take, in bytes: the machine's, or what a control group leaves of it. None where the system does not tell.
#[must_use]
pub fn available() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let of_machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    });
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let of_group =
        number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current")).map(|(most, now)| most.saturating_sub(now));
    of_machine.into_iter().chain(of_group).min()
}
