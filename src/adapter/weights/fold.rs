//! Folding trained parameters into the base's constants.

use std::collections::BTreeMap;
use std::ops::Range;

use ndarray::{Array2, Axis};

use super::replace::{as_stored, reads, wanted_layout};
use crate::adapter::params::init;
use crate::adapter::params::matrices;
use crate::adapter::part::Folding;
use crate::anatomy::{Anatomy, Embedding, Layout, Parameter, Projection};
use crate::ir::{Builder, Graph, NodeId, Tensor, ValueId};
use crate::num;
use crate::{Error, Place, Result};

/// Changes a module's weight, which `update` sees as `[out_features, in_features]`; where the graph has it in parts, `update` sees the rows of
/// one, and which they are.
///
/// A weight that other modules read too (a tied table) stays as it is for them.
///
/// # Errors
/// A weight that is stored neither as floats nor in a way that [`requantise`](super::requantise) knows, or one that `update` gives another shape.
pub(crate) fn change_weight(
    at: &Folding<'_>,
    module: &str,
    update: impl Fn(Array2<f32>, Option<&Range<i64>>) -> Result<Array2<f32>>,
) -> Result<()> {
    let mut parts: BTreeMap<Option<i64>, Vec<&Projection>> = BTreeMap::new();
    for projection in at.anatomy.projections.iter().filter(|p| p.module == module) {
        parts.entry(projection.rows.as_ref().map(|rows| rows.start)).or_default().push(projection);
    }
    if parts.is_empty() {
        return Err(Error::not_found("module", module));
    }
    parts.values().try_for_each(|projections| {
        let rows = projections.first().and_then(|part| part.rows.as_ref());
        change(at, module, projections, |weight| update(weight, rows))
    })
}

/// Changes the weight that some projections of a module share.
fn change(
    at: &Folding<'_>,
    module: &str,
    projections: &[&Projection],
    update: impl FnOnce(Array2<f32>) -> Result<Array2<f32>>,
) -> Result<()> {
    let Some(first) = projections.first() else { return Err(Error::not_found("module", module)) };
    if first.weight.part.is_none() && !at.graph.stored(first.weight.value).is_some_and(|tensor| tensor.dtype().is_float()) {
        return match projections {
            [only] => super::requantise::change(at, only, update),
            _ => Err(Error::unsupported(format!("rounding the weight of {module} again"), "it is used more than once")),
        };
    }
    let place = || Place::Tensor(at.graph.value_name(first.weight.value).to_owned());
    let own = weight_of(at.graph, first).map_err(|e| e.at(place()))?;
    let changed = checked(update, own).map_err(|e| e.at(place()))?;
    let (whole, parts): (Vec<&Projection>, Vec<&Projection>) = projections.iter().partition(|projection| projection.weight.part.is_none());
    if let Some(first) = whole.first() {
        let stored = floats(at.graph, first.weight.value).and_then(|stored| flat(stored, first))?;
        let folded = as_stored(&stored, &matrices::tensor(&turned(changed.clone(), first.weight.layout).view()), false)?;
        put_weight(at.b, at.graph, at.anatomy, &whole, &folded, first.weight.layout);
    }
    // A module that is called several times may be a part of several constants; putting it twice into one does no harm.
    parts.into_iter().try_for_each(|projection| put_part(at, projection, &changed))
}

/// Puts a module's weight, `[out_features, in_features]`, into the constant that it is a part of. Other parts may have been changed already.
fn put_part(at: &Folding<'_>, projection: &Projection, own: &Array2<f32>) -> Result<()> {
    let id = projection.weight.value;
    let stored = at.b.constant_of(id).map_or_else(|| floats(at.graph, id), Ok)?;
    let mut whole = turned(matrix_of(&stored)?, projection.weight.layout);
    let part = part_of(projection.weight.part.as_ref(), whole.nrows())?;
    if (part.len(), whole.ncols()) != own.dim() {
        return Err(Error::mismatch("shape of a copy", format!("{:?}", own.dim()), format!("{:?}", (part.len(), whole.ncols()))));
    }
    whole.slice_axis_mut(Axis(0), part.into()).assign(own);
    at.b.store(id, as_stored(&stored, &matrices::tensor(&turned(whole, projection.weight.layout).view()), false)?);
    Ok(())
}

