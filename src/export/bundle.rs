//! Writes bundles: everything that training an adapter on a base needs, in one folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use indexmap::IndexMap;

use super::lock::Lock;
use super::manifest::{self, BaseFile, GraphFile, Manifest, Slot};
use super::names::{INFERENCE, INITIAL, is_inside, location, relative};
use super::objective::{self, LossRequest};
use super::opened::write_inference;
use super::{PromptScale, fingerprint, given, merge, prompt_scale};
use crate::adapter::config::{Method, NewHead, Task};
use crate::adapter::params::dropout::Masks;
use crate::adapter::targets::Strictness;
use crate::adapter::targets::{align_names, split_modules};
use crate::adapter::{Given, Param, Plan, Purpose, Role};
use crate::anatomy::{self, Anatomy, Feeding, Feeds, Reads};
use crate::files::StagedFolder;
use crate::ir::{Builder, DType, Graph, Tensor};
use crate::model::base::Base;
use crate::model::{class_names, declared};
use crate::onnx::{self, Storage, WriteOptions};
use crate::peft::{self, AdapterConfig, AdapterFiles};
use crate::train::cached;
use crate::train::objective::{Model, Objective};
use crate::train::optimizer::{self, AdamW, names};
use crate::train::plan::LossPlan;
use crate::train::step::{self, Backward};
use crate::train::verbalizer::HardPrompt;
use crate::{Context, Error, Result};

/// What `inject` is asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The base.
    pub model: &'a Path,
    /// What is put into it.
    pub adapter: Adapter<'a>,
    /// What the model is trained for; found out where it is not given.
    pub task: Option<Task>,
    /// A head to put on the base; an adapter in a folder says itself what it needs.
    pub new_head: Option<NewHead>,
    /// The words that labels stand for, where a language model is asked for one of them.
    pub hard_prompt: Option<HardPrompt>,
    /// The loss and its options.
    pub loss: LossRequest,
    /// Where virtual tokens go in a model that multiplies embeddings with a number; found out where it is not given.
    pub prompt_scale: Option<PromptScale>,
    /// The folder to write.
    pub output: &'a Path,
    /// The seed of a fresh adapter's values.
    pub seed: u64,
    /// What to do if the folder is there.
    pub existing: Existing,
}

