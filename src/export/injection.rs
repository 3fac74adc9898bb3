//! An adapter put into a model: what is settled from what was asked for, the adapter's files, and every graph of a bundle.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::manifest::{self, GraphFile, Manifest, Slot};
use super::objective::{self, LossRequest, Settled};
use super::to_train::{Put, ToTrain};
use super::{PromptScale, body, cache, card, fed, given, names, prompt_scale};
use crate::adapter::Method;
use crate::adapter::config::{NewHead, PromptConfig, PromptEncoderConfig, Task};
use crate::adapter::methods::lora::LoraConfig;
use crate::adapter::targets::{Strictness, align_names, split_modules};
use crate::adapter::{Allocation, Given, Param, Plan, Purpose, Role, stack};
use crate::anatomy::{self, Anatomy, Feeding, Feeds, Reads};
use crate::contract::GraphName;
use crate::ir::{Builder, Graph, Tensor};
use crate::model::{Base, Model, class_names, declared};
use crate::num;
use crate::peft::{self, AdapterConfig, AdapterFiles};
use crate::train::plan::LossPlan;
use crate::train::recompute::Recompute;
use crate::train::segments;
use crate::train::verbalizer::HardPrompt;
use crate::{Context, Error, Result};

/// What is put into a model, and what it is trained for.
#[derive(Clone, Debug)]
pub struct Injection {
    /// The adapter.
    pub adapter: AdapterSource,
    /// The name by which PEFT finds the base: one of the Hub's, or a folder. None: what the files beside the model say.
    pub base_model: Option<String>,
    /// What the model is trained for; found out where it is not given.
    pub task: Option<Task>,
    /// A head to put on the model; an adapter that is there says itself what it needs.
    pub new_head: Option<NewHead>,
    /// The words that labels stand for, where a language model is asked for one of them.
    pub hard_prompt: Option<HardPrompt>,
    /// The loss and its options.
    pub loss: LossRequest,
    /// Where virtual tokens go in a model that multiplies embeddings with a number; found out where it is not given.
    pub prompt_scale: Option<PromptScale>,
    /// Whether ranks are allocated while training.
    pub allocate_ranks: bool,
    /// What is computed again in the backward pass.
    pub recompute: Recompute,
    /// The seed of a fresh adapter's values.
    pub seed: u64,
}

/// A fresh LoRA.
impl Default for Injection {
    fn default() -> Self {
        Self {
            adapter: AdapterSource::Fresh(LoraConfig::default().into()),
            base_model: None,
            task: None,
            new_head: None,
            hard_prompt: None,
            loss: LossRequest::default(),
            prompt_scale: None,
            allocate_ranks: false,
            recompute: Recompute::None,
            seed: 42,
        }
    }
}

/// Where an adapter comes from.
#[expect(clippy::large_enum_variant, reason = "a command has one of these")]
#[derive(Clone, Debug)]
pub enum AdapterSource {
    /// A new adapter.
    Fresh(Method),
    /// An adapter in a folder that Hugging Face PEFT, or this program, wrote.
    Folder(PathBuf),
    /// An adapter in memory.
    Memory(AdapterFiles),
}

impl AdapterSource {
    /// What errors name.
    fn name(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder,
            Self::Fresh(_) | Self::Memory(_) => Path::new("adapter"),
        }
    }

    /// The files of an adapter that is there.
    fn files(&self) -> Result<Option<AdapterFiles>> {
        match self {
            Self::Fresh(_) => Ok(None),
            Self::Folder(folder) => peft::read(folder).map(Some),
            Self::Memory(files) => Ok(Some(files.clone())),
        }
    }

    /// The method with what its targets must be found in.
    fn method(&self, given: Option<&AdapterFiles>) -> Result<(Method, Strictness)> {
        match (self, given) {
            (Self::Fresh(method), _) => Ok((method.clone(), Strictness::Every)),
            (_, Some(files)) => Ok((files.config.method.clone(), Strictness::AsPeft)),
            (_, None) => Err(Error::not_found("adapter", self.name().display().to_string())),
        }
    }
}

