//! The adapter's file of a bundle, as the flat vector that training works on.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::error::{Context, Error, Place, Result};
use crate::export::Manifest;
use crate::export::manifest::Slot;
use crate::ir::Tensor;
use crate::peft::safetensors;

/// The file of the adapter's tensors in a bundle.
pub const FILE: &str = crate::peft::WEIGHTS_FILE;

/// The trainable vector as the bundle's adapter file has it.
///
/// # Errors
/// If the file cannot be read, or its tensors are not those of the manifest.
pub fn read(bundle: &Path, manifest: &Manifest) -> Result<Vec<f32>> {
    let path = bundle.join(FILE);
    let tensors = safetensors::read(&path)?;
    let mut vector = Vec::with_capacity(manifest.trainable_count);
    for slot in &manifest.trainable {
        vector.extend(slot_values(slot, &tensors).at(Place::Tensor(slot.name.clone())).in_file(&path)?);
    }
    Ok(vector)
}

fn slot_values(slot: &Slot, tensors: &IndexMap<String, Tensor>) -> Result<Vec<f32>> {
    let tensor = tensors.get(&slot.name).ok_or_else(|| Error::not_found("tensor", &slot.name))?;
    if tensor.shape() != slot.shape {
        return Err(Error::mismatch("shape", format!("{:?}", slot.shape), format!("{:?}", tensor.shape())));
    }
    tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()))
}

/// Writes the trainable vector into the bundle's adapter file; tensors of the file that are not trained stay. It changes all at once.
///
/// # Errors
/// If the vector is not as long as the manifest says, or the file cannot be read or written.
pub fn write(bundle: &Path, manifest: &Manifest, vector: &[f32]) -> Result<PathBuf> {
    let path = bundle.join(FILE);
    let mut tensors = safetensors::read(&path)?;
    for slot in &manifest.trainable {
        let length: usize = slot.shape.iter().product();
        let values = slot.offset.checked_add(length).and_then(|end| vector.get(slot.offset..end));
        let values = values.ok_or_else(|| Error::mismatch("numbers in the trainable vector", manifest.trainable_count, vector.len()))?;
        tensors.insert(slot.name.clone(), Tensor::from_f32(&slot.shape, values));
    }
    safetensors::write(&path, &tensors)?;
    Ok(path)
}
