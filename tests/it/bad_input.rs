//! What goes wrong from outside: files that are cut, forged or another's, disks that are full, processes that are killed. Each is an error with
//! its place, and nothing that was there before is lost.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{done, fixture, text};
use indexmap::IndexMap;
use onnx_protobuf::{GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto};
use peft_onnx::ir::Tensor;
use peft_onnx::safetensors;

/// Runs a command that must fail with an error, not with a panic, that says `expected`.
fn refused(args: &[&str], expected: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_peft-onnx")).args(args).output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "peft-onnx {}: {said}", args.join(" "));
    assert!(said.starts_with("error: ") && said.contains(expected), "peft-onnx {}: {said}\nexpected: {expected}", args.join(" "));
}

/// What lies in a folder, hidden files too.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The bytes with one string in place of another of the same length.
fn forged(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "lengths of strings stand in front of them");
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from.as_bytes())).collect();
    assert!(!places.is_empty(), "{from} is in the file");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

/// Two nodes that wait for each other.
fn cyclic() -> Vec<u8> {
    let node = |name: &str, input: &str, output: &str| NodeProto {
        name: name.into(),
        op_type: "Relu".into(),
        input: vec![input.into()],
        output: vec![output.into()],
        ..NodeProto::default()
    };
    let graph = GraphProto { node: vec![node("first", "b", "a"), node("second", "a", "b")], ..GraphProto::default() };
    let opset = OperatorSetIdProto { version: 18, ..OperatorSetIdProto::default() };
    let model = ModelProto { ir_version: 8, graph: Some(graph).into(), opset_import: vec![opset], ..ModelProto::default() };
    model.write_to_bytes().expect("a message")
}

#[test]
fn models_that_are_none_are_refused_by_their_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    let (whole, external) = (fs::read(fixture("llama/dynamo.onnx")), fs::read(fixture("llama/dynamo_external.onnx")));
    let (whole, external) = (whole.expect("a fixture"), external.expect("a fixture"));
    let noise: Vec<u8> = (0_u32..4096).map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 24).unwrap_or_default()).collect();
    let rows: [(&str, Vec<u8>, &str); 6] = [
        ("nothing", vec![], "model.onnx: expected an ONNX model, found an empty file"),
        ("noise", noise, "model.onnx: not an ONNX model: "),
        ("half a file", whole[..whole.len() / 2].to_vec(), "hint: is the file complete?"),
        ("weights elsewhere", external.clone(), "dynamo_external.onnx.data: No such file"),
        (
            "weights outside",
            forged(&external, "dynamo_external.onnx.data", "../secrets/of.others.data"),
            "it lies outside the model's folder",
        ),
        ("a cycle", cyclic(), "node first: invalid graph: its inputs depend on its outputs (a cycle)"),
    ];
    for (what, bytes, expected) in rows {
        fs::write(&path, bytes).expect("the file is written");
        for command in [&["inspect", text(&path)][..], &["inject", text(&path), "--method", "lora"]] {
            refused(command, expected);
        }
        assert_eq!(names(folder.path()), ["model.onnx"], "{what}: nothing is left behind");
    }
}

/// A change of the tensors of an adapter's file.
type Change = fn(&mut IndexMap<String, Tensor>);

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::from_f32(shape, &vec![0.0; shape.iter().product()])
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_their_tensor() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, adapter, bundle) =
        (fixture("llama/cases/lora_qv/adapter_init"), folder.path().join("adapter"), folder.path().join("bundle"));
    let rows: [(Change, &str); 4] = [
        (
            |tensors| tensors[0] = Tensor::from_i64(&[4, 32], &[0; 128]),
            "dtype: expected float32, float16, bfloat16 or float64, found int64",
        ),
        (|tensors| tensors[0] = zeros(&[4, 31]), "shape: expected [4, 32], found [4, 31]"),
        (|tensors| drop(tensors.shift_remove_index(0)), "the file has no base_model.model.model.layers.0"),
        (|tensors| drop(tensors.insert("base_model.model.nobody.lora_A.weight".into(), zeros(&[4, 32]))), "nobody"),
    ];
    fs::create_dir(&adapter).expect("a folder");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(Path::new(&source).join(file), adapter.join(file)).expect("a fixture");
    }
    let file = adapter.join("adapter_model.safetensors");
    let whole = safetensors::read(&file).expect("a fixture");
    let inject = |model: &str, expected: &str| {
        refused(&["inject", &fixture(model), "--adapter", text(&adapter), "-o", text(&bundle)], expected);
        assert_eq!(names(folder.path()), ["adapter"], "nothing is left behind");
    };
    for (change, expected) in rows {
        let mut tensors = whole.clone();
        change(&mut tensors);
        safetensors::write(&file, &tensors).expect("the file is written");
        inject("llama/dynamo.onnx", expected);
    }
    safetensors::write(&file, &whole).expect("the file is written");
    inject("gpt2/torchscript.onnx", "no module matches the targets");
    fs::write(&file, [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).expect("the file is written");
    inject("llama/dynamo.onnx", "adapter_model.safetensors: not a safetensors file");
    fs::write(adapter.join("adapter_config.json"), b"{\"peft_type\": \"LORA\", \"r\": ").expect("the file is written");
    inject("llama/dynamo.onnx", "adapter_config.json: not an adapter configuration");
}

