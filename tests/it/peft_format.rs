//! Adapters that Hugging Face PEFT wrote are read and written again without loss, whatever form its versions give them.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use indexmap::IndexMap;
use peft_onnx::Model;
use peft_onnx::ir::{DType, Tensor};
use peft_onnx::{peft, safetensors};
use serde_json::json;

/// The folders that PEFT wrote for the models of the tests.
fn folders() -> Vec<PathBuf> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures");
    let inside = |folder: &Path| -> Vec<PathBuf> {
        let entries = folder.read_dir().into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        paths.sort();
        paths
    };
    let cases = inside(&models).into_iter().flat_map(|model| inside(&model.join("cases")));
    cases.flat_map(|case| ["adapter_init", "adapter_final"].map(|name| case.join(name))).filter(|folder| folder.is_dir()).collect()
}

fn settings(path: &Path) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn every_setting_and_tensor_survives() {
    let folders = folders();
    assert!(folders.len() >= 2, "no adapters in models/fixtures");
    for folder in folders {
        let files = peft::read(&folder).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(files.keys().len(), files.tensors.len(), "{}: every name is understood", folder.display());

        let copy = tempfile::tempdir().expect("a folder");
        let offsets = peft::write(copy.path(), &files).unwrap_or_else(|error| panic!("{error}"));
        let [mut before, after] = [folder.as_path(), copy.path()].map(|f| safetensors::read(&f.join(peft::WEIGHTS_FILE)).expect("tensors"));
        // A module to which AdaLoRA gave no rank has tensors without elements.
        before.retain(|_, tensor| tensor.shape().iter().all(|length| *length > 0));
        assert_eq!(before, after, "{}", folder.display());
        assert_eq!(offsets.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());

        let [mut before, mut after] = [folder.as_path(), copy.path()].map(|f| settings(&f.join(peft::CONFIG_FILE)));
        for settings in [&mut before, &mut after] {
            settings.remove("inference_mode");
            // PEFT writes a scaling of 50.0 as it was given; 50 is the same number.
            for number in settings.values_mut().filter(|value| value.is_number()) {
                *number = number.as_f64().into();
            }
            for list in settings.values_mut().filter_map(serde_json::Value::as_array_mut) {
                list.sort_by_key(ToString::to_string);
                list.dedup();
            }
            // A list alone is one of the rows of `embed_tokens`, as PEFT reads it.
            if let Some(rows) = settings.get_mut("trainable_token_indices").filter(|rows| rows.is_array()) {
                *rows = serde_json::json!({"embed_tokens": rows.take()});
            }
            if let Some(rows) = settings.get_mut("trainable_token_indices").and_then(|all| all["embed_tokens"].as_array_mut()) {
                rows.sort_by_key(ToString::to_string);
            }
        }
        assert_eq!(before, after, "{}", folder.display());
    }
}

/// An adapter that is being changed, and the folder that it goes into.
struct Changed<'a> {
    folder: &'a Path,
    config: serde_json::Map<String, serde_json::Value>,
    tensors: IndexMap<String, Tensor>,
}

impl Changed<'_> {
    /// Settings in place of those of the same names; `null` takes one away.
    fn set(&mut self, settings: &serde_json::Value) {
        for (name, value) in settings.as_object().cloned().unwrap_or_default() {
            if value.is_null() {
                self.config.shift_remove(&name)
            } else {
                self.config.insert(name, value)
            };
        }
    }

    fn rename(&mut self, change: impl Fn(&str) -> String) {
        self.tensors = std::mem::take(&mut self.tensors).into_iter().map(|(name, tensor)| (change(&name), tensor)).collect();
    }

    fn write(&self, inner: &str) {
        let folder = self.folder.join(inner);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(peft::CONFIG_FILE), serde_json::Value::Object(self.config.clone()).to_string()).expect("it is written");
        safetensors::write(&folder.join(peft::WEIGHTS_FILE), &self.tensors).expect("it is written");
    }
}

