//! Parameters of the base that are trained as they are, beside any method: modules saved as a whole, biases.

use crate::Result;
use crate::adapter::config::Bias;
use crate::adapter::method::{Method, Places};
use crate::adapter::params::Role;
use crate::adapter::params::key::{Family, Key, KeyPart};
use crate::adapter::part::{Change, Folding, Insertion, Part, boxed};
use crate::adapter::targets;
use crate::adapter::weights::{fold, replace};
use crate::anatomy::{Parameter, Projection, Task};
use crate::num;

use super::lacking::{Lacking, starts_with_bias};

/// Numbers of the largest weight that is trained as a whole and yet counts as a small change.
const LARGEST: i64 = 1 << 20;

/// A parameter of the base that the adapter has instead.
#[derive(Clone, Debug)]
pub(super) struct Trained {
    pub(super) parameter: Parameter,
    pub(super) key: String,
    /// Whether it is trained, or the adapter's file has other values for it that stay.
    pub(super) role: Role,
}

impl Part for Trained {
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        replace::parameter(at, &self.parameter, &self.key, self.role)
    }

    fn fold(&self, at: &Folding<'_>) -> Result<()> {
        fold::replace_parameter(at.b, at.graph, at.anatomy, &self.parameter, &at.tensor(&self.key)?)
    }

    /// The weight or the bias of a projection: a head's, as a rule. What is added to a large weight is no small update.
    fn changes(&self, at: &Folding<'_>) -> Result<Option<Vec<(usize, Change)>>> {
        let Parameter { name, value, .. } = &self.parameter;
        let module = name.rsplit_once('.').map_or("", |(module, _)| module);
        let places: Vec<(usize, &Projection)> =
            at.anatomy.projections.iter().enumerate().filter(|(_, p)| p.module == module && p.weight.part.is_none()).collect();
        let numbers = places.first().map_or(i64::MAX, |(_, p)| p.in_features.saturating_mul(p.out_features));
        let is_weight = places.iter().all(|(_, projection)| projection.weight.value == *value) && numbers <= LARGEST;
        let is_bias = places.iter().all(|(_, projection)| projection.bias == Some(*value));
        if self.role != Role::Trained || self.parameter.part.is_some() || !(is_weight || is_bias) {
            return Ok(None);
        }
        let trained = at.tensor(&self.key)?;
        let change = |(place, projection): (usize, &Projection)| {
            let change = if is_weight {
                Change::whole(fold::added_to_weight(at.graph, projection, &self.parameter, &trained)?)
            } else {
                let inputs = num::size("in_features", projection.in_features)?;
                Change::shifted(fold::added_to_vector(at.graph, &self.parameter, &trained)?, inputs)
            };
            Ok((place, change))
        };
        places.into_iter().map(change).collect::<Result<_>>().map(Some)
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
/// those modules. The biases that the graph lacks are theirs too, where the adapter has them or the head of `task` starts with them.
pub(crate) fn modules(at: &Places<'_>, method: &Method, task: Option<Task>, family: Family) -> Result<Vec<Box<dyn Part>>> {
    let names: Vec<&str> = at.anatomy.parameters.iter().map(|p| p.name.as_str()).collect();
    let places = targets::saved_parameters(at.saved, &names, at.strictness)?;
    let is_head = method.is_head_alone();
    let keyed = places.into_iter().map(|place| (place, Key::parameter(names[place], family).to_string()));
    let mut found = vec![];
    for (place, key) in keyed.filter(|(place, key)| !is_head || is_part_of_head(at, names[*place], key)) {
        found.push(boxed(Trained { parameter: at.anatomy.parameters[place].clone(), key, role: Role::Trained }));
        let Some(module) = names[place].strip_suffix(".weight") else { continue };
        let bias = Key::parameter(format!("{module}.bias"), family).to_string();
        let is_given = (at.given)(&bias).is_some();
        if is_given || starts_with_bias(at, task, module) {
            let lacking = Lacking::of(at.anatomy, module, bias);
            if lacking.is_some() && !is_given {
                tracing::info!("{module} gets a bias of zeros: the graph has none, as exporters leave out one that adds nothing");
            }
            found.extend(lacking.map(boxed));
        }
    }
    Ok(found)
}

/// Whether a parameter is that of a module to save, not of one whose name only ends like it (`out_proj` for `proj`), nor of another one of the same name
/// where it is the head's (`encoder.0.proj` for the head `proj`), unless an adapter's file has it. That of the layer in front of the head's last one is part of the head
/// (`pre_classifier` for `classifier`).
fn is_part_of_head(at: &Places<'_>, parameter: &str, key: &str) -> bool {
    let of_projection = |place: usize| at.anatomy.projections.get(place).map(|projection| projection.module.as_str());
    let head = at.anatomy.head.as_ref();
    let before = head.and_then(|head| of_projection(head.before?));
    let own = head.and_then(|head| of_projection(head.projection?)).map(|module| format!(".{module}."));
    let path = format!(".{parameter}");
    let is_saved = |name: &String| {
        let name = format!(".{name}.");
        match own.as_deref().and_then(|own| Some(&own[..own.find(&name)? + name.len()])) {
            Some(module) => path.starts_with(module),
            None => path.contains(&name),
        }
    };
    let is_before = before.is_some_and(|module| parameter.rsplit_once('.').is_some_and(|(owner, _)| owner == module));
    is_before || at.saved.iter().any(is_saved) || (at.given)(key).is_some()
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
        let key = if target { Key::module(module, KeyPart::BASE_BIAS) } else { Key::parameter(&*parameter.name, Family::Tuner) };
        found.push(Box::new(Trained { parameter: parameter.clone(), key: key.to_string(), role: Role::Trained }));
    }
    found.extend(lacking_biases(at, bias, targets));
    found
}

/// The biases that an adapter has and the graph lacks, of modules that are not saved as a whole.
fn lacking_biases(at: &Places<'_>, bias: Bias, targets: &[(String, usize)]) -> Vec<Box<dyn Part>> {
    let mut modules: Vec<&str> = at.anatomy.projections.iter().map(|projection| projection.module.as_str()).collect();
    modules.sort_unstable();
    modules.dedup();
    let lacking = |module: &str| {
        let target = targets.iter().any(|(name, _)| name == module);
        let name = format!("{module}.bias");
        let wanted = bias == Bias::All || (bias == Bias::TargetsOnly && target);
        let saved = at.saved.iter().any(|saved| targets::is_saved(&name, saved));
        let key = if target { Key::module(module, KeyPart::BASE_BIAS) } else { Key::parameter(name, Family::Tuner) }.to_string();
        if wanted && !saved && (at.given)(&key).is_some() { Lacking::of(at.anatomy, module, key) } else { None }
    };
    modules.into_iter().filter_map(lacking).map(boxed).collect()
}
