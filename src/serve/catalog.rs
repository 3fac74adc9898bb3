//! What requests may name: the model that was given, and adapters of a folder, which come, change and go; each with the session that computes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::adapters::{self, Stamp};
use super::hosts::{Common, Host, Mind, Offer, Values, base, refused};
use super::refusal::Refusal;
use super::shelf::{Shelf, ShelvedAdapter};
use crate::error::Result;
use crate::export::{Manifest, stacked};
use crate::model::Model;
use crate::peft::{self, AdapterFiles};

/// Sessions, and the adapters that were asked for.
pub(super) struct Catalog {
    offer: Offer,
    pub common: Common,
    pub hosts: Vec<Host>,
    /// The name of the model or bundle that was given.
    pub name: String,
    pub folder: Option<PathBuf>,
    /// What computes the model that was given, and with what.
    own: (usize, Arc<Values>),
    /// Adapters of the folder that were asked for.
    loaded: BTreeMap<String, Loaded>,
    /// Which adapter each host that takes one at a time has now.
    worn: BTreeMap<usize, String>,
    /// The base, to find the places of adapters in.
    model: Option<Model>,
}

/// An adapter that was read.
struct Loaded {
    stamp: Stamp,
    host: usize,
    values: Arc<Values>,
}

impl Catalog {
    pub(super) fn new(offer: Offer, common: Common, first: Host, name: String, folder: Option<PathBuf>) -> Self {
        let worn = BTreeMap::from([(0, name.clone())]);
        Self {
            offer,
            common,
            hosts: vec![first],
            name,
            folder,
            own: (0, Arc::new(Values::Own)),
            loaded: BTreeMap::new(),
            worn,
            model: None,
        }
    }

    /// The host and the numbers of a model's name, read again where its files have changed.
    pub(super) fn find(&mut self, name: &str) -> Result<(usize, Arc<Values>), Refusal> {
        if name == self.name {
            return Ok(self.own());
        }
        let there = self.folder.as_deref().map(adapters::list).unwrap_or_default();
        let Some(folder) = there.get(name) else {
            self.loaded.remove(name);
            let names: Vec<String> = std::iter::once(self.name.clone()).chain(there.into_keys()).collect();
            return Err(Refusal::no_model(name, &names));
        };
        let stamp = Stamp::of(folder);
        if let Some(loaded) = self.loaded.get(name).filter(|loaded| loaded.stamp == stamp) {
            return Ok((loaded.host, Arc::clone(&loaded.values)));
        }
        let (host, values) = self.load(folder).map_err(|error| refused(&error, name))?;
        let values = Arc::new(values);
        self.worn.retain(|_, worn| worn != name);
        self.loaded.insert(name.to_owned(), Loaded { stamp, host, values: Arc::clone(&values) });
        Ok((host, values))
    }

    /// The host of the model that was given, and with what.
    pub(super) fn own(&self) -> (usize, Arc<Values>) {
        (self.own.0, Arc::clone(&self.own.1))
    }

    /// Gives a host that takes one adapter at a time the one that is asked for.
    pub(super) fn wear(&mut self, host: usize, model: &str, values: &Values) -> Result<()> {
        if self.worn.get(&host).is_some_and(|worn| worn == model) {
            return Ok(());
        }
        let (vector, names) = match values {
            Values::Vector(vector, names) => (vector.clone(), names.clone()),
            Values::Own if matches!(&self.hosts[host].mind, Mind::Answerer(predictor) if predictor.can_change()) => {
                (self.hosts[host].own_vector()?, self.hosts[host].class_names())
            }
            _ => return Ok(()),
        };
        if let Mind::Answerer(predictor) = &mut self.hosts[host].mind {
            predictor.wear(vector, names)?;
        }
        self.worn.insert(host, model.to_owned());
        Ok(())
    }

