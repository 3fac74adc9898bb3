//! Texts that an encoder-decoder writes for rows: translations, summaries, what sounds say.

use std::path::PathBuf;
use std::sync::Arc;

use crate::data::{Example, Examples, Tokenizer};
use crate::error::{Context, Error, Place, Result};
use crate::evaluate::Metrics;
use crate::generate::{Graphs, Sampler, Sampling, Transducer, Wish, Writing};
use crate::measure::ErrorRate;
use crate::onnx::Runnable;
use crate::ort::{Device, Runtime};
use crate::training::Source;

/// An encoder-decoder in one graph that writes the most probable text, or with beams where its configuration says so.
pub struct Transcriber {
    transducer: Transducer,
    writing: Writing,
    tokenizer: Arc<Tokenizer>,
}

impl Transcriber {
    /// Opens a graph. Its configurations lie at `places`.
    ///
    /// # Errors
    /// A model without a tokenizer; as [`Transducer::open`].
    pub fn open(
        runtime: &Runtime,
        graph: Runnable,
        source: &Source,
        places: &[PathBuf],
        new_tokens: usize,
        device: Device,
    ) -> Result<Self> {
        let tokenizer = source.tokenizer().ok_or_else(|| {
            Error::not_found("tokenizer", "tokenizer.json").in_file(&graph.path).with_hint("name one with `tokenizer FILE`")
        })?;
        let writing = Wish { new_tokens, ..Wish::default() }.writing(places, &tokenizer, source.positions())?;
        let transducer = Transducer::open(runtime, Graphs::Whole(graph), source.collation().feeding, device)?;
        Ok(Self { transducer, writing, tokenizer })
    }

    /// What it writes for a row.
    ///
    /// # Errors
    /// As [`Transducer::write`].
    pub fn text(&mut self, row: &Example) -> Result<String> {
        let tokens = if self.writing.beams > 1 {
            self.transducer.search(row, &self.writing)
        } else {
            let mut sampler = Sampler::new(Sampling { temperature: 0.0, top_k: None, top_p: 1.0, repetition_penalty: 1.0, seed: 0 })?;
            let texts = self.transducer.write(std::slice::from_ref(row), &self.writing, &mut sampler, &mut |_| Ok(()));
            texts.map(|mut texts| texts.pop().unwrap_or_default())
        };
        self.tokenizer.decode(&tokens.at(Place::Line(row.line))?)
    }

    /// How far what it writes is from the rows' own texts, in words and in characters.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn error_rates(&mut self, rows: &Examples) -> Result<Metrics> {
        let mut rate = ErrorRate::default();
        for row in rows.iter() {
            if let Some(said) = row.texts.first() {
                rate.add(said, &self.text(&row)?);
            }
        }
        Ok(vec![("wer", rate.words()), ("cer", rate.characters())])
    }
}
