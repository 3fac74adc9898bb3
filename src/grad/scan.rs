//! A `Scan` that carries nothing from round to round, backwards: rounds that do not know of each other are differentiated one by one.
//!
//! The backward pass is a `Scan` over the same slices and those of the outputs' gradients. Each round runs the forward round again, so that none of
//! its inner values is kept from the forward pass on; it gives the gradient of its slices, and adds that of every value from outside to the
//! sum of the rounds before.

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::error::{Refusal, Result};
use crate::ir::{Attr, Body, Builder, Expr, Fact, Graph, Node, NodeSpec, ValueId};
use crate::num;

/// A gradient that goes back to a value.
pub(super) type Contribution<'g> = (Expr<'g>, Expr<'g>);

/// The vector-Jacobian product of what a builder has, as [`vjp`](super::vjp) gives it.
pub(super) type Differentiate = for<'b> fn(&'b Builder, &[(Expr<'b>, Expr<'b>)], &[Expr<'b>]) -> Result<Vec<Option<Expr<'b>>>>;

/// What can be differentiated of a `Scan`.
struct Rounds<'n> {
    node: &'n Node,
    body: &'n Graph,
    /// The axis along which each input is sliced.
    input_axes: Vec<i64>,
    /// The axis along which each output is collected.
    output_axes: Vec<i64>,
}

impl<'n> Rounds<'n> {
    /// # Errors
    /// Why not.
    fn of(node: &'n Node) -> Result<Self, Refusal> {
        let Some(Attr::Graph(body)) = node.attrs.get("body") else { return Err("it has no body".into()) };
        let read = num::index(node.int("num_scan_inputs", 0));
        if read != node.inputs.len() || node.inputs.iter().any(Option::is_none) {
            return Err("it carries values from round to round".into());
        }
        let is_reversed = ["scan_input_directions", "scan_output_directions"]
            .into_iter()
            .any(|name| node.ints(name).is_some_and(|directions| directions.iter().any(|&direction| direction != 0)));
        if is_reversed {
            return Err("it goes from the last slice to the first".into());
        }
        let axes = |name: &str, count: usize| node.ints(name).map_or_else(|| vec![0; count], <[i64]>::to_vec);
        let (input_axes, output_axes) = (axes("scan_input_axes", read), axes("scan_output_axes", node.outputs.len()));
        Ok(Self { node, body, input_axes, output_axes })
    }
}

/// The gradients of what a `Scan` reads, where `live` says that they are asked for; `dys` are those of its outputs.
///
/// # Errors
/// Why there are none.
pub(super) fn backward<'g>(
    b: &'g Builder,
    node: &Node,
    dys: &[Option<Expr<'g>>],
    live: impl Fn(ValueId) -> bool,
    vjp: Differentiate,
) -> Result<Vec<Contribution<'g>>, Refusal> {
    let rounds = Rounds::of(node)?;
    let slices: Vec<usize> = (0..node.inputs.len()).filter(|&at| node.input(at).is_some_and(&live)).collect();
    let mut outside: Vec<ValueId> = vec![];
    for id in node.captures.iter().copied().filter(|&id| live(id)) {
        if !outside.contains(&id) {
            outside.push(id);
        }
    }
    let body = body(b, &rounds, dys, &outside, &slices, vjp).map_err(|error| error.to_string())?;
    let given = dys.iter().flatten().count();
    let attrs = [
        ("num_scan_inputs", Attr::Int(num::int(node.inputs.len() + given))),
        ("scan_input_axes", Attr::Ints(input_axes(&rounds, dys))),
        ("scan_output_axes", Attr::Ints(slices.iter().map(|&at| rounds.input_axes[at]).collect())),
        ("body", Attr::Graph(Arc::new(body.graph))),
    ];
    let zeros = outside.iter().map(|&id| Some(b.expr(id).zeros_like().id()));
    let spec = NodeSpec {
        op: "Scan".into(),
        inputs: zeros.chain(node.inputs.iter().copied()).chain(dys.iter().flatten().map(|dy| Some(dy.id()))).collect(),
        outputs: vec![Some("".into()); outside.len() + slices.len()],
        attrs: attrs.into_iter().map(|(name, attr)| (Arc::from(name), attr)).collect::<IndexMap<_, _>>(),
        captures: body.captures,
        ..NodeSpec::default()
    };
    let outputs = b.node(spec);
    let values = outside.iter().copied().chain(slices.iter().filter_map(|&at| node.input(at)));
    let pairs = values.zip(outputs).filter_map(|(value, gradient)| Some((b.expr(value), gradient?)));
    Ok(pairs
        .map(|(value, gradient)| {
            b.assume(gradient.id(), Fact { contents: None, ..value.fact() });
            (value, gradient)
        })
        .collect())
}

