//! Modules that the original model has whole and the graph in parts.
//!
//! Phi-3 has one `qkv_proj` and one `gate_up_proj`. ONNX Runtime GenAI's builder splits the second into two products, and packs the queries,
//! keys and values of every model, so that a graph does not tell what its model had. The targets do: who asks for `qkv_proj` means it.

use std::ops::Range;

use super::SelectionMatcher;
use crate::adapter::config::{Scope, Targets};
use crate::anatomy::{Anatomy, Projection};
use crate::num;
use crate::{Error, Result};

/// What Hugging Face's models call a whole, and its parts in their order.
const WHOLES: &[(&str, &[&str])] = &[("qkv_proj", &["q_proj", "k_proj", "v_proj"]), ("gate_up_proj", &["gate_proj", "up_proj"])];

/// Gives the parts of every whole that a method's targets name the whole's path, and says which of its rows they are. Does nothing
/// where the graph has the whole, or the targets name a part.
///
/// # Errors
/// If a regular expression is not one or needs too many steps; a method that does not take modules in parts and names a whole.
pub fn join(anatomy: &mut Anatomy, scope: Option<&Scope>, takes_parts: bool) -> Result<()> {
    let Some(scope) = scope else { return Ok(()) };
    let Targets::Only(selection) = &scope.targets else { return Ok(()) };
    let wanted = SelectionMatcher::new("target_modules", selection)?;
    for (whole, places) in wholes(&anatomy.projections) {
        let mut names_part = false;
        for &place in &places {
            names_part |= wanted.has(&anatomy.projections[place].module)?;
        }
        if names_part || !wanted.has(&whole)? {
            continue;
        }
        if !takes_parts {
            return Err(Error::unsupported(format!("{whole}, which is in parts in this graph,"), "only plain LoRA can be put there"));
        }
        let mut start = 0;
        for place in places {
            let part = &mut anatomy.projections[place];
            part.module.clone_from(&whole);
            part.rows = Some(start..start + part.out_features);
            start += part.out_features;
        }
    }
    Ok(())
}

/// The wholes that projections could be parts of: their paths, and the places of the parts.
fn wholes(projections: &[Projection]) -> Vec<(String, Vec<usize>)> {
    let mut found = vec![];
    for (start, first) in projections.iter().enumerate() {
        for (whole, names) in WHOLES {
            let Some(parent) = first.module.strip_suffix(names[0]).filter(|parent| parent.is_empty() || parent.ends_with('.')) else {
                continue;
            };
            let place = |name: &&str| {
                let is_part = |p: &Projection| p.x == first.x && p.module.strip_prefix(parent) == Some(*name);
                projections[start..].iter().position(is_part).map(|at| start + at)
            };
            let path = format!("{parent}{whole}");
            let is_there = projections.iter().any(|p| p.module == path);
            found.extend(names.iter().map(place).collect::<Option<Vec<usize>>>().filter(|_| !is_there).map(|places| (path, places)));
        }
    }
    found
}

/// The output features of a module: those of all its parts.
pub(crate) fn out_features(anatomy: &Anatomy, projection: &Projection) -> i64 {
    let parts = anatomy.projections.iter().filter(|other| other.module == projection.module);
    parts.filter_map(|part| part.rows.as_ref()).map(|rows| rows.end).max().unwrap_or(projection.out_features)
}

/// Rows of a matrix as places.
pub(crate) fn places(rows: &Range<i64>) -> Range<usize> {
    num::index(rows.start)..num::index(rows.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::config::Selection;
    use crate::anatomy;
    use crate::ir::{Builder, DType, Dim, Expr, ModelInfo, Tensor};

    /// A feed-forward network with a gate, as GenAI's builder names it.
    fn network() -> Anatomy {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
        let product = |name: &str, x: Expr<'_>, columns: usize| {
            let weight = b.initializer(&format!("w_{name}"), Tensor::from_f32(&[4, columns], &vec![0.5; 4 * columns])).id();
            b.scoped(&format!("/model/layers.0/mlp/{name}"), || b.expr(x.id()).matmul(b.expr(weight))).id()
        };
        let (gate, up) = (product("gate_proj", x, 4), product("up_proj", x, 4));
        b.output("y", b.expr(gate).sigmoid() * b.expr(up));
        anatomy::read(&b.finish().expect("a valid graph"))
    }

    fn only(names: &[&str]) -> Scope {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Scope { targets: Targets::Only(Selection::Names(names)), ..Scope::default() }
    }

    #[test]
    fn a_whole_is_joined_where_targets_name_it() {
        let rows: [(&[&str], [&str; 2]); 3] = [
            (&["gate_up_proj"], ["gate_up_proj Some(0..4)", "gate_up_proj Some(4..8)"]),
            (&["gate_proj", "up_proj"], ["gate_proj None", "up_proj None"]),
            (&["down_proj"], ["gate_proj None", "up_proj None"]),
        ];
        for (names, expected) in rows {
            let mut anatomy = network();
            join(&mut anatomy, Some(&only(names)), true).expect("parts are taken");
            let name = |p: &Projection| p.module.rsplit('.').next().unwrap_or("").to_owned();
            let found: Vec<_> = anatomy.projections.iter().map(|p| format!("{} {:?}", name(p), p.rows)).collect();
            assert_eq!(found, expected, "{names:?}");
        }
    }
}
