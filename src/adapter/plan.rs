//! A method and its configuration, applied to a graph that was recognised: which tensors, and where.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use crate::adapter::config::Task;
use crate::adapter::method::{Method, Placed, Places};
use crate::adapter::methods::trained;
use crate::adapter::params::{Given, Param, Params, budget};
use crate::adapter::part::{Change, Folding, Insertion, Part, Purpose, Requantised, boxed};
use crate::adapter::stack::Stack;
use crate::adapter::targets::{self, Strictness};
use crate::anatomy::Anatomy;
use crate::ir::{Builder, Graph};
use crate::{Error, Result};

/// The output of a graph for training that is added to the mean loss, float32, rank 0.
pub const PENALTY: &str = "adapter_penalty";

/// What a method does to one graph.
#[derive(Debug)]
pub struct Plan {
    parts: Vec<Box<dyn Part>>,
    settled: Method,
}

impl Plan {
    /// Finds the places where the method attaches. `given` has the tensors of an adapter that is not fresh. The heads of `task` are trained as a
    /// whole: that of an adapter that is there is what its own configuration says, and may be none.
    ///
    /// # Errors
    /// Targets that match nothing, with candidates; a method that has no place in this graph; an adapter beyond all proportion to its base.
    pub fn new(
        method: &Method,
        task: impl Into<Option<Task>>,
        anatomy: &Anatomy,
        strictness: Strictness,
        seed: u64,
        given: &Given<'_>,
    ) -> Result<Self> {
        method.check()?;
        let task = task.into();
        let saved = saved(method, task, anatomy, strictness);
        let at = Places { anatomy, strictness, seed, saved: &saved, given };
        let Placed { mut parts, settled } = method.place(&at)?;
        budget::check(parts.iter().map(|part| part.numbers(anatomy)).fold(0, u128::saturating_add), anatomy)?;
        let family = method.family();
        let targets = parts.iter().flat_map(|part| part.targets());
        if let Some((both, _)) = targets.into_iter().find(|(module, _)| targets::is_whole(module, settled.modules_to_save())) {
            return Err(Error::invalid(format!("{both} is a target, and is trained as a whole as well"))
                .with_hint("leave it out of the targets, or out of the modules to save; their names are compared from the end"));
        }
        let at = Places { saved: settled.modules_to_save(), ..at };
        parts.extend(trained::modules(&at, &settled, task, family)?);
        parts.extend(trained::given(&at, family));
        Ok(Self { parts, settled })
    }

    /// A stack of adapters in a graph, where one of some method would be.
    pub(crate) fn of_stack(stack: Stack, settled: &Method) -> Self {
        Self { parts: vec![boxed(stack)], settled: settled.clone() }
    }