/// What is put into the base.
#[derive(Clone, Debug)]
pub enum Adapter<'a> {
    /// A new adapter.
    Fresh(&'a Method),
    /// An adapter in a folder that Hugging Face PEFT, or this program, wrote.
    Folder(&'a Path),
}

/// What to do about a bundle that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Keep,
    /// Replace it.
    Replace,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Report {
    /// The manifest.
    pub manifest: Manifest,
    /// The modules with a branch: path and rank.
    pub targets: Vec<(String, usize)>,
    /// Parameters of the base that are trained as a whole.
    pub trained: Vec<String>,
    /// How the task was found.
    pub task: Task,
    /// The number of tensors of a given adapter: each has found its place.
    pub matched: Option<usize>,
    /// The head that was put on the base, with what was left to the base.
    pub new_head: Option<NewHead>,
    /// The value of the base's graph that this head reads.
    pub head_on: Option<String>,
}

/// Writes a bundle. It appears when it is complete.
///
/// # Errors
/// A model that cannot be read, adapted or differentiated; an adapter that does not fit it; a folder that is there already.
pub fn write(request: &Request<'_>) -> Result<Report> {
    // A bundle that is being trained is not replaced.
    let is_there = request.existing == Existing::Replace && request.output.join(manifest::FILE).exists();
    let _lock = if is_there { Some(Lock::take(request.output, "peft-onnx inject")?) } else { None };
    let folder = folder(request.output, request.existing)?;
    let mut base = Base::read(request.model).and_then(Base::to_train)?;
    let origin = Based::on(request.model, &base)?;
    let origin_files = origin.locations.clone();
    let mut given = match &request.adapter {
        Adapter::Fresh(_) => None,
        Adapter::Folder(path) => Some(peft::read(path)?),
    };
    if let Some(files) = &mut given {
        given::unwrap(files, &base.anatomy);
    }
    warn_of_training_mode(&base);
    let base_count = base.count();
    let mut new_head = given.as_ref().and_then(|files| head_of(files, &base.anatomy)).or_else(|| request.new_head.clone());
    let task = task(request, given.as_ref(), &base, new_head.as_ref())?;
    let mut head_on = None;
    if let Some(head) = &mut new_head {
        let with_head = base.with_head(head, task, request.seed).in_file(request.model)?;
        (base, *head, head_on) = (with_head.base.to_train().in_file(request.model)?, with_head.head, Some(with_head.on));
    }
    if let (Some(files), Adapter::Folder(path)) = (&mut given, &request.adapter) {
        align_names::follow(&mut base.anatomy, &files.keys(), new_head.as_ref().and_then(|head| head.modules.as_ref()));
        given::settle(files, &base).in_file(*path)?;
    }
    let (method, strictness) = method(request, given.as_ref())?;
    let mut feeding = feeding(&base).in_file(request.model)?;
    split_modules::join(&mut base.anatomy, &method).in_file(request.model)?;
    let loss = objective::settle(&request.loss, task, request.model, &base.graph, &base.anatomy).in_file(request.model)?;
    let outputs: Vec<&str> = base.graph.outputs().iter().map(|&id| base.graph.value_name(id)).collect();
    for column in loss.columns().filter(|column| !outputs.contains(&column.as_str())) {
        feeding.inputs.entry(column).or_insert(anatomy::Role::Column);
    }
    let lookup = |key: &str| given.as_ref().and_then(|files| files.tensor(key)).cloned();
    let has_prompt = matches!(method, Method::Prompt(_) | Method::PromptEncoder(_));
    let prompt_scale = if has_prompt { prompt_scale::settle(&mut base.anatomy, request.prompt_scale, request.model)? } else { None };
    let plan = Plan::new(&method, task, &base.anatomy, strictness, request.seed, &lookup).in_file(request.model)?;

    if let (Some(files), Adapter::Folder(path)) = (&given, &request.adapter) {
        given::check_tying(files, &base.anatomy, &plan).in_file(*path)?;
    }
    let (inference, kept) = adapted(&base, &plan, &lookup, Purpose::Inference).in_file(request.model)?;
    let matched = given.as_ref().map(|files| matched(request, files, &kept)).transpose()?;
    if let Some(lost) = merge::lost_of_cache(&base.raw, &inference) {
        tracing::warn!("the graph for inference has no cache (the input {lost}): the adapter stands in the branch without one");
    }
    let (untrained, trained) = adapted(&base, &plan, &lookup, Purpose::Training(None)).in_file(request.model)?;
    let mut files = adapter_files(plan.settled(), task, request, given.as_ref(), &kept, &trained);
    files.config.new_head.clone_from(&new_head);
    peft::write(folder.path(), &files)?;
    peft::write(&folder.path().join(INITIAL), &files)?;
    let beside = peft::file_beside(plan.settled());
    let params: Vec<Param> = trained.into_iter().filter(Param::is_trained).collect();
    let mut graphs = IndexMap::new();
    let mut put = |purpose: &str, graph: &Graph| -> Result<()> {
        let file = format!("{purpose}.onnx");
        let path = folder.path().join(&file);
        if purpose == INFERENCE {
            write_inference(graph, &path, &origin_files)?;
        } else {
            let storage = Storage::Refer { files: origin_files.clone(), file: format!("{purpose}.data") };
            onnx::write(graph, &path, &WriteOptions { storage })?;
        }
        graphs.insert(purpose.to_owned(), GraphFile::describe(&file, graph));
        Ok(())
    };
    put(INFERENCE, &inference)?;
    drop(inference);
    let classes = base.anatomy.head.as_ref().and_then(|head| head.classes);
    let to_train =
        ToTrain { base: &base, plan: &plan, objective: &loss.objective, params: &params, hard_prompt: request.hard_prompt.as_ref() };
    to_train.graphs(&untrained, &mut put).in_file(request.model)?;
    let manifest = Manifest {
        version: manifest::VERSION,
        producer: format!("peft-onnx {}", env!("CARGO_PKG_VERSION")),
        method: method.name().to_owned(),
        task: task.name().to_owned(),
        base: origin.described(request)?,
        graphs,
        trainable_count: params.iter().map(|p| p.initial.len()).sum(),
        trainable: slots(&params, beside),
        base_count,
        logits: base.anatomy.head.as_ref().map(|head| base.graph.value_name(head.output).to_owned()).unwrap_or_default(),
        classes,
        class_names: class_names(request, new_head.as_ref(), task, classes)?,
        vocabulary: base.anatomy.vocabulary(),
        max_positions: base.anatomy.max_positions.map(|positions| positions - i64::try_from(plan.virtual_tokens()).unwrap_or(0)),
        virtual_tokens: plan.virtual_tokens(),
        prompt_scale,
        dropout: plan.dropout(),
        feeding,
        hard_prompt: request.hard_prompt.clone(),
        loss: LossPlan { teacher: request.loss.teacher.as_deref().map(|file| from_bundle(file, request.output)).transpose()?, ..loss.plan },
    };
    manifest.write(folder.path())?;
    fingerprint::remember(folder.path(), &manifest.base.fingerprint, &origin_files.iter().map(|(file, _)| &**file).collect::<Vec<_>>());
    folder.finish()?;
    Ok(Report { manifest, targets: plan.targets(), trained: plan.trained(), task, matched, new_head, head_on })
}

/// Says what was switched off in a model that draws random numbers.
fn warn_of_training_mode(base: &Base) {
    if !base.stilled.is_none() {
        tracing::warn!(
            "the model is in training mode; its random operators are switched off to train, evaluate and merge: {}",
            base.stilled
        );
    }
}

/// The method of a new adapter, or of the one that is there, with what its targets must be found in.
fn method(request: &Request<'_>, given: Option<&AdapterFiles>) -> Result<(Method, Strictness)> {
    match (&request.adapter, given) {
        (Adapter::Fresh(method), _) => Ok(((*method).clone(), Strictness::Every)),
        (Adapter::Folder(_), Some(files)) => Ok((files.config.method.clone(), Strictness::AsPeft)),
        (Adapter::Folder(path), None) => Err(Error::not_found("adapter", path.display().to_string())),
    }
}

/// How many tensors of an adapter that is there found their place: all of them.
fn matched(request: &Request<'_>, files: &AdapterFiles, kept: &[Param]) -> Result<usize> {
    let fit = peft::match_params(&files.tensors, kept);
    tracing::info!("{fit}");
    match request.adapter {
        Adapter::Folder(path) => fit.check().in_file(path)?,
        Adapter::Fresh(_) => fit.check()?,
    }
    Ok(fit.matched.len())
}

/// How the model is fed.
///
/// # Errors
/// An input that no data can fill.
fn feeding(base: &Base) -> Result<Feeding> {
    let unfillable = base.anatomy.inputs.roles.iter().find(|(id, _)| {
        let fact = base.graph.fact(*id);
        fact.dtype.is_none_or(|dtype| !FED.contains(&dtype)) || fact.rank().is_none()
    });
    match unfillable {
        None => Ok(anatomy::feeding(&base.graph, &base.anatomy)),
        Some(&(id, _)) => {
            let what = format!("the input {} of type {}", base.graph.value_name(id), base.graph.fact(id));
            let error = Error::unsupported(what, "no column of a data file fills it");
            Err(error.with_hint(
                "inputs are tensors of floats, int32, int64 or bool: export the model without this one, or give it a default value",
            ))
        }
    }
}

/// Types of inputs that can be fed.
const FED: &[DType] = &[DType::F32, DType::F64, DType::F16, DType::BF16, DType::I64, DType::I32, DType::Bool];

/// The head that an adapter's base had and this one has not: the one that its configuration tells, or that of a classifier whose body this is.
fn head_of(files: &AdapterFiles, anatomy: &Anatomy) -> Option<NewHead> {
    let is_of_head = |module: &str| {
        let last = module.rsplit('.').next();
        peft::saved_head::modules().any(|head| last == Some(head))
    };
    let has_its_own = || anatomy.projections.iter().any(|projection| is_of_head(&projection.module));
    files.config.new_head.clone().or_else(|| if has_its_own() { None } else { peft::saved_head::of(files) })
}

/// The task: that of the new head, if there is one, else the one that is asked for or that the model speaks for.
fn task(request: &Request<'_>, given: Option<&AdapterFiles>, base: &Base, new_head: Option<&NewHead>) -> Result<Task> {
    let asked = request.task.or_else(|| given.and_then(|files| files.config.task));
    if new_head.is_some() {
        return Ok(asked.unwrap_or_else(|| Feeds::of(&base.graph, &base.anatomy).classified()));
    }
    let declared = declared::of_model(request.model)?;
    let decision = anatomy::decide(&base.graph, &base.anatomy, &declared, asked).in_file(request.model)?;
    if let Some(doubt) = decision.doubt {
        tracing::warn!("trained for {}, as asked, but {doubt}", decision.task);
    }
    Ok(decision.task)
}

/// The names of the classes: those that the adapter's bundle knows, else those beside the model, which are its own head's.
fn class_names(request: &Request<'_>, new_head: Option<&NewHead>, task: Task, classes: Option<i64>) -> Result<Vec<String>> {
    if let Adapter::Folder(folder) = request.adapter
        && folder.join(manifest::FILE).exists()
    {
        return Ok(Manifest::read(folder)?.class_names);
    }
    if new_head.is_some() { Ok(vec![]) } else { class_names::of_model(request.model, task, classes) }
}

fn adapted(base: &Base, plan: &Plan, given: &Given<'_>, purpose: Purpose<'_>) -> Result<(Graph, Vec<Param>)> {
    let (graph, anatomy) = match purpose {
        Purpose::Inference | Purpose::Merged => base.carrier(plan),
        Purpose::Training(_) => (base.trained(), base.anatomy.clone()),
    };
    let b = Builder::on(graph);
    let params = plan.insert(&b, graph, &anatomy, given, purpose)?;
    Ok((b.finish()?, params))
}

/// The adapter's files: what the inference graph reads, and beside it what that is computed from.
fn adapter_files(
    method: &Method,
    task: Task,
    request: &Request<'_>,
    given: Option<&AdapterFiles>,
    kept: &[Param],
    trained: &[Param],
) -> AdapterFiles {
    let named = |param: &Param| (param.key.clone(), param.initial.clone());
    let encoder: IndexMap<String, Tensor> = trained.iter().filter(|param| param.role == Role::Encoder).map(named).collect();
    let fresh = || {
        let base = request.model.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        AdapterConfig::new(method.clone(), Some(task), base)
    };
    AdapterFiles {
        config: given.map_or_else(fresh, |files| files.config.clone()),
        tensors: kept.iter().map(named).collect(),
        beside: (!encoder.is_empty()).then_some(encoder),
        stored: IndexMap::new(),
    }
}

/// What the graphs of training are made of.
struct ToTrain<'a> {
    base: &'a Base,
    plan: &'a Plan,
    objective: &'a Objective,
    params: &'a [Param],
    hard_prompt: Option<&'a HardPrompt>,
}

