//! How many numbers an adapter may have: ranks and numbers of tokens come from options and from files, and multiply.

use crate::anatomy::Anatomy;
use crate::{Error, Result};

/// Adapters of up to this many numbers are made for any base, however small: 64 MB.
const ALWAYS: u128 = 1 << 24;
/// How many numbers an adapter may have for each one of its base's projections and tables. One of full rank has two; the networks that
/// compute prompts have up to about as many as the base.
const FOR_EACH: u128 = 8;

/// A length as a factor.
pub(crate) fn wide(length: usize) -> u128 {
    u128::try_from(length).unwrap_or(u128::MAX >> 64)
}

/// `rank · (in + out)` of a module: a projection's features, or a table's rows and their length.
pub(crate) fn of_factors(anatomy: &Anatomy, module: &str, rank: usize) -> u128 {
    let projection = anatomy.projections.iter().find(|projection| projection.module == module);
    let table = || anatomy.embeddings.iter().find(|table| table.module == module);
    let [a, b] = projection.map(|p| [p.in_features, p.out_features]).or_else(|| table().map(|t| [t.rows, t.hidden])).unwrap_or([0, 0]);
    wide(rank).saturating_mul(length(a) + length(b))
}

/// # Errors
/// If an adapter of so many numbers has no proportion to its base.
pub(crate) fn check(numbers: u128, anatomy: &Anatomy) -> Result<()> {
    let projections = anatomy.projections.iter().map(|p| length(p.in_features) * length(p.out_features));
    let tables = anatomy.embeddings.iter().map(|t| length(t.rows) * length(t.hidden));
    let base: u128 = projections.chain(tables).sum();
    let most = ALWAYS.max(base.saturating_mul(FOR_EACH));
    if numbers <= most {
        return Ok(());
    }
    let error = Error::mismatch("numbers of the adapter", format!("at most {most} for a base of {base}"), numbers);
    Err(error.with_hint("choose a smaller rank, fewer virtual tokens, or fewer classes"))
}

fn length(number: i64) -> u128 {
    u128::try_from(number).unwrap_or(0)
}