/// An adapted model: all but its graphs, which were given away one by one.
#[derive(Clone, Debug)]
pub struct Injected {
    /// The manifest; its base is to be told by who knows where it lies.
    pub manifest: Manifest,
    /// The adapter's files.
    pub files: AdapterFiles,
    /// The modules with a branch: path and rank.
    pub targets: Vec<(String, usize)>,
    /// Parameters of the base that are trained as a whole.
    pub trained: Vec<String>,
    /// The number of tensors of a given adapter: each has found its place.
    pub matched: Option<usize>,
    /// The head that was put on the base, with what was left to the base.
    pub new_head: Option<NewHead>,
    /// The value of the base's graph that this head reads.
    pub head_on: Option<String>,
}

/// A model and an adapter that were made to fit each other.
pub(super) struct Fitted {
    /// The model, with a new head where the adapter has one.
    pub model: Model,
    /// The files of an adapter that is there.
    pub given: Option<AdapterFiles>,
    pub task: Task,
    method: Method,
    strictness: Strictness,
    /// The head that was put on the base, with what was left to the base.
    pub new_head: Option<NewHead>,
    head_on: Option<String>,
    base_count: u64,
    /// The names of projections before the adapter's own were given to them.
    pub sites: Vec<String>,
    feeding: Feeding,
    pub loss: Settled,
    prompt_scale: Option<PromptScale>,
    pub plan: Plan,
}

/// Refuses a new head that the method does not train: it would stay random, and no file would have it.
fn learns_its_head(head: &NewHead, plan: &Plan, method: &Method) -> Result<()> {
    let trained = plan.trained();
    let names = head.modules.as_ref().map_or(&[][..], |modules| &modules.names);
    let is_trained = |module: &String| trained.iter().any(|name| name.rsplit_once('.').is_some_and(|(owner, _)| owner == module));
    match names.iter().find(|module| !is_trained(module)) {
        None => Ok(()),
        Some(module) => Err(Error::unsupported(
            format!("`num_labels` with the method {}", method.name()),
            format!("it trains no modules as a whole, and {module} would stay random"),
        )
        .with_hint(
            "another method trains the head beside its own: `method lora`, with `trainable_token_indices` for rows of the embedding",
        )),
    }
}

/// Finds an adapter's places in a model.
///
/// # Errors
/// A model that cannot be adapted; an adapter that does not fit it.
pub(super) fn fitted(mut model: Model, asked: &Injection) -> Result<Fitted> {
    model.base = model.base.to_train()?;
    let name = model.name().to_path_buf();
    let adapter = asked.adapter.name();
    let mut given = asked.adapter.files()?;
    if let Some(files) = &mut given {
        given::unwrap(files, &model.base.anatomy);
    }
    warn_of_training_mode(&model.base);
    let base_count = model.base.count();
    let mut new_head = given.as_ref().and_then(|files| head_of(files, &model.base.anatomy)).or_else(|| asked.new_head.clone());
    let task = task(asked, given.as_ref(), &model, new_head.as_ref())?;
    let mut head_on = None;
    if let Some(head) = &mut new_head {
        let with_head = model.base.with_head(head, task, asked.seed).in_file(&name)?;
        (model.base, *head, head_on) = (with_head.base.to_train().in_file(&name)?, with_head.head, Some(with_head.on));
    }
    let classes = model.base.anatomy.head.as_ref().and_then(|head| head.classes);
    let is_named = asked.loss.teacher.is_some() && new_head.is_none();
    let names = if is_named { class_names::of_model(&model, task, classes)? } else { vec![] };
    let base = &mut model.base;
    let sites = stack::names(&base.anatomy);
    if let Some(files) = &mut given {
        align_names::follow(&mut base.anatomy, &files.keys(), new_head.as_ref().and_then(|head| head.modules.as_ref()));
        given::settle(files, base).in_file(adapter)?;
    }
    body::name_as_class(&mut base.anatomy, new_head.as_ref().filter(|_| given.is_none()), &model.beside)?;
    let (method, strictness) = asked.adapter.method(given.as_ref())?;
    let mut feeding = fed::feeding(base).in_file(&name)?;
    fed::texts_of_a_row_together(&feeding, task).in_file(&name)?;
    fed::logits_of_all_tokens(base, &feeding, task).in_file(&name)?;
    split_modules::join(&mut base.anatomy, method.scope(), method.takes_parts()).in_file(&name)?;
    let loss = objective::settle(&asked.loss, task, &model.beside, &base.graph, &base.anatomy).in_file(&name)?;
    if !loss.plan.recorded_prompts.is_empty() {
        let told: Vec<String> = loss.plan.recorded_prompts.iter().map(|(role, text)| format!("{role}={text:?}")).collect();
        tracing::warn!(
            "texts are learnt with the prompts that {} has: {}; `prompt ROLE=` leaves one out",
            declared::SETTINGS,
            told.join(", ")
        );
    }
    objective::check_teacher(&asked.loss, task, &loss, &base.graph, &base.anatomy, &names)?;
    feeding.feed_columns(&base.graph, loss.columns());
    let has_prompt = method.get::<PromptConfig>().is_some() || method.get::<PromptEncoderConfig>().is_some();
    if !has_prompt && asked.prompt_scale.is_some() {
        return Err(Error::setting("prompt_scale", "a method that puts virtual tokens in front", method.name()).with_hint("leave it out"));
    }
    let prompt_scale = if has_prompt { prompt_scale::settle(&mut base.anatomy, asked.prompt_scale, &model.beside)? } else { None };
    let lookup = |key: &str| given.as_ref().and_then(|files| files.tensor(key)).cloned();
    let plan = Plan::new(&method, of_heads(given.as_ref(), task), &base.anatomy, strictness, asked.seed, &lookup).in_file(&name)?;
    if let Some(head) = new_head.as_ref().filter(|_| strictness == Strictness::Every) {
        learns_its_head(head, &plan, &method).in_file(&name)?;
    }
    teachable(&loss.plan, &plan, task, asked)?;
    if let Some(files) = &given {
        given::check_tying(files, &base.anatomy, &plan).in_file(adapter)?;
    }
    Ok(Fitted { model, given, task, method, strictness, new_head, head_on, base_count, sites, feeding, loss, prompt_scale, plan })
}

