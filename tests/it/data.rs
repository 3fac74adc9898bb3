//! Data files as people have them, through the command line: what is read, what is told, what is refused.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::text;

/// What the command prints and tells; it must end with this exit code.
fn run(code: i32, args: &[&str]) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_peft-onnx")).args(args).output().expect("the binary starts");
    let (printed, told) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(output.status.code(), Some(code), "peft-onnx {}: {told}", args.join(" "));
    (printed, told)
}

fn tiny() -> String {
    format!("{}/models/tiny-lm/model.onnx", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_same_rows_have_the_same_loss_in_every_form_of_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let wide: Vec<u8> = "\u{feff}text\r\nOnce upon a time\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let rows: [(&str, Vec<u8>, &[&str], &str); 6] = [
        ("rows.jsonl", b"{\"text\": \"Once upon a time\"}\n".to_vec(), &[], ""),
        ("list.json", b"[{\"text\": \"Once upon a time\"}]".to_vec(), &[], ""),
        (
            "other.csv",
            b"id;headline\n7;Once upon a time\n".to_vec(),
            &["--map", "headline=text"],
            "columns that nothing reads are ignored: id",
        ),
        ("wide.csv", wide, &[], "read as utf-16le"),
        ("ignored.csv", b"text,label\nOnce upon a time,1\n".to_vec(), &["--map", "label=ignore"], ""),
        ("tabs.tsv", b"text\tsource\nOnce upon a time\tweb\n".to_vec(), &[], "ignored: source"),
    ];
    let mut losses = vec![];
    for (name, bytes, options, warning) in rows {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a file");
        let model = tiny();
        let (printed, told) = run(0, &[&["eval", &model, "--data", text(&path), "--json"], options].concat());
        let json: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        losses.push(json["loss"].as_f64().expect("a loss"));
        assert!(told.contains(warning) && (!warning.is_empty() || told.is_empty()), "{name}: {told}");
    }
    assert!(losses.iter().all(|loss| (loss - losses[0]).abs() < 1e-9), "{losses:?}");
}

#[test]
fn what_would_be_learnt_wrongly_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("a file");
        path
    };
    let refused = |path: &Path, options: &[&str], error: &str, hint: &str| {
        let model = tiny();
        let (_, told) = run(1, &[&["eval", &model, "--data", text(path)], options].concat());
        assert!(told.starts_with("error: ") && told.contains(error), "{told}");
        assert!(told.lines().any(|line| line.starts_with("hint: ") && line.contains(hint)), "{told}");
    };
    let approved = write("approved.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\", \"label\": true}\n");
    refused(&approved, &[], "line 1: the column label for causal-lm is not supported", "--map \"label=ignore\"");
    let bare = write("bare.csv", "Once upon a time,x\nThe end,y\n");
    refused(&bare, &[], "columns: expected input_ids, text", "the first line of a table names its columns");
    refused(&bare, &["--map", "headline=text"], "no column named \"headline\"", "Once upon a time, x");
    let rows = write("rows.jsonl", "{\"text\": \"Once upon a time\"}\n");
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(&fs::read(tiny().replace("model.onnx", "tokenizer.json")).expect("a tokenizer")).expect("JSON");
    let words: serde_json::Map<String, serde_json::Value> = (0..9000).map(|at| (format!("w{at}"), at.into())).collect();
    tokenizer["model"] = serde_json::json!({"type": "WordLevel", "vocab": words, "unk_token": "w0"});
    let other = write("tokenizer.json", &tokenizer.to_string());
    refused(&rows, &["--tokenizer", text(&other)], "wrong tokenizer: it has 9,000 tokens, the model ", "it was named with `--tokenizer`");
}
