//! Parameters of the base that are trained as a whole: `modules_to_save`, biases, normalisations.

use crate::adapter::params::Role;
use crate::adapter::params::matrices;
use crate::adapter::part::Insertion;
use crate::anatomy::{Anatomy, Layout, Parameter, Projection};
use crate::ir::{Builder, DType, Expr, Graph, NodeId, Tensor, ValueId};
use crate::num;
use crate::{Error, Result};

/// Puts a tensor of the adapter, under a PEFT key, in the place of a parameter of the base: everything that reads the parameter as part of its
/// own module reads the tensor instead. A weight that another module shares (a tied table) stays as it is there, as with PEFT's
/// `modules_to_save`.
///
/// The tensor has PyTorch's shape and order of axes, and starts as the base's; its role says whether it is trained.
///
/// # Errors
/// A parameter that is not stored as plain floats.
pub(crate) fn parameter(at: &Insertion<'_, '_>, parameter: &Parameter, key: &str, role: Role) -> Result<()> {
    let stored = at.graph.stored(parameter.value).ok_or_else(|| quantised(parameter, "the graph computes it from quantised numbers"))?;
    let initial = in_pytorch_order(&own_part(stored, parameter)?, parameter)?;
    put(at.b, at.graph, at.anatomy, parameter, at.params.put(key, &parameter.name, role, || initial));
    Ok(())
}

/// Makes everything that reads a parameter as part of its own module read another tensor.
fn put<'g>(b: &'g Builder, graph: &Graph, anatomy: &Anatomy, parameter: &Parameter, trained: Expr<'g>) {
    let dtype = graph.stored(parameter.value).map_or(DType::F32, Tensor::dtype);
    let module = parameter.name.rsplit_once('.').map_or("", |(module, _)| module);
    let projections: Vec<&Projection> =
        anatomy.projections.iter().filter(|p| p.module == module && reads(graph, p.weight.value, parameter)).collect();
    let tables = anatomy.embeddings.iter().filter(|e| e.module == module && reads(graph, e.weight, parameter));
    b.scoped(&format!("trained/{}", parameter.name), || {
        let mut placed = false;
        for projection in projections {
            // In a graph of half precision that is computed in float32, the product reads float32 whatever is stored.
            let read = graph.producer(projection.y).and_then(|node| graph.node(node).input(1));
            let wanted = read.and_then(|id| graph.fact(id).dtype).unwrap_or(dtype);
            b.rewire_input(projection.y, 1, operand(graph, projection, trained).cast(wanted));
            placed = true;
        }
        for table in tables {
            let is_lookup = b.maker(table.output).is_some_and(|node| node.input(0) == Some(table.weight));
            if is_lookup {
                b.rewire_input(table.output, 0, trained.cast(dtype));
            } else {
                // Its rows are in another type than they are stored in.
                let rows = trained.gather(b.expr(table.indices), 0);
                b.rewire(b.expr(table.output), |old| rows.cast(old.dtype()));
            }
            placed = true;
        }
        if !placed {
            let value = if parameter.transposed { trained.t() } else { trained }.cast(dtype);
            b.rewire(b.expr(parameter.value), |stored| match &parameter.part {
                None => value,
                Some(part) => {
                    let (before, after) = (stored.slice(&[0], &[part.start], &[0]), stored.slice(&[part.end], &[i64::MAX], &[0]));
                    before.concat(&[value, after], 0)
                }
            });
        }
    });
}

/// Whether a weight is the parameter, under a name of its own or of another call of the module.
pub(super) fn reads(graph: &Graph, weight: ValueId, parameter: &Parameter) -> bool {
    graph.origin(weight) == graph.origin(parameter.value)
}

/// The trained weight as the projection's node wants it.
fn operand<'g>(graph: &Graph, projection: &Projection, trained: Expr<'g>) -> Expr<'g> {
    let wants = graph.producer(projection.y).map_or(Layout::InOut, |node| wanted_layout(graph, node));
    let has = pytorch_layout(projection);
    if wants == has { trained } else { trained.t() }
}

/// The order of axes in which a node wants its weight: `[in, out]` but for a `Gemm` that transposes it.
#[must_use]
pub fn wanted_layout(graph: &Graph, node: NodeId) -> Layout {
    if graph.node(node).int("transB", 0) == 0 { Layout::InOut } else { Layout::OutIn }
}

/// The order of axes in which the original model stores a projection's weight.
#[must_use]
pub fn pytorch_layout(projection: &Projection) -> Layout {
    if projection.conv1d { Layout::InOut } else { Layout::OutIn }
}

/// The elements that are the parameter: all, or a part of a vector.
pub(crate) fn own_part(stored: &Tensor, parameter: &Parameter) -> Result<Tensor> {
    let Some(part) = &parameter.part else { return Ok(stored.clone()) };
    let all = stored.to_f64().ok_or_else(|| Error::mismatch("dtype", "float", stored.dtype()))?;
    let own = all.get(num::index(part.start)..num::index(part.end)).ok_or_else(|| Error::mismatch("length", part.end, all.len()))?;
    Tensor::from_f64(stored.dtype(), &[own.len()], own)
}

