//! Module paths in Hugging Face's form, from what exporters leave in a graph.
//!
//! | where | example | who |
//! |---|---|---|
//! | annotations of nodes | `pkg.torch.onnx.name_scopes` | torch's exporter since 2.5 |
//! | names of nodes and values | `/model/layers.0/mlp/up_proj/MatMul` | torch's older exporter, optimum, ONNX Runtime GenAI's builder |
//! | names of initializers | `model.layers.0.mlp.up_proj.bias` | all of them, for constants that they did not change |
//!
//! The node says where a constant is used, the constant says where it belongs; they differ for tied weights. A wrapper around the
//! model (`m.model.layers.0`) is taken off.

use std::collections::{BTreeMap, BTreeSet};

use super::lists::quoted;
use crate::ir::{Graph, Node, NodeId, ValueId};

/// Modules that people wrap a model in; nobody names a part of a model so.
const WRAPPERS: &[&str] = &["m", "module", "_orig_mod", "base_model", "auto_model", "hf_model", "wrapped", "wrapped_model", "inner", "net"];

/// Parts of models that can hold everything there is, and are no wrappers.
const PARTS: &[&str] = &["encoder", "decoder", "text_model", "vision_model", "audio_model", "language_model"];

/// Operators whose name an optimizer keeps in front of its own: `/lm_head/MatMul/MatMulAddFusion`.
const FUSED: &[&str] = &["MatMul", "Gemm", "Add", "Gather", "Reshape", "Transpose", "Tensordot"];

/// What quantisers put behind the name of a weight whose small integers they store.
const QUANTISED: &[&str] = &["_quantized", "_quant", "_q4", "_q8", "_Q4", "_Q8", "_q", "_int8", "_uint8", "_int4", "_uint4", "_packed"];

/// What the graph says of one module's name.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// The module whose code wrote the node.
    scope: Option<String>,
    /// The module that owns the constant.
    owner: Option<String>,
    /// The class of the module, if the exporter left it.
    class: Option<String>,
    /// The path of the Hugging Face model inside wrappers, if the exporter left enough to tell; empty if there is no wrapper.
    root: Option<String>,
}

/// The module that owns a constant, and what the module calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) module: String,
    pub(super) leaf: String,
}

/// Turns evidence into names, knowing what the graph's names have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Namer {
    /// What wrappers put in front, with the dot.
    wrapper: String,
    /// Whether ONNX Runtime GenAI's builder named things, which has words of its own.
    pub(super) genai: bool,
    /// What is missing in front of scopes that begin with a word, with the dot: modules whose own code was not run, only that of those inside
    /// (`OPTForCausalLM` calls `model.decoder`, and its scope is `decoder`). Constants tell.
    skipped: BTreeMap<String, String>,
}

impl Evidence {
    /// What is known of a module from the nodes that it wrote (the first that has a name counts) and the constants that it owns.
    pub(super) fn of(graph: &Graph, nodes: &[NodeId], constants: &[Option<ValueId>]) -> Self {
        let nodes = || nodes.iter().map(|&id| graph.node(id));
        let owner = constants.iter().flatten().find_map(|&id| owned(graph.value_name(id)));
        Self {
            scope: nodes().find_map(|node| annotated_scope(node).or_else(|| named_scope(graph, node))),
            owner: owner.map(|owned| owned.module),
            class: nodes().find_map(|node| from_end(&classes(node), 1)),
            root: nodes().find_map(root),
        }
    }

    /// The module whose code wrote the node, with any wrapper.
    pub(super) fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// Whether only a constant's name tells the module.
    pub(super) fn is_owner_only(&self) -> bool {
        self.scope.is_none()
    }

    /// Whether the code of one module wrote both.
    pub(super) fn is_of_same_scope(&self, other: &Self) -> bool {
        self.scope.is_some() && self.scope == other.scope
    }

    /// The last word of the module's name, if there is any name.
    pub(super) fn last_word(&self) -> Option<&str> {
        self.scope.as_deref().or(self.owner.as_deref())?.rsplit('.').next()
    }

