//! The names of a graph's modules, made those of an adapter's.
//!
//! An adapter knows its modules by the names of the model that it was trained in. A graph was perhaps exported from a part of that model
//! (`encoder.layer.0` instead of `bert.encoder.layer.0`) or from something around it (`wrapper.model.layers.0`). If one beginning makes all
//! the difference, the graph's names are changed, so that everything that follows, files included, speaks of modules as the adapter does.

use std::collections::BTreeSet;

use crate::adapter::config::HeadModules;
use crate::adapter::params::key::Key;
use crate::anatomy::Anatomy;

/// How a graph's names become an adapter's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// They are the same.
    Same,
    /// By writing this in front.
    Add(String),
    /// By leaving this out in front.
    Remove(String),
    /// By writing something else in front where the graph has something in front: what wraps the exported part of a model, or where the text
    /// model stands inside one of texts and images (`model.language_model.layers` and `model.layers`). Other names stay.
    Replace {
        /// What the graph has.
        wrapper: String,
        /// What the adapter has.
        front: String,
    },
    /// Each part of a model by a way of its own: what sees pictures, and what writes.
    Several(Vec<Naming>),
}

impl Naming {
    /// The adapter's name for a module of the graph; none where this way says nothing of it.
    fn name(&self, module: &str) -> Option<String> {
        match self {
            Self::Same => None,
            Self::Add(front) => Some(format!("{front}{module}")),
            Self::Remove(front) => module.strip_prefix(front.as_str()).map(str::to_owned),
            Self::Replace { wrapper, front } => module.strip_prefix(wrapper.as_str()).map(|rest| format!("{front}{rest}")),
            Self::Several(ways) => ways.iter().find_map(|way| way.name(module)),
        }
    }
}

/// Finds how a graph's modules get the names of an adapter's; none if no beginnings make the difference.
#[must_use]
pub fn compare(adapter: &BTreeSet<&str>, graph: &BTreeSet<&str>) -> Option<Naming> {
    let fits = |naming: &Naming| {
        adapter.iter().all(|module| match naming {
            Naming::Same => graph.contains(module),
            Naming::Add(front) => module.strip_prefix(front.as_str()).is_some_and(|name| graph.contains(name)),
            Naming::Remove(front) => graph.contains(format!("{front}{module}").as_str()),
            Naming::Replace { wrapper, front } => {
                let inner = module.strip_prefix(front.as_str()).map(|name| format!("{wrapper}{name}"));
                inner.map_or_else(|| graph.contains(module) && !module.starts_with(wrapper.as_str()), |name| graph.contains(name.as_str()))
            }
            Naming::Several(_) => false,
        })
    };
    let longest = adapter.iter().max_by_key(|module| module.len())?;
    let differences = graph.iter().filter_map(|name| {
        let added = front_of(longest, name).map(|front| Naming::Add(front.to_owned()));
        added.or_else(|| front_of(name, longest).map(|front| Naming::Remove(front.to_owned())))
    });
    let wrapper = wrapper(graph);
    let replaced = graph.iter().filter_map(|name| {
        let front = front_of(longest, name.strip_prefix(wrapper).filter(|_| !wrapper.is_empty())?)?;
        Some(Naming::Replace { wrapper: wrapper.to_owned(), front: front.to_owned() })
    });
    let moved = graph.iter().filter_map(|name| moved(name, longest));
    std::iter::once(Naming::Same).chain(differences).chain(replaced).chain(moved).find(fits).or_else(|| by_parts(adapter, graph))
}

/// How the parts of a model get an adapter's names, each with a stack of layers of its own: modules that are called alike stay, the others are moved.
fn by_parts(adapter: &BTreeSet<&str>, graph: &BTreeSet<&str>) -> Option<Naming> {
    let stacks: BTreeSet<String> = adapter.iter().filter_map(|module| Some(numbered(module)?.0)).collect();
    if stacks.len() < 2 {
        return None;
    }
    let mut rest: BTreeSet<&str> = adapter.iter().copied().filter(|module| !graph.contains(module)).collect();
    let mut ways: Vec<Naming> = vec![];
    while let Some(module) = rest.first().copied() {
        let covered = |way: &Naming| -> BTreeSet<&str> {
            let names = graph.iter().filter_map(|name| way.name(name));
            names.filter_map(|name| rest.get(name.as_str()).copied()).collect()
        };
        let candidates = graph.iter().filter_map(|name| stack_moved(name, module)).map(|way| (covered(&way), way));
        let (found, way) = candidates.max_by_key(|(covered, _)| covered.len()).filter(|(covered, _)| !covered.is_empty())?;
        rest.retain(|module| !found.contains(module));
        ways.push(way);
    }
    // Two stacks of the graph cannot be one of the adapter's.
    let fronts: BTreeSet<&str> =
        ways.iter().filter_map(|way| if let Naming::Replace { front, .. } = way { Some(front.as_str()) } else { None }).collect();
    if fronts.len() < ways.len() {
        return None;
    }
    // No way changes what is called as in the adapter.
    let stays = |module: &&&str| graph.contains(**module) && ways.iter().any(|way| way.name(module).is_some());
    (!adapter.iter().any(|module| stays(&module))).then_some(Naming::Several(ways))
}

