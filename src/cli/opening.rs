//! Models and bundles, opened to answer rows.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::Which;
use crate::adapter::config::{Pooling, Task};
use crate::anatomy;
use crate::contract::GraphName;
use crate::data::ColumnMap;
use crate::error::{Context, Error, Result};
use crate::export::objective::{self, LossRequest};
use crate::export::{Bundle, INFERENCE, adapter_file};
use crate::files;
use crate::model::Model;
use crate::onnx::Runnable;
use crate::predict::Opened;
use crate::train::prediction;
use crate::training::Source;

/// What is opened, and how its rows are read.
pub(super) struct Opening<'a> {
    pub model: &'a Path,
    pub base: Option<&'a Path>,
    pub which: &'a Which,
    pub tokenizer: Option<&'a Path>,
    pub task: Option<Task>,
    pub pooling: Option<Pooling>,
    pub normalize: Option<bool>,
    pub columns: ColumnMap,
    pub max_length: Option<NonZeroUsize>,
    pub stride: Option<usize>,
}

impl Opening<'_> {
    /// Opens it.
    ///
    /// # Errors
    /// A bundle that is not whole; a model that is not for the task; options that a bundle knows itself.
    pub(super) fn open(&self) -> Result<Opened> {
        if self.model.is_dir() { of_bundle(self) } else { of_model(self) }
    }

    fn read(&self, source: Source) -> Source {
        source.mapped(&self.columns).cut(self.max_length).parted(self.stride)
    }
}

fn of_bundle(args: &Opening<'_>) -> Result<Opened> {
    let bundle = args.which.open(args.model, args.base)?;
    let told = [("--task", args.task.is_some()), ("--pooling", args.pooling.is_some()), ("--normalize", args.normalize.is_some())];
    if let Some((option, _)) = told.iter().find(|(_, is_given)| *is_given) {
        let error = Error::invalid(format!("{option} with a bundle, which knows it")).in_file(args.model);
        return Err(error.with_hint("leave it out, or inject another bundle with it"));
    }
    let manifest = bundle.manifest();
    let source = args.read(Source::of(&bundle, args.tokenizer)?);
    let reads = source.task().row().reads;
    let places = [args.model.join("inference.onnx"), bundle.model().to_path_buf()];
    let (loss, class_names) = (manifest.loss.clone(), manifest.class_names.clone());
    let whole = {
        let bundle = bundle.clone();
        move || Ok((bundle.runnable(INFERENCE)?, bundle.manifest().logits.clone()))
    };
    let graph = move || of_evaluation(&bundle, reads);
    let (stop, places) = (stops(&source, &places)?, places.to_vec());
    Ok(Opened { source, loss, class_names, stop, places, whole: Box::new(whole), graph: Box::new(graph) })
}

fn of_evaluation(bundle: &Bundle, reads: anatomy::Reads) -> Result<(Runnable, Option<Vec<f32>>)> {
    let graph = prediction::of_evaluation(&bundle.graph(GraphName::Evaluation)?, reads).in_file(bundle.folder())?;
    let vector = adapter_file::read(bundle.adapter(), bundle.manifest())?;
    Ok((Runnable::of(&graph, &bundle.folder().join("evaluation.onnx"))?, Some(vector)))
}

fn of_model(args: &Opening<'_>) -> Result<Opened> {
    let model = Model::open(args.model)?;
    let (graph, anatomy) = (model.graph(), model.anatomy());
    let decision = anatomy::decide(graph, anatomy, &model.declared()?, args.task).in_file(args.model)?;
    if let Some(doubt) = decision.doubt {
        tracing::warn!("answered for {}, as asked, but {doubt}", decision.task);
    }
    let source = args.read(Source::of_model(&model, decision.task, args.tokenizer)?);
    let asked = LossRequest { pooling: args.pooling, normalize: args.normalize, ..LossRequest::default() };
    let settled = objective::settle(&asked, decision.task, model.beside(), graph, anatomy).in_file(args.model)?;
    let class_names = source.class_names().to_vec();
    let stop = stops(&source, &[args.model.to_path_buf()])?;
    let logits = anatomy.head.as_ref().map(|head| graph.value_name(head.output).to_owned());
    let path = args.model.to_path_buf();
    let whole = {
        let path = path.clone();
        move || {
            let unknown = || Error::unsupported("predicting with this model", "it has no output that looks like logits").in_file(&path);
            Ok((Runnable::from(&path), logits.clone().ok_or_else(unknown)?))
        }
    };
    let graph = move || {
        let reads = decision.task.row().reads;
        let graph = prediction::of_model(model.graph(), model.anatomy(), &settled.objective, reads).in_file(&path)?;
        Ok((Runnable::of(&graph, &path)?, None))
    };
    let places = vec![args.model.to_path_buf()];
    Ok(Opened { source, loss: settled.plan, class_names, stop, places, whole: Box::new(whole), graph: Box::new(graph) })
}

/// Tokens that end a text which a language model writes.
fn stops(source: &Source, places: &[PathBuf]) -> Result<Vec<i32>> {
    let Some(tokenizer) = source.tokenizer() else { return Ok(vec![]) };
    let folders: Vec<PathBuf> = places.iter().flat_map(|place| files::near::folders(place)).collect();
    Ok(tokenizer.stops(&folders)?.into_iter().chain(tokenizer.end_of_turn()).collect())
}
