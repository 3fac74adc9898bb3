//! Models of pictures and texts in the files that transformers.js takes: joined, trained, written with, merged file by file, against what PEFT and
//! `PyTorch` do with the same weights (`scripts/fixtures/make_vision_language_fixtures.py`).

use std::path::{Path, PathBuf};

use peft_onnx::onnx;
use serde_json::{Value, json};

use crate::common::{Folder, done, json_of, number, refused};

/// Ours and `PyTorch`'s sums are in different orders; both are float32.
const LOSS: f64 = 5e-5;

const FILES: [&str; 3] = ["decoder_model_merged.onnx", "embed_tokens.onnx", "vision_encoder.onnx"];

const FAMILIES: [&str; 2] = ["llava", "idefics3"];

/// A fixture in a folder of its own, and where things are written beside it.
struct Work {
    folder: Folder,
    family: &'static str,
    expected: Value,
}

impl Work {
    fn of(family: &'static str) -> Self {
        let source: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/vision_language", family].iter().collect();
        let folder = Folder::empty();
        let model = PathBuf::from(folder.path("model"));
        std::fs::create_dir_all(model.join("adapter_init")).expect("a folder");
        for part in ["", "adapter_init"] {
            for entry in source.join(part).read_dir().expect("the fixture is there") {
                let path = entry.expect("an entry").path();
                if path.is_file() {
                    std::fs::copy(&path, model.join(part).join(path.file_name().expect("a name"))).expect("it is copied");
                }
            }
        }
        let expected = std::fs::read_to_string(source.join("expected.json")).expect("the fixture is whole");
        Self { folder, family, expected: serde_json::from_str(&expected).expect("JSON") }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path(&format!("model/{name}"))
    }

    fn rows(&self) -> Vec<Value> {
        let rows = std::fs::read_to_string(self.file("train.jsonl")).expect("rows");
        rows.lines().map(|line| serde_json::from_str(line).expect("a row is JSON")).collect()
    }

    /// The bundle of the folder with PEFT's adapter, trained as PEFT trained it.
    fn trained(&self) -> String {
        let bundle = self.folder.path("bundle");
        done(&["inject", &self.folder.path("model"), "--adapter", &self.file("adapter_init"), "-o", &bundle, "-q"]);
        let asked = &self.expected["hyperparameters"];
        let mut args: Vec<String> = ["train", &bundle, "--data", &self.file("train.jsonl"), "--no-shuffle"].map(str::to_owned).to_vec();
        args.extend(["--lr-scheduler", "constant", "--max-grad-norm", "0", "-q"].map(str::to_owned));
        for name in ["batch_size", "max_steps", "learning_rate", "weight_decay"] {
            args.extend([format!("--{}", name.replace('_', "-")), asked[name].to_string()]);
        }
        done(&args.iter().map(String::as_str).collect::<Vec<_>>());
        bundle
    }

    fn losses(&self, bundle: &str) -> Vec<f64> {
        let metrics = std::fs::read_to_string(Path::new(bundle).join("metrics.jsonl")).expect("a run");
        let losses: Vec<f64> =
            metrics.lines().map(|line| number(&serde_json::from_str::<Value>(line).expect("a line is JSON")["loss"])).collect();
        assert!(!losses.is_empty(), "{}", self.family);
        losses
    }

    /// The tokens that a model writes about each row's picture.
    fn written(&self, model: &str) -> Vec<Value> {
        self.told(model, "tokens")
    }

    fn told(&self, model: &str, what: &str) -> Vec<Value> {
        let about = |row: &Value| {
            let image = self.file(row["image"].as_str().expect("a picture"));
            let limit = self.expected["max_new_tokens"].to_string();
            let (prompt, more): (String, &[&str]) = match row["prompt"].as_str() {
                Some(prompt) => (prompt.to_owned(), &[]),
                None => (row["messages"][0]["content"].as_str().expect("a question").to_owned(), &["--chat"]),
            };
            let args = ["generate", model, "--image", &image, "--prompt", &prompt, "--max-new-tokens", &limit];
            json_of(&[&args[..], more].concat())[0][what].clone()
        };
        self.rows().iter().map(about).collect()
    }
}

/// The names of a file's inputs and outputs.
fn ports(file: &Path) -> Vec<String> {
    let graph = onnx::read(file).expect("a model");
    graph.data_inputs().chain(graph.outputs().iter().copied()).map(|id| graph.value_name(id).to_owned()).collect()
}

