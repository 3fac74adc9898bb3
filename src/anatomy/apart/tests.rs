//! Modules that are told apart, and those that are not.

use super::*;
use crate::ir::{Attr, DType, Dim, Expr, ModelInfo, NodeSpec};

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
        ("layers.0.norm", ["/layers.0/norm", "/layers.1/norm", "/norm"], ["layers.0.norm.weight", "layers.1.norm.weight", "norm.weight"]),
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

/// The names of the scales that the norms of a graph read, behind views, each once, in the order of execution.
fn scales(graph: &Graph) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    for node in graph.nodes().iter().filter(|node| &*node.op == "LayerNormalization") {
        let mut scale = node.input(1).expect("a scale");
        while let Some(view) = graph.producer(scale) {
            scale = graph.node(view).input(0).expect("what is viewed");
        }
        names.push(graph.value_name(scale).to_owned());
    }
    names
}

#[test]
fn an_identity_of_a_constant_is_a_parameter_that_equals_it() {
    let b = Builder::new(ModelInfo::dialect());
    let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
    let scale = b.initializer("a.norm.weight", Tensor::from_f32(&[4], &[1.0; 4]));
    let bias = b.initializer("a.norm.bias", Tensor::from_f32(&[4], &[0.0; 4]));
    let other = named(&b, "", "Identity", &[scale], "b.norm.weight");
    let y = norm(&b, "", norm(&b, "", x, scale, bias), other, bias);
    b.output("y", y);
    let graph = apart(&b.finish().expect("a valid graph")).expect("a valid graph");
    assert_eq!(scales(&graph), ["a.norm.weight", "b.norm.weight"]);
    assert!(graph.nodes().iter().all(|node| &*node.op != "Identity"));
}

#[test]
fn modules_behind_one_cast_get_constants_of_their_own() {
    let b = Builder::new(ModelInfo::dialect());
    let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
    let half = Tensor::from_f64(DType::F16, &[4], &[1.0; 4]).expect("halves");
    let scale = b.initializer("a.norm.weight", half).cast(DType::F32);
    let bias = b.initializer("a.norm.bias", Tensor::from_f32(&[4], &[0.0; 4]));
    let y = ["/a/norm", "/b/norm", "/b/norm_1"].iter().fold(x, |x, scope| norm(&b, scope, x, scale, bias));
    b.output("y", y);
    let graph = apart(&b.finish().expect("a valid graph")).expect("a valid graph");
    assert_eq!(scales(&graph), ["a.norm.weight", "b.norm.weight", "b.norm.weight"]);
    let named = || graph.nodes().iter().map(|node| &*node.name).filter(|name| !name.is_empty());
    let names: std::collections::BTreeSet<&str> = named().collect();
    assert_eq!(names.len(), named().count(), "names of nodes are their own");
}

/// A node as a file has it: with a name of its own.
fn named<'g>(b: &'g Builder, name: &str, op: &str, inputs: &[Expr<'g>], output: &str) -> Expr<'g> {
    let spec = NodeSpec {
        name: name.into(),
        op: op.into(),
        inputs: inputs.iter().map(|input| Some(input.id())).collect(),
        outputs: vec![Some(output.into())],
        ..NodeSpec::default()
    };
    b.node(spec)[0].expect("an output")
}

/// The branch of a choice: two norms that read the constants around them, the second scale perhaps through an `Identity`.
fn branch(b: &Builder, name: &str, outer: [Expr<'_>; 3], identity: Option<&str>) -> Body {
    let body = b.body(name);
    let [x, scale, bias] = outer.map(|value| body.capture(value));
    let other = identity.map_or(scale, |name| named(&body, "", "Identity", &[scale], name));
    let y = named(&body, "/a/norm/LayerNormalization", "LayerNormalization", &[x, scale, bias], &format!("{name}_x"));
    body.output(
        &format!("{name}_y"),
        named(&body, "/b/norm/LayerNormalization", "LayerNormalization", &[y, other, bias], &format!("{name}_y")),
    );
    body.finish_body().expect("a valid body")
}

#[test]
fn modules_in_both_branches_of_a_choice_are_the_same_modules() {
    for identity in [None, Some("b.norm.weight")] {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
        let condition = b.input("use_cache_branch", DType::Bool, &[Dim::known(1)]);
        let scale = b.initializer("a.norm.weight", Tensor::from_f32(&[4], &[1.0; 4]));
        let bias = b.initializer("a.norm.bias", Tensor::from_f32(&[4], &[0.0; 4]));
        let bodies = ["then_branch", "else_branch"].map(|name| (name, branch(&b, name, [x, scale, bias], identity)));
        let y = b.op_with_bodies("If", &[Some(condition)], bodies.into(), 1)[0];
        b.output("y", y);
        let graph = apart(&b.finish().expect("a valid graph")).expect("a valid graph");
        let names: Vec<&str> = graph.initializers().map(|(id, _)| graph.value_name(id)).collect();
        assert!(names.contains(&"b.norm.weight"), "{names:?}");
        for body in graph.nodes().iter().flat_map(|node| node.attrs.values().flat_map(Attr::graphs)) {
            assert_eq!(scales(body), ["a.norm.weight", "b.norm.weight"], "{identity:?}");
        }
    }
}
