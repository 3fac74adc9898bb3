//! An adapter's folder.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use indexmap::IndexMap;

use super::config::AdapterConfig;
use super::names::{CONFIG_FILE, ENCODER_FILE, FACTORS_FILE, WEIGHTS_FILE};
use super::{weights, written};
use crate::adapter::Method;
use crate::adapter::config::{Scope, Selection, Targets};
use crate::adapter::methods::{self, trainable_tokens::TokensConfig};
use crate::adapter::params::key::{Family, Key};
use crate::adapter::targets::SelectionMatcher;
use crate::error::{Context, Error, Place, Result};
use crate::ir::{DType, Tensor};
use crate::{files, safetensors};

/// What an adapter's folder holds.
#[derive(Clone, Debug)]
pub struct AdapterFiles {
    /// The configuration.
    pub config: AdapterConfig,
    /// The tensors under PEFT's names, in their order; float32, whatever they were in the file.
    pub tensors: IndexMap<String, Tensor>,
    /// Trained parameters from which `tensors` is computed, if the folder has them: the network that computes a prompt, or LoRA's factors.
    pub beside: Option<IndexMap<String, Tensor>>,
    /// The types of tensors that were not float32 in the file.
    pub stored: IndexMap<String, DType>,
}

impl AdapterFiles {
    /// A tensor by its name, of the adapter or of the network that computes its prompt.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name).or_else(|| self.beside.as_ref()?.get(name))
    }

    /// An adapter of the bytes of its files: `adapter_config.json` and `adapter_model.safetensors`, and, where a method keeps parameters beside
    /// them, that file.
    ///
    /// # Errors
    /// As [`read`].
    pub fn from_bytes(config: &[u8], weights: &Bytes, beside: Option<&Bytes>) -> Result<Self> {
        let config = AdapterConfig::from_json(config).in_file(CONFIG_FILE)?;
        let file = file_beside(&config.method);
        let raw = safetensors::from_bytes(weights).in_file(WEIGHTS_FILE)?;
        let beside = beside.map(|bytes| safetensors::from_bytes(bytes).in_file(file)).transpose()?;
        Read { raw, beside }.settled(config, [CONFIG_FILE, WEIGHTS_FILE, file].map(Path::new))
    }

    /// The files of the adapter by their names, as [`write()`] writes them.
    ///
    /// # Errors
    /// A tensor of a type that the safetensors format does not have.
    pub fn to_bytes(&self) -> Result<IndexMap<&'static str, Vec<u8>>> {
        let mut files = IndexMap::from([
            (CONFIG_FILE, self.config.to_json().into_bytes()),
            (WEIGHTS_FILE, safetensors::to_bytes(&self.tensors).in_file(WEIGHTS_FILE)?),
        ]);
        if let Some(beside) = &self.beside {
            let file = file_beside(&self.config.method);
            files.insert(file, safetensors::to_bytes(beside).in_file(file)?);
        }
        Ok(files)
    }

    /// The names of the tensors, read.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        let family = family(&self.config);
        self.tensors.keys().filter_map(|name| methods::key(name, family)).collect()
    }
}

fn family(config: &AdapterConfig) -> Family {
    config.method.family()
}

/// The file with what is trained, where the adapter's own file has what is made of it.
#[must_use]
pub fn file_beside(method: &Method) -> &'static str {
    if method.is_prompt() { ENCODER_FILE } else { FACTORS_FILE }
}

/// Reads an adapter's folder, or the only adapter in its subfolders, where PEFT puts adapters that are not called `default`.
///
/// # Errors
/// If a file is missing or malformed, the configuration asks for something unknown, a tensor is not of a float type, or there are several adapters; a
/// file that is not what was written there ([`written`]).
pub fn read(folder: &Path) -> Result<AdapterFiles> {
    let folder = &adapter_folder(folder)?;
    let path = folder.join(CONFIG_FILE);
    let text = files::read(&path)?;
    written::check(&path, || written::of_text(&text))?;
    let config = AdapterConfig::from_json(&text).in_file(&path).hint(UNKNOWN_SETTING)?;
    let weights = folder.join(WEIGHTS_FILE);
    if !weights.exists() {
        return Err(no_weights(folder));
    }
    let raw = safetensors::read(&weights)?;
    let file = folder.join(file_beside(&config.method));
    let beside = if file.exists() { Some(safetensors::read(&file)?) } else { None };
    let both = [(&weights, Some(raw.clone())), (&file, beside.clone())];
    let files = Read { raw, beside }.settled(config, [&path, &weights, &file])?;
    for (path, tensors) in both.iter().filter_map(|(path, tensors)| Some((path, tensors.as_ref()?))) {
        written::check(path, || written::of_tensors(tensors))?;
    }
    Ok(files)
}

