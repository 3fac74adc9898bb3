//! Training sees whole sequences: cache inputs are empty, cache outputs unused.

use crate::anatomy::Anatomy;
use crate::ir::{Builder, Dim, Expr};

/// Replaces the inputs with the past by tensors of length 0, and with them every length that counts the past.
pub fn close(b: &Builder, anatomy: &Anatomy) {
    let Some(main) = anatomy.inputs.main.filter(|_| !anatomy.cache.is_empty()) else { return };
    let ids = b.expr(main);
    let (batch, seq) = (ids.dim(0), ids.dim(1));
    // A decoder's cache of its encoder is as long as the encoder's states, which are there.
    let is_of_data = |dim: &Dim| {
        let is_past = |input: &Expr<'_>| anatomy.cache.iter().any(|slot| slot.past == input.id());
        let has = |input: &Expr<'_>| input.dims().is_some_and(|dims| dims.contains(dim));
        b.inputs().iter().any(|input| !is_past(input) && has(input))
    };
    let of_data: Vec<Dim> = anatomy.cache.iter().flat_map(|slot| b.expr(slot.past).known_dims()).filter(is_of_data).collect();
    for slot in &anatomy.cache {
        let past = b.expr(slot.past);
        let dims = past.known_dims();
        let lengths: Vec<_> = dims
            .iter()
            .map(|dim| match dim.as_known() {
                Some(known) => b.ints(&[known]),
                None if *dim == batch => ids.length(0),
                None => b.ints(&[0]),
            })
            .collect();
        let Some((first, rest)) = lengths.split_first() else { continue };
        let empty = first.concat(rest, 0).filled(0.0, past.dtype());
        b.remove_input(past, empty);
        for dim in dims.iter().filter(|dim| dim.as_known().is_none() && **dim != batch && !of_data.contains(dim)) {
            b.substitute(dim, &Dim::known(0));
        }
    }
    // The mask of a model with a cache covers past and present; there is only the present.
    if let Some(mask) = anatomy.inputs.attention_mask {
        let covered = b.expr(mask).dim(1);
        if covered != seq {
            b.substitute(&covered, &seq);
        }
    }
}
