//! Constants that modules share only because their numbers were equal when the file was written, taken apart.
//!
//! TorchScript's exporter and optimizers of graphs store equal tensors once: one bias of zeros, one scale of ones for all layers. What is trained
//! in one of these modules must not change the others, so that each gets a constant of its own, with the same bytes. Readers of one module
//! keep one constant: a module that is called several times, a merged decoder's branches. Matrices of products and tables stay as they are; who
//! changes one of them gives its module its own.

use std::cell::OnceCell;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::Result;
use crate::ir::{Attr, Body, Builder, Expr, Graph, Node, NodeId, Tensor, Trait, ValueId};

use super::names::{Evidence, numbered, owned, related};
use super::parameters;
use super::shaped::shaped;

/// What may stand between a constant and the module that reads it, besides `Identity`: it is written once for each reader.
const BETWEEN: &[&str] = &["Cast", "Reshape", "Unsqueeze"];

/// The same graph, where modules that are told apart read constants of their own, and matrices are stored in the shapes in which they are read.
///
/// # Errors
/// None but those of writing a graph that was read.
pub fn apart(graph: &Graph) -> Result<Graph> {
    let graph = &spread(&under_own_names(&shaped(graph)?)?)?;
    let candidates: Vec<_> = ConstantRead::all(graph).into_iter().filter(|(id, sites)| is_candidate(graph, *id, sites)).collect();
    if candidates.is_empty() {
        return Ok(graph.clone());
    }
    let b = Builder::on(graph);
    let taken = names_in_bodies(graph);
    let mut changes = vec![];
    for (id, sites) in candidates {
        let Some(tensor) = graph.initializer(id) else { continue };
        let mut groups = Readers::of(graph, id, sites);
        let own = groups.own();
        groups.0.remove(own);
        let Readers(others, owner) = groups;
        for reader in others {
            let wanted = name(graph, id, &reader, owner.as_deref());
            let copy = b.initializer(&free(wanted, &taken), tensor.clone());
            changes.extend(reader.sites.into_iter().map(|site| Change { site, copy }));
        }
    }
    if changes.is_empty() {
        return Ok(graph.clone());
    }
    read_copies(&b, graph, &changes, 0)?;
    b.finish()
}

/// An `Identity` of a constant is what exporters write for a parameter that equals another one: a constant again, under its own name.
fn under_own_names(graph: &Graph) -> Result<Graph> {
    let b = OnceCell::new();
    for node in graph.nodes().iter().filter(|node| &*node.op == "Identity") {
        let (Some(constant), Some(output)) = (node.input(0), node.output(0)) else { continue };
        let vector = graph.initializer(constant).filter(|tensor| is_vector(tensor));
        if let Some(tensor) = vector.filter(|_| !graph.is_output(output)) {
            b.get_or_init(|| Builder::on(graph)).store(output, tensor.clone());
        }
    }
    b.into_inner().map_or_else(|| Ok(graph.clone()), Builder::finish)
}

/// Views of constants that several nodes read, written once for each of them.
fn spread(graph: &Graph) -> Result<Graph> {
    let b = OnceCell::new();
    for node in graph.nodes().iter().filter(|node| BETWEEN.contains(&&*node.op)) {
        let (Some(constant), Some(output)) = (node.input(0), node.output(0)) else { continue };
        if !graph.initializer(constant).is_some_and(is_vector) || graph.is_output(output) {
            continue;
        }
        for a_use in graph.uses(output).iter().skip(1) {
            if let (Some(reader), Some(input)) = (graph.node(a_use.node).writes().next(), a_use.input) {
                let b = b.get_or_init(|| Builder::on(graph));
                b.rewire_input(reader, input, again(b, graph, node));
            }
        }
    }
    b.into_inner().map_or_else(|| Ok(graph.clone()), Builder::finish)
}

