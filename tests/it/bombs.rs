//! Small files and options that ask for much: answered in time, by a result or by an error that names the limit.

use std::time::{Duration, Instant};

use crate::common::{Folder, fixture, refused, run};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};

/// What a program without optimisation may take for what has a kilobyte.
const PATIENCE: Duration = Duration::from_secs(20);

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let (domain, op) = op.split_once(':').unwrap_or(("", op));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto { op_type: op.into(), domain: domain.into(), input: names(inputs), output: names(outputs), ..NodeProto::default() }
}

fn ints(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: 7,
        dims: vec![i64::try_from(values.len()).expect("few")],
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn truth(name: &str) -> TensorProto {
    TensorProto { name: name.into(), data_type: 9, dims: vec![1], int32_data: vec![1], ..TensorProto::default() }
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.into(), version, ..OperatorSetIdProto::default() }
}

/// A model of `x: float[a, b]`.
fn model(nodes: Vec<NodeProto>, constants: Vec<TensorProto>, functions: Vec<FunctionProto>) -> Vec<u8> {
    use onnx_protobuf::{TensorShapeProto, TypeProto, tensor_shape_proto, type_proto};
    let length = |name: &str| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimParam(name.into())),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: vec![length("a"), length("b")], ..Default::default() };
    let tensor = type_proto::Tensor { elem_type: 1, shape: Some(shape).into(), ..Default::default() };
    let type_ = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    let x = ValueInfoProto { name: "x".into(), type_: Some(type_).into(), ..Default::default() };
    let y = ValueInfoProto { name: "y".into(), ..Default::default() };
    let graph =
        GraphProto { name: "g".into(), node: nodes, initializer: constants, input: vec![x], output: vec![y], ..GraphProto::default() };
    let opset_import = vec![opset("", 18), opset("f", 1)];
    let model = ModelProto { ir_version: 8, graph: Some(graph).into(), opset_import, functions, ..ModelProto::default() };
    model.write_to_bytes().expect("a message")
}

fn function(name: &str, nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "f".into(),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: nodes,
        opset_import: vec![opset("", 18), opset("f", 1)],
        ..FunctionProto::default()
    }
}

/// Functions of which each calls the next `calls` times.
fn unfolding(levels: usize, calls: usize) -> Vec<FunctionProto> {
    let called = |level: usize| if level + 1 == levels { "Relu".to_owned() } else { format!("f:F{}", level + 1) };
    let names = |at: usize| if at == 0 { "a".to_owned() } else { format!("t{at}") };
    let output = |at: usize| if at + 1 == calls { "b".to_owned() } else { format!("t{}", at + 1) };
    (0..levels)
        .map(|level| function(&format!("F{level}"), (0..calls).map(|at| node(&called(level), &[&names(at)], &[&output(at)])).collect()))
        .collect()
}

/// `c ↦ (c + s) · c`, so many times.
fn growing(rounds: usize) -> Vec<u8> {
    let mut nodes = vec![node("Shape", &["x"], &["s"]), node("Gather", &["s", "zero"], &["c0"]), node("Gather", &["s", "one"], &["d"])];
    for round in 0..rounds {
        nodes.push(node("Add", &[&format!("c{round}"), "d"], &[&format!("e{round}")]));
        nodes.push(node("Mul", &[&format!("e{round}"), &format!("c{round}")], &[&format!("c{}", round + 1)]));
    }
    nodes.push(node("ConstantOfShape", &[&format!("c{rounds}")], &["y"]));
    model(nodes, vec![ints("zero", &[0]), ints("one", &[1])], vec![])
}

/// A list of `2^50` axes that nobody wrote out.
fn listed(op: &str) -> Vec<u8> {
    let list = node("ConstantOfShape", &["length"], &["list"]);
    model(vec![list, node(op, &["x", "list"], &["y"])], vec![ints("length", &[1 << 50])], vec![])
}

fn split(parts: i64) -> Vec<u8> {
    let mut split = node("Split", &["x"], &["y"]);
    split.attribute.push(AttributeProto {
        name: "num_outputs".into(),
        type_: AttributeType::INT.into(),
        i: parts,
        ..AttributeProto::default()
    });
    model(vec![split], vec![], vec![])
}

