//! Models rewritten with another implementation of the format.

use std::path::Path;

use half::{bf16, f16};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto, ValueInfoProto, type_proto,
};

const FLOAT: i32 = 1;

/// A type of two bytes.
#[derive(Clone, Copy)]
pub(crate) enum Half {
    Float16,
    BFloat16,
}

impl Half {
    fn code(self) -> i32 {
        match self {
            Self::Float16 => 10,
            Self::BFloat16 => 16,
        }
    }

    /// Numbers beyond the type's become its largest: masks have them.
    fn bytes(self, number: f32) -> [u8; 2] {
        match self {
            Self::Float16 => f16::from_f32(number.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())).to_le_bytes(),
            Self::BFloat16 => bf16::from_f32(number.clamp(bf16::MIN.to_f32(), bf16::MAX.to_f32())).to_le_bytes(),
        }
    }
}

pub(crate) fn rewrite(from: &Path, to: &Path, change: impl Fn(&mut ModelProto)) {
    let bytes = std::fs::read(from).expect("the fixture is there");
    let mut model = ModelProto::parse_from_bytes(&bytes).expect("the fixture is a model");
    change(&mut model);
    std::fs::write(to, model.write_to_bytes().expect("it can be encoded")).expect("the folder is writable");
}

/// Everything that is float32, in a type of two bytes: weights, numbers, inputs and outputs.
pub(crate) fn in_half(model: &mut ModelProto, half: Half) {
    graph_in_half(model.graph.mut_or_insert_default(), half);
}

fn graph_in_half(graph: &mut GraphProto, half: Half) {
    graph.value_info.clear();
    graph.initializer.iter_mut().for_each(|tensor| tensor_in_half(tensor, half));
    for info in graph.input.iter_mut().chain(&mut graph.output) {
        if let Some(type_proto::Value::TensorType(tensor)) = &mut info.type_.mut_or_insert_default().value
            && tensor.elem_type == FLOAT
        {
            tensor.elem_type = half.code();
        }
    }
    for node in &mut graph.node {
        let is_cast = node.op_type == "Cast";
        for attribute in &mut node.attribute {
            if is_cast && attribute.name == "to" && attribute.i == i64::from(FLOAT) {
                attribute.i = half.code().into();
            }
            attribute.t.as_mut().into_iter().for_each(|tensor| tensor_in_half(tensor, half));
            attribute.g.as_mut().into_iter().for_each(|body| graph_in_half(body, half));
        }
    }
}

fn tensor_in_half(tensor: &mut TensorProto, half: Half) {
    if tensor.data_type != FLOAT {
        return;
    }
    let raw = tensor.raw_data.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let numbers: Vec<f32> = raw.chain(tensor.float_data.iter().copied()).collect();
    tensor.float_data.clear();
    tensor.raw_data = numbers.into_iter().flat_map(|number| half.bytes(number)).collect();
    tensor.data_type = half.code();
}

/// Every constant listed among the inputs, in a version of the file format.
pub(crate) fn listing_constants(model: &mut ModelProto, version: i64) {
    model.ir_version = version;
    let graph = model.graph.mut_or_insert_default();
    let listed = graph.initializer.iter().map(|tensor| {
        let mut info = ValueInfoProto { name: tensor.name.clone(), ..ValueInfoProto::default() };
        let dims = tensor.dims.iter().map(|&length| onnx_protobuf::tensor_shape_proto::Dimension {
            value: Some(onnx_protobuf::tensor_shape_proto::dimension::Value::DimValue(length)),
            ..onnx_protobuf::tensor_shape_proto::Dimension::default()
        });
        let shape = onnx_protobuf::TensorShapeProto { dim: dims.collect(), ..onnx_protobuf::TensorShapeProto::default() };
        let tensor = type_proto::Tensor { elem_type: tensor.data_type, shape: Some(shape).into(), ..type_proto::Tensor::default() };
        info.type_ = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }).into();
        info
    });
    let listed: Vec<ValueInfoProto> = listed.collect();
    graph.input.extend(listed);
}

/// How weights are rounded to integers.
#[derive(Clone, Copy)]
pub(crate) enum Scheme {
    /// `MatMulNBits`: 4 or 8 bits in blocks of 16, symmetric.
    Blocks(u8),
    /// `DynamicQuantizeLinear` and `MatMulInteger`: int8 with one scale.
    Dynamic,
}

/// Elements of a block.
const BLOCK: usize = 16;

