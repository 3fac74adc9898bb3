//! Biases that the original model has and the base's graph lacks: exporters drop one of zeros, with which heads start.

use crate::Result;
use crate::adapter::method::Places;
use crate::adapter::params::init;
use crate::adapter::part::{Change, Folding, Insertion, Part};
use crate::adapter::targets::Strictness;
use crate::adapter::weights::fold;
use crate::anatomy::{Anatomy, Projection, Task};
use crate::num;

/// A bias that a module gets: zeros, or what an adapter's file has.
#[derive(Clone, Debug)]
pub(super) struct Lacking {
    module: String,
    key: String,
}

impl Lacking {
    /// That of a module none of whose calls adds one, nor is a part of it.
    pub(super) fn of(anatomy: &Anatomy, module: &str, key: String) -> Option<Self> {
        let name = Self::parameter(module);
        let mut calls = calls(anatomy, module).peekable();
        let lacks = calls.peek().is_some() && calls.all(|call| call.bias.is_none() && call.rows.is_none() && call.weight.part.is_none());
        let is_known = anatomy.parameters.iter().any(|parameter| parameter.name == name);
        (lacks && !is_known).then(|| Self { module: module.to_owned(), key })
    }

    fn parameter(module: &str) -> String {
        format!("{module}.bias")
    }
}

fn calls<'a>(anatomy: &'a Anatomy, module: &'a str) -> impl Iterator<Item = &'a Projection> {
    anatomy.projections.iter().filter(move |projection| projection.module == module)
}

impl Part for Lacking {
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        for call in calls(at.anatomy, &self.module) {
            let length = num::size("out_features", call.out_features)?;
            let bias = at.params.keyed(&self.key, &Self::parameter(&self.module), || init::zeros(&[length]));
            at.b.scoped(&format!("trained/{}", Self::parameter(&self.module)), || {
                at.b.rewire(at.b.expr(call.output), |y| y + bias.cast(y.dtype()));
            });
        }
        Ok(())
    }

    fn fold(&self, at: &Folding<'_>) -> Result<()> {
        fold::add_to_bias(at, &self.module, &at.tensor(&self.key)?, 1.0)
    }

    fn changes(&self, at: &Folding<'_>) -> Result<Option<Vec<(usize, Change)>>> {
        let shift = at.numbers(&self.key)?;
        let places = at.anatomy.projections.iter().enumerate().filter(|(_, projection)| projection.module == self.module);
        let change =
            |(place, call): (usize, &Projection)| Ok((place, Change::shifted(shift.clone(), num::size("in_features", call.in_features)?)));
        places.map(change).collect::<Result<_>>().map(Some)
    }

    fn trained(&self) -> Vec<String> {
        vec![Self::parameter(&self.module)]
    }
}

/// Whether a module that a fresh adapter has as a whole is one of the head that its class gives a bias: the last one, or that before it in the same
/// module or beside it (`classifier.dense` and `classifier.out_proj`, `pre_classifier` and `classifier`).
pub(super) fn starts_with_bias(at: &Places<'_>, task: Option<Task>, module: &str) -> bool {
    let named = |place: Option<usize>| at.anatomy.projections.get(place?).map(|projection| projection.module.as_str());
    let parent = |module: &str| module.rsplit_once('.').map(|(parent, _)| parent.to_owned());
    let Some(head) = at.anatomy.head.as_ref() else { return false };
    let Some(last) = named(head.projection) else { return false };
    let is_of_head = module == last || (named(head.before) == Some(module) && parent(module) == parent(last));
    at.strictness == Strictness::Every && is_of_head && task.is_some_and(|task| task.head_has_bias(last))
}
