//! `peft-onnx merge`

mod several;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{BundleArgs, Global, config, output, target};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::evaluate::rounding;
use crate::evaluate::verify::{self, Comparison, Samples};
use crate::export::layout::{self, Layout, Placed};
use crate::export::merge::{self, Quantised, Report, Request, Weights};
use crate::export::{Bundle, INFERENCE};
use crate::ir::DType;
use crate::model::{Model, declared};
use crate::{files, onnx};

const AFTER_HELP: &str = "\
The merged model has the base's inputs and outputs, and runs in any ONNX runtime. Unless --no-verify is given, it is compared with the bundle's
inference graph on random inputs.

Examples:
  peft-onnx merge model.lora -o tuned.onnx
  peft-onnx merge model.lora -o tuned/                       # with tokenizer and config.json, as the base's folder
  peft-onnx merge model.lora -o site/ --layout transformers.js
  peft-onnx merge t5.lora -o tuned/ --into encoder_model.onnx decoder_model.onnx decoder_with_past_model.onnx
  peft-onnx merge model.lora -o tuned.onnx --weights external
  peft-onnx merge int4.lora -o tuned.onnx --requantize       # as small as the base; says what rounding cost";

/// Options of `merge`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The bundle.
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// The model to write, or the folder: with the tokenizer and the configurations of the base's folder
    #[arg(short, long, value_name = "MODEL.onnx|FOLDER")]
    pub output: PathBuf,
    /// Fold the adapter into these files of the model, each with its own inputs and outputs, and write them into a folder: encoder, decoder, decoder
    /// with past, .. [default: the files that the bundle was made of]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub into: Vec<PathBuf>,
    /// How the model is merged.
    #[command(flatten)]
    pub merging: Merging,
    /// tokenizer.json, or its folder, to put beside the model [default: the one beside the base]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Replace the model or the folder if it is there
    #[arg(long)]
    pub force: bool,
}

/// Options of every command that merges.
#[derive(Clone, Debug, clap::Args)]
pub struct Merging {
    /// What the folder is for: onnx, optimum (also sentence-transformers), transformers.js, genai (onnxruntime-genai) [default: as the base's folder]
    #[arg(long, value_name = "LAYOUT", help_heading = MERGING)]
    pub layout: Option<Layout>,
    /// Where the merged model's weights go
    #[arg(long, value_name = "WHERE", default_value = "as-base", help_heading = MERGING)]
    pub weights: Weights,
    /// Also fold the adapter into quantised weights, and quantise them again in their own scheme; by default the adapter stays beside them, which
    /// is exact
    #[arg(long, help_heading = MERGING)]
    pub requantize: bool,
    /// Do not compare the merged model with the unmerged one
    #[arg(long, help_heading = MERGING)]
    pub no_verify: bool,
}

const MERGING: &str = "The merged model";

/// Folds the adapter into the base.
///
/// # Errors
/// As [`merge::write`]; [`Diverged`](ErrorKind::Diverged) if the merged model computes something else than the unmerged one.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let bundle = args.bundle.open()?;
    let tokenizer = args.tokenizer.as_deref();
    let folder = Folder { path: &args.output, force: args.force, tokenizer, config: None, into: &args.into };
    let merged = if args.is_of_folder() || !args.into.is_empty() {
        args.merging.write(&bundle, &folder, global)?
    } else {
        Written::One(Box::new(args.write_file(&bundle, global)?))
    };
    if global.json {
        output::print_json(&merged.json())?;
    } else if !global.quiet {
        output::print(&merged.lines(args.merging.no_verify).join("\n"))?;
    }
    merged.check()
}

/// What was written: one model, or the files of one that is in several.
pub(super) enum Written {
    One(Box<Merged>),
    Files(several::Written),
}

impl Written {
    /// What was written, for programs.
    pub(super) fn json(&self) -> Value {
        match self {
            Self::One(merged) => merged.json(),
            Self::Files(files) => files.json(),
        }
    }

    /// What was written, in lines for people.
    pub(super) fn lines(&self, is_unverified: bool) -> Vec<String> {
        match self {
            Self::One(merged) => merged.lines(is_unverified),
            Self::Files(files) => files.lines(is_unverified),
        }
    }

    /// Refuses what is not the unmerged model.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::One(merged) => merged.check(),
            Self::Files(files) => files.check(),
        }
    }

    /// The model's file, or the folder of its files.
    pub(super) fn model(&self) -> &Path {
        match self {
            Self::One(merged) => &merged.model,
            Self::Files(files) => files.folder(),
        }
    }
}

/// A folder to write a merged model into.
pub(super) struct Folder<'a> {
    /// Where it will stand.
    pub(super) path: &'a Path,
    /// Whether one that is there is replaced.
    pub(super) force: bool,
    /// A tokenizer in place of the one beside the base.
    pub(super) tokenizer: Option<&'a Path>,
    /// What `config.yaml` is to say, if there is to be one.
    pub(super) config: Option<&'a str>,
    /// The files that the adapter is folded into; none for those of the bundle's base.
    pub(super) into: &'a [PathBuf],
}