#[test]
fn configurations_that_are_no_objects_are_refused_by_their_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, bundle, data) = (folder.path().join("model.onnx"), folder.path().join("bundle"), folder.path().join("rows.jsonl"));
    fs::copy(fixture("bert_encoder/torchscript.onnx"), &model).expect("the fixture is there");
    fs::write(&data, "{\"anchor\": \"w1\", \"positive\": \"w2\"}\n").expect("the file is written");
    fs::write(folder.path().join("tokenizer.json"), crate::tasks::tokenizer()).expect("the file is written");
    let [model, bundle, data] = [text(&model), text(&bundle), text(&data)].map(str::to_owned);
    let inject = ["inject", &model, "--method", "lora", "--task", "embedding", "--pooling", "mean", "-o", &bundle, "--force"];
    let eval = ["eval", &bundle, "--data", &data];
    let modules = r#"[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]"#;
    let alone = ["inject", &model, "--method", "lora", "--task", "embedding", "-o", &bundle, "--force"];
    let rows: [(&str, &str, &[&str]); 7] = [
        ("config.json", "{}", &inject),
        ("modules.json", "[]", &inject),
        ("1_Pooling/config.json", "{}", &alone),
        ("tokenizer_config.json", "{}", &eval),
        ("special_tokens_map.json", "{}", &eval),
        ("generation_config.json", "{}", &eval),
        ("sentence_bert_config.json", "{}", &eval),
    ];
    done(&inject);
    fs::create_dir(folder.path().join("1_Pooling")).expect("the folder is made");
    for (name, whole, command) in rows {
        let file = folder.path().join(name);
        if name.starts_with("1_") {
            fs::write(folder.path().join("modules.json"), modules).expect("the file is written");
        }
        let other = if whole == "{}" { "[]" } else { "{}" };
        for (content, expected) in
            [(other, "expected"), ("\"x\"", "found the text"), ("null", "found null"), ("3", "found 3"), (r#"{"a": 1, "a": 2}"#, "twice")]
        {
            fs::write(&file, content).expect("the file is written");
            let output = Command::new(env!("CARGO_BIN_EXE_peft-onnx")).args(command).output().expect("the binary starts");
            let said = String::from_utf8_lossy(&output.stderr);
            let is_told = [name, expected, "hint: "].iter().all(|words| said.contains(words));
            assert!(output.status.code() == Some(1) && said.starts_with("error: ") && is_told, "{name} {content}: {said}");
        }
        fs::remove_file(&file).expect("the file is there");
    }
}

#[test]
fn rows_that_the_model_cannot_take_are_refused_by_their_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bundle, data) = (folder.path().join("bundle"), folder.path().join("train.jsonl"));
    let long = format!("{{\"input_ids\": [{}1]}}", "1, ".repeat(70));
    let rows: [(&str, &str, &str); 10] = [
        (
            "gpt2/torchscript.onnx",
            r#"{"input_ids": [1, 2], "input_ids": [3]}"#,
            "line 1: not a JSON object: the name \"input_ids\" stands twice",
        ),
        (
            "gpt2/torchscript.onnx",
            "{\"input_ids\": [1, 2],\n \"labels\": [1, 2],\n \"labels\": [1, 1]}",
            "line 3: not a JSON object: the name \"labels\" stands twice",
        ),
        (
            "gpt2/torchscript.onnx",
            "[{\"input_ids\": [1]},\n {\"a\": {\"b\": 1, \"b\": 2}}]",
            "line 2: not a JSON object: the name \"b\" stands twice",
        ),
        ("gpt2/torchscript.onnx", r#"{"input_ids": [1, 2], "labels": [1, 3000]}"#, "line 1: a number in labels: expected 0 to "),
        ("gpt2/torchscript.onnx", r#"{"input_ids": [1, 2], "labels": [1, -5]}"#, "line 1: a number in labels: expected 0 to "),
        ("gpt2/torchscript.onnx", r#"{"input_ids": [1, 2], "labels": [1]}"#, "line 1: length of labels: expected 2, found 1"),
        ("gpt2/torchscript.onnx", &long, "hint: `--max-length 64` cuts longer rows"),
        ("gpt2/torchscript.onnx", r#"{"input_ids": [1, 2"#, "line 1: not a JSON object"),
        ("bert_classifier/dynamo.onnx", r#"{"input_ids": [1, 2], "label": 17}"#, "line 1: a number in label: expected 0 to "),
        ("bert_classifier/dynamo.onnx", "", "no rows in this data file"),
    ];
    let mut injected = "";
    for (model, row, expected) in rows {
        if model != injected {
            done(&["inject", &fixture(model), "--method", "lora", "-o", text(&bundle), "--force"]);
            injected = model;
        }
        let adapter = || fs::read(bundle.join("adapter_model.safetensors")).expect("an adapter");
        let before = adapter();
        fs::write(&data, row).expect("the file is written");
        refused(&["train", text(&bundle), "--data", text(&data), "--max-steps", "1"], expected);
        assert!(before == adapter(), "the adapter is what it was: {row}");
    }
}

/// A disk is full for a process whose files may not grow beyond a limit.
#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, bundle) = (fixture("llama/dynamo.onnx"), folder.path().join("bundle"));
    let case = fixture("llama/cases/lora_qv");
    let limited = |blocks: u32, args: &[&str]| {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let output = Command::new("sh").args(["-c", &script, "sh", env!("CARGO_BIN_EXE_peft-onnx")]).args(args).output();
        let output = output.expect("the binary starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("error: ") && said.contains("hint: there is no room there"), "{said}");
    };
    let inject = ["inject", &model, "--adapter", &format!("{case}/adapter_init"), "-o", text(&bundle)];
    limited(40, &inject);
    assert!(names(folder.path()).is_empty(), "nothing is left behind");
    done(&inject);
    let adapter = || fs::read(bundle.join("adapter_model.safetensors")).expect("an adapter");
    let (before, lies_there) = (adapter(), names(&bundle));
    limited(2, &["train", text(&bundle), "--data", &format!("{case}/train.jsonl"), "--max-steps", "1"]);
    assert!(before == adapter(), "the adapter is what it was");
    let new: Vec<String> = names(&bundle).into_iter().filter(|name| !lies_there.contains(name)).collect();
    assert!(new.iter().all(|name| ["metrics.jsonl", "checkpoints", "runs", ".lock"].contains(&name.as_str())), "{new:?}");
    limited(2, &["merge", text(&bundle), "-o", text(&folder.path().join("merged.onnx"))]);
    assert_eq!(names(folder.path()), ["bundle"], "nothing is left behind");
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_before_the_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, b"something else").expect("the file is written");
    let below = file.join("bundle");
    refused(&["inject", &fixture("llama/dynamo.onnx"), "--method", "lora", "-o", text(&below)], "hint: a part of this path is a file");
    assert_eq!(fs::read(&file).expect("the file"), b"something else");
}

#[test]
fn a_killed_process_leaves_the_old_or_the_new_and_nothing_between() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, case, bundle) = (fixture("llama/dynamo.onnx"), fixture("llama/cases/lora_qv"), folder.path().join("bundle"));
    let data = format!("{case}/train.jsonl");
    let inject = ["inject", &model, "--method", "lora", "-o", text(&bundle), "--force"];
    let started = Instant::now();
    done(&inject);
    let whole = (started.elapsed(), names(&bundle));
    fs::remove_dir_all(&bundle).expect("the folder is there");
    for eighths in 1..8 {
        killed_after(&inject, whole.0 * eighths / 8);
        if bundle.exists() {
            let there: Vec<String> = names(&bundle).into_iter().filter(|name| name != ".lock").collect();
            assert_eq!(there, whole.1, "a bundle that is there is whole");
        }
    }
    done(&inject);

    let train = ["train", text(&bundle), "--data", &data, "--batch-size", "3", "--save-steps", "1", "--max-steps"];
    done(&[&train[..], &["1"]].concat());
    for tenths in [3, 6, 9] {
        killed_after(&[&train[..], &["400", "--resume"]].concat(), Duration::from_millis(100 * tenths + 300));
        safetensors::read(&bundle.join("adapter_model.safetensors")).expect("the adapter is whole");
    }
    let steps = names(&bundle.join("checkpoints")).iter().filter_map(|name| name.strip_prefix("step-")?.parse::<u64>().ok()).max();
    let next = (steps.expect("checkpoints were written") + 1).to_string();
    done(&[&train[..], &[&next, "--resume"]].concat());
}

/// Starts a command and kills it, as the system would, unless it ended before.
fn killed_after(args: &[&str], time: Duration) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peft-onnx"));
    let mut process = command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    sleep(time);
    process.kill().expect("the process can be killed");
    process.wait().expect("the process ends");
}