/// The weight of a projection that an adapter is computed from: all its numbers must be finite.
pub(crate) fn finite_weight_of(graph: &Graph, projection: &Projection) -> Result<Array2<f32>> {
    let weight = weight_of(graph, projection)?;
    let bad = weight.iter().filter(|value| !value.is_finite()).count();
    if bad > 0 {
        let error = Error::invalid(format!("{bad} of {} numbers of this weight are not finite (NaN or infinite)", weight.len()));
        let hint =
            "the adapter would start from them: this method needs a base whose weights are numbers; an ordinary LoRA does not read them";
        return Err(error.at(Place::Tensor(projection.module.clone())).with_hint(hint));
    }
    Ok(weight)
}

/// A projection's weight as `[out_features, in_features]`.
///
/// # Errors
/// A weight that is not stored as plain floats.
pub(crate) fn weight_of(graph: &Graph, projection: &Projection) -> Result<Array2<f32>> {
    let stored = flat(floats(graph, projection.weight.value)?, projection)?;
    let whole = turned(matrix_of(&stored)?, projection.weight.layout);
    let part = part_of(projection.weight.part.as_ref(), whole.nrows())?;
    Ok(whole.slice_axis(Axis(0), part.into()).to_owned())
}

/// What a trained tensor, in PyTorch's order of axes, adds to a projection's weight, `[out_features, in_features]`.
///
/// # Errors
/// A tensor of another shape; a weight that is not stored as plain floats.
pub(crate) fn added_to_weight(graph: &Graph, projection: &Projection, parameter: &Parameter, trained: &Tensor) -> Result<Array2<f32>> {
    let stored = floats(graph, parameter.value)?;
    let trained = as_stored(&stored, trained, parameter.transposed).map_err(|e| e.at(Place::Tensor(parameter.name.clone())))?;
    let own = |tensor: Tensor| -> Result<Array2<f32>> { Ok(turned(matrix_of(&flat(tensor, projection)?)?, projection.weight.layout)) };
    Ok(own(trained)? - own(stored)?)
}

/// What a trained vector adds to the base's.
///
/// # Errors
/// As [`added_to_weight`].
pub(crate) fn added_to_vector(graph: &Graph, parameter: &Parameter, trained: &Tensor) -> Result<Vec<f32>> {
    let stored = floats(graph, parameter.value)?;
    let numbers = |tensor: &Tensor| tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()));
    let (old, new) = (numbers(&stored)?, numbers(&as_stored(&stored, trained, false)?)?);
    Ok(new.iter().zip(old).map(|(new, old)| new - old).collect())
}

/// A weight as the matrix that a graph makes of it: exporters may store it with more axes, or with one.
fn flat(stored: Tensor, projection: &Projection) -> Result<Tensor> {
    if stored.shape().len() == 2 {
        return Ok(stored);
    }
    let (rows, columns) = (num::size("in_features", projection.in_features)?, num::size("out_features", projection.out_features)?);
    stored.reshaped(if projection.weight.layout == Layout::InOut { vec![rows, columns] } else { vec![columns, rows] })
}

/// A stored weight as `[out_features, in_features]`, or such a matrix as it is stored.
fn turned(matrix: Array2<f32>, layout: Layout) -> Array2<f32> {
    match layout {
        Layout::OutIn => matrix,
        Layout::InOut => matrix.reversed_axes(),
    }
}

/// The places of a part among `all`.
fn part_of(part: Option<&Range<i64>>, all: usize) -> Result<Range<usize>> {
    let Some(part) = part else { return Ok(0..all) };
    let (start, end) = (num::index(part.start), num::index(part.end));
    if start <= end && end <= all { Ok(start..end) } else { Err(Error::mismatch("length", end, all)) }
}

/// Applies a change that must keep the shape.
fn checked(change: impl FnOnce(Array2<f32>) -> Result<Array2<f32>>, stored: Array2<f32>) -> Result<Array2<f32>> {
    let shape = stored.dim();
    let changed = change(stored)?;
    if changed.dim() != shape {
        return Err(Error::mismatch("shape of the update", format!("{shape:?}"), format!("{:?}", changed.dim())));
    }
    Ok(changed)
}

