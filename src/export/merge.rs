//! Merged models: the adapter folded into the base's weights, everything else as it was.

pub mod files;

use std::path::Path;

use super::cache;
use super::manifest::Manifest;
use super::opened::Bundle;
use super::prompt_scale;
use crate::adapter::config::Task;
use crate::adapter::targets::Strictness;
use crate::adapter::targets::{align_names, split_modules};
use crate::adapter::{Given, Plan, Requantised};
use crate::ir::{Builder, DType, Graph};
use crate::model::{Base, Model, class_names, finite};
use crate::onnx::{self, Storage, WriteOptions};
use crate::peft::{self, AdapterFiles};
use crate::{Context, Error, Result};

/// Where the merged model's weights go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Weights {
    /// As the base has them: inside the model's file, or in one file beside it.
    #[default]
    AsBase,
    /// Inside the model's file.
    Inline,
    /// In one file beside the model.
    External,
}

/// What becomes of an adapter of quantised weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantised {
    /// It stays beside them, which is exact.
    #[default]
    Beside,
    /// It is folded into them; they are rounded again.
    Requantised,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Report {
    /// The bundle.
    pub bundle: Bundle,
    /// The number of modules whose weights were changed.
    pub modules: usize,
    /// The coarsest type of the base's weights.
    pub precision: DType,
    /// What rounding quantised weights again cost.
    pub requantised: Requantised,
}

/// The base with the adapter in it: folded into its weights; beside them where they are quantised, which is exact.
fn merged(base: &Base, plan: &Plan, given: &Given<'_>, quantised: Quantised) -> Result<(Graph, Requantised)> {
    let is_quantised = !plan.targets().iter().all(|(module, _)| base.is_foldable(module));
    if is_quantised && quantised == Quantised::Beside {
        let (graph, anatomy) = base.carrier(plan);
        let b = Builder::on(graph);
        plan.bake(&b, graph, &anatomy, given)?;
        let merged = b.finish()?;
        finite::still(graph, &merged)?;
        return Ok((merged, Requantised::default()));
    }
    // What is written into the graph is written in the dialect spoken inside.
    let (start, anatomy) = if plan.is_baked() { base.carrier(plan) } else { (&base.raw, base.anatomy.clone()) };
    let b = Builder::on(start);
    let requantised = plan.merge(&b, start, &anatomy, given)?;
    let merged = b.finish_changed(start)?;
    finite::still(start, &merged)?;
    Ok((merged, requantised))
}

/// What `merge` is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The bundle, with the adapter that is folded in.
    pub bundle: &'a Bundle,
    /// The model to write.
    pub output: &'a Path,
    /// Where its weights go.
    pub weights: Weights,
    /// The name of the file beside the model with its weights, where they go there; none: the model's name with `.data` behind it.
    pub data: Option<&'a str>,
    /// What becomes of an adapter of quantised weights.
    pub quantised: Quantised,
    /// An output that is written under another name as well, and that name.
    pub renamed: Option<(&'a str, &'a str)>,
}

impl<'a> Request<'a> {
    /// A bundle and the model to write; weights go where the base has its own, and an adapter of quantised weights stays beside them.
    #[must_use]
    pub fn new(bundle: &'a Bundle, output: &'a Path) -> Self {
        Self { bundle, output, weights: Weights::default(), data: None, quantised: Quantised::default(), renamed: None }
    }
}

/// A model with an adapter folded into it.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The graph.
    pub graph: Graph,
    /// The number of modules whose weights were changed.
    pub modules: usize,
    /// The coarsest type of the base's weights.
    pub precision: DType,
    /// What rounding quantised weights again cost.
    pub requantised: Requantised,
}