/// A graph of one operator, without anything that a method could attach to.
fn bare() -> Vec<u8> {
    use onnx_protobuf::{TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto};
    let value = |name: &str| {
        let axis = |length| tensor_shape_proto::Dimension {
            value: Some(tensor_shape_proto::dimension::Value::DimValue(length)),
            ..Default::default()
        };
        let shape = TensorShapeProto { dim: vec![axis(2), axis(4)], ..TensorShapeProto::default() };
        let tensor = type_proto::Tensor { elem_type: 1, shape: Some(shape).into(), ..type_proto::Tensor::default() };
        let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
        ValueInfoProto { name: name.into(), type_: Some(kind).into(), ..ValueInfoProto::default() }
    };
    let node = NodeProto {
        name: "only".into(),
        op_type: "Relu".into(),
        input: vec!["x".into()],
        output: vec!["logits".into()],
        ..NodeProto::default()
    };
    let graph = GraphProto { node: vec![node], input: vec![value("x")], output: vec![value("logits")], ..GraphProto::default() };
    let opset = OperatorSetIdProto { version: 18, ..OperatorSetIdProto::default() };
    let model = ModelProto { ir_version: 8, graph: Some(graph).into(), opset_import: vec![opset], ..ModelProto::default() };
    model.write_to_bytes().expect("a message")
}

