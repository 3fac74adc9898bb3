//! What a file is, told from its first bytes and its name: for the words of a refusal. Nothing is parsed, and what is not sure is not said.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Kinds of files that people have beside a model, and give in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing at all.
    Empty,
    /// What Git LFS leaves where the file itself was not fetched.
    LfsPointer,
    /// A web page.
    Html,
    /// An ONNX model.
    Onnx,
    /// An ONNX model in the text form of protobuf or of ONNX.
    OnnxText,
    /// The weights of an ONNX model whose file stands beside.
    OnnxData,
    /// ONNX Runtime's own format.
    Ort,
    /// Adapter values in ONNX Runtime's format.
    OnnxAdapter,
    /// Weights as safetensors.
    Safetensors,
    /// The list of the files that safetensors were split into.
    SafetensorsIndex,
    /// Weights as PyTorch pickles them.
    PyTorch,
    /// Weights for llama.cpp.
    Gguf,
    /// A model for LiteRT (TensorFlow Lite).
    TfLite,
    /// Weights or a model of Keras.
    Hdf5,
    /// A model of TensorFlow.
    SavedModel,
    /// A model for OpenVINO.
    OpenVino,
    /// Hugging Face's `tokenizer.json`.
    Tokenizer,
    /// A vocabulary of SentencePiece.
    SentencePiece,
    /// Other files that belong to a tokenizer.
    TokenizerPart,
    /// Hugging Face's `config.json`.
    Config,
    /// The configuration of onnxruntime-genai.
    GenaiConfig,
    /// PEFT's `adapter_config.json`.
    AdapterConfig,
    /// A bundle's `peft-onnx.json`.
    Manifest,
    /// Rows of data.
    Data,
    /// An archive or a compressed file.
    Archive,
    /// Arrays of NumPy.
    NumPy,
    /// A spreadsheet.
    Spreadsheet,
    /// A document of an office program, or of pages.
    Document,
    /// Rows as Hugging Face's datasets keep them.
    Arrow,
    /// Other JSON.
    Json,
    /// Other text.
    Text,
}

impl Kind {
    /// What a file is; none where nothing tells, or where it cannot be read.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let file = Looked::at(path)?;
        if file.head.is_empty() {
            return Some(Self::Empty);
        }
        BY_BYTES.iter().chain(BY_TEXT).chain(BY_NAME).find(|(_, is)| is(&file)).map(|(kind, _)| *kind)
    }

    /// The kind in words, with its article.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Empty => "an empty file",
            Self::LfsPointer => "a Git LFS pointer, not the file that it stands for",
            Self::Html => "a web page (HTML)",
            Self::Onnx => "an ONNX model",
            Self::OnnxText => "an ONNX model written as text",
            Self::OnnxData => "the external weights of an ONNX model",
            Self::Ort => "a model in ONNX Runtime's own format (.ort)",
            Self::OnnxAdapter => "an adapter file of ONNX Runtime (.onnx_adapter)",
            Self::Safetensors => "weights without a graph (safetensors)",
            Self::SafetensorsIndex => "the index of safetensors files",
            Self::PyTorch => "a PyTorch file",
            Self::Gguf => "weights for llama.cpp (GGUF)",
            Self::TfLite => "a TensorFlow Lite model",
            Self::Hdf5 => "a Keras file (HDF5)",
            Self::SavedModel => "a TensorFlow model",
            Self::OpenVino => "an OpenVINO model",
            Self::Tokenizer => "a tokenizer (tokenizer.json)",
            Self::SentencePiece => "a SentencePiece vocabulary",
            Self::TokenizerPart => "a file of a tokenizer",
            Self::Config => "a model's configuration (config.json)",
            Self::GenaiConfig => "a configuration of onnxruntime-genai (genai_config.json)",
            Self::AdapterConfig => "an adapter's configuration (adapter_config.json)",
            Self::Manifest => "a bundle's manifest (peft-onnx.json)",
            Self::Data => "a data file",
            Self::Archive => "an archive or a compressed file",
            Self::NumPy => "arrays of NumPy",
            Self::Spreadsheet => "a spreadsheet",
            Self::Document => "a document, not plain text",
            Self::Arrow => "a table of Hugging Face datasets (Arrow)",
            Self::Json => "a JSON file",
            Self::Text => "a text file",
        }
    }
}

