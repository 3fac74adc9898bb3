//! The loss of a bundle: settled from what was asked for, the task, and the files beside the model; and found in the graph.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub use super::loss_request::{LossRequest, LossSource};
use super::{loss_request, reach, recorded_prompts};
use crate::adapter::config::{Pooling, Task};
use crate::adapter::new_head;
use crate::anatomy::{self, Anatomy, Ending, Reads};
use crate::ir::{Graph, ValueId};
use crate::model::{Beside, Model, class_names, declared, plain};
use crate::train::distillation;
use crate::train::formula::Formula;
use crate::train::loss_graph::LossGraph;
use crate::train::losses::{LABELS, Row};
use crate::train::objective::{Objective, Tokens};
use crate::train::plan::{GRAPH, LossPlan};
use crate::train::pooling::SentenceVector;
use crate::{Context, Error, Result, onnx};

/// A loss found in a graph.
pub struct Settled {
    /// What the manifest keeps.
    pub plan: LossPlan,
    /// What the graphs of training are written with.
    pub objective: Objective,
}

impl Settled {
    /// Columns of the data that the graphs of training have as inputs, beside those that the model has.
    pub fn columns(&self) -> impl Iterator<Item = String> + '_ {
        let of_formula = match &self.objective {
            Objective::Formula(formula) => formula.loss.columns.iter().map(|column| column.name.to_owned()).collect(),
            _ => vec![],
        };
        let reads = if let Objective::Formula(formula) = &self.objective { formula.loss.reads } else { Reads::Vocabulary };
        let teacher = self.plan.distillation.into_iter().flat_map(move |_| distillation::inputs(reads)).map(|name| (*name).to_owned());
        of_formula.into_iter().filter(|name| name != LABELS).chain(teacher).chain(self.plan.columns.iter().cloned())
    }
}

/// Settles the loss of a task.
///
/// # Errors
/// A loss or an option that the task does not have; outputs that the loss reads and the graph does not give.
pub fn settle(asked: &LossRequest, task: Task, beside: &Beside, graph: &Graph, anatomy: &Anatomy) -> Result<Settled> {
    if let Some(source) = &asked.graph {
        loss_request::check(asked, task, None)?;
        let settled = of_graph(asked, source)?;
        let recorded_prompts = if task == Task::Embedding { recorded_prompts::of(beside)? } else { vec![] };
        return Ok(Settled { plan: LossPlan { recorded_prompts, ..settled.plan }, ..settled });
    }
    let row = task.row();
    let name = match &asked.name {
        Some(name) if row.losses.contains(&name.as_str()) => name.clone(),
        Some(name) => {
            let hint = format!("losses of {task} are {}; `loss_graph FILE` brings any other", row.losses.join(", "));
            return Err(Error::not_found("loss", name.as_str()).with_hint(hint));
        }
        None => row.losses[0].to_owned(),
    };
    loss_request::check(asked, task, Some(&name))?;
    if asked.teacher.is_some() && asked.distillation.is_none() && !distillation::is_of_texts(row.reads, &name) {
        let error = Error::setting("teacher", "`distill_weight` beside it, the teacher's share of the loss", "none");
        return Err(error.with_hint("`distill_weight 0.5` learns from labels and teacher alike, 1 from the teacher alone"));
    }
    let mut plan = LossPlan {
        name,
        options: BTreeMap::new(),
        vector: None,
        matryoshka: asked.matryoshka.clone(),
        class_weights: asked.class_weights.clone(),
        balances_classes: asked.balances_classes,
        label_smoothing: asked.label_smoothing,
        distillation: asked.distillation,
        teacher: None,
        prompts: asked.prompts.clone(),
        recorded_prompts: vec![],
        tells_logits: task == Task::Rerank && declared::tells_logits(beside)?,
        columns: vec![],
        is_of_batch: false,
    };
    let classes = anatomy.head.as_ref().and_then(|head| head.classes).and_then(|classes| usize::try_from(classes).ok());
    plan.check(task, classes)?;
    reach::check(&plan, task, graph, anatomy)?;
    let is_plain = plan.is_plain_cross_entropy();
    let objective = match row.reads {
        Reads::Vocabulary => {
            let tokens = Tokens { classes: plan.class_terms(classes), distillation: plan.distillation };
            if task == Task::CausalLm { Objective::NextToken(tokens) } else { Objective::EachToken(tokens) }
        }
        Reads::Logits if is_plain => Objective::Sequence,
        reads => {
            let loss = Row::named(reads, &plan.name)?;
            plan.options = loss.options(&declared_options(reads, beside)?.into_iter().chain(asked.options.clone()).collect())?;
            let (outputs, vector) = match numbers_given(reads, &plan, graph, anatomy)? {
                Some(numbers) => (vec![numbers], None),
                None => outputs(reads, asked, beside, graph, anatomy)?,
            };
            plan.vector = vector;
            let is_mean = vector.is_some_and(|vector| vector.pooling == Pooling::Mean);
            if !plan.prompts.is_empty() && is_mean {
                check_prompts(beside)?;
            }
            if task == Task::Embedding {
                plan.recorded_prompts = recorded_prompts::of(beside)?;
            }
            if !plan.recorded_prompts.is_empty() && is_mean && check_prompts(beside).is_err() {
                tracing::warn!(
                    "the prompts of {} are left out: the model's mean leaves their tokens out (include_prompt false), and this one would count them",
                    declared::SETTINGS
                );
                plan.recorded_prompts.clear();
            }
            check_matryoshka(&plan, graph, &outputs)?;
            Objective::Formula(Formula {
                loss,
                options: plan.options.clone(),
                outputs,
                vector,
                matryoshka: plan.matryoshka.clone(),
                classes: plan.class_terms(classes),
                distillation: plan.distillation,
            })
        }
    };
    if let (Objective::NextToken(_) | Objective::EachToken(_) | Objective::Sequence, Some(option)) =
        (&objective, asked.options.keys().next())
    {
        return Err(Error::not_found("option of the loss", option.as_str()).with_hint(format!("{} has none", plan.name)));
    }
    Ok(Settled { plan, objective })
}