impl Folder<'_> {
    /// Writes the options with which it was made, or those that say what the columns of the training's data were.
    fn write_options(&self, staged: &Path, bundle: &Bundle) -> Result<()> {
        let options = self.config.map(ToOwned::to_owned).map_or_else(|| columns_of(bundle), |text| Ok(Some(text)))?;
        options.map_or(Ok(()), |text| files::replace(&staged.join(declared::OPTIONS), text.as_bytes()))
    }
}

/// What was written.
pub(super) struct Merged {
    model: PathBuf,
    report: Report,
    comparison: Option<Comparison>,
    placed: Option<(Layout, Placed)>,
}

impl Args {
    /// Whether a folder is meant, not a file: it says so, is one, or has no name of a file.
    pub(super) fn is_of_folder(&self) -> bool {
        let ends_in_slash = self.output.as_os_str().to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]);
        self.merging.layout.is_some() || ends_in_slash || self.output.is_dir() || self.output.extension().is_none()
    }

    fn write_file(&self, bundle: &Bundle, global: &Global) -> Result<Merged> {
        if self.tokenizer.is_some() {
            return Err(
                Error::invalid("--tokenizer goes with a folder").with_hint("`-o FOLDER/` writes one with all that belongs to the model")
            );
        }
        target::file(&self.output, self.force, &read(bundle))?;
        let base = Model::open_files(bundle.model_files())?;
        let samples = Samples::of_model(&base);
        let report = merge::write(base, &self.merging.request(bundle, &self.output, None))?;
        let comparison = self.merging.compared(&report, &self.output, &samples, global)?;
        Ok(Merged { model: self.output.clone(), report, comparison, placed: None })
    }
}

impl Merging {
    /// Where weights go, and what becomes of quantised ones.
    pub(super) fn storage(&self) -> (Weights, Quantised) {
        (self.weights, if self.requantize { Quantised::Requantised } else { Quantised::Beside })
    }

    fn request<'a>(&self, bundle: &'a Bundle, output: &'a Path, data: Option<&'a str>) -> Request<'a> {
        let (weights, quantised) = self.storage();
        Request { weights, data, quantised, ..Request::new(bundle, output) }
    }

    /// Writes a merged model with everything that belongs to it, in as many files as its base has. The folder appears when it is complete.
    pub(super) fn write(&self, bundle: &Bundle, folder: &Folder<'_>, global: &Global) -> Result<Written> {
        if folder.into.is_empty() && bundle.model_files().parts.is_empty() {
            self.write_whole(bundle, folder, global)
        } else {
            several::write(self, bundle, folder, global).map(Written::Files)
        }
    }

    /// Writes a merged model as one file, with everything that belongs to it.
    pub(super) fn write_whole(&self, bundle: &Bundle, folder: &Folder<'_>, global: &Global) -> Result<Written> {
        self.write_folder(bundle, folder, global).map(|merged| Written::One(Box::new(merged)))
    }

    fn write_folder(&self, bundle: &Bundle, folder: &Folder<'_>, global: &Global) -> Result<Merged> {
        let is_folder = folder.path.is_dir() || folder.path.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
        if !is_folder && folder.path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx")) {
            let error = Error::invalid("a layout is that of a folder, and this is the name of a file").in_file(folder.path);
            return Err(error.with_hint("leave out --layout, or name a folder with `-o FOLDER/`"));
        }
        let layout = self.layout.unwrap_or_else(|| Layout::around(bundle.model()));
        target::not_around(folder.path, &[("base", bundle.model()), ("bundle", bundle.folder())])?;
        let names = layout::names(bundle.model())?;
        let staged = target::folder(folder.path, folder.force, &names.iter().map(String::as_str).collect::<Vec<_>>(), &read(bundle))?;
        let model = staged.path().join(layout.model());
        files::make_folder(files::folder(&model))?;
        let base = Model::open_files(bundle.model_files())?;
        let samples = Samples::of_model(&base);
        let source = source(bundle, folder.tokenizer)?;
        let request = self.request(bundle, &model, Some(layout.data()));
        let report = merge::write(base, &Request { renamed: source.renamed(layout), ..request })?;
        let placed = layout::complete(staged.path(), layout, &source)?;
        folder.write_options(staged.path(), bundle)?;
        staged.finish()?;
        let model = folder.path.join(layout.model());
        let comparison = self.compared(&report, &model, &samples, global)?;
        Ok(Merged { model, report, comparison, placed: Some((layout, placed)) })
    }

    fn compared(&self, report: &Report, model: &Path, samples: &Samples, global: &Global) -> Result<Option<Comparison>> {
        if self.no_verify { Ok(None) } else { compared(report, model, samples, global) }
    }
}