/// The beginning of a file, and its name.
struct Looked {
    path: PathBuf,
    name: String,
    extension: String,
    head: Vec<u8>,
    length: u64,
}

/// As much of a file as tells what it is.
const HEAD: u64 = 1 << 16;

impl Looked {
    fn at(path: &Path) -> Option<Self> {
        let lower = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        // Opening a pipe would wait for its writer, or take what it writes from the one who reads it.
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        let mut head = vec![];
        File::open(path).ok()?.take(HEAD).read_to_end(&mut head).ok()?;
        let (name, extension) = (lower(path.file_name()), lower(path.extension()));
        Some(Self { path: path.to_owned(), name, extension, head, length: metadata.len() })
    }

    fn begins(&self, bytes: &[u8]) -> bool {
        self.head.starts_with(bytes)
    }

    fn has_at(&self, at: usize, bytes: &[u8]) -> bool {
        self.head.get(at..).is_some_and(|rest| rest.starts_with(bytes))
    }

    fn has(&self, bytes: &[u8]) -> bool {
        self.head.windows(bytes.len()).any(|window| window == bytes)
    }

    fn ends_in(&self, extensions: &[&str]) -> bool {
        extensions.contains(&self.extension.as_str())
    }

    /// Whether the file's text, blanks in front left out, begins so (in lower case).
    fn begins_as_text(&self, texts: &[&str]) -> bool {
        let text = self.head.trim_ascii_start();
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        texts.iter().any(|wanted| text.get(..wanted.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(wanted.as_bytes())))
    }

    /// Whether the file is a JSON object that names all of these.
    /// Whether the file's beginning is text as people write it. Bytes of a letter that the end cuts do not count.
    fn is_text(&self) -> bool {
        let text = match std::str::from_utf8(&self.head) {
            Ok(text) => text,
            Err(error) if error.error_len().is_none() => std::str::from_utf8(&self.head[..error.valid_up_to()]).unwrap_or_default(),
            Err(_) => return false,
        };
        text.chars().all(|letter| !letter.is_control() || letter.is_whitespace())
    }

    fn is_object_with(&self, keys: &[&str]) -> bool {
        self.begins_as_text(&["{"]) && keys.iter().all(|key| self.has(format!("\"{key}\"").as_bytes()))
    }

    fn is_pickle(&self) -> bool {
        self.begins(b"\x80") && self.head.get(1).is_some_and(|version| (2..=5).contains(version))
    }

    fn is_zip(&self) -> bool {
        self.begins(b"PK\x03\x04") || self.begins(b"PK\x05\x06")
    }

    fn is_safetensors(&self) -> bool {
        let length = self.head.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        length.is_some_and(|length| length > 1 && length < self.length) && self.has_at(8, b"{")
    }

    /// The model that this file has the weights of: `model.onnx.data`, `model.onnx_data`, `model.onnx_data_1` beside `model.onnx`.
    fn has_its_model_beside(&self) -> bool {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let model = name.find(".onnx").filter(|at| at + ".onnx".len() < name.len()).map(|at| &name[..at + ".onnx".len()]);
        let other = self.ends_in(&["data", "weights"]).then(|| self.path.with_extension("onnx"));
        model.map(|model| self.path.with_file_name(model)).or(other).is_some_and(|model| model.is_file())
    }
}

type Row = (Kind, fn(&Looked) -> bool);

/// What the first bytes of formats without text are.
const BY_BYTES: &[Row] = &[
    (Kind::Gguf, |file| file.begins(b"GGUF")),
    (Kind::Ort, |file| file.has_at(4, b"ORTM")),
    (Kind::OnnxAdapter, |file| file.has_at(4, b"TORT")),
    (Kind::TfLite, |file| file.has_at(4, b"TFL3")),
    (Kind::Hdf5, |file| file.begins(b"\x89HDF\r\n")),
    (Kind::Data, |file| file.begins(b"PAR1")),
    (Kind::Arrow, |file| file.begins(b"ARROW1") || file.begins(b"\xff\xff\xff\xff") && file.ends_in(&["arrow"])),
    (Kind::Spreadsheet, |file| (file.is_zip() || file.begins(b"\xd0\xcf\x11\xe0")) && file.ends_in(&["xlsx", "xls", "xlsm", "ods"])),
    (Kind::Document, |file| {
        file.begins(b"%PDF") || (file.is_zip() || file.begins(b"\xd0\xcf\x11\xe0")) && file.ends_in(&["docx", "doc", "odt", "epub"])
    }),
    (Kind::NumPy, |file| file.begins(b"\x93NUMPY") || file.is_zip() && file.ends_in(&["npz"])),
    (Kind::PyTorch, |file| file.is_pickle() || file.is_zip() && (file.has(b"/data.pkl") || file.ends_in(&["pt", "pth", "bin", "ckpt"]))),
    (Kind::Archive, |file| {
        const MARKS: [&[u8]; 5] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf"];
        // Data may be compressed: that is for its reader to say.
        let is_data = file.ends_in(&["gz"]) && DATA.iter().chain(&["json", "txt"]).any(|kind| file.name.ends_with(&format!(".{kind}.gz")));
        !is_data && (file.is_zip() || file.has_at(257, b"ustar") || MARKS.iter().any(|mark| file.begins(mark)))
    }),
    (Kind::Safetensors, Looked::is_safetensors),
];