fn matrix_of(stored: &Tensor) -> Result<Array2<f32>> {
    let values = stored.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", stored.dtype()))?;
    matrices::matrix(&Tensor::from_f32(stored.shape(), &values))
}

/// Changes the table of some lookups, `[rows, hidden]`; everything else that reads it keeps it as it is.
///
/// # Errors
/// A table that is not stored as plain floats.
pub(crate) fn change_table(at: &Folding<'_>, lookups: &[&Embedding], change: impl Fn(&Array2<f32>) -> Result<Array2<f32>>) -> Result<()> {
    for own in by_weight(lookups).values() {
        put_table(at.b, at.graph, at.anatomy, own, changed_table(at, own[0], &change)?);
    }
    Ok(())
}

/// Changes the table of some lookups for everything that reads it, a tied head among them.
///
/// # Errors
/// A table that is not stored as plain floats.
pub(crate) fn change_tied_table(
    at: &Folding<'_>,
    lookups: &[&Embedding],
    change: impl Fn(&Array2<f32>) -> Result<Array2<f32>>,
) -> Result<()> {
    let tables = by_weight(lookups);
    for own in tables.values() {
        at.b.store(own[0].weight, changed_table(at, own[0], &change)?);
    }
    let head = at.anatomy.head.as_ref().and_then(|head| head.projection).map(|place| &at.anatomy.projections[place]);
    // Some exporters store the tied weight twice.
    if let (Some(head), Some((_, own))) = (head.filter(|head| !tables.contains_key(&head.weight.value)), tables.first_key_value()) {
        let folded = changed_table(at, own[0], &change)?;
        let is_as_table = (head.weight.layout == Layout::InOut) == own[0].transposed;
        at.b.store(head.weight.value, if is_as_table { folded } else { matrices::transposed(&folded)? });
    }
    Ok(())
}

/// Lookups by the constant that they read.
fn by_weight<'a>(lookups: &[&'a Embedding]) -> BTreeMap<ValueId, Vec<&'a Embedding>> {
    let mut tables: BTreeMap<ValueId, Vec<&Embedding>> = BTreeMap::new();
    for lookup in lookups {
        tables.entry(lookup.weight).or_default().push(lookup);
    }
    tables
}

/// A table with its change, as it is stored.
fn changed_table(at: &Folding<'_>, lookup: &Embedding, change: impl FnOnce(&Array2<f32>) -> Result<Array2<f32>>) -> Result<Tensor> {
    let place = || Place::Tensor(at.graph.value_name(lookup.weight).to_owned());
    let stored = floats(at.graph, lookup.weight)?;
    let own = table_of(&stored, lookup).map_err(|e| e.at(place()))?;
    let changed = checked(|table| change(&table), own).map_err(|e| e.at(place()))?;
    as_stored(&stored, &matrices::tensor(&changed.view()), lookup.transposed)
}

/// A table of floats as `[rows, hidden]`, however it is stored.
///
/// # Errors
/// A table that is not stored as plain floats.
pub(crate) fn table_of(stored: &Tensor, lookup: &Embedding) -> Result<Array2<f32>> {
    let matrix = matrix_of(stored)?;
    Ok(if lookup.transposed { matrix.reversed_axes() } else { matrix })
}

/// Some rows of a table, float32 `[rows, hidden]`.
///
/// # Errors
/// A table that is not stored as plain floats.
pub(crate) fn rows_of(stored: &Tensor, lookup: &Embedding, rows: &[usize]) -> Result<Tensor> {
    Ok(matrices::tensor(&table_of(stored, lookup)?.select(Axis(0), rows).view()))
}