/// A node with one output written once more.
fn again<'g>(b: &'g Builder, graph: &Graph, node: &Node) -> Expr<'g> {
    let outputs = node.outputs.iter().map(|id| id.map(|id| graph.value_name(id).into())).collect();
    let Node { op, inputs, attrs, metadata, extra, .. } = node.clone();
    // ONNX Runtime refuses two nodes of one name.
    let spec = crate::ir::NodeSpec { name: "".into(), op, inputs, outputs, attrs, captures: vec![], metadata, extra };
    b.node(spec).into_iter().flatten().next().unwrap_or_else(|| b.unknown())
}

fn is_vector(tensor: &Tensor) -> bool {
    tensor.dtype().is_float() && tensor.len() > 1 && tensor.shape().len() == 1
}

/// A vector of numbers, or the kernel of a convolution, that several nodes read. What a caller could override is what it is by default: files of
/// old versions of the format list every constant among the inputs.
fn is_candidate(graph: &Graph, id: ValueId, sites: &[ConstantRead<'_>]) -> bool {
    let is_kernel = |tensor: &Tensor| tensor.dtype().is_float() && tensor.len() > 1 && sites.iter().all(ConstantRead::is_convolution);
    let is_own = !graph.is_output(id);
    sites.len() > 1 && is_own && graph.initializer(id).is_some_and(|tensor| is_vector(tensor) || is_kernel(tensor))
}

/// Whether the model calls modules again: some product's matrix is read by another product, too.
fn calls_again(graph: &Graph) -> bool {
    let products = |id| graph.uses(id).iter().filter(|a_use| Trait::Product.is_of(&graph.node(a_use.node).op)).count();
    graph.initializers().any(|(id, tensor)| tensor.shape().len() == 2 && products(id) > 1)
}

/// A place where a constant is read: an input of a node, of the graph itself or of a body in it.
#[derive(Clone, Debug)]
struct ConstantRead<'a> {
    /// The bodies that the node lies in, from the outermost: the node that has the body, and which of its bodies it is.
    path: Vec<(NodeId, usize)>,
    /// The body, or the graph itself.
    graph: &'a Graph,
    node: NodeId,
    input: usize,
    module: Module,
}

/// What a value of a body, or of the graph, is: a constant of the graph, and the name that an `Identity` gives it.
type Stands = (ValueId, Option<String>);

impl<'a> ConstantRead<'a> {
    /// Every constant of the graph with the places where it is read, in the order of the constants.
    fn all(graph: &'a Graph) -> Vec<(ValueId, Vec<Self>)> {
        let mut found: FxHashMap<ValueId, Vec<Self>> = FxHashMap::default();
        let constants = graph.initializers().filter(|(_, tensor)| tensor.dtype().is_float()).map(|(id, _)| (id, (id, None))).collect();
        Self::within(graph, &constants, &[], calls_again(graph), &mut found);
        let in_order = graph.initializers().map(|(id, _)| id).collect::<Vec<_>>();
        in_order.into_iter().filter_map(|id| found.remove(&id).map(|sites| (id, sites))).collect()
    }

    fn within(
        graph: &'a Graph,
        known: &FxHashMap<ValueId, Stands>,
        path: &[(NodeId, usize)],
        shares_products: bool,
        found: &mut FxHashMap<ValueId, Vec<Self>>,
    ) {
        let mut known = known.clone();
        for (id, node) in graph.node_ids() {
            for (input, value) in node.inputs.iter().enumerate() {
                let Some((constant, told)) = value.and_then(|value| known.get(&value)).cloned() else { continue };
                let passed = node.output(0).filter(|output| &*node.op == "Identity" && !path.is_empty() && !graph.is_output(*output));
                if let Some(output) = passed {
                    let told = owned(graph.value_name(output)).map(|owned| owned.module).or(told);
                    known.insert(output, (constant, told));
                    continue;
                }
                let site = Self { path: path.to_vec(), graph, node: id, input, module: Module::Unknown };
                let module = told.map_or_else(|| site.module(shares_products), Module::Scope);
                found.entry(constant).or_default().push(Self { module, ..site });
            }
            for (place, (body, captures)) in bodies(node).enumerate() {
                let inside = body.captured().iter().zip(captures).filter_map(|(inner, outer)| Some((*inner, known.get(outer)?.clone())));
                let path: Vec<_> = path.iter().copied().chain([(id, place)]).collect();
                Self::within(body, &inside.collect(), &path, shares_products, found);
            }
        }
    }

