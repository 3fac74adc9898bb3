//! Models and bundles as they are opened to answer rows.

use std::path::PathBuf;

use crate::adapter::config::Task;
use crate::anatomy;
use crate::contract::GraphName;
use crate::error::{Context, Error, Result};
use crate::export::objective::{self, LossRequest};
use crate::export::{Bundle, INFERENCE};
use crate::files;
use crate::model::Model;
use crate::model::parts::Files;
use crate::onnx::Runnable;
use crate::train::plan::LossPlan;
use crate::train::{logits, prediction};
use crate::training::{Source, as_tuned};

/// A model and what is known of it.
pub struct Opened {
    /// How rows are read.
    pub source: Source,
    /// What is minimised in training, which says how scores are meant.
    pub loss: LossPlan,
    /// The names of the classes in the order of their numbers.
    pub class_names: Vec<String>,
    /// The whole model, with logits of this name, for tasks that ask for words.
    pub whole: Box<dyn Fn() -> Result<Whole>>,
    /// The graph that gives what the task reads, and its trainable vector, if it has one.
    pub graph: Box<dyn Fn() -> Result<Read>>,
    /// Tokens that end a text.
    pub stop: Vec<i32>,
    /// Where the model's configurations lie.
    pub places: Vec<PathBuf>,
}

/// A whole model, and the name of its logits.
pub type Whole = (Runnable, String);

/// A graph that gives what a task reads, and its trainable vector.
pub type Read = (Runnable, Option<Vec<f32>>);

impl Opened {
    /// A bundle with its adapter.
    ///
    /// # Errors
    /// A tokenizer's configuration that cannot be read.
    pub fn of_bundle(bundle: Bundle, source: Source) -> Result<Self> {
        let manifest = bundle.manifest();
        let reads = source.task().row().reads;
        let places = bundle.places();
        let (loss, class_names, stop) = (manifest.loss.clone(), manifest.class_names.clone(), stops(&source, &places)?);
        let whole = {
            let bundle = bundle.clone();
            move || Ok((bundle.runnable(INFERENCE)?, bundle.manifest().logits.clone()))
        };
        let graph = move || of_evaluation(&bundle, reads);
        Ok(Self { source, loss, class_names, stop, places, whole: Box::new(whole), graph: Box::new(graph) })
    }

    /// A plain model, for the task that `told` names where it names one, else for what the model is for; `read` says how its rows are read.
    ///
    /// # Errors
    /// A model that cannot be read, is not for the task, or does not say for which it is.
    pub fn of_model(
        files: &Files,
        told: impl FnOnce(&Model) -> Result<Option<Task>>,
        asked: &LossRequest,
        read: impl FnOnce(&Model, Task) -> Result<Source>,
    ) -> Result<Self> {
        let (model, path) = (Model::open_files(files)?, files.model.as_path());
        let (graph, anatomy) = (model.graph(), model.anatomy());
        let decision = anatomy::decide(graph, anatomy, &model.declared()?, told(&model)?).in_file(path)?;
        if let Some(doubt) = decision.doubt {
            tracing::warn!("answered for {}, as asked, but {doubt}", decision.task);
        }
        let asked = as_tuned(asked, model.beside(), decision.task)?;
        let settled = objective::settle(&asked, decision.task, model.beside(), graph, anatomy).in_file(path)?;
        let source = read(&model, decision.task)?.learning(&settled.plan);
        let class_names = source.class_names().to_vec();
        let places = model.places();
        let stop = stops(&source, &places)?;
        let output = anatomy.head.as_ref().map(|head| graph.value_name(head.output).to_owned());
        let path = path.to_path_buf();
        let whole = {
            let (path, model) = (path.clone(), model.clone());
            let reads_scores = decision.task == Task::MaskedLm || decision.task.row().reads == anatomy::Reads::TokenLogProbs;
            move || {
                // What gives probabilities alone has its logits inside.
                let shown = if reads_scores { logits::shown(model.graph(), model.anatomy())? } else { None };
                if let Some(shown) = shown {
                    return Ok((Runnable::of(&shown, &path)?, logits::SHOWN.to_owned()));
                }
                let unknown = || Error::unsupported("predicting with this model", "it has no output that looks like logits").in_file(&path);
                Ok((model.runnable()?, output.clone().ok_or_else(unknown)?))
            }
        };
        let graph = move || {
            let reads = decision.task.row().reads;
            let graph = prediction::of_model(model.graph(), model.anatomy(), &settled.objective, reads).in_file(&path)?;
            Ok((Runnable::of(&graph, &path)?, None))
        };
        Ok(Self { source, loss: settled.plan, class_names, stop, places, whole: Box::new(whole), graph: Box::new(graph) })
    }
}

fn of_evaluation(bundle: &Bundle, reads: anatomy::Reads) -> Result<Read> {
    let graph = prediction::of_evaluation(&bundle.graph(GraphName::Evaluation)?, reads).in_file(bundle.folder())?;
    Ok((Runnable::of(&graph, &bundle.folder().join("evaluation.onnx"))?, Some(bundle.trainable()?)))
}

/// Tokens that end a text which a language model writes.
fn stops(source: &Source, places: &[PathBuf]) -> Result<Vec<i32>> {
    let Some(tokenizer) = source.tokenizer() else { return Ok(vec![]) };
    let folders: Vec<PathBuf> = places.iter().flat_map(|place| files::near::folders(place)).collect();
    Ok(tokenizer.stops(&folders)?.into_iter().chain(tokenizer.end_of_turn()).collect())
}
