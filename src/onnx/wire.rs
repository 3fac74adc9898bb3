//! The wire format, checked from the outside: what `onnx-protobuf` makes of messages in which every field is set.

#![expect(clippy::unnecessary_wraps, reason = "fields are optional")]

use onnx_protobuf::Message as _;
use prost::Message as _;

use super::proto::{
    AttributeProto, DeviceConfigurationProto, Dimension, EXTERNAL, FunctionProto, GraphProto, IntIntListEntryProto, MapType, ModelProto,
    NodeDeviceConfigurationProto, NodeProto, OperatorSetIdProto, OptionalType, Segment, SequenceType, ShardedDimProto, ShardingSpecProto,
    SimpleShardedDimProto, SparseTensorProto, SparseTensorType, StringStringEntryProto, TensorAnnotation, TensorProto, TensorShapeProto,
    TensorType, TrainingInfoProto, TypeProto, ValueInfoProto, attribute_type, dimension, simple_sharded_dim, type_value,
};

fn text(field: &str) -> Option<String> {
    Some(field.to_owned())
}

fn texts(field: &str) -> Vec<String> {
    vec![field.to_owned()]
}

fn bytes(field: &str) -> Option<bytes::Bytes> {
    Some(field.to_owned().into())
}

fn entries() -> Vec<StringStringEntryProto> {
    vec![StringStringEntryProto { key: text("key"), value: text("value") }]
}

/// The number of a field stands for its value, so that numbers tell fields apart.
fn tensor() -> TensorProto {
    TensorProto {
        dims: vec![1],
        data_type: Some(2),
        segment: Some(Segment { begin: Some(1), end: Some(2) }),
        float_data: vec![4.0],
        int32_data: vec![5],
        string_data: vec!["string_data".into()],
        int64_data: vec![7],
        name: text("name"),
        doc_string: bytes("doc_string"),
        raw_data: bytes("raw_data"),
        external_data: entries(),
        data_location: Some(EXTERNAL),
        double_data: vec![10.0],
        uint64_data: vec![11],
        metadata_props: entries(),
    }
}

fn sparse() -> SparseTensorProto {
    let part = |name: &str| Some(TensorProto { name: text(name), ..TensorProto::default() });
    SparseTensorProto { values: part("name"), indices: part("name"), dims: vec![3] }
}

fn shape() -> TensorShapeProto {
    let length = dimension::Value::DimValue(1);
    let name = dimension::Value::DimParam("DimParam".into());
    let dim = [length, name].map(|value| Dimension { value: Some(value), denotation: text("denotation") });
    TensorShapeProto { dim: dim.into() }
}

fn types() -> Vec<TypeProto> {
    use type_value::Value;
    let wrap = |value| TypeProto { value: Some(value), denotation: text("denotation") };
    let tensor = || wrap(Value::Tensor(TensorType { elem_type: Some(1), shape: Some(shape()) }));
    vec![
        tensor(),
        wrap(Value::Sequence(SequenceType { elem_type: Some(tensor().into()) })),
        wrap(Value::Map(MapType { key_type: Some(1), value_type: Some(tensor().into()) })),
        wrap(Value::Optional(OptionalType { elem_type: Some(tensor().into()) })),
        wrap(Value::SparseTensor(SparseTensorType { elem_type: Some(1), shape: Some(shape()) })),
    ]
}

