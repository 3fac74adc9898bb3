//! The examples run, and end well.

#![cfg(feature = "runtime")]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common;

/// The program of an example. Cargo builds it with all tests, but not with a single one.
fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("this program");
    let folder = tests.parent().and_then(Path::parent).expect("target/debug").join("examples");
    let program = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    if !program.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "--example", name]).status().expect("cargo starts");
        assert!(built.success(), "{name} is not built");
    }
    program
}

#[test]
fn every_example_ends_well() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = std::fs::read_dir(folder).expect("examples").map(|entry| entry.expect("an entry").path());
    // Beside those in Rust there are some in other languages.
    let files = files.filter(|file| file.extension().is_some_and(|ending| ending == "rs"));
    let names: Vec<String> = files.filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned())).collect();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        let work = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(program(&name));
        command.arg(work.path().join("out"));
        if let Some(library) = common::project_library() {
            command.env("ORT_DYLIB_PATH", library);
        }
        let output = command.output().unwrap_or_else(|error| panic!("{name}: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !output.stdout.is_empty(), "{name}: {said}");
    }
}