/// Puts an adapter into a model, and gives `put` each graph of the bundle by its purpose as soon as it is made.
///
/// # Errors
/// A model that cannot be adapted or differentiated; an adapter that does not fit it.
pub fn inject(model: Model, asked: &Injection, put: &mut Put<'_>) -> Result<Injected> {
    let Fitted { model, given, task, method, strictness, new_head, head_on, base_count, feeding, loss, prompt_scale, plan, .. } =
        fitted(model, asked)?;
    let name = model.name().to_path_buf();
    let (base, adapter) = (&model.base, asked.adapter.name());
    let lookup = |key: &str| given.as_ref().and_then(|files| files.tensor(key)).cloned();
    let mut graphs = IndexMap::new();
    let mut put = |purpose: GraphName, graph: Graph| {
        graphs.insert(purpose.name().to_owned(), GraphFile::describe(&format!("{purpose}.onnx"), &graph));
        put(purpose, graph)
    };
    let inserted = adapted(base, &plan, &lookup, Purpose::Inference);
    let (inference, kept) = inserted.map_err(|error| of_one_length(error, feeding.length, &plan)).in_file(&name)?;
    let matched = given.as_ref().map(|files| matched(files, &kept).in_file(adapter)).transpose()?;
    let with_cache = |cached: &mut Base| {
        prepare_cached(cached, given.as_ref(), &method, prompt_scale)?;
        let plan = Plan::new(&method, of_heads(given.as_ref(), task), &cached.anatomy, strictness, asked.seed, &lookup)?;
        Ok(adapted(cached, &plan, &lookup, Purpose::Inference)?.0)
    };
    let inference = cache::kept(base, inference, with_cache).in_file(&name)?;
    let (untrained, trained) = adapted(base, &plan, &lookup, Purpose::Training(None)).in_file(&name)?;
    let mut files = adapter_files(plan.settled(), task, given.as_ref(), &kept, &trained);
    files.config.new_head.clone_from(&new_head);
    if given.is_none() || asked.base_model.is_some() {
        files.config.base_model = asked.base_model.clone().or(card::base_of(&model.beside)?);
    }
    put(GraphName::Inference, inference)?;
    let params: Vec<Param> = trained.into_iter().filter(Param::is_trained).collect();
    let classes = base.anatomy.head.as_ref().and_then(|head| head.classes);
    let allocation = if asked.allocate_ranks { Some(allocation(plan.settled(), &params)?) } else { None };
    let allocation_steps = allocation.as_ref().map(|allocation| allocation.schedule.total_step);
    let constraints = plan.settled().constraints(&params);
    let constrained = !constraints.is_empty();
    let hard_prompt = asked.hard_prompt.as_ref();
    let to_train = ToTrain {
        base,
        plan: &plan,
        objective: &loss.objective,
        params: &params,
        hard_prompt,
        allocation,
        constraints,
        recompute: asked.recompute,
    };
    to_train.graphs(&untrained, &mut put).in_file(&name)?;
    let unpackable = segments::refusal(to_train.model(&untrained, &params)).map(|refusal| refusal.to_string());
    let manifest = Manifest {
        version: manifest::VERSION,
        producer: format!("peft-onnx {}", env!("CARGO_PKG_VERSION")),
        method: method.name().to_owned(),
        task: task.name().to_owned(),
        base: manifest::Base::default(),
        graphs,
        trainable_count: params.iter().map(|p| p.initial.len()).sum(),
        trainable: slots(&params, peft::file_beside(plan.settled())),
        base_count,
        logits: base.anatomy.head.as_ref().map(|head| base.graph.value_name(head.output).to_owned()).unwrap_or_default(),
        classes,
        columns: IndexMap::new(),
        class_names: class_names(asked, &model, new_head.as_ref(), task, classes)?,
        vocabulary: model.base.anatomy.vocabulary(),
        max_positions: model.base.anatomy.max_positions.map(|positions| positions - num::int(plan.virtual_tokens())),
        virtual_tokens: plan.virtual_tokens(),
        positions_without_label: plan.positions_without_label(),
        prompt_scale,
        dropout: plan.dropout(),
        allocation_steps,
        constrained,
        feeding,
        hard_prompt: asked.hard_prompt.clone(),
        recompute: asked.recompute,
        unpackable,
        loss: loss.plan,
    };
    Ok(Injected { manifest, files, targets: plan.targets(), trained: plan.trained(), matched, new_head, head_on })
}

