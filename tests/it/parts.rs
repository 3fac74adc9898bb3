//! Encoder-decoders in the files that optimum writes: trained as one, merged file by file, written with and without a cache, against what PEFT and
//! `PyTorch` do with the same weights (`scripts/fixtures/make_split_fixtures.py`).

use std::path::{Path, PathBuf};

use peft_onnx::onnx;
use serde_json::Value;

use crate::common::{Folder, done, json_of, number, refused, text};

/// Ours and `PyTorch`'s sums are in different orders; both are float32.
const LOSS: f64 = 5e-5;

/// The files of a split model, the one that reads the source first.
const FILES: [&str; 4] = ["encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx", "decoder_model_merged.onnx"];

struct Case {
    family: &'static str,
    task: &'static str,
}

const CASES: [Case; 4] = [
    Case { family: "t5", task: "seq2seq-lm" },
    Case { family: "bart", task: "seq2seq-lm" },
    Case { family: "whisper", task: "speech-seq2seq" },
    Case { family: "moonshine", task: "speech-seq2seq" },
];

/// A fixture in a folder of its own, and where things are written beside it.
struct Work {
    folder: Folder,
    case: &'static Case,
    expected: Value,
}

impl Work {
    fn of(case: &'static Case) -> Self {
        let source: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/split", case.family].iter().collect();
        let folder = Folder::empty();
        copy(&source, Path::new(&folder.path("model")));
        let expected = std::fs::read_to_string(source.join("expected.json")).expect("the fixture is whole");
        Self { folder, case, expected: serde_json::from_str(&expected).expect("JSON") }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path(&format!("model/{name}"))
    }

    /// The bundle of a decoder and its encoder with PEFT's adapter, trained as PEFT trained it, whose losses are the same.
    fn trained(&self, decoder: &str) -> String {
        let bundle = self.folder.path(&format!("{decoder}.lora"));
        let (model, encoder, adapter) = (self.file(decoder), self.file(FILES[0]), self.file("adapter_init"));
        done(&["inject", &model, "--part", &encoder, "--adapter", &adapter, "--task", self.case.task, "-o", &bundle, "-q"]);
        let asked = &self.expected["hyperparameters"];
        let mut args = ["train", &bundle, "--data", &self.file("train.jsonl"), "--no-shuffle"].map(str::to_owned).to_vec();
        args.extend(["--lr-scheduler", "constant", "--max-grad-norm", "0", "-q"].map(str::to_owned));
        for name in ["batch_size", "max_steps", "learning_rate", "weight_decay"] {
            args.extend([format!("--{}", name.replace('_', "-")), asked[name].to_string()]);
        }
        done(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let metrics = std::fs::read_to_string(Path::new(&bundle).join("metrics.jsonl")).expect("a run");
        let found: Vec<f64> =
            metrics.lines().map(|line| number(&serde_json::from_str::<Value>(line).expect("a line is JSON")["loss"])).collect();
        let wanted: Vec<f64> = self.expected["losses"].as_array().expect("a list").iter().map(number).collect();
        let is_near = found.len() == wanted.len() && found.iter().zip(&wanted).all(|(one, other)| (one - other).abs() <= LOSS * other);
        assert!(is_near, "{} of {}: losses {found:?}, PEFT's are {wanted:?}", decoder, self.case.family);
        bundle
    }

    /// What a model writes for each row, token by token.
    fn written(&self, model: &[&str]) -> Vec<Value> {
        let rows = std::fs::read_to_string(self.file("train.jsonl")).expect("rows");
        let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("a row is JSON")).collect();
        let mut args: Vec<String> = [&["generate"], model].concat().into_iter().map(str::to_owned).collect();
        for row in &rows {
            match row["audio"].as_str() {
                Some(sound) => args.extend(["--audio".to_owned(), self.file(sound)]),
                None => args.extend(["--prompt".to_owned(), row["prompt"].as_str().expect("a prompt").to_owned()]),
            }
        }
        args.extend(["--max-new-tokens".to_owned(), self.expected["max_new_tokens"].to_string()]);
        let answers = json_of(&args.iter().map(String::as_str).collect::<Vec<_>>());
        answers.as_array().expect("an answer for each row").iter().map(|answer| answer["tokens"].clone()).collect()
    }

    fn writes_as_torch(&self, what: &str, model: &[&str]) {
        let wanted = self.expected["written"].as_array().expect("a list");
        assert_eq!(&self.written(model), wanted, "{} of {}", what, self.case.family);
    }

