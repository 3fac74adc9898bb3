//! Writes bundles: everything that training an adapter on a base needs, in one folder.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::injection::{Injected, Injection, inject};
use super::lock::Lock;
use super::manifest::{self, BaseFile, Manifest};
use super::names::{INITIAL, is_inside, location, relative};
use super::opened::write_inference;
use super::{card, fingerprint};
use crate::contract::GraphName;
use crate::files::StagedFolder;
use crate::ir::Graph;
use crate::model::parts::{Files, Join};
use crate::model::{Base, Model};
use crate::onnx::{self, Storage, WriteOptions};
use crate::peft::written::{self, Others};
use crate::train::plan::LossPlan;
use crate::{Context, Error, Result, peft};

/// What to do about a bundle that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    #[default]
    Keep,
    /// Replace it.
    Replace,
}

/// Whether a bundle may be written to a folder, so that nobody waits for a model first.
///
/// # Errors
/// A folder that is there and may not be replaced.
pub fn check_target(target: &Path, existing: Existing) -> Result<()> {
    if target.exists() && existing == Existing::Keep {
        return Err(Error::invalid("already there").in_file(target).with_hint("`force` replaces it, `-o` names another folder"));
    }
    if target.exists() && !target.join(manifest::FILE).exists() && target.read_dir().map_or(true, |mut entries| entries.next().is_some()) {
        return Err(Error::invalid("not a bundle, so it is not replaced").in_file(target).with_hint("`-o` names another folder"));
    }
    Ok(())
}

/// Puts an adapter into a model and writes the bundle. It appears when it is complete.
///
/// # Errors
/// A model in memory, which no bundle can refer to; one that cannot be adapted or differentiated; an adapter that does not fit it; a folder that is
/// there already.
pub fn write(model: Model, asked: &Injection, target: &Path, existing: Existing) -> Result<Injected> {
    // A bundle that is being trained is not replaced.
    let is_there = existing == Existing::Replace && target.join(manifest::FILE).exists();
    let _lock = if is_there { Some(Lock::take(target, "peft-onnx inject")?) } else { None };
    check_target(target, existing)?;
    let folder = StagedFolder::new(target)?;
    let file = model.file().map(Path::to_path_buf);
    let file = file.ok_or_else(|| Error::unsupported("a bundle of a model in memory", "the bundle refers to the model's file"))?;
    let origin = Based::on(model.files(), &model.base)?;
    let locations = origin.locations.clone();
    let mut injected = inject(model, asked, &mut |purpose, graph: Graph| {
        let path = folder.path().join(format!("{purpose}.onnx"));
        if purpose == GraphName::Inference {
            return write_inference(&graph, &path, &locations);
        }
        let storage = Storage::Refer { files: locations.clone(), file: format!("{purpose}.data") };
        onnx::write(&graph, &path, &WriteOptions { storage })
    })?;
    let hint = "the adapter starts from numbers of the base, which are none: `peft-onnx convert` names the tensors that have them";
    peft::write(folder.path(), &injected.files).hint(hint)?;
    peft::write(&folder.path().join(INITIAL), &injected.files)?;
    written::note(folder.path(), Others::Replace)?;
    written::note(&folder.path().join(INITIAL), Others::Keep)?;
    let manifest = &mut injected.manifest;
    manifest.base = origin.described(&file, target)?;
    let teacher = asked.loss.teacher.as_deref().map(|file| from_bundle(file, target)).transpose()?;
    manifest.loss = LossPlan { teacher, ..manifest.loss.clone() };
    Manifest::write(manifest, folder.path())?;
    card::write(folder.path(), manifest, &[])?;
    fingerprint::remember(folder.path(), &manifest.base.fingerprint, &locations.iter().map(|(file, _)| &**file).collect::<Vec<_>>());
    folder.finish()?;
    Ok(injected)
}