/// Refuses a teacher where its logits are not those of the student's positions and classes.
fn teachable(loss: &LossPlan, plan: &Plan, task: Task, asked: &Injection) -> Result<()> {
    let Some(distillation) = loss.distillation else { return Ok(()) };
    if plan.positions_without_label() > 0 && task.row().reads == Reads::Vocabulary {
        let what = format!("a teacher beside {}", plan.settled().name());
        let error = Error::unsupported(what, "virtual tokens stand among the row's own, and a teacher says nothing at their positions");
        return Err(error.with_hint("lora, prefix_tuning and p_tuning_v2 leave the tokens as they are"));
    }
    if asked.hard_prompt.is_some() {
        let error = Error::setting("distill_weight", "a model without a verbalizer", distillation.weight);
        return Err(error.with_hint("leave it out: a teacher gives logits of the whole vocabulary, and here some words alone are compared"));
    }
    Ok(())
}

/// How ranks are allocated while training.
fn allocation(method: &Method, params: &[Param]) -> Result<Allocation> {
    let allocation = method.allocation(params)?;
    allocation.ok_or_else(|| Error::setting("allocate_ranks", "a method that allocates ranks (adalora)", method.name()))
}

/// The task whose heads are trained as a whole though nobody names them: that of an adapter that is there is in its configuration, or is none.
fn of_heads(given: Option<&AdapterFiles>, task: Task) -> Option<Task> {
    given.map_or(Some(task), |files| files.config.task)
}

/// How many tensors of an adapter that is there found their place: all of them.
fn matched(files: &AdapterFiles, kept: &[Param]) -> Result<usize> {
    let fit = peft::match_params(&files.tensors, kept);
    tracing::info!("{fit}");
    fit.check()?;
    Ok(fit.matched.len())
}

/// The task: that of the new head, if there is one, else the one that is asked for, that the adapter names or that the model speaks for.
fn task(asked: &Injection, given: Option<&AdapterFiles>, model: &Model, new_head: Option<&NewHead>) -> Result<Task> {
    let of_adapter = |files: &AdapterFiles| -> Result<Option<Task>> {
        if let Some(manifest) = bundle_of(&asked.adapter)? {
            return Ok(Task::from_name(&manifest.task));
        }
        // The folder knows the head that lies in it, not one that replaces it.
        let is_replaced = asked.new_head.is_some() || files.config.new_head.is_some();
        let declared = model.declared()?;
        let meant = |named| if is_replaced { named } else { anatomy::meant(model.graph(), model.anatomy(), &declared, named) };
        Ok(files.config.task.map(meant))
    };
    let named = match (asked.task, given) {
        (None, Some(files)) => of_adapter(files)?,
        (asked, _) => asked,
    };
    if new_head.is_some() {
        return Ok(named.unwrap_or_else(|| Feeds::of(model.graph(), model.anatomy()).classified()));
    }
    let decision = anatomy::decide(model.graph(), model.anatomy(), &model.declared()?, named).in_file(model.name())?;
    if let Some(doubt) = decision.doubt {
        tracing::warn!("trained for {}, as asked, but {doubt}", decision.task);
    }
    Ok(decision.task)
}