/// What a merge reads.
fn read(bundle: &Bundle) -> [Option<&Path>; 2] {
    [Some(bundle.folder()), Some(bundle.model())]
}

/// The options that say what the columns of the training's data were, where their names do not.
fn columns_of(bundle: &Bundle) -> Result<Option<String>> {
    let columns = &bundle.manifest().columns;
    let map: Vec<String> = columns.iter().map(|(column, role)| format!("{column}={role}")).collect();
    if map.is_empty() { Ok(None) } else { config::text("finetune", &json!({"map": map})).map(Some) }
}

/// What a folder is made of.
fn source<'a>(bundle: &'a Bundle, tokenizer: Option<&'a Path>) -> Result<layout::Source<'a>> {
    let manifest = bundle.manifest();
    let graph = manifest.graph(INFERENCE).in_file(bundle.folder())?;
    let task = manifest.task.parse().in_file(bundle.folder())?;
    Ok(layout::Source {
        base: bundle.model(),
        tokenizer,
        task,
        loss: &manifest.loss,
        has_new_head: layout::has_new_head(bundle.adapter())?,
        class_names: &manifest.class_names,
        classes: manifest.classes.and_then(|classes| usize::try_from(classes).ok()),
        inputs: &graph.inputs,
        outputs: &graph.outputs,
    })
}

impl Merged {
    fn is_rounded(&self) -> bool {
        self.report.requantised.weights > 0
    }

    /// What was written, for programs.
    pub(super) fn json(&self) -> Value {
        let requantised = &self.report.requantised;
        json!({
            "model": self.model,
            "modules": self.report.modules,
            "bytes": size(&self.model),
            "requantized": self.is_rounded().then(|| json!({"weights": requantised.weights, "error": requantised.error()})),
            "verified": self.comparison.as_ref().map(Comparison::json),
            "layout": self.placed.as_ref().map(|(layout, _)| layout.to_string()),
            "files": self.placed.as_ref().map(|(_, placed)| &placed.files),
        })
    }

    /// What was written, in lines for people.
    pub(super) fn lines(&self, is_unverified: bool) -> Vec<String> {
        let size = output::bytes(size(&self.model));
        let mut lines = vec![format!("merged    {} modules into {} ({size})", self.report.modules, self.model.display())];
        if let Some((layout, placed)) = &self.placed {
            lines.push(format!("layout    {layout}: {}", placed.files.join(", ")));
            lines.extend(placed.missing.iter().map(|missing| format!("missing   {missing}")));
        }
        if self.is_rounded() {
            let requantised = &self.report.requantised;
            let error = 100.0 * requantised.error();
            lines.push(format!("rounded   {} weights again, off by {error:.3} % (root mean square)", requantised.weights));
        }
        match &self.comparison {
            Some(comparison) if self.is_rounded() => lines.push(format!("logits    {comparison}, from rounding")),
            Some(comparison) => lines.push(format!("verified  {comparison}")),
            None if !is_unverified => lines.push(format!("verified  not: {NO_BFLOAT16}")),
            None => {}
        }
        lines
    }

    /// Refuses a model that is not the unmerged one.
    pub(super) fn check(&self) -> Result<()> {
        match self.comparison.as_ref().filter(|comparison| !self.is_rounded() && !comparison.is_close(self.report.precision)) {
            None => Ok(()),
            Some(comparison) => {
                let error = Error::from(ErrorKind::Diverged(format!("the merged model is not the unmerged one: {comparison}")));
                Err(error.in_file(&self.model).with_hint("the model was written nevertheless: compare `peft-onnx eval` of the bundle and of the model on your data before you use it"))
            }
        }
    }
}

const NO_BFLOAT16: &str = "ONNX Runtime computes in bfloat16 on CUDA only, not on the processor";

/// The merged model beside the unmerged one; nothing if they compute in a type that the processor has not.
fn compared(report: &Report, model: &Path, samples: &Samples, global: &Global) -> Result<Option<Comparison>> {
    let unmerged = report.bundle.runnable(INFERENCE)?;
    let runtime = global.runtime(None)?;
    let comparison = match verify::compare(runtime, unmerged, model, samples) {
        Err(_) if report.precision == DType::BF16 => return Ok(None),
        comparison => comparison?,
    };
    // A model that rounds what it computes makes steps of differences in the last bit; it is the same model if it is so without them.
    let is_finite = !comparison.relative.is_nan();
    if is_finite && !comparison.is_close(report.precision) {
        let (unmerged, merged) = (report.bundle.adapted()?, onnx::read(model)?);
        return rounding::settled(runtime, [&unmerged, &merged], model, samples, comparison).map(Some);
    }
    Ok(Some(comparison))
}

/// Bytes of the model's file and of the files beside it whose names begin with its name.
pub(super) fn size(model: &Path) -> u64 {
    let folder = model.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let own = files.filter(|file| file.file_name().to_string_lossy().starts_with(&*name));
    own.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}