/// What stands in front of the first number in a path, with its dot, and the rest.
fn numbered(path: &str) -> Option<(String, String)> {
    let words: Vec<&str> = path.split('.').collect();
    let number = words.iter().position(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((words[..number].join(".") + ".", words[number..].join(".")))
}

/// As [`moved`], for one stack of layers alone: what stands in front of the layers' number is part of both sides.
fn stack_moved(name: &str, other: &str) -> Option<Naming> {
    let ((own, rest), (others, other_rest)) = (numbered(name)?, numbered(other)?);
    let words = |path: &str| path.trim_end_matches('.').split('.').map(str::to_owned).collect::<Vec<_>>();
    let (mine, theirs) = (words(&own), words(&others));
    let holds = |all: &[String], some: &[String]| some.iter().all(|word| all.contains(word));
    let is_same = rest == other_rest && mine.last() == theirs.last() && (holds(&mine, &theirs) || holds(&theirs, &mine));
    is_same.then_some(Naming::Replace { wrapper: own, front: others })
}

/// How a name becomes another with the same end, if the words before that end in one contain those in the other, in any
/// order: `model.layers` is `model.language_model.layers`, and that is `language_model.model.layers`.
fn moved(name: &str, other: &str) -> Option<Naming> {
    let same = name.rsplit('.').zip(other.rsplit('.')).take_while(|(a, b)| a == b).count();
    let (name, other): (Vec<&str>, Vec<&str>) = (name.split('.').collect(), other.split('.').collect());
    let (wrapper, front) = (&name[..name.len() - same], &other[..other.len() - same]);
    let holds = |all: &[&str], some: &[&str]| some.iter().all(|word| all.contains(word));
    if same == 0 || wrapper.is_empty() || front.is_empty() || !(holds(wrapper, front) || holds(front, wrapper)) {
        return None;
    }
    let with_dot = |words: &[&str]| words.join(".") + ".";
    Some(Naming::Replace { wrapper: with_dot(wrapper), front: with_dot(front) })
}

/// The first segment of all names, with its dot; empty if they have none in common, or if it is that of a list of layers.
fn wrapper<'n>(names: &BTreeSet<&'n str>) -> &'n str {
    let first = names.first().and_then(|name| name.find('.').map(|end| &name[..=end])).unwrap_or_default();
    let is_behind = |name: &str| name.strip_prefix(first).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    if names.iter().all(|name| is_behind(name)) { first } else { "" }
}

/// What stands before `name` at the end of `path`, with its dot.
fn front_of<'p>(path: &'p str, name: &str) -> Option<&'p str> {
    path.strip_suffix(name).filter(|front| front.ends_with('.'))
}

/// Gives a graph's modules the names that an adapter has for them, where there is a way. `keys` are the names of the adapter's tensors.
/// `head` has modules of the same names on both sides: those that were put on the graph for the adapter.
pub fn follow<'k>(anatomy: &mut Anatomy, keys: impl IntoIterator<Item = &'k Key>, head: Option<&HeadModules>) {
    let naming = {
        let modules: BTreeSet<&str> =
            keys.into_iter().filter_map(module).filter(|module| !head.is_some_and(|head| head.has(module))).collect();
        let projections = anatomy.projections.iter().map(|projection| projection.module.as_str());
        let embeddings = anatomy.embeddings.iter().map(|embedding| embedding.module.as_str());
        let parameters = anatomy.parameters.iter().filter_map(|parameter| Some(parameter.name.rsplit_once('.')?.0));
        let graph = projections.chain(embeddings).chain(parameters).filter(|module| !head.is_some_and(|head| head.has(module)));
        compare(&modules, &graph.collect())
    };
    match naming {
        Some(Naming::Same) | None => {}
        Some(naming) => {
            tracing::info!("modules are named as in the adapter: {naming:?}");
            rename(anatomy, &naming, head);
        }
    }
}

/// The module that a tensor belongs to, or is a parameter of.
fn module(key: &Key) -> Option<&str> {
    match key {
        Key::Module { module, .. } => Some(module),
        Key::Parameter { name } | Key::PromptParameter { name } => Some(name.rsplit_once('.')?.0),
        Key::Shared(_) | Key::Prompt | Key::Encoder { .. } => None,
    }
}

/// Writes something in front of the names of all modules, but for those of a head.
pub fn put_in_front(anatomy: &mut Anatomy, front: &str, head: Option<&HeadModules>) {
    rename(anatomy, &Naming::Add(front.to_owned()), head);
}

