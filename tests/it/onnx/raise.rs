//! Old forms of operators and what becomes of them.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, NodeProto, TensorProto, tensor_proto};
use peft_onnx::ir::{DType, Graph};
use peft_onnx::onnx::raise;

use super::make::{body, float, floats, graph, int, ints, model, node, read, show, string, typed, value, with};

const PADS: &[i64] = &[0, 0, 0, 1, 0, 0, 0, 0];

/// Opset, node, attributes, what is expected.
type Row<'a, T> = (i64, &'a str, &'a [(&'a str, AttributeProto)], T);

fn built(opset: i64, text: &str, attributes: &[(&str, AttributeProto)]) -> peft_onnx::Result<Graph> {
    let node = attributes.iter().fold(node(text), |node, (name, attribute)| with(node, name, attribute.clone()));
    let constants = [("one", 1_i64), ("zero", 0)].map(|(name, v)| TensorProto {
        name: name.into(),
        dims: vec![1],
        data_type: 7,
        int64_data: vec![v],
        ..TensorProto::default()
    });
    let scale = |name: &str, values: &[f32]| super::make::constant(name, &[4], values);
    let inputs = [value("x", &["a", "b", "4", "4"]), value("m", &["a", "4"]), value("u", &["?"])];
    let mut g = graph(&inputs, &[node], &["y"]);
    g.initializer = constants.into();
    g.initializer.extend([
        scale("up", &[1.0, 1.0, 2.0, 2.0]),
        scale("down", &[1.0, 1.0, 0.5, 1.0]),
        super::make::constant("none", &[0], &[]),
    ]);
    read(&model(opset, g))
}

/// As exporters wrote `0, 1, .., n - 1` before there was `Range`.
#[test]
fn places_of_ones_are_a_range() -> peft_onnx::Result<()> {
    let collation = |value: i64| {
        let tensor = TensorProto { dims: vec![1], data_type: 7, int64_data: vec![value], ..TensorProto::default() };
        AttributeProto { type_: AttributeType::TENSOR.into(), t: Some(tensor).into(), ..AttributeProto::default() }
    };
    for (opset, filled, op) in [(10, 1, "Unsqueeze"), (10, 0, "NonZero"), (11, 1, "NonZero")] {
        let ones = with(node("ConstantOfShape n -> ones"), "value", collation(filled));
        let g = graph(&[typed("n", tensor_proto::DataType::INT64, &["1"])], &[ones, node("NonZero ones -> y")], &["y"]);
        let raised = raise(&read(&model(opset, g))?)?;
        let last = raised.producer(raised.outputs()[0]).map(|id| &*raised.node(id).op);
        assert_eq!(last, Some(op), "opset {opset}, filled with {filled}");
    }
    Ok(())
}