/// What the bundle says of itself that an adapter is taken from: its own, or one that its runs saved in it (`BUNDLE/runs/NAME/checkpoints/step-N`).
fn bundle_of(adapter: &AdapterSource) -> Result<Option<Manifest>> {
    let AdapterSource::Folder(folder) = adapter else { return Ok(None) };
    let bundle = names::bundles(folder).into_iter().find(|bundle| bundle.join(manifest::FILE).exists());
    bundle.as_deref().map(Manifest::read).transpose()
}

/// The names of the classes: those that the adapter's bundle knows, else those beside the model, which are its own head's.
fn class_names(asked: &Injection, model: &Model, new_head: Option<&NewHead>, task: Task, classes: Option<i64>) -> Result<Vec<String>> {
    if let Some(manifest) = bundle_of(&asked.adapter)? {
        return Ok(manifest.class_names);
    }
    if new_head.is_some() { Ok(vec![]) } else { class_names::of_model(model, task, classes) }
}

/// The adapter's files: the tensors of the inference graph, and the parameters they are computed from.
fn adapter_files(method: &Method, task: Task, given: Option<&AdapterFiles>, kept: &[Param], trained: &[Param]) -> AdapterFiles {
    let named = |param: &Param| (param.key.clone(), param.initial.clone());
    let encoder: IndexMap<String, Tensor> = trained.iter().filter(|param| param.role == Role::Encoder).map(named).collect();
    let fresh = || AdapterConfig::new(method.clone(), Some(task), None);
    AdapterFiles {
        config: given.map_or_else(fresh, |files| files.config.clone()),
        tensors: kept.iter().map(named).collect(),
        beside: (!encoder.is_empty()).then_some(encoder),
        stored: IndexMap::new(),
    }
}

/// Makes the decoder with a cache of a merged export ready for the adapter, as the one without was.
fn prepare_cached(cached: &mut Base, given: Option<&AdapterFiles>, method: &Method, scale: Option<PromptScale>) -> Result<()> {
    if let Some(files) = given {
        align_names::follow(&mut cached.anatomy, &files.keys(), None);
    }
    if let Some(side) = scale {
        prompt_scale::apply(&mut cached.anatomy, side);
    }
    split_modules::join(&mut cached.anatomy, method.scope(), method.takes_parts())
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

/// The head that the adapter's base had, if this model lacks it: as the configuration describes it, else the classifier's whose body this is.
fn head_of(files: &AdapterFiles, anatomy: &Anatomy) -> Option<NewHead> {
    let is_of_head = |module: &str| {
        let last = module.rsplit('.').next();
        peft::saved_head::modules().any(|head| last == Some(head))
    };
    let has_its_own = || anatomy.projections.iter().any(|projection| is_of_head(&projection.module));
    files.config.new_head.clone().or_else(|| if has_its_own() { None } else { peft::saved_head::of(files) })
}

pub(super) fn adapted(base: &Base, plan: &Plan, given: &Given<'_>, purpose: Purpose<'_>) -> Result<(Graph, Vec<Param>)> {
    let (graph, anatomy) = match purpose {
        Purpose::Inference | Purpose::Merged => base.carrier(plan),
        Purpose::Training(_) => (base.trained(), base.anatomy.clone()),
    };
    let b = Builder::on(graph);
    let params = plan.insert(&b, graph, &anatomy, given, purpose)?;
    Ok((b.finish()?, params))
}

/// What to say where a model has no room for virtual tokens, as it computes with one number of tokens alone.
fn of_one_length(error: Error, length: Option<usize>, plan: &Plan) -> Error {
    match length.filter(|_| plan.virtual_tokens() > 0) {
        None => error,
        Some(length) => Error::unsupported(
            "virtual tokens in this model",
            format!("it computes with {length} tokens, and with no other number of them"),
        )
        .with_hint("export the model with a free length of its sequence; methods without virtual tokens, such as lora, take it as it is"),
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
