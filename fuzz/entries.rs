//! What strangers' bytes are given to: one function a kind of file. Each must come back, whatever the bytes are; errors are well.
//!
//! The targets of `fuzz_targets/` call them under libFuzzer, `tests/it/damaged.rs` with damaged fixtures in every test run.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use peft_onnx::anatomy::{self, Task};
use peft_onnx::data::{ChatTemplate, Dataset, Ending, Message, Reading};
use peft_onnx::export::manifest::Manifest;
use peft_onnx::media::{FeatureExtractor, ImageProcessor, Waveform};
use peft_onnx::onnx::{self, WriteOptions};
use peft_onnx::peft::AdapterConfig;
use peft_onnx::training::checkpoint::Checkpoint;
use peft_onnx::{decompose, safetensors};
use tempfile::TempDir;

/// A kind of file.
pub(crate) struct Entry {
    /// Its name: that of the target.
    pub(crate) name: &'static str,
    /// What is given its bytes.
    pub(crate) run: fn(&[u8]),
    /// Whole files of the kind, below `models/`.
    pub(crate) seeds: &'static [&'static str],
}

/// Every kind.
pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        name: "model",
        run: model,
        seeds: &["fixtures/llama/dynamo_external.onnx", "fixtures/bert_classifier/torchscript_opset12.onnx", "fixtures/llama/dynamo.onnx"],
    },
    Entry { name: "safetensors", run: safetensors, seeds: &["fixtures/llama/cases/lora_qv/adapter_final/adapter_model.safetensors"] },
    Entry {
        name: "configuration",
        run: configuration,
        seeds: &[
            "fixtures/llama/cases/lora_qv/adapter_final/adapter_config.json",
            "fixtures/llama/cases/p_tuning_lstm/adapter_final/adapter_config.json",
        ],
    },
    Entry { name: "manifest", run: manifest, seeds: &[] },
    Entry { name: "checkpoint", run: checkpoint, seeds: &[] },
    Entry { name: "data_rows", run: data_rows, seeds: &["finetune/eval.jsonl"] },
    Entry { name: "template", run: template, seeds: &[] },
    Entry { name: "parquet", run: parquet, seeds: &[] },
    Entry { name: "image", run: image, seeds: &[] },
    Entry { name: "sound", run: sound, seeds: &[] },
];

/// The name of a kind's file in the folder that is read.
fn with_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    thread_local! {
        static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
    }
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().expect("a folder")).path();
        let file = folder.join(name);
        fs::write(&file, bytes).expect("the file is written");
        read(&file);
        fs::remove_file(&file).expect("nobody else removes it");
    });
}

/// Reads a model, recognises it, and writes it again.
pub(crate) fn model(bytes: &[u8]) {
    with_file("model.onnx", bytes, |file| {
        let Ok(graph) = onnx::read(file) else { return };
        let raised = onnx::raise(&graph).and_then(|graph| onnx::inline_functions(&graph));
        if let Ok(graph) = raised.and_then(|graph| decompose::decompose(&graph)) {
            let _ = anatomy::read(&graph);
        }
        let _ = onnx::write(&graph, &file.with_file_name("again.onnx"), &WriteOptions::default());
    });
}

/// Reads tensors of an adapter.
pub(crate) fn safetensors(bytes: &[u8]) {
    let _ = safetensors::from_bytes(&bytes.to_vec().into());
}

/// Reads an adapter's configuration, and writes it again.
pub(crate) fn configuration(bytes: &[u8]) {
    if let Ok(configuration) = AdapterConfig::from_json(bytes) {
        let again = configuration.to_json();
        AdapterConfig::from_json(again.as_bytes()).expect("what was read and written can be read");
    }
}

/// Reads what a bundle says of itself.
pub(crate) fn manifest(bytes: &[u8]) {
    with_file("peft-onnx.json", bytes, |file| {
        let _ = Manifest::read(file.parent().expect("a file has a folder"));
    });
}

/// What stands before a line of its own, and what behind it.
fn parted(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.windows(PARTING.len()).position(|window| window == PARTING);
    end.map_or((bytes, &[][..]), |end| (&bytes[..end], &bytes[end + PARTING.len()..]))
}

/// The line between a configuration or record and the bytes that go with it.
pub(crate) const PARTING: &[u8] = b"\n---\n";

/// Reads a checkpoint's record and, where the bytes go on behind a line of its own, its numbers.
pub(crate) fn checkpoint(bytes: &[u8]) {
    let (record, state) = parted(bytes);
    with_file("trainer.json", record, |file| {
        let folder = file.parent().expect("a file has a folder");
        fs::write(folder.join("state.safetensors"), state).expect("the file is written");
        let _ = Checkpoint::read(folder);
    });
}

/// Reads rows of every form; the first byte chooses the form and the task.
pub(crate) fn data_rows(bytes: &[u8]) {
    const NAMES: [&str; 4] = ["rows.jsonl", "rows.csv", "rows.tsv", "rows.txt"];
    const TASKS: [Task; 4] = [Task::CausalLm, Task::SeqCls, Task::TokenCls, Task::Seq2SeqLm];
    let Some((&choice, rows)) = bytes.split_first() else { return };
    let choice = usize::from(choice);
    with_file(NAMES[choice % 4], rows, |file| {
        let _ = Dataset::read(file, &Reading::for_task(TASKS[choice / 4 % 4]));
    });
}

/// Compiles a chat template, and shows it a conversation.
pub(crate) fn template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())]);
    if let Ok(template) = ChatTemplate::new(source, tokens) {
        let _ = template.render(&[Message::says("user", "Hello"), Message::says("assistant", "Good day")], Ending::AssistantsTurn);
    }
}

/// Reads rows of Parquet.
pub(crate) fn parquet(bytes: &[u8]) {
    with_file("rows.parquet", bytes, |file| {
        let _ = Dataset::read(file, &Reading::for_task(Task::CausalLm));
    });
}

/// Decodes a picture, as the configuration says that stands before it; as models without one want it, if there is none.
pub(crate) fn image(bytes: &[u8]) {
    let (config, picture) = parted(bytes);
    with_file("preprocessor_config.json", config, |config| {
        let processor = ImageProcessor::read(config).unwrap_or_else(|_| ImageProcessor::plain(8, 8));
        with_file("picture", picture, |file| {
            let _ = processor.pixels(file);
        });
    });
}

/// Decodes a sound, as the configuration says that stands before it; to 16 kHz, if there is none.
pub(crate) fn sound(bytes: &[u8]) {
    let (config, sound) = parted(bytes);
    with_file("preprocessor_config.json", config, |config| {
        let extractor = FeatureExtractor::read(config).unwrap_or_else(|_| FeatureExtractor::plain());
        with_file("sound", sound, |file| {
            let _ = Waveform::read(file);
            let _ = extractor.features(file);
        });
    });
}
