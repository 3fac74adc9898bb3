//! `peft-onnx merge` of a model in several files: a folder comes out.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Folder, Merging};
use crate::cli::{Global, output};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::evaluate::rounding;
use crate::evaluate::verify::{self, Comparison, Samples};
use crate::export::layout::{self, Layout};
use crate::export::merge::files::{self, Merged, Request};
use crate::export::{Bundle, INFERENCE};
use crate::files::StagedFolder;
use crate::ir::DType;
use crate::model::Model;
use crate::model::parts::Files;
use crate::onnx::Runnable;

/// The files that were written.
pub(in crate::cli) struct Written {
    folder: PathBuf,
    files: Vec<Merged>,
    verified: Option<Verified>,
}

/// Folds the adapter into every file.
///
/// # Errors
/// As [`files::write`]; a folder that is there and not empty.
pub(super) fn write(merging: &Merging, bundle: &Bundle, folder: &Folder<'_>, global: &Global) -> Result<Written> {
    let sources: Vec<PathBuf> = folder.into.iter().cloned().chain(bundle.model_files().all().map(Path::to_path_buf)).collect();
    check_folder(folder.path, folder.force, &sources)?;
    let layout = merging.layout.unwrap_or_else(|| Layout::around(bundle.model()));
    if merging.layout == Some(Layout::Genai) {
        return Err(Error::unsupported("the layout genai of a model in several files", "onnxruntime-genai's builder writes one")
            .in_file(bundle.model()));
    }
    let staged = StagedFolder::new(folder.path)?;
    let (weights, quantised) = merging.storage();
    let models = (layout == Layout::TransformersJs).then_some("onnx");
    let files = files::write(&Request { into: folder.into, models, weights, quantised, ..Request::new(bundle, staged.path()) })?;
    if layout == Layout::TransformersJs {
        layout::complete(staged.path(), layout, &super::source(bundle, folder.tokenizer)?)?;
    }
    let verified = if merging.no_verify { None } else { compared(global, bundle, &files, staged.path())? };
    folder.write_options(staged.path(), bundle)?;
    staged.finish()?;
    Ok(Written { folder: folder.path.to_path_buf(), files, verified })
}

/// Checks that a folder may be written, and that no source lies in it.
fn check_folder(folder: &Path, force: bool, sources: &[PathBuf]) -> Result<()> {
    if folder.is_file() {
        return Err(Error::invalid("a file, where a folder is to be written").in_file(folder).with_hint("`-o` names a folder"));
    }
    if !folder.is_dir() {
        return Ok(());
    }
    let own = folder.canonicalize().in_file(folder)?;
    if let Some(source) = sources.iter().find(|source| source.canonicalize().is_ok_and(|source| source.starts_with(&own))) {
        let error = Error::invalid("this file is read, and the folder that it lies in would be replaced").in_file(source);
        return Err(error.with_hint("`-o` names another folder"));
    }
    if folder.read_dir().in_file(folder)?.next().is_some() && !force {
        return Err(Error::invalid("already there").in_file(folder).with_hint("`--force` replaces it, `-o` names another folder"));
    }
    Ok(())
}

/// What was compared, and the files that were.
struct Verified {
    comparison: Comparison,
    precision: DType,
    files: Vec<String>,
}

/// The files that were made of the bundle's own, joined again, beside the bundle's inference graph; nothing where not all of them were written.
fn compared(global: &Global, bundle: &Bundle, written: &[Merged], folder: &Path) -> Result<Option<Verified>> {
    let same = |one: &Path, other: &Path| one.canonicalize().ok().is_some_and(|one| other.canonicalize().is_ok_and(|other| one == other));
    let of = |file: &Path| written.iter().find(|merged| same(&merged.source, file));
    let Some(all) = bundle.model_files().all().map(of).collect::<Option<Vec<_>>>().filter(|all| all.len() > 1) else { return Ok(None) };
    let paths: Vec<PathBuf> = all.iter().map(|merged| folder.join(&merged.name)).collect();
    let files = Files { model: paths[0].clone(), parts: paths[1..].to_vec(), joins: bundle.model_files().joins.clone() };
    let merged = Model::joined(&files)?;
    let samples = Samples::of_model(&Model::open_files(bundle.model_files())?);
    let (runtime, precision) = (global.runtime(None)?, Model::open(bundle.model())?.base.precision());
    let mut comparison = verify::compare(runtime, bundle.runnable(INFERENCE)?, Runnable::of(&merged, &files.model)?, &samples)?;
    if !comparison.relative.is_nan() && !comparison.is_close(precision) {
        comparison = rounding::settled(runtime, [&bundle.adapted()?, &merged], &files.model, &samples, comparison)?;
    }
    Ok(Some(Verified { comparison, precision, files: all.iter().map(|merged| merged.name.clone()).collect() }))
}

impl Written {
    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn size(&self, merged: &Merged) -> u64 {
        super::size(&self.folder.join(&merged.name))
    }

    /// What was written, for programs.
    pub(super) fn json(&self) -> Value {
        let file = |merged: &Merged| {
            let rounded = (merged.requantised.weights > 0)
                .then(|| json!({"weights": merged.requantised.weights, "error": merged.requantised.error()}));
            json!({"file": merged.name, "of": merged.source, "modules": merged.modules, "bytes": self.size(merged), "requantized": rounded})
        };
        json!({
            "folder": self.folder,
            "files": self.files.iter().map(file).collect::<Vec<_>>(),
            "modules": self.files.iter().map(|merged| merged.modules).sum::<usize>(),
            "verified": self.verified.as_ref().map(|verified| verified.comparison.json()),
        })
    }

    /// What was written, in lines for people.
    pub(super) fn lines(&self, is_unverified: bool) -> Vec<String> {
        let line = |merged: &Merged| {
            let path = self.folder.join(&merged.name);
            match merged.modules {
                0 => format!("copied    {} ({}): it has no module of the adapter", path.display(), output::bytes(self.size(merged))),
                modules => format!("merged    {modules} modules into {} ({})", path.display(), output::bytes(self.size(merged))),
            }
        };
        let mut lines: Vec<String> = self.files.iter().map(line).collect();
        lines.extend(self.verified.iter().map(|verified| format!("verified  {}: {}", verified.files.join(" + "), verified.comparison)));
        if self.verified.is_none() && !is_unverified {
            lines.push("verified  not: the files of the bundle's base are not all among them".to_owned());
        }
        lines
    }

    /// Refuses files that compute something else than the bundle.
    pub(super) fn check(&self) -> Result<()> {
        let is_rounded = self.files.iter().any(|file| file.requantised.weights > 0);
        match self.verified.as_ref().filter(|verified| !is_rounded && !verified.comparison.is_close(verified.precision)) {
            None => Ok(()),
            Some(Verified { comparison, .. }) => {
                let error = Error::from(ErrorKind::Diverged(format!("the merged model is not the unmerged one: {comparison}")));
                Err(error.in_file(&self.folder).with_hint("the files were written nevertheless: compare `peft-onnx eval` of the bundle and of the model on your data before you use them"))
            }
        }
    }
}