/// The tensors of an adapter as its files have them.
struct Read {
    raw: IndexMap<String, Tensor>,
    beside: Option<IndexMap<String, Tensor>>,
}

impl Read {
    /// `places` are what errors name: the configuration, the tensors, and what is beside them.
    fn settled(self, mut config: AdapterConfig, places: [&Path; 3]) -> Result<AdapterFiles> {
        let [path, weights, file] = places;
        let mut raw = weights::canonical(self.raw, family(&config)).in_file(weights)?;
        if config.method.has_empty_tensors() {
            raw.retain(|_, tensor| !tensor.is_empty());
        }
        let stored =
            raw.iter().filter(|(_, tensor)| tensor.dtype() != DType::F32).map(|(name, tensor)| (name.clone(), tensor.dtype())).collect();
        raw.iter().try_for_each(|(name, tensor)| not_empty(name, tensor)).in_file(weights)?;
        let mut tensors = as_f32(raw).in_file(weights)?;
        target_plain_names(&mut config);
        target_what_has_tensors(&mut config, &tensors);
        leave_out_tied_rows(&config, &mut tensors).in_file(path)?;
        let beside = self.beside.map(|tensors| as_f32(tensors).in_file(file)).transpose()?;
        finite(&tensors).in_file(weights).hint(NOT_FINITE)?;
        beside.iter().try_for_each(finite).in_file(file).hint(NOT_FINITE)?;
        Ok(AdapterFiles { config, tensors, beside, stored })
    }
}

/// Reads the tensors of one of an adapter's files under the names that they have there.
///
/// # Errors
/// As [`read`].
pub fn read_tensors(path: &Path) -> Result<IndexMap<String, Tensor>> {
    let tensors = safetensors::read(path)?;
    finite(&tensors).in_file(path).hint(NOT_FINITE)?;
    written::check(path, || written::of_tensors(&tensors)).map(|()| tensors)
}

/// What to do about numbers that are not finite.
const NOT_FINITE: &str = "the training that wrote this adapter left the range of numbers: take an earlier checkpoint, or train again";

/// Refuses numbers that are none: nothing that is made of them would be right.
fn finite(tensors: &IndexMap<String, Tensor>) -> Result<()> {
    for (name, tensor) in tensors {
        let bad = tensor.to_f32().unwrap_or_default().into_iter().filter(|value| !value.is_finite()).count();
        if bad > 0 {
            let error = Error::invalid(format!("{bad} of {} numbers are not finite (NaN or infinite)", tensor.len()));
            return Err(error.at(Place::Tensor(name.clone())));
        }
    }
    Ok(())
}

/// Writes an adapter's folder; each file appears when it is complete. Gives the first byte of each tensor's data in the file of the tensors.
///
/// # Errors
/// If the folder cannot be made or a file cannot be written; numbers that are not finite, of which nothing is written.
pub fn write(folder: &Path, adapter: &AdapterFiles) -> Result<IndexMap<String, u64>> {
    finite(&adapter.tensors)?;
    adapter.beside.iter().try_for_each(finite)?;
    files::make_folder(folder)?;
    let offsets = safetensors::write(&folder.join(WEIGHTS_FILE), &adapter.tensors)?;
    if let Some(beside) = &adapter.beside {
        safetensors::write(&folder.join(file_beside(&adapter.config.method)), beside)?;
    }
    files::replace(&folder.join(CONFIG_FILE), adapter.config.to_json().as_bytes())?;
    Ok(offsets)
}

fn adapter_folder(folder: &Path) -> Result<PathBuf> {
    if folder.join(CONFIG_FILE).exists() {
        return Ok(folder.to_owned());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).in_file(folder)? {
        let inner = entry.in_file(folder)?.path();
        if inner.join(CONFIG_FILE).exists() {
            found.push(inner);
        }
    }
    found.sort_unstable();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::not_found("file", CONFIG_FILE)
            .in_file(folder)
            .with_hint("an adapter is a folder that PEFT's `save_pretrained` wrote")),
        several => {
            let names: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            Err(Error::invalid(format!("{} adapters", several.len()))
                .in_file(folder)
                .with_hint(format!("choose one: {}", names.join(", "))))
        }
    }
}

