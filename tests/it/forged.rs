//! Bundles that others have been at, or that an earlier version wrote: nothing outside is touched, nothing that was there is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use onnx_protobuf::{Message, ModelProto};

use crate::common::{done, fixture, refused, run, text};

/// Rows to learn from.
fn rows(folder: &Path) -> PathBuf {
    let path = folder.join("rows.jsonl");
    fs::write(&path, "{\"input_ids\":[1,2,3,4],\"labels\":[1,2,3,4]}\n".repeat(4)).expect("a file");
    path
}

/// Every file below a folder with its bytes; links as what they lead to.
fn everything(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_symlink() {
            found.insert(path.clone(), fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes());
        } else if path.is_dir() {
            found.extend(everything(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).expect("a file"));
        }
    }
    found
}

#[cfg(unix)]
#[test]
fn links_in_a_bundle_lead_nowhere() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().expect("a folder");
    let (bundle, outside, data) = (folder.path().join("bundle"), folder.path().join("outside"), rows(folder.path()));
    let train = |more: &[&str]| {
        run(&[&["train", text(&bundle), "--data", text(&data), "--batch-size", "1", "--report-to", "tensorboard", "-q"], more].concat())
    };
    done(&["inject", &fixture("llama/dynamo.onnx"), "--method", "lora", "-o", text(&bundle), "-q"]);
    assert!(train(&["--max-steps", "1"]).0);
    fs::create_dir(&outside).expect("a folder");
    let mut steps = 1;
    for place in [
        "runs",
        "runs/001",
        "runs/001/checkpoints",
        "runs/001/checkpoints/step-1",
        "runs/001/run.json",
        "runs/001/config.yaml",
        "runs/001/metrics.jsonl",
        "runs/001/report.html",
        "initial",
        "README.md",
        "inference.onnx",
        "adapter_model.safetensors",
        ".lock",
        ".adapter-follows.json",
        ".adapter-written.json",
        ".base-checked.json",
    ] {
        let (path, away) = (bundle.join(place), outside.join("away"));
        let was_there = path.exists();
        if was_there {
            fs::rename(&path, &away).expect("it moves");
        } else {
            fs::write(&away, "precious").expect("a file");
        }
        symlink(&away, &path).expect("a link");
        let before = everything(&outside);
        steps += 1;
        let how = if place == "initial" { "--restart" } else { "--resume" };
        let (success, _, said) = train(&["--max-steps", &steps.to_string(), how]);
        assert_eq!(everything(&outside), before, "{place}: {said}");
        assert!(success || said.starts_with("error: "), "{place}: {said}");
        // As it was, for the next one.
        if path.is_symlink() {
            fs::remove_file(&path).expect("the link goes");
        }
        if was_there && !path.exists() {
            fs::rename(&away, &path).expect("it moves back");
        }
        let _ = fs::remove_file(&away);
    }
}

#[cfg(unix)]
#[test]
fn nothing_is_read_through_a_link_or_a_pipe_in_a_bundle() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().expect("a folder");
    let (bundle, away, data) = (folder.path().join("bundle"), folder.path().join("away"), rows(folder.path()));
    done(&["inject", &fixture("llama/dynamo.onnx"), "--method", "lora", "-o", text(&bundle), "-q"]);
    let [merged, looped, peft] = ["merged.onnx", "loop", "peft"].map(|name| folder.path().join(name));
    let commands: [&[&str]; 5] = [
        &["train", text(&bundle), "--data", text(&data), "--max-steps", "1", "--restart", "-q"],
        &["eval", text(&bundle), "--data", text(&data)],
        &["merge", text(&bundle), "-o", text(&merged), "--force"],
        &["export", text(&bundle), "--format", "training", "-o", text(&looped), "--force"],
        &["export", text(&bundle), "--format", "peft", "-o", text(&peft), "--force"],
    ];
    let places = ["training.onnx", "inference.onnx", "adapter_model.safetensors", "adapter_config.json", "README.md"];
    for place in places {
        let path = bundle.join(place);
        fs::rename(&path, &away).expect("it moves");
        for is_pipe in [false, true] {
            if is_pipe {
                assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo is there").success());
            } else {
                symlink(&away, &path).expect("a link");
            }
            for command in commands {
                refused(command, &[place, if is_pipe { "no ordinary file" } else { "a link" }, "hint: "]);
            }
            fs::remove_file(&path).expect("it goes");
        }
        fs::rename(&away, &path).expect("it moves back");
    }
    // A pipe is no model either.
    let pipe = folder.path().join("model.onnx");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there").success());
    refused(&["inspect", text(&pipe)], &["model.onnx", "no ordinary file"]);
    refused(&["inject", text(&pipe), "--method", "lora"], &["model.onnx", "no ordinary file"]);
}

#[test]
fn a_replacement_that_fails_leaves_the_old_bundle_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("bundle");
    let (model, lora) = (fixture("llama/dynamo.onnx"), ["--method", "lora", "-q", "-o", text(&bundle)]);
    done(&[&["inject", &model], &lora[..]].concat());
    let before = everything(folder.path());
    refused(&[&["inject", &model, "--force", "--target-modules", "nobody"], &lora[..]].concat(), &["nobody"]);
    refused(&[&["inject", &fixture("llama/missing.onnx"), "--force"], &lora[..]].concat(), &["missing.onnx"]);
    assert_eq!(everything(folder.path()), before);
}

#[test]
fn bundles_of_before_a_step_told_whether_it_was_made_are_to_be_injected_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bundle, data) = (folder.path().join("bundle"), rows(folder.path()));
    done(&["inject", &fixture("llama/dynamo.onnx"), "--method", "lora", "-o", text(&bundle), "-q"]);
    for name in ["training.onnx", "update.onnx"] {
        let file = bundle.join(name);
        let mut model = ModelProto::parse_from_bytes(&fs::read(&file).expect("a graph")).expect("a model");
        let outputs = &mut model.graph.mut_or_insert_default().output;
        let count = outputs.len();
        outputs.retain(|output| output.name != "updated");
        assert_eq!(outputs.len(), count - 1, "{name}");
        fs::write(&file, model.write_to_bytes().expect("a message")).expect("a file");
    }
    let manifest = bundle.join("peft-onnx.json");
    let mut told: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).expect("a manifest")).expect("JSON");
    for graph in ["training", "update"] {
        let outputs = told["graphs"][graph]["outputs"].as_array_mut().expect("outputs");
        outputs.retain(|output| output["name"] != "updated");
    }
    fs::write(&manifest, told.to_string()).expect("a file");
    let train = ["train", text(&bundle), "--data", text(&data), "--batch-size", "1", "--max-steps", "1", "-q"];
    for more in [&[][..], &["--gradient-accumulation-steps", "2"]] {
        refused(&[&train[..], more].concat(), &["updated", "bundle", "hint: an earlier version wrote this bundle: inject again"]);
    }
    // What it learnt is not lost.
    done(&["inject", &fixture("llama/dynamo.onnx"), "--adapter", text(&bundle), "-o", text(&folder.path().join("again")), "-q"]);
}