impl ToTrain<'_> {
    /// Gives `put` training, the gradient alone, the update alone, and the loss alone; `without` has no dropout.
    fn graphs(&self, without: &Graph, put: &mut dyn FnMut(&str, &Graph) -> Result<()>) -> Result<()> {
        let adamw = AdamW::default();
        let count = self.params.iter().map(|param| param.initial.len()).sum();
        let with_dropout = if self.plan.dropout() > 0.0 { Some(self.with_dropout()?) } else { None };
        let learnt = with_dropout.as_ref().map_or_else(|| self.model(without, self.params), |(graph, params)| self.model(graph, params));
        if let Objective::Formula(formula) = self.objective
            && formula.loss.whole_batch
            && formula.loss.reads == Reads::Embeddings
        {
            put("encode", &cached::encode_graph(learnt, formula)?)?;
            put("loss", &cached::loss_graph(formula, None)?)?;
            put("vjp", &cached::vjp_graph(learnt, formula)?)?;
        }
        let backward = Backward::new(learnt)?;
        put("training", &backward.training_graph(&adamw)?)?;
        put("gradient", &backward.gradient_graph()?)?;
        drop(backward);
        put("update", &optimizer::update_graph(&adamw, count)?)?;
        put("evaluation", &step::evaluation_graph(self.model(without, self.params))?)
    }

    /// The adapted base with masks of dropout, which depend on the step, and what is trained in it.
    fn with_dropout(&self) -> Result<(Graph, Vec<Param>)> {
        let b = Builder::on(self.base.trained());
        let masks = Masks::new(&b, b.input(names::STEP, DType::I64, &[]));
        let values: HashMap<&str, &Tensor> = self.params.iter().map(|param| (param.key.as_str(), &param.initial)).collect();
        let as_stored = |key: &str| values.get(key).copied().cloned();
        let params = self.plan.insert(&b, self.base.trained(), &self.base.anatomy, &as_stored, Purpose::Training(Some(masks)))?;
        Ok((b.finish()?, params.into_iter().filter(Param::is_trained).collect()))
    }

    fn model<'a>(&'a self, graph: &'a Graph, params: &'a [Param]) -> Model<'a> {
        Model {
            graph,
            anatomy: &self.base.anatomy,
            params,
            objective: self.objective,
            positions_without_label: self.plan.positions_without_label(),
            hard_prompt: self.hard_prompt,
        }
    }
}

