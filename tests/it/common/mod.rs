//! What tests of the command line have in common: the program, the fixtures, temporary folders.

#![allow(dead_code, reason = "each test is a program of its own, and needs a part of this")]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use peft_onnx::ir::Tensor;
use serde_json::Value;

/// The program. It is told where the project's ONNX Runtime is, unless a variable names another.
pub(crate) fn peft_onnx() -> Command {
    let mut command = Command::cargo_bin("peft-onnx").expect("the binary is built for its tests");
    if let Some(library) = project_library() {
        command.env("ORT_DYLIB_PATH", library);
    }
    command
}

/// The folder that `scripts/get_onnxruntime.sh` fills, if it is there and no variable names another.
pub(crate) fn project_library() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ort");
    (std::env::var_os("ORT_DYLIB_PATH").is_none() && folder.is_dir()).then_some(folder)
}

/// A file or folder of `models/fixtures`.
pub(crate) fn fixture(path: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "models/fixtures", path].iter().collect();
    path.display().to_string()
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("the path of a temporary folder is UTF-8")
}

/// Whether a command succeeded, and what it printed on its two outputs.
pub(crate) fn run(args: &[&str]) -> (bool, String, String) {
    let output = peft_onnx().args(args).output().expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// Runs a command that must succeed, and gives what it printed.
pub(crate) fn done(args: &[&str]) -> String {
    let (success, stdout, stderr) = run(args);
    assert!(success, "peft-onnx {}\n{stdout}{stderr}", args.join(" "));
    stdout
}

/// Runs a command that must succeed, and gives the JSON it printed.
pub(crate) fn json_of(args: &[&str]) -> Value {
    serde_json::from_str(&done(&[args, &["--json"]].concat())).expect("--json prints JSON")
}

/// Runs a command that must fail with an error, not with a panic, that says all of `expected`.
pub(crate) fn refused(args: &[&str], expected: &[&str]) {
    let output = peft_onnx().args(args).output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "peft-onnx {}: {said}", args.join(" "));
    let is_all = said.starts_with("error: ") && expected.iter().all(|words| said.contains(words));
    assert!(is_all, "peft-onnx {}: {said}\nexpected: {expected:?}", args.join(" "));
}

/// Numbers from -0.5 to 0.5, others for each name.
pub(crate) fn numbers(name: &str, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let mut state: u32 = name.bytes().fold(7, |state, byte| state.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).expect("16 bits")) / 65536.0 - 0.5
    };
    Tensor::from_f32(shape, &(0..count).map(|_| next()).collect::<Vec<f32>>())
}

/// A number.
pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// A process that ends with the test that started it, however that ends.
pub(crate) struct Running(pub(crate) std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A temporary folder.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    /// One with nothing in it.
    pub(crate) fn empty() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// One with a copy of a fixture, `model.onnx`.
    pub(crate) fn with(model: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(fixture(model), folder.path().join("model.onnx")).expect("the fixture is there");
        Self(folder)
    }

    /// A place in it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Writes a file, and gives its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.path().join(name), text).expect("the file is written");
        self.path(name)
    }
}
