//! What holds for every method on every model: a fresh LoRA changes nothing, a merged model computes what the adapter does, and writing with a cache is
//! writing without one.

use std::path::{Path, PathBuf};

use crate::common::{done, json_of, text};
use peft_onnx::data::{Specials, Tokenizer};
use peft_onnx::evaluate::verify::{self, Samples};
use peft_onnx::generate::{Generator, Limits, Sampler, Sampling};
use peft_onnx::ort::{Device, Options, Purpose, Runtime, Session, Settings};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures")
}

/// Every export of the fixture models that have a head: a body gets one with its adapter, and then has other outputs. Attention that holds its
/// projections is another operator where an adapter is beside them, which sums in another order: those files are left out.
fn exports() -> Vec<PathBuf> {
    let inside = |folder: &Path| -> Vec<PathBuf> {
        let entries = folder.read_dir().into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        paths.sort();
        paths
    };
    let models = inside(&fixtures()).into_iter().filter(|family| !family.ends_with("bert_encoder")).flat_map(|family| inside(&family));
    models.filter(|path| path.extension().is_some_and(|extension| extension == "onnx") && !path.ends_with("fused.onnx")).collect()
}

/// The option that names the task of a model whose graph does not tell it.
fn task(model: &Path) -> &'static [&'static str] {
    if text(model).contains("bert_masked") { &["--task", "masked-lm"] } else { &[] }
}

/// The outputs of a model on the sample batches, bit for bit, and their names. ONNX Runtime's fusions compute in another order, and find other patterns
/// beside a branch; those that training graphs do without are left out here, too.
fn bits(runtime: &Runtime, model: &Path, samples: &Samples) -> (Vec<String>, Vec<u32>) {
    let settings = Settings { purpose: Purpose::Training, ..Settings::default() };
    let mut session = Session::open(runtime, model, &settings).expect("a model that runs");
    let names: Vec<String> = session.outputs().iter().map(|port| port.name.clone()).collect();
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut found = vec![];
    for batch in verify::sample_batches(&session, samples).expect("batches") {
        for output in session.run(&batch.feeds(), &wanted).expect("a run") {
            // Zero has two signs, of which a sum with zero keeps one.
            found.extend(output.to_f32().expect("floats").iter().map(|number| (number + 0.0).to_bits()));
        }
    }
    (names, found)
}

