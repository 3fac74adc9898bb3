//! Reading: facts, names, order, and what is refused.

use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{GraphProto, ModelProto, NodeProto, TensorProto};
use peft_onnx::ir::{DType, Graph};

use super::make::{attribute_tensor, body, code, constant, graph, int, model, node, read, save, show, typed, value, with};

fn errors(model: &ModelProto) -> String {
    let error = read(model).expect_err("it must be refused").to_string();
    error.split_once("model.onnx: ").map_or(error.clone(), |(_, text)| text.to_owned())
}

#[test]
fn graphs_that_break_the_rules_are_refused_with_the_place() {
    let x = || value("x", &["2"]);
    let with_constants =
        |constants: &[TensorProto], nodes: &[NodeProto]| GraphProto { initializer: constants.to_vec(), ..graph(&[x()], nodes, &[]) };
    let w = || constant("w", &[1], &[0.0]);
    let rows: &[(&str, GraphProto)] = &[
        (
            "node n: invalid graph: its inputs depend on its outputs (a cycle)",
            graph(&[x()], &[node("n|Add b x -> a"), node("m|Neg a -> b")], &["b"]),
        ),
        ("node n: invalid graph: its inputs depend on its outputs (a cycle)", graph(&[x()], &[node("n|Neg a -> a")], &["a"])),
        ("node m: tensor a: invalid graph: it is defined twice", graph(&[x()], &[node("Neg x -> a"), node("m|Abs x -> a")], &["a"])),
        ("node Neg -> x: tensor x: invalid graph: it is defined twice", graph(&[x()], &[node("Neg x -> x")], &["x"])),
        ("tensor x: invalid graph: it is defined twice", graph(&[x(), x()], &[], &["x"])),
        ("tensor w: invalid graph: it is defined twice", with_constants(&[w(), w()], &[])),
        ("invalid graph: an input without a name", graph(&[value("", &[])], &[], &[])),
        ("invalid graph: an initializer without a name", with_constants(&[constant("", &[], &[1.0])], &[])),
        ("node Neg -> a: no value named \"y\"", graph(&[x()], &[node("Neg y -> a")], &["a"])),
        ("no value named \"y\"", graph(&[x()], &[], &["y"])),
        ("tensor x: invalid graph: it is an output twice", graph(&[x()], &[], &["x", "x"])),
        (
            "node n: invalid graph: \"\" cannot name an operator",
            graph(&[x()], &[NodeProto { op_type: String::new(), ..node("n|Neg x -> a") }], &["a"]),
        ),
        ("tensor w: bytes of float[3]: expected 12, found 4", with_constants(&[constant("w", &[3], &[1.0])], &[])),
        ("tensor w: length of an axis: expected at least 0, found -1", with_constants(&[constant("w", &[-1], &[1.0])], &[])),
        (
            "tensor w: shape [9223372036854775807, 9223372036854775807] overflows",
            with_constants(&[constant("w", &[i64::MAX, i64::MAX], &[])], &[]),
        ),
        (
            "tensor w: element type 99 is not supported: it is not one that ONNX had when this was written",
            with_constants(&[TensorProto { data_type: 99, ..w() }], &[]),
        ),
        (
            "node If -> a: node Neg -> b: no value named \"y\"",
            graph(
                &[typed("c", DataType::BOOL, &[])],
                &[with(node("If c -> a"), "then_branch", body(graph(&[], &[node("Neg y -> b")], &["b"])))],
                &["a"],
            ),
        ),
    ];
    for (expected, graph) in rows {
        assert_eq!(errors(&model(18, graph.clone())), *expected);
    }
}

#[test]
fn files_that_are_no_models_are_refused() {
    let rows: &[(&[u8], &str, Option<&str>)] = &[
        (b"", "not an ONNX model: the file is empty", None),
        (b"<html>", "not an ONNX model: ", Some("is the file complete? A download or a copy that was cut short reads like this")),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "not an ONNX model: ",
            Some("this is a Git LFS pointer, not the file itself: run `git lfs pull`"),
        ),
    ];
    for (content, message, hint) in rows {
        let saved = save(&ModelProto::default());
        std::fs::write(&saved.path, content).expect("disk");
        let error = peft_onnx::onnx::read(&saved.path).expect_err("it must be refused");
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.hint(), *hint);
    }
    let missing = peft_onnx::onnx::read("no/such/model.onnx".as_ref()).expect_err("it is not there");
    assert!(missing.to_string().starts_with("no/such/model.onnx: "), "{missing}");
}

