//! The door: every path of the command line is looked at before any work begins. A folder is taken for the model in it; what stands in the
//! wrong place is recognised, and the error says what it is and where it belongs. What is inside a file of the right kind is not asked here.

mod launched;
mod missing;
mod model;
mod models;
mod written;
mod wrong;

use std::path::{Path, PathBuf};

pub(super) use launched::alone;

use super::which::{Around, Which, around, is_whole};
use super::{BundleArgs, Command, Global, ModelArgs, data, inject, train};
use crate::data::splits::{self, Split, Splits};
use crate::error::{Error, Result};
use crate::export::manifest;
use crate::files::Kind;
use crate::model::parts::{self, Split as ModelParts};
use crate::peft;

/// What an argument of the command line should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Model,
    Bundle,
    ModelOrBundle,
    Adapter,
    Data,
    Tokenizer,
}

impl Role {
    /// What is expected there, with its article.
    fn words(self) -> &'static str {
        match self {
            Self::Model => "an ONNX model",
            Self::Bundle => "a bundle (a folder that `peft-onnx inject` wrote)",
            Self::ModelOrBundle => "an ONNX model or a bundle",
            Self::Adapter => "an adapter (a folder that Hugging Face PEFT or peft-onnx wrote)",
            Self::Data => "a data file",
            Self::Tokenizer => "a tokenizer (tokenizer.json or its folder)",
        }
    }

    /// Whether a file of this kind may be it. Where the kind is not known, the reader of the file says what is wrong with it.
    fn takes(self, kind: Kind) -> bool {
        match self {
            Self::Model | Self::ModelOrBundle => kind == Kind::Onnx,
            Self::Bundle | Self::Adapter => false,
            // Rows as JSON objects look like any other JSON, and an empty file is one without rows.
            Self::Data => matches!(kind, Kind::Data | Kind::Json | Kind::Text | Kind::Empty),
            Self::Tokenizer => matches!(kind, Kind::Tokenizer | Kind::Json),
        }
    }
}

/// The command with its paths looked at: folders that stand for a model are that model.
///
/// # Errors
/// A path where nothing is, with the nearest names; a file or folder of another kind than belongs there, with what to do.
pub(super) fn open(command: &Command, global: &Global) -> Result<Command> {
    written::look(command)?;
    let mut command = command.clone();
    match &mut command {
        Command::Finetune(args) => {
            args.settle_output()?;
            several(&mut args.model, &mut args.adding.part);
            take(Role::Model, &mut args.model, global)?;
            of_adding(&mut args.adding, global)?;
            of_training(&mut args.training, global)?;
        }
        Command::Inspect(args) => take(Role::Model, &mut args.model, global)?,
        Command::Convert(args) => take(Role::Model, &mut args.model, global)?,
        Command::Inject(args) => {
            several(&mut args.model, &mut args.adding.part);
            take(Role::Model, &mut args.model, global)?;
            of_adding(&mut args.adding, global)?;
            all(Role::Tokenizer, &args.tokenizer)?;
        }
        Command::Train(args) => {
            moved(&mut args.base, global)?;
            look(Role::Bundle, &args.bundle)?;
            of_training(&mut args.training, global)?;
        }
        Command::Eval(args) => {
            several(&mut args.model.path, &mut args.model.parts);
            run(&mut args.model, global)?;
            part(&mut args.rows.data, &[Split::Test, Split::Validation], global)?;
        }
        Command::Data(args) => of_data(args, global)?,
        Command::Predict(args) => {
            several(&mut args.model.path, &mut args.model.parts);
            run(&mut args.model, global)?;
            part(&mut args.rows.data, &[Split::Test, Split::Validation], global)?;
        }
        Command::Generate(args) => {
            if ModelParts::inside(&args.model.path).is_none() && parts::of_pictures(&args.model.path).is_none() {
                run(&mut args.model, global)?;
            }
            all(Role::Model, &args.part)?;
            all(Role::Tokenizer, &args.model.tokenizer)?;
        }
        #[cfg(feature = "serve")]
        Command::Serve(args) => {
            moved(&mut args.base, global)?;
            around(&mut args.model, &mut args.which);
            take(Role::ModelOrBundle, &mut args.model, global)?;
            all(Role::Tokenizer, &args.tokenizer)?;
        }
        Command::Chat(args) => run(&mut args.model, global)?,
        Command::Check(args) => {
            bundle(&mut args.bundle, global)?;
            args.data.as_mut().map_or(Ok(()), |data| part(data, &[Split::Train], global))?;
            all(Role::Tokenizer, &args.tokenizer)?;
        }
        Command::Plan(args) => {
            moved(&mut args.base, global)?;
            // What it takes is the same with every adapter.
            around(&mut args.bundle, &mut Which::default());
            look(Role::Bundle, &args.bundle)?;
        }
        Command::Runs(args) => {
            if let Some(Around { bundle, run }) = Around::of(&args.bundle) {
                args.bundle = bundle;
                args.runs.extend(run.map(|run| run.name).filter(|name| !args.runs.contains(name)));
            }
            look(Role::Bundle, &args.bundle)?;
        }
        Command::Merge(args) => {
            bundle(&mut args.bundle, global)?;
            all(Role::Tokenizer, &args.tokenizer)?;
            all(Role::Model, &args.into)?;
        }
        Command::Export(args) => {
            bundle(&mut args.bundle, global)?;
            adapters(&mut args.adapter)?;
        }
        Command::Combine(args) => adapters(&mut args.adapters)?,
        Command::Runtime(_) | Command::Completions(_) => {}
    }
    Ok(command)
}

