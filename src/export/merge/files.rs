//! A model in several files, merged file by file: each has the inputs and outputs that it had.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Quantised, Weights, merged};
use crate::adapter::config::Task;
use crate::adapter::targets::{Strictness, align_names, split_modules};
use crate::adapter::{Plan, Requantised};
use crate::anatomy::{Anatomy, Front};
use crate::export::cache;
use crate::export::opened::Bundle;
use crate::files::near;
use crate::model::{Base, Model, finite};
use crate::onnx::{self, Storage, WriteOptions};
use crate::{Context, Error, Result, peft};

/// A file that was written.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The file that it was made of.
    pub source: PathBuf,
    /// Its place in the folder.
    pub name: String,
    /// The modules that were changed in it.
    pub modules: usize,
    /// What rounding quantised weights again cost.
    pub requantised: Requantised,
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The bundle, with the adapter that is folded in.
    pub bundle: &'a Bundle,
    /// The files that it is folded into; none for those of the bundle's base.
    pub into: &'a [PathBuf],
    /// The folder, which is there and empty.
    pub folder: &'a Path,
    /// The folder in it for the models; what lies beside them is in the folder itself.
    pub models: Option<&'a str>,
    /// Where weights go.
    pub weights: Weights,
    /// What becomes of an adapter of quantised weights.
    pub quantised: Quantised,
}

impl<'a> Request<'a> {
    /// A bundle and the folder to write into: the files of the bundle's base, with weights as they have them.
    #[must_use]
    pub fn new(bundle: &'a Bundle, folder: &'a Path) -> Self {
        Self { bundle, into: &[], folder, models: None, weights: Weights::default(), quantised: Quantised::default() }
    }
}

/// Folds a bundle's adapter into every file that has its modules, and writes all files into a folder, with configuration and tokenizer.
///
/// # Errors
/// A module of the adapter that no file has; a file with modules that the adapter ought to know and does not; virtual tokens, which lengthen what one file gives
/// another; two files of one name.
pub fn write(request: &Request<'_>) -> Result<Vec<Merged>> {
    let Request { bundle, folder, weights, quantised, .. } = *request;
    let files: Vec<PathBuf> =
        if request.into.is_empty() { bundle.model_files().all().map(Path::to_path_buf).collect() } else { request.into.to_vec() };
    let whole = Whole::read(bundle)?;
    let mut written: Vec<Merged> = vec![];
    let mut changed = BTreeSet::new();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).ok_or_else(|| Error::invalid("not a file").in_file(&file))?.to_owned();
        let place = request.models.map_or_else(|| name.clone(), |models| format!("{models}/{name}"));
        if written.iter().any(|other| other.name == place) {
            let error = Error::invalid(format!("two files are called {name}, and all go into one folder")).in_file(&file);
            return Err(error.with_hint("merge them one by one, or give one another name"));
        }
        let mut base = Model::open(&file)?.base;
        if !base.stilled.is_none() {
            tracing::warn!("{name} is in inference mode, unlike its base: {}", base.stilled);
        }
        finite::warn(&base.raw);
        let is_model = bundle.model() == file;
        let external = onnx::has_external(&base.raw, &file)?;
        let plan = whole.plan(&mut base.anatomy, is_model).in_file(&file)?;
        let given = |key: &str| whole.tensors.get(key).cloned();
        let (graph, modules, requantised) = match &plan {
            None => (base.raw.clone(), 0, Requantised::default()),
            Some(plan) => {
                let (without_cache, requantised) = merged(&base, plan, &given, quantised).in_file(&file)?;
                let with_cache = |cached: &mut Base| match whole.plan(&mut cached.anatomy, is_model)? {
                    Some(plan) => Ok(merged(cached, &plan, &given, quantised)?.0),
                    None => Ok(cached.raw.clone()),
                };
                let graph = cache::kept(&base, without_cache, with_cache).in_file(&file)?;
                changed.extend(plan.targets().into_iter().map(|(module, _)| module).chain(plan.trained()));
                (graph, plan.targets().len() + plan.trained().len(), requantised)
            }
        };
        let data = format!("{name}.data");
        let storage = match (weights, external) {
            (Weights::Inline, _) | (Weights::AsBase, false) => Storage::Inline,
            (Weights::External, _) | (Weights::AsBase, true) => Storage::External { file: data },
        };
        let target = folder.join(&place);
        crate::files::make_folder(crate::files::folder(&target))?;
        onnx::write(&graph, &target, &WriteOptions { storage })?;
        written.push(Merged { source: file, name: place, modules, requantised });
    }
    whole.check(&changed)?;
    copy_beside(bundle.model(), folder)?;
    Ok(written)
}

/// The adapter and the model that it was trained in.
struct Whole {
    anatomy: Anatomy,
    /// The modules of the model as the graph has them, and as the adapter calls them.
    names: Vec<(String, String)>,
    method: crate::adapter::Method,
    /// Whose heads PEFT saves by itself.
    task: Option<Task>,
    plan: Plan,
    tensors: indexmap::IndexMap<String, crate::ir::Tensor>,
    folder: PathBuf,
}

