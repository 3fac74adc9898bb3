//! What to do about a file or folder that stands where something else belongs.

use std::path::{Path, PathBuf};

use super::models::models;
use super::{Around, Role, files_in, folder_of, is_adapter, is_bundle, is_of_bundle, listed, refusal, shown};
use crate::error::Error;
use crate::files::Kind;

/// The error about a file of a kind that does not belong there.
pub(super) fn file(role: Role, kind: Kind, path: &Path) -> Error {
    refusal(role, path, kind.words(), hint(role, kind, path))
}

/// The error about a file of an unknown kind where only a folder will do.
pub(super) fn unknown(role: Role, path: &Path) -> Error {
    let folder = folder_of(path);
    let hint = if belongs(role, folder) { format!("name its folder: {}", shown(folder)) } else { advice(role) };
    refusal(role, path, "a file", hint)
}

fn belongs(role: Role, folder: &Path) -> bool {
    match role {
        Role::Bundle => is_bundle(folder),
        Role::Adapter => is_adapter(folder),
        _ => false,
    }
}

/// What to do, by what is there; then by what was wanted.
fn hint(role: Role, kind: Kind, path: &Path) -> String {
    let folder = folder_of(path);
    let exported = "PyTorch's weights have no graph: `optimum-cli export onnx --model FOLDER OUT` writes an ONNX model of them";
    match kind {
        Kind::Empty => return "a download or a copy that came to nothing: get the file again".into(),
        Kind::LfsPointer => return "run `git lfs pull` in its folder to get the file itself".into(),
        Kind::Html => return "a download gave the page of a login or an error: get the file itself (on Hugging Face the address with `resolve`, not `blob`)".into(),
        Kind::Archive => return format!("unpack it, and name what is inside: {}", unpacking(path)),
        Kind::Spreadsheet if role == Role::Data => return "save its table as csv, and name that file".into(),
        Kind::Document if role == Role::Data => return "save its text as txt, or its rows as jsonl, and name that file".into(),
        Kind::Arrow if role == Role::Data => return "datasets writes its rows as jsonl: `dataset.to_json(\"train.jsonl\")`".into(),
        _ => {}
    }
    if belongs(role, folder) {
        return format!("name its folder: {}", shown(folder));
    }
    let is_model = matches!(role, Role::Model | Role::ModelOrBundle);
    match kind {
        Kind::Onnx if role == Role::Bundle => bundle_of(path),
        Kind::OnnxData if is_model => format!("name the model whose weights these are: {}", listed(&models(folder))),
        Kind::OnnxText if is_model => {
            "convert it to the binary form: `onnx.save(onnx.load(\"model.txt\", format=\"textproto\"), \"model.onnx\")`".into()
        }
        Kind::Ort if is_model => "name the .onnx file that it was made of: this format is for running alone".into(),
        Kind::AdapterConfig | Kind::Safetensors | Kind::PyTorch if is_model && is_adapter(folder) => {
            format!("to put this adapter into a model: `peft-onnx inject MODEL.onnx --adapter {}`", shown(folder))
        }
        Kind::OnnxAdapter if role != Role::Data => {
            "these are values for an inference graph that is there already; its bundle, or PEFT's folder, has the adapter itself".into()
        }
        Kind::Manifest if role == Role::ModelOrBundle => format!("name its folder: {}", shown(folder)),
        Kind::Manifest if is_model => format!("a bundle is used by its folder: `peft-onnx train {}`", shown(folder)),
        Kind::Data if is_model || role == Role::Bundle => format!(
            "{}; data goes with the option of those commands that read it: `peft-onnx train BUNDLE --data {}`",
            advice(role),
            path.display()
        ),
        _ if is_model => model_near(kind, folder).unwrap_or_else(|| match kind {
            Kind::Safetensors | Kind::SafetensorsIndex | Kind::PyTorch => exported.into(),
            Kind::Gguf => {
                "llama.cpp's weights have no graph: export the model that they were made of, `optimum-cli export onnx --model NAME OUT`"
                    .into()
            }
            Kind::TfLite | Kind::SavedModel | Kind::Hdf5 => "convert it to ONNX first: tf2onnx does that".into(),
            Kind::OpenVino => "export the model that it was made of to ONNX".into(),
            _ => "name the file that ends in .onnx, or the folder that has it".into(),
        }),
        Kind::TokenizerPart | Kind::SentencePiece | Kind::Config if role == Role::Tokenizer => tokenizer_near(folder),
        Kind::Tokenizer | Kind::TokenizerPart if role == Role::Data => format!("a tokenizer goes with `--tokenizer {}`", path.display()),
        _ => advice(role),
    }
}