/// The base as the bundle refers to it.
struct Based {
    /// Its folder, absolute.
    folder: PathBuf,
    /// Its files, absolute, with their locations in the bundle's graphs: the model's own first.
    locations: Vec<(PathBuf, String)>,
    /// What the files are, found out while other work goes on.
    files: JoinHandle<Result<Vec<BaseFile>>>,
    /// The paths of its parts from its folder.
    parts: Vec<String>,
    /// What is joined of them beside what names tell.
    joins: Vec<Join>,
}

/// A file of the base, by its path from the folder of the model (0) or of a part.
struct Named {
    path: String,
    part: usize,
    file: PathBuf,
}

impl Based {
    fn on(files: &Files, base: &Base) -> Result<Self> {
        let all = files.all().map(|file| std::path::absolute(file).in_file(file)).collect::<Result<Vec<PathBuf>>>()?;
        let folders = all.iter().map(|file| file.parent().map(Path::to_path_buf).ok_or_else(|| Error::invalid("not a file").in_file(file)));
        let folders: Vec<PathBuf> = folders.collect::<Result<_>>()?;
        let data = base.files().into_iter().filter(|file| !all.contains(file));
        let named = all.iter().cloned().chain(data).map(|file| named(file, &folders)).collect::<Result<Vec<_>>>()?;
        let locations = named.iter().map(|named| (named.file.clone(), location(&named.path, named.part))).collect();
        let parts = all[1..].iter().map(|part| from_folder(part, &folders[0])).collect::<Result<_>>()?;
        let described = std::thread::spawn(move || named.into_iter().map(described).collect());
        Ok(Self { folder: folders[0].clone(), locations, files: described, parts, joins: files.joins.clone() })
    }

    fn described(self, model: &Path, bundle: &Path) -> Result<manifest::Base> {
        let files = self.files.join().map_err(|_| Error::invalid("reading the base's files was broken off").in_file(model))??;
        let name = files.first().map(|file| file.path.clone()).unwrap_or_default();
        let path = from_bundle(&self.folder.join(&name), bundle)?;
        let fingerprint = fingerprint::of_base(&files);
        Ok(manifest::Base { file: name, path, fingerprint, files, parts: self.parts, joins: self.joins })
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
    from_folder(file, &within.canonicalize().in_file(within)?.join(last))
}

/// A file's path from a folder, with `/` between its parts.
///
/// # Errors
/// A folder that is not there.
fn from_folder(file: &Path, from: &Path) -> Result<String> {
    let from = from.canonicalize().unwrap_or_else(|_| from.to_path_buf());
    let file = std::path::absolute(file).in_file(file)?;
    let (folder, name) = (file.parent().unwrap_or(&file), file.file_name().unwrap_or_default());
    let file = folder.canonicalize().in_file(folder)?.join(name);
    let path = relative(&file, &from).unwrap_or_else(|| name.into());
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    Ok(parts.join("/"))
}

/// A file's path from the model's folder, else from that of a part, with `/` between its parts.
fn named(file: PathBuf, folders: &[PathBuf]) -> Result<Named> {
    let from = |folder: &PathBuf| {
        let path = file.strip_prefix(folder).ok()?;
        let parts = path.components().map(|part| part.as_os_str().to_str()).collect::<Option<Vec<_>>>()?;
        Some(parts.join("/")).filter(|name| is_inside(name))
    };
    let Some((part, path)) = folders.iter().enumerate().find_map(|(part, folder)| Some((part, from(folder)?))) else {
        let why = "a file with its weights has a path that is no UTF-8, or does not lead down from the model's folder";
        return Err(Error::unsupported("a bundle of this model", why).in_file(file));
    };
    Ok(Named { path, part, file })
}

fn described(Named { path, part, file }: Named) -> Result<BaseFile> {
    let bytes = std::fs::metadata(&file).in_file(&file)?.len();
    Ok(BaseFile { path, part, bytes, hash: fingerprint::of_file(&file, bytes)? })
}
