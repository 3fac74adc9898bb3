//! The adapter's file of a bundle, as the flat vector that training works on.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::adapter::decomposed;
use crate::adapter::encoder::Encoder;
use crate::adapter::key::Key;
use crate::error::{Context, Error, Place, Result};
use crate::export::Manifest;
use crate::export::manifest::Slot;
use crate::ir::Tensor;
use crate::peft::{self, safetensors};

/// The file of the adapter's tensors in a bundle.
pub const FILE: &str = crate::peft::WEIGHTS_FILE;

/// The trainable vector as the bundle's adapter files have it.
///
/// # Errors
/// If a file cannot be read, or its tensors are not those of the manifest.
pub fn read(bundle: &Path, manifest: &Manifest) -> Result<Vec<f32>> {
    let files = Files::read(bundle, manifest)?;
    let mut vector = Vec::with_capacity(manifest.trainable_count);
    for slot in &manifest.trainable {
        let values = slot_values(slot, files.of(slot)).at(Place::Tensor(slot.name.clone()));
        vector.extend(values.in_file(bundle.join(&slot.file))?);
    }
    Ok(vector)
}

/// The tensors of the adapter's files, by file.
struct Files(IndexMap<String, IndexMap<String, Tensor>>);

impl Files {
    fn read(bundle: &Path, manifest: &Manifest) -> Result<Self> {
        let mut files = IndexMap::from([(FILE.to_owned(), safetensors::read(&bundle.join(FILE))?)]);
        for slot in &manifest.trainable {
            if !files.contains_key(&slot.file) {
                files.insert(slot.file.clone(), safetensors::read(&bundle.join(&slot.file))?);
            }
        }
        Ok(Self(files))
    }

    fn of(&self, slot: &Slot) -> &IndexMap<String, Tensor> {
        &self.0[&slot.file]
    }
}

fn slot_values(slot: &Slot, tensors: &IndexMap<String, Tensor>) -> Result<Vec<f32>> {
    let tensor = tensors.get(&slot.name).ok_or_else(|| Error::not_found("tensor", &slot.name))?;
    if tensor.shape() != slot.shape {
        return Err(Error::mismatch("shape", format!("{:?}", slot.shape), format!("{:?}", tensor.shape())));
    }
    tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()))
}

/// Writes the trainable vector into the bundle's adapter files, and what a network computes from it; tensors that are not trained stay.
/// Each file changes all at once.
///
/// # Errors
/// If the vector is not as long as the manifest says, or a file cannot be read or written.
pub fn write(bundle: &Path, manifest: &Manifest, vector: &[f32]) -> Result<PathBuf> {
    let mut files = Files::read(bundle, manifest)?;
    for slot in &manifest.trainable {
        let length: usize = slot.shape.iter().product();
        let values = slot.offset.checked_add(length).and_then(|end| vector.get(slot.offset..end));
        let values = values.ok_or_else(|| Error::mismatch("numbers in the trainable vector", manifest.trainable_count, vector.len()))?;
        files.0.entry(slot.file.clone()).or_default().insert(slot.name.clone(), Tensor::from_f32(&slot.shape, values));
    }
    let made = computed(bundle, &files)?;
    files.0.entry(FILE.to_owned()).or_default().extend(made);
    for (file, tensors) in &files.0 {
        safetensors::write(&bundle.join(file), tensors)?;
    }
    Ok(bundle.join(FILE))
}

/// What the adapter's file has of that which is kept beside it: the rows of a prompt that a network computes, factors joined with those that they
/// started from.
fn computed(bundle: &Path, files: &Files) -> Result<IndexMap<String, Tensor>> {
    if let Some(trained) = files.0.get(peft::FACTORS_FILE) {
        return decomposed::with_trained(&files.0[FILE], trained).in_file(bundle.join(peft::FACTORS_FILE));
    }
    let Some(parameters) = files.0.get(peft::ENCODER_FILE) else { return Ok(IndexMap::new()) };
    let path = bundle.join(peft::CONFIG_FILE);
    let config = peft::AdapterConfig::from_json(&std::fs::read(&path).in_file(&path)?).in_file(&path)?;
    let Some(encoder) = Encoder::of(&config.method).in_file(&path)? else { return Ok(IndexMap::new()) };
    let rows = encoder.compute(&|name| parameters.get(name).cloned()).in_file(bundle.join(peft::ENCODER_FILE))?;
    Ok(IndexMap::from([(Key::Prompt.to_string(), rows)]))
}
