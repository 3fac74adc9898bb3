//! Constants that modules share only because their numbers were equal when the file was written, taken apart.
//!
//! TorchScript's exporter and optimizers of graphs store equal tensors once: one bias of zeros, one scale of ones for all layers. What is trained
//! in one of these modules must not change the others, so that each gets a constant of its own, with the same bytes. Readers of one module
//! keep one constant: a module that is called several times, a merged decoder's branches. Matrices of products and tables stay as they are; who
//! changes one of them gives its module its own.

use crate::error::Result;
use crate::ir::Trait;
use crate::ir::{Builder, Graph, Node, NodeId, Tensor, Use, ValueId};

use super::names::{Evidence, numbered, owned, related};
use super::parameters;

/// The same graph, where modules that are told apart read constants of their own.
///
/// # Errors
/// None but those of writing a graph that was read.
pub fn apart(graph: &Graph) -> Result<Graph> {
    let b = Builder::on(graph);
    let shares_products = calls_again(graph);
    let mut is_changed = false;
    for (id, tensor) in graph.initializers().filter(|(id, tensor)| is_candidate(graph, *id, tensor)) {
        let mut groups = Readers::of(graph, id, shares_products);
        let own = groups.own(graph, id);
        groups.0.remove(own);
        for Reader { module, uses } in &groups.0 {
            let copy = b.initializer(&name(graph, id, module, uses), tensor.clone());
            for a_use in uses {
                if let (Some(output), Some(input)) = (graph.node(a_use.node).writes().next(), a_use.input) {
                    b.rewire_input(output, input, copy);
                    is_changed = true;
                }
            }
        }
    }
    if is_changed { b.finish() } else { Ok(graph.clone()) }
}

/// A vector of numbers, or the kernel of a convolution, that several nodes read and no caller can override.
fn is_candidate(graph: &Graph, id: ValueId, tensor: &Tensor) -> bool {
    let uses = graph.uses(id);
    let is_kernel = || uses.iter().all(|a_use| Trait::Convolution.is_of(&graph.node(a_use.node).op));
    let is_own = || !graph.inputs().contains(&id) && !graph.outputs().contains(&id);
    uses.len() > 1 && tensor.dtype().is_float() && tensor.len() > 1 && is_own() && (tensor.shape().len() == 1 || is_kernel())
}

/// Whether the model calls modules again: some product's matrix is read by another product, too.
fn calls_again(graph: &Graph) -> bool {
    let is_product = |a_use: &&Use| Trait::Product.is_of(&graph.node(a_use.node).op);
    graph.initializers().any(|(id, tensor)| tensor.shape().len() == 2 && graph.uses(id).iter().filter(is_product).count() > 1)
}

/// What tells the module that a node belongs to.
#[derive(Clone, Debug, PartialEq)]
enum Module {
    /// The scope that its name or annotation tells.
    Scope(String),
    /// The matrix of the product that it adds a bias to.
    Weight(ValueId),
    /// A node without a name, in a model that calls nothing again.
    Node(NodeId),
    /// Nothing.
    Unknown,
}

impl Module {
    fn of(graph: &Graph, a_use: Use, shares_products: bool) -> Self {
        if a_use.input.is_none() {
            return Self::Unknown;
        }
        let Some(node) = teller(graph, a_use) else { return Self::Unknown };
        if let Some(scope) = scope(graph, node) {
            return Self::Scope(scope);
        }
        match matrix(graph, graph.node(node)) {
            Some(weight) => Self::Weight(weight),
            None if shares_products => Self::Unknown,
            None => Self::Node(a_use.node),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scope(a), Self::Scope(b)) => a == b || is_call_of(a, b),
            (Self::Unknown, _) | (_, Self::Unknown) => true,
            _ => self == other,
        }
    }
}