/// A sum whose equation has so many letters.
fn sum(letters: usize) -> Vec<u8> {
    let mut sum = node("Einsum", &["x"], &["y"]);
    let s = "ab".repeat(letters / 2).into_bytes();
    sum.attribute.push(AttributeProto { name: "equation".into(), type_: AttributeType::STRING.into(), s, ..AttributeProto::default() });
    model(vec![sum], vec![], vec![])
}

/// A model that names so many operator sets.
fn of_sets(count: usize) -> Vec<u8> {
    let mut all = ModelProto::parse_from_bytes(&model(vec![node("Relu", &["x"], &["y"])], vec![], vec![])).expect("a model");
    all.opset_import.extend((0..count).map(|set| opset(&format!("set{set}"), 1)));
    all.write_to_bytes().expect("a message")
}

/// `If` in `If`, as deep as calls of a function whose body calls the next one.
fn nested(levels: usize) -> Vec<FunctionProto> {
    let call = |level: usize| {
        let inner = if level + 1 == levels { node("Relu", &["a"], &["c"]) } else { node(&format!("f:F{}", level + 1), &["a"], &["c"]) };
        let output = vec![ValueInfoProto { name: "c".into(), ..ValueInfoProto::default() }];
        let body = GraphProto { name: "body".into(), node: vec![inner], output, ..GraphProto::default() };
        let branch = |name: &str| AttributeProto {
            name: name.into(),
            type_: AttributeType::GRAPH.into(),
            g: Some(body.clone()).into(),
            ..AttributeProto::default()
        };
        let mut choice = node("If", &["condition"], &["b"]);
        choice.attribute = vec![branch("then_branch"), branch("else_branch")];
        let condition = node("Constant", &[], &["condition"]);
        function(&format!("F{level}"), vec![condition, choice])
    };
    (0..levels).map(call).collect()
}

#[test]
fn small_models_that_grow_are_answered_in_time() {
    let call = || vec![node("f:F0", &["x"], &["y"])];
    let chain = |length: usize, op: &str, inputs: &dyn Fn(&str) -> Vec<&str>| {
        let name = |at: usize| match at {
            0 => "x".to_owned(),
            at if at == length => "y".to_owned(),
            at => format!("v{at}"),
        };
        (0..length).map(|at| node(op, &inputs(&name(at)), &[&name(at + 1)])).collect::<Vec<_>>()
    };
    let many = |count: usize| chain(count, "f:F0", &|at| vec![at]);
    let long = |length: usize| chain(length, "Relu", &|at| vec![at]);
    for (what, bytes, expected) in [
        ("lengths that grow", growing(40), None),
        ("a list of axes without end", listed("Unsqueeze"), None),
        ("a shape without end", listed("Reshape"), None),
        ("parts without end", split(1 << 62), None),
        (
            "calls that multiply",
            model(call(), vec![], unfolding(25, 2)),
            Some("node F0 -> y: invalid graph: calls of functions unfold into more than"),
        ),
        ("calls that go deep", model(call(), vec![], unfolding(20_000, 1)), Some("functions call each other more than 200 deep")),
        ("bodies that go deep", model(call(), vec![], nested(60)), Some("")),
        ("many calls", model(many(3000), vec![], unfolding(1, 3)), None),
        ("many nodes", model(long(30_000), vec![], vec![]), None),
        ("many operator sets", of_sets(300_000), Some("operator sets: expected 1000 at most")),
        ("an equation without end", sum(5_000_000), Some("")),
        ("many names of one value", model(chain(30_000, "Identity", &|at| vec![at]), vec![], vec![]), None),
        ("ways that meet again and again", model(chain(40, "Max", &|at| vec![at, at]), vec![], vec![]), None),
        ("a choice between the same", model(chain(40, "Where", &|at| vec!["c", at, at]), vec![truth("c")], vec![]), None),
    ] {
        let folder = Folder::with("llama/dynamo.onnx");
        let path = folder.path("bomb.onnx");
        std::fs::write(&path, bytes).expect("the file is written");
        let started = Instant::now();
        let (success, _, said) = run(&["convert", &path, "-o", &folder.path("again.onnx"), "--form", "plain"]);
        assert!(started.elapsed() < PATIENCE, "{what}: {:?}", started.elapsed());
        match expected {
            None => assert!(success, "{what}: {said}"),
            Some(words) => assert!(!success && said.starts_with("error: ") && said.contains(words), "{what}: {said}"),
        }
        let (success, shown, said) = run(&["inspect", &path, "--explain", "--ops"]);
        assert!(success || said.starts_with("error: "), "{what}: {said}");
        assert!(shown.lines().all(|line| line.len() < 4000), "{what}: a line is cut where it is long");
    }
}