/// Gives each module, and each parameter, the name that `new` has for it, if it has one.
pub fn rename_each(anatomy: &mut Anatomy, new: impl Fn(&str) -> Option<String>) {
    for name in names(anatomy) {
        if let Some(new) = new(name) {
            *name = new;
        }
    }
}

/// The names of modules and parameters.
fn names(anatomy: &mut Anatomy) -> impl Iterator<Item = &mut String> {
    let projections = anatomy.projections.iter_mut().map(|projection| &mut projection.module);
    let embeddings = anatomy.embeddings.iter_mut().map(|embedding| &mut embedding.module);
    let attentions = anatomy.attentions.iter_mut().map(|attention| &mut attention.module);
    let parameters = anatomy.parameters.iter_mut().map(|parameter| &mut parameter.name);
    projections.chain(embeddings).chain(attentions).chain(parameters)
}

/// Leaves out what stands in front of the names of modules.
pub fn take_off(anatomy: &mut Anatomy, front: &str) {
    rename(anatomy, &Naming::Remove(front.to_owned()), None);
}

fn rename(anatomy: &mut Anatomy, naming: &Naming, head: Option<&HeadModules>) {
    let is_of_head = |name: &str| {
        let owner = name.rsplit_once('.').map_or(name, |(owner, _)| owner);
        head.is_some_and(|head| head.has(name) || head.has(owner))
    };
    for name in names(anatomy).filter(|name| !is_of_head(name)) {
        if let Some(new) = naming.name(name) {
            *name = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_beginning_may_make_the_difference() {
        let add = |front: &str| Some(Naming::Add(front.into()));
        let remove = |front: &str| Some(Naming::Remove(front.into()));
        let rows: &[(&[&str], &[&str], Option<Naming>)] = &[
            (&["h.0.q", "h.1.q"], &["h.0.q", "h.1.q", "lm_head"], Some(Naming::Same)),
            (&["bert.layer.0.q", "bert.layer.1.q"], &["layer.0.q", "layer.1.q", "layer.1.k"], add("bert.")),
            (&["model.h.0.q", "lm_head"], &["net.model.h.0.q", "net.lm_head"], remove("net.")),
            (&["model.h.0.q", "lm_head"], &["model.model.h.0.q", "model.lm_head"], remove("model.")),
            (
                &["bert.layer.0.q", "bert.layer.1.q"],
                &["net.layer.0.q", "net.layer.1.q", "net.embed"],
                Some(Naming::Replace { wrapper: "net.".into(), front: "bert.".into() }),
            ),
            (
                &["model.language_model.layers.0.q", "lm_head"],
                &["model.layers.0.q", "model.norm", "lm_head"],
                Some(Naming::Replace { wrapper: "model.".into(), front: "model.language_model.".into() }),
            ),
            (
                &["language_model.model.layers.0.q"],
                &["model.language_model.layers.0.q", "model.visual.blocks.0.q"],
                Some(Naming::Replace { wrapper: "model.language_model.".into(), front: "language_model.model.".into() }),
            ),
            (
                &["model.layers.0.q"],
                &["model.language_model.layers.0.q", "lm_head"],
                Some(Naming::Replace { wrapper: "model.language_model.".into(), front: "model.".into() }),
            ),
            (&["text.layer.0.q"], &["image.layer.0.q", "classifier"], None),
            (
                &["model.language_model.layers.0.q", "model.language_model.layers.1.q", "model.vision_tower.encoder.layers.0.q"],
                &["model.layers.0.q", "model.layers.1.q", "model.vision_tower.encoder.layers.0.q", "lm_head"],
                Some(Naming::Several(vec![Naming::Replace {
                    wrapper: "model.layers.".into(),
                    front: "model.language_model.layers.".into(),
                }])),
            ),
            (
                &["model.language_model.layers.0.q", "model.vision_tower.encoder.layers.0.q"],
                &["model.layers.0.q", "vision_tower.encoder.layers.0.q"],
                Some(Naming::Several(vec![
                    Naming::Replace { wrapper: "model.layers.".into(), front: "model.language_model.layers.".into() },
                    Naming::Replace { wrapper: "vision_tower.encoder.layers.".into(), front: "model.vision_tower.encoder.layers.".into() },
                ])),
            ),
            (&["h.0.q", "h.2.q"], &["a.h.0.q", "b.h.2.q"], None),
            (&["bert.layer.0.q", "classifier"], &["layer.0.q", "classifier"], None),
            (&["th.0.q"], &["h.0.q"], None),
            (&[], &["h.0.q"], None),
        ];
        for (adapter, graph, expected) in rows {
            let found = compare(&adapter.iter().copied().collect(), &graph.iter().copied().collect());
            assert_eq!(&found, expected, "{adapter:?} {graph:?}");
        }
    }
}
