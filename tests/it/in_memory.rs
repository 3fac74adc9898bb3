//! The library without files: a model's bytes go in, an adapter's bytes and a merged model come out.

#![cfg(feature = "runtime")]

use std::process::Command;

use bytes::Bytes;
use peft_onnx::data::Order;
use peft_onnx::evaluate::verify::{self, Samples};
use peft_onnx::export::{AdapterSource, INFERENCE};
use peft_onnx::ir::DType;
use peft_onnx::onnx::{self, Runnable};
use peft_onnx::ort::{Options, Runtime};
use peft_onnx::training::{Optimizer, Source};
use peft_onnx::{Adapter, Bundle, Injection, Model, Trainer, TrainerOptions, peft};
use serde_json::Value;

use crate::common;

const MODEL: &[u8] = include_bytes!("../../models/fixtures/bert_classifier/torchscript.onnx");
const CONFIG: &[u8] = include_bytes!("../../models/fixtures/bert_classifier/cases/lora_classifier/adapter_init/adapter_config.json");
const WEIGHTS: &[u8] = include_bytes!("../../models/fixtures/bert_classifier/cases/lora_classifier/adapter_init/adapter_model.safetensors");
const ROWS: &str = include_str!("../../models/fixtures/bert_classifier/cases/lora_classifier/train.jsonl");
const EXPECTED: &str = include_str!("../../models/fixtures/bert_classifier/cases/lora_classifier/expected.json");
const TRAINED: &[u8] =
    include_bytes!("../../models/fixtures/bert_classifier/cases/lora_classifier/adapter_final/adapter_model.safetensors");

#[test]
fn from_bytes_in_memory_to_adapter_bytes_and_a_merged_model_in_memory() -> peft_onnx::Result<()> {
    let expected: Value = serde_json::from_str(EXPECTED).expect("JSON");
    let number = |name: &str| expected["hyperparameters"][name].as_f64().expect("a number");

    let model = Model::from_bytes(MODEL)?;
    let adapter = Adapter::from_bytes(CONFIG, &Bytes::from_static(WEIGHTS), None)?;
    let bundle = Bundle::of(&model, &Injection { adapter: AdapterSource::Memory(adapter), ..Injection::default() })?;
    let optimizer = Optimizer {
        learning_rate: number("learning_rate"),
        weight_decay: number("weight_decay"),
        max_grad_norm: number("max_grad_norm"),
        ..Optimizer::default()
    };
    let mut trainer = Trainer::new(&bundle, &TrainerOptions { optimizer, ..TrainerOptions::default() })?;
    let source = Source::with_tokenizer(&bundle, None)?;
    let rows = ROWS.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let dataset = source.rows_to_learn(rows)?;
    let mut batches = trainer.batches(&source, &dataset, 3, Order::File)?;
    for loss in expected["losses"].as_array().expect("losses") {
        let (step, loss) = (trainer.step(&batches.next_batch()?)?, loss.as_f64().expect("a number"));
        assert!(step.is_updated);
        assert!((f64::from(step.loss) - loss).abs() < 1e-4 * loss, "step {}: {}, PEFT has {loss}", step.number, step.loss);
    }

    let files = trainer.adapter()?.to_bytes()?;
    let weights = Bytes::from(files[peft::WEIGHTS_FILE].clone());
    let trained = Adapter::from_bytes(&files[peft::CONFIG_FILE], &weights, None)?;
    let theirs = Adapter::from_bytes(CONFIG, &Bytes::from_static(TRAINED), None)?;
    assert_eq!(trained.tensors.len(), theirs.tensors.len());
    for (name, tensor) in &trained.tensors {
        let [ours, theirs] = [tensor, &theirs.tensors[name]].map(|tensor| tensor.to_f32().expect("floats"));
        assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| (ours - theirs).abs() < 1e-4), "{name} is not what PEFT trained");
    }

    let tuned = trainer.bundle()?;
    let merged = onnx::to_bytes(&tuned.merged()?)?;
    let merged = Runnable::of(&onnx::read_bytes(merged, &[])?, "merged.onnx".as_ref())?;
    let runtime = Runtime::start(&Options::default())?;
    let comparison = verify::compare(runtime, tuned.runnable(INFERENCE)?, merged, &Samples::of_model(&model))?;
    assert!(comparison.compared > 0 && comparison.is_close(DType::F32), "{comparison}");
    Ok(())
}

#[test]
fn training_in_memory_writes_nothing_to_the_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "in_memory::from_bytes_in_memory_to_adapter_bytes_and_a_merged_model_in_memory"]);
    command.current_dir(folder.path());
    for place in ["TMPDIR", "TMP", "TEMP", "HOME", "XDG_CACHE_HOME"] {
        command.env(place, folder.path());
    }
    if let Some(library) = common::project_library() {
        command.env("ORT_DYLIB_PATH", library);
    }
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("it is there").map(|entry| entry.expect("an entry").path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn weights_in_another_file_come_as_bytes_of_their_own() -> peft_onnx::Result<()> {
    let [model, data] = ["llama/dynamo_external.onnx", "llama/dynamo_external.onnx.data"].map(|name| std::fs::read(common::fixture(name)));
    let (model, data) = (model.expect("a model"), data.expect("its weights"));
    let error = Model::from_bytes(model.clone()).expect_err("the weights are not there");
    assert!(error.to_string().contains("dynamo_external.onnx.data"), "{error}");
    let graph = onnx::read_bytes(model, &[("dynamo_external.onnx.data", data.into())])?;
    let projections = Model::of(&graph)?.anatomy().projections.len();
    assert_eq!(projections, Model::open(common::fixture("llama/dynamo_external.onnx"))?.anatomy().projections.len());
    Ok(())
}
