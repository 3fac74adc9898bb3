//! Models made with another implementation of the format.

use std::fs;
use std::path::{Path, PathBuf};

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, tensor_proto, tensor_shape_proto, type_proto,
};
use peft_onnx::ir::Graph;
use peft_onnx::onnx;

/// `"Add x y -> z"`: operator, inputs, outputs; `_` is a missing one. With a `|`, what is before it is the node's name.
pub(crate) fn node(text: &str) -> NodeProto {
    let (name, text) = text.split_once('|').unwrap_or(("", text));
    let (left, right) = text.split_once("->").expect("an arrow");
    let value = |word: &str| if word == "_" { String::new() } else { word.to_owned() };
    let mut left = left.split_whitespace();
    let op = left.next().expect("an operator");
    let (domain, op) = op.rsplit_once(':').unwrap_or(("", op));
    NodeProto {
        name: name.into(),
        op_type: op.into(),
        domain: domain.into(),
        input: left.map(value).collect(),
        output: right.split_whitespace().map(value).collect(),
        ..NodeProto::default()
    }
}

/// `node` with an attribute.
pub(crate) fn with(mut node: NodeProto, name: &str, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(AttributeProto { name: name.into(), ..attribute });
    node
}

pub(crate) fn int(value: i64) -> AttributeProto {
    AttributeProto { type_: AttributeType::INT.into(), i: value, ..AttributeProto::default() }
}

pub(crate) fn ints(values: &[i64]) -> AttributeProto {
    AttributeProto { type_: AttributeType::INTS.into(), ints: values.to_vec(), ..AttributeProto::default() }
}

pub(crate) fn float(value: f32) -> AttributeProto {
    AttributeProto { type_: AttributeType::FLOAT.into(), f: value, ..AttributeProto::default() }
}

pub(crate) fn floats(values: &[f32]) -> AttributeProto {
    AttributeProto { type_: AttributeType::FLOATS.into(), floats: values.to_vec(), ..AttributeProto::default() }
}

pub(crate) fn string(value: &str) -> AttributeProto {
    AttributeProto { type_: AttributeType::STRING.into(), s: value.into(), ..AttributeProto::default() }
}

pub(crate) fn attribute_tensor(tensor: TensorProto) -> AttributeProto {
    AttributeProto { type_: AttributeType::TENSOR.into(), t: Some(tensor).into(), ..AttributeProto::default() }
}

pub(crate) fn body(graph: GraphProto) -> AttributeProto {
    AttributeProto { type_: AttributeType::GRAPH.into(), g: Some(graph).into(), ..AttributeProto::default() }
}

/// A float input: numbers are lengths, words are names, `?` is neither.
pub(crate) fn value(name: &str, lengths: &[&str]) -> ValueInfoProto {
    typed(name, tensor_proto::DataType::FLOAT, lengths)
}

pub(crate) fn typed(name: &str, dtype: tensor_proto::DataType, lengths: &[&str]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension};
    let dim = |text: &&str| Dimension {
        value: match text.parse() {
            Ok(length) => Some(dimension::Value::DimValue(length)),
            Err(_) if *text == "?" => None,
            Err(_) => Some(dimension::Value::DimParam((*text).into())),
        },
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: lengths.iter().map(dim).collect(), ..TensorShapeProto::default() };
    let tensor = type_proto::Tensor { elem_type: code(dtype), shape: Some(shape).into(), ..type_proto::Tensor::default() };
    let type_ = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), type_: Some(type_).into(), ..ValueInfoProto::default() }
}

pub(crate) fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), ..ValueInfoProto::default() }
}

pub(crate) fn code(dtype: tensor_proto::DataType) -> i32 {
    protobuf::Enum::value(&dtype)
}

/// A float constant in raw form.
pub(crate) fn constant(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: 1,
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}

/// A float constant in another file.
pub(crate) fn elsewhere(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: (*key).into(),
        value: (*value).into(),
        ..StringStringEntryProto::default()
    };
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: 1,
        external_data: entries.iter().map(entry).collect(),
        data_location: tensor_proto::DataLocation::EXTERNAL.into(),
        ..TensorProto::default()
    }
}

pub(crate) fn graph(inputs: &[ValueInfoProto], nodes: &[NodeProto], outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: "g".into(),
        input: inputs.to_vec(),
        node: nodes.to_vec(),
        output: outputs.iter().map(|name| untyped(name)).collect(),
        ..GraphProto::default()
    }
}

pub(crate) fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.into(), version, ..OperatorSetIdProto::default() }
}

pub(crate) fn model(version: i64, graph: GraphProto) -> ModelProto {
    ModelProto { ir_version: 8, opset_import: vec![opset("", version)], graph: Some(graph).into(), ..ModelProto::default() }
}

/// A model in a folder of its own.
pub(crate) struct Saved {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

pub(crate) fn save(model: &ModelProto) -> Saved {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    fs::write(&path, model.write_to_bytes().expect("memory")).expect("disk");
    Saved { folder, path }
}

/// What our reader makes of a model.
pub(crate) fn read(model: &ModelProto) -> peft_onnx::Result<Graph> {
    onnx::read(&save(model).path)
}

/// What the other implementation reads in a file.
pub(crate) fn parse(path: &Path) -> ModelProto {
    ModelProto::parse_from_bytes(&fs::read(path).expect("a file")).expect("valid protobuf")
}

/// A node as text: operator, inputs (constants as numbers), attributes in their order, outputs.
pub(crate) fn show(graph: &Graph) -> Vec<String> {
    let input = |id: &Option<peft_onnx::ir::ValueId>| match id {
        None => "_".to_owned(),
        Some(id) => match graph.constant(*id).and_then(peft_onnx::ir::Tensor::to_f64) {
            Some(numbers) => format!("{numbers:?}").replace(".0", "").replace(' ', ""),
            None => graph.value_name(*id).to_owned(),
        },
    };
    let line = |node: &peft_onnx::ir::Node| {
        let inputs = node.inputs.iter().map(input);
        let attrs = node.attrs.iter().map(|(name, attr)| format!("{name}={attr:?}"));
        let outputs = node.writes().map(|id| graph.value_name(id).to_owned());
        let words = std::iter::once(node.op.to_string()).chain(inputs).chain(attrs).chain(["->".to_owned()]).chain(outputs);
        words.collect::<Vec<_>>().join(" ")
    };
    graph.nodes().iter().map(line).collect()
}
