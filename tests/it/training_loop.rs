//! What a training loop of a user's own gets: the step as one graph, whose state goes around by hand, gives PEFT's losses.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use peft_onnx::ort::{Feed, HostTensor, Options, Presence, Runtime, Session, Settings};
use serde_json::Value;

const STATE: [&str; 3] = ["trainable", "adam_m", "adam_v"];

fn peft_onnx(args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_peft-onnx")).args(args).output().unwrap();
    assert!(output.status.success(), "peft-onnx {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
}

fn open(path: &Path) -> Session {
    Session::open(Runtime::start(&Options::default()).unwrap(), path, &Settings::default()).unwrap()
}

fn batch(rows: &[Value], key: &str) -> HostTensor {
    let row = |row: &Value| row[key].as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect::<Vec<_>>();
    let all: Vec<Vec<i64>> = rows.iter().map(row).collect();
    HostTensor::new([all.len(), all[0].len()], all.concat()).unwrap()
}

/// The losses of a loop over `training.onnx` in `folder` that starts from `state`.
fn losses(folder: &Path, mut state: BTreeMap<&'static str, HostTensor>, rows: &[Value]) -> Vec<f64> {
    let mut session = open(&folder.join("training.onnx"));
    let rate = HostTensor::scalar(0.01_f32);
    let mut losses = vec![];
    for (step, rows) in (1_i64..).zip(rows.chunks(3)) {
        let data = data(rows);
        let step = HostTensor::scalar(step);
        let mut feeds: Vec<Feed<'_>> = data.iter().map(|(name, tensor)| Feed::host(name, tensor)).collect();
        feeds.extend(state.iter().map(|(name, tensor)| Feed::host(name, tensor)));
        feeds.extend([Feed::host("step", &step), Feed::host("learning_rate", &rate)]);
        let out = session.run(&feeds, &["loss", "trainable_next", "adam_m_next", "adam_v_next"]).unwrap();
        losses.push(f64::from(out[0].item().unwrap()));
        state = STATE.into_iter().zip(out.into_iter().skip(1)).collect();
    }
    losses
}

/// A bundle of the fixture's model and adapter in a folder, exported beside it.
fn exported(folder: &Path, numbers: &[&str]) -> (PathBuf, PathBuf) {
    let fixture: PathBuf = [env!("CARGO_MANIFEST_DIR"), "models/fixtures/llama"].iter().collect();
    let (bundle, exported) = (folder.join("bundle"), folder.join("loop"));
    std::fs::copy(fixture.join("dynamo.onnx"), folder.join("model.onnx")).unwrap();
    let [model, adapter] = [folder.join("model.onnx"), fixture.join("cases/lora_qv/adapter_init")].map(|path| path.display().to_string());
    let [to, of] = [&bundle, &exported].map(|path| path.display().to_string());
    peft_onnx(&["inject", &model, "--adapter", &adapter, "-o", &to, "--quiet"]);
    peft_onnx(&[&["export", &to, "--format", "training", "-o", &of, "--quiet"][..], numbers].concat());
    (bundle, exported)
}

fn case_rows() -> Vec<Value> {
    let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "models/fixtures/llama/cases/lora_qv/train.jsonl"].iter().collect();
    std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn data(rows: &[Value]) -> Vec<(&'static str, HostTensor)> {
    ["input_ids", "attention_mask", "labels"].map(|key| (key, batch(rows, key))).into()
}

fn run(session: &mut Session, feeds: &[(&str, HostTensor)], outputs: &[&str]) -> Vec<HostTensor> {
    let feeds: Vec<Feed<'_>> = feeds.iter().map(|(name, tensor)| Feed::host(name, tensor)).collect();
    session.run(&feeds, outputs).unwrap()
}

#[test]
fn the_halves_of_a_step_over_parts_of_a_batch_make_the_whole_step() {
    const NEXT: [&str; 3] = ["trainable_next", "adam_m_next", "adam_v_next"];
    let folder = tempfile::tempdir().unwrap();
    let (_, exported) = exported(folder.path(), &[]);
    let [mut training, mut gradient, mut update] =
        ["training", "gradient", "update"].map(|name| open(&exported.join(format!("{name}.onnx"))));
    let state: Vec<(&str, HostTensor)> = STATE.into_iter().zip(open(&exported.join("initial.onnx")).run(&[], &STATE).unwrap()).collect();
    let goes_on = || vec![("step", HostTensor::scalar(1_i64)), ("learning_rate", HostTensor::scalar(0.01_f32))];

    let rows = &case_rows()[..3];
    let whole = run(&mut training, &[data(rows), state.clone(), goes_on()].concat(), &[&["loss"], &NEXT[..]].concat());

    let labels = rows.iter().flat_map(|row| row["labels"].as_array().unwrap().iter().skip(1)).filter(|label| **label != -100).count();
    let count = HostTensor::scalar(f32::from(u16::try_from(labels).unwrap()));
    let length = state[0].1.to_f32().unwrap().len();
    let (mut sum, mut loss) = (HostTensor::vector(vec![0.0_f32; length]), 0.0);
    for part in rows.chunks(2) {
        let more = vec![("trainable", state[0].1.clone()), ("label_count", count.clone()), ("gradient", sum)];
        let mut out = run(&mut gradient, &[data(part), more].concat(), &["loss", "gradient_next"]);
        sum = out.pop().unwrap();
        loss += out[0].item().unwrap();
    }
    let parts = run(&mut update, &[state, goes_on(), vec![("gradient", sum)]].concat(), &NEXT);
    assert!((loss - whole[0].item().unwrap()).abs() < 1e-6);
    for (part, whole) in parts.iter().zip(&whole[1..]) {
        let furthest = part.to_f32().unwrap().iter().zip(whole.to_f32().unwrap()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest < 1e-6, "off by {furthest}");
    }
}

#[test]
fn every_graph_of_the_folder_insists_on_its_inputs_and_the_manifest_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, exported) = exported(folder.path(), &[]);
    let manifest: Value = serde_json::from_slice(&std::fs::read(exported.join("peft-onnx.json")).unwrap()).unwrap();
    for (name, graph) in manifest["graphs"].as_object().unwrap() {
        let session = open(&exported.join(graph["file"].as_str().unwrap()));
        assert!(session.inputs().iter().all(|input| input.presence == Presence::Required), "{name}");
        let told: Vec<&str> = graph["inputs"].as_array().unwrap().iter().map(|port| port["name"].as_str().unwrap()).collect();
        assert_eq!(session.inputs().iter().map(|input| &*input.name).collect::<Vec<_>>(), told, "{name}");
    }
    // Five graphs, one file of weights: what a graph has for itself is small.
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    assert!(size(&exported.join("training.data")) < 2 * size(&folder.path().join("model.onnx")));

    // The same in memory.
    let files = peft_onnx::export::training_loop::in_memory(&peft_onnx::Bundle::open(&bundle, None).unwrap(), &[]).unwrap();
    for name in ["training.onnx", "training.data", "inference.onnx", "evaluation.onnx", "adapter_model.safetensors"] {
        assert!(files[name].len() > 100, "{name}");
    }
    assert_eq!(files["training.data"], std::fs::read(exported.join("training.data")).unwrap());
}

