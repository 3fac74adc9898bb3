//! Models rewritten with another implementation of the format.

use std::path::Path;

use half::{bf16, f16};
use onnx_protobuf::{GraphProto, Message, ModelProto, TensorProto, TypeProto, ValueInfoProto, type_proto};

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