#[test]
fn nodes_are_put_in_order() -> peft_onnx::Result<()> {
    let nodes = [node("Neg b -> c"), node("Abs a -> b"), node("Exp x -> a"), node("Log x -> d")];
    let graph = read(&model(18, graph(&[value("x", &["2"])], &nodes, &["c"])))?;
    assert_eq!(show(&graph), ["Exp x -> a", "Abs a -> b", "Neg b -> c", "Log x -> d"]);
    Ok(())
}

fn fact(graph: &Graph, name: &str) -> String {
    graph.fact(graph.find(name).expect("a value of that name")).to_string()
}

#[test]
fn inference_wins_over_claims_and_claims_over_nothing() -> peft_onnx::Result<()> {
    let nodes = [node("Neg x -> known"), node("unheard.of:Op x -> claimed mystery"), node("Abs claimed -> after")];
    let mut g = graph(&[value("x", &["batch", "?", "3"])], &nodes, &["after"]);
    g.value_info = vec![typed("known", DataType::INT64, &["7"]), value("claimed", &["batch", "?", "5"])];
    let graph = read(&model(18, g))?;
    let rows = [
        ("x", "float[batch, ?x.1, 3]"),
        ("known", "float[batch, ?x.1, 3]"),
        ("claimed", "float[batch, ?claimed.1, 5]"),
        ("after", "float[batch, ?claimed.1, 5]"),
        ("mystery", "?[...]"),
    ];
    for (name, expected) in rows {
        assert_eq!(fact(&graph, name), expected, "{name}");
    }
    Ok(())
}

#[test]
fn bodies_read_the_graphs_around_them() -> peft_onnx::Result<()> {
    let inner = graph(&[], &[node("Add x y -> sum")], &["sum"]);
    let branch = |inner: &GraphProto| {
        let nested = with(
            with(node("If c -> z"), "then_branch", body(inner.clone())),
            "else_branch",
            body(graph(&[], &[node("Neg x -> no")], &["no"])),
        );
        graph(&[], &[node("Abs x -> y"), nested], &["z"])
    };
    let outer = with(
        with(node("If c -> out"), "then_branch", body(branch(&inner))),
        "else_branch",
        body(graph(&[], &[node("Exp w -> e")], &["e"])),
    );
    let mut g = graph(&[typed("c", DataType::BOOL, &[]), value("x", &["2"])], &[outer, node("Neg x -> w")], &["out"]);
    g.name = "main".into();
    let graph = read(&model(18, g))?;
    assert_eq!(graph.nodes().iter().map(|node| &*node.op).collect::<Vec<_>>(), ["Neg", "If"]);
    let node = &graph.nodes()[1];
    let names: Vec<&str> = node.captures.iter().map(|&id| graph.value_name(id)).collect();
    assert_eq!(names, ["x", "c", "w"]);
    let then = &node.attrs["then_branch"].graphs()[0];
    let captured: Vec<&str> = then.captured().iter().map(|&id| then.value_name(id)).collect();
    assert_eq!(captured, ["x", "c"]);
    assert_eq!(fact(then, "y"), "float[2]");
    Ok(())
}

#[test]
fn initializers_that_are_inputs_can_be_fed_since_ir_version_4() -> peft_onnx::Result<()> {
    for (ir_version, inputs, constant_is_certain) in [(3, 1, true), (8, 2, false)] {
        let mut g = graph(&[value("x", &["2"]), value("w", &["2"])], &[node("Mul x w -> y")], &["y"]);
        g.initializer = vec![constant("w", &[2], &[1.0, 2.0])];
        let graph = read(&ModelProto { ir_version, ..model(18, g) })?;
        let w = graph.find("w").expect("it is there");
        assert_eq!((graph.inputs().len(), graph.constant(w).is_some()), (inputs, constant_is_certain), "IR version {ir_version}");
        assert_eq!(graph.data_inputs().count(), 1);
    }
    Ok(())
}