#[test]
fn what_a_model_has_no_site_for_is_said_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bare_model, bundle) = (folder.path().join("bare.onnx"), folder.path().join("bundle"));
    fs::write(&bare_model, bare()).expect("the file is written");
    let (bare, bert) = (text(&bare_model).to_owned(), fixture("bert_classifier/dynamo.onnx"));
    let body = fixture("bert_encoder/dynamo.onnx");
    let words = r#"{"good": ["fine"], "bad": ["poor"]}"#;
    let rows: [(&str, &[&str], &[&str]); 15] = [
        (&bare, &["lora"], &["no module matches the targets \"all-linear\"", "hint: no linear projections were recognised"]),
        (&bare, &["ia3"], &["the model has none of the modules that this method attaches to", "hint: no linear projections"]),
        (&bare, &["prompt_tuning"], &["this graph has no table that its token ids are looked up in", "hint: "]),
        (
            &bare,
            &["trainable_tokens", "--trainable-token-indices", "5"],
            &["training what tokens are looked up as is not supported", "hint: "],
        ),
        (&bare, &["p_tuning_v2"], &["prefixes in this graph is not supported: no attention was recognised", "hint: "]),
        (&bare, &["ln_tuning"], &["tuning the normalisations is not supported: none was found", "hint: `peft-onnx inspect MODEL`"]),
        (
            &bert,
            &["prompt_tuning", "--num-virtual-tokens", "64"],
            &["num_virtual_tokens: expected fewer than the model's 64 positions", "hint: "],
        ),
        (&bert, &["prompt_tuning", "--num-virtual-tokens", "0"], &["num_virtual_tokens: expected at least 1, found 0"]),
        (&bert, &["prefix_tuning", "--encoder-hidden-size", "0"], &["encoder_hidden_size: expected at least 1, found 0"]),
        (&bert, &["p_tuning", "--encoder-hidden-size", "0"], &["encoder_hidden_size: expected at least 1, found 0"]),
        (&bert, &["trainable_tokens"], &["number of token_indices: expected at least 1", "hint: `--trainable-token-indices`"]),
        (
            &bert,
            &["lora", "--task", "causal-lm"],
            &["logits for causal-lm: expected [batch, seq, scores]", "hint: the graph looks made for seq-cls"],
        ),
        (&bert, &["lora", "--task", "token-cls"], &["logits for token-cls: expected [batch, seq, scores]", "hint: "]),
        (
            &fixture("llama/dynamo.onnx"),
            &["lora", "--task", "seq-cls"],
            &["logits for seq-cls: expected [batch, classes]", "`--num-labels` puts a new head"],
        ),
        (
            &body,
            &["lora", "--template", "{text} [MASK]", "--verbalizer", words],
            &["bert_encoder/dynamo.onnx: training a model for vectors without being told to is not supported", "hint: say with `--task`"],
        ),
    ];
    for (model, options, expected) in rows {
        for expected in expected {
            refused(&[&["inject", model, "-o", text(&bundle), "--method"][..], options].concat(), expected);
        }
        assert!(!bundle.exists(), "{options:?}");
    }
}
