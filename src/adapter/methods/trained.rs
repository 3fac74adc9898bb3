//! Parameters of the base that are trained as they are: modules saved as a whole, biases, normalisations.

use crate::adapter::config::{Bias, HeadConfig, LnTuningConfig, Method};
use crate::adapter::params::{
    Role,
    key::{Family, Key, Part as KeyPart},
};
use crate::adapter::part::{Folding, Insertion, Part, Placed, Places, boxed};
use crate::adapter::targets::{self, CandidateKind};
use crate::adapter::weights::{fold, replace};
use crate::anatomy::Parameter;
use crate::{Error, Result};

/// A parameter of the base that the adapter has instead.
#[derive(Clone, Debug)]
struct Trained {
    parameter: Parameter,
    key: String,
    /// Whether it is trained, or the adapter's file has other values for it that stay.
    role: Role,
}

impl Part for Trained {
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        replace::parameter(at, &self.parameter, &self.key, self.role)
    }

    fn fold(&self, at: &Folding<'_>) -> Result<()> {
        fold::replace_parameter(at.b, at.graph, at.anatomy, &self.parameter, &at.tensor(&self.key)?)
    }

    fn trained(&self) -> Vec<String> {
        if self.role == Role::Trained { vec![self.parameter.name.clone()] } else { vec![] }
    }

    fn replaced(&self) -> Vec<String> {
        if self.role == Role::Fixed { vec![self.parameter.name.clone()] } else { vec![] }
    }
}

/// The token table and the head, where an adapter's file has them beside what is trained: PEFT saves them if the vocabulary was touched.
pub(crate) fn given(at: &Places<'_>, family: Family) -> Vec<Box<dyn Part>> {
    let head = at.anatomy.head.as_ref().and_then(|head| at.anatomy.projections.get(head.projection?)).map(|head| &head.module);
    let tables = at.anatomy.embeddings.iter().map(|table| &table.module);
    let mut names: Vec<String> = tables.chain(head).map(|module| format!("{module}.weight")).collect();
    names.sort();
    names.dedup();
    let mut found = vec![];
    for name in names.iter().filter(|name| !at.saved.iter().any(|saved| targets::is_saved(name, saved))) {
        let key = Key::parameter(&**name, family).to_string();
        let parameter = at.anatomy.parameters.iter().find(|parameter| parameter.name == *name).filter(|_| (at.given)(&key).is_some());
        found.extend(parameter.map(|parameter| boxed(Trained { parameter: parameter.clone(), key, role: Role::Fixed })));
    }
    found
}

/// The parameters of the modules that are saved as a whole: for the head alone, those that are part of it; else all whose names PEFT takes for
/// those modules.
pub(crate) fn modules(at: &Places<'_>, method: &Method, family: Family) -> Result<Vec<Box<dyn Part>>> {
    let names: Vec<&str> = at.anatomy.parameters.iter().map(|p| p.name.as_str()).collect();
    let places = targets::saved_parameters(at.saved, &names, at.strictness)?;
    let is_head = matches!(method, Method::Head(_));
    let is_wanted = |place: &usize| !is_head || is_part_of_head(at, names[*place]);
    Ok(places
        .into_iter()
        .filter(is_wanted)
        .map(|place| {
            let parameter = at.anatomy.parameters[place].clone();
            let key = Key::parameter(&*parameter.name, family).to_string();
            boxed(Trained { parameter, key, role: Role::Trained })
        })
        .collect())
}

/// Whether a parameter is that of a module to save, not of one whose name only ends like it (`out_proj` for `proj`); but that of the layer in front
/// of the head's last one is part of the head (`pre_classifier` for `classifier`).
fn is_part_of_head(at: &Places<'_>, parameter: &str) -> bool {
    let path = format!(".{parameter}");
    let head = at.anatomy.head.as_ref();
    let before = head.and_then(|head| at.anatomy.projections.get(head.before?)).map(|projection| projection.module.as_str());
    let is_before = before.is_some_and(|module| parameter.rsplit_once('.').is_some_and(|(owner, _)| owner == module));
    is_before || at.saved.iter().any(|name| path.contains(&format!(".{name}.")))
}

/// The biases that are trained beside a method, but those of modules that are saved as a whole. They keep their own names, but inside a module
/// that the method attaches to PEFT calls the original module `base_layer`.
pub(crate) fn biases(at: &Places<'_>, bias: Bias, targets: &[(String, usize)]) -> Vec<Box<dyn Part>> {
    let mut found: Vec<Box<dyn Part>> = vec![];
    for parameter in &at.anatomy.parameters {
        let Some(module) = parameter.name.strip_suffix(".bias") else { continue };
        let target = targets.iter().any(|(name, _)| name == module);
        let wanted = bias == Bias::All || (bias == Bias::TargetsOnly && target);
        let saved = at.saved.iter().any(|name| targets::is_saved(&parameter.name, name));
        if !wanted || saved {
            continue;
        }
        let key = if target { Key::module(module, KeyPart::BaseBias) } else { Key::parameter(&*parameter.name, Family::Tuner) };
        found.push(Box::new(Trained { parameter: parameter.clone(), key: key.to_string(), role: Role::Trained }));
    }
    found
}

/// The head alone: nothing but the modules that are saved as a whole; the model's own head where none is named.
pub(crate) fn head(config: &HeadConfig, at: &Places<'_>) -> Result<Placed> {
    let mut config = config.clone();
    config.modules_to_save = at.saved.to_vec();
    if config.modules_to_save.is_empty() {
        let head = at.anatomy.head.as_ref().and_then(|head| at.anatomy.projections.get(head.projection?));
        let module = head.map(|projection| projection.module.clone());
        config.modules_to_save.push(module.ok_or_else(|| {
            Error::invalid("the model's head was not recognised").with_hint("name the module to train with `--modules-to-save`")
        })?);
    }
    Ok(Placed { parts: vec![], settled: Method::Head(config) })
}

/// The normalisations (Zhao et al., Tuning LayerNorm in Attention; PEFT `tuners/ln_tuning/layer.py`): all of them where none are named.
pub(crate) fn normalisations(config: &LnTuningConfig, at: &Places<'_>) -> Result<Placed> {
    let mut config = config.clone();
    config.scope.modules_to_save = at.saved.to_vec();
    let candidates = targets::norms(at.anatomy);
    let chosen: Vec<&str> = if config.scope.targets.is_default() {
        candidates.iter().map(|norm| norm.module.as_str()).collect()
    } else {
        targets::select(&config.scope, &candidates, at.strictness)?.into_iter().map(|place| candidates[place].module.as_str()).collect()
    };
    debug_assert!(candidates.iter().all(|candidate| candidate.kind == CandidateKind::Norm), "only norms are candidates");
    if chosen.is_empty() {
        let error = Error::unsupported("tuning the normalisations", "none was found in this graph");
        return Err(error.with_hint("`peft-onnx inspect MODEL` lists what the graph has, and what each method could train"));
    }
    let parts = [("weight", KeyPart::NormWeight), ("bias", KeyPart::NormBias)];
    let mut found: Vec<Box<dyn Part>> = vec![];
    for module in &chosen {
        for (leaf, part) in parts {
            let name = format!("{module}.{leaf}");
            let parameter = at.anatomy.parameters.iter().find(|parameter| parameter.name == name).cloned();
            let key = Key::module(*module, part).to_string();
            found.extend(parameter.map(|parameter| boxed(Trained { parameter, key, role: Role::Trained })));
        }
    }
    config.scope.settle(&chosen, at.saved);
    Ok(Placed { parts: found, settled: Method::LnTuning(config) })
}
