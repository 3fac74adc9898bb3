//! Attributes to messages and back.

use std::sync::Arc;

use prost::Message;

use super::external::Load;
use super::proto::{AttributeProto, GraphProto, TensorProto, attribute_type};
use super::tensor;
use crate::error::Result;
use crate::ir::{Attr, Graph, Tensor};

/// The kind of attribute that a message holds. Files of the first versions do not say: there, it is what is present.
pub(super) fn kind(proto: &AttributeProto) -> i32 {
    use attribute_type as t;
    let present = [
        (proto.f.is_some(), t::FLOAT),
        (proto.i.is_some(), t::INT),
        (proto.s.is_some(), t::STRING),
        (proto.t.is_some(), t::TENSOR),
        (proto.g.is_some(), t::GRAPH),
        (!proto.floats.is_empty(), t::FLOATS),
        (!proto.ints.is_empty(), t::INTS),
        (!proto.strings.is_empty(), t::STRINGS),
        (!proto.tensors.is_empty(), t::TENSORS),
        (!proto.graphs.is_empty(), t::GRAPHS),
    ];
    match proto.r#type {
        None | Some(0) => present.iter().find(|(present, _)| *present).map_or(0, |(_, kind)| *kind),
        Some(kind) => kind,
    }
}

/// The bodies in an attribute.
pub(super) fn bodies(proto: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    proto.g.iter().chain(&proto.graphs)
}

/// The attribute of a message. `body` reads the bodies.
pub(super) fn read(proto: &AttributeProto, load: &dyn Load, mut body: impl FnMut(&GraphProto) -> Result<Graph>) -> Result<Attr> {
    use attribute_type as t;
    let mut body = |graph: &GraphProto| body(graph).map(Arc::new);
    let no_reference = proto.ref_attr_name.is_none();
    Ok(match (kind(proto), &proto.t, &proto.g) {
        (t::FLOAT, ..) if no_reference => Attr::Float(proto.f()),
        (t::INT, ..) if no_reference => Attr::Int(proto.i()),
        (t::STRING, ..) if no_reference => Attr::Str(proto.s.clone().unwrap_or_default()),
        (t::TENSOR, Some(tensor), _) => Attr::Tensor(load.load(tensor)?),
        (t::GRAPH, _, Some(graph)) => Attr::Graph(body(graph)?),
        (t::FLOATS, ..) if no_reference => Attr::Floats(proto.floats.clone()),
        (t::INTS, ..) if no_reference => Attr::Ints(proto.ints.clone()),
        (t::STRINGS, ..) if no_reference => Attr::Strs(proto.strings.clone()),
        (t::TENSORS, ..) if no_reference => Attr::Tensors(proto.tensors.iter().map(|tensor| load.load(tensor)).collect::<Result<_>>()?),
        (t::GRAPHS, ..) if no_reference => Attr::Graphs(proto.graphs.iter().map(body).collect::<Result<_>>()?),
        _ => Attr::Opaque(proto.encode_to_vec().into()),
    })
}

/// What a message says of an attribute that [`Attr`] does not hold: its documentation, names of its tensors.
pub(super) fn rest(proto: &AttributeProto) -> Option<AttributeProto> {
    let label = |tensor: &TensorProto| TensorProto {
        name: tensor.name.clone(),
        doc_string: tensor.doc_string.clone(),
        metadata_props: tensor.metadata_props.clone(),
        ..TensorProto::default()
    };
    let rest = AttributeProto {
        doc_string: proto.doc_string.clone(),
        t: proto.t.as_ref().map(label).filter(|tensor| *tensor != TensorProto::default()),
        tensors: proto.tensors.iter().map(label).collect(),
        ..AttributeProto::default()
    };
    let says_something = rest.doc_string.is_some() || rest.t.is_some() || rest.tensors.iter().any(|t| *t != TensorProto::default());
    says_something.then(|| AttributeProto { name: proto.name.clone(), ..rest })
}

/// The message of an attribute. `body` writes the bodies.
pub(super) fn write(
    name: &str,
    attr: &Attr,
    rest: Option<&AttributeProto>,
    mut body: impl FnMut(&Graph) -> Result<GraphProto>,
) -> Result<AttributeProto> {
    use attribute_type as t;
    let mut out = AttributeProto { doc_string: rest.and_then(|rest| rest.doc_string.clone()), ..AttributeProto::default() };
    let kind = match attr {
        Attr::Opaque(bytes) => {
            out = AttributeProto::decode(bytes.clone()).map_err(|e| crate::Error::format("an attribute", e))?;
            out.r#type.unwrap_or_default()
        }
        Attr::Int(value) => replace(&mut out.i, *value, t::INT),
        Attr::Float(value) => replace(&mut out.f, *value, t::FLOAT),
        Attr::Str(value) => replace(&mut out.s, value.clone(), t::STRING),
        Attr::Tensor(value) => {
            let value = labelled(value, rest.and_then(|rest| rest.t.as_ref()));
            replace(&mut out.t, value, t::TENSOR)
        }
        Attr::Graph(value) => replace(&mut out.g, body(value)?, t::GRAPH),
        Attr::Ints(values) => fill(&mut out.ints, values, t::INTS),
        Attr::Floats(values) => fill(&mut out.floats, values, t::FLOATS),
        Attr::Strs(values) => fill(&mut out.strings, values, t::STRINGS),
        Attr::Tensors(values) => {
            let label = |(i, value)| labelled(value, rest.and_then(|rest| rest.tensors.get(i)));
            fill(&mut out.tensors, &values.iter().enumerate().map(label).collect::<Vec<_>>(), t::TENSORS)
        }
        Attr::Graphs(values) => {
            let graphs: Vec<GraphProto> = values.iter().map(|value| body(value)).collect::<Result<_>>()?;
            fill(&mut out.graphs, &graphs, t::GRAPHS)
        }
    };
    out.name = Some(name.to_owned());
    out.r#type = Some(kind);
    Ok(out)
}

fn replace<T>(slot: &mut Option<T>, value: T, kind: i32) -> i32 {
    *slot = Some(value);
    kind
}

fn fill<T: Clone>(slot: &mut Vec<T>, values: &[T], kind: i32) -> i32 {
    *slot = values.to_vec();
    kind
}

fn labelled(value: &Tensor, label: Option<&TensorProto>) -> TensorProto {
    let label = label.cloned().unwrap_or_default();
    let data = tensor::to_inline("", value);
    TensorProto { name: label.name, doc_string: label.doc_string, metadata_props: label.metadata_props, ..data }
}