    /// The name of the module's class, if the exporter left it.
    pub(super) fn class_name(&self) -> Option<&str> {
        self.class.as_deref()?.rsplit('.').next()
    }
}

impl Namer {
    /// Learns what the names have in common. `last` is the evidence of the last projection in the order of execution.
    pub(super) fn learn(graph: &Graph, all: &[Evidence], last: Option<&Evidence>) -> Self {
        let floats = graph.initializers().filter(|(_, tensor)| tensor.dtype().is_float());
        let owners: Vec<String> = floats.filter_map(|(id, _)| owned(graph.value_name(id))).map(|owned| owned.module).collect();
        let scopes = all.iter().filter_map(|e| e.scope.as_deref());
        let paths: BTreeSet<&str> = scopes.chain(owners.iter().map(String::as_str)).collect();
        let last = last.and_then(|e| e.scope.as_deref().or(e.owner.as_deref()));
        let wrapper = match all.iter().find_map(|e| e.root.clone()) {
            Some(root) if root.is_empty() => root,
            Some(root) => root + ".",
            None => wrapper(&paths, last),
        };
        let genai = graph.initializers().any(|(id, _)| [".attn.", ".MatMul."].iter().all(|part| graph.value_name(id).contains(part)));
        let namer = Self { wrapper, genai, skipped: BTreeMap::new() };
        Self { skipped: namer.skipped(all), ..namer }
    }

    /// What constants' names have in front of their scopes, where all that begin with the same word agree.
    fn skipped(&self, all: &[Evidence]) -> BTreeMap<String, String> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (scope, owner) in all.iter().filter_map(|e| Some((self.clean(e.scope.as_ref()?), self.clean(e.owner.as_ref()?)))) {
            if let Some(front) = owner.strip_suffix(&scope).filter(|front| front.is_empty() || front.ends_with('.')) {
                found.entry(first_word(&scope)).or_default().insert(front.to_owned());
            }
        }
        found.into_iter().filter_map(|(word, fronts)| Some((word, fronts.first().filter(|_| fronts.len() == 1)?.clone()))).collect()
    }

    /// What wrappers put in front of every path, with the dot.
    pub(super) fn wrapper(&self) -> &str {
        &self.wrapper
    }

    /// What is missing in front of scopes, by their first word.
    pub(super) fn missing(&self) -> &BTreeMap<String, String> {
        &self.skipped
    }

    /// The module's path, if there is evidence.
    pub(super) fn module(&self, evidence: &Evidence) -> Option<String> {
        let clean = |path: &Option<String>| path.as_deref().map(|path| self.clean(path));
        match (clean(&evidence.scope), clean(&evidence.owner)) {
            (Some(scope), Some(owner)) if related(&scope, &owner) => Some(owner),
            (Some(scope), _) => Some(format!("{}{scope}", self.skipped.get(&first_word(&scope)).map_or("", String::as_str))),
            (None, owner) => owner,
        }
    }

    /// The module that a value was made in, if its name tells: an optimizer that fuses nodes keeps the names of what they give.
    pub(super) fn place(&self, graph: &Graph, value: ValueId) -> Option<String> {
        scope_of_name(graph.value_name(value)).map(|path| self.clean(&path))
    }

    /// A module's path without wrappers, in Hugging Face's words.
    fn clean(&self, path: &str) -> String {
        let path = path.strip_prefix(&self.wrapper).unwrap_or(path);
        if !self.genai {
            return path.to_owned();
        }
        let words: Vec<&str> = path.split('.').map(|word| if word == "attn" { "self_attn" } else { word }).collect();
        match words.as_slice() {
            [model, "layers", _, "final_norm_layernorm"] => format!("{model}.norm"),
            _ => words.join("."),
        }
    }

    /// The name that PyTorch would give a constant, if its name in the graph is one of a module's parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<Owned> {
        owned(name).map(|Owned { module, leaf }| Owned { module: self.clean(&module), leaf })
    }
}