    /// Reads an adapter: for a shelf where it can stand on one, else for the first host that takes it, else for one of its own.
    fn load(&mut self, folder: &Path) -> Result<(usize, Values)> {
        let files = peft::read(folder)?;
        let class_names = Manifest::read(folder).ok().map(|manifest| manifest.class_names).filter(|names| !names.is_empty());
        if self.common.may_stack() {
            match self.shelved(files.clone(), class_names.clone()) {
                Ok((host, adapter)) => return Ok((host, Values::Shelved(adapter))),
                Err(why) => tracing::info!("{} is computed in batches of its own: {why}", folder.display()),
            }
        }
        for (at, host) in self.hosts.iter().enumerate().filter(|(_, host)| host.shelf.is_none()) {
            match host.values(files.clone(), class_names.clone()) {
                Ok(values) => return Ok((at, values)),
                Err(why) => tracing::debug!("{} has no place in graph {at}: {why}", folder.display()),
            }
        }
        let host = self.common.own(&self.offer, files.clone())?;
        let values = host.values(files, class_names).unwrap_or(Values::Own);
        self.hosts.push(host);
        Ok((self.hosts.len() - 1, values))
    }

    /// An adapter on a shelf, and the host that has it.
    fn shelved(&mut self, files: AdapterFiles, class_names: Option<Vec<String>>) -> Result<(usize, Arc<ShelvedAdapter>)> {
        let names = class_names.unwrap_or_else(|| self.common.class_names.clone());
        let adapter = Arc::new(ShelvedAdapter::of(stacked::stackable(self.model()?, files, self.common.task)?, names));
        let shelf_of = |host: &Host| host.shelf.as_ref().is_some_and(|shelf| shelf.takes(&adapter));
        if let Some(at) = self.hosts.iter().position(shelf_of) {
            if let Some(wider) =
                self.hosts[at].shelf.as_ref().filter(|shelf| !shelf.has_places_of(&adapter)).map(|shelf| shelf.wider(&adapter))
            {
                self.hosts[at] = self.stacked(wider)?;
            }
            return Ok((at, adapter));
        }
        let shelf = Shelf::of(&adapter, self.common.class_names.clone());
        let own = self.own_on(&shelf)?;
        let shelf = own.as_ref().and_then(Values::adapter).map_or(shelf.wider(&adapter), |own| shelf.wider(own));
        let mut host = self.stacked(shelf)?;
        host.check_rows(&adapter)?;
        self.hosts.push(host);
        let at = self.hosts.len() - 1;
        if let Some(own) = own {
            self.own = (at, Arc::new(own));
        }
        Ok((at, adapter))
    }

    /// What was given, on a shelf: the base without an adapter, or one more adapter. None if it stands on one, or cannot.
    fn own_on(&mut self, shelf: &Shelf) -> Result<Option<Values>> {
        if self.own.0 != 0 {
            return Ok(None);
        }
        match &self.offer {
            Offer::Model(..) => Ok(shelf.new_head().is_none().then_some(Values::Own)),
            Offer::Bundle(bundle) => {
                let files = bundle.files()?;
                let found = stacked::stackable(self.model()?, files, self.common.task).ok();
                let adapter = found.map(|own| ShelvedAdapter::of(own, self.common.class_names.clone()));
                Ok(adapter.filter(|own| shelf.takes(own)).map(|own| Values::Shelved(Arc::new(own))))
            }
        }
    }

    /// Closes the first session when what was given is computed by another, and nobody needs it any more.
    pub(super) fn close_unused(&mut self, is_used: impl Fn(usize) -> bool) {
        let needs = |loaded: &Loaded| loaded.host == 0;
        if self.own.0 != 0 && !matches!(self.hosts[0].mind, Mind::Closed) && !is_used(0) && !self.loaded.values().any(needs) {
            self.hosts[0].mind = Mind::Closed;
        }
    }

    fn stacked(&mut self, shelf: Shelf) -> Result<Host> {
        let model = self.model()?;
        self.common.stacked(&self.offer, model, shelf)
    }

    /// The base, read once.
    fn model(&mut self) -> Result<Model> {
        if self.model.is_none() {
            self.model = Some(base(&self.offer)?);
        }
        self.model.clone().ok_or_else(|| crate::Error::not_found("model", "of the server"))
    }
}
