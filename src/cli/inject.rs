//! `peft-onnx inject`

mod head;
mod loss;
mod method;

use std::path::{Path, PathBuf};

use clap::ArgGroup;
use serde_json::json;

use super::{Global, output};
use crate::adapter::Method;
use crate::adapter::config::{Pooling, PrefixConfig, PrefixInit, PromptConfig, PromptInit, Task};
use crate::anatomy::{self, Role};
use crate::data::{Renamed, Specials, Tokenizer, prompted};
use crate::error::{Context, Error, Refusal, Result};
use crate::evaluate::text_prefix;
use crate::export::bundle::{self, Existing};
use crate::export::{AdapterSource, Injected, Injection};
use crate::model::Model;
use crate::model::parts::{Files, Join};
use crate::num;
use crate::train::recompute::Recompute;
use crate::train::verbalizer::HardPrompt;
use crate::training::Source;

pub use head::HeadArgs;
pub use loss::LossArgs;
pub use method::{MethodArgs, MethodName};

const AFTER_HELP: &str = "\
A bundle is a folder with the adapter in Hugging Face PEFT's files and the graphs that train and run it (training.onnx, inference.onnx, ...).
The model's weights are neither copied nor changed: the graphs refer to the model's files.

Modules have the names of Hugging Face's model: `peft-onnx inspect MODEL.onnx` lists them. --target-modules takes
  all-linear                          every linear projection except the output head
  q_proj,v_proj                       modules whose path ends with one of these
  '.*layers\\.[0-3]\\..*_proj'           modules whose whole path matches a regular expression

Examples:
  peft-onnx inject model.onnx --method lora
  peft-onnx inject model.onnx --method lora --rank 16 --alpha 32 --target-modules q_proj,v_proj -o my-bundle
  peft-onnx inject model.onnx --method lora --task seq-cls --modules-to-save classifier
  peft-onnx inject model.onnx --method head --num-labels 2 --head-layers 256,64
  peft-onnx inject model.onnx --method lora --num-labels 5 --pooling mean
  peft-onnx inject model.onnx --method lora --task embedding --loss mnrl --loss-option scale=20 --pooling mean
  peft-onnx inject model.onnx --method lora --task preference --loss dpo --loss-option beta=0.1
  peft-onnx inject model.onnx --method lora --task seq-cls --loss-graph loss.onnx
  peft-onnx inject masked.onnx --method lora --template '{text} It was [MASK].' --verbalizer '{\"pos\": [\"great\"], \"neg\": [\"bad\"]}'
  peft-onnx inject model.onnx --adapter a-peft-folder
  peft-onnx inject decoder_model.onnx --part encoder_model.onnx --method lora --task seq2seq-lm";

/// Options of `inject`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP, group = ArgGroup::new("what").args(["method", "adapter"]).required(true))]
pub struct Args {
    /// The model to adapt; it is not changed
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// What is put into it.
    #[command(flatten)]
    pub adding: Adding,
    /// tokenizer.json, or its folder, for the words of labels [default: beside the model]
    #[arg(long, value_name = "FILE", requires = "template", help_heading = super::hard_prompt::HEADING)]
    pub tokenizer: Option<PathBuf>,
    /// The folder to write [default: the model's name and the method's, as model.lora]
    #[arg(short, long, value_name = "BUNDLE")]
    pub output: Option<PathBuf>,
    /// Replace the bundle if it is there
    #[arg(long)]
    pub force: bool,
    /// Random seed of a fresh adapter's initial values
    #[arg(long, value_name = "NUMBER", default_value_t = 42)]
    pub seed: u64,
}