fn first_word(path: &str) -> String {
    path.split('.').next().unwrap_or_default().to_owned()
}

/// Whether the place of use is a shorter or longer way to say the owner's name.
///
/// * the exporter left the outer modules out: `layers.0.q_proj` and `model.layers.0.q_proj`
/// * a module that is shared is called from elsewhere: `encoder.shared` and `shared`
/// * a function of the outer module used the inner one's weight: `attn` and `attn.out_proj`
pub(super) fn related(scope: &str, owner: &str) -> bool {
    let ends = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    ends(scope, owner) || ends(owner, scope) || owner.strip_prefix(scope).is_some_and(|rest| rest.starts_with('.'))
}

/// `model.layers.0.mlp.up_proj.weight` → the module and `weight`; `attn.in_proj_weight` → `attn.in_proj` and `weight`.
pub(super) fn owned(name: &str) -> Option<Owned> {
    if name.contains(['/', ':']) {
        return None;
    }
    let (module, leaf) = name.rsplit_once('.')?;
    let module = module.strip_suffix(".MatMul").unwrap_or(module);
    // Optimum numbers the constants that it shares between a decoder with a cache and one without: `weight_merged_0`.
    let leaf = numbered(leaf).0.strip_suffix("_merged").unwrap_or(leaf);
    let leaf = QUANTISED.iter().find_map(|end| leaf.strip_suffix(end)).unwrap_or(leaf);
    let leaf = numbered(leaf).0.strip_suffix("_merged").unwrap_or(leaf);
    for kind in ["weight", "bias"] {
        match leaf.strip_suffix(kind) {
            Some("") => return Some(Owned { module: module.to_owned(), leaf: kind.to_owned() }),
            Some(stem) => return Some(Owned { module: format!("{module}.{}", stem.strip_suffix('_')?), leaf: kind.to_owned() }),
            None => {}
        }
    }
    None
}

/// The module in the node's name, or in the name of what it writes.
fn named_scope(graph: &Graph, node: &Node) -> Option<String> {
    scope_of_name(&node.name).or_else(|| node.writes().find_map(|id| scope_of_name(graph.value_name(id))))
}

/// `/model/layers.0/self_attn/q_proj/MatMul` → `model.layers.0.self_attn.q_proj`
fn scope_of_name(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = name.split('/').filter_map(module_of_part).filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| part.contains("::")) || parts.len() < 2 {
        return None;
    }
    parts.pop();
    // What is left may end with the node itself: `/lm_head/MatMul/output_0`, `/lm_head/MatMul/MatMulAddFusion`.
    while parts.last().is_some_and(|last| FUSED.contains(&numbered(last).0)) {
        parts.pop();
    }
    let mut path: Vec<&str> = vec![];
    for part in parts {
        // A container that is called repeats itself in its children: `classifier/classifier.0`.
        if path.last().is_some_and(|outer| part.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'))) {
            path.pop();
        }
        path.push(part);
    }
    // Keras writes the number of a layer so: `layer_._0`.
    (!path.is_empty()).then(|| path.join(".").replace("_._", "."))
}

/// What a class that is defined inside a function has in its path.
const LOCAL: &str = "<locals>";

/// The module in a part of a node's name. torch may write classes in front (`transformers.BertModel::bert`), and of the outermost module the
/// class alone (`__main__.f.<locals>.W`).
fn module_of_part(part: &str) -> Option<&str> {
    match part.split_once("::") {
        Some((class, module)) if class.contains('.') => Some(module),
        _ if part.contains(LOCAL) => None,
        _ => Some(part),
    }
}

/// A path without the local class in front of it, and without torch's name for the exported module itself.
fn without_class(path: &str) -> &str {
    let path = match path.rfind(LOCAL) {
        Some(at) => path[at + LOCAL.len()..].trim_start_matches('.').split_once('.').map_or("", |(_, inner)| inner),
        None => path,
    };
    let inner = ["L['self']", "L[\"self\"]", "L__self__"].iter().find_map(|front| path.strip_prefix(front));
    inner.map_or(path, |inner| inner.trim_start_matches(['.', '_']))
}