/// Adds `scaling · bias` to a module's bias, or gives it one.
///
/// # Errors
/// A bias that is not stored as plain floats; a module without one that is a part of another, or inside a branch of the graph.
pub(crate) fn add_to_bias(at: &Folding<'_>, module: &str, bias: &Tensor, scaling: f64) -> Result<()> {
    let more = bias.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", bias.dtype()))?;
    let add = |bias: &[f32]| Ok(bias.iter().zip(&more).map(|(base, more)| base + init::narrow(scaling) * more).collect());
    match change_biases(at, module, more.len(), add)? {
        0 => put_bias(at, module, &more, scaling),
        _ => Ok(()),
    }
}

/// Gives a module without a bias one.
fn put_bias(at: &Folding<'_>, module: &str, bias: &[f32], scaling: f64) -> Result<()> {
    for projection in at.anatomy.projections.iter().filter(|p| p.module == module) {
        let output = projection.output;
        let is_there = is_there(at.graph, output) && at.graph.producer(output).is_some();
        let dtype = if is_there { at.b.fact(output).dtype.filter(|dtype| dtype.is_float()) } else { None };
        let Some(dtype) = dtype.filter(|_| projection.rows.is_none()) else {
            let why = "the base has no bias there to fold it into, nor a place of its own to add it";
            return Err(Error::unsupported(format!("merging the bias of {module}"), why)
                .with_hint("`export` the inference graph, which has the adapter beside the weights"));
        };
        let values: Vec<f64> = bias.iter().map(|&value| f64::from(value) * scaling).collect();
        let own = at.b.initializer(&format!("{module}.bias"), Tensor::from_f64(dtype, &[values.len()], &values)?);
        at.b.rewire(at.b.expr(output), |y| y + own);
    }
    Ok(())
}

/// Changes a module's bias, `[out_features]`, if it has one.
///
/// # Errors
/// A bias that is not stored as plain floats, or of another length; as `change`.
pub(crate) fn change_bias(at: &Folding<'_>, module: &str, out_features: usize, change: impl Fn(&[f32]) -> Result<Vec<f32>>) -> Result<()> {
    change_biases(at, module, out_features, change).map(|_| ())
}

/// Changes a module's bias wherever it is, once in each place; gives the number of places.
fn change_biases(at: &Folding<'_>, module: &str, out_features: usize, change: impl Fn(&[f32]) -> Result<Vec<f32>>) -> Result<usize> {
    let mut places: Vec<(ValueId, Option<&Range<i64>>)> = vec![];
    for projection in at.anatomy.projections.iter().filter(|p| p.module == module) {
        let part = projection.weight.part.as_ref();
        places.extend(projection.bias.map(|id| (id, part)).filter(|place| !places.contains(place)));
    }
    for &(id, part) in &places {
        // Other parts may have been changed already.
        let stored = match part {
            None => floats(at.graph, id)?,
            Some(_) => at.b.constant_of(id).map_or_else(|| floats(at.graph, id), Ok)?,
        };
        let mut all = stored.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", stored.dtype()))?;
        let part = part_of(part, all.len())?;
        if part.len() != out_features {
            return Err(Error::mismatch("length of the bias", part.len(), out_features));
        }
        let changed = change(&all[part.clone()])?;
        all.splice(part, changed);
        at.b.store(id, as_stored(&stored, &Tensor::from_f32(stored.shape(), &all), false)?);
    }
    Ok(places.len())
}

/// Puts a trained parameter, in PyTorch's order of axes, in the base's place.
///
/// # Errors
/// A tensor of another shape.
pub(crate) fn replace_parameter(b: &Builder, graph: &Graph, anatomy: &Anatomy, parameter: &Parameter, trained: &Tensor) -> Result<()> {
    if let Some(part) = &parameter.part {
        return replace_part(b, graph, parameter, part, trained);
    }
    let stored = floats(graph, parameter.value)?;
    let folded = as_stored(&stored, trained, parameter.transposed).map_err(|e| e.at(Place::Tensor(parameter.name.clone())))?;
    let module = parameter.name.rsplit_once('.').map_or("", |(module, _)| module);
    let projections: Vec<&Projection> =
        anatomy.projections.iter().filter(|p| p.module == module && reads(graph, p.weight.value, parameter)).collect();
    if let Some(first) = projections.first() {
        put_weight(b, graph, anatomy, &projections, &folded, first.weight.layout);
    } else {
        let is_own = |table: &&Embedding| table.module == module && reads(graph, table.weight, parameter);
        match &anatomy.embeddings.iter().filter(is_own).collect::<Vec<_>>()[..] {
            [] => b.store(parameter.value, folded),
            own => put_table(b, graph, anatomy, own, folded),
        }
    }
    Ok(())
}

