//! The adapter's file of a bundle, as the flat vector that training works on.

use std::path::Path;

use indexmap::IndexMap;

use crate::adapter::Method;
use crate::adapter::methods::lora::decomposed;
use crate::adapter::params::key::Key;
use crate::adapter::virtual_tokens::encoder::Encoder;
use crate::error::{Context, Error, ErrorKind, Place, Result};
use crate::export::{Manifest, pending};
use crate::files::inside;
use crate::ir::Tensor;
use crate::peft::{self, AdapterFiles};
use crate::safetensors;

/// The file of the adapter's tensors in a bundle.
pub const FILE: &str = crate::peft::WEIGHTS_FILE;

pub use crate::export::trainable::read;

/// The tensors of the adapter's files, by file.
#[derive(Clone)]
struct Files(IndexMap<String, IndexMap<String, Tensor>>);

impl Files {
    fn read(folder: &Path, manifest: &Manifest) -> Result<Self> {
        let mut files = IndexMap::from([(FILE.to_owned(), safetensors::read(&folder.join(FILE))?)]);
        for slot in &manifest.trainable {
            if !files.contains_key(&slot.file) {
                if !pending::ADAPTER_FILES.contains(&slot.file.as_str()) {
                    let expected = pending::ADAPTER_FILES[1..].join(", ");
                    return Err(Error::mismatch("file of a trainable tensor", expected, &slot.file).at(Place::Tensor(slot.name.clone())));
                }
                files.insert(slot.file.clone(), safetensors::read(&folder.join(&slot.file))?);
            }
        }
        Ok(Self(files))
    }
}

/// Whether two folders have the same trainable parameters.
///
/// # Errors
/// As [`read`].
pub fn is_same(folder: &Path, other: &Path, manifest: &Manifest) -> Result<bool> {
    let bits = |folder: &Path| Ok::<_, Error>(read(folder, manifest)?.into_iter().map(f32::to_bits).collect::<Vec<_>>());
    Ok(bits(folder)? == bits(other)?)
}

/// What training made of an adapter.
#[derive(Clone, Copy, Debug)]
pub struct Learnt<'a> {
    /// The trainable vector.
    pub vector: &'a [f32],
    /// 1 for each singular value that is masked, where ranks are allocated.
    pub masked: Option<&'a [f32]>,
}

impl<'a> From<&'a [f32]> for Learnt<'a> {
    fn from(vector: &'a [f32]) -> Self {
        Self { vector, masked: None }
    }
}

impl Learnt<'_> {
    /// Leaves out the ranks that are masked, if any is.
    fn drop_ranks(&self, method: &mut Method, manifest: &Manifest, tensors: &mut IndexMap<String, Tensor>) -> Result<()> {
        let names: Vec<&str> = manifest.trainable.iter().map(|slot| slot.name.as_str()).collect();
        match self.masked {
            Some(masked) if self.masks() => method.drop_ranks(&names, tensors, masked),
            _ => Ok(()),
        }
    }

    fn masks(&self) -> bool {
        self.masked.is_some_and(|masked| masked.iter().any(|mask| *mask > 0.0))
    }
}

/// An adapter's folder but for what is trained in it: its configuration, and tensors that stay as they are.
pub struct Frame {
    files: Files,
    config: Option<Vec<u8>>,
    encoder: Option<Encoder>,
}