/// A word and the number that an exporter put behind it: `q_proj_1`.
pub(super) fn numbered(word: &str) -> (&str, Option<&str>) {
    match word.rsplit_once('_') {
        Some((stem, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => (stem, Some(number)),
        _ => (word, None),
    }
}

/// The path of a module's first call, where a path looks like that of a later one: `layers.0.q_proj_1` is the second call of
/// `layers.0.q_proj`, if that is there and has the same weight.
pub(super) fn first_call(path: &str) -> Option<String> {
    let (outer, name) = path.rsplit_once('.').unwrap_or(("", path));
    let (first, number) = numbered(name);
    number.map(|_| if outer.is_empty() { first.to_owned() } else { format!("{outer}.{first}") })
}

/// The module in torch's annotations: `['', 'model', 'model.norm', 'mul_3']` → `model.norm`.
fn annotated_scope(node: &Node) -> Option<String> {
    from_end(&scopes(node), 1).filter(|path| !path.is_empty())
}

/// The Hugging Face model's own path among the scopes: that of the outermost module whose class is from its library.
fn root(node: &Node) -> Option<String> {
    let at = classes(node).iter().position(|class| class.starts_with("transformers."))?;
    scopes(node).get(at).cloned()
}

fn scopes(node: &Node) -> Vec<String> {
    let scopes = node.metadata("pkg.torch.onnx.name_scopes").map(quoted).unwrap_or_default();
    let scopes = if scopes.is_empty() { namespace(node).into_iter().map(|part| part.module).collect() } else { scopes };
    scopes.iter().map(|path| without_class(path).to_owned()).collect()
}

fn classes(node: &Node) -> Vec<String> {
    let classes = node.metadata("pkg.torch.onnx.class_hierarchy").map(quoted).unwrap_or_default();
    if classes.is_empty() { namespace(node).into_iter().map(|part| part.class).collect() } else { classes }
}

/// A module in the short form of torch's annotations.
struct Part {
    module: String,
    class: String,
}

/// `: __main__.f.<locals>.W/bert: transformers.BertModel/linear: aten.linear.default`, the first colon perhaps left out.
fn namespace(node: &Node) -> Vec<Part> {
    let part = |text: &str| {
        let (module, class) = text.split_once(": ").unwrap_or(("", text));
        Part { module: module.trim().to_owned(), class: class.trim().to_owned() }
    };
    node.metadata("namespace").map(|text| text.split('/').map(part).collect()).unwrap_or_default()
}

fn from_end(all: &[String], index: usize) -> Option<String> {
    all.iter().rev().nth(index).cloned()
}

/// What stands in front of all paths and is not the model's own: with a dot at the end, or nothing.
fn wrapper(paths: &BTreeSet<&str>, last: Option<&str>) -> String {
    let mut wrapper = String::new();
    while let Some(first) = common_first(paths, &wrapper) {
        let inner = format!("{wrapper}{first}.");
        let is_part = PARTS.contains(&first);
        let is_wrapper =
            WRAPPERS.contains(&first) || (!is_part && (holds_one_model(paths, &inner) || holds_body_and_head(paths, last, &inner)));
        if !is_wrapper {
            break;
        }
        wrapper = inner;
    }
    wrapper
}

/// The first word after `prefix`, if it is the same in all paths and something follows it.
fn common_first<'a>(paths: &BTreeSet<&'a str>, prefix: &str) -> Option<&'a str> {
    let mut firsts = paths.iter().map(|path| path.strip_prefix(prefix)?.split_once('.').map(|(first, _)| first));
    let first = firsts.next()??;
    firsts.all(|other| other == Some(first)).then_some(first)
}