    /// What the adapter makes of projections, each by its place in the anatomy.
    ///
    /// # Errors
    /// An adapter that is more than updates of low rank; tensors that are missing.
    pub fn changes<'g>(&self, b: &'g Builder, graph: &Graph, anatomy: &Anatomy, given: &'g Given<'g>) -> Result<BTreeMap<usize, Change>> {
        let requantised = Cell::default();
        let at = Folding { b, graph, anatomy, given, requantised: &requantised };
        let mut all: BTreeMap<usize, Change> = BTreeMap::new();
        for part in &self.parts {
            let more = || Error::unsupported("this adapter beside others in one batch", "it is more than updates of low rank");
            for (place, change) in part.changes(&at)?.ok_or_else(more)? {
                let sum = match all.remove(&place) {
                    Some(before) => before.and(change)?,
                    None => change,
                };
                all.insert(place, sum);
            }
        }
        Ok(all)
    }

    /// The method with what was found written down, so that PEFT comes to the same: targets, heads, sizes, the order of axes.
    #[must_use]
    pub fn settled(&self) -> &Method {
        &self.settled
    }

    /// The modules that the method attaches to, with the length of its inner axis, 0 if it has none.
    #[must_use]
    pub fn targets(&self) -> Vec<(String, usize)> {
        self.parts.iter().flat_map(|part| part.targets()).collect()
    }

    /// The names of the base's parameters that are trained as a whole.
    #[must_use]
    pub fn trained(&self) -> Vec<String> {
        self.parts.iter().flat_map(|part| part.trained()).collect()
    }

    /// The modules that the method has to do with.
    #[must_use]
    pub fn touched(&self) -> BTreeSet<String> {
        let whole = self.parts.iter().flat_map(|part| part.trained().into_iter().chain(part.replaced()));
        let owners = whole.filter_map(|name| name.rsplit_once('.').map(|(owner, _)| owner.to_owned()));
        self.targets().into_iter().map(|(target, _)| target).chain(owners).collect()
    }

    /// Whether the method has to do with modules at all.
    #[must_use]
    pub fn touches_modules(&self) -> bool {
        self.parts.iter().any(|part| !(part.targets().is_empty() && part.trained().is_empty() && part.replaced().is_empty()))
    }

    /// Whether the method has to do with keys and values.
    #[must_use]
    pub fn touches_attention(&self) -> bool {
        self.parts.iter().any(|part| part.touches_attention())
    }

    /// Share of activations that are dropped while training.
    #[must_use]
    pub fn dropout(&self) -> f64 {
        self.parts.iter().map(|part| part.dropout()).fold(0.0, f64::max)
    }

    /// Positions that virtual tokens take from those the model has.
    #[must_use]
    pub fn virtual_tokens(&self) -> usize {
        self.parts.iter().map(|part| part.virtual_tokens()).sum()
    }

    /// In a graph for training: the positions in front of those that have labels.
    #[must_use]
    pub fn positions_without_label(&self) -> usize {
        self.parts.iter().map(|part| part.positions_without_label()).sum()
    }

    /// Whether there is something that cannot be folded into the base's constants: a merged model has it in its graph.
    #[must_use]
    pub fn is_baked(&self) -> bool {
        self.parts.iter().any(|part| part.is_baked())
    }

    /// Writes the method's part into a graph that starts from `graph`.
    ///
    /// # Errors
    /// Parameters that cannot be trained because of how they are stored; places that are written in a way that is not known; given tensors of
    /// the wrong shape are found by the builder.
    pub fn insert<'g>(
        &self,
        b: &'g Builder,
        graph: &Graph,
        anatomy: &Anatomy,
        given: &'g Given<'g>,
        purpose: Purpose<'g>,
    ) -> Result<Vec<Param>> {
        let params = Params::new(b, given, purpose.form());
        let at = Insertion { b, graph, anatomy, params: &params, purpose };
        for part in &self.parts {
            part.insert(&at)?;
        }
        if purpose.is_training() {
            let penalties = self.parts.iter().filter_map(|part| b.scoped("penalty", || part.penalty(&at)));
            if let Some(penalty) = penalties.reduce(|sum, next| sum + next) {
                b.output(PENALTY, penalty);
            }
        }
        Ok(params.finish())
    }

    /// Writes everything into a graph as constants beside the base's weights, which stay as they are.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn bake<'g>(&self, b: &'g Builder, graph: &Graph, anatomy: &Anatomy, given: &'g Given<'g>) -> Result<()> {
        self.insert(b, graph, anatomy, given, Purpose::Merged).map(|_| ())
    }

    /// Makes a merged model of a graph whose values have the ids that `anatomy` was read with: folds the adapter into the weights, and
    /// writes what cannot be folded into the graph. Quantised weights are rounded again; the answer is what that cost.
    ///
    /// # Errors
    /// A tensor of the adapter that is missing; a weight that is not stored as plain floats.
    pub fn merge<'g>(&self, b: &'g Builder, graph: &Graph, anatomy: &Anatomy, given: &'g Given<'g>) -> Result<Requantised> {
        let requantised = Cell::default();
        let params = Params::new(b, given, Purpose::Merged.form());
        for part in &self.parts {
            if part.is_baked() {
                part.insert(&Insertion { b, graph, anatomy, params: &params, purpose: Purpose::Merged })?;
            } else {
                part.fold(&Folding { b, graph, anatomy, given, requantised: &requantised })?;
            }
        }
        Ok(requantised.get())
    }
}

/// The names of modules that are trained as a whole: those that were asked for, and the task's heads. PEFT knows no heads of tasks that it
/// does not tell apart, nor of adapters without a `task_type`: they name them, or have none.
fn saved(method: &Method, task: Option<Task>, anatomy: &Anatomy, strictness: Strictness) -> Vec<String> {
    let task = task.filter(|task| strictness == Strictness::Every || task.task_type().is_some());
    let heads = task.map_or(&[][..], Task::heads);
    let of_head =
        |head: &&&str| anatomy.parameters.iter().filter(|p| targets::is_saved(&p.name, head)).map(|p| p.floats).collect::<Vec<_>>();
    let heads = heads.iter().filter(|head| {
        let floats = of_head(head);
        if floats.contains(&false) {
            tracing::warn!("{head} is quantised and stays frozen; PEFT would train it as a whole");
        }
        !floats.is_empty() && !floats.contains(&false)
    });
    let mut saved: Vec<String> = method.modules_to_save().iter().cloned().chain(heads.map(|&head| head.to_owned())).collect();
    saved.sort();
    saved.dedup();
    saved
}