/// Checks before any work that a teacher has the answers that a model learns from.
///
/// # Errors
/// A teacher that cannot be read, that does not give what the loss reads, or that knows other classes than the model, whose are called `names`, or the
/// same under other numbers.
pub fn check_teacher(asked: &LossRequest, task: Task, student: &Settled, base: &Graph, anatomy: &Anatomy, names: &[String]) -> Result<()> {
    let Some(file) = &asked.teacher else { return Ok(()) };
    let teacher = Model::open(file)?;
    let (graph, of_teacher) = (teacher.graph(), teacher.anatomy());
    if task.row().reads == Reads::Embeddings {
        return check_teacher_of_texts(student, base, &teacher).in_file(file);
    }
    settle(&LossRequest::default(), task, teacher.beside(), graph, of_teacher).in_file(file)?;
    if task.row().reads == Reads::Spans {
        return Ok(());
    }
    let classes = |anatomy: &Anatomy| anatomy.head.as_ref().and_then(|head| head.classes);
    let Some(head) = &of_teacher.head else { return Err(missing(graph, "logits", "logits")).in_file(file) };
    match (classes(anatomy), head.classes) {
        (Some(wanted), Some(found)) if wanted != found => {
            let what = if task.row().reads == Reads::Vocabulary { "tokens of the teacher's vocabulary" } else { "the teacher's classes" };
            let error = Error::mismatch(what, format!("{wanted}, as the model has"), found).in_file(file);
            Err(error.with_hint("the same tokens, or classes, must have the same numbers in both: take a teacher of the same family"))
        }
        (_, classes) => same_names(names, &class_names::of_model(&teacher, task, classes)?).in_file(file),
    }
}

/// Refuses a teacher whose classes have the student's names in another order: they are compared by their numbers.
fn same_names(own: &[String], of_teacher: &[String]) -> Result<()> {
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort_unstable();
        names
    };
    if own == of_teacher || own.is_empty() || of_teacher.is_empty() {
        return Ok(());
    }
    if sorted(own) == sorted(of_teacher) {
        let error = Error::mismatch("the teacher's classes", format!("{own:?}, as the model has"), format!("{of_teacher:?}"));
        return Err(error.with_hint("the same classes must have the same numbers in both (`id2label` in config.json): write the teacher's logits into the column `teacher_logits`, in the model's order"));
    }
    tracing::warn!("the teacher calls its classes {of_teacher:?}, and the model {own:?}: they are taken for the same, by their numbers");
    Ok(())
}

/// What a teacher of texts is to a loss: one that scores pairs, where differences of scores are learnt and it has one number for a text, else one that gives vectors.
#[must_use]
pub fn task_of_teacher(anatomy: &Anatomy, loss: &str) -> Task {
    let scores = anatomy.head.as_ref().and_then(|head| head.classes) == Some(1);
    if loss == "margin-mse" && scores { Task::Rerank } else { Task::Embedding }
}

