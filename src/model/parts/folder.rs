//! The files of a model in a folder, by the names that optimum and transformers.js give them.

use std::path::{Path, PathBuf};

use super::Files;

/// An encoder-decoder in the files that optimum writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The encoder.
    pub encoder: PathBuf,
    /// The decoder without a cache, if it has a file of its own.
    pub decoder: Option<PathBuf>,
    /// The decoder that reads a cache.
    pub with_past: Option<PathBuf>,
    /// Both decoders in one, with a branch for each.
    pub merged: Option<PathBuf>,
}

/// The place of a file in a folder, if it is there.
fn file(folder: &Path, name: &str) -> Option<PathBuf> {
    Some(folder.join(name)).filter(|file| file.is_file())
}

/// What is found in a folder, or in the folder `onnx` in it.
fn either<T>(folder: &Path, find: impl Fn(&Path) -> Option<T>) -> Option<T> {
    [folder.to_path_buf(), folder.join("onnx")].iter().find_map(|folder| find(folder))
}

impl Split {
    /// The files in a folder, or in the folder `onnx` in it, by the names that optimum gives them; none where it has a whole model, or no encoder and decoder.
    #[must_use]
    pub fn inside(folder: &Path) -> Option<Self> {
        either(folder, |folder| {
            let split = Self {
                encoder: file(folder, "encoder_model.onnx")?,
                decoder: file(folder, "decoder_model.onnx"),
                with_past: file(folder, "decoder_with_past_model.onnx"),
                merged: file(folder, "decoder_model_merged.onnx"),
            };
            (file(folder, "model.onnx").is_none() && (split.decoder.is_some() || split.merged.is_some())).then_some(split)
        })
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<PathBuf> {
        [Some(&self.encoder), self.decoder.as_ref(), self.with_past.as_ref(), self.merged.as_ref()].into_iter().flatten().cloned().collect()
    }

    /// The decoder that is trained: the one without a cache where there is one.
    #[must_use]
    pub fn to_train(&self) -> &Path {
        self.decoder.as_deref().or(self.merged.as_deref()).unwrap_or(&self.encoder)
    }
}

/// The files of a vision-language model in a folder, or in its subfolder `onnx`, under the names of transformers.js: the decoder (which takes
/// embeddings), the token embedding, and the vision encoder. None if the folder has a whole model.
#[must_use]
pub fn of_pictures(folder: &Path) -> Option<Files> {
    either(folder, |folder| {
        let decoder = file(folder, "decoder_model_merged.onnx").or_else(|| file(folder, "decoder_model.onnx"))?;
        let parts = vec![file(folder, "embed_tokens.onnx")?, file(folder, "vision_encoder.onnx")?];
        let is_whole = ["model.onnx", "encoder_model.onnx"].iter().any(|name| file(folder, name).is_some());
        (!is_whole).then(|| Files { model: decoder, parts, joins: vec![] })
    })
}