/// Options of every command that puts an adapter into a model.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Adding {
    /// Another file of the model, whose outputs the model reads: the encoder of a decoder; may be given several times
    #[arg(long, value_name = "FILE")]
    pub part: Vec<PathBuf>,
    /// An output of a part that fills an input of another name; with @TOKEN, at that token's places alone, as pictures stand among tokens [default:
    /// equal names, those of transformers and optimum, and the token that config.json names]
    #[arg(long, value_name = "OUTPUT=INPUT", requires = "part", value_parser = join)]
    pub join: Vec<Join>,
    /// A folder with an adapter of Hugging Face PEFT or of this program, which gives method, options and values
    #[arg(long, value_name = "FOLDER", help_heading = "What to add (one of these)")]
    pub adapter: Option<PathBuf>,
    /// The method and its options.
    #[command(flatten)]
    pub method: MethodArgs,
    /// The head and its options.
    #[command(flatten)]
    pub head: HeadArgs,
    /// The loss and its options.
    #[command(flatten)]
    pub loss: LossArgs,
    /// The sentence that a row is put into; the language model chooses a label's word at `[MASK]`: `{text} It was [MASK].`
    #[arg(long, value_name = "TEMPLATE", requires = "verbalizer", conflicts_with = "num_labels", help_heading = super::hard_prompt::HEADING)]
    pub template: Option<String>,
    /// The words of each label, each one token, as JSON (see the examples below) or in a file
    #[arg(long, value_name = "JSON", requires = "template", help_heading = super::hard_prompt::HEADING)]
    pub verbalizer: Option<String>,
    /// What the model is trained for: causal-lm, seq-cls, embedding, rerank, regression, qa, .. (an unknown name lists them all) [default: from the
    /// adapter, else from the graph]
    #[arg(long, alias = "task-type", value_name = "TASK", value_parser = super::task::parse)]
    pub task: Option<Task>,
    /// What the backward pass computes again rather than keep: none; attention (its scores, some queries at a time); auto (what takes much memory and
    /// little time); layer (each layer from what goes into it: the least memory, about a third more time)
    #[arg(long, value_name = "WHAT", default_value_t = Recompute::None)]
    pub recompute: Recompute,
    /// The name by which PEFT finds the base, as owner/name or a folder; adapter_config.json and the model card have it [default: the name in the
    /// model's config.json]
    #[arg(long, alias = "base-model-name-or-path", value_name = "ID")]
    pub base_model: Option<String>,
}

/// Where a bundle is written, and from what.
pub(super) struct Place<'a> {
    /// The model.
    pub(super) model: &'a Path,
    /// The folder.
    pub(super) output: &'a Path,
    /// Whether one that is there is replaced.
    pub(super) force: bool,
    /// A tokenizer in place of the one beside the model.
    pub(super) tokenizer: Option<&'a Path>,
    /// Columns of the data that are given a role.
    pub(super) map: &'a [Renamed],
    /// Random seed of a fresh adapter's initial values.
    pub(super) seed: u64,
}

/// Writes a bundle.
///
/// # Errors
/// As [`bundle::write`].
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let name = args.adding.name()?;
    let folder = args.output.clone().unwrap_or_else(|| args.model.with_extension(name));
    let tokenizer = args.tokenizer.as_deref();
    let place = Place { model: &args.model, output: &folder, force: args.force, tokenizer, map: &[], seed: args.seed };
    let report = args.adding.write(&place, global)?;
    let files = files(&folder)?;
    if global.json {
        return output::print_json(&json!({
            "bundle": folder,
            "method": report.manifest.method,
            "task": report.manifest.task,
            "trainable": report.manifest.trainable_count,
            "base": report.manifest.base_count,
            "targets": report.targets.iter().map(|(module, rank)| json!({"module": module, "rank": rank})).collect::<Vec<_>>(),
            "trained": report.trained,
            "matched": report.matched,
            "new_head": report.new_head.as_ref().map(|head| json!({"layers": head.layers, "num_labels": head.labels, "pooling": head.pooling.map(Pooling::name), "on": report.head_on})),
            "files": files.iter().map(|file| json!({"file": file.name, "bytes": file.bytes})).collect::<Vec<_>>(),
        }));
    }
    if global.quiet { Ok(()) } else { output::print(&describe(&folder, &report, &files)) }
}

