//! Graphs in which rows of one batch have different adapters, and adapters for them.

use super::cache;
use super::injection::{AdapterSource, Fitted, Injection, adapted, fitted};
use super::objective::{self, LossRequest};
use crate::adapter::config::{NewHead, Task};
use crate::adapter::stack::{self, Changes, Sites, Stack};
use crate::adapter::{Given, Plan, Purpose};
use crate::ir::{Builder, Graph};
use crate::model::{Base, Model};
use crate::peft::AdapterFiles;
use crate::train::plan::LossPlan;
use crate::train::prediction;
use crate::{Context, Result};

/// An adapter for a stack.
#[derive(Clone, Debug)]
pub struct Stackable {
    /// What it changes.
    pub changes: Changes,
    /// The head that it stands on, where that is not the base's.
    pub new_head: Option<NewHead>,
}

/// An adapter as changes of a model's projections.
///
/// # Errors
/// An adapter that does not fit the model, or that is more than updates of low rank.
pub fn stackable(model: Model, files: AdapterFiles, task: Task) -> Result<Stackable> {
    let asked = Injection { adapter: AdapterSource::Memory(files), task: Some(task), ..Injection::default() };
    let Fitted { model, given, new_head, sites, plan, .. } = fitted(model, &asked)?;
    let base = &model.base;
    let lookup = |key: &str| given.as_ref().and_then(|files| files.tensor(key)).cloned();
    let b = Builder::on(&base.graph);
    let changes = plan.changes(&b, &base.graph, &base.anatomy, &lookup).in_file(model.name())?;
    Ok(Stackable { changes: changes.into_iter().map(|(place, change)| (sites[place].clone(), change)).collect(), new_head })
}

/// A model that computes rows with adapters of their own, with what the task reads of it where that is asked for.
///
/// # Errors
/// A model that computes a fixed number of rows, or whose projections do not have the batch first.
pub fn graph(model: Model, sites: &Sites, asked: &Asked<'_>) -> Result<Graph> {
    let injection = Injection { new_head: asked.new_head.cloned(), task: Some(asked.task), ..Injection::default() };
    let Fitted { model, plan, sites: names, .. } = fitted(model, &injection)?;
    let base = &model.base;
    let stacked =
        |base: &Base, names: Vec<String>| -> Result<Plan> { Ok(Plan::of_stack(Stack::new(sites, names, &base.anatomy)?, plan.settled())) };
    let none: &Given<'_> = &|_| None;
    let Some(loss) = asked.loss else {
        let made = adapted(base, &stacked(base, names)?, none, Purpose::Inference).in_file(model.name())?.0;
        let with_cache =
            |cached: &mut Base| Ok(adapted(cached, &stacked(cached, stack::names(&cached.anatomy))?, none, Purpose::Inference)?.0);
        return cache::kept(base, made, with_cache).in_file(model.name());
    };
    let (pooling, normalize) = (loss.vector.map(|vector| vector.pooling), loss.vector.map(|vector| vector.normalize));
    let request = LossRequest { pooling, normalize, ..LossRequest::default() };
    let settled = objective::settle(&request, asked.task, &model.beside, &base.graph, &base.anatomy)?;
    let b = Builder::on(base.trained());
    stacked(base, names)?.insert(&b, base.trained(), &base.anatomy, none, Purpose::Training(None)).in_file(model.name())?;
    prediction::written(b, base.trained(), &base.anatomy, &settled.objective, asked.task.row().reads).in_file(model.name())
}

/// What a graph of a stack is for.
pub struct Asked<'a> {
    /// The task.
    pub task: Task,
    /// The head to put on the model.
    pub new_head: Option<&'a NewHead>,
    /// The loss, where what it reads is wanted; none where the model's own outputs are.
    pub loss: Option<&'a LossPlan>,
}
