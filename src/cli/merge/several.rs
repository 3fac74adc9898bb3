//! `peft-onnx merge` of a model in several files: a folder comes out.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Args;
use crate::cli::{Global, output};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::evaluate::rounding;
use crate::evaluate::verify::{self, Comparison, Samples};
use crate::export::merge::files::{self, Merged, Request};
use crate::export::{Bundle, INFERENCE};
use crate::files::StagedFolder;
use crate::ir::DType;
use crate::model::Model;
use crate::model::parts::Files;
use crate::onnx::Runnable;

/// Whether a folder of files is asked for.
pub(super) fn is_asked_for(args: &Args, bundle: &Bundle) -> bool {
    !args.into.is_empty() || (!bundle.model_files().parts.is_empty() && args.is_of_folder())
}

/// Folds the adapter into every file.
///
/// # Errors
/// As [`files::write`]; a folder that is there and not empty; files that compute something else than the bundle.
pub(super) fn run(args: &Args, global: &Global, bundle: &Bundle) -> Result<()> {
    let sources: Vec<PathBuf> = args.into.iter().cloned().chain(bundle.model_files().all().map(Path::to_path_buf)).collect();
    check_folder(&args.output, args.force, &sources)?;
    let folder = StagedFolder::new(&args.output)?;
    let (weights, quantised) = args.merging.storage();
    let written = files::write(&Request { into: &args.into, weights, quantised, ..Request::new(bundle, folder.path()) })?;
    let comparison = if args.merging.no_verify { None } else { compared(global, bundle, &written, folder.path())? };
    folder.finish()?;
    tell(args, global, &written, comparison.as_ref())?;
    let is_rounded = written.iter().any(|file| file.requantised.weights > 0);
    match comparison.filter(|comparison| !is_rounded && !comparison.comparison.is_close(comparison.precision)) {
        None => Ok(()),
        Some(Verified { comparison, .. }) => {
            let error = Error::from(ErrorKind::Diverged(format!("the merged model is not the unmerged one: {comparison}")));
            Err(error.in_file(&args.output).with_hint("the files were written nevertheless: compare `peft-onnx eval` of the bundle and of the model on your data before you use them"))
        }
    }
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

fn tell(args: &Args, global: &Global, written: &[Merged], verified: Option<&Verified>) -> Result<()> {
    let size = |merged: &Merged| super::size(&args.output.join(&merged.name));
    if global.json {
        let file = |merged: &Merged| {
            let rounded = (merged.requantised.weights > 0)
                .then(|| json!({"weights": merged.requantised.weights, "error": merged.requantised.error()}));
            json!({"file": merged.name, "of": merged.source, "modules": merged.modules, "bytes": size(merged), "requantized": rounded})
        };
        return output::print_json(&json!({
            "folder": args.output,
            "files": written.iter().map(file).collect::<Vec<_>>(),
            "modules": written.iter().map(|merged| merged.modules).sum::<usize>(),
            "verified": verified.map(|verified| verified.comparison.json()),
        }));
    }
    if global.quiet {
        return Ok(());
    }
    let line = |merged: &Merged| {
        let path = args.output.join(&merged.name);
        match merged.modules {
            0 => format!("copied    {} ({}): it has no module of the adapter", path.display(), output::bytes(size(merged))),
            modules => format!("merged    {modules} modules into {} ({})", path.display(), output::bytes(size(merged))),
        }
    };
    let mut lines: Vec<String> = written.iter().map(line).collect();
    lines.extend(verified.map(|verified| format!("verified  {}: {}", verified.files.join(" + "), verified.comparison)));
    if verified.is_none() && !args.merging.no_verify {
        lines.push("verified  not: the files of the bundle's base are not all among them".to_owned());
    }
    output::print(&lines.join("\n"))
}
