//! Rows before and after a training, for its report.

use crate::cli::signals;
use crate::error::Result;
use crate::ort::Runtime;
use crate::predict;
use crate::training::report::Samples;
use crate::training::{self, Options, Summary};

/// Shows some of the rows that were measured on in the run's report. It is for people: rows that cannot be answered are no reason to fail.
pub(super) fn show(runtime: &Runtime, options: &Options, summary: &Summary) {
    let Some(rows) = &summary.some_rows else { return };
    // The run is saved: nothing is lost by ending here.
    signals::listen(signals::First::Ends);
    let samples = match predict::before_and_after(runtime, options, rows) {
        Ok(rows) => Samples::Rows(rows),
        Err(error) => Samples::Missing(format!("they were not answered: {error}")),
    };
    let told: Result<()> = training::tell_again(runtime, options, summary, &samples);
    if let Err(error) = told {
        tracing::warn!("the report of run {} could not be written: {error}", summary.run);
    }
}