/// The same for a part of a vector, of which other parts may have been replaced already.
fn replace_part(b: &Builder, graph: &Graph, parameter: &Parameter, part: &Range<i64>, trained: &Tensor) -> Result<()> {
    let stored = b.constant_of(parameter.value).map_or_else(|| floats(graph, parameter.value), Ok)?;
    let (Some(mut all), Some(own)) = (stored.to_f32(), trained.to_f32()) else {
        return Err(Error::mismatch("dtype", "float", trained.dtype()));
    };
    let part = part_of(Some(part), all.len())?;
    if part.len() != own.len() {
        return Err(Error::mismatch("length", part.len(), own.len()).at(Place::Tensor(parameter.name.clone())));
    }
    all[part].copy_from_slice(&own);
    b.store(parameter.value, as_stored(&stored, &Tensor::from_f32(stored.shape(), &all), false)?);
    Ok(())
}

fn floats(graph: &Graph, id: ValueId) -> Result<Tensor> {
    is_stored_as_floats(graph, id)?;
    let computed = || not_floats("this weight", "the graph computes it from others");
    graph.stored(id).cloned().ok_or_else(computed)
}

/// Refuses a weight whose numbers are wanted and that is quantised.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) with what it is stored as.
pub(crate) fn is_stored_as_floats(graph: &Graph, id: ValueId) -> Result<()> {
    // What was decomposed has values that the file's own graph lacks.
    if graph.values().len() <= id.index() {
        return Err(not_floats("this weight", "it is stored in blocks of small integers"));
    }
    match graph.fact(id).dtype.filter(|dtype| !dtype.is_float()) {
        None => Ok(()),
        Some(dtype) => Err(not_floats(&format!("the weight {}", graph.value_name(id)), &format!("it is stored as {dtype}"))),
    }
}

/// A weight that is not stored as floats, where its numbers are wanted.
fn not_floats(what: &str, how: &str) -> Error {
    Error::unsupported(format!("computing with the numbers of {what}"), how)
        .with_hint("this method reads the base's weights: take an ordinary LoRA, which does not, or a base that is not quantised")
}

/// Replaces a weight in place where only this module reads it; else gives the module one of its own.
fn put_weight(b: &Builder, graph: &Graph, anatomy: &Anatomy, projections: &[&Projection], folded: &Tensor, layout: Layout) {
    let arranged = |wanted: Layout| if wanted == layout { Ok(folded.clone()) } else { matrices::transposed(folded) };
    for projection in projections {
        // A module that is called twice may have its weight twice.
        let id = projection.weight.value;
        let put = if is_shared(graph, anatomy, id, &projection.module) {
            own_reader(graph, projection).and_then(|node| {
                let own = b.initializer(&format!("{}.weight", projection.module), arranged(wanted_layout(graph, node))?);
                // It may be stored in another type than it is read in.
                let read = graph.node(node).input(1).map_or(own, |read| own.cast(b.expr(read).dtype()));
                b.rewire_input(projection.y, 1, read);
                Ok(())
            })
        } else {
            let as_before = |own: Tensor| graph.stored(id).map_or(Ok(own.clone()), |stored| own.reshaped(stored.shape().to_vec()));
            arranged(projection.weight.layout).and_then(as_before).map(|own| b.store(id, own))
        };
        if let Err(error) = put {
            b.fail(error);
        }
    }
}

/// The node of a projection in the graph that is folded into, where that can be given a weight of its own.
fn own_reader(graph: &Graph, projection: &Projection) -> Result<NodeId> {
    graph.producer(projection.y).ok_or_else(|| in_branches(&projection.module))
}