impl Frame {
    /// Reads a folder. Its files may vanish afterwards.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn read(folder: &Path, manifest: &Manifest) -> Result<Self> {
        let files = Files::read(folder, manifest)?;
        let path = folder.join(peft::CONFIG_FILE);
        let config = if path.exists() { Some(inside::read(&path)?) } else { None };
        let encoder = match &config {
            Some(text) if files.0.contains_key(peft::ENCODER_FILE) => {
                peft::AdapterConfig::from_json(text).in_file(&path)?.method.encoder().in_file(&path)?
            }
            _ => None,
        };
        Ok(Self { files, config, encoder })
    }

    /// The frame of an adapter in memory.
    ///
    /// # Errors
    /// A network that computes a prompt, of a form that is not known.
    pub fn of(adapter: &AdapterFiles) -> Result<Self> {
        let mut files = IndexMap::from([(FILE.to_owned(), adapter.tensors.clone())]);
        if let Some(beside) = &adapter.beside {
            files.insert(peft::file_beside(&adapter.config.method).to_owned(), beside.clone());
        }
        let encoder = if files.contains_key(peft::ENCODER_FILE) { adapter.config.method.encoder()? } else { None };
        Ok(Self { files: Files(files), config: Some(adapter.config.to_json().into_bytes()), encoder })
    }

    /// The adapter with what was learnt, and what is computed from that.
    ///
    /// # Errors
    /// If the vector is not as long as the manifest says.
    pub fn filled<'v>(&self, adapter: &AdapterFiles, manifest: &Manifest, learnt: impl Into<Learnt<'v>>) -> Result<AdapterFiles> {
        let learnt = learnt.into();
        let mut files = self.with(manifest, learnt.vector)?;
        let made = self.computed(&files)?;
        files.0.entry(FILE.to_owned()).or_default().extend(made);
        let beside = files.0.shift_remove(peft::file_beside(&adapter.config.method));
        let mut tensors = files.0.shift_remove(FILE).unwrap_or_default();
        let mut config = adapter.config.clone();
        learnt.drop_ranks(&mut config.method, manifest, &mut tensors)?;
        Ok(AdapterFiles { config, tensors, beside, ..adapter.clone() })
    }

    /// The files' tensors, those that are trained from a vector.
    fn with(&self, manifest: &Manifest, vector: &[f32]) -> Result<Files> {
        let mut files = self.files.clone();
        for slot in &manifest.trainable {
            let length: usize = slot.shape.iter().product();
            let values = slot.offset.checked_add(length).and_then(|end| vector.get(slot.offset..end));
            let values =
                values.ok_or_else(|| Error::mismatch("numbers in the trainable vector", manifest.trainable_count, vector.len()))?;
            files.0.entry(slot.file.clone()).or_default().insert(slot.name.clone(), Tensor::from_f32(&slot.shape, values));
        }
        Ok(files)
    }

    /// Writes the adapter with what was learnt into a folder, and what a network computes from it.
    ///
    /// # Errors
    /// [`Diverged`](ErrorKind::Diverged) if what is computed is not finite; if the vector is not as long as the manifest says, or a file cannot be written.
    pub fn write<'v>(&self, folder: &Path, manifest: &Manifest, learnt: impl Into<Learnt<'v>>) -> Result<()> {
        let learnt = learnt.into();
        let mut files = self.with(manifest, learnt.vector)?;
        let made = self.computed(&files).in_file(folder)?;
        let tensors = files.0.entry(FILE.to_owned()).or_default();
        tensors.extend(made);
        let mut config = self.config.clone();
        if let Some(text) = config.as_mut().filter(|_| learnt.masks()) {
            let mut allocated = peft::AdapterConfig::from_json(text).in_file(folder)?;
            learnt.drop_ranks(&mut allocated.method, manifest, tensors).in_file(folder)?;
            *text = allocated.to_json().into_bytes();
        }
        for (file, tensors) in &files.0 {
            safetensors::write(&folder.join(file), tensors)?;
        }
        match &config {
            Some(config) => crate::files::replace(&folder.join(peft::CONFIG_FILE), config),
            None => Ok(()),
        }
    }

    /// What the adapter's file has of that which is kept beside it: the rows of a prompt that a network computes, factors joined with those that
    /// they started from.
    fn computed(&self, files: &Files) -> Result<IndexMap<String, Tensor>> {
        if let Some(trained) = files.0.get(peft::FACTORS_FILE) {
            return decomposed::with_trained(&files.0[FILE], trained);
        }
        let (Some(parameters), Some(encoder)) = (files.0.get(peft::ENCODER_FILE), &self.encoder) else { return Ok(IndexMap::new()) };
        let rows = encoder.compute(&|name| parameters.get(name).cloned())?;
        let bad = rows.to_f32().unwrap_or_default().into_iter().filter(|value| !value.is_finite()).count();
        if bad == 0 {
            return Ok(IndexMap::from([(Key::Prompt.to_string(), rows)]));
        }
        let what = format!("{bad} of {} numbers of the prompt that the network computes are not finite (NaN or infinite)", rows.len());
        Err(Error::from(ErrorKind::Diverged(what)).at(Place::Tensor(Key::Prompt.to_string())))
    }
}