impl Adding {
    /// What a bundle is called after: the method, or that an adapter was there.
    ///
    /// # Errors
    /// Options of the method that contradict each other.
    pub(super) fn name(&self) -> Result<&'static str> {
        if self.adapter.is_some() { Ok("adapted") } else { Ok(self.method.method()?.name()) }
    }

    /// Writes a bundle.
    ///
    /// # Errors
    /// As [`bundle::write`].
    pub(super) fn write(&self, place: &Place<'_>, global: &Global) -> Result<Injected> {
        // Whatever the command line alone decides is refused before the model is read.
        let method = self.adapter.is_none().then(|| self.method.method()).transpose()?;
        let (new_head, mut loss) = (self.head.new_head()?, self.loss.request(self.head.pooling)?);
        loss.prompts = prompted(&loss.prompts, place.map)?;
        let existing = if place.force { Existing::Replace } else { Existing::Keep };
        bundle::check_target(place.output, existing)?;
        let files = Files { model: place.model.to_path_buf(), parts: self.part.clone(), joins: self.join.clone() };
        let model = Model::open_files(&files)?;
        let adapter = match (method, &self.adapter) {
            (Some(method), _) => AdapterSource::Fresh(with_text(method, &model, global)?),
            (None, Some(folder)) => AdapterSource::Folder(folder.clone()),
            (None, None) => return Err(Error::invalid("neither --method nor --adapter is given")),
        };
        let injection = Injection {
            adapter,
            base_model: self.base_model.clone(),
            task: self.task,
            new_head,
            hard_prompt: self.hard_prompt(place, &model)?,
            loss,
            prompt_scale: self.method.prompt_scale,
            allocate_ranks: self.method.allocate_ranks,
            recompute: self.recompute,
            seed: place.seed,
        };
        bundle::write(model, &injection, place.output, existing)
    }

    /// The hard prompt with the tokens of its words, if there is to be one.
    fn hard_prompt(&self, place: &Place<'_>, model: &Model) -> Result<Option<HardPrompt>> {
        let (Some(template), Some(words)) = (&self.template, &self.verbalizer) else { return Ok(None) };
        let task = anatomy::decide(model.graph(), model.anatomy(), &model.declared()?, self.task).in_file(place.model)?.task;
        let source = Source::of_model(model, task, place.tokenizer)?;
        Ok(source.shown_in(template, Some(&super::hard_prompt::verbalizer(words)?))?.hard_prompt().cloned())
    }
}

/// Reads `OUTPUT=INPUT`, or `OUTPUT=INPUT@TOKEN`.
fn join(text: &str) -> Result<Join, Refusal> {
    let parts = text.split_once('=').filter(|(output, input)| !output.is_empty() && !input.is_empty());
    let (output, input) = parts.ok_or_else(|| format!("expected OUTPUT=INPUT, such as states=encoder_hidden_states, found {text}"))?;
    let (input, at) = match input.rsplit_once('@').map(|(input, token)| (input, token.parse::<i64>())) {
        Some((input, Ok(token))) if !input.is_empty() => (input, Some(token)),
        Some((_, Err(_))) => return Err(format!("expected the number of a token behind @, found {text}").into()),
        _ => (input, None),
    };
    Ok(Join { output: output.to_owned(), input: input.to_owned(), at })
}

/// The method, its prompt's text taken apart by the tokenizer beside the model, its prefix's text read by the model.
fn with_text(mut method: Method, model: &Model, global: &Global) -> Result<Method> {
    if let Some(PromptConfig { init, .. }) = method.get_mut() {
        if let PromptInit::Text(text) = init {
            let tokens = tokens(text, model)?;
            *init = PromptInit::Tokens(tokens.into_iter().filter_map(|token| usize::try_from(token).ok()).collect());
        }
    } else if let Some(PrefixConfig { init, num_virtual_tokens, .. }) = method.get_mut()
        && let PrefixInit::Text(text) = init
    {
        let tokens: Vec<i32> = tokens(text, model)?.into_iter().cycle().take(*num_virtual_tokens).collect();
        *init = PrefixInit::Rows(text_prefix::rows(global.runtime(None)?, model, &tokens)?);
    }
    Ok(method)
}

