//! The cache of a merged export, kept in what is made of its two decoders.

use std::collections::BTreeSet;

use crate::ir::Graph;
use crate::model::Base;
use crate::{Result, decompose};

/// A graph that was made of the decoder without a cache; if the base has one with a cache too, joined with what `adapt` makes of that.
/// Where that does not go, the cache is left out, which is said.
///
/// # Errors
/// Nodes that do not go together.
pub(super) fn kept(base: &Base, made: Graph, adapt: impl FnOnce(&mut Base) -> Result<Graph>) -> Result<Graph> {
    let Some(lost) = lost(&base.raw, &made) else { return Ok(made) };
    let joined = |mut cached: Base| adapt(&mut cached).and_then(|with| decompose::join(&base.raw, &made, &with));
    let why = match base.with_cache().and_then(|cached| cached.map(joined).transpose()) {
        Ok(Some(joined)) => return Ok(joined),
        Ok(None) => "the adapter stands where the cache is not read".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::warn!("the model that comes out has no cache (the input {lost}) and writes more slowly: {why}");
    decompose::without_unread_cache(&made)
}

/// An input of the base's cache that a graph made of it lacks.
fn lost(base: &Graph, made: &Graph) -> Option<String> {
    let names = |graph: &Graph| graph.data_inputs().map(|id| graph.value_name(id).to_owned()).collect::<BTreeSet<_>>();
    let kept = names(made);
    names(base).into_iter().find(|name| decompose::is_of_cache(name) && !kept.contains(name))
}