/// The node that tells whose constant it is: the reader, but where an operator fused a bias that is none of its own, the product that it is added to.
fn teller(graph: &Graph, a_use: Use) -> Option<NodeId> {
    let node = graph.node(a_use.node);
    let is_own = !node.op.contains(':') || a_use.input.and_then(|input| parameters::of_norm(node, input)).is_some();
    if is_own {
        return Some(a_use.node);
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

/// The nodes of one module that read a constant.
struct Reader {
    module: Module,
    uses: Vec<Use>,
}

/// Readers of a constant by module, in the order of execution.
struct Readers(Vec<Reader>);

impl Readers {
    fn of(graph: &Graph, id: ValueId, shares_products: bool) -> Self {
        let mut found: Vec<Reader> = vec![];
        let modules: Vec<Module> = graph.uses(id).iter().map(|&a_use| Module::of(graph, a_use, shares_products)).collect();
        let owner = own_scope(graph, id, &modules);
        let is_owner =
            |scope: &str| owner.as_ref().is_some_and(|owner| scope == owner || is_call_of(scope, owner) || is_inside(owner, scope));
        for (&a_use, module) in graph.uses(id).iter().zip(modules) {
            let module = match (module, &owner) {
                (Module::Scope(scope), Some(owner)) if is_owner(&scope) => Module::Scope(owner.clone()),
                (module, _) => module,
            };
            match found.iter_mut().find(|known| known.module.is_same(&module)) {
                Some(known) => known.uses.push(a_use),
                None => found.push(Reader { module, uses: vec![a_use] }),
            }
        }
        Self(found)
    }

    /// Those that the constant stays with: bodies, the module that its name tells, else the first.
    fn own(&self, graph: &Graph, id: ValueId) -> usize {
        let modules: Vec<Module> = self.0.iter().map(|reader| reader.module.clone()).collect();
        let owner = own_scope(graph, id, &modules).map(Module::Scope);
        let in_bodies = |reader: &Reader| reader.uses.iter().any(|a_use| a_use.input.is_none());
        let own = self.0.iter().position(in_bodies).or_else(|| self.0.iter().position(|reader| owner.as_ref() == Some(&reader.module)));
        own.unwrap_or(0)
    }
}

/// Of the scopes that read a constant, that of the module which its name tells: the same path, or the longest that says it shorter or longer.
fn own_scope(graph: &Graph, id: ValueId, modules: &[Module]) -> Option<String> {
    let owner = owned(graph.value_name(id))?.module;
    let scopes = || modules.iter().filter_map(|module| if let Module::Scope(scope) = module { Some(scope) } else { None });
    let exact = scopes().find(|scope| **scope == owner).or_else(|| scopes().find(|scope| is_call_of(scope, &owner)));
    exact.or_else(|| scopes().filter(|scope| related(scope, &owner)).max_by_key(|scope| scope.len())).cloned()
}

/// Whether a function of the outer module may use what the inner one owns: `attn` and `attn.out_proj`.
fn is_inside(inner: &str, outer: &str) -> bool {
    inner.rsplit_once('.').is_some_and(|(parent, _)| parent == outer)
}

/// What a module would call its copy, if that can be told; else the constant's own name, to which a number comes.
fn name(graph: &Graph, id: ValueId, module: &Module, uses: &[Use]) -> String {
    let own = graph.value_name(id).to_owned();
    let (Module::Scope(scope), Some(&Use { node, input: Some(input) })) = (module, uses.first()) else { return own };
    let node = graph.node(node);
    let norm = parameters::of_norm(node, input);
    let Some(leaf) = norm.or_else(|| owned(&own).map(|_| leaf(node))) else { return own };
    // Scopes may lack what is in front of the constant's name (`model.`): its own module's does as well.
    let owner = owned(&own).map(|owned| owned.module).unwrap_or_default();
    let modules: Vec<Module> = graph.uses(id).iter().map(|&a_use| Module::of(graph, a_use, true)).collect();
    let own_scope = own_scope(graph, id, &modules).unwrap_or_default();
    let front = owner.strip_suffix(&own_scope).filter(|front| !own_scope.is_empty() && front.ends_with('.')).unwrap_or_default();
    format!("{front}{scope}.{leaf}")
}

/// What a module calls a constant that a node reads.
fn leaf(node: &Node) -> &'static str {
    if matches!(&*node.op, "Mul" | "Div") || Trait::Convolution.is_of(&node.op) && node.input(2).is_none() { "weight" } else { "bias" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Attr, DType, Dim, Expr, ModelInfo};

    fn norm<'g>(b: &'g Builder, scope: &str, x: Expr<'g>, scale: Expr<'g>, bias: Expr<'g>) -> Expr<'g> {
        b.scoped(scope, || b.op("LayerNormalization", &[x, scale, bias], &[("axis", Attr::Int(-1))]))
    }

    /// The names of what three norms read, whose scopes are given, when all of them share the constants of the first.
    fn names(owner: &str, scopes: [&str; 3]) -> Vec<String> {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
        let scale = b.initializer(&format!("{owner}.weight"), Tensor::from_f32(&[4], &[1.0; 4]));
        let bias = b.initializer(&format!("{owner}.bias"), Tensor::from_f32(&[4], &[0.0; 4]));
        let y = scopes.iter().fold(x, |x, scope| norm(&b, scope, x, scale, bias));
        b.output("y", y);
        let graph = apart(&b.finish().expect("a valid graph")).expect("a valid graph");
        let of_norms = graph.nodes().iter().filter(|node| &*node.op == "LayerNormalization");
        of_norms.map(|node| graph.value_name(node.input(1).expect("a scale")).to_owned()).collect()
    }

    #[test]
    fn modules_that_share_constants_by_chance_get_their_own() {
        let rows: [(&str, [&str; 3], [&str; 3]); 5] = [
            (
                "layers.0.norm",
                ["/layers.0/norm", "/layers.1/norm", "/norm"],
                ["layers.0.norm.weight", "layers.1.norm.weight", "norm.weight"],
            ),
            (
                "model.layers.0.norm",
                ["/layers.0/norm", "/layers.1/norm", "/layers.2/norm"],
                ["model.layers.0.norm.weight", "model.layers.1.norm.weight", "model.layers.2.norm.weight"],
            ),
            // The one that it belongs to need not run first.
            ("b.norm", ["/a/norm", "/b/norm", "/c/norm"], ["a.norm.weight", "b.norm.weight", "c.norm.weight"]),
            // Calls of one module are one module.
            ("group.0.norm", ["/group.0/norm", "/group.0_1/norm", "/group.0_2/norm_1"], ["group.0.norm.weight"; 3]),
            ("h.0.ln_1", ["/h.0/ln_1", "/h.0/ln_2", "/h.1/ln_1"], ["h.0.ln_1.weight", "h.0.ln_2.weight", "h.1.ln_1.weight"]),
        ];
        for (owner, scopes, expected) in rows {
            assert_eq!(names(owner, scopes), expected, "{owner}");
        }
    }

    #[test]
    fn biases_of_different_products_are_different_without_any_names() {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(2)]);
        let bias = b.initializer("zeros", Tensor::from_f32(&[2], &[0.0; 2]));
        let weights = ["w0", "w1", "w0"].map(|name| (name, Tensor::from_f32(&[2, 2], &[1.0; 4])));
        let (first, second) = (b.initializer("w0", weights[0].1.clone()), b.initializer("w1", weights[1].1.clone()));
        let y = [first, second, first].into_iter().fold(x, |x, weight| (x.matmul(weight) + bias).tanh());
        b.output("y", y);
        let graph = apart(&b.finish().expect("a valid graph")).expect("a valid graph");
        let added: Vec<ValueId> = graph
            .nodes()
            .iter()
            .filter(|node| &*node.op == "Add")
            .filter_map(|node| node.reads().find(|id| graph.constant(*id).is_some()))
            .collect();
        assert_eq!((added[0] == added[1], added[0] == added[2]), (false, true));
    }
}
