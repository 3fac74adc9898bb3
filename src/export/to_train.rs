//! The graphs of training, made of an adapted base.

use std::collections::HashMap;

use crate::Result;
use crate::adapter::params::dropout::Masks;
use crate::adapter::{Allocation, Constraint, Param, Plan, Purpose};
use crate::contract::{GraphName, Input};
use crate::ir::{Builder, DType, Graph, Tensor};
use crate::model::Base;
use crate::train::cached;
use crate::train::objective::{Model, Objective};
use crate::train::optimizer::{self, AdamW, Update};
use crate::train::recompute::Recompute;
use crate::train::step::{self, Backward};
use crate::train::verbalizer::HardPrompt;

/// What a graph is given to as soon as it is made.
pub type Put<'p> = dyn FnMut(GraphName, Graph) -> Result<()> + 'p;

/// What the graphs of training are made of.
pub(super) struct ToTrain<'a> {
    pub base: &'a Base,
    pub plan: &'a Plan,
    pub objective: &'a Objective,
    pub params: &'a [Param],
    pub hard_prompt: Option<&'a HardPrompt>,
    pub allocation: Option<Allocation>,
    pub constraints: Vec<Constraint>,
    pub recompute: Recompute,
}

impl ToTrain<'_> {
    /// Gives `put` training, the gradient alone, the update alone, and the loss alone; `without` has no dropout.
    pub(super) fn graphs(&self, without: &Graph, put: &mut Put<'_>) -> Result<()> {
        let update = Update { adamw: AdamW::default(), allocation: self.allocation.clone(), constraints: self.constraints.clone() };
        let count = self.params.iter().map(|param| param.initial.len()).sum();
        let with_dropout = if self.plan.dropout() > 0.0 { Some(self.with_dropout()?) } else { None };
        let learnt = with_dropout.as_ref().map_or_else(|| self.model(without, self.params), |(graph, params)| self.model(graph, params));
        if let Objective::Formula(formula) = self.objective
            && formula.loss.whole_batch
        {
            put(GraphName::Encode, cached::encode_graph(learnt, formula)?)?;
            put(GraphName::Loss, cached::loss_graph(formula)?)?;
            put(GraphName::Vjp, cached::vjp_graph(learnt, formula)?)?;
        }
        let backward = Backward::new(learnt)?;
        put(GraphName::Training, backward.training_graph(&update)?)?;
        put(GraphName::Gradient, backward.gradient_graph()?)?;
        drop(backward);
        put(GraphName::Update, optimizer::update_graph(&update, count)?)?;
        put(GraphName::Evaluation, step::evaluation_graph(self.model(without, self.params))?)
    }

    /// The adapted base with masks of dropout, which depend on the step, and what is trained in it.
    fn with_dropout(&self) -> Result<(Graph, Vec<Param>)> {
        let b = Builder::on(self.base.trained());
        let masks = Masks::new(&b, b.input(Input::Step.name(), DType::I64, &[]));
        let values: HashMap<&str, &Tensor> = self.params.iter().map(|param| (param.key.as_str(), &param.initial)).collect();
        let as_stored = |key: &str| values.get(key).copied().cloned();
        let params = self.plan.insert(&b, self.base.trained(), &self.base.anatomy, &as_stored, Purpose::Training(Some(masks)))?;
        Ok((b.finish()?, params.into_iter().filter(Param::is_trained).collect()))
    }

    pub(super) fn model<'a>(&'a self, graph: &'a Graph, params: &'a [Param]) -> Model<'a> {
        Model {
            graph,
            base: self.base.trained(),
            anatomy: &self.base.anatomy,
            params,
            objective: self.objective,
            positions_without_label: self.plan.positions_without_label(),
            virtual_tokens: self.plan.virtual_tokens(),
            hard_prompt: self.hard_prompt,
            recompute: self.recompute,
        }
    }
}