    fn node(&self) -> &'a Node {
        self.graph.node(self.node)
    }

    fn is_convolution(&self) -> bool {
        Trait::Convolution.is_of(&self.node().op)
    }

    /// The node and the input that a constant comes to, behind a view that it alone reads.
    fn behind_views(&self) -> (NodeId, usize) {
        let mut at = (self.node, self.input);
        while BETWEEN.contains(&&*self.graph.node(at.0).op) {
            let uses = self.graph.node(at.0).output(0).map(|output| self.graph.uses(output)).unwrap_or_default();
            let [a_use] = uses else { break };
            let Some(input) = a_use.input else { break };
            at = (a_use.node, input);
        }
        at
    }

    /// What tells the module that reads here.
    fn module(&self, shares_products: bool) -> Module {
        let (reader, input) = self.behind_views();
        let Some(node) = teller(self.graph, reader, input) else { return Module::Unknown };
        if let Some(scope) = scope(self.graph, node) {
            return Module::Scope(scope);
        }
        match matrix(self.graph, self.graph.node(node)) {
            Some(weight) => Module::Weight(self.graph.value_name(weight).to_owned()),
            // The same node of a decoder with a cache and of one without is one module.
            None if shares_products || !self.path.is_empty() => Module::Unknown,
            None => Module::Node(reader),
        }
    }
}

/// A node's bodies, each with the values around it that it reads.
fn bodies(node: &Node) -> impl Iterator<Item = (&Arc<Graph>, &[ValueId])> {
    let mut rest = node.captures.as_slice();
    node.attrs.values().flat_map(Attr::graphs).map(move |body| {
        let (captures, behind) = rest.split_at(body.captured().len().min(rest.len()));
        rest = behind;
        (body, captures)
    })
}

/// What tells the module that a node belongs to.
#[derive(Clone, Debug, PartialEq)]
enum Module {
    /// The scope that its name or annotation tells.
    Scope(String),
    /// The name of the matrix of the product that it adds a bias to.
    Weight(String),
    /// A node without a name, in a model that calls nothing again.
    Node(NodeId),
    /// Nothing.
    Unknown,
}

impl Module {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scope(a), Self::Scope(b)) => a == b || is_call_of(a, b),
            (Self::Unknown, _) | (_, Self::Unknown) => true,
            _ => self == other,
        }
    }
}

/// The node that tells whose constant it is: the reader, but where an operator fused a bias that is none of its own, the product that it is added to.
fn teller(graph: &Graph, reader: NodeId, input: usize) -> Option<NodeId> {
    let node = graph.node(reader);
    let is_own = !node.op.contains(':') || parameters::of_norm(node, input).is_some();
    if is_own {
        return Some(reader);
    }
    node.reads().filter_map(|id| graph.producer(id)).find(|&id| Trait::Product.is_of(&graph.node(id).op))
}

fn scope(graph: &Graph, node: NodeId) -> Option<String> {
    Evidence::of(graph, &[node], &[]).scope().map(str::to_owned)
}

/// Whether two paths are those of calls of one module: the same but for numbers that an exporter put behind words of one of them.
fn is_call_of(path: &str, other: &str) -> bool {
    let is_call = |a: &str, b: &str| matches!(numbered(a), (stem, Some(_)) if stem == b);
    let words = |path: &str| path.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (path, other) = (words(path), words(other));
    path.len() == other.len() && path.iter().zip(&other).all(|(a, b)| a == b || is_call(a, b) || is_call(b, a))
}