#[test]
fn a_model_of_pictures_and_texts_learns_as_in_peft_and_writes_as_torch() {
    for family in FAMILIES {
        let work = Work::of(family);
        let bundle = work.trained();
        let (found, wanted) = (work.losses(&bundle), work.expected["losses"].as_array().expect("a list"));
        let is_near = found.iter().zip(wanted).all(|(one, other)| (one - number(other)).abs() <= LOSS * number(other));
        assert!(found.len() == wanted.len() && is_near, "{family}: losses {found:?}, PEFT's are {wanted:?}");
        let metrics = json_of(&["eval", &bundle, "--data", &work.file("train.jsonl"), "--batch-size", "3"])["metrics"].clone();
        assert!(number(&metrics["loss"]) < found[0], "{family}: {metrics}");
        let wanted = work.expected["written"].as_array().expect("a list");
        assert_eq!(&work.written(&bundle), wanted, "the bundle of {family}");
        let limit = work.expected["max_new_tokens"].to_string();
        let answers = done(&["predict", &bundle, "--data", &work.file("train.jsonl"), "--max-new-tokens", &limit]);
        let answers: Vec<Value> =
            answers.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["prediction"].clone()).collect();
        assert_eq!(answers, work.told(&bundle, "completion"), "answers of {family}");
        let merged = work.folder.path("merged");
        let into = FILES.map(|file| work.file(file));
        let told = json_of(&[&["merge", &bundle, "-o", &merged, "--into"][..], &into.each_ref().map(String::as_str)].concat());
        assert!(number(&told["verified"]["relative"]) < 1e-4, "{family}: {told}");
        let modules: Vec<u64> = told["files"].as_array().expect("files").iter().filter_map(|file| file["modules"].as_u64()).collect();
        assert!(modules.iter().filter(|count| **count > 0).count() == 2, "{family}: the layers that write and those that see: {told}");
        for file in FILES {
            assert_eq!(ports(Path::new(&work.file(file))), ports(&Path::new(&merged).join(file)), "{file} of {family}");
        }
        assert_eq!(&work.written(&merged), wanted, "the merged files of {family}");
    }
}

#[test]
fn rows_without_a_picture_or_a_place_for_it_are_refused() {
    let work = Work::of("llava");
    let bundle = work.folder.path("bundle");
    done(&["inject", &work.folder.path("model"), "--method", "lora", "--target-modules", "q_proj", "-o", &bundle, "-q"]);
    for (row, expected) in [
        (json!({"prompt": "what is this ?", "completion": " nothing"}), "image"),
        (json!({"image": "0.png", "prompt": "what is this ?", "completion": " nothing"}), "expected one <image>, or 9 of them, found 0"),
        (json!({"image": "0.png", "prompt": "<image><image>what", "completion": " nothing"}), "found 2"),
        (json!({"image": "9.png", "prompt": "<image>what", "completion": " nothing"}), "9.png"),
        (json!({"image": ["0.png", "1.png"], "prompt": "<image>what", "completion": " nothing"}), "image"),
    ] {
        let data = work.folder.write("model/bad.jsonl", &format!("\n{row}\n"));
        refused(&["train", &bundle, "--data", &data, "--max-steps", "1"], &["line 2", expected, "hint: "]);
    }
    let data = work.file("train.jsonl");
    refused(&["train", &bundle, "--data", &data, "--max-length", "5"], &["a picture that would be cut", "hint: "]);
    refused(&["generate", &bundle, "--prompt", "<image>what is this ?"], &["pictures: expected one", "hint: "]);
}

#[test]
fn which_token_stands_for_pictures_is_asked_for_where_nothing_says_it() {
    let work = Work::of("llava");
    let config = work.file("config.json");
    let mut settings: Value = serde_json::from_str(&std::fs::read_to_string(&config).expect("a configuration")).expect("JSON");
    let settings = settings.as_object_mut().expect("an object");
    settings.remove("image_token_id");
    settings.remove("image_token_index");
    work.folder.write("model/config.json", &Value::Object(settings.clone()).to_string());
    let (model, table, eyes) = (work.file(FILES[0]), work.file(FILES[1]), work.file(FILES[2]));
    let bundle = work.folder.path("bundle");
    let inject = ["inject", &model, "--part", &table, "--part", &eyes, "--adapter", &work.file("adapter_init"), "-o", &bundle];
    refused(&inject, &["image_token_id", "join image_features=inputs_embeds@TOKEN"]);
    done(&[&inject[..], &["--join", "image_features=inputs_embeds@4", "--task", "causal-lm", "-q"]].concat());
    done(&["train", &bundle, "--data", &work.file("train.jsonl"), "--max-steps", "1", "--batch-size", "2", "--no-shuffle", "-q"]);
    let (found, wanted) = (work.losses(&bundle)[0], number(&work.expected["losses"][0]));
    assert!((found - wanted).abs() <= LOSS * wanted, "{found}, PEFT's is {wanted}");
    refused(
        &[
            "inject",
            &model,
            "--part",
            &eyes,
            "--join",
            "image_features=inputs_embeds@4",
            "--method",
            "lora",
            "-o",
            &work.folder.path("other"),
        ],
        &["inputs_embeds", "part embed_tokens.onnx"],
    );
}