/// What is done to an adapter, the subfolder that it is put into, and how it is done.
type Form = (&'static str, &'static str, fn(&mut Changed<'_>));

/// Forms in which versions of PEFT, and people, save one and the same adapter.
const FORMS: &[Form] = &[
    ("as it is", "", |_| {}),
    ("one that is not called default, in a subfolder", "polite", |_| {}),
    ("saved with a class of its own instead of a task", "", |at| {
        at.set(&json!({"task_type": null, "auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers"}}));
    }),
    ("settings of a newer version, at their defaults", "", |at| {
        at.set(&json!({"from_the_future": null, "use_qalora": false, "eva_config": null, "peft_version": "9.0"}));
        at.config.insert("another".into(), serde_json::Value::Null);
    }),
    ("the few settings of the first versions", "", |at| {
        at.config.retain(|name, _| {
            ["peft_type", "r", "lora_alpha", "target_modules", "task_type", "base_model_name_or_path"].contains(&&**name)
        });
    }),
    ("no targets: those of the architecture", "", |at| at.set(&json!({"target_modules": null}))),
    ("targets as a regular expression", "", |at| at.set(&json!({"target_modules": ".*\\.(q|v)_proj"}))),
    ("a dump of the model, with the adapter's name", "", |at| at.rename(|name| name.replace(".weight", ".default.weight"))),
    ("a compiled model's", "", |at| at.rename(|name| name.replace("base_model.model.", "base_model.model._orig_mod."))),
    ("one of DDP", "", |at| at.rename(|name| format!("module.{name}"))),
    ("one of a model in DDP", "", |at| at.rename(|name| name.replace("base_model.model.", "base_model.model.module."))),
    ("one of DeepSpeed", "", |at| at.rename(|name| format!("module.{}", name.replace(".weight", ".default.weight")))),
    ("one of FSDP", "", |at| {
        at.rename(|name| format!("_fsdp_wrapped_module.{}", name.replace(".self_attn", "._fsdp_wrapped_module.self_attn")));
    }),
    ("one with checkpoints of activations", "", |at| at.rename(|name| name.replace(".self_attn", "._checkpoint_wrapped_module.self_attn"))),
    ("one of a layer in DDP", "", |at| at.rename(|name| name.replace(".self_attn", ".module.self_attn"))),
    ("wrapped by PEFT twice", "", |at| at.rename(|name| format!("base_model.model.{name}"))),
    ("of a model of texts and images", "", |at| at.rename(|name| name.replace(".layers", ".language_model.layers"))),
    ("with the tying of weights that nothing adapts", "", |at| at.set(&json!({"ensure_weight_tying": true}))),
    ("a wrapped model's", "", |at| at.rename(|name| name.replace("base_model.model.", "base_model.model.wrapper."))),
];

fn inject(folder: &Path, bundle: &Path) -> std::process::Output {
    inject_and_tell(folder, bundle, "--json")
}

fn inject_and_tell(folder: &Path, bundle: &Path, how: &str) -> std::process::Output {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures/llama/torchscript.onnx");
    let args: [&Path; 7] = [Path::new("inject"), &model, Path::new(how), Path::new("--adapter"), folder, Path::new("-o"), bundle];
    Command::cargo_bin("peft-onnx").expect("the binary is built for its tests").args(args).output().expect("the binary starts")
}

#[test]
fn every_form_of_a_folder_gives_the_same_adapter() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures/llama/cases/lora_qv/adapter_final");
    let original = safetensors::read(&source.join(peft::WEIGHTS_FILE)).expect("tensors");
    for (what, inner, change) in FORMS {
        let work = tempfile::tempdir().expect("a folder");
        let (folder, bundle) = (work.path().join("adapter"), work.path().join("bundle"));
        let mut changed = Changed { folder: &folder, config: settings(&source.join(peft::CONFIG_FILE)), tensors: original.clone() };
        change(&mut changed);
        changed.write(inner);
        let output = inject(&folder, &bundle);
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(told["matched"], original.len(), "{what}");
        let written = safetensors::read(&bundle.join(peft::WEIGHTS_FILE)).expect("tensors");
        assert!(written.values().eq(original.values()), "{what}");
        let is_of_another_model = [".wrapper.", ".language_model."].iter().any(|part| written.keys().any(|name| name.contains(part)));
        assert!(is_of_another_model || written.keys().eq(original.keys()), "{what}: {:?}", written.keys().next());
    }
}

/// What a folder cannot be taken for, how it came to be, and what is said.
type Refused = (&'static str, fn(&mut Changed<'_>), &'static [&'static str]);

