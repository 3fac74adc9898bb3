//! What the command line says of files and folders that stand where something else belongs, and how it says it.

use std::path::{Path, PathBuf};

use crate::common::{done, fixture, peft_onnx, text};
use serde_json::Value;

/// A folder with a model, a bundle, an adapter, and files that people give in their place.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        std::fs::copy(fixture("llama/dynamo.onnx"), place.at("model.onnx")).expect("the fixture is there");
        place.put("train.jsonl", b"{\"input_ids\": [1, 2, 3]}\n");
        place
    }

    /// The same with a bundle of the model, and its adapter alone.
    fn with_bundle() -> Self {
        let place = Self::new();
        done(&["inject", text(&place.at("model.onnx")), "--method", "lora", "-o", text(&place.at("bundle"))]);
        done(&["export", text(&place.at("bundle")), "--format", "peft", "-o", text(&place.at("adapter"))]);
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("the folder is made");
        std::fs::write(path, bytes).expect("the file is written");
    }

    fn copy(&self, name: &str) {
        self.put(name, &std::fs::read(self.at("model.onnx")).expect("it is there"));
    }

    /// Runs a command in the folder: its exit code, and what it said.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let output = peft_onnx().args(arguments).current_dir(self.folder.path()).output().expect("the binary starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }

    /// Checks that each command fails and says what stands there and what to do; all that do not are told at once.
    fn refuses(&self, rows: &[(&str, &str, &str)]) {
        let mut wrong = vec![];
        for (arguments, found, hint) in rows {
            let (code, said) = self.run(&shlex::split(arguments).expect("quotes match").iter().map(String::as_str).collect::<Vec<_>>());
            let hinted = said.split("hint: ").nth(1).is_some_and(|said| said.contains(hint));
            if code != 1 || !said.contains(found) || !hinted || said.contains("panicked") {
                wrong.push(format!("{arguments}: exit code {code}\n{said}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn what_is_given_for_a_model_is_recognised() {
    let place = Place::new();
    let safetensors = [&16_u64.to_le_bytes()[..], b"{\"a\":{\"x\":[0]}} 0000"].concat();
    for (name, bytes) in [
        ("tokenizer.json", &b"{\"added_tokens\": [], \"pre_tokenizer\": null}"[..]),
        ("torch/config.json", b"{\"model_type\": \"llama\"}"),
        ("torch/model.safetensors", &safetensors),
        ("torch/pytorch_model.bin", b"\x80\x02}q\x00."),
        ("lone/model.gguf", b"GGUF\x03\0\0\0"),
        ("lone/empty.onnx", b""),
        ("lone/pointer.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        ("lone/page.onnx", b"<!DOCTYPE html><html></html>"),
        ("lone/model.zip", b"PK\x03\x04\x00\x00"),
        ("lone/model.ort", b"\x18\0\0\0ORTM"),
        ("pointer/model.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        ("nothing/readme.md", b"words"),
    ] {
        place.put(name, bytes);
    }
    for name in ["two/a.onnx", "two/b.onnx", "both/model.onnx", "both/onnx/model.onnx"] {
        place.copy(name);
    }
    place.refuses(&[
        ("inspect tokenizer.json", "found a tokenizer", "the model is model.onnx"),
        ("inject train.jsonl --method lora", "found a data file", "--data train.jsonl"),
        ("inspect torch/config.json", "found a model's configuration", "name the file that ends in .onnx"),
        ("inspect torch/model.safetensors", "found weights without a graph", "optimum-cli export onnx"),
        ("convert torch/pytorch_model.bin -o x.onnx", "found a PyTorch file", "optimum-cli export onnx"),
        ("inject torch --method lora", "found PyTorch's weights", "optimum-cli export onnx --model torch OUT"),
        ("inspect lone/model.gguf", "found weights for llama.cpp", "optimum-cli export onnx"),
        ("inspect lone/empty.onnx", "found an empty file", "get the file again"),
        ("inspect lone/pointer.onnx", "found a Git LFS pointer", "git lfs pull"),
        ("inspect pointer", "pointer/model.onnx: expected an ONNX model, found a Git LFS pointer", "git lfs pull"),
        ("eval lone/page.onnx --data train.jsonl", "found a web page", "`resolve`, not `blob`"),
        ("inspect lone/model.zip", "found an archive", "`unzip lone/model.zip`"),
        ("inspect lone/model.ort", "found a model in ONNX Runtime's own format", "name the .onnx file"),
        ("inspect two", "found a folder with 2 models", "two/a.onnx or two/b.onnx"),
        ("inspect both", "found a folder with 2 models", "both/model.onnx or both/onnx/model.onnx"),
        ("inspect nothing/readme.md", "found a text file", "name the file that ends in .onnx"),
        ("chat train.jsonl", "found a data file", "name the file that ends in .onnx, or the folder that has it; data goes with"),
        ("convert model.onnx -o x.safetensors", "an ONNX model is written", "as x.onnx"),
        ("inject model.onnx --method lora -o y.onnx", "a folder (a bundle, ", "name a folder, as y"),
        ("generate nothing --prompt x", "found a folder without an .onnx file", "name the file that ends in .onnx"),
    ]);
}

#[test]
fn what_is_given_for_bundles_adapters_and_data_is_recognised() {
    let place = Place::with_bundle();
    place.copy("lone/model.onnx");
    place.put("other/notes.md", b"words");
    place.refuses(&[
        ("train model.onnx --data train.jsonl", "expected a bundle", "`peft-onnx inject model.onnx --method lora`"),
        ("train adapter --data train.jsonl", "found an adapter without a model", "--adapter adapter -o BUNDLE"),
        ("merge adapter -o x.onnx", "found an adapter without a model", "--adapter adapter -o BUNDLE"),
        ("merge model.onnx -o x.onnx", "expected a bundle", "inject model.onnx"),
        ("merge bundle -o x.safetensors", "an ONNX model is written", "as x.onnx, or a folder by a slash at its end, as x/"),
        ("merge bundle -o x-0.5", "an ONNX model is written", "as x-0.5.onnx"),
        ("export bundle --format peft -o x.onnx", "a folder (adapter_config.json", "name a folder, as x"),
        ("export bundle --format onnx_adapter -o x.onnx", "an adapter file of ONNX Runtime", "as x.onnx_adapter"),
        ("combine adapter adapter -o x.safetensors", "a folder (adapter_config.json", "name a folder, as x"),
        ("check bundle/training.onnx", "expected a bundle", "name its folder: bundle"),
        ("train bundle/peft-onnx.json --data train.jsonl", "found a bundle's manifest", "name its folder: bundle"),
        ("inject bundle --method lora", "found a bundle", "`inject MODEL.onnx --adapter bundle`"),
        ("inspect bundle", "found a bundle", "`peft-onnx train bundle`"),
        ("inspect adapter", "found an adapter without a model", "`peft-onnx inject MODEL.onnx --adapter adapter`"),
        ("inspect adapter/adapter_model.safetensors", "found weights without a graph", "--adapter adapter"),
        ("inject model.onnx --adapter adapter/adapter_config.json", "expected an adapter", "name its folder: adapter"),
        ("inject model.onnx --adapter model.onnx", "expected an adapter", "adapter_config.json"),
        ("combine adapter model.onnx -o both", "expected an adapter", "adapter_config.json"),
        ("train bundle --data model.onnx", "expected a data file, found an ONNX model", "jsonl"),
        ("train bundle --data lone", "expected a data file, found a model's folder", "train.jsonl"),
        ("train bundle --data adapter", "expected a data file, found an adapter", "train.jsonl"),
        ("train bundle --data other", "expected a data file, found a folder", "train.jsonl"),
        ("eval bundle --data bundle", "expected a data file, found a bundle", "jsonl"),
        ("train bundle --data train.jsonl --eval-data model.onnx", "model.onnx: expected a data file", "jsonl"),
        ("eval bundle --data train.jsonl --tokenizer model.onnx", "expected a tokenizer", "tokenizer.json"),
    ]);
    // A folder with train.jsonl is one of data, whatever else is in it.
    assert_eq!(place.run(&["train", "bundle", "--data", ".", "--max-steps", "1", "-q"]).0, 0);
    // A bundle is a PEFT folder, too.
    assert_eq!(place.run(&["inject", "model.onnx", "--adapter", "bundle", "-o", "again", "-q"]), (0, String::new()));
}

/// What is the same for all of a bundle's adapters takes the folder of a run for the bundle around it; what trains says what to name.
#[test]
fn the_folder_of_a_run_stands_for_its_bundle_or_it_is_said_what_does() {
    let place = Place::with_bundle();
    let train = "train bundle --data train.jsonl --max-steps 2 --save-steps 1 -q";
    assert_eq!(place.run(&train.split(' ').collect::<Vec<_>>()), (0, String::new()));
    let (run, step) = ("bundle/runs/001", "bundle/runs/001/checkpoints/step-1");
    for inside in [run, step, "bundle/initial"] {
        let commands = [
            &["plan", inside, "--batch-size", "1", "--max-length", "8"][..],
            &["data", "train.jsonl", inside],
            &["runs", inside],
            &["check", inside],
            &["eval", inside, "--data", "train.jsonl"],
        ];
        for command in commands {
            assert_eq!(place.run(command).0, 0, "{command:?}");
        }
    }
    let one = place.run(&["runs", "bundle", "001"]);
    assert_eq!([place.run(&["runs", run]), place.run(&["runs", step, "001"])], [one.clone(), one]);
    place.refuses(&[
        (
            "train bundle/runs/001 --data train.jsonl --continue",
            "found a folder of a bundle's run 001",
            "`peft-onnx train bundle --resume --run 001`",
        ),
        ("train bundle/runs/001/checkpoints/step-1 --data train.jsonl --continue", "a bundle's run 001", "name the bundle, bundle"),
        ("train bundle/initial --data train.jsonl --restart", "found a folder inside a bundle", "name the bundle, bundle"),
        ("plan bundle/runs", "found a folder inside a bundle", "name the bundle, bundle"),
        ("eval bundle/runs --data train.jsonl", "found a folder inside a bundle", "name the bundle, bundle"),
        ("inspect bundle/runs/001", "a bundle's run 001", "`peft-onnx merge bundle/runs/001 -o MODEL.onnx`"),
        ("inject bundle/runs/001/checkpoints/step-1 --method lora", "a bundle's run 001", "--adapter bundle/runs/001/checkpoints/step-1`"),
    ]);
}

#[test]
fn where_nothing_is_the_nearest_names_are_offered() {
    let place = Place::with_bundle();
    place.copy("deep/onnx/model.onnx");
    place.refuses(&[
        ("inspect modle.onnx", "modle.onnx: no such file or folder", "is model.onnx meant?"),
        ("inspect deep/model.onnx", "no such file or folder", "is deep/onnx/model.onnx meant?"),
        ("inspect depe/onnx/model.onnx", "no such file or folder", "is deep/onnx/model.onnx meant?"),
        ("inspect nowhere/model.onnx", "no such file or folder", "there is no folder nowhere"),
        ("train bundel --data train.jsonl", "bundel: no such file or folder", "is bundle meant?"),
        ("train bundle --data train.json", "train.json: no such file or folder", "is train.jsonl meant?"),
        ("train x --data train.jsonl", "no such file or folder", "the current folder has bundle"),
        ("inject model.onnx --adapter adpater", "no such file or folder", "is adapter meant?"),
        ("inject Owner/Name-135M --method lora", "no such file or folder", "optimum-cli export onnx --model Owner/Name-135M"),
    ]);
}

#[test]
fn a_folder_is_taken_for_the_model_in_it() {
    let place = Place::new();
    for name in [
        "one/x.onnx",
        "root/model.onnx",
        "root/model_int8.onnx",
        "hub/onnx/model.onnx",
        "hub/onnx/model_fp16.onnx",
        "genai/d.onnx",
        "genai/e.onnx",
    ] {
        place.copy(name);
    }
    place.put("genai/genai_config.json", b"{\"model\": {\"decoder\": {\"filename\": \"d.onnx\"}}}");
    for (folder, file) in [("one", "one/x.onnx"), ("root", "root/model.onnx"), ("hub", "hub/onnx/model.onnx"), ("genai", "genai/d.onnx")] {
        let (code, said) = place.run(&["inspect", folder, "--json", "-q"]);
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{folder}: {said}"));
        assert_eq!((code, report["file"].as_str()), (0, Some(file)), "{folder}");
    }
    let (_, said) = place.run(&["inspect", "hub"]);
    assert!(said.contains("the model of hub is hub/onnx/model.onnx (not onnx/model_fp16.onnx)"), "{said}");
    for command in [
        &["inject", "hub", "--method", "lora", "-o", "b"][..],
        &["eval", "hub", "--data", "train.jsonl"],
        &["convert", "hub", "-o", "c.onnx"],
    ] {
        assert_eq!(place.run(command).0, 0, "{command:?}");
    }
}

#[test]
fn errors_are_words_for_people_and_with_json_a_last_line_for_programs() {
    let place = Place::new();
    for (arguments, code, error, place_of_it) in [
        (&["inspect", "x.onnx", "--json"][..], 1, "no such file or folder", serde_json::json!([{"file": "x.onnx"}])),
        (&["train", "b", "--json"], 2, "the following required arguments were not provided: --data <FILE>", serde_json::json!([])),
        (
            &["inject", "model.onnx", "--lr", "1", "--json"],
            2,
            "unexpected argument '--lr' found",
            serde_json::json!([{"argument": "--lr"}]),
        ),
    ] {
        let output = peft_onnx().args(arguments).current_dir(place.folder.path()).output().expect("the binary starts");
        let told = String::from_utf8(output.stderr).expect("text");
        let last = told.lines().last().unwrap_or_default();
        let said: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{arguments:?}: {told}"));
        assert!(told.starts_with("error: ") && output.stdout.is_empty(), "{told}");
        assert!(told.contains("\nhint: ") || told.contains("Usage: "), "{told}");
        assert_eq!(
            (output.status.code(), said["error"].as_str(), &said["places"]),
            (Some(code), Some(error), &place_of_it),
            "{arguments:?}"
        );
        assert!(said["hint"].is_string(), "{said}");
    }
}

/// Whatever is written into a file or pipe has no colours, warnings among them; where a variable asks for colours it has them.
#[test]
fn there_are_no_colours_in_files_and_pipes() {
    let place = Place::with_bundle();
    let said = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = peft_onnx();
        command.args(arguments).current_dir(place.folder.path()).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
        let output = command.envs(variables.iter().copied()).output().expect("the binary starts");
        [output.stdout, output.stderr].concat()
    };
    let told: &[&str] = &["inject", "model.onnx", "--adapter", "adapter", "-o", "b", "--force", "-v"];
    for arguments in [told, &["--help"], &["train", "--help"], &["inspect", "x.onnx"], &["trian"]] {
        assert!(!said(arguments, &[]).contains(&b'\x1b'), "{arguments:?}");
    }
    assert!(said(told, &[("CLICOLOR_FORCE", "1")]).contains(&b'\x1b'), "colours can be asked for");
    assert!(!said(told, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).contains(&b'\x1b'), "NO_COLOR is stronger");
}

#[test]
fn completions_and_manual_pages_are_written() {
    let place = Place::new();
    for (shell, word) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef peft-onnx"),
        ("fish", "complete -c peft-onnx"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let (code, script) = place.run(&["completions", shell]);
        assert!(code == 0 && script.contains(word) && script.contains("learning-rate"), "{shell}");
    }
    assert_eq!(place.run(&["completions", "man", "-o", "man", "-q"]), (0, String::new()));
    let page = std::fs::read_to_string(place.at("man/peft-onnx-train.1")).expect("there is a page for each command");
    let example = "peft\\-onnx train model.lora \\-\\-data train.jsonl";
    assert!(page.contains(".SH EXAMPLES") && page.contains(example), "the examples of the help");
    assert!(page.contains("learning") && Path::new(&place.at("man/peft-onnx.1")).is_file());
}