/// Extensions of data files.
const DATA: &[&str] = &["jsonl", "ndjson", "csv", "tsv", "parquet"];

/// What text says.
const BY_TEXT: &[Row] = &[
    (Kind::LfsPointer, |file| file.begins(b"version https://git-lfs")),
    (Kind::Html, |file| file.begins_as_text(&["<!doctype html", "<html", "<head"])),
    (Kind::OpenVino, |file| file.begins_as_text(&["<?xml", "<net"]) && file.has(b"<net")),
    (Kind::OnnxText, |file| file.begins_as_text(&["ir_version:"]) || file.begins_as_text(&["<"]) && file.has(b"ir_version:")),
    (Kind::Data, |file| file.ends_in(DATA)),
    (Kind::Data, |file| file.begins_as_text(&["["]) && file.ends_in(&["json"]) && file.has(b"{")),
    (Kind::Manifest, |file| file.is_object_with(&["producer", "trainable_count"]) || file.name == "peft-onnx.json"),
    (Kind::AdapterConfig, |file| file.is_object_with(&["peft_type"])),
    (Kind::GenaiConfig, |file| file.is_object_with(&["model", "decoder", "filename"])),
    (Kind::SafetensorsIndex, |file| file.is_object_with(&["weight_map"])),
    (Kind::Tokenizer, |file| file.is_object_with(&["added_tokens", "pre_tokenizer"]) || is_json(file, "tokenizer.json")),
    (Kind::TokenizerPart, |file| file.is_object_with(&["tokenizer_class"]) && file.name != "config.json"),
    (Kind::TokenizerPart, |file| PARTS.contains(&file.name.as_str())),
    (Kind::Config, |file| file.is_object_with(&["model_type", "architectures"]) || is_json(file, "config.json")),
    (Kind::Json, |file| file.begins_as_text(&["{\"", "{\n", "{\r", "{ "]) && file.ends_in(&["json"])),
    (Kind::Text, |file| file.ends_in(TEXT) && file.is_text()),
];

/// Extensions of text that is neither data alone nor anything above.
const TEXT: &[&str] = &["cfg", "ini", "ipynb", "log", "md", "py", "rs", "sh", "toml", "txt", "xml", "yaml", "yml"];

/// Files beside `tokenizer.json`.
const PARTS: &[&str] = &["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"];

fn is_json(file: &Looked, name: &str) -> bool {
    file.name == name && file.begins_as_text(&["{"])
}

