//! Which modules a method attaches to: PEFT's matching, exactly (`check_target_module_exists` and `_maybe_include_all_linear_layers` in
//! `peft/tuners/tuners_utils.py`, `_set_trainable` in `peft/utils/other.py`).
//!
//! PEFT accepts names that match nothing as long as another one matches. So do we for a configuration that PEFT wrote
//! ([`Strictness::AsPeft`]); for what a user types, every name has to match ([`Strictness::Every`]).

pub mod align_names;
pub mod nearest;
pub(crate) mod pattern;
mod ranks;
pub mod split_modules;
pub(crate) mod tables;

use std::collections::BTreeSet;

pub use self::ranks::{Ranks, Site};

use self::nearest::near;
use self::pattern::Pattern;
use crate::adapter::config::{Scope, Selection, Targets, Task};
use crate::anatomy::Anatomy;
use crate::error::{Error, Result};

/// A module that a method could attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The path, in Hugging Face's names: `model.layers.3.self_attn.q_proj`.
    pub module: String,
    /// What it is.
    pub kind: CandidateKind,
}

/// What a [`Candidate`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateKind {
    /// A linear projection inside the model.
    Linear,
    /// The linear projection that gives the predictions; `all-linear` leaves it out.
    Head,
    /// A projection by a bare parameter of another kind of module; `all-linear` leaves it out.
    Parameter,
    /// An embedding table.
    Embedding,
    /// A normalisation layer.
    Norm,
}

/// What to do about names that match nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// An error: for what a user typed.
    Every,
    /// A warning, unless nothing matches at all: for configurations that PEFT accepted.
    AsPeft,
    /// Nothing, unless nothing matches at all: for one of the files of a model, of which others have the rest.
    OfAFile,
}

/// Every module of a model that a method could attach to: projections in the order of execution, then embeddings. A module that is used
/// several times is there once.
#[must_use]
pub fn candidates(anatomy: &Anatomy) -> Vec<Candidate> {
    let head = anatomy.head.as_ref().and_then(|head| head.projection);
    let projections = anatomy.projections.iter().enumerate().map(|(place, projection)| {
        let kind = match head {
            Some(head) if head == place => CandidateKind::Head,
            _ if projection.is_linear => CandidateKind::Linear,
            _ => CandidateKind::Parameter,
        };
        (&projection.module, kind)
    });
    let embeddings =
        anatomy.embeddings.iter().filter(|embedding| !embedding.is_rotation).map(|embedding| (&embedding.module, CandidateKind::Embedding));
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut seen = BTreeSet::new();
    for (module, kind) in projections.chain(embeddings) {
        if seen.insert(module) {
            candidates.push(Candidate { module: module.clone(), kind });
        }
    }
    candidates
}

/// Every normalisation of a model: what has a weight of one axis, and is neither a projection nor a table.
#[must_use]
pub fn norms(anatomy: &Anatomy) -> Vec<Candidate> {
    let others: BTreeSet<String> = candidates(anatomy).into_iter().map(|candidate| candidate.module).collect();
    let owners = anatomy.parameters.iter().filter_map(|parameter| {
        let (module, leaf) = parameter.name.rsplit_once('.')?;
        (leaf == "weight" && parameter.is_vector && !others.contains(module)).then(|| module.to_owned())
    });
    let owners: BTreeSet<String> = owners.collect();
    owners.into_iter().map(|module| Candidate { module, kind: CandidateKind::Norm }).collect()
}

/// The places of the candidates that a method attaches to, in their order.
///
/// # Errors
/// If no module matches, or, with [`Strictness::Every`], if any name or layer matches none; the hint lists the nearest names. Also if a
/// regular expression is not one.
pub fn select(scope: &Scope, candidates: &[Candidate], strictness: Strictness) -> Result<Vec<usize>> {
    let matcher = Matcher::new(scope)?;
    let mut chosen = Vec::new();
    for (place, candidate) in candidates.iter().enumerate() {
        if matcher.is_target(candidate)? {
            chosen.push(place);
        }
    }
    if chosen.is_empty() {
        return Err(nothing_matches(scope, candidates));
    }
    for complaint in unmatched(scope, &matcher, candidates)? {
        report(complaint, strictness)?;
    }
    Ok(chosen)
}

/// Decides, module by module, whether a method attaches to it.
#[derive(Debug)]
pub struct Matcher<'s> {
    targets: TargetMatcher<'s>,
    exclude: Option<SelectionMatcher<'s>>,
    modules_to_save: Vec<Pattern>,
    saved: &'s [String],
    layers: &'s [usize],
    layer_numbers: Vec<Pattern>,
}

#[derive(Debug)]
enum TargetMatcher<'s> {
    AllLinear,
    Only(SelectionMatcher<'s>),
}