#[test]
fn typed_data_becomes_raw() -> peft_onnx::Result<()> {
    let empty =
        |dtype: DataType, count: i64| TensorProto { name: "w".into(), dims: vec![count], data_type: code(dtype), ..TensorProto::default() };
    let int32 = |dtype, count, int32_data: &[i32]| TensorProto { int32_data: int32_data.to_vec(), ..empty(dtype, count) };
    let rows: &[(TensorProto, &[u8])] = &[
        (TensorProto { float_data: vec![1.0], ..empty(DataType::FLOAT, 1) }, &[0, 0, 128, 63]),
        (TensorProto { double_data: vec![1.0], ..empty(DataType::DOUBLE, 1) }, &[0, 0, 0, 0, 0, 0, 240, 63]),
        (TensorProto { int64_data: vec![-2], ..empty(DataType::INT64, 1) }, &[254, 255, 255, 255, 255, 255, 255, 255]),
        (TensorProto { uint64_data: vec![3], ..empty(DataType::UINT64, 1) }, &[3, 0, 0, 0, 0, 0, 0, 0]),
        (TensorProto { uint64_data: vec![3], ..empty(DataType::UINT32, 1) }, &[3, 0, 0, 0]),
        (TensorProto { float_data: vec![1.0, 0.0], ..empty(DataType::COMPLEX64, 1) }, &[0, 0, 128, 63, 0, 0, 0, 0]),
        (int32(DataType::INT32, 1, &[-1]), &[255, 255, 255, 255]),
        (int32(DataType::FLOAT16, 2, &[0x3c00, 0xc000]), &[0, 0x3c, 0, 0xc0]),
        (int32(DataType::BFLOAT16, 1, &[0x3f80]), &[0x80, 0x3f]),
        (int32(DataType::INT16, 1, &[-2]), &[254, 255]),
        (int32(DataType::INT8, 2, &[-1, 5]), &[255, 5]),
        (int32(DataType::UINT8, 1, &[200]), &[200]),
        (int32(DataType::BOOL, 2, &[1, 0]), &[1, 0]),
        (int32(DataType::INT4, 3, &[0x21, 0x03]), &[0x21, 0x03]),
        (int32(DataType::FLOAT8E5M2, 1, &[0x3c]), &[0x3c]),
        (empty(DataType::FLOAT, 0), &[]),
    ];
    for (tensor, expected) in rows {
        let g = GraphProto { initializer: vec![tensor.clone()], ..graph(&[], &[], &["w"]) };
        let graph = read(&model(18, g))?;
        let (_, read) = graph.initializers().next().expect("one");
        assert_eq!(read.bytes().map(|bytes| &bytes[..]), Some(*expected), "{read:?}");
    }
    let strings = TensorProto { string_data: vec![b"a".to_vec(), vec![0xff]], ..empty(DataType::STRING, 2) };
    let graph = read(&model(18, GraphProto { initializer: vec![strings], ..graph(&[], &[], &["w"]) }))?;
    let (_, read) = graph.initializers().next().expect("one");
    assert_eq!((read.dtype(), read.as_strings().map(<[bytes::Bytes]>::len)), (DType::String, Some(2)));
    Ok(())
}

#[test]
fn weights_are_parts_of_the_mapped_file() -> peft_onnx::Result<()> {
    let mut g = graph(&[], &[], &["w"]);
    g.initializer = vec![constant("w", &[3], &[1.0, 2.0, 3.0])];
    let saved = save(&model(18, g));
    let graph = peft_onnx::onnx::read(&saved.path)?;
    let (_, tensor) = graph.initializers().next().expect("one");
    let origin = tensor.origin().expect("raw data has a place");
    let file = std::fs::read(&saved.path)?;
    let start = usize::try_from(origin.offset).expect("small");
    assert_eq!(&file[start..start + 12], &tensor.bytes().expect("numbers")[..]);
    assert_eq!(&*origin.file, saved.path);
    Ok(())
}

#[test]
fn both_names_of_the_standard_domain_are_one() -> peft_onnx::Result<()> {
    let mut m = model(18, graph(&[value("x", &["2"])], &[node("ai.onnx:Neg x -> y"), with(node("Cast y -> z"), "to", int(7))], &["z"]));
    m.opset_import = vec![super::make::opset("ai.onnx", 17)];
    let graph = read(&m)?;
    assert_eq!((&*graph.nodes()[0].op, graph.model().opset()), ("Neg", 17));
    Ok(())
}

#[test]
fn weights_in_constant_nodes_are_initializers_and_numbers_stay_nodes() -> Result<(), peft_onnx::Error> {
    let stored = |name: &str, dims: &[i64], values: &[f32]| {
        with(node(&format!("Constant -> {name}")), "value", attribute_tensor(constant("", dims, values)))
    };
    let nodes = [stored("w", &[2, 1], &[1.0, 2.0]), stored("scale", &[], &[3.0]), node("MatMul x w -> y"), node("Mul y scale -> z")];
    let graph = read(&model(18, graph(&[value("x", &["rows", "2"])], &nodes, &["z"])))?;
    let stored: Vec<&str> = graph.initializers().map(|(id, _)| graph.value_name(id)).collect();
    let left: Vec<&str> = graph.nodes().iter().map(|node| &*node.op).collect();
    assert_eq!((stored, left), (vec!["w"], vec!["Constant", "MatMul", "Mul"]));
    Ok(())
}