/// What names say where bytes do not.
const BY_NAME: &[Row] = &[
    (Kind::SavedModel, |file| file.name == "saved_model.pb"),
    (Kind::SentencePiece, |file| file.ends_in(&["model"]) && file.has(b"<unk>")),
    (Kind::OnnxData, Looked::has_its_model_beside),
    (Kind::Onnx, |file| file.ends_in(&["onnx"])),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_recognised_by_what_is_in_them_and_not_by_a_wrong_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let safetensors = [&16_u64.to_le_bytes()[..], b"{\"a\":{\"x\":[0]}} 0000"].concat();
        let zip = |inside: &str| [b"PK\x03\x04", &[0; 26][..], inside.as_bytes()].concat();
        let rows: &[(&str, &[u8], Option<Kind>)] = &[
            ("model.onnx", b"", Some(Kind::Empty)),
            ("model.onnx", b"\x08\x08\x12\x07pytorch", Some(Kind::Onnx)),
            ("model.pb", b"\x08\x08\x12\x07pytorch", None),
            ("model.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", Some(Kind::LfsPointer)),
            ("model.onnx", b"\n<!DOCTYPE html><html>", Some(Kind::Html)),
            ("train.jsonl", b"<html><body>Sign in", Some(Kind::Html)),
            ("model.onnx", &safetensors, Some(Kind::Safetensors)),
            ("pytorch_model.bin", &zip("archive/data.pkl"), Some(Kind::PyTorch)),
            ("x.bin", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", Some(Kind::PyTorch)),
            ("model.zip", &zip("model.onnx"), Some(Kind::Archive)),
            ("a.npz", &zip("a.npy"), Some(Kind::NumPy)),
            ("model.onnx.gz", b"\x1f\x8b\x08\x00", Some(Kind::Archive)),
            ("train.jsonl.gz", b"\x1f\x8b\x08\x00", None),
            ("model.gguf", b"GGUF\x03\0\0\0", Some(Kind::Gguf)),
            ("model.onnx", b"\x18\0\0\0ORTM", Some(Kind::Ort)),
            ("a.onnx_adapter", b"\x18\0\0\0TORT", Some(Kind::OnnxAdapter)),
            ("tokenizer.json", b"{\"version\": \"1.0\", \"added_tokens\": [], \"pre_tokenizer\": null}", Some(Kind::Tokenizer)),
            ("t.json", b"{\n\"version\": \"1.0\", \"added_tokens\": [], \"pre_tokenizer\": null}", Some(Kind::Tokenizer)),
            ("tokenizer_config.json", b"{\"tokenizer_class\": \"X\"}", Some(Kind::TokenizerPart)),
            ("config.json", b"{\"model_type\": \"bert\"}", Some(Kind::Config)),
            ("adapter_config.json", b"{\"peft_type\": \"LORA\"}", Some(Kind::AdapterConfig)),
            ("x.json", b"{\"weight_map\": {}}", Some(Kind::SafetensorsIndex)),
            ("rows.json", b"[{\"text\": \"a\"}]", Some(Kind::Data)),
            ("rows.jsonl", b"{\"text\": \"config.json has model_type\"}", Some(Kind::Data)),
            ("rows.jsonl", b"{\"model_type\": \"a column\"}", Some(Kind::Data)),
            ("rows.parquet", b"PAR1\x15\0", Some(Kind::Data)),
            ("rows.xlsx", &zip("[Content_Types].xml"), Some(Kind::Spreadsheet)),
            ("rows.docx", &zip("[Content_Types].xml"), Some(Kind::Document)),
            ("rows.pdf", b"%PDF-1.7", Some(Kind::Document)),
            ("data-00000-of-00001.arrow", b"\xff\xff\xff\xff\x10\0\0\0", Some(Kind::Arrow)),
            ("model.xml", b"<?xml version=\"1.0\"?>\n<net name=\"m\">", Some(Kind::OpenVino)),
            ("model.txt", b"ir_version: 8\n", Some(Kind::OnnxText)),
            ("notes", b"anything", None),
        ];
        for (name, bytes, expected) in rows {
            let file = folder.path().join(name);
            std::fs::write(&file, bytes).expect("the file is written");
            assert_eq!(Kind::of(&file), *expected, "{name}: {}", String::from_utf8_lossy(bytes));
            std::fs::remove_file(&file).expect("it was there");
        }
        assert_eq!(Kind::of(folder.path()), None);
        assert_eq!(Kind::of(&folder.path().join("missing")), None);
    }

    #[test]
    fn weights_belong_to_the_model_beside_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str| std::fs::write(folder.path().join(name), b"\x00\x01\x02\x03").expect("the file is written");
        for name in ["model.onnx", "model.onnx.data", "model.onnx_data", "model.onnx_data_1", "model.data", "other.data"] {
            put(name);
        }
        for (name, expected) in [
            ("model.onnx.data", Some(Kind::OnnxData)),
            ("model.onnx_data", Some(Kind::OnnxData)),
            ("model.onnx_data_1", Some(Kind::OnnxData)),
            ("model.data", Some(Kind::OnnxData)),
            ("other.data", None),
        ] {
            assert_eq!(Kind::of(&folder.path().join(name)), expected, "{name}");
        }
    }
}
