//! Nothing leaves the machine: commands open no socket, and write nowhere but where they are told to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{fixture, peft_onnx, project_library};

/// A run of the program with a home of its own, under `strace` where that is there.
fn run(folder: &Path, args: &[&str]) -> (Output, Option<String>) {
    let trace = folder.join("trace");
    let program = peft_onnx().get_program().to_owned();
    let is_traced = Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    let mut command = Command::new(if is_traced { "strace".into() } else { program.clone() });
    if is_traced {
        command.args(["-f", "-qq", "-e", "trace=network,%file", "-o"]).arg(&trace).arg(program);
    }
    if let Some(library) = project_library() {
        command.env("ORT_DYLIB_PATH", library);
    }
    for variable in ["ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
        command.env_remove(variable);
    }
    let output = command.args(args).current_dir(folder.join("work")).env("HOME", folder.join("home")).output().expect("the program starts");
    (output, is_traced.then(|| fs::read_to_string(&trace).expect("strace writes")))
}

/// The system calls that look for the network, or change a file outside the folder.
fn indiscretions(trace: &str, folder: &Path) -> Vec<String> {
    let inside = folder.join("work").display().to_string();
    let changes = ["O_WRONLY", "O_RDWR", "O_CREAT", "mkdir", "rename", "unlink", "symlink", "link(", "linkat(", "truncate("];
    let is_network = |line: &str| ["socket(", "connect(", "sendto("].iter().any(|call| line.contains(call));
    let is_change = |line: &str| changes.iter().any(|word| line.contains(word)) && !line.contains("readlink");
    // Names without a folder are of the current one, which is inside; terminals and the null device keep nothing.
    let is_outside = |line: &str| {
        let path = line.split('"').nth(1).unwrap_or_default();
        path.starts_with('/') && !path.starts_with(&inside) && !path.starts_with("/dev/") && !path.starts_with("/proc/self/")
    };
    let lines = trace.lines().filter(|line| !line.contains("= -1 ENOENT"));
    lines.filter(|line| is_network(line) || (is_change(line) && is_outside(line))).map(str::to_owned).collect()
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { BTreeSet::from([path]) }).collect()
}

#[test]
fn no_socket_is_opened_and_no_file_outside_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().canonicalize().expect("it is there");
    for name in ["home", "work"] {
        fs::create_dir(root.join(name)).expect("a folder");
    }
    fs::copy(fixture("llama/dynamo.onnx"), root.join("work/model.onnx")).expect("the fixture is there");
    let row = "{\"input_ids\":[1,2,3,4],\"labels\":[1,2,3,4]}\n";
    fs::write(root.join("work/rows.jsonl"), row.repeat(2)).expect("a file");
    for command in [
        "runtime",
        "inject model.onnx --method lora -o bundle",
        "train bundle --data rows.jsonl --max-steps 1 --batch-size 1 --threads 1",
        "eval bundle --data rows.jsonl --threads 1",
        "merge bundle -o merged.onnx",
    ] {
        let (output, trace) = run(&root, &command.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(files(&root.join("home")), BTreeSet::new(), "{command}");
        let indiscreet = trace.map(|trace| indiscretions(&trace, &root)).unwrap_or_default();
        assert!(indiscreet.is_empty(), "{command}:\n{}", indiscreet.join("\n"));
    }
}