const REFUSED: &[Refused] = &[
    (
        "tensors that ZeRO-3 did not gather",
        |at| {
            let first = at.tensors.keys().next().expect("a tensor").clone();
            at.tensors.insert(first, Tensor::from_f32(&[0], &[]));
        },
        &["q_proj.lora_A.weight: a tensor without elements", "stage3_gather_16bit_weights_on_model_save"],
    ),
    ("a rank that is not declared", |at| at.set(&json!({"r": 3})), &["rank: expected 3 (r in", "\"rank_pattern\": {\"model.layers"]),
    (
        "a table with more rows of tokens",
        |at| {
            let table = Tensor::from_f32(&[260, 2], &[0.5; 520]);
            at.tensors.insert("base_model.model.model.embed_tokens.weight".into(), table);
        },
        &["embed_tokens.weight: rows of tokens: expected", "found 260", "resize_token_embeddings(260)"],
    ),
];

#[test]
fn what_is_wrong_with_a_folder_is_said() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures/llama/cases/lora_qv/adapter_final");
    let original = safetensors::read(&source.join(peft::WEIGHTS_FILE)).expect("tensors");
    for (what, change, words) in REFUSED {
        let work = tempfile::tempdir().expect("a folder");
        let (folder, bundle) = (work.path().join("adapter"), work.path().join("bundle"));
        let mut changed = Changed { folder: &folder, config: settings(&source.join(peft::CONFIG_FILE)), tensors: original.clone() };
        change(&mut changed);
        changed.write("");
        let output = inject_and_tell(&folder, &bundle, "--quiet");
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        let said = said.replace("\\\"", "\"");
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{what}: {said}");
    }
}

/// The token table that a model's file has.
fn token_table(model: &Path) -> Tensor {
    let model = Model::open(model).expect("a model");
    let place = model.anatomy().token_embedding.expect("tokens are looked up");
    model.graph().initializer(model.anatomy().embeddings[place].weight).expect("it is stored").clone()
}

#[test]
fn a_table_beside_an_adapter_is_the_bases_own_or_takes_its_place() {
    const TABLE: &str = "base_model.model.model.embed_tokens.weight";
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures");
    let source = fixtures.join("llama/cases/lora_qv/adapter_final");
    let original = safetensors::read(&source.join(peft::WEIGHTS_FILE)).expect("tensors");
    let own = token_table(&fixtures.join("llama/torchscript.onnx"));
    let other: Vec<f32> = own.to_f32().expect("floats").iter().map(|number| number + 1.0).collect();
    for table in [own.clone(), Tensor::from_f32(own.shape(), &other)] {
        let work = tempfile::tempdir().expect("a folder");
        let (folder, bundle, merged) = (work.path().join("adapter"), work.path().join("bundle"), work.path().join("merged.onnx"));
        let mut tensors = original.clone();
        tensors.insert(TABLE.into(), table.clone());
        Changed { folder: &folder, config: settings(&source.join(peft::CONFIG_FILE)), tensors }.write("");
        let output = inject(&folder, &bundle);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let written = safetensors::read(&bundle.join(peft::WEIGHTS_FILE)).expect("tensors");
        assert_eq!(written.contains_key(TABLE), table != own, "what the base has is not written again");
        let merge = [Path::new("merge"), &bundle, Path::new("-o"), &merged];
        assert!(Command::cargo_bin("peft-onnx").expect("the binary").args(merge).output().expect("it starts").status.success());
        assert!(token_table(&merged) == table);
    }
}

#[test]
fn adapters_of_half_precision_are_read_in_float32() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures/llama/cases/lora_qv/adapter_final");
    let original = safetensors::read(&source.join(peft::WEIGHTS_FILE)).expect("tensors");
    for (dtype, precision) in [(DType::F16, 1e-3_f32), (DType::BF16, 1e-2)] {
        let work = tempfile::tempdir().expect("a folder");
        let (folder, bundle) = (work.path().join("adapter"), work.path().join("bundle"));
        let narrow = |tensor: &Tensor| {
            let numbers: Vec<f64> = tensor.to_f32().expect("floats").iter().map(|&number| number.into()).collect();
            Tensor::from_f64(dtype, tensor.shape(), &numbers).expect("a tensor")
        };
        let tensors = original.iter().map(|(name, tensor)| (name.clone(), narrow(tensor))).collect();
        Changed { folder: &folder, config: settings(&source.join(peft::CONFIG_FILE)), tensors }.write("");
        let output = inject(&folder, &bundle);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let written = safetensors::read(&bundle.join(peft::WEIGHTS_FILE)).expect("tensors");
        for (name, tensor) in &original {
            let (found, wanted) = (written[name].to_f32().expect("floats"), tensor.to_f32().expect("floats"));
            assert_eq!(written[name].dtype(), DType::F32);
            assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() <= precision * b.abs() + 1e-7), "{dtype} {name}");
        }
    }
}