/// Takes the files in a folder with a model in several for the folder: those of an encoder-decoder, or a decoder, a table of tokens and what sees pictures.
fn several(model: &mut PathBuf, parts: &mut Vec<PathBuf>) {
    if !parts.is_empty() {
        return;
    }
    if let Some(split) = ModelParts::inside(model) {
        *model = split.to_train().to_path_buf();
        *parts = vec![split.encoder];
    } else if let Some(files) = parts::of_pictures(model) {
        (*model, *parts) = (files.model, files.parts);
    }
}

/// The paths of what is put into a model.
fn of_adding(args: &mut inject::Adding, global: &Global) -> Result<()> {
    let models = args.part.iter_mut().chain(&mut args.loss.teacher).chain(&mut args.loss.loss_graph);
    models.into_iter().try_for_each(|model| take(Role::Model, model, global))?;
    adapters(&mut args.adapter)
}

/// Takes the newest checkpoint of a run for the run's folder in a bundle, as the commands that take a bundle do.
fn adapters<'a>(paths: impl IntoIterator<Item = &'a mut PathBuf>) -> Result<()> {
    paths.into_iter().try_for_each(|path| {
        let (mut bundle, mut which) = (path.clone(), Which::default());
        around(&mut bundle, &mut which);
        if let Some(folder) = which.folder(&bundle)? {
            *path = folder;
        }
        look(Role::Adapter, path)
    })
}

/// The paths of what is learnt from and measured on.
fn of_training(args: &mut train::Training, global: &Global) -> Result<()> {
    if args.eval_data.is_none() && args.val_size.is_none() {
        args.eval_data = beside(&args.data)?;
    }
    part(&mut args.data, &[Split::Train], global)?;
    args.eval_data.as_mut().map_or(Ok(()), |data| part(data, &[Split::Validation, Split::Test], global))?;
    all(Role::Tokenizer, &args.tokenizer)
}

/// The paths of a bundle.
fn bundle(args: &mut BundleArgs, global: &Global) -> Result<()> {
    moved(&mut args.base, global)?;
    around(&mut args.path, &mut args.which);
    look(Role::Bundle, &args.path)
}

/// The paths of a model that is run.
fn run(args: &mut ModelArgs, global: &Global) -> Result<()> {
    moved(&mut args.base, global)?;
    around(&mut args.path, &mut args.which);
    take(Role::ModelOrBundle, &mut args.path, global)?;
    all(Role::Tokenizer, &args.tokenizer)?;
    args.check()
}

/// The paths of `data` and of its commands.
fn of_data(args: &mut data::Args, global: &Global) -> Result<()> {
    match &mut args.command {
        None => {
            moved(&mut args.base, global)?;
            args.bundle.iter_mut().for_each(|bundle| around(bundle, &mut Which::default()));
            all(Role::Bundle, &args.bundle)?;
            args.file.as_mut().map_or(Ok(()), |file| part(file, &[Split::Train, Split::Validation, Split::Test], global))?;
            all(Role::Tokenizer, &args.tokenizer)
        }
        Some(data::Command::MineNegatives(args)) => {
            moved(&mut args.base, global)?;
            around(&mut args.model, &mut args.which);
            take(Role::ModelOrBundle, &mut args.model, global)?;
            part(&mut args.file, &[Split::Train], global)?;
            all(Role::Data, &args.corpus)?;
            all(Role::Tokenizer, &args.tokenizer)
        }
    }
}

fn all<'a>(role: Role, paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    paths.into_iter().try_for_each(|path| look(role, path))
}