fn check_teacher_of_texts(student: &Settled, base: &Graph, teacher: &Model) -> Result<()> {
    let task = task_of_teacher(teacher.anatomy(), &student.plan.name);
    let settled = settle(&LossRequest::default(), task, teacher.beside(), teacher.graph(), teacher.anatomy())?;
    let width = |settled: &Settled, graph: &Graph| match &settled.objective {
        Objective::Formula(formula) => graph.fact(*formula.outputs.first()?).shape.as_ref()?.last()?.as_known(),
        _ => None,
    };
    match (width(student, base), width(&settled, teacher.graph())) {
        (Some(wanted), Some(found)) if wanted != found && student.plan.name == "mse" => {
            let error = Error::mismatch("numbers in the teacher's vectors", format!("{wanted}, as the model has"), found);
            Err(error.with_hint("`loss margin-mse` learns from differences of scores, whatever the vectors' length"))
        }
        _ => Ok(()),
    }
}

/// Options of a loss that the configuration beside a model tells, as transformers reads it: what it leaves out has the default of its class.
fn declared_options(reads: Reads, beside: &Beside) -> Result<BTreeMap<String, f64>> {
    let Some(config) = beside.json(declared::CONFIG)?.filter(|_| reads == Reads::Frames) else { return Ok(BTreeMap::new()) };
    let means = config["ctc_loss_reduction"].as_str() == Some("mean");
    let zero = config["ctc_zero_infinity"].as_bool() == Some(true);
    let blank = config["pad_token_id"].as_f64().unwrap_or(0.0);
    let flag = |is_set: bool| f64::from(u8::from(is_set));
    Ok([("blank", blank), ("mean", flag(means)), ("zero_infinity", flag(zero))].map(|(name, value)| (name.to_owned(), value)).into())
}

fn of_graph(asked: &LossRequest, source: &LossSource) -> Result<Settled> {
    let loss = match source {
        LossSource::File(file) => plain(&onnx::read(file)?).and_then(LossGraph::new).in_file(file)?,
        LossSource::Graph(graph) => LossGraph::new(plain(graph)?)?,
    };
    let (columns, is_of_batch) = (loss.inputs(), !loss.gives_sum());
    let plan = LossPlan { name: GRAPH.to_owned(), columns, is_of_batch, prompts: asked.prompts.clone(), ..LossPlan::default() };
    Ok(Settled { plan, objective: Objective::Graph(loss) })
}

/// What a graph gives, where a loss learns the numbers themselves and the graph makes them of scores (`sigmoid(x)`, `5 sigmoid(x)`): the scores are not what is compared
/// with the labels. None where the scores are what it gives.
fn numbers_given(reads: Reads, plan: &LossPlan, graph: &Graph, anatomy: &Anatomy) -> Result<Option<ValueId>> {
    let head = anatomy.head.as_ref().filter(|_| reads == Reads::Logits && !plan.is_of_probabilities());
    let Some((head, made)) = head.and_then(|head| if let Ending::Probabilities(made) = &head.ending { Some((head, made)) } else { None })
    else {
        return Ok(None);
    };
    if graph.fact(head.output).rank() == Some(2) {
        return Ok(Some(head.output));
    }
    let (name, fact) = (graph.value_name(head.output), graph.fact(head.output));
    let why = format!("its numbers are made of scores ({}), and have no axis of their own: {fact}", made.node);
    let error = Error::unsupported(format!("the loss {} of {name}", plan.name), why);
    Err(error.with_hint("export the model so that it gives [batch, 1]"))
}

/// The values that a loss reads.
fn outputs(
    reads: Reads,
    asked: &LossRequest,
    beside: &Beside,
    graph: &Graph,
    anatomy: &Anatomy,
) -> Result<(Vec<ValueId>, Option<SentenceVector>)> {
    match reads {
        // The head's logits.
        Reads::Vocabulary | Reads::Logits | Reads::TokenLogits | Reads::Frames | Reads::TokenLogProbs => Ok((vec![], None)),
        Reads::Spans => {
            let named = |word: &str| {
                let is_scores = |&&id: &&ValueId| graph.value_name(id).to_lowercase().contains(word) && graph.fact(id).rank() == Some(2);
                graph.outputs().iter().find(is_scores).copied()
            };
            match (named("start"), named("end")) {
                (Some(start), Some(end)) if start != end => {
                    Ok((vec![anatomy::scores_of(graph, start)?, anatomy::scores_of(graph, end)?], None))
                }
                _ => {
                    Err(missing(graph, "two outputs [batch, seq] with scores of an answer's start and end", "start_logits and end_logits"))
                }
            }
        }
        Reads::Embeddings => vectors(asked, beside, graph, anatomy).map(|(value, vector)| (vec![value], Some(vector))),
    }
}

