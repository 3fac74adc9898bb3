//! Adapters that one session computes rows of together: their tensors one behind the other, and which rows have whose.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::adapter::config::NewHead;
use crate::adapter::stack::{Changes, ROWS, Sites};
use crate::error::{Error, Result};
use crate::export::stacked::Stackable;
use crate::generate::Worn;
use crate::ir::Graph;
use crate::ort::{DeviceTensor, HostTensor};

/// An adapter that was read.
#[derive(Debug)]
pub(super) struct ShelvedAdapter {
    pub changes: Changes,
    pub new_head: Option<NewHead>,
    /// The names of the classes in the order of their numbers.
    pub class_names: Vec<String>,
}

impl ShelvedAdapter {
    pub(super) fn of(adapter: Stackable, class_names: Vec<String>) -> Self {
        Self { changes: adapter.changes, new_head: adapter.new_head, class_names }
    }
}

/// The adapters of a session.
#[derive(Debug)]
pub(super) struct Shelf {
    /// The places that the session's graph has.
    sites: Sites,
    new_head: Option<NewHead>,
    /// The names of the base's own classes.
    class_names: Vec<String>,
    adapters: Vec<Arc<ShelvedAdapter>>,
    tensors: Vec<(String, DeviceTensor)>,
    /// The inputs of the session's graph: places that lead to nothing that is asked for are not among them.
    inputs: BTreeSet<String>,
}

impl Shelf {
    /// A shelf for adapters that go together with the first one.
    pub(super) fn of(first: &ShelvedAdapter, class_names: Vec<String>) -> Self {
        let sites = Sites::default().and(&first.changes);
        Self { sites, new_head: first.new_head.clone(), class_names, adapters: vec![], tensors: vec![], inputs: BTreeSet::new() }
    }

    /// Whether an adapter can stand beside the others.
    pub(super) fn takes(&self, adapter: &ShelvedAdapter) -> bool {
        self.new_head == adapter.new_head && self.sites.go_with(&adapter.changes)
    }

    /// Whether the session's graph has all places of an adapter.
    pub(super) fn has_places_of(&self, adapter: &ShelvedAdapter) -> bool {
        self.sites.have(&adapter.changes)
    }

    /// A shelf that has the places of one more adapter, for another session.
    pub(super) fn wider(&self, adapter: &ShelvedAdapter) -> Self {
        let (new_head, class_names) = (self.new_head.clone(), self.class_names.clone());
        let sites = self.sites.clone().and(&adapter.changes);
        Self { sites, new_head, class_names, adapters: self.adapters.clone(), tensors: vec![], inputs: BTreeSet::new() }
    }

    /// The shelf of a session with this graph.
    pub(super) fn for_graph(self, graph: &Graph) -> Self {
        Self { inputs: graph.inputs().iter().map(|&id| graph.value_name(id).to_owned()).collect(), ..self }
    }

    pub(super) fn sites(&self) -> &Sites {
        &self.sites
    }

    pub(super) fn new_head(&self) -> Option<&NewHead> {
        self.new_head.as_ref()
    }

    /// The names of the classes of a row: its adapter's, else the base's.
    pub(super) fn class_names<'a>(&'a self, adapter: Option<&'a ShelvedAdapter>) -> &'a [String] {
        adapter.map_or(&self.class_names, |adapter| &adapter.class_names)
    }

    /// The number of each row's adapter; what nobody uses any more makes room.
    ///
    /// # Errors
    /// No memory for their tensors.
    pub(super) fn numbers(&mut self, rows: &[Option<&Arc<ShelvedAdapter>>]) -> Result<Vec<i64>> {
        let is_there = |shelf: &Self, adapter: &Arc<ShelvedAdapter>| shelf.adapters.iter().any(|own| Arc::ptr_eq(own, adapter));
        let has_all = rows.iter().flatten().all(|adapter| is_there(self, adapter));
        if !has_all || (self.tensors.is_empty() && self.inputs.contains(ROWS)) {
            // One that has changed, or is gone, is held by nobody but the shelf.
            self.adapters.retain(|adapter| Arc::strong_count(adapter) > 1);
            for adapter in rows.iter().flatten() {
                if !is_there(self, adapter) {
                    self.adapters.push(Arc::clone(adapter));
                }
            }
            let changes: Vec<&Changes> = self.adapters.iter().map(|adapter| &adapter.changes).collect();
            let read = self.sites.tensors(&changes).into_iter().filter(|(name, _)| self.inputs.contains(name));
            let tensors = read.map(|(name, tensor)| {
                let values = tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()))?;
                Ok((name, DeviceTensor::of(&HostTensor::new(tensor.shape().to_vec(), values)?)?))
            });
            self.tensors = tensors.collect::<Result<_>>()?;
        }
        let number = |adapter: &&Arc<ShelvedAdapter>| self.adapters.iter().position(|own| Arc::ptr_eq(own, adapter)).map(|place| place + 1);
        Ok(rows.iter().map(|row| crate::num::int(row.as_ref().and_then(number).unwrap_or_default())).collect())
    }

    /// What a session is fed with for rows of these numbers.
    pub(super) fn worn<'a>(&'a self, rows: &'a [i64]) -> Worn<'a> {
        Worn { tensors: &self.tensors, rows: self.inputs.contains(ROWS).then_some((ROWS, rows)) }
    }
}