#[test]
fn a_fresh_lora_changes_nothing_bit_for_bit() {
    let runtime = Runtime::start(&Options::default()).expect("there is a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let models = exports();
    assert!(models.len() > 10, "only {} exports", models.len());
    let mut wrong = vec![];
    for (number, model) in models.iter().enumerate() {
        let bundle = folder.path().join(number.to_string());
        done(&[&["inject", text(model), "--method", "lora", "-o", text(&bundle)][..], task(model)].concat());
        let samples = Samples::of_model(&peft_onnx::Model::open(model).expect("a model"));
        let [(before, first), (after, second)] = [model, &bundle.join("inference.onnx")].map(|model| bits(runtime, model, &samples));
        assert!(before == after && !first.is_empty());
        if first != second {
            wrong.push(model.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Methods with the options that make them small.
const METHODS: &[&[&str]] = &[
    &["lora"],
    &["lora", "--use-dora", "--rank", "3"],
    &["lora", "--init-lora-weights", "pissa", "--rank", "2"],
    &["lora", "--bias", "all", "--dropout", "0.1"],
    &["ia3"],
    &["ln_tuning"],
    &["vera", "--rank", "4"],
    &["loha", "--rank", "2"],
    &["lokr", "--rank", "2"],
    &["trainable_tokens", "--trainable-token-indices", "5,6,7,8,9,10,11,12"],
    &["prompt_tuning", "--num-virtual-tokens", "3"],
    &["p_tuning", "--num-virtual-tokens", "3", "--encoder-hidden-size", "8", "--encoder-reparameterization-type", "lstm"],
    &["prefix_tuning", "--num-virtual-tokens", "3", "--encoder-hidden-size", "8"],
    &["p_tuning_v2", "--num-virtual-tokens", "3"],
];

#[test]
fn a_merged_model_computes_what_the_adapter_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = [
        ("llama/dynamo_external.onnx", "llama/cases/lora_qv"),
        ("gpt2/torchscript.onnx", "gpt2/cases/lora_c_attn"),
        ("bert_classifier/dynamo.onnx", "bert_classifier/cases/lora_classifier"),
        // Its `pre_classifier` is saved as a whole since its name ends with that of the head.
        ("distilbert_classifier/dynamo.onnx", "distilbert_classifier/cases/lora_classifier"),
    ];
    for (number, (model, case)) in models.iter().enumerate() {
        for (method, options) in METHODS.iter().enumerate() {
            let (bundle, merged) =
                (folder.path().join(format!("{number}.{method}")), folder.path().join(format!("{number}.{method}.onnx")));
            let (model, data) = (fixtures().join(model), fixtures().join(case).join("train.jsonl"));
            done(&[&["inject", text(&model), "-o", text(&bundle), "--method"][..], options].concat());
            let training = ["--batch-size", "3", "--max-steps", "2", "--learning-rate", "0.02", "--quiet"];
            done(&[&["train", text(&bundle), "--data", text(&data)][..], &training].concat());
            let merged: Value = json_of(&["merge", text(&bundle), "-o", text(&merged)]);
            let relative = merged["verified"]["relative"].as_f64().expect("a number");
            assert!(relative < 1e-5, "{} on {}: {relative}", options.join(" "), model.display());
        }
    }
}

#[test]
fn writing_with_a_cache_is_writing_without() {
    let runtime = Runtime::start(&Options::default()).expect("there is a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits { new_tokens: 12, stop: vec![], positions: None };
    for case in ["prompt", "p_tuning", "p_tuning_lstm", "prefix", "lora_qv", "ia3"] {
        let adapter = fixtures().join("llama/cases").join(case).join("adapter_final");
        let mut texts = vec![];
        for export in ["optimum_cache", "torchscript", "optimum_merged"] {
            let model = fixtures().join(format!("llama/{export}.onnx"));
            let (bundle, merged) = (folder.path().join(format!("{case}.{export}")), folder.path().join(format!("{case}.{export}.onnx")));
            done(&["inject", text(&model), "--adapter", text(&adapter), "-o", text(&bundle)]);
            let said = crate::common::peft_onnx()
                .args(["merge", text(&bundle), "-o", text(&merged), "--no-verify"])
                .output()
                .expect("the binary starts");
            let said = String::from_utf8_lossy(&said.stderr);
            assert!(!said.contains("has no cache"), "{case} of {export}: {said}");
            for graph in [&merged, &bundle.join("inference.onnx")] {
                let mut generator = Generator::open(runtime, graph, Device::Cpu).expect("a model that writes");
                // A merged export has a branch with a cache and one without; an adapter that stays in the graph is put into both.
                assert_eq!(generator.has_cache(), export != "torchscript", "{case} {export}");
                let write = |prompt: &[i32]| {
                    let mut greedy = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() }).expect("a sampler");
                    generator.generate(prompt, &limits, &mut greedy, &mut |_| Ok(())).expect("tokens")
                };
                texts.push([&[5][..], &[7, 30, 12, 9], &[40, 8, 21, 33, 6, 18, 50]].map(write));
            }
        }
        assert!(texts.iter().all(|text| *text == texts[0]) && texts[0][0].len() == 12, "{case}: {texts:?}");
    }
}

#[test]
fn a_prefix_that_starts_from_a_text_is_the_text_in_front() {
    let runtime = Runtime::start(&Options::default()).expect("there is a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let model = fixtures().join("../tiny-lm/model.onnx");
    let tokenizer = Tokenizer::beside(&model).expect("it is read").expect("it is there");
    let tokens = |text: &str| tokenizer.encode(text, Specials::AsWritten).expect("tokens").ids;
    let (opening, prompt) = ("It is a truth universally acknowledged, that a single man", " in possession of a");
    let written = |graph: &Path, prompt: &[i32]| {
        let limits = Limits { new_tokens: 10, stop: vec![], positions: None };
        let mut greedy = Sampler::new(Sampling::default()).expect("a sampler");
        let mut generator = Generator::open(runtime, graph, Device::Cpu).expect("a model that writes");
        generator.generate(prompt, &limits, &mut greedy, &mut |_| Ok(())).expect("tokens")
    };
    let whole = written(&model, &[tokens(opening), tokens(prompt)].concat());
    assert_ne!(whole, written(&model, &tokens(prompt)), "the opening matters");
    let count = tokens(opening).len().to_string();
    for options in [&["p_tuning_v2"][..], &["prefix_tuning", "--encoder-hidden-size", "48"]] {
        let (bundle, merged) = (folder.path().join(options[0]), folder.path().join(format!("{}.onnx", options[0])));
        let start = ["--num-virtual-tokens", &count, "--prompt-init-text", opening, "-o", text(&bundle), "--method"];
        done(&[&["inject", text(&model)][..], &start, options].concat());
        done(&["merge", text(&bundle), "-o", text(&merged), "--no-verify"]);
        assert_eq!(written(&merged, &tokens(prompt)), whole, "{options:?}");
    }
}
