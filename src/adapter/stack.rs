//! Several adapters in one graph: every row of a batch is computed with its own.
//!
//! The graph has, for each projection that any of the adapters changes, inputs in which the adapters' tensors lie one behind the other, and
//! `adapter_rows` `[batch]`, which says whose are a row's. Ranks are filled up with zeros. The first adapter is all zeros: the base. As the tensors are
//! inputs of free lengths, adapters come and go without another graph, as long as they change no other projections.

use std::collections::{BTreeMap, HashMap};

use super::methods::branch::product;
use super::part::{Change, Folding, Insertion, Part};
use crate::anatomy::{Anatomy, Projection};
use crate::ir::{DType, Dim, Expr, Tensor};
use crate::num;
use crate::{Error, Result};

/// The input that says with which adapter each row is computed, int64 `[batch]`: 0 for none, 1 for the first.
pub const ROWS: &str = "adapter_rows";

/// What an adapter changes, by the names that [`names`] gives to projections.
pub type Changes = BTreeMap<String, Change>;

/// A name for each projection, in their order: its module, with a number where that is called more than once. Both decoders of a merged export
/// have the same.
#[must_use]
pub fn names(anatomy: &Anatomy) -> Vec<String> {
    let mut calls: HashMap<&str, usize> = HashMap::new();
    let name = |projection: &Projection| (projection.module.clone(), projection.weight.part.as_ref().map(|part| part.start));
    let mut found = Vec::with_capacity(anatomy.projections.len());
    for projection in &anatomy.projections {
        let (module, part) = name(projection);
        let call = calls.entry(&projection.module).or_default();
        let place = part.map_or_else(String::new, |start| format!(":{start}"));
        found.push(if *call == 0 { format!("{module}{place}") } else { format!("{module}{place}#{call}") });
        *call += 1;
    }
    found
}

/// A projection in a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StackSite {
    in_features: usize,
    out_features: usize,
    has_gain: bool,
    has_shift: bool,
}

/// The projections that adapters of a stack change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites(BTreeMap<String, StackSite>);

impl Sites {
    /// With those of one more adapter.
    #[must_use]
    pub fn and(mut self, changes: &Changes) -> Self {
        for (name, change) in changes {
            let (in_features, out_features) = (change.a.ncols(), change.b.nrows());
            let site = self.0.entry(name.clone()).or_insert(StackSite { in_features, out_features, has_gain: false, has_shift: false });
            site.has_gain |= change.gain.is_some();
            site.has_shift |= change.shift.is_some();
        }
        self
    }

    /// Whether a graph of these has all places of an adapter.
    #[must_use]
    pub fn have(&self, changes: &Changes) -> bool {
        self.clone().and(changes) == *self
    }

    /// Whether an adapter's places have the lengths that those of the others have.
    #[must_use]
    pub fn go_with(&self, changes: &Changes) -> bool {
        changes.iter().all(|(name, change)| {
            self.0.get(name).is_none_or(|site| (site.out_features, site.in_features) == (change.b.nrows(), change.a.ncols()))
        })
    }

    /// The inputs of the graph for some adapters, of which the first stands for 1. All have a rank of at least 1, and so does the base.
    #[must_use]
    pub fn tensors(&self, adapters: &[&Changes]) -> Vec<(String, Tensor)> {
        let mut found = vec![];
        for (name, site) in &self.0 {
            let changes: Vec<Option<&Change>> = std::iter::once(None).chain(adapters.iter().map(|changes| changes.get(name))).collect();
            let rank = changes.iter().flatten().map(|change| change.rank()).max().unwrap_or_default().max(1);
            found.push((input(name, "A"), matrices(&changes, [rank, site.in_features], |change| &change.a)));
            found.push((input(name, "B"), matrices(&changes, [site.out_features, rank], |change| &change.b)));
            if site.has_gain {
                found.push((input(name, "gain"), vectors(&changes, site.out_features, |change| change.gain.as_ref())));
            }
            if site.has_shift {
                found.push((input(name, "shift"), vectors(&changes, site.out_features, |change| change.shift.as_ref())));
            }
        }
        found
    }
}

fn input(site: &str, what: &str) -> String {
    format!("stack.{site}.{what}")
}

/// Matrices one behind the other, each filled up with zeros to a shape.
fn matrices(changes: &[Option<&Change>], [rows, columns]: [usize; 2], of: impl Fn(&Change) -> &ndarray::Array2<f32>) -> Tensor {
    let mut all = ndarray::Array3::<f32>::zeros((changes.len(), rows, columns));
    for (mut place, change) in all.outer_iter_mut().zip(changes) {
        let Some(own) = change.map(&of) else { continue };
        place.slice_mut(ndarray::s![..own.nrows(), ..own.ncols()]).assign(own);
    }
    Tensor::from_f32(&[changes.len(), rows, columns], all.as_slice().unwrap_or_default())
}

/// Vectors one behind the other, zeros where an adapter has none.
fn vectors(changes: &[Option<&Change>], length: usize, of: impl Fn(&Change) -> Option<&Vec<f32>>) -> Tensor {
    let zeros = vec![0.0; length];
    let all: Vec<f32> = changes.iter().flat_map(|change| change.and_then(&of).unwrap_or(&zeros).iter().copied()).collect();
    Tensor::from_f32(&[changes.len(), length], &all)
}