/// Whether there is but one thing inside `prefix`, and that is a model itself: no part of one, and no list of layers.
fn holds_one_model(paths: &BTreeSet<&str>, prefix: &str) -> bool {
    let Some(child) = common_first(paths, prefix).filter(|child| !PARTS.contains(child)) else { return false };
    let inner = format!("{prefix}{child}.");
    !paths.iter().any(|path| path.strip_prefix(&inner).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
}

/// Whether, inside `prefix`, the last projection stands beside the numbered layers: then that is where the model begins.
fn holds_body_and_head(paths: &BTreeSet<&str>, last: Option<&str>, prefix: &str) -> bool {
    let first_word = |path: &str| path.strip_prefix(prefix).and_then(|rest| rest.split('.').next()).map(str::to_owned);
    let is_numbered = |path: &str| path.split('.').any(|word| word.bytes().all(|b| b.is_ascii_digit()));
    let bodies: BTreeSet<String> = paths.iter().filter(|path| is_numbered(path)).filter_map(|path| first_word(path)).collect();
    last.and_then(first_word).is_some_and(|head| !bodies.is_empty() && !bodies.contains(&head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_become_paths() {
        let rows = [
            ("/model/layers.0/self_attn/q_proj/MatMul", Some("model.layers.0.self_attn.q_proj")),
            ("/lm_head/MatMul_1", Some("lm_head")),
            ("/classifier/classifier.0/Gemm", Some("classifier.0")),
            ("/lm_head/MatMul/MatMulAddFusion", Some("lm_head")),
            ("/model/layers.0/attn/q_proj/MatMul/output_0", Some("model.layers.0.attn.q_proj")),
            ("/block.0/layer.0/SelfAttention/q/MatMul_output_0", Some("block.0.layer.0.SelfAttention.q")),
            ("bert/encoder/layer_._0/attention/self/query/Tensordot/MatMul", Some("bert.encoder.layer.0.attention.self.query")),
            ("__main__.f.<locals>.W/bert/encoder/layer.0/query/MatMul", Some("bert.encoder.layer.0.query")),
            ("/__main__.f.<locals>.W::/transformers.BertModel::bert/torch.Linear::pooler/Gemm", Some("bert.pooler")),
            ("decomposed::FastGelu_0/Mul", None),
            ("/MatMul", None),
            ("node_linear_3", None),
            ("onnx::MatMul_700", None),
        ];
        let failed: Vec<_> = rows.iter().filter(|(name, path)| scope_of_name(name).as_deref() != *path).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }

    #[test]
    fn initializers_name_their_owner() {
        let rows = [
            ("a.q_proj.weight", Some(("a.q_proj", "weight"))),
            ("a.attn.in_proj_bias", Some(("a.attn.in_proj", "bias"))),
            ("a.q_proj.MatMul.weight", Some(("a.q_proj", "weight"))),
            ("a.norm.weight_merged_0", Some(("a.norm", "weight"))),
            ("a.words.weight_merged_0_quantized", Some(("a.words", "weight"))),
            ("a.words.weight_q", Some(("a.words", "weight"))),
            ("onnx::MatMul_700", None),
            ("val_89", None),
            ("a.inv_freq", None),
        ];
        for (name, expected) in rows {
            let found = owned(name);
            assert_eq!(found.as_ref().map(|o| (o.module.as_str(), o.leaf.as_str())), expected, "{name}");
        }
    }

    #[test]
    fn wrappers_come_off_and_models_stay() {
        let rows: &[(&[&str], &str, &str)] = &[
            (&["m.model.layers.0.mlp.up_proj", "m.lm_head"], "m.lm_head", "m."),
            (&["model.model.layers.0.mlp.up_proj", "model.lm_head"], "model.lm_head", "model."),
            (&["base_model.model.model.layers.0.q", "base_model.model.lm_head"], "base_model.model.lm_head", "base_model.model."),
            (&["model.layers.0.mlp.up_proj", "lm_head"], "lm_head", ""),
            (&["model.layers.0.mlp.up_proj", "model.embed_tokens"], "model.layers.0.mlp.up_proj", ""),
            (&["text_model.encoder.layers.0.fc2", "text_model.embeddings.x"], "text_model.encoder.layers.0.fc2", ""),
            (&["model.model.layers.0.input_layernorm", "model.model.norm"], "", "model."),
            (&["model.transformer.h.0.ln_1", "model.transformer.ln_f"], "", "model."),
            (&["model.decoder.layers.0.fc1", "model.decoder.final_layer_norm"], "model.decoder.layers.0.fc1", ""),
            (&["model.layers.0.fc1", "model.layers.1.fc1"], "model.layers.0.fc1", ""),
            (&["auto_model.encoder.layer.0.q", "auto_model.pooler.dense"], "auto_model.pooler.dense", "auto_model."),
        ];
        for (paths, last, expected) in rows {
            assert_eq!(wrapper(&paths.iter().copied().collect(), Some(last)), *expected, "{paths:?}");
        }
    }

    #[test]
    fn the_owner_names_a_module_unless_the_weight_is_tied() {
        let namer = Namer { wrapper: "m.".into(), ..Namer::default() };
        let rows = [
            (Some("m.lm_head"), Some("m.transformer.wte"), Some("lm_head")),
            (Some("m.encoder.shared"), Some("m.shared"), Some("shared")),
            (Some("m.attn"), Some("m.attn.out_proj"), Some("attn.out_proj")),
            (Some("layers.0.q"), Some("m.model.layers.0.q"), Some("model.layers.0.q")),
            (None, Some("m.h.0.c_attn"), Some("h.0.c_attn")),
            (None, None, None),
        ];
        for (scope, owner, expected) in rows {
            let evidence = Evidence { scope: scope.map(Into::into), owner: owner.map(Into::into), ..Evidence::default() };
            assert_eq!(namer.module(&evidence).as_deref(), expected, "{scope:?} {owner:?}");
        }
    }

    #[test]
    fn calls_of_a_shared_module_are_told_by_their_numbers() {
        assert_eq!(first_call("layers.0.net.0_1").as_deref(), Some("layers.0.net.0"));
        assert_eq!(first_call("score_2").as_deref(), Some("score"));
        assert_eq!(first_call("layers.0.q"), None);
    }

    #[test]
    fn the_builder_of_genai_has_its_own_words() {
        let namer = Namer { genai: true, ..Namer::default() };
        assert_eq!(namer.clean("model.layers.0.attn.o_proj"), "model.layers.0.self_attn.o_proj");
        assert_eq!(namer.clean("model.layers.2.final_norm_layernorm"), "model.norm");
    }

    #[test]
    fn modules_that_only_pass_a_call_on_are_in_front_of_scopes_again() {
        let evidence = |scope: &str, owner: Option<&str>| Evidence {
            scope: Some(scope.into()),
            owner: owner.map(str::to_owned),
            ..Evidence::default()
        };
        let all = [
            evidence("m.decoder.embed_tokens", Some("m.model.decoder.embed_tokens")),
            evidence("m.decoder.project_in", None),
            evidence("m.lm_head", Some("m.model.decoder.embed_tokens")),
            evidence("m.score", Some("m.score")),
        ];
        let namer = Namer { wrapper: "m.".into(), ..Namer::default() };
        let namer = Namer { skipped: namer.skipped(&all), ..namer };
        let found: Vec<_> = all.iter().filter_map(|e| namer.module(e)).collect();
        assert_eq!(found, ["model.decoder.embed_tokens", "model.decoder.project_in", "lm_head", "score"]);
    }

    #[test]
    fn local_classes_are_no_part_of_a_path() {
        let rows = [
            ("__main__.f.<locals>.W", ""),
            ("__main__.f.<locals>.W.bert.encoder", "bert.encoder"),
            ("a.f.<locals>.g.<locals>.W[int].bert", "bert"),
            ("L['self'].bert.encoder", "bert.encoder"),
            ("L__self___bert.encoder", "bert.encoder"),
            ("bert.encoder", "bert.encoder"),
        ];
        for (path, expected) in rows {
            assert_eq!(without_class(path), expected, "{path}");
        }
    }
}