#[test]
fn every_old_form_has_a_new_one() -> peft_onnx::Result<()> {
    let rows: &[Row<'_, &[&str]>] = &[
        (17, "ReduceMean x -> y", &[("axes", ints(&[-1])), ("keepdims", int(1))], &["ReduceMean x [-1] keepdims=Int(1) -> y"]),
        (17, "ReduceMax x -> y", &[], &["ReduceMax x -> y"]),
        (12, "ReduceSum x -> y", &[("axes", ints(&[0, 1]))], &["ReduceSum x [0,1] -> y"]),
        (13, "ReduceSum x one -> y", &[], &["ReduceSum x [1] -> y"]),
        (12, "Unsqueeze x -> y", &[("axes", ints(&[0]))], &["Unsqueeze x [0] -> y"]),
        (11, "Squeeze x -> y", &[("axes", ints(&[0]))], &["Squeeze x [0] -> y"]),
        (12, "Split x -> y z", &[("axis", int(2)), ("split", ints(&[1, 3]))], &["Split x [1,3] axis=Int(2) -> y z"]),
        (12, "Split x -> y z", &[("axis", int(2))], &["Split x axis=Int(2) num_outputs=Int(2) -> y z"]),
        (17, "Split x -> y z", &[("axis", int(2))], &["Split x axis=Int(2) num_outputs=Int(2) -> y z"]),
        (13, "Split x one -> y", &[], &["Split x [1] -> y"]),
        (9, "Slice x -> y", &[("starts", ints(&[1])), ("ends", ints(&[3])), ("axes", ints(&[2]))], &["Slice x [1] [3] [2] -> y"]),
        (9, "Slice x -> y", &[("starts", ints(&[1])), ("ends", ints(&[3]))], &["Slice x [1] [3] -> y"]),
        (10, "Clip x -> y", &[("min", float(-1.0)), ("max", float(6.0))], &["Clip x [-1] [6] -> y"]),
        (10, "Clip x -> y", &[("max", float(6.0))], &["Clip x _ [6] -> y"]),
        (10, "Pad x -> y", &[("pads", ints(PADS)), ("value", float(2.0))], &["Pad x [0,0,0,1,0,0,0,0] [2] -> y"]),
        (
            10,
            "Pad x -> y",
            &[("mode", string("edge")), ("pads", ints(PADS)), ("value", float(0.0))],
            &["Pad x [0,0,0,1,0,0,0,0] mode=Str(b\"edge\") -> y"],
        ),
        (9, "TopK x -> y z", &[("k", int(2)), ("axis", int(1))], &["TopK x [2] axis=Int(1) -> y z"]),
        (11, "Dropout x -> y", &[("ratio", float(0.1))], &["Dropout x -> y"]),
        (12, "Softmax x -> y", &[("axis", int(3))], &["Softmax x axis=Int(-1) -> y"]),
        (12, "Softmax m -> y", &[], &["Softmax m axis=Int(-1) -> y"]),
        (
            12,
            "LogSoftmax x -> y",
            &[("axis", int(2))],
            &[
                "Flatten x axis=Int(2) -> LogSoftmax/Flatten:0",
                "LogSoftmax LogSoftmax/Flatten:0 axis=Int(-1) -> LogSoftmax/LogSoftmax:0",
                "Shape x -> LogSoftmax/Shape:0",
                "Reshape LogSoftmax/LogSoftmax:0 LogSoftmax/Shape:0 -> y",
            ],
        ),
        (13, "Softmax x -> y", &[], &["Softmax x -> y"]),
        (8, "Scatter x one m -> y", &[("axis", int(1))], &["ScatterElements x [1] m axis=Int(1) -> y"]),
        (
            7,
            "Upsample x -> y",
            &[("mode", string("nearest")), ("scales", floats(&[1.0, 1.0, 2.0, 2.0]))],
            &[
                "Resize x _ [1,1,2,2] mode=Str(b\"nearest\") coordinate_transformation_mode=Str(b\"asymmetric\") nearest_mode=Str(b\"floor\") -> y",
            ],
        ),
        (
            9,
            "Upsample x up -> y",
            &[("mode", string("linear"))],
            &["Resize x _ [1,1,2,2] mode=Str(b\"linear\") coordinate_transformation_mode=Str(b\"asymmetric\") -> y"],
        ),
        (
            10,
            "Resize x down -> y",
            &[],
            &["Resize x _ [1,1,0.5,1] coordinate_transformation_mode=Str(b\"asymmetric\") nearest_mode=Str(b\"ceil\") -> y"],
        ),
        (11, "Resize x none up -> y", &[], &["Resize x _ [1,1,2,2] -> y"]),
        (8, "BatchNormalization x u u u u -> y", &[("spatial", int(1))], &["BatchNormalization x u u u u -> y"]),
        (10, "RoiAlign x m one -> y", &[], &["RoiAlign x m [1] coordinate_transformation_mode=Str(b\"output_half_pixel\") -> y"]),
        (8, "Cast x -> y", &[("to", string("FLOAT16"))], &["Cast x to=Int(10) -> y"]),
    ];
    for (opset, text, attributes, expected) in rows {
        let before = built(*opset, text, attributes)?;
        let after = raise(&before)?;
        assert_eq!(show(&after), *expected, "opset {opset}: {text}");
        assert_eq!((after.model().opset(), after.model().ir_version), (18, 8));
        for (id, value) in before.values().iter().enumerate() {
            assert_eq!(after.values()[id].name, value.name);
        }
        let y = after.find("y").expect("it stays");
        assert_eq!(after.fact(y), before.fact(y), "opset {opset}: {text}");
    }
    Ok(())
}

#[test]
fn what_has_no_new_form_is_an_error() {
    let rows: &[Row<'_, &str>] = &[
        (8, "Scan x -> y", &[], "node Scan -> y: Scan of opset 8"),
        (7, "BatchNormalization x u u u u -> y", &[("spatial", int(0))], "statistics for each element"),
        (10, "Resize x u -> y", &[], "its scales are not constant"),
        (9, "Dropout x -> y z", &[], "its mask is not a boolean one"),
        (6, "Neg x -> y", &[], "opset 6 is not supported: operators are understood from opset 7 on"),
    ];
    for (opset, text, attributes, expected) in rows {
        let error = built(*opset, text, attributes).and_then(|graph| raise(&graph)).expect_err("it has none").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn newer_graphs_stay_as_they_are() -> peft_onnx::Result<()> {
    let graph = read(&model(
        23,
        graph(&[value("x", &["2", "3"])], &[with(node("Softmax x -> y"), "axis", int(1)), node("RMSNormalization y y -> z")], &["z"]),
    ))?;
    let raised = raise(&graph)?;
    assert_eq!((show(&raised), raised.model().opset()), (show(&graph), 23));
    Ok(())
}

#[test]
fn bodies_are_raised_too() -> peft_onnx::Result<()> {
    let branch = |node: NodeProto, output: &str| body(graph(&[], &[node], &[output]));
    let sum = with(node("ReduceSum x -> s"), "axes", ints(&[0]));
    let choice = with(with(node("If c -> y"), "then_branch", branch(sum, "s")), "else_branch", branch(node("Neg x -> n"), "n"));
    let condition = typed("c", onnx_protobuf::tensor_proto::DataType::BOOL, &[]);
    let raised = raise(&read(&model(11, graph(&[value("x", &["2", "3"]), condition], &[choice], &["y"])))?)?;
    let then = &raised.nodes()[0].attrs["then_branch"].graphs()[0];
    assert_eq!(show(then), ["ReduceSum x [0] -> s"]);
    assert_eq!((then.captured().len(), then.model().opset()), (1, 18));
    assert_eq!(raised.fact(raised.find("y").expect("it is there")).dtype, Some(DType::F32));
    Ok(())
}
