//! What another adapter needs for the graph of a bundle: the graph has the scales, rows and shared projections of the bundle's own adapter as
//! constants.

use crate::adapter::methods;
use crate::ir::Tensor;
use crate::peft::AdapterFiles;
use crate::{Error, Place, Result};

/// The adapter with its scales brought to those of the bundle's `own`.
///
/// # Errors
/// Adapters of different methods; other rows, scales or shared projections than the graph has.
pub(in crate::export) fn fitted(mut files: AdapterFiles, own: &AdapterFiles) -> Result<AdapterFiles> {
    same_fixed(&files, own)?;
    let (graph, method) = (&own.config.method, &files.config.method);
    if graph.row().adapter_file != method.row().adapter_file {
        same("method", graph.name(), method.name())?;
    }
    for ((what, graph), (_, adapter)) in graph.constants().iter().zip(method.constants()) {
        same(what, graph, &adapter)?;
    }
    for (name, tensor) in &mut files.tensors {
        if let Some(key) = methods::key(name, method.family()) {
            *tensor = method.fitted(graph, &key, tensor.clone()).map_err(|error| error.at(Place::Tensor(name.clone())))?;
        }
    }
    Ok(files)
}

fn same(what: &'static str, graph: &str, adapter: &str) -> Result<()> {
    if graph == adapter {
        return Ok(());
    }
    Err(Error::mismatch(what, graph, adapter).with_hint("they are constants of this graph; inject the adapter to get its own graph"))
}

/// What never changes is in the graph.
fn same_fixed(files: &AdapterFiles, own: &AdapterFiles) -> Result<()> {
    let differs = |(name, tensor): &(&String, &Tensor)| super::is_fixed(name) && own.tensors.get(*name).is_some_and(|own| own != *tensor);
    match files.tensors.iter().find(differs) {
        Some((name, _)) => Err(Error::invalid("other numbers than those in the graph, which never change")
            .at(Place::Tensor(name.clone()))
            .with_hint("their shared projections differ; inject the adapter to get its own graph")),
        None => Ok(()),
    }
}