/// Takes the file in a folder of data that is for one of these purposes, the first that there is, for the folder.
fn part(path: &mut PathBuf, wanted: &[Split], global: &Global) -> Result<()> {
    look(Role::Data, path)?;
    let splits = if path.is_dir() { Splits::of(path)? } else { Splits::default() };
    if splits.is_empty() {
        return Ok(());
    }
    let names = |splits: &[Split]| splits.iter().map(|split| split.name()).collect::<Vec<_>>().join(" or ");
    let Some(found) = splits.first(wanted) else {
        let others: Vec<Split> =
            [Split::Train, Split::Validation, Split::Test].into_iter().filter(|split| splits.get(*split).is_some()).collect();
        let error = Error::not_found("data file", names(wanted)).in_file(path.as_path());
        return Err(error.with_hint(format!("the folder has {}: name that file if it is meant", names(&others))));
    };
    global.note(&format!("{}: {}", path.display(), shown(found)));
    *path = found.to_path_buf();
    Ok(())
}

/// The file of a folder of data that training is evaluated on, where nobody named one.
fn beside(data: &Path) -> Result<Option<PathBuf>> {
    let splits = if data.is_dir() { Splits::of(data)? } else { Splits::default() };
    Ok(splits.get(Split::Validation).map(Path::to_path_buf))
}

/// The base of a bundle, where it was said to be elsewhere now.
fn moved(base: &mut Option<PathBuf>, global: &Global) -> Result<()> {
    base.as_mut().map_or(Ok(()), |base| take(Role::Model, base, global))
}

/// Takes the model in a folder for the folder.
fn take(role: Role, path: &mut PathBuf, global: &Global) -> Result<()> {
    look(role, path)?;
    if !path.is_dir() || (role == Role::ModelOrBundle && is_of_bundle(path)) {
        return Ok(());
    }
    let found = model::inside(path)?;
    if let Some(note) = found.note(path) {
        global.note(&note);
    }
    *path = found.file;
    Ok(())
}

/// Refuses a path where nothing is, or something else than belongs there.
fn look(role: Role, path: &Path) -> Result<()> {
    // Standard input, for commands that read it.
    if role == Role::Data && path == Path::new("-") {
        return Ok(());
    }
    if path.is_dir() {
        return look_at_folder(role, path);
    }
    if !path.exists() {
        return Err(missing::error(role, path));
    }
    match Kind::of(path) {
        Some(kind) if !role.takes(kind) => Err(wrong::file(role, kind, path)),
        None if matches!(role, Role::Bundle | Role::Adapter) => Err(wrong::unknown(role, path)),
        _ => Ok(()),
    }
}

fn look_at_folder(role: Role, path: &Path) -> Result<()> {
    let fits = match role {
        Role::Model => !is_of_bundle(path),
        Role::Bundle => is_bundle(path),
        // An adapter may lie in a folder of its own inside; its reader looks there.
        Role::Adapter => is_of_bundle(path) || is_adapter(path) || folders_in(path).iter().any(|inner| is_adapter(inner)),
        Role::ModelOrBundle | Role::Tokenizer => true,
        Role::Data => splits::is_data(path),
    };
    match fits {
        true if role == Role::Adapter && is_adapter(path) => is_whole(path),
        true => Ok(()),
        false => Err(wrong::folder(role, path)),
    }
}

fn is_bundle(folder: &Path) -> bool {
    folder.join(manifest::FILE).is_file()
}

fn is_adapter(folder: &Path) -> bool {
    folder.join(peft::CONFIG_FILE).is_file()
}

/// Whether a folder is a bundle, or an adapter that one of its runs saved inside it.
fn is_of_bundle(folder: &Path) -> bool {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    is_bundle(folder) || (is_adapter(folder) && whole.ancestors().skip(1).any(is_bundle))
}

/// What is in a folder, sorted; nothing where it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    entries
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.is_dir()).collect()
}

fn files_in(folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.is_file() && is_wanted(path)).collect()
}

/// The folder of a file, which may be the current one.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `a`, `a or b`, `a, b or c`; a few, and how many more.
fn listed(paths: &[PathBuf]) -> String {
    const SHOWN: usize = 6;
    let mut names: Vec<String> = paths.iter().take(SHOWN).map(|path| shown(path)).collect();
    if paths.len() > SHOWN {
        names.push(format!("{} others", paths.len() - SHOWN));
    }
    match names.pop() {
        Some(last) if !names.is_empty() => format!("{} or {last}", names.join(", ")),
        last => last.unwrap_or_default(),
    }
}

/// A path as people write it: what is in the current folder has no folder in front.
fn shown(path: &Path) -> String {
    path.strip_prefix(".").ok().filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(path).display().to_string()
}

fn refusal(role: Role, path: &Path, found: &str, hint: String) -> Error {
    Error::invalid(format!("expected {}, found {found}", role.words())).in_file(path).with_hint(hint)
}
