//! Adapters that Hugging Face PEFT wrote are read and written again without loss.

use std::path::{Path, PathBuf};

use peft_onnx::peft::{self, safetensors};

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

fn json(path: &Path) -> serde_json::Map<String, serde_json::Value> {
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
        let [before, after] = [folder.as_path(), copy.path()].map(|f| safetensors::read(&f.join(peft::WEIGHTS_FILE)).expect("tensors"));
        assert_eq!(before, after, "{}", folder.display());
        assert_eq!(offsets.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());

        let [mut before, mut after] = [folder.as_path(), copy.path()].map(|f| json(&f.join(peft::CONFIG_FILE)));
        for settings in [&mut before, &mut after] {
            settings.remove("inference_mode");
            for list in settings.values_mut().filter_map(serde_json::Value::as_array_mut) {
                list.sort_by_key(ToString::to_string);
                list.dedup();
            }
        }
        assert_eq!(before, after, "{}", folder.display());
    }
}
