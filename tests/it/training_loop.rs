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
        let data: Vec<(&str, HostTensor)> = ["input_ids", "attention_mask", "labels"].map(|key| (key, batch(rows, key))).into();
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

#[test]
fn a_loop_over_the_exported_step_gives_pefts_losses() {
    let folder = tempfile::tempdir().unwrap();
    let fixture: PathBuf = [env!("CARGO_MANIFEST_DIR"), "models/fixtures/llama"].iter().collect();
    let case = fixture.join("cases/lora_qv");
    let (bundle, exported) = (folder.path().join("bundle"), folder.path().join("loop"));
    std::fs::copy(fixture.join("dynamo.onnx"), folder.path().join("model.onnx")).unwrap();
    let [model, adapter] = [folder.path().join("model.onnx"), case.join("adapter_init")].map(|path| path.display().to_string());
    let [to, of] = [&bundle, &exported].map(|path| path.display().to_string());
    peft_onnx(&["inject", &model, "--adapter", &adapter, "-o", &to, "--quiet"]);
    let numbers = ["--weight-decay", "0.01", "--max-grad-norm", "0"];
    peft_onnx(&[&["export", &to, "--format", "training", "-o", &of, "--quiet"][..], &numbers].concat());

    let rows: Vec<Value> =
        std::fs::read_to_string(case.join("train.jsonl")).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected: Value = serde_json::from_slice(&std::fs::read(case.join("expected.json")).unwrap()).unwrap();
    let expected: Vec<f64> = expected["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();

    let first = open(&exported.join("initial.onnx")).run(&[], &STATE).unwrap();
    let exported_session = open(&exported.join("training.onnx"));
    assert!(exported_session.inputs().iter().all(|input| input.presence == Presence::Required));
    // What was exported needs neither the bundle nor the base.
    std::fs::remove_dir_all(&bundle).unwrap();
    std::fs::remove_file(folder.path().join("model.onnx")).unwrap();
    let found = losses(&exported, STATE.into_iter().zip(first).collect(), &rows);
    assert_eq!(found.len(), expected.len());
    for (found, peft) in found.iter().zip(&expected) {
        assert!((found / peft - 1.0).abs() < 2e-5, "{found}, PEFT {peft}");
    }
}
