//! Models whose computation is rounded, compared beside what rounding makes of them.

use std::path::Path;

use super::verify::{Comparison, Samples, compare, compare_unrounded};
use crate::error::{Context, Result};
use crate::ir::Graph;
use crate::model::Base;
use crate::model::upcast::upcast;
use crate::onnx::{self, Runnable};
use crate::ort::Runtime;

/// A difference of two models, larger than rounding should make one, looked at again: without rounding to small integers where they do that, and
/// beside what half precision makes of the first one where it computes in that.
///
/// # Errors
/// As [`compare`]; nodes that do not go together.
pub fn settled(runtime: &Runtime, models: [&Graph; 2], path: &Path, samples: &Samples, comparison: Comparison) -> Result<Comparison> {
    let [unmerged, merged] = models;
    if let Some(unrounded) = compare_unrounded(runtime, unmerged, merged, path, samples)? {
        return Ok(unrounded.after_rounding(&comparison));
    }
    Ok(beside_half_precision(runtime, unmerged, merged, path, samples)?.unwrap_or(comparison))
}

/// A model beside another one that is computed in float32, with what computing it in half precision makes of that one. Nothing if it is not computed in
/// half precision.
///
/// Each of the two is off by roundings of its own: as many for each number as there are operators one behind the other, and what they come to depends on
/// the model. So it is measured.
fn beside_half_precision(runtime: &Runtime, left: &Graph, right: &Graph, path: &Path, samples: &Samples) -> Result<Option<Comparison>> {
    let wide = onnx::inline_functions(left).and_then(|graph| upcast(&Base::of(&graph)?.graph)).in_file(path)?;
    let Some(exact) = wide.map(|graph| Runnable::of(&graph, path)).transpose()? else { return Ok(None) };
    let rounded = compare(runtime, exact.clone(), Runnable::of(left, path)?, samples)?;
    let found = compare(runtime, exact, Runnable::of(right, path)?, samples)?;
    Ok(Some(Comparison { half: Some(rounded.relative), ..found }))
}