/// The matrix of the product that a node is, or adds to.
fn matrix(graph: &Graph, node: &Node) -> Option<ValueId> {
    let product = |node: &Node| node.input(1).filter(|_| Trait::Product.is_of(&node.op));
    let added = || node.reads().filter_map(|id| graph.producer(id)).find_map(|id| product(graph.node(id)));
    product(node).or_else(|| added().filter(|_| &*node.op == "Add"))
}

/// The places of one module that read a constant.
struct Reader<'a> {
    module: Module,
    sites: Vec<ConstantRead<'a>>,
}

/// Readers of a constant by module, in the order of execution, and the module that the constant's name tells.
struct Readers<'a>(Vec<Reader<'a>>, Option<String>);

impl<'a> Readers<'a> {
    fn of(graph: &Graph, id: ValueId, sites: Vec<ConstantRead<'a>>) -> Self {
        let mut found: Vec<Reader<'_>> = vec![];
        let owner = own_scope(graph, id, &sites);
        let is_owner =
            |scope: &str| owner.as_ref().is_some_and(|owner| scope == owner || is_call_of(scope, owner) || is_inside(owner, scope));
        for site in sites {
            let module = match (&site.module, &owner) {
                (Module::Scope(scope), Some(owner)) if is_owner(scope) => Module::Scope(owner.clone()),
                (module, _) => module.clone(),
            };
            match found.iter_mut().find(|known| known.module.is_same(&module)) {
                Some(known) => known.sites.push(site),
                None => found.push(Reader { module, sites: vec![site] }),
            }
        }
        Self(found, owner)
    }

    /// Those that the constant stays with: the module that its name tells, else the first.
    fn own(&self) -> usize {
        let owner = self.1.clone().map(Module::Scope);
        self.0.iter().position(|reader| owner.as_ref() == Some(&reader.module)).unwrap_or(0)
    }
}

/// The scope of the module that a constant is named after, among the scopes that read it: the same path, else the longest that contains it or is part of it.
fn own_scope(graph: &Graph, id: ValueId, sites: &[ConstantRead<'_>]) -> Option<String> {
    let owner = owned(graph.value_name(id))?.module;
    let scopes = || sites.iter().filter_map(|site| if let Module::Scope(scope) = &site.module { Some(scope) } else { None });
    let exact = scopes().find(|scope| **scope == owner).or_else(|| scopes().find(|scope| is_call_of(scope, &owner)));
    exact.or_else(|| scopes().filter(|scope| related(scope, &owner)).max_by_key(|scope| scope.len())).cloned()
}

/// Whether a function of the outer module may use what the inner one owns: `attn` and `attn.out_proj`.
fn is_inside(inner: &str, outer: &str) -> bool {
    inner.rsplit_once('.').is_some_and(|(parent, _)| parent == outer)
}

/// What a module would call its copy, if that can be told; else the constant's own name, to which a number comes. `own_scope` is that of the module
/// which the constant stays with.
fn name(graph: &Graph, id: ValueId, reader: &Reader<'_>, own_scope: Option<&str>) -> String {
    let own = graph.value_name(id).to_owned();
    let (Module::Scope(scope), Some(site)) = (&reader.module, reader.sites.first()) else { return own };
    let (node, input) = site.behind_views();
    let node = site.graph.node(node);
    let norm = parameters::of_norm(node, input);
    let Some(leaf) = norm.or_else(|| owned(&own).map(|_| leaf(node))) else { return own };
    // Scopes may lack what is in front of the constant's name (`model.`): its own module's does as well.
    let owner = owned(&own).map(|owned| owned.module).unwrap_or_default();
    let own_scope = own_scope.unwrap_or_default();
    let front = owner.strip_suffix(own_scope).filter(|front| !own_scope.is_empty() && front.ends_with('.')).unwrap_or_default();
    format!("{front}{scope}.{leaf}")
}

/// What a module calls a constant that a node reads.
fn leaf(node: &Node) -> &'static str {
    if matches!(&*node.op, "Mul" | "Div") || Trait::Convolution.is_of(&node.op) && node.input(2).is_none() { "weight" } else { "bias" }
}