/// Puts a table, as it is stored, in its place where only these lookups read it; else gives them one of their own.
fn put_table(b: &Builder, graph: &Graph, anatomy: &Anatomy, lookups: &[&Embedding], folded: Tensor) {
    let Some(id) = lookups.first().map(|lookup| lookup.weight) else { return };
    let is_own = |table: &Embedding| lookups.iter().any(|lookup| lookup.output == table.output);
    let is_shared = anatomy.projections.iter().any(|p| p.weight.value == id)
        || anatomy.embeddings.iter().any(|table| table.weight == id && !is_own(table))
        || readers(graph, id) > lookups.len();
    match lookups.first().filter(|_| is_shared) {
        None => b.store(id, folded),
        Some(first) => {
            let rows = if first.transposed { matrices::transposed(&folded) } else { Ok(folded) };
            let own = match rows {
                Ok(rows) => b.initializer(&format!("{}.weight", first.module), rows),
                Err(error) => return b.fail(error),
            };
            for lookup in lookups {
                let node = if is_there(graph, lookup.output) { graph.producer(lookup.output) } else { None };
                match node.map(|node| graph.node(node)) {
                    None => b.fail(in_branches(&lookup.module)),
                    Some(node) if node.input(0) == Some(id) && &*node.op == "Gather" => b.rewire_input(lookup.output, 0, own),
                    // Its rows are read in another type or order than they are stored in.
                    Some(_) => {
                        let rows = own.gather(b.expr(lookup.indices), 0);
                        b.rewire(b.expr(lookup.output), |old| rows.cast(old.dtype()));
                    }
                }
            }
        }
    }
}

/// Whether a graph has a value of one that was decomposed.
fn is_there(graph: &Graph, value: ValueId) -> bool {
    value.index() < graph.values().len()
}

/// How many inputs of nodes a value is. A decoder with a cache and one without, merged into the branches of one choice, are one model: what
/// both of them read is read as it was.
fn readers(graph: &Graph, id: ValueId) -> usize {
    graph.uses(id).iter().filter(|a_use| a_use.input.is_some()).count()
}

/// A module that cannot be given a weight of its own.
fn in_branches(module: &str) -> Error {
    let why = "it shares its weight with another module, inside the branches of a choice";
    Error::unsupported(format!("folding into {module}"), why)
        .with_hint("`export` the inference graph, which has the adapter beside the weights")
}

/// Whether a constant is read by more than one module.
fn is_shared(graph: &Graph, anatomy: &Anatomy, id: ValueId, module: &str) -> bool {
    let others = anatomy.projections.iter().filter(|p| p.weight.value == id).map(|p| &p.module);
    let tables = anatomy.embeddings.iter().filter(|e| e.weight == id).map(|e| &e.module);
    let uses_here = anatomy.projections.iter().filter(|p| p.weight.value == id && p.module == module).count();
    others.chain(tables).any(|other| other != module) || readers(graph, id) > uses_here.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy;
    use crate::ir::{DType, Dim, Expr, ModelInfo};

    #[test]
    fn every_copy_of_a_shared_modules_weight_is_replaced() {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(2)]);
        let call = |scope: &str, x: Expr<'_>, name: &str| {
            let weight = b.initializer(name, Tensor::from_f32(&[2, 2], &[1., 2., 3., 4.])).id();
            let product = b.scoped(scope, || b.expr(x.id()).matmul(b.expr(weight)).tanh());
            (weight, product.id())
        };
        let (first, once) = call("/block/dense", x, "copy_1");
        let (second, twice) = call("/block/dense_1", b.expr(once), "copy_2");
        b.output("y", b.expr(twice));
        let graph = b.finish().expect("a valid graph");
        let anatomy = anatomy::read(&graph);
        let projections: Vec<&Projection> = anatomy.projections.iter().filter(|p| p.module == "block.dense").collect();
        assert_eq!(projections.len(), 2, "one module, called twice");

        let folded = Tensor::from_f32(&[2, 2], &[5., 6., 7., 8.]);
        let b = Builder::on(&graph);
        put_weight(&b, &graph, &anatomy, &projections, &folded, Layout::InOut);
        let merged = b.finish().expect("a valid graph");
        assert_eq!((merged.initializer(first), merged.initializer(second)), (Some(&folded), Some(&folded)));
    }
}