    /// A folder with some of the merged files, and what lies beside them.
    fn with(&self, name: &str, merged: &str, files: &[&str]) -> String {
        let folder = self.folder.path(name);
        copy(Path::new(merged), Path::new(&folder));
        for file in FILES.iter().filter(|file| !files.contains(file)) {
            std::fs::remove_file(Path::new(&folder).join(file)).expect("a merged file");
        }
        folder
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in from.read_dir().expect("the fixture is there") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &target) } else { std::fs::copy(&path, &target).map(drop).expect("it is copied") }
    }
}

#[test]
fn the_last_token_that_may_come_is_the_one_that_the_configuration_forces() {
    let work = Work::of(&CASES[1]);
    let written = || work.written(&[&work.file(FILES[1]), "--part", &work.file(FILES[0])]);
    let free = written();
    let config = std::fs::read_to_string(work.file("config.json")).expect("the fixture is whole");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["forced_eos_token_id"] = config["eos_token_id"].clone();
    std::fs::write(work.file("config.json"), config.to_string()).expect("it is written");
    let most = usize::try_from(work.expected["max_new_tokens"].as_u64().expect("a number")).expect("a small one");
    let goes_on = |text: &Value| text.as_array().is_some_and(|text| text.len() == most);
    assert!(free.iter().any(goes_on), "a text goes on: {free:?}");
    // The end stands in the last place, and is not told.
    let cut = |text: &Value| text.as_array().expect("tokens").iter().take(most - 1).cloned().collect::<Value>();
    assert_eq!(written(), free.iter().map(cut).collect::<Vec<_>>());
}

#[test]
fn nothing_is_written_with_a_decoder_without_its_encoder() {
    for case in &CASES {
        let work = Work::of(case);
        for decoder in &FILES[1..] {
            let model = work.file(decoder);
            for command in [&["generate", &model, "--prompt", "a"][..], &["chat", &model]] {
                refused(command, &["encoder outside this graph", "--part encoder_model.onnx"]);
            }
        }
    }
}

/// The names of a file's inputs and outputs.
fn ports(file: &Path) -> Vec<String> {
    let graph = onnx::read(file).expect("a model");
    graph.data_inputs().chain(graph.outputs().iter().copied()).map(|id| graph.value_name(id).to_owned()).collect()
}

#[test]
fn a_model_in_several_files_learns_as_in_peft_and_each_merged_file_writes_as_torch() {
    for case in &CASES {
        let work = Work::of(case);
        let bundle = work.trained("decoder_model.onnx");
        let data = work.file("train.jsonl");
        let metrics = json_of(&["eval", &bundle, "--data", &data])["metrics"].clone();
        assert!(number(&metrics["loss"]) < number(&work.expected["losses"][0]), "{}: {metrics}", case.family);
        work.writes_as_torch("the bundle", &[&bundle]);
        let merged = work.folder.path("merged");
        let into = FILES.map(|file| work.file(file));
        let told = json_of(&[&["merge", &bundle, "-o", &merged, "--into"][..], &into.each_ref().map(String::as_str)].concat());
        assert!(number(&told["verified"]["relative"]) < 1e-4, "{}: {told}", case.family);
        for file in FILES {
            let (before, after) = (ports(Path::new(&work.file(file))), ports(&Path::new(&merged).join(file)));
            assert_eq!(before, after, "{file} of {}", case.family);
        }
        let file = |name: &str| text(&Path::new(&merged).join(name)).to_owned();
        work.writes_as_torch("the files without a cache", &[&file(FILES[1]), "--part", &file(FILES[0])]);
        work.writes_as_torch("the merged decoder", &[&merged]);
        work.writes_as_torch("the decoder with past", &[&work.with("past", &merged, &FILES[..3])]);
        work.writes_as_torch("the decoder without past alone", &[&work.with("plain", &merged, &FILES[..2])]);
        work.writes_as_torch("the merged decoder alone", &[&work.with("one", &merged, &[FILES[0], FILES[3]])]);
    }
}

#[test]
fn what_is_learnt_from_sounds_is_answered_for_sounds_whatever_the_task_is_called() {
    let work = Work::of(&CASES[2]);
    let (model, encoder, data) = (work.file(FILES[1]), work.file(FILES[0]), work.file("train.jsonl"));
    let answers = ["speech-seq2seq", "seq2seq-lm"].map(|task| {
        let bundle = work.folder.path(task);
        done(&["inject", &model, "--part", &encoder, "--method", "lora", "--task", task, "-o", &bundle, "-q"]);
        done(&["predict", &bundle, "--data", &data, "--max-new-tokens", "6"])
    });
    assert!(answers[0].lines().count() == 4 && answers[0] == answers[1], "{answers:?}");
}