/// The tokens of a text, at least one.
fn tokens(text: &str, model: &Model) -> Result<Vec<i32>> {
    let tokenizer = Tokenizer::beside(model.name())?.ok_or_else(|| {
        Error::unsupported(format!("starting from {text:?}"), "there is no tokenizer beside the model")
            .with_hint("put tokenizer.json into the model's folder, or start from other numbers: see `--prompt-init`")
    })?;
    match tokenizer.encode(text, Specials::AsWritten)?.ids {
        ids if ids.is_empty() => Err(Error::invalid("the text to start from has no tokens")),
        ids => Ok(ids),
    }
}

struct File {
    name: String,
    bytes: u64,
}

/// The files at the top of a bundle.
fn files(folder: &Path) -> Result<Vec<File>> {
    let mut files = vec![];
    for entry in std::fs::read_dir(folder).in_file(folder)? {
        let entry = entry.in_file(folder)?;
        let metadata = entry.metadata().in_file(entry.path())?;
        if metadata.is_file() && !entry.file_name().to_string_lossy().starts_with('.') {
            files.push(File { name: entry.file_name().to_string_lossy().into_owned(), bytes: metadata.len() });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn describe(folder: &Path, report: &Injected, files: &[File]) -> String {
    let manifest = &report.manifest;
    let trainable = num::wide(manifest.trainable_count);
    let mut lines = vec![
        format!("method     {}, for {}", manifest.method, manifest.task),
        format!(
            "trainable  {} parameters, {} of the base's {}",
            output::count(trainable),
            output::percent(trainable, manifest.base_count),
            output::count(manifest.base_count)
        ),
    ];
    lines.extend(report.matched.map(|count| format!("adapter    {count} tensors, each with its place")));
    if !manifest.class_names.is_empty() {
        lines.push(format!("classes    {}", manifest.class_names.join(", ")));
    }
    if let Some(prompt) = &manifest.hard_prompt {
        lines.push(format!("template   {}", prompt.template));
        lines.push(format!("words      {}", prompt.verbalizer()));
    }
    if let Some(head) = &report.new_head {
        let on = report.head_on.as_ref().map(|value| format!(", on {value}")).unwrap_or_default();
        lines.push(format!("new head   {}{on}", head::describe(head)));
    }
    let odd = manifest.feeding.inputs.iter().filter(|(name, role)| role.column().is_some_and(|column| column != name.as_str()));
    let odd: Vec<String> = odd.map(|(name, role)| format!("{name}: {}", role.describe())).collect();
    if !odd.is_empty() {
        lines.push(format!("inputs     {}", odd.join("; ")));
    }
    let own: Vec<&str> = manifest.feeding.named(|role| role == Role::Column).collect();
    if !own.is_empty() {
        lines.push(format!("data       columns {} beside the usual ones: inputs of the model have these names", own.join(", ")));
    }
    if let Some(rows) = manifest.feeding.rows {
        lines.push(format!("rows       {rows} at once, as the graph insists; larger batches are added up"));
    }
    if let Some(length) = manifest.feeding.length {
        lines.push(format!("length     {length} tokens, as the graph insists; shorter rows are filled up"));
    }
    if !report.targets.is_empty() {
        lines.push(format!("sites      {}", sites(&report.targets)));
    }
    if !report.trained.is_empty() {
        lines.push(format!("as a whole {}", report.trained.join(", ")));
    }
    let shown: Vec<String> = files.iter().map(|file| format!("{} {}", file.name, output::bytes(file.bytes))).collect();
    lines.push(format!("bundle     {}: {}", folder.display(), shown.join(", ")));
    lines.push(format!("next       peft-onnx train {} --data train.jsonl", folder.display()));
    lines.join("\n")
}

/// How often each kind of module is adapted: `30 x q_proj, 30 x v_proj`.
fn sites(targets: &[(String, usize)]) -> String {
    let mut kinds = indexmap::IndexMap::<String, usize>::new();
    for (module, rank) in targets {
        let kind = module.rsplit('.').next().unwrap_or(module);
        let rank = if *rank > 0 { format!(" (rank {rank})") } else { String::new() };
        *kinds.entry(format!("{kind}{rank}")).or_default() += 1;
    }
    kinds.iter().map(|(kind, count)| format!("{count} x {kind}")).collect::<Vec<_>>().join(", ")
}