/// An adapter's matrix for a parameter as PyTorch has it, where its axes are swapped; and whether that is told by anything.
///
/// # Errors
/// A tensor that is no matrix of numbers.
pub(crate) fn turned(graph: &Graph, parameter: &Parameter, tensor: &Tensor) -> Result<(Order, Option<Tensor>)> {
    let Some(stored) = graph.stored(parameter.value).filter(|_| parameter.transposed) else { return Ok((Order::PyTorchs, None)) };
    let order = Order::of(tensor, stored);
    Ok((order, if order == Order::Swapped { Some(matrices::transposed(tensor)?) } else { None }))
}

fn quantised(parameter: &Parameter, how: &str) -> Error {
    Error::unsupported(format!("training {}", parameter.name), how)
        .with_hint("adapt the model as it was before it was quantised; `num_labels N` puts a new head in a classifier's place")
}

fn in_pytorch_order(stored: &Tensor, parameter: &Parameter) -> Result<Tensor> {
    let values = stored.to_f32().ok_or_else(|| quantised(parameter, &format!("it is stored as {}", stored.dtype())))?;
    let tensor = Tensor::from_f32(stored.shape(), &values);
    if parameter.transposed { matrices::transposed(&tensor) } else { Ok(tensor) }
}

/// The order of axes in which an adapter has a matrix that the base stores the other way round than PyTorch. The weight of a `Linear` that a base stores as
/// `[in, out]` under its own name once stood in adapters as the base has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// PyTorch's.
    PyTorchs,
    /// The base's.
    Swapped,
    /// Neither shape nor numbers tell. It is read as PyTorch's.
    Untold,
}

impl Order {
    /// The shape tells of a matrix that is not square. Of a square one its numbers do, which are trained from the base's: they are much nearer to them in
    /// the right order.
    fn of(trained: &Tensor, stored: &Tensor) -> Self {
        const NEARER: f64 = 0.25;
        let &[rows, columns] = stored.shape() else { return Self::PyTorchs };
        if trained.shape() != stored.shape() {
            return Self::PyTorchs;
        }
        if rows != columns {
            return Self::Swapped;
        }
        let (Some(own), Some(base)) = (trained.to_f32(), stored.to_f32()) else { return Self::PyTorchs };
        let square = |a: f32, b: f32| f64::from(a - b).powi(2);
        let as_it_is: f64 = own.iter().zip(&base).map(|(a, b)| square(*a, *b)).sum();
        let turned: f64 = (0..rows)
            .flat_map(|row| (0..rows).map(move |column| (row, column)))
            .map(|(row, column)| square(own[row * rows + column], base[column * rows + row]))
            .sum();
        match () {
            () if as_it_is < NEARER * turned => Self::Swapped,
            () if turned < NEARER * as_it_is || turned.to_bits() == as_it_is.to_bits() => Self::PyTorchs,
            () => Self::Untold,
        }
    }
}

/// The base's tensor with new numbers, in the base's order of axes and type. A matrix that has that order already keeps it.
///
/// # Errors
/// If the numbers do not fit the shape.
pub fn as_stored(stored: &Tensor, trained: &Tensor, transposed: bool) -> Result<Tensor> {
    let trained = if transposed && Order::of(trained, stored) != Order::Swapped { matrices::transposed(trained)? } else { trained.clone() };
    if trained.shape() != stored.shape() {
        return Err(Error::mismatch("shape", format!("{:?}", stored.shape()), format!("{:?}", trained.shape())));
    }
    if stored.dtype() == DType::F32 {
        return Ok(trained);
    }
    let values = trained.to_f64().ok_or_else(|| Error::mismatch("dtype", "float", trained.dtype()))?;
    Tensor::from_f64(stored.dtype(), stored.shape(), &values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adapters of an earlier version had square matrices as the base stores them, and were read the other way round.
    #[test]
    fn the_order_of_a_matrix_is_told_by_its_shape_or_by_the_numbers_that_it_was_trained_from() -> Result<()> {
        let of = |shape: &[usize], numbers: &[f32]| Tensor::from_f32(shape, numbers);
        let base = of(&[2, 2], &[1.0, 2.0, -3.0, 4.0]);
        for (what, trained, order) in [
            ("as PyTorch has it", of(&[2, 2], &[1.1, -3.0, 2.0, 3.9]), Order::PyTorchs),
            ("as the base has it", of(&[2, 2], &[1.1, 2.0, -3.0, 3.9]), Order::Swapped),
            ("alike both ways", of(&[2, 2], &[1.0, 0.5, 0.5, 4.0]), Order::PyTorchs),
            ("far from both", of(&[2, 2], &[1.0, 9.0, 8.0, 4.0]), Order::Untold),
        ] {
            assert_eq!(Order::of(&trained, &base), order, "{what}");
            let expected = if order == Order::Swapped { trained.clone() } else { matrices::transposed(&trained)? };
            assert_eq!(as_stored(&base, &trained, true)?.to_f32(), expected.to_f32(), "{what}");
        }
        let base = of(&[2, 1], &[1.0, 2.0]);
        assert_eq!(
            [of(&[2, 1], &[5.0, 5.0]), of(&[1, 2], &[5.0, 5.0])].map(|own| Order::of(&own, &base)),
            [Order::Swapped, Order::PyTorchs]
        );
        Ok(())
    }
}