#[test]
fn a_decoder_with_both_branches_learns_the_same() {
    for case in &CASES {
        let work = Work::of(case);
        let bundle = work.trained("decoder_model_merged.onnx");
        work.writes_as_torch("the bundle of both branches", &[&bundle]);
        let merged = work.folder.path("merged");
        done(&["merge", &bundle, "-o", &format!("{merged}/"), "-q"]);
        work.writes_as_torch("the merged files of both branches", &[&merged]);
    }
}

#[test]
fn files_that_lack_modules_of_the_adapter_are_refused() {
    let work = Work::of(&CASES[1]);
    let bundle = work.trained("decoder_model.onnx");
    let merged = work.folder.path("merged");
    refused(
        &["merge", &bundle, "-o", &merged, "--into", &work.file(FILES[1])],
        &["modules of the adapter are in none of these files", "model.encoder.layers.0"],
    );
    assert!(!Path::new(&merged).exists(), "nothing is half written");
    let other = Work::of(&CASES[0]);
    refused(
        &["merge", &bundle, "-o", &merged, "--into", &other.file(FILES[0]), &work.file(FILES[0]), &work.file(FILES[1])],
        &["two files are called encoder_model.onnx"],
    );
}

#[test]
fn a_folder_of_an_encoder_and_its_decoders_is_tuned_in_one_command() {
    for case in &CASES {
        let work = Work::of(case);
        let (model, data, out) = (work.folder.path("model"), work.file("train.jsonl"), work.folder.path("tuned"));
        let told = json_of(&["finetune", &model, "--data", &data, "-o", &out, "--max-steps", "2", "--batch-size", "2"]);
        assert_eq!(told["task"], case.task, "{told}");
        let mut files: Vec<String> = told["merged"]["files"]
            .as_array()
            .expect("files")
            .iter()
            .map(|file| file["file"].as_str().expect("a name").to_owned())
            .collect();
        files.sort_unstable();
        let mut wanted: Vec<String> = FILES.iter().filter(|name| Path::new(&work.file(name)).exists()).map(ToString::to_string).collect();
        wanted.sort_unstable();
        assert_eq!(files, wanted, "{}", case.family);
        assert!(told["model"] == out.as_str() && Path::new(&out).join("config.yaml").is_file(), "{told}");
        // All files of the folder write alike, with a cache and without.
        let without = work.with("without", &out, &[FILES[0], FILES[1]]);
        assert_eq!(work.written(&[&out]), work.written(&[&without]), "{}", case.family);
        // It is measured and answers under its own name, as its bundle does.
        let [own, of_bundle] =
            [&out, &told["bundle"].as_str().expect("a path").to_owned()].map(|model| json_of(&["eval", model, "--data", &data]));
        assert!((number(&own["loss"]) - number(&of_bundle["loss"])).abs() < LOSS * number(&own["loss"]), "{own} {of_bundle}");
        assert_eq!(own["metrics"]["wer"], of_bundle["metrics"]["wer"]);
        let answers = json_of(&["predict", &out, "--data", &data, "--max-new-tokens", "4"]);
        assert!(
            answers.as_array().is_some_and(|rows| !rows.is_empty() && rows.iter().all(|row| row["prediction"].is_string())),
            "{answers}"
        );
    }
}

#[test]
fn files_of_a_model_lie_where_the_layout_has_them() {
    let work = Work::of(&CASES[0]);
    let (model, data, bundle) = (work.folder.path("model"), work.file("train.jsonl"), work.folder.path("tuned.lora"));
    done(&["finetune", &model, "--data", &data, "-o", &work.folder.path("tuned"), "--max-steps", "1", "--batch-size", "2", "-q"]);
    let site = work.folder.path("site");
    done(&["merge", &bundle, "-o", &site, "--layout", "transformers.js", "-q"]);
    let there = |folder: &str, file: &str| Path::new(folder).join(file).is_file();
    assert!(there(&site, "onnx/encoder_model.onnx") && there(&site, "tokenizer.json") && !there(&site, "encoder_model.onnx"));
    let config: Value = serde_json::from_slice(&std::fs::read(Path::new(&site).join("config.json")).expect("a file")).expect("JSON");
    assert_eq!(config["transformers.js_config"]["dtype"], "fp32");
    assert_eq!(work.written(&[&site]), work.written(&[&work.folder.path("tuned")]));
    // A folder of that form becomes one of that form.
    let again = work.folder.path("again");
    done(&["finetune", &site, "--data", &data, "-o", &again, "--max-steps", "1", "--batch-size", "2", "-q"]);
    assert!(there(&again, "onnx/decoder_model.onnx") && there(&again, "config.json") && there(&again, "tokenizer.json"));
    refused(&["merge", &bundle, "-o", &work.folder.path("no"), "--layout", "genai"], &["the layout genai of a model in several files"]);
}