fn slots(params: &[Param], beside: &str) -> Vec<Slot> {
    let mut offset = 0;
    params
        .iter()
        .map(|param| {
            let file = if param.role == Role::Encoder { beside } else { peft::WEIGHTS_FILE };
            let (name, input, shape) = (param.key.clone(), param.name.clone(), param.initial.shape().to_vec());
            let slot = Slot { name, file: file.to_owned(), input, shape, offset };
            offset += param.initial.len();
            slot
        })
        .collect()
}

/// The base as the bundle refers to it.
struct Based {
    /// Its folder, absolute.
    folder: PathBuf,
    /// Its files, absolute, with their locations in the bundle's graphs: the model's own first.
    locations: Vec<(PathBuf, String)>,
    /// What the files are, found out while other work goes on.
    files: JoinHandle<Result<Vec<BaseFile>>>,
}

impl Based {
    fn on(model: &Path, base: &Base) -> Result<Self> {
        let model = std::path::absolute(model).in_file(model)?;
        let folder = model.parent().ok_or_else(|| Error::invalid("not a file").in_file(&model))?.to_path_buf();
        let others = base.files().into_iter().filter(|file| *file != model);
        let named = std::iter::once(model.clone()).chain(others).map(|file| Ok((named(&file, &folder)?, file)));
        let named: Vec<(String, PathBuf)> = named.collect::<Result<_>>()?;
        let locations = named.iter().map(|(name, file)| (file.clone(), location(name))).collect();
        let files = std::thread::spawn(move || named.into_iter().map(|(path, file)| described(path, &file)).collect());
        Ok(Self { folder, locations, files })
    }

