//! Files in memory, by name.

use bytes::Bytes;
use indexmap::IndexMap;
use peft_onnx::peft::{CONFIG_FILE, WEIGHTS_FILE, file_beside};
use peft_onnx::{Adapter, Error, Result};
use wasm_bindgen::prelude::*;

/// Files in memory, by name.
#[wasm_bindgen]
#[derive(Default)]
pub struct Files(IndexMap<String, Bytes>);

#[wasm_bindgen]
impl Files {
    /// No files.
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file, or replaces it.
    pub fn put(&mut self, name: String, bytes: Vec<u8>) {
        self.0.insert(name, bytes.into());
    }

    /// The names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Takes a file out.
    pub fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        self.0.shift_remove(name).map(Vec::from)
    }
}

impl Files {
    pub(crate) fn insert(&mut self, name: &str, bytes: Vec<u8>) {
        self.put(name.to_owned(), bytes);
    }

    pub(crate) fn named(&self) -> Vec<(&str, Bytes)> {
        self.0.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect()
    }

    /// The adapter that the files are.
    ///
    /// # Errors
    /// A file that is missing or malformed.
    pub(crate) fn adapter(&self) -> Result<Adapter> {
        let file = |name: &'static str| {
            let hint = "an adapter is what PEFT's `save_pretrained` writes: adapter_config.json and adapter_model.safetensors";
            self.0.get(name).ok_or_else(|| Error::not_found("file", name).with_hint(hint))
        };
        let (config, weights) = (file(CONFIG_FILE)?, file(WEIGHTS_FILE)?);
        let alone = Adapter::from_bytes(config, weights, None)?;
        match self.0.get(file_beside(&alone.config.method)) {
            Some(beside) => Adapter::from_bytes(config, weights, Some(beside)),
            None => Ok(alone),
        }
    }
}

impl<Name: Into<String>> From<IndexMap<Name, Vec<u8>>> for Files {
    fn from(files: IndexMap<Name, Vec<u8>>) -> Self {
        Self(files.into_iter().map(|(name, bytes)| (name.into(), bytes.into())).collect())
    }
}