/// What is expected, where nothing better can be said.
fn advice(role: Role) -> String {
    match role {
        Role::Model | Role::ModelOrBundle => "name the file that ends in .onnx, or the folder that has it",
        Role::Bundle => "`peft-onnx inject MODEL.onnx -o BUNDLE` writes a bundle",
        Role::Adapter => "name the folder with adapter_config.json and adapter_model.safetensors, as PEFT's `save_pretrained` writes it",
        Role::Data => "data files are jsonl, json, csv, tsv, parquet or txt, or a folder with train.jsonl, validation.jsonl; `peft-onnx train --help` shows what a row may be",
        Role::Tokenizer => "name the file tokenizer.json; transformers' `save_pretrained` of a fast tokenizer writes it",
    }
    .to_owned()
}

/// The model beside a file of a model's folder.
fn model_near(kind: Kind, folder: &Path) -> Option<String> {
    let models = models(folder);
    if models.is_empty() {
        return None;
    }
    let why = if matches!(kind, Kind::Tokenizer | Kind::TokenizerPart) { "; its tokenizer is found beside it" } else { "" };
    Some(format!("the model is {}{why}", listed(&models)))
}

fn tokenizer_near(folder: &Path) -> String {
    let file = folder.join("tokenizer.json");
    if file.is_file() { format!("name {}, beside it", shown(&file)) } else { advice(Role::Tokenizer) }
}

/// The bundle that was made of a model, or how to make it.
fn bundle_of(model: &Path) -> String {
    let beside = super::folders_in(folder_of(model)).into_iter().filter(|folder| is_bundle(folder));
    let stem = model.file_stem().unwrap_or_default();
    let made: Vec<PathBuf> = beside.filter(|folder| folder.file_stem() == Some(stem)).collect();
    let (model, bundle) = (model.display(), model.with_extension("lora"));
    if made.is_empty() {
        format!("first add an adapter: `peft-onnx inject {model} --method lora` writes the bundle {}", bundle.display())
    } else {
        format!("the bundle made of it is {}", listed(&made))
    }
}

fn unpacking(path: &Path) -> String {
    let name = path.display();
    let text = path.to_string_lossy().to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| text.ends_with(end));
    match () {
        () if ends(&[".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"]) => format!("`tar xf {name}`"),
        () if ends(&[".gz"]) => format!("`gunzip -k {name}`"),
        () if ends(&[".xz"]) => format!("`unxz -k {name}`"),
        () if ends(&[".zst"]) => format!("`unzstd {name}`"),
        () if ends(&[".7z"]) => format!("`7z x {name}`"),
        () => format!("`unzip {name}`"),
    }
}