fn no_weights(folder: &Path) -> Error {
    let error = Error::not_found("file", WEIGHTS_FILE).in_file(folder);
    if folder.join("adapter_model.bin").exists() {
        return error.with_hint("adapter_model.bin is a pickle, which is not read; load the adapter with PEFT and save it again");
    }
    error.with_hint("PEFT's `save_pretrained` writes it beside adapter_config.json: get or save the folder again")
}

/// What to do about a configuration that is not read.
const UNKNOWN_SETTING: &str = "PEFT reads what it wrote: load the adapter with it, put it into its base for good (`model.merge_and_unload()`), and export that; \
                               or train one without this setting";

/// A process of DeepSpeed's ZeRO stage 3 has parameters of others without any elements, and saves them so unless it gathers them.
fn not_empty(name: &str, tensor: &Tensor) -> Result<()> {
    if !tensor.is_empty() {
        return Ok(());
    }
    let error = Error::invalid(format!("a tensor without elements: its shape is {:?}", tensor.shape())).at(Place::Tensor(name.to_owned()));
    Err(error.with_hint(
        "DeepSpeed ZeRO-3 saves so what it did not gather: set `stage3_gather_16bit_weights_on_model_save`, or make the weights whole with its \
         `zero_to_fp32.py`, and save the adapter again",
    ))
}

fn as_f32(tensors: IndexMap<String, Tensor>) -> Result<IndexMap<String, Tensor>> {
    let convert = |name: &str, tensor: Tensor| {
        if tensor.dtype() == DType::F32 {
            return Ok(tensor);
        }
        let values = tensor.to_f32().ok_or_else(|| {
            Error::mismatch("dtype", "float32, float16, bfloat16 or float64", tensor.dtype()).at(Place::Tensor(name.to_owned()))
        })?;
        Ok(Tensor::from_f32(tensor.shape(), &values))
    };
    tensors.into_iter().map(|(name, tensor)| convert(&name, tensor).map(|tensor| (name, tensor))).collect()
}

/// Takes what wrappers put into names out of the targets, as out of the tensors' names.
fn target_plain_names(config: &mut AdapterConfig) {
    if let Some(Scope { targets: Targets::Only(Selection::Names(names)), .. }) = config.method.scope_mut() {
        for name in names {
            let plain = weights::unwrapped(name);
            if !plain.is_empty() {
                *name = plain;
            }
        }
    }
}

/// PEFT looks up the targets of a configuration without any in its list of architectures. The tensors tell them without one.
fn target_what_has_tensors(config: &mut AdapterConfig, tensors: &IndexMap<String, Tensor>) {
    let Some(scope) = config.method.scope_mut() else { return };
    if scope.targets == Targets::Default {
        let mut modules: Vec<String> = tensors.keys().filter_map(|key| methods::key(key, Family::Tuner)?.into_module()).collect();
        modules.dedup();
        scope.targets = Targets::Only(Selection::Names(modules));
    }
}