#[test]
fn sizes_beyond_reason_are_refused_by_name() {
    let folder = Folder::with("llama/dynamo.onnx");
    let (model, body, out) = (fixture("llama/dynamo.onnx"), fixture("bert_encoder/dynamo.onnx"), folder.path("out"));
    for number in ["1000000000", "4611686018427387904", "18446744073709551615"] {
        let expected = &["expected at most 1048576", number];
        refused(&["inject", &model, "--method", "lora", "--rank", number, "-o", &out], expected);
        refused(&["inject", &body, "--method", "lora", "--num-labels", number, "-o", &out], expected);
        for method in ["prompt_tuning", "prefix_tuning", "p_tuning", "p_tuning_v2"] {
            refused(&["inject", &model, "--method", method, "--num-virtual-tokens", number, "-o", &out], expected);
        }
    }
    for arguments in [
        ["lora", "--rank", "1000000"],
        ["loha", "--rank", "1000000"],
        ["vera", "--rank", "1000000"],
        ["p_tuning", "--num-virtual-tokens", "1000000"],
    ] {
        refused(
            &[&["inject", &model, "-o", &out, "--method"], &arguments[..]].concat(),
            &["numbers of the adapter: expected at most 16777216", "hint: "],
        );
    }
}

#[test]
fn data_and_options_that_ask_for_much_are_answered_in_time() {
    let folder = Folder::empty();
    let write = |name: &str, text: String| {
        let path = folder.path(name);
        std::fs::write(&path, text).expect("the file is written");
        path
    };
    let keys = (0..100_000).map(|key| format!(",\"k{key}\":1")).collect::<Vec<_>>().concat();
    let header = (0..100_000).map(|key| format!(",c{key}")).collect::<Vec<_>>().concat();
    let many = write("many.jsonl", format!("{{\"input_ids\":[1{}],\"label\":1}}\n", ",1".repeat(5_000_000)));
    let wide = write("wide.jsonl", format!("{{\"input_ids\":[1,2],\"label\":1{keys}}}\n"));
    let table = write("wide.csv", format!("input_ids,label{header}\n\"[1, 2]\",1{}\n", ",x".repeat(100_000)));
    let options = write("deep.yaml", format!("data: {}", "[".repeat(100_000)));
    let model = fixture("bert_classifier/dynamo.onnx");
    let rows: [(&[&str], Option<&str>); 4] = [
        (&["eval", &model, "--data", &many], Some("values in this row: expected 4000000 at most")),
        (&["eval", &model, "--data", &wide], None),
        (&["eval", &model, "--data", &table], None),
        (&["train", "bundle", "--config", &options], Some("brackets stand in one another")),
    ];
    for (arguments, expected) in rows {
        let started = Instant::now();
        let (success, _, said) = run(arguments);
        assert!(started.elapsed() < PATIENCE, "{arguments:?}: {:?}", started.elapsed());
        match expected {
            None => assert!(success, "{arguments:?}: {said}"),
            Some(words) => assert!(!success && said.contains(words), "{arguments:?}: {said}"),
        }
    }
}

#[cfg(unix)]
#[test]
fn what_has_no_end_is_not_read_in_the_place_of_a_file() {
    let folder = Folder::with("vit_classifier/dynamo.onnx");
    let (model, pipe) = (folder.path("model.onnx"), folder.path("pipe"));
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo makes pipes");
    folder.write("preprocessor_config.json", r#"{"do_resize": false, "do_rescale": true, "do_normalize": false}"#);
    let rows = folder.write("rows.jsonl", "{\"image\": \"pipe\", \"label\": 0}\n");
    let said = ["no ordinary file", "hint: it is a pipe"];
    refused(&["eval", &model, "--data", &rows], &said);
    refused(&["train", "bundle", "--config", &pipe], &said);
}