impl Whole {
    fn read(bundle: &Bundle) -> Result<Self> {
        let files = peft::read(bundle.adapter())?;
        let task = files.config.task;
        if files.config.new_head.is_some() {
            let what = "a new head in a model of several files";
            return Err(Error::unsupported(what, "it is no part of any of them").with_hint("`merge -o MODEL.onnx` writes one file"));
        }
        let decoder = Model::open(bundle.model())?.base.anatomy;
        let mut anatomy = Model::open_files(bundle.model_files())?.base.anatomy;
        let before = modules(&anatomy);
        align_names::follow(&mut anatomy, &files.keys(), None);
        let names = before.into_iter().zip(modules(&anatomy)).filter(|(own, adapters)| own != adapters).collect();
        split_modules::join(&mut anatomy, files.config.method.scope(), files.config.method.takes_parts()).in_file(bundle.model())?;
        let given = |key: &str| files.tensors.get(key).cloned();
        let plan = Plan::new(&files.config.method, task, &anatomy, Strictness::AsPeft, 0, &given).in_file(bundle.model())?;
        if plan.virtual_tokens() > 0 {
            let why = "they lengthen what one file gives to another";
            return Err(
                Error::unsupported("virtual tokens in a model of several files", why).with_hint("`merge -o MODEL.onnx` writes one file")
            );
        }
        let folder = bundle.folder().to_path_buf();
        Ok(Self { anatomy: decoder, names, method: files.config.method.clone(), task, plan, tensors: files.tensors, folder })
    }

    /// Gives a file's modules the names that the adapter has for them.
    fn name(&self, anatomy: &mut Anatomy, is_model: bool) {
        let is_decoder =
            is_model || !anatomy.cache.is_empty() || anatomy.attentions.iter().any(|attention| attention.cross) || anatomy.head.is_some();
        if !is_decoder {
            let front = Front::of_encoder(anatomy, &self.anatomy);
            align_names::put_in_front(anatomy, front.front(), None);
        }
        align_names::rename_each(anatomy, |name| {
            let of = |(own, adapters): &(String, String)| {
                let rest = name.strip_prefix(own.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('.'))?;
                Some(format!("{adapters}{rest}"))
            };
            self.names.iter().find_map(of)
        });
    }

    /// What the adapter does to a file; none if it has none of its modules.
    fn plan(&self, anatomy: &mut Anatomy, is_model: bool) -> Result<Option<Plan>> {
        self.name(anatomy, is_model);
        let touched = self.plan.touched();
        let owner = |name: &str| name.rsplit_once('.').map(|(module, _)| module.to_owned()).unwrap_or_default();
        let parameters = anatomy.parameters.iter().map(|parameter| owner(&parameter.name));
        if !modules(anatomy).into_iter().chain(parameters).any(|module| touched.contains(&module)) {
            return Ok(None);
        }
        split_modules::join(anatomy, self.method.scope(), self.method.takes_parts())?;
        let given = |key: &str| self.tensors.get(key).cloned();
        let plan = Plan::new(&self.method, self.task, anatomy, Strictness::OfAFile, 0, &given)?;
        match plan.targets().into_iter().find(|(module, _)| !touched.contains(module)) {
            None => Ok(Some(plan)),
            Some((module, _)) => {
                let error = Error::not_found("module of the adapter", module);
                Err(error.with_hint("the file has it, and the model that the adapter was trained in has not: is it a file of that model?"))
            }
        }
    }

    /// Refuses to leave out a part of the adapter.
    fn check(&self, changed: &BTreeSet<String>) -> Result<()> {
        let all = self.plan.targets().into_iter().map(|(module, _)| module).chain(self.plan.trained());
        let missing: Vec<String> = all.filter(|module| !changed.contains(module)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let shown = missing.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        let error = Error::invalid(format!("{} modules of the adapter are in none of these files: {shown}", missing.len()));
        Err(error.in_file(&self.folder).with_hint("name the files that have them with `into`, too: encoder, decoder, decoder with past"))
    }
}

/// The names of projections and tables, in their order.
fn modules(anatomy: &Anatomy) -> Vec<String> {
    let tables = anatomy.embeddings.iter().map(|table| table.module.clone());
    anatomy.projections.iter().map(|projection| projection.module.clone()).chain(tables).collect()
}

/// Files beside a model that those who run it read, by the ends of their names.
const BESIDE: &[&str] = &[".json", ".txt", ".model", ".jinja"];

/// Copies what lies beside a model, or above its folder `onnx`, but for what is the tool's own.
fn copy_beside(model: &Path, folder: &Path) -> Result<()> {
    let is_in_onnx = std::path::absolute(model).is_ok_and(|path| crate::files::folder(&path).ends_with("onnx"));
    for place in near::folders(model).into_iter().take(if is_in_onnx { 2 } else { 1 }) {
        for entry in place.read_dir().in_file(&place)? {
            let path = entry.in_file(&place)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let is_read = BESIDE.iter().any(|end| name.ends_with(end)) && !name.starts_with("peft-onnx") && !name.starts_with("adapter_");
            let target = folder.join(name);
            if is_read && path.is_file() && !target.exists() {
                std::fs::copy(&path, &target).in_file(&path)?;
            }
        }
    }
    Ok(())
}