/// Every product with a constant matrix, its weight rounded to integers.
pub(crate) fn quantised(model: &mut ModelProto, scheme: Scheme) {
    model.opset_import.push(OperatorSetIdProto { domain: "com.microsoft".into(), version: 1, ..OperatorSetIdProto::default() });
    let graph = model.graph.mut_or_insert_default();
    for node in std::mem::take(&mut graph.node) {
        let weight = node.input.get(1).and_then(|name| graph.initializer.iter().find(|tensor| tensor.name == *name)).cloned();
        match weight.filter(|weight| node.op_type == "MatMul" && weight.dims.len() == 2 && weight.data_type == FLOAT) {
            None => graph.node.push(node),
            Some(weight) => {
                let (nodes, constants) = product(&node, &weight, scheme);
                graph.node.extend(nodes);
                graph.initializer.extend(constants);
            }
        }
    }
    let read: std::collections::BTreeSet<String> = graph.node.iter().flat_map(|node| node.input.iter().cloned()).collect();
    graph.initializer.retain(|tensor| read.contains(&tensor.name));
}

fn product(node: &NodeProto, weight: &TensorProto, scheme: Scheme) -> (Vec<NodeProto>, Vec<TensorProto>) {
    let name = |suffix: &str| format!("{}_{suffix}", node.output[0]);
    let numbers: Vec<f32> =
        weight.raw_data.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect();
    let [rows, columns] = [weight.dims[0], weight.dims[1]].map(|length| usize::try_from(length).expect("a length"));
    let rounded = |number: f32, scale: f32| -> i8 { format!("{:.0}", number / scale).parse().expect("a small integer") };
    let largest = |numbers: &mut dyn Iterator<Item = f32>| numbers.fold(f32::MIN_POSITIVE, |most, number| most.max(number.abs()));
    let new = |op: &str, inputs: &[&str], outputs: &[String]| NodeProto {
        name: format!("{}/{op}", node.name),
        op_type: op.into(),
        input: inputs.iter().map(|&input| input.into()).collect(),
        output: outputs.to_vec(),
        ..NodeProto::default()
    };
    match scheme {
        Scheme::Dynamic => {
            let scale = largest(&mut numbers.iter().copied()) / 127.0;
            let bytes = numbers.iter().flat_map(|&number| rounded(number, scale).to_le_bytes()).collect();
            let constants =
                vec![tensor(&name("q"), 3, weight.dims.clone(), bytes), tensor(&name("s"), FLOAT, vec![], scale.to_le_bytes().into())];
            let (values, of_x, zero) = (name("x"), name("x_scale"), name("x_zero"));
            let mut cast = new("Cast", &[&name("sum")], &[name("float")]);
            cast.attribute.push(integer("to", FLOAT.into()));
            let nodes = vec![
                new("DynamicQuantizeLinear", &[&node.input[0]], &[values.clone(), of_x.clone(), zero.clone()]),
                new("MatMulInteger", &[&values, &name("q"), &zero], &[name("sum")]),
                cast,
                NodeProto { name: format!("{}/Mul_1", node.name), ..new("Mul", &[&of_x, &name("s")], &[name("scale")]) },
                new("Mul", &[&name("float"), &name("scale")], &node.output),
            ];
            (nodes, constants)
        }
        Scheme::Blocks(bits) => {
            let (mut packed, mut scales) = (vec![], vec![]);
            for column in 0..columns {
                for block in 0..rows / BLOCK {
                    let part: Vec<f32> = (0..BLOCK).map(|i| numbers[(block * BLOCK + i) * columns + column]).collect();
                    let scale = largest(&mut part.iter().copied()) / if bits == 4 { 7.0 } else { 127.0 };
                    scales.extend(scale.to_le_bytes());
                    let middle = if bits == 4 { 8 } else { 128 };
                    let stored = |number: f32| u8::try_from(i16::from(rounded(number, scale)) + middle).expect("so many bits");
                    match bits {
                        4 => packed.extend(part.chunks_exact(2).map(|pair| stored(pair[0]) | stored(pair[1]) << 4)),
                        _ => packed.extend(part.iter().map(|&number| stored(number))),
                    }
                }
            }
            let length = |n: usize| i64::try_from(n).expect("a length");
            let blocks = length(rows / BLOCK);
            let constants = vec![
                tensor(&name("q"), 2, vec![length(columns), blocks, length(BLOCK) * i64::from(bits) / 8], packed),
                tensor(&name("s"), FLOAT, vec![length(columns) * blocks], scales),
            ];
            let mut fused = new("MatMulNBits", &[&node.input[0], &name("q"), &name("s")], &node.output);
            fused.domain = "com.microsoft".into();
            let attributes = [("K", rows), ("N", columns), ("bits", usize::from(bits)), ("block_size", BLOCK)];
            fused.attribute = attributes.iter().map(|&(name, value)| integer(name, length(value))).collect();
            (vec![fused], constants)
        }
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::INT.into(), i: value, ..AttributeProto::default() }
}

fn tensor(name: &str, kind: i32, dims: Vec<i64>, bytes: Vec<u8>) -> TensorProto {
    TensorProto { name: name.into(), data_type: kind, dims, raw_data: bytes, ..TensorProto::default() }
}