/// Every name that a body has, but for those of parameters that equal another one: what a body names itself hides what is around it.
fn names_in_bodies(graph: &Graph) -> FxHashSet<Arc<str>> {
    let mut names = FxHashSet::default();
    let mut left: Vec<&Graph> = graph.nodes().iter().flat_map(|node| bodies(node).map(|(body, _)| &**body)).collect();
    while let Some(body) = left.pop() {
        let parameters = body.nodes().iter().filter(|node| &*node.op == "Identity").flat_map(Node::writes);
        let other: FxHashSet<ValueId> = body.captured().iter().copied().chain(parameters).collect();
        names.extend(body.value_ids().filter(|(id, _)| !other.contains(id)).map(|(_, value)| Arc::clone(&value.name)));
        left.extend(body.nodes().iter().flat_map(|node| bodies(node).map(|(body, _)| &**body)));
    }
    names
}

/// The name, or the name with the first number that no body has.
fn free(wanted: String, taken: &FxHashSet<Arc<str>>) -> String {
    if !taken.contains(&*wanted) {
        return wanted;
    }
    let mut numbered = (1..=taken.len()).map(|number| format!("{wanted}_{number}"));
    numbered.find(|name| !taken.contains(&**name)).unwrap_or(wanted)
}

/// A place that reads a copy from now on: a value of the graph that is written there.
struct Change<'a, 'g> {
    site: ConstantRead<'a>,
    copy: Expr<'g>,
}

/// Makes the places of a graph read their copies, those in bodies too. `depth` is how many bodies the graph itself lies in.
fn read_copies(b: &Builder, graph: &Graph, changes: &[Change<'_, '_>], depth: usize) -> Result<()> {
    let mut inside: FxHashMap<NodeId, Vec<&Change<'_, '_>>> = FxHashMap::default();
    for change in changes {
        match change.site.path.get(depth) {
            Some(&(node, _)) => inside.entry(node).or_default().push(change),
            None => {
                if let Some(output) = change.site.node().writes().next() {
                    b.rewire_input(output, change.site.input, change.copy);
                }
            }
        }
    }
    for (id, node) in graph.node_ids() {
        let (Some(changes), Some(output)) = (inside.remove(&id), node.writes().next()) else { continue };
        let mut form = node.clone();
        (form.captures, form.attrs) = (vec![], node.attrs.clone());
        let mut written = vec![];
        for (place, (body, captures)) in bodies(node).enumerate() {
            let of_body = changes.iter().filter(|change| change.site.path.get(depth).is_some_and(|(_, at)| *at == place));
            let body = body_with_copies(b, body, captures, of_body.copied(), depth + 1)?;
            form.captures.extend(body.captures);
            written.push(Arc::new(body.graph));
        }
        let mut written = written.into_iter();
        for attr in form.attrs.values_mut() {
            match attr {
                Attr::Graph(body) => written.next().into_iter().for_each(|new| *body = new),
                Attr::Graphs(bodies) => bodies.iter_mut().zip(&mut written).for_each(|(body, new)| *body = new),
                _ => {}
            }
        }
        b.replace_node(output, form);
    }
    Ok(())
}

fn body_with_copies<'c, 'a: 'c, 'g: 'c>(
    outer: &Builder,
    body: &Graph,
    captures: &[ValueId],
    changes: impl Iterator<Item = &'c Change<'a, 'g>>,
    depth: usize,
) -> Result<Body> {
    let b = outer.body_of(body, captures);
    b.may_not_run();
    let changes: Vec<Change<'_, '_>> =
        changes.map(|change| Change { site: change.site.clone(), copy: b.capture(outer.expr(change.copy.id())) }).collect();
    read_copies(&b, body, &changes, depth)?;
    b.finish_body()
}

#[cfg(test)]
mod tests;