/// Decides whether a [`Selection`] has a module.
#[derive(Debug)]
pub struct SelectionMatcher<'s>(Choice<'s>);

#[derive(Debug)]
enum Choice<'s> {
    Names(&'s [String]),
    Regex(Pattern),
}

impl<'s> Matcher<'s> {
    /// A matcher for a scope.
    ///
    /// # Errors
    /// If a regular expression is not one.
    pub fn new(scope: &'s Scope) -> Result<Self> {
        let layer_numbers = match scope.layers_pattern.as_slice() {
            [] => vec![Pattern::layer("layers_pattern", None)?],
            names => names.iter().map(|name| Pattern::layer("layers_pattern", Some(name))).collect::<Result<_>>()?,
        };
        Ok(Self {
            targets: match &scope.targets {
                Targets::Default | Targets::AllLinear => TargetMatcher::AllLinear,
                Targets::Only(selection) => TargetMatcher::Only(SelectionMatcher::new("target_modules", selection)?),
            },
            exclude: scope.exclude.as_ref().map(|selection| SelectionMatcher::new("exclude_modules", selection)).transpose()?,
            modules_to_save: (scope.modules_to_save.iter().map(|name| Pattern::module_or_inside("modules_to_save", name)))
                .collect::<Result<_>>()?,
            saved: &scope.modules_to_save,
            layers: &scope.layers_to_transform,
            layer_numbers,
        })
    }

    /// Whether the method attaches to a module.
    ///
    /// # Errors
    /// If a regular expression needs too many steps.
    pub fn is_target(&self, candidate: &Candidate) -> Result<bool> {
        Ok(!self.is_excluded(&candidate.module)?
            && self.is_asked_for(candidate)?
            && (self.is_named_in_full(&candidate.module) || self.is_in_layers(&candidate.module)?))
    }

    fn is_excluded(&self, module: &str) -> Result<bool> {
        if self.exclude.as_ref().is_some_and(|exclude| exclude.has_name(module)) {
            return Ok(true);
        }
        for saved in &self.modules_to_save {
            if saved.matches(module)? {
                return Ok(true);
            }
        }
        self.exclude.as_ref().map_or(Ok(false), |exclude| exclude.has(module))
    }

    fn is_asked_for(&self, candidate: &Candidate) -> Result<bool> {
        match &self.targets {
            // PEFT saves `pre_classifier` as a whole where `classifier` is asked for, and it cannot be a target then.
            TargetMatcher::AllLinear => Ok(candidate.kind == CandidateKind::Linear && !is_whole(&candidate.module, self.saved)),
            TargetMatcher::Only(selection) => selection.has(&candidate.module),
        }
    }

    /// PEFT does not look at the layers of a module that is named by its full path.
    fn is_named_in_full(&self, module: &str) -> bool {
        matches!(&self.targets, TargetMatcher::Only(SelectionMatcher(Choice::Names(names))) if names.iter().any(|name| name == module))
    }

    fn is_in_layers(&self, module: &str) -> Result<bool> {
        if self.layers.is_empty() {
            return Ok(true);
        }
        for pattern in &self.layer_numbers {
            if let Some(layer) = pattern.layer_of(module)? {
                return Ok(self.layers.contains(&layer));
            }
        }
        Ok(false)
    }
}

impl<'s> SelectionMatcher<'s> {
    /// A matcher for a selection; `field` names it in errors.
    ///
    /// # Errors
    /// If a regular expression is not one.
    pub fn new(field: &str, selection: &'s Selection) -> Result<Self> {
        Ok(Self(match selection {
            Selection::Names(names) => Choice::Names(names),
            Selection::Regex(source) => Choice::Regex(Pattern::whole(field, source)?),
        }))
    }

    /// Whether the selection has a module.
    ///
    /// # Errors
    /// If a regular expression needs too many steps.
    pub fn has(&self, module: &str) -> Result<bool> {
        match &self.0 {
            Choice::Names(_) => Ok(self.has_name(module)),
            Choice::Regex(pattern) => pattern.matches(module),
        }
    }

    fn has_name(&self, module: &str) -> bool {
        matches!(self.0, Choice::Names(names) if names.iter().any(|name| is_tail(module, name)))
    }
}

/// Whether a path is `name`, or ends with a dot and `name`.
fn is_tail(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || (rest.ends_with('.') && !name.is_empty()))
}

