//! Folding trained numbers into the base's constants.

use ndarray::Array2;

use super::replace::{as_stored, wanted_layout};
use crate::anatomy::{Anatomy, Layout, Parameter, Projection};
use crate::ir::{Builder, Graph, Tensor, ValueId};
use crate::{Error, Place, Result};

/// Adds `delta` `[out_features, in_features]` to a module's weight.
///
/// A weight that other modules read too (a tied table) stays as it is for them.
///
/// # Errors
/// A weight that is not stored as plain floats, or a delta of another shape.
pub(super) fn add_to_weight(b: &Builder, graph: &Graph, anatomy: &Anatomy, module: &str, delta: &Array2<f32>) -> Result<()> {
    let projections: Vec<&Projection> = anatomy.projections.iter().filter(|p| p.module == module).collect();
    let Some(first) = projections.first() else { return Err(Error::not_found("module", module)) };
    let place = || Place::Tensor(graph.value_name(first.weight.value).to_owned());
    let stored = floats(graph, first.weight.value)?;
    let delta = match first.weight.layout {
        Layout::OutIn => delta.view(),
        Layout::InOut => delta.t(),
    };
    let base = super::matrix(&stored).map_err(|e| e.at(place()))?;
    if base.dim() != delta.dim() {
        return Err(Error::mismatch("shape of the update", format!("{:?}", base.dim()), format!("{:?}", delta.dim())).at(place()));
    }
    let sum = super::tensor(&(base + delta).view());
    let folded = as_stored(&stored, &sum, false)?;
    put_weight(b, graph, anatomy, &projections, folded, first.weight.layout);
    Ok(())
}

/// Adds `scaling · bias` to a module's bias.
///
/// # Errors
/// A module without a bias; one that is not stored as plain floats.
pub(super) fn add_to_bias(b: &Builder, graph: &Graph, anatomy: &Anatomy, module: &str, bias: &Tensor, scaling: f64) -> Result<()> {
    let id = anatomy.projections.iter().find(|p| p.module == module).and_then(|p| p.bias);
    let id = id.ok_or_else(|| Error::unsupported(format!("merging the bias of {module}"), "the base has no bias there to fold it into"))?;
    let stored = floats(graph, id)?;
    let (Some(base), Some(more)) = (stored.to_f64(), bias.to_f64()) else { return Err(Error::mismatch("dtype", "float", bias.dtype())) };
    if base.len() != more.len() {
        return Err(Error::mismatch("length of the bias", base.len(), more.len()));
    }
    let sum: Vec<f64> = base.iter().zip(&more).map(|(base, more)| base + scaling * more).collect();
    b.set_initializer(id, Tensor::from_f64(stored.dtype(), stored.shape(), &sum)?);
    Ok(())
}

/// Puts a trained parameter, in PyTorch's order of axes, in the base's place.
///
/// # Errors
/// A tensor of another shape.
pub(super) fn replace_parameter(b: &Builder, graph: &Graph, anatomy: &Anatomy, parameter: &Parameter, trained: &Tensor) -> Result<()> {
    let stored = floats(graph, parameter.value)?;
    let folded = as_stored(&stored, trained, parameter.transposed).map_err(|e| e.at(Place::Tensor(parameter.name.clone())))?;
    let module = parameter.name.rsplit_once('.').map_or("", |(module, _)| module);
    let projections: Vec<&Projection> =
        anatomy.projections.iter().filter(|p| p.module == module && p.weight.value == parameter.value).collect();
    match projections.first() {
        Some(first) => put_weight(b, graph, anatomy, &projections, folded, first.weight.layout),
        None => put_shared(b, graph, anatomy, parameter, folded),
    }
    Ok(())
}

fn floats(graph: &Graph, id: ValueId) -> Result<Tensor> {
    let name = graph.value_name(id);
    let stored = graph.initializer(id).ok_or_else(|| Error::not_found("initializer", name))?;
    if stored.dtype().is_float() {
        Ok(stored.clone())
    } else {
        Err(Error::unsupported(format!("folding into {name}"), format!("it is stored as {}", stored.dtype())))
    }
}

/// Replaces a weight in place where only this module reads it; else gives the module one of its own.
fn put_weight(b: &Builder, graph: &Graph, anatomy: &Anatomy, projections: &[&Projection], folded: Tensor, layout: Layout) {
    let Some(first) = projections.first() else { return };
    let id = first.weight.value;
    if !is_shared(graph, anatomy, id, &first.module) {
        b.set_initializer(id, folded);
        return;
    }
    for projection in projections {
        let wanted = graph.producer(projection.y).map_or(Layout::InOut, |node| wanted_layout(graph, node));
        let own = if wanted == layout { Ok(folded.clone()) } else { super::transposed(&folded) };
        match own {
            Ok(own) => b.rewire_input(projection.y, 1, b.initializer(&format!("{}.weight", projection.module), own)),
            Err(error) => b.fail(error),
        }
    }
}

fn put_shared(b: &Builder, graph: &Graph, anatomy: &Anatomy, parameter: &Parameter, folded: Tensor) {
    let module = parameter.name.rsplit_once('.').map_or("", |(module, _)| module);
    let tables: Vec<ValueId> =
        anatomy.embeddings.iter().filter(|e| e.module == module && e.weight == parameter.value).map(|e| e.output).collect();
    if tables.is_empty() || !is_shared(graph, anatomy, parameter.value, module) {
        b.set_initializer(parameter.value, folded);
        return;
    }
    let own = b.initializer(&parameter.name, folded);
    for table in tables {
        b.rewire_input(table, 0, own);
    }
}

/// Whether a constant is read by more than one module.
fn is_shared(graph: &Graph, anatomy: &Anatomy, id: ValueId, module: &str) -> bool {
    let others = anatomy.projections.iter().filter(|p| p.weight.value == id).map(|p| &p.module);
    let tables = anatomy.embeddings.iter().filter(|e| e.weight == id).map(|e| &e.module);
    let uses_here = anatomy.projections.iter().filter(|p| p.weight.value == id && p.module == module).count();
    others.chain(tables).any(|other| other != module) || graph.uses(id).len() > uses_here.max(1)
}