/// The vector of each text: the one that the graph pools itself, or the states of its tokens and how they are pooled.
fn vectors(asked: &LossRequest, beside: &Beside, graph: &Graph, anatomy: &Anatomy) -> Result<(ValueId, SentenceVector)> {
    let output = |words: &[&str], rank: usize| {
        let fits = |&&id: &&ValueId| {
            graph.fact(id).rank() == Some(rank) && words.iter().any(|word| graph.value_name(id).to_lowercase().contains(word))
        };
        graph.outputs().iter().find(fits).copied()
    };
    let own = output(&["sentence_embedding", "text_embeds", "sentence_vector", "sentence_embeddings"], 2);
    let wants_own = matches!(asked.pooling, None | Some(Pooling::Nothing));
    if let Some(own) = own.filter(|_| wants_own) {
        // What the graph gives is what people search with: nothing is put on top unless it is asked for.
        return Ok((own, SentenceVector { pooling: Pooling::Nothing, normalize: asked.normalize.unwrap_or(false) }));
    }
    // What is asked for comes before what the folder says.
    let folder = if asked.pooling.is_some() { pooled_in_folder(beside).unwrap_or_default() } else { pooled_in_folder(beside)? };
    let states = output(&["last_hidden_state", "token_embeddings", "hidden"], 3).or_else(|| new_head::token_states(graph, anatomy));
    let states = states.ok_or_else(|| missing(graph, "vectors of tokens [batch, seq, hidden]", "last_hidden_state"))?;
    let causal = anatomy.attentions.iter().any(|attention| attention.causal);
    let usual = if causal { Pooling::Last } else { Pooling::Mean };
    let pooling = asked.pooling.or(folder.map(|vector| vector.pooling)).unwrap_or(usual);
    if pooling == Pooling::Nothing {
        return Err(missing(graph, "a vector of each text [batch, hidden], which `pooling none` asks for", "sentence_embedding"));
    }
    let normalize = asked.normalize.or(folder.map(|vector| vector.normalize)).unwrap_or(false);
    Ok((states, SentenceVector { pooling, normalize }))
}

fn missing(graph: &Graph, what: &str, example: &str) -> Error {
    let names: Vec<String> = graph.outputs().iter().map(|&id| format!("{}: {}", graph.value_name(id), graph.fact(id))).collect();
    Error::mismatch("outputs", what.to_owned(), names.join(", ")).with_hint(format!("export the model with {example} among its outputs"))
}

fn check_matryoshka(plan: &LossPlan, graph: &Graph, outputs: &[ValueId]) -> Result<()> {
    let width = outputs.first().and_then(|&id| graph.fact(id).shape.as_ref()?.last()?.as_known());
    let is_wrong = |length: &&i64| **length < 1 || width.is_some_and(|width| **length > width);
    match plan.matryoshka.iter().find(is_wrong) {
        None => Ok(()),
        Some(length) => {
            let most = width.map_or_else(|| "1 or more".to_owned(), |width| format!("1 to {width}, the vector's length"));
            Err(Error::setting("matryoshka_dims", most, length))
        }
    }
}

/// Checks that the tokens of prompts belong to the mean.
fn check_prompts(beside: &Beside) -> Result<()> {
    let modules = beside.objects("modules.json")?.unwrap_or_default();
    for module in &modules {
        let Some(folder) = module["path"].as_str().filter(|folder| !folder.is_empty()) else { continue };
        let file = format!("{folder}/config.json");
        if beside.json(&file)?.is_some_and(|config| config["include_prompt"].as_bool() == Some(false)) {
            let error = Error::unsupported(
                "training with prompts",
                format!("include_prompt of {file} leaves the tokens of prompts out of the mean"),
            );
            return Err(
                error.with_hint("train without prompts, or with include_prompt true, which counts their tokens in training and in use")
            );
        }
    }
    Ok(())
}

/// The poolings of sentence-transformers (`sentence_transformers/models/Pooling.py`): the flag of files before version 5.5, the name, and which it is here.
static POOLINGS: &[(&str, &str, Option<Pooling>)] = &[
    ("pooling_mode_cls_token", "cls", Some(Pooling::First)),
    ("pooling_mode_mean_tokens", "mean", Some(Pooling::Mean)),
    ("pooling_mode_lasttoken", "lasttoken", Some(Pooling::Last)),
    ("pooling_mode_max_tokens", "max", None),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", None),
    ("pooling_mode_weightedmean_tokens", "weightedmean", None),
];

