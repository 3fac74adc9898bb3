//! The trainable vector as the adapter's files of a bundle have it.

use std::borrow::Cow;
use std::path::Path;

use indexmap::IndexMap;

use super::Manifest;
use super::manifest::Slot;
use crate::ir::Tensor;
use crate::peft::{self, AdapterFiles};
use crate::{Context, Error, Place, Result};

/// All trainable parameters, in the order of the trainable vector.
///
/// # Errors
/// If a file cannot be read, has numbers that are not finite, or its tensors are not those of the manifest.
pub fn read(bundle: &Path, manifest: &Manifest) -> Result<Vec<f32>> {
    if manifest.allocation_steps.is_some() {
        return of(&peft::read(bundle)?, manifest);
    }
    peft::written::check_configuration(bundle)?;
    // The adapter's own file is looked at where what is trained lies beside it, too.
    let own = bundle.join(peft::WEIGHTS_FILE);
    let mut files = IndexMap::new();
    if own.exists() {
        files.insert(peft::WEIGHTS_FILE, peft::read_tensors(&own)?);
    }
    let mut vector = vec![];
    for slot in &manifest.trainable {
        let path = bundle.join(&slot.file);
        if !files.contains_key(&*slot.file) {
            files.insert(&slot.file, peft::read_tensors(&path)?);
        }
        let values = values(slot, &files[&*slot.file]).at(Place::Tensor(slot.name.clone()));
        vector.extend(values.in_file(path)?);
    }
    Ok(vector)
}

/// The same of an adapter in memory.
///
/// # Errors
/// Tensors that are not those of the manifest.
pub fn of(files: &AdapterFiles, manifest: &Manifest) -> Result<Vec<f32>> {
    let files = &whole(files, manifest);
    let mut vector = vec![];
    for slot in &manifest.trainable {
        let tensors = if slot.file == peft::WEIGHTS_FILE { Some(&files.tensors) } else { files.beside.as_ref() };
        let tensors = tensors.ok_or_else(|| Error::not_found("file", slot.file.clone()))?;
        vector.extend(values(slot, tensors).at(Place::Tensor(slot.name.clone()))?);
    }
    Ok(vector)
}

/// An adapter whose tensors have the shapes that a bundle's graphs have, with zeros for the ranks that were left out of them.
pub(super) fn whole<'a>(files: &'a AdapterFiles, manifest: &Manifest) -> Cow<'a, AdapterFiles> {
    let mut files = Cow::Borrowed(files);
    let slots = manifest.trainable.iter().filter(|slot| slot.file == peft::WEIGHTS_FILE && manifest.allocation_steps.is_some());
    for slot in slots {
        let tensor = files.tensors.get(&slot.name);
        let differs = tensor.is_none_or(|tensor| tensor.shape() != slot.shape);
        if differs && let Some(whole) = files.config.method.whole(&slot.name, tensor, &slot.shape) {
            files.to_mut().tensors.insert(slot.name.clone(), whole);
        }
    }
    files
}

fn values(slot: &Slot, tensors: &IndexMap<String, Tensor>) -> Result<Vec<f32>> {
    let tensor = tensors.get(&slot.name).ok_or_else(|| Error::not_found("tensor", &slot.name))?;
    if tensor.shape() != slot.shape {
        return Err(Error::mismatch("shape", format!("{:?}", slot.shape), format!("{:?}", tensor.shape())));
    }
    tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()))
}