/// PEFT writes trained rows of an embedding once more for a head that shares the table.
fn leave_out_tied_rows(config: &AdapterConfig, tensors: &mut IndexMap<String, Tensor>) -> Result<()> {
    let Some(TokensConfig { targets: Some(targets), .. }) = config.method.get() else { return Ok(()) };
    let matcher = SelectionMatcher::new("target_modules", targets)?;
    let mut of_targets = vec![];
    for (name, tensor) in tensors.iter() {
        let module = methods::key(name, Family::Tuner).and_then(Key::into_module);
        if module.map_or(Ok(false), |module| matcher.has(&module))? {
            of_targets.push((name.clone(), tensor.clone()));
        }
    }
    tensors.retain(|name, tensor| of_targets.iter().any(|(own, _)| own == name) || of_targets.iter().all(|(_, own)| own != tensor));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::methods::lora::LoraConfig;

    const A: &str = "base_model.model.h.0.q.lora_A.weight";

    fn folder_with(config: &str, tensors: &[(&str, Tensor)]) -> Result<tempfile::TempDir> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join(CONFIG_FILE), config)?;
        let tensors = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        safetensors::write(&folder.path().join(WEIGHTS_FILE), &tensors)?;
        Ok(folder)
    }

    #[test]
    fn half_precision_is_upcast_and_remembered() -> Result<()> {
        for dtype in [DType::F16, DType::BF16] {
            let tensor = Tensor::from_f64(dtype, &[1, 2], &[0.5, -2.0])?;
            let folder = folder_with(r#"{"peft_type":"LORA","target_modules":["q"]}"#, &[(A, tensor)])?;
            let files = read(folder.path())?;
            assert_eq!(files.tensors[A], Tensor::from_f32(&[1, 2], &[0.5, -2.0]));
            assert_eq!(files.stored[A], dtype);
        }
        Ok(())
    }

    #[test]
    fn targets_that_are_left_out_are_those_with_tensors() -> Result<()> {
        let folder = folder_with(r#"{"peft_type":"LORA","target_modules":null}"#, &[(A, Tensor::from_f32(&[1, 1], &[1.0]))])?;
        let method = read(folder.path())?.config.method;
        let LoraConfig { scope, .. } = method.get().expect("LoRA");
        assert_eq!(scope.targets, Targets::Only(Selection::Names(vec!["h.0.q".into()])));
        Ok(())
    }

    #[test]
    fn rows_that_are_there_again_for_a_tied_head_count_once() -> Result<()> {
        let rows = |number: f32| Tensor::from_f32(&[1, 2], &[number, 2.0]);
        let (table, head) = ("base_model.model.transformer.wte.trainable_tokens_delta", "base_model.model.lm_head.trainable_tokens_delta");
        let config = r#"{"peft_type":"TRAINABLE_TOKENS","target_modules":"transformer.wte","token_indices":[3]}"#;
        for (of_head, expected) in [(1.0, vec![table]), (5.0, vec![head, table])] {
            let folder = folder_with(config, &[(table, rows(1.0)), (head, rows(of_head))])?;
            assert_eq!(read(folder.path())?.tensors.keys().collect::<Vec<_>>(), expected);
        }
        Ok(())
    }

    #[test]
    fn the_only_adapter_in_subfolders_is_found() -> Result<()> {
        let outer = tempfile::tempdir()?;
        let copy = |name: &str| -> Result<()> {
            let inner = outer.path().join(name);
            write(
                &inner,
                &read(folder_with(r#"{"peft_type":"LORA","target_modules":["q"]}"#, &[(A, Tensor::from_f32(&[1], &[1.0]))])?.path())?,
            )?;
            Ok(())
        };
        copy("polite")?;
        assert_eq!(read(outer.path())?.tensors.len(), 1);
        copy("rude")?;
        let error = read(outer.path()).expect_err("two adapters");
        assert!(error.to_string().contains("2 adapters") && error.hint().is_some_and(|hint| hint.contains("rude")), "{error}");
        Ok(())
    }

    #[test]
    fn errors_name_the_file() -> Result<()> {
        let config = r#"{"peft_type":"LORA","target_modules":["q"]}"#;
        let number = || Tensor::from_f32(&[1], &[1.0]);
        let without = |file: &str| -> Result<tempfile::TempDir> {
            let folder = folder_with(config, &[(A, number())])?;
            std::fs::remove_file(folder.path().join(file))?;
            Ok(folder)
        };
        let pickled = without(WEIGHTS_FILE)?;
        std::fs::write(pickled.path().join("adapter_model.bin"), b"pickle")?;
        let rows = [
            (without(CONFIG_FILE)?, "no file named \"adapter_config.json\"", "an adapter is a folder"),
            (without(WEIGHTS_FILE)?, "no file named \"adapter_model.safetensors\"", ""),
            (pickled, "no file named \"adapter_model.safetensors\"", "adapter_model.bin is a pickle"),
            (folder_with("{", &[(A, number())])?, "adapter_config.json: not an adapter configuration", ""),
            (
                folder_with(config, &[(A, Tensor::from_i64(&[1], &[1]))])?,
                "dtype: expected float32, float16, bfloat16 or float64, found int64",
                "",
            ),
        ];
        for (folder, message, hint) in rows {
            let error = read(folder.path()).expect_err(message);
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.hint().unwrap_or_default().starts_with(hint), "{error}: {:?}", error.hint());
        }
        assert!(read(Path::new("/nowhere")).is_err());
        Ok(())
    }
}