/// The places of a stack in a graph.
#[derive(Debug)]
pub struct Stack {
    sites: Sites,
    /// The name of each projection of the graph.
    names: Vec<String>,
    modules: Vec<String>,
}

impl Stack {
    /// Finds the places in a graph by the [`names`] of its projections.
    ///
    /// # Errors
    /// One that the graph does not have.
    pub fn new(sites: &Sites, names: Vec<String>, anatomy: &Anatomy) -> Result<Self> {
        if let Some(missing) = sites.0.keys().find(|site| !names.contains(site)) {
            return Err(Error::not_found("projection", missing.as_str()));
        }
        let own = names.iter().zip(&anatomy.projections).filter(|(name, _)| sites.0.contains_key(*name));
        let modules = own.map(|(_, projection)| projection.module.clone()).collect();
        Ok(Self { sites: sites.clone(), names, modules })
    }
}

/// The inputs of one place, each row's own.
struct OfRows<'g> {
    /// `[batch, rank, in_features]`
    a: Expr<'g>,
    /// `[batch, out_features, rank]`
    b: Expr<'g>,
    /// `[batch, 1, out_features]`
    gain: Option<Expr<'g>>,
    /// As `gain`.
    shift: Option<Expr<'g>>,
}

impl Part for Stack {
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        let main = at.anatomy.inputs.main.ok_or_else(|| Error::not_found("input", "of the batch"))?;
        let batch = at.b.expr(main).known_dims().first().cloned().filter(|length| length.as_known().is_none());
        let batch = batch.ok_or_else(|| Error::unsupported("adapters of rows", "the model computes a fixed number of rows at a time"))?;
        let rows = at.b.input(ROWS, DType::I64, std::slice::from_ref(&batch));
        for (projection, name) in at.anatomy.projections.iter().zip(&self.names) {
            if let Some(site) = self.sites.0.get(name) {
                let own = of_rows(rows, name, site);
                at.b.scoped(&format!("stack/{name}"), || put(at, projection, &own, &Batch { length: &batch, rows }))?;
            }
        }
        Ok(())
    }

    fn fold(&self, _: &Folding<'_>) -> Result<()> {
        Err(Error::invalid("a stack of adapters is not folded into weights"))
    }

    fn targets(&self) -> Vec<(String, usize)> {
        self.modules.iter().map(|module| (module.clone(), 0)).collect()
    }
}

fn of_rows<'g>(rows: Expr<'g>, name: &str, site: &StackSite) -> OfRows<'g> {
    let known = |length: usize| Dim::known(num::int(length));
    let (count, rank) = (Dim::symbol("adapters"), Dim::symbol(&format!("rank of {name}")));
    let own = |what: &str, shape: &[Dim]| {
        rows.b().input(&input(name, what), DType::F32, &[std::slice::from_ref(&count), shape].concat()).gather(rows, 0)
    };
    let vector = |what: &str| own(what, &[known(site.out_features)]).unsqueeze(&[1]);
    OfRows {
        a: own("A", &[rank.clone(), known(site.in_features)]),
        b: own("B", &[known(site.out_features), rank.clone()]),
        gain: site.has_gain.then(|| vector("gain")),
        shift: site.has_shift.then(|| vector("shift")),
    }
}

/// How many rows there are, and a value of that length.
struct Batch<'g, 'a> {
    length: &'a Dim,
    rows: Expr<'g>,
}

impl<'g> Batch<'g, '_> {
    /// A value as `[batch, positions, features]`; none of one whose first axis is not made of rows.
    fn apart(&self, value: Expr<'g>) -> Option<Expr<'g>> {
        let dims = value.dims()?;
        let (first, features) = (dims.first()?, dims.last()?.as_known()?);
        match dims.len() {
            2 if first == self.length => Some(value.unsqueeze(&[1])),
            3 if first == self.length => Some(value),
            length if length >= 2 && first.exact_div(self.length).is_some() => {
                let shape = self.rows.length(0).concat(&[value.b().ints(&[-1, features])], 0);
                Some(value.reshape_to(shape))
            }
            _ => None,
        }
    }
}

fn put<'g>(at: &Insertion<'g, '_>, projection: &Projection, own: &OfRows<'g>, batch: &Batch<'g, '_>) -> Result<()> {
    let x = batch.apart(at.b.current(projection.x).cast(DType::F32)).ok_or_else(|| not_apart(projection))?;
    at.b.rewire(at.b.expr(projection.output), |y| {
        let mut sum = x.matmul(own.a.t()).matmul(own.b.t());
        if let Some(gain) = own.gain {
            match batch.apart(product(at.b, projection)) {
                Some(product) => sum = sum + gain * product,
                None => at.b.fail(not_apart(projection)),
            }
        }
        if let Some(shift) = own.shift {
            sum = sum + shift;
        }
        y + sum.reshape_like(y).cast(y.dtype())
    });
    Ok(())
}

fn not_apart(projection: &Projection) -> Error {
    Error::unsupported(format!("adapters of rows at {}", projection.module), "it does not have the batch as its first axis")
}