/// The error about a folder that does not belong there.
pub(super) fn folder(role: Role, path: &Path) -> Error {
    let models = models(path);
    let bundles: Vec<PathBuf> = super::folders_in(path).into_iter().filter(|folder| is_bundle(folder)).collect();
    let name = shown(path);
    if let Some(refusal) = inside_bundle(role, path) {
        return refusal;
    }
    let (found, hint) = match role {
        Role::Model | Role::ModelOrBundle if is_bundle(path) => (
            "a bundle: a model with its adapter",
            format!(
                "`peft-onnx train {name}` trains it, `peft-onnx merge {name} -o MODEL.onnx` makes a model of it; its adapter goes into another model by `inject MODEL.onnx --adapter {name}`"
            ),
        ),
        Role::Model | Role::ModelOrBundle if is_adapter(path) => {
            ("an adapter without a model", format!("`peft-onnx inject MODEL.onnx --adapter {name}` puts it into its model"))
        }
        Role::Bundle if !bundles.is_empty() => ("a folder with bundles", format!("name the one that is meant: {}", listed(&bundles))),
        Role::Bundle if is_adapter(path) => (
            "an adapter without a model",
            format!("`peft-onnx inject MODEL.onnx --adapter {name} -o BUNDLE` makes a bundle of it and its model"),
        ),
        Role::Bundle if !models.is_empty() => {
            ("a model's folder", format!("first add an adapter: `peft-onnx inject {name} --method lora` writes a bundle"))
        }
        Role::Data => return data_folder(path, &models),
        Role::Adapter if !models.is_empty() => ("a model's folder", advice(role)),
        Role::Adapter if has_weights(path) => ("a whole model's weights", advice(role)),
        Role::Model | Role::ModelOrBundle | Role::Bundle if has_weights(path) => {
            ("PyTorch's weights without an ONNX model", format!("`optimum-cli export onnx --model {name} OUT` writes the ONNX model"))
        }
        _ if super::entries(path).is_empty() => ("an empty folder", advice(role)),
        _ => (nothing_in(role), advice(role)),
    };
    refusal(role, path, found, hint)
}

/// The error about a folder inside a bundle, where the bundle or a model is wanted.
fn inside_bundle(role: Role, path: &Path) -> Option<Error> {
    let bundle = path.ancestors().skip(1).find(|folder| is_bundle(folder))?;
    let bundle = if bundle.as_os_str().is_empty() { ".".to_owned() } else { shown(bundle) };
    let (name, around) = (shown(path), Around::of(path));
    let hint = match (role, &around) {
        (Role::Bundle, Some(Around { run: Some(run), .. })) => {
            format!("name the bundle, {bundle}; `peft-onnx train {bundle} --resume --run {}` goes on with that run", run.name)
        }
        (Role::Bundle | Role::ModelOrBundle, _) | (Role::Model, None) => format!("name the bundle, {bundle}"),
        (Role::Model, Some(_)) => format!(
            "`peft-onnx merge {name} -o MODEL.onnx` makes a model of it; its adapter goes into another model by `inject MODEL.onnx --adapter {name}`"
        ),
        _ => return None,
    };
    let found = match around {
        Some(Around { run: Some(run), .. }) => format!("a folder of a bundle's run {}", run.name),
        _ => "a folder inside a bundle".to_owned(),
    };
    Some(refusal(role, path, &found, hint))
}

fn nothing_in(role: Role) -> &'static str {
    match role {
        Role::Bundle => "a folder without peft-onnx.json",
        Role::Adapter => "a folder without adapter_config.json",
        _ => "a folder without an .onnx file",
    }
}

fn data_folder(path: &Path, models: &[PathBuf]) -> Error {
    let files = files_in(path, |file| Kind::of(file) == Some(Kind::Data) || file.extension().is_some_and(|end| end == "txt"));
    let found = match () {
        () if is_of_bundle(path) => "a bundle",
        () if is_adapter(path) => "an adapter",
        () if !models.is_empty() => "a model's folder",
        () => "a folder",
    };
    let hint = if files.is_empty() { advice(Role::Data) } else { format!("name one of its files: {}", listed(&files)) };
    refusal(Role::Data, path, found, hint)
}

/// Whether a folder is what transformers' `save_pretrained` writes.
fn has_weights(folder: &Path) -> bool {
    let is_weights = |path: &Path| matches!(Kind::of(path), Some(Kind::Safetensors | Kind::SafetensorsIndex | Kind::PyTorch));
    folder.join("config.json").is_file() && !files_in(folder, is_weights).is_empty()
}