fn input_axes(rounds: &Rounds<'_>, dys: &[Option<Expr<'_>>]) -> Vec<i64> {
    let of_gradients = dys.iter().zip(&rounds.output_axes).filter(|(dy, _)| dy.is_some()).map(|(_, axis)| *axis);
    rounds.input_axes.iter().copied().chain(of_gradients).collect()
}

/// One round backwards: sums so far, slices and gradients in; sums and gradients of slices out.
fn body<'g>(
    b: &'g Builder,
    rounds: &Rounds<'_>,
    dys: &[Option<Expr<'g>>],
    outside: &[ValueId],
    slices: &[usize],
    vjp: Differentiate,
) -> Result<Body> {
    let back = b.body("back");
    let sums: Vec<Expr<'_>> = outside
        .iter()
        .zip(0..)
        .map(|(&id, i)| back.input_value(&back.scoped_name(&format!("sum_{i}")), Fact { contents: None, ..b.fact(id) }, None))
        .collect();
    let mut here: HashMap<ValueId, Expr<'_>> = HashMap::new();
    for (i, &id) in rounds.body.inputs().iter().enumerate() {
        let fact = Fact { contents: None, ..rounds.body.fact(id).clone() };
        here.insert(id, back.input_value(&back.scoped_name(&format!("slice_{i}")), fact, None));
    }
    let made: Vec<(usize, ValueId)> = rounds.body.outputs().iter().copied().enumerate().filter(|(at, _)| dys[*at].is_some()).collect();
    let given: Vec<Expr<'_>> = made
        .iter()
        .map(|(at, id)| {
            let fact = Fact { contents: None, ..rounds.body.fact(*id).clone() };
            back.input_value(&back.scoped_name(&format!("gradient_{at}")), fact, None)
        })
        .collect();
    for (&id, &outer) in rounds.body.captured().iter().zip(&rounds.node.captures) {
        here.insert(id, back.capture(b.expr(outer)));
    }
    back.copy_nodes(rounds.body, &mut here)?;
    let seeds: Vec<(Expr<'_>, Expr<'_>)> = made.iter().zip(&given).map(|((_, id), &dy)| (here[id], dy)).collect();
    let of_slices = slices.iter().map(|&at| here[&rounds.body.inputs()[at]]);
    let wrt: Vec<Expr<'_>> = outside.iter().map(|&id| back.capture(b.expr(id))).chain(of_slices).collect();
    let gradients = vjp(&back, &seeds, &wrt)?;
    for (at, ((sum, gradient), i)) in sums.iter().zip(&gradients).zip(0..).enumerate() {
        let next = gradient.map_or_else(|| sum.identity(), |gradient| *sum + gradient.sum_to(wrt[at]));
        back.output(&back.scoped_name(&format!("sum_next_{i}")), next);
    }
    for (slice, (gradient, i)) in wrt[outside.len()..].iter().zip(gradients[outside.len()..].iter().zip(0..)) {
        back.output(&back.scoped_name(&format!("slice_gradient_{i}")), gradient.unwrap_or_else(|| slice.zeros_like()));
    }
    back.finish_body()
}