/// Folds an adapter, of a bundle with this manifest, into its base.
///
/// # Errors
/// An adapter that does not fit the model; weights that are not plain floats.
pub fn merge(model: Model, manifest: &Manifest, files: &AdapterFiles, quantised: Quantised) -> Result<Merged> {
    let name = model.name().to_path_buf();
    let mut base = model.base;
    if !base.stilled.is_none() {
        tracing::warn!("the merged model is in inference mode, unlike its base: {}", base.stilled);
    }
    let task = Task::from_name(&manifest.task).ok_or_else(|| Error::not_found("task", &*manifest.task))?;
    finite::warn(&base.raw);
    if let Some(head) = &files.config.new_head {
        // Whatever it starts from, the adapter has its trained parameters.
        base = base.with_head(head, task, 0).in_file(&name)?.base;
    }
    let given = |key: &str| files.tensors.get(key).cloned();
    let planned = |base: &mut Base| {
        align_names::follow(&mut base.anatomy, &files.keys(), files.config.new_head.as_ref().and_then(|head| head.modules.as_ref()));
        if let Some(side) = manifest.prompt_scale {
            prompt_scale::apply(&mut base.anatomy, side);
        }
        split_modules::join(&mut base.anatomy, files.config.method.scope(), files.config.method.takes_parts())?;
        Plan::new(&files.config.method, files.config.task, &base.anatomy, Strictness::AsPeft, 0, &given)
    };
    let plan = planned(&mut base).in_file(&name)?;
    let (without_cache, requantised) = merged(&base, &plan, &given, quantised).in_file(&name)?;
    if quantised == Quantised::Requantised && requantised.weights == 0 {
        let error = Error::setting("requantize", "an adapter of quantised weights", "none among those that it changes").in_file(&name);
        return Err(error.with_hint("leave it out: it would do nothing here"));
    }
    let with_cache = |cached: &mut Base| {
        let plan = planned(cached)?;
        Ok(merged(cached, &plan, &given, quantised)?.0)
    };
    let graph = cache::kept(&base, without_cache, with_cache).in_file(&name)?;
    let graph = class_names::written(graph, manifest.classes, &manifest.class_names, files.config.new_head.is_some())?;
    Ok(Merged { graph, modules: plan.targets().len() + plan.trained().len(), precision: base.precision(), requantised })
}

impl Bundle {
    /// The base with the adapter folded into it, as a graph.
    ///
    /// # Errors
    /// As [`merge`].
    pub fn merged(&self) -> Result<Graph> {
        Ok(merge(self.base()?, self.manifest(), &self.files()?, Quantised::default())?.graph)
    }
}

/// A graph that gives an output under another name as well.
fn with_output(graph: &Graph, own: &str, other: &str) -> Result<Graph> {
    let b = Builder::on(graph);
    let value = b.output_named(own).ok_or_else(|| Error::not_found("output", own))?;
    b.output(other, value.identity());
    b.finish_whole()
}

/// Folds a bundle's adapter into its base and writes the model, complete in itself. `model` is the bundle's base, read.
///
/// # Errors
/// A bundle that is not whole; an adapter that does not fit the model; weights that are not plain floats.
pub fn write(model: Model, request: &Request<'_>) -> Result<Report> {
    let Request { bundle: opened, output, weights, data, quantised, renamed } = *request;
    let external = onnx::has_external(&model.base.raw, opened.model())?;
    let files = peft::read(opened.adapter())?;
    let Merged { graph, modules, precision, requantised } = merge(model, opened.manifest(), &files, quantised)?;
    let graph = renamed.map_or_else(|| Ok(graph.clone()), |(own, other)| with_output(&graph, own, other))?;
    let stem = output.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let data = data.map_or_else(|| format!("{stem}.data"), ToOwned::to_owned);
    let storage = match (weights, external) {
        (Weights::Inline, _) | (Weights::AsBase, false) => Storage::Inline,
        (Weights::External, _) | (Weights::AsBase, true) => Storage::External { file: data },
    };
    onnx::write(&graph, output, &WriteOptions { storage })?;
    Ok(Report { modules, precision, requantised, bundle: opened.clone() })
}
