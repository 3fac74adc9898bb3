//! What a model says of some rows before and after its training.

use super::{Opened, Predictor, Running, Shape};
use crate::data::{Asked, Fields};
use crate::error::Result;
use crate::export::{Bundle, INITIAL};
use crate::ort::Runtime;
use crate::training::report::Sample;
use crate::training::{Options, SomeRows, Source};

/// Tokens that are written for a row, at most.
const NEW_TOKENS: usize = 48;
/// Classes and words that are told with their probabilities.
const TOP: usize = 3;

/// Answers rows with the adapter as `inject` wrote it and with the trained one, each read as the run read it.
///
/// # Errors
/// Rows that cannot be read; a model that does not answer them.
pub fn before_and_after(runtime: &Runtime, options: &Options, rows: &SomeRows) -> Result<Vec<Sample>> {
    let trained = Bundle::open(&options.bundle, options.base.as_deref())?;
    let untrained = trained.clone().with_adapter(trained.folder().join(INITIAL));
    let mut predictor = opened(runtime, options, trained)?;
    let asked = predictor.source().ask_some(&rows.file, &rows.numbers)?;
    let after = predictor.answers(&asked)?;
    let before = if predictor.can_change() {
        let names = predictor.class_names().to_vec();
        predictor.wear(untrained.trainable()?, names)?;
        predictor.answers(&asked)?
    } else {
        // One graph at a time is in memory.
        drop(predictor);
        opened(runtime, options, untrained)?.answers(&asked)?
    };
    let sample = |((row, before), after): ((Asked, Fields), Fields)| Sample { row: row.fields, before, after };
    Ok(asked.into_iter().zip(before).zip(after).map(sample).collect())
}

fn opened(runtime: &Runtime, options: &Options, bundle: Bundle) -> Result<Predictor> {
    let data = &options.data;
    let source = Source::of(&bundle, data.tokenizer.as_deref())?.mapped(&data.columns).cut(data.max_length).parted(data.stride);
    let running = Running { device: options.device, new_tokens: NEW_TOKENS, ..Running::default() };
    Predictor::open(runtime, Opened::of_bundle(bundle, source)?, Shape { top: TOP, ..Shape::default() }, running)
}