/// What sentence-transformers' files beside a model say of its pooling: `modules.json`, `1_Pooling/config.json`.
pub(super) fn pooled_in_folder(beside: &Beside) -> Result<Option<SentenceVector>> {
    let Some(modules) = beside.objects("modules.json")? else { return Ok(None) };
    let of_type = |ending: &str| modules.iter().find(|module| module["type"].as_str().is_some_and(|name| name.ends_with(ending)));
    let known = [".Transformer", ".Pooling", ".Normalize"];
    let is_known = |module: &&Value| module["type"].as_str().is_some_and(|name| known.iter().any(|ending| name.ends_with(ending)));
    if let Some(other) = modules.iter().find(|module| !is_known(module)) {
        let what = format!("the module {} of modules.json", other["type"]);
        let hint = "export the model with sentence_embedding among its outputs; or `pooling` cls, mean or last says how vectors are made";
        return Err(Error::unsupported(what, "it is not part of the graph").with_hint(hint));
    }
    let Some(pooling) = of_type(".Pooling") else { return Ok(None) };
    let folder = pooling["path"].as_str().unwrap_or("1_Pooling");
    let config = beside.json(&format!("{folder}/config.json"))?.unwrap_or_default();
    let set = |name: &str| config[name].as_bool() == Some(true);
    // Since version 5.5 one name, or a list of them; before, a flag for each.
    let named: Vec<&str> = match &config["pooling_mode"] {
        Value::Array(names) => names.iter().map(|name| name.as_str().unwrap_or("?")).collect(),
        name => name.as_str().into_iter().collect(),
    };
    let flags = POOLINGS.iter().filter(|(flag, ..)| set(flag)).map(|(_, name, _)| *name);
    let chosen: BTreeSet<&str> = named.into_iter().chain(flags).collect();
    let pooling = |name: &str| POOLINGS.iter().find(|(_, known, _)| *known == name).and_then(|(.., pooling)| *pooling);
    match chosen.iter().map(|name| pooling(name)).collect::<Vec<_>>()[..] {
        [] => Ok(None),
        [Some(pooling)] => Ok(Some(SentenceVector { pooling, normalize: of_type(".Normalize").is_some() })),
        _ => {
            let names: Vec<&str> = chosen.into_iter().collect();
            let what = format!("the pooling {} of {folder}/config.json", names.join(" and "));
            Err(Error::unsupported(what, "it is none of cls, mean and last alone")
                .with_hint("`pooling` cls, mean or last says which is meant"))
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    #[test]
    fn poolings_of_every_version_of_sentence_transformers_are_read_or_refused() {
        let found = |modules: &[&str], config: Value| {
            let modules: Vec<Value> = modules.iter().map(|name| json!({"type": name, "path": "1_Pooling"})).collect();
            let files = [("modules.json", Value::Array(modules)), ("1_Pooling/config.json", config)];
            let given = files.into_iter().map(|(name, value)| (name.to_owned(), Bytes::from(value.to_string()))).collect();
            pooled_in_folder(&Beside::Given(given)).map(|vector| vector.map(|vector| (vector.pooling, vector.normalize)))
        };
        let (transformer, pooling, normalize) =
            ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling", "sentence_transformers.models.Normalize");
        let all = [transformer, pooling, normalize];
        for (config, expected) in [
            (json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}), Some(Pooling::First)),
            (json!({"pooling_mode": "mean", "embedding_dimension": 32}), Some(Pooling::Mean)),
            (json!({"pooling_mode": ["lasttoken"]}), Some(Pooling::Last)),
            (json!({"pooling_mode": "cls", "pooling_mode_cls_token": true}), Some(Pooling::First)),
            (json!({}), None),
        ] {
            let told = found(&all, config.clone()).unwrap_or_else(|error| panic!("{config}: {error}"));
            assert_eq!(told, expected.map(|pooling| (pooling, true)), "{config}");
        }
        for config in [
            json!({"pooling_mode": "max"}),
            json!({"pooling_mode": "weightedmean"}),
            json!({"pooling_mode": ["cls", "mean"]}),
            json!({"pooling_mode": "of its own"}),
            json!({"pooling_mode_mean_sqrt_len_tokens": true}),
            json!({"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}),
        ] {
            let error = found(&all, config.clone()).expect_err("no pooling of ours");
            assert!(error.to_string().contains("1_Pooling/config.json") && error.hint().is_some(), "{config}: {error}");
        }
        for other in ["sentence_transformers.models.Dense", "sentence_transformers.modules.layer_norm.LayerNorm", "mine.Module"] {
            let error = found(&[transformer, pooling, other], json!({"pooling_mode": "mean"})).expect_err("not in the graph");
            assert!(error.to_string().contains(other) && error.hint().is_some(), "{error}");
        }
    }
}