#[test]
fn an_adapter_is_what_the_exported_model_is_fed() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, exported) = exported(folder.path(), &[]);
    let fed = folder.path().join("fed.onnx");
    peft_onnx(&[
        "export",
        &bundle.display().to_string(),
        "--format",
        "inference",
        "--required-inputs",
        "-o",
        &fed.display().to_string(),
        "--quiet",
    ]);
    let files = peft_onnx::peft::read(&exported).unwrap();
    let inputs = data(&case_rows()[..2]);
    let of = |path: &Path, scale: f32| {
        let mut session = open(path);
        let adapter = files.tensors.iter().map(|(name, tensor)| {
            let values = tensor.to_f32().unwrap().iter().map(|value| value * scale).collect::<Vec<_>>();
            let input = session.inputs().iter().find(|input| name.ends_with(&*input.name)).unwrap().name.clone();
            (input, HostTensor::new(tensor.shape().to_vec(), values).unwrap())
        });
        let adapter: Vec<(String, HostTensor)> = adapter.collect();
        let adapter = adapter.iter().map(|(name, tensor)| (name.as_str(), tensor.clone()));
        let feeds: Vec<_> = inputs.iter().filter(|(name, _)| *name != "labels").cloned().chain(adapter).collect();
        run(&mut session, &feeds, &["logits"])[0].to_f32().unwrap()
    };
    let without = run(&mut open(&folder.path().join("model.onnx")), &inputs[..2], &["logits"])[0].to_f32().unwrap();
    let [own, none] = [1.0, 0.0].map(|scale| of(&fed, scale));
    assert_eq!(of(&exported.join("inference.onnx"), 1.0), own);
    let furthest = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(furthest(&none, &without) < 1e-5, "an adapter of zeros is the base");
    assert!(furthest(&own, &without) > 1e-4, "the adapter that is fed counts");
}

#[test]
fn a_loop_over_the_exported_step_gives_pefts_losses() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, exported) = exported(folder.path(), &["--weight-decay", "0.01", "--max-grad-norm", "0"]);
    let case: PathBuf = [env!("CARGO_MANIFEST_DIR"), "models/fixtures/llama/cases/lora_qv"].iter().collect();
    let expected: Value = serde_json::from_slice(&std::fs::read(case.join("expected.json")).unwrap()).unwrap();
    let expected: Vec<f64> = expected["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();

    let first = open(&exported.join("initial.onnx")).run(&[], &STATE).unwrap();
    // What was exported needs neither the bundle nor the base.
    std::fs::remove_dir_all(&bundle).unwrap();
    std::fs::remove_file(folder.path().join("model.onnx")).unwrap();
    let found = losses(&exported, STATE.into_iter().zip(first).collect(), &case_rows());
    assert_eq!(found.len(), expected.len());
    for (found, peft) in found.iter().zip(&expected) {
        assert!((found / peft - 1.0).abs() < 2e-5, "{found}, PEFT {peft}");
    }
}