fn info() -> ValueInfoProto {
    ValueInfoProto { name: text("name"), r#type: types().pop(), doc_string: bytes("doc_string"), metadata_props: entries() }
}

fn attribute() -> AttributeProto {
    AttributeProto {
        name: text("name"),
        ref_attr_name: text("ref_attr_name"),
        doc_string: bytes("doc_string"),
        r#type: Some(attribute_type::FLOATS),
        f: Some(2.0),
        i: Some(3),
        s: bytes("s"),
        t: Some(tensor()),
        g: Some(GraphProto { name: text("name"), ..GraphProto::default() }),
        sparse_tensor: Some(sparse()),
        tp: types().pop(),
        floats: vec![7.0],
        ints: vec![8],
        strings: vec!["strings".into()],
        tensors: vec![tensor()],
        graphs: vec![GraphProto { name: text("name"), ..GraphProto::default() }],
        sparse_tensors: vec![sparse()],
        type_protos: types(),
    }
}

fn node() -> NodeProto {
    NodeProto {
        input: texts("input"),
        output: texts("output"),
        name: text("name"),
        op_type: text("op_type"),
        domain: text("domain"),
        overload: text("overload"),
        attribute: vec![attribute()],
        doc_string: bytes("doc_string"),
        metadata_props: entries(),
        device_configurations: vec![],
    }
}

fn graph() -> GraphProto {
    let annotation = TensorAnnotation { tensor_name: text("tensor_name"), quant_parameter_tensor_names: entries() };
    GraphProto {
        node: vec![node()],
        name: text("name"),
        initializer: vec![tensor()],
        sparse_initializer: vec![sparse()],
        doc_string: bytes("doc_string"),
        input: vec![info()],
        output: vec![info(), info()],
        value_info: vec![info(), info(), info()],
        quantization_annotation: vec![annotation],
        metadata_props: entries(),
    }
}

fn opset() -> OperatorSetIdProto {
    OperatorSetIdProto { domain: text("domain"), version: Some(2) }
}

fn function() -> FunctionProto {
    FunctionProto {
        name: text("name"),
        input: texts("input"),
        output: texts("output"),
        attribute: texts("attribute"),
        attribute_proto: vec![attribute()],
        node: vec![node()],
        doc_string: bytes("doc_string"),
        opset_import: vec![opset()],
        domain: text("domain"),
        overload: text("overload"),
        value_info: vec![info()],
        metadata_props: entries(),
    }
}

fn model() -> ModelProto {
    let training = TrainingInfoProto {
        initialization: Some(graph()),
        algorithm: Some(graph()),
        initialization_binding: entries(),
        update_binding: [entries(), entries()].concat(),
    };
    ModelProto {
        ir_version: Some(1),
        opset_import: vec![opset()],
        producer_name: text("producer_name"),
        producer_version: text("producer_version"),
        domain: text("domain"),
        model_version: Some(5),
        doc_string: bytes("doc_string"),
        graph: Some(graph()),
        metadata_props: entries(),
        training_info: vec![training],
        functions: vec![function()],
        configuration: vec![],
    }
}

#[test]
fn another_implementation_reads_every_field_as_what_it_is() {
    let ours = model();
    let theirs = onnx_protobuf::ModelProto::parse_from_bytes(&ours.encode_to_vec()).expect("valid protobuf");
    let printed = format!("{theirs:?}");
    assert!(!printed.contains("fields: Some"), "a field that they do not know");
    let parts: Vec<&str> = printed.split('"').collect();
    for pair in parts.chunks_exact(2) {
        let field = pair[0].rsplit(|c: char| !c.is_alphanumeric() && c != '_').find(|word| !word.is_empty());
        assert!(pair[1].is_empty() || field == Some(pair[1]), "{field:?} holds {}", pair[1]);
    }
    assert!(parts.len() > 1000, "{}", parts.len());
    let tensor = &theirs.graph.initializer[0];
    assert_eq!((&tensor.dims[..], tensor.data_type, &tensor.int64_data[..], &tensor.uint64_data[..]), (&[1][..], 2, &[7][..], &[11][..]));
    assert_eq!((&tensor.float_data[..], &tensor.int32_data[..], &tensor.double_data[..]), (&[4.0][..], &[5][..], &[10.0][..]));
    assert_eq!((&tensor.raw_data[..], &tensor.string_data[0][..]), (&b"raw_data"[..], &b"string_data"[..]));
    let attribute = &theirs.graph.node[0].attribute[0];
    assert_eq!((attribute.f, attribute.i, &attribute.floats[..], &attribute.ints[..]), (2.0, 3, &[7.0][..], &[8][..]));
    assert_eq!((&attribute.s[..], &attribute.strings[0][..]), (&b"s"[..], &b"strings"[..]));
    assert_eq!((theirs.ir_version, theirs.model_version, theirs.graph.value_info.len()), (1, 5, 3));
}

#[test]
fn what_another_implementation_writes_reads_as_it_was() {
    let ours = model();
    let theirs = onnx_protobuf::ModelProto::parse_from_bytes(&ours.encode_to_vec()).expect("valid protobuf");
    let back = ModelProto::decode(&theirs.write_to_bytes().expect("memory")[..]).expect("valid protobuf");
    assert_eq!(back, ours);
}

/// Fields that came after IR version 10, which the other implementation knows: their numbers as in `onnx.proto`.
#[test]
fn newer_fields_have_their_numbers() {
    let sharding = ShardingSpecProto {
        tensor_name: text("t"),
        device: vec![2],
        index_to_device_group_map: vec![IntIntListEntryProto { key: Some(1), value: vec![2] }],
        sharded_dim: vec![ShardedDimProto {
            axis: Some(1),
            simple_sharding: vec![SimpleShardedDimProto { dim: Some(simple_sharded_dim::Dim::DimValue(1)), num_shards: Some(3) }],
        }],
    };
    let node = NodeDeviceConfigurationProto { configuration_id: text("c"), sharding_spec: vec![sharding], pipeline_stage: Some(3) };
    let model = ModelProto {
        graph: Some(GraphProto {
            node: vec![NodeProto { device_configurations: vec![node], ..NodeProto::default() }],
            ..GraphProto::default()
        }),
        configuration: vec![DeviceConfigurationProto { name: text("n"), num_devices: Some(2), device: texts("d") }],
        ..ModelProto::default()
    };
    let spec = [&[10, 1, b't', 16, 2, 26, 4, 8, 1, 16, 2, 34, 8, 8, 1, 18, 4, 8, 1, 24, 3][..]].concat();
    let node = [&[10, 1, b'c', 18, 21][..], &spec, &[24, 3]].concat();
    let graph = [&[10, 30, 82, 28][..], &node].concat();
    let expected = [&[58, 32][..], &graph, &[210, 1, 8, 10, 1, b'n', 16, 2, 26, 1, b'd']].concat();
    assert_eq!(model.encode_to_vec(), expected);
}