    fn described(self, request: &Request<'_>) -> Result<manifest::Base> {
        let files = self.files.join().map_err(|_| Error::invalid("reading the base's files was broken off").in_file(request.model))??;
        let name = files.first().map(|file| file.path.clone()).unwrap_or_default();
        let path = from_bundle(&self.folder.join(&name), request.output)?;
        Ok(manifest::Base { file: name, path, fingerprint: fingerprint::of_base(&files), files })
    }
}

/// A file's path from a bundle's folder, with `/` between its parts.
///
/// # Errors
/// A folder that is not there.
fn from_bundle(file: &Path, bundle: &Path) -> Result<String> {
    // Links in the way to a folder lead elsewhere than the dots in a path from there would.
    let bundle = std::path::absolute(bundle).in_file(bundle)?;
    let (within, last) = (bundle.parent().unwrap_or(&bundle), bundle.file_name().unwrap_or_default());
    let bundle = within.canonicalize().in_file(within)?.join(last);
    let file = std::path::absolute(file).in_file(file)?;
    let (folder, name) = (file.parent().unwrap_or(&file), file.file_name().unwrap_or_default());
    let file = folder.canonicalize().in_file(folder)?.join(name);
    let path = relative(&file, &bundle).unwrap_or_else(|| name.into());
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    Ok(parts.join("/"))
}

/// A file's path from the model's folder, with `/` between its parts.
fn named(file: &Path, folder: &Path) -> Result<String> {
    let parts =
        file.strip_prefix(folder).ok().map(|path| path.components().map(|part| part.as_os_str().to_str()).collect::<Option<Vec<_>>>());
    let name = parts.flatten().map(|parts| parts.join("/")).filter(|name| is_inside(name));
    name.ok_or_else(|| {
        let error = Error::unsupported(
            "a bundle of this model",
            "a file with its weights has a path that is no UTF-8, or does not lead down from the model's folder",
        );
        error.in_file(file)
    })
}

fn described(path: String, file: &Path) -> Result<BaseFile> {
    let bytes = std::fs::metadata(file).in_file(file)?.len();
    Ok(BaseFile { path, bytes, hash: fingerprint::of_file(file, bytes)? })
}

/// The folder to write, if it may be written.
fn folder(target: &Path, existing: Existing) -> Result<StagedFolder> {
    if target.exists() && existing == Existing::Keep {
        return Err(Error::invalid("already there").in_file(target).with_hint("`--force` replaces it, `-o` names another folder"));
    }
    if target.exists() && !target.join(manifest::FILE).exists() && target.read_dir().map_or(true, |mut entries| entries.next().is_some()) {
        return Err(Error::invalid("not a bundle, so it is not replaced").in_file(target).with_hint("`-o` names another folder"));
    }
    StagedFolder::new(target)
}
