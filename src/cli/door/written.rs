//! Where commands write: a name that ends as files of another format do is not what is meant.

use std::path::Path;

use crate::cli::Command;
use crate::cli::export::Format;
use crate::error::{Error, Result};

/// What is written to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// A folder of this kind.
    Folder(&'static str),
    /// An ONNX model, which programs know by the end of its name.
    Model,
    /// A model, where a folder can be had as well.
    ModelOrFolder,
    OnnxAdapter,
    Rows,
    Report,
}

/// The ends of names by which people and programs know files.
const FORMATS: [&str; 37] = [
    "bin",
    "ckpt",
    "csv",
    "gguf",
    "gz",
    "h5",
    "htm",
    "html",
    "json",
    "jsonl",
    "keras",
    "lora",
    "md",
    "ndjson",
    "npy",
    "npz",
    "onnx",
    "onnx_adapter",
    "onnx_data",
    "ort",
    "parquet",
    "pb",
    "pkl",
    "pt",
    "pth",
    "safetensors",
    "tar",
    "tflite",
    "tgz",
    "toml",
    "tsv",
    "txt",
    "xlsx",
    "xml",
    "yaml",
    "yml",
    "zip",
];

impl Written {
    /// What is written, with its article.
    fn words(self) -> String {
        match self {
            Self::Folder(what) => format!("a folder ({what})"),
            Self::Model | Self::ModelOrFolder => "an ONNX model".to_owned(),
            Self::OnnxAdapter => "an adapter file of ONNX Runtime".to_owned(),
            Self::Rows => "rows as JSON Lines".to_owned(),
            Self::Report => "a page (HTML)".to_owned(),
        }
    }

    /// Whether a name may end so, in lower case.
    fn takes(self, end: &str) -> bool {
        match self {
            // A bundle is called after its method, a tuned model perhaps after its data.
            Self::Folder(_) => {
                !FORMATS.contains(&end) || ["lora", "csv", "tsv", "json", "jsonl", "ndjson", "parquet", "txt"].contains(&end)
            }
            Self::Model | Self::ModelOrFolder => end == "onnx",
            Self::OnnxAdapter => !FORMATS.contains(&end) || end == "onnx_adapter",
            Self::Rows => !FORMATS.contains(&end) || ["jsonl", "ndjson", "json", "txt"].contains(&end),
            Self::Report => !FORMATS.contains(&end) || ["html", "htm"].contains(&end),
        }
    }

    fn hint(self, path: &Path) -> String {
        let is_known = path.extension().is_some_and(|end| FORMATS.contains(&&*end.to_string_lossy().to_ascii_lowercase()));
        let stem = if is_known { path.with_extension("") } else { path.to_path_buf() };
        let with = |end: &str| format!("{}{end}", stem.display());
        match self {
            Self::Folder(_) => format!("name a folder, as {}", with("")),
            Self::Model => format!("name a file that ends in .onnx, as {}", with(".onnx")),
            Self::ModelOrFolder => {
                format!("name a file that ends in .onnx, as {}, or a folder by a slash at its end, as {}/", with(".onnx"), with(""))
            }
            Self::OnnxAdapter => format!("name a file that ends in .onnx_adapter, as {}", with(".onnx_adapter")),
            Self::Rows => format!("name a file that ends in .jsonl, as {}", with(".jsonl")),
            Self::Report => format!("name a file that ends in .html, as {}", with(".html")),
        }
    }
}

/// Looks at where a command writes.
///
/// # Errors
/// A name that ends as that of another format.
pub(super) fn look(command: &Command) -> Result<()> {
    let all: &[(Written, Option<&Path>)] = match command {
        Command::Finetune(args) => &[(Written::Folder("a tuned model with its files"), args.output.as_deref())],
        Command::Inject(args) => &[(Written::Folder("a bundle, which `peft-onnx merge` makes a model of"), args.output.as_deref())],
        Command::Convert(args) => &[(Written::Model, Some(&args.output))],
        Command::Merge(args) if !args.into.is_empty() => &[(Written::Folder("models in several files"), Some(&args.output))],
        Command::Merge(args) if args.is_of_folder() => &[],
        Command::Merge(args) => &[(Written::ModelOrFolder, Some(&args.output))],
        Command::Export(args) => {
            let written = match args.format {
                Format::Peft => Written::Folder("adapter_config.json and adapter_model.safetensors"),
                Format::OnnxAdapter => Written::OnnxAdapter,
                Format::Inference => Written::Model,
                Format::Training | Format::Vjp => Written::Folder("graphs and their state"),
            };
            &[(written, Some(&args.output))]
        }
        Command::Combine(args) => &[(Written::Folder("adapter_config.json and adapter_model.safetensors"), Some(&args.output))],
        Command::Predict(args) => &[(Written::Rows, args.output.as_deref())],
        Command::Runs(args) => &[(Written::Report, args.html.as_deref())],
        _ => &[],
    };
    all.iter().try_for_each(|(written, path)| path.map_or(Ok(()), |path| ends_well(*written, path)))
}

/// Refuses a name that ends as that of another format; what stands there already has its own errors.
fn ends_well(written: Written, path: &Path) -> Result<()> {
    let Some(end) = path.extension().map(|end| end.to_string_lossy().to_ascii_lowercase()) else { return Ok(()) };
    let is_slashed = path.as_os_str().to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]);
    if written.takes(&end) || is_slashed || path.is_dir() {
        return Ok(());
    }
    let error = Error::invalid(format!("{} is written, and this is the name of another file (.{end})", written.words()));
    Err(error.in_file(path).with_hint(written.hint(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_as_what_is_written() {
        let (folder, model) = (Written::Folder("x"), Written::ModelOrFolder);
        for (written, path, is_right) in [
            (folder, "model.lora", true),
            (folder, "v1.5", true),
            (folder, "model.onnx", false),
            (folder, "a.safetensors", false),
            (folder, "model.onnx/", true),
            (model, "tuned.onnx", true),
            (model, "tuned.ONNX", true),
            (model, "tuned.safetensors", false),
            (model, "tuned.lora", false),
            (model, "tuned-0.5", false),
            (Written::OnnxAdapter, "a.onnx_adapter", true),
            (Written::OnnxAdapter, "a.onnx", false),
            (Written::Rows, "out.jsonl", true),
            (Written::Rows, "out.csv", false),
            (Written::Report, "runs.html", true),
            (Written::Report, "runs.pdf.json", false),
        ] {
            let found = ends_well(written, Path::new(path));
            assert_eq!(found.is_ok(), is_right, "{written:?} {path}: {found:?}");
            assert!(found.err().is_none_or(|error| error.hint().is_some()), "{path}");
        }
    }
}