/// The parameters of modules that are trained and saved as a whole.
///
/// A module is one of `modules_to_save` if its path ends with one of them, whatever stands before, even without a dot: PEFT's own rule.
/// `parameters` are names such as `classifier.weight`; the answer has their places, in order.
///
/// # Errors
/// With [`Strictness::Every`], if a name matches no module.
pub fn saved_parameters(modules_to_save: &[String], parameters: &[&str], strictness: Strictness) -> Result<Vec<usize>> {
    for name in modules_to_save {
        let is_here = parameters.iter().any(|parameter| is_saved(parameter, name));
        // PEFT names both of its heads for every classifier, which has one of them.
        let is_expected = strictness == Strictness::Every || !Task::SeqCls.heads().contains(&name.as_str());
        if !is_here && is_expected {
            let modules: Vec<&str> = parameters.iter().filter_map(|parameter| Some(parameter.rsplit_once('.')?.0)).collect();
            report(Complaint { what: "module to save", name: name.clone(), candidates: near(name, &modules) }, strictness)?;
        }
    }
    let is_any = |parameter: &&str| modules_to_save.iter().any(|name| is_saved(parameter, name));
    Ok(parameters.iter().enumerate().filter(|(_, parameter)| is_any(parameter)).map(|(place, _)| place).collect())
}

/// Whether a module itself is trained and saved as a whole.
#[must_use]
pub fn is_whole(module: &str, modules_to_save: &[String]) -> bool {
    modules_to_save.iter().any(|name| !name.is_empty() && module.ends_with(name))
}

/// Whether a parameter is inside a module whose path ends with `name`.
#[must_use]
pub fn is_saved(parameter: &str, name: &str) -> bool {
    !name.is_empty() && parameter.match_indices('.').any(|(end, _)| parameter[..end].ends_with(name))
}

/// A name that matches nothing.
struct Complaint {
    what: &'static str,
    name: String,
    candidates: Vec<String>,
}

fn report(complaint: Complaint, strictness: Strictness) -> Result<()> {
    let Complaint { what, name, candidates } = complaint;
    match strictness {
        Strictness::OfAFile => Ok(()),
        Strictness::AsPeft => {
            tracing::warn!("the model has no {what} {name:?}; it has {}", candidates.join(", "));
            Ok(())
        }
        Strictness::Every => Err(Error::not_found(what, name).with_hint(format!("the model has {}", candidates.join(", ")))),
    }
}

/// Everything in a scope that no candidate answers to.
fn unmatched(scope: &Scope, matcher: &Matcher<'_>, candidates: &[Candidate]) -> Result<Vec<Complaint>> {
    let modules: Vec<&str> = candidates.iter().map(|candidate| candidate.module.as_str()).collect();
    let mut complaints = Vec::new();
    let mut names = |what: &'static str, selection: Option<&Selection>| {
        let Some(Selection::Names(names)) = selection else { return };
        for name in names {
            if !modules.iter().any(|module| is_tail(module, name)) {
                complaints.push(Complaint { what, name: name.clone(), candidates: near(name, &modules) });
            }
        }
    };
    if let Targets::Only(selection) = &scope.targets {
        names("target module", Some(selection));
    }
    names("module to exclude", scope.exclude.as_ref());
    if !scope.layers_to_transform.is_empty() {
        let layers = layers(matcher, &modules)?;
        let candidates: Vec<String> = layers.iter().map(usize::to_string).collect();
        let absent = scope.layers_to_transform.iter().filter(|layer| !layers.contains(layer));
        complaints.extend(absent.map(|layer| Complaint { what: "layer", name: layer.to_string(), candidates: candidates.clone() }));
    }
    Ok(complaints)
}

fn layers(matcher: &Matcher<'_>, modules: &[&str]) -> Result<BTreeSet<usize>> {
    let mut layers = BTreeSet::new();
    for pattern in &matcher.layer_numbers {
        for module in modules {
            layers.extend(pattern.layer_of(module)?);
        }
    }
    Ok(layers)
}

fn nothing_matches(scope: &Scope, candidates: &[Candidate]) -> Error {
    let modules: Vec<&str> = candidates.iter().map(|candidate| candidate.module.as_str()).collect();
    let wanted = match &scope.targets {
        Targets::Default | Targets::AllLinear => "all-linear".to_owned(),
        Targets::Only(Selection::Names(names)) => names.join(", "),
        Targets::Only(Selection::Regex(source)) => source.clone(),
    };
    let restricted = !scope.layers_to_transform.is_empty() || scope.exclude.is_some() || !scope.modules_to_save.is_empty();
    let after = if restricted { ", after leaving out excluded modules, modules to save and other layers" } else { "" };
    let hint = match near(&wanted, &modules) {
        names if names.is_empty() => "no linear projections were recognised; `inspect --explain` says why".to_owned(),
        names => format!("the model has {}", names.join(", ")),
    };
    let what = match wanted.as_str() {
        "" => "the model has none of the modules that this method attaches to".to_owned(),
        wanted => format!("no module matches the targets {wanted:?}"),
    };
    Error::invalid(what + after).with_hint(hint)
}

#[cfg(test)]
mod tests;
