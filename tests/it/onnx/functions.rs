//! Calls of functions that a model defines itself.

use onnx_protobuf::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};
use peft_onnx::onnx::inline_functions;

use super::make::{body, float, graph, int, model, node, opset, read, show, value, with};

fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: &[NodeProto]) -> FunctionProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    FunctionProto {
        name: name.into(),
        domain: "f".into(),
        input: names(inputs),
        output: names(outputs),
        node: nodes.to_vec(),
        opset_import: vec![opset("", 18)],
        ..FunctionProto::default()
    }
}

/// An attribute that is whatever the call gives for `name`.
fn given(name: &str, kind: AttributeProto) -> AttributeProto {
    AttributeProto { ref_attr_name: name.into(), ..kind }
}

fn with_functions(main: GraphProto, functions: &[FunctionProto]) -> ModelProto {
    ModelProto { functions: functions.to_vec(), opset_import: vec![opset("", 18), opset("f", 1)], ..model(18, main) }
}

fn inlined(nodes: &[NodeProto], outputs: &[&str], functions: &[FunctionProto]) -> peft_onnx::Result<Vec<String>> {
    let main = graph(&[value("x", &["2"]), value("w", &["2"])], nodes, outputs);
    Ok(show(&inline_functions(&read(&with_functions(main, functions))?)?))
}

#[test]
fn calls_are_replaced_at_every_depth() -> peft_onnx::Result<()> {
    let inner = function("Inner", &["a", "b"], &["c"], &[node("Add a b -> t"), node("Neg t -> c")]);
    let outer = function("Outer", &["a"], &["c"], &[node("deep|f:Inner a a -> t"), node("f:Inner t a -> c")]);
    let lines = inlined(&[node("one|f:Outer x -> y"), node("f:Outer w -> z")], &["y", "z"], &[inner, outer])?;
    let expected = [
        "Add x x -> one/deep/t",
        "Neg one/deep/t -> one/t",
        "Add one/t x -> one/Inner/t",
        "Neg one/Inner/t -> y",
        "Add w w -> Outer/deep/t",
        "Neg Outer/deep/t -> Outer/t",
        "Add Outer/t w -> Outer/Inner/t",
        "Neg Outer/Inner/t -> z",
    ];
    assert_eq!(lines, expected);
    Ok(())
}

#[test]
fn attributes_come_from_the_call_or_the_default_or_not_at_all() -> peft_onnx::Result<()> {
    let leaky = with(node("LeakyRelu a -> b"), "alpha", given("slope", float(0.0)));
    let mut f = function("F", &["a"], &["b"], &[leaky]);
    f.attribute = vec!["slope".into()];
    let call = with(node("f:F x -> y"), "slope", float(0.5));
    assert_eq!(inlined(std::slice::from_ref(&call), &["y"], std::slice::from_ref(&f))?, ["LeakyRelu x alpha=Float(0.5) -> y"]);
    assert_eq!(inlined(&[node("f:F x -> y")], &["y"], std::slice::from_ref(&f))?, ["LeakyRelu x -> y"]);
    f.attribute = vec![];
    f.attribute_proto = vec![AttributeProto { name: "slope".into(), ..float(0.25) }];
    assert_eq!(inlined(&[node("f:F x -> y")], &["y"], std::slice::from_ref(&f))?, ["LeakyRelu x alpha=Float(0.25) -> y"]);
    assert_eq!(inlined(&[call], &["y"], &[f])?, ["LeakyRelu x alpha=Float(0.5) -> y"]);
    Ok(())
}

#[test]
fn missing_inputs_stay_missing_and_inputs_may_be_outputs() -> peft_onnx::Result<()> {
    let clip = function("F", &["a", "low", "high"], &["b", "a"], &[node("Clip a low high -> b")]);
    let lines = inlined(&[node("f:F x _ w -> y same")], &["y", "same"], &[clip])?;
    assert_eq!(lines, ["Clip x _ w -> y", "Identity x -> same"]);
    Ok(())
}

#[test]
fn names_in_bodies_get_the_call_s_prefix() -> peft_onnx::Result<()> {
    let branch = |op: &str| body(graph(&[], &[node(&format!("{op} t -> r"))], &["r"]));
    let choice = with(with(node("If k -> c"), "then_branch", branch("Neg")), "else_branch", branch("Abs"));
    let cast = with(node("Cast t -> k"), "to", int(9));
    let f = function("F", &["a"], &["c"], &[node("Exp a -> t"), cast, choice]);
    let main = graph(&[value("x", &[])], &[node("n|f:F x -> y")], &["y"]);
    let graph = inline_functions(&read(&with_functions(main, &[f]))?)?;
    assert_eq!(show(&graph.nodes()[2].attrs["then_branch"].graphs()[0]), ["Neg n/t -> n/r"]);
    Ok(())
}

#[test]
fn a_function_in_a_body_is_inlined_and_a_taken_name_is_avoided() -> peft_onnx::Result<()> {
    let f = function("F", &["a"], &["b"], &[node("Exp a -> t"), node("Neg t -> b")]);
    let call = node("n|f:F x -> r");
    let other = body(graph(&[], &[node("Abs x -> n/t")], &["n/t"]));
    let choice = with(with(node("If c -> y"), "then_branch", body(graph(&[], &[call], &["r"]))), "else_branch", other);
    let condition = super::make::typed("c", onnx_protobuf::tensor_proto::DataType::BOOL, &[]);
    let main = graph(&[value("x", &["2"]), condition], &[choice], &["y"]);
    let graph = inline_functions(&read(&with_functions(main, &[f]))?)?;
    assert_eq!(show(&graph.nodes()[0].attrs["then_branch"].graphs()[0]), ["Exp x -> n/t_1", "Neg n/t_1 -> r"]);
    Ok(())
}

#[test]
fn functions_that_cannot_be_inlined_are_errors() {
    let endless = function("F", &["a"], &["b"], &[node("f:F a -> b")]);
    let error = inlined(&[node("f:F x -> y")], &["y"], &[endless]).expect_err("it calls itself").to_string();
    assert!(error.contains("function F calls itself"), "{error}");
    let old = FunctionProto { opset_import: vec![opset("", 12)], ..function("F", &["a"], &["b"], &[node("Neg a -> b")]) };
    let error = inlined(&[node("f:F x -> y")], &["y"], &[old]).expect_err("it is older").to_string();
    assert!(error.contains("it is written in opset 12, the model in 18"), "{error}");
}
