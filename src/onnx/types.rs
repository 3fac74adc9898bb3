//! Types of values to messages and back.

use super::proto::{Dimension, TensorShapeProto, TensorType, TypeProto, ValueInfoProto, dimension, type_value};
use crate::ir::{DType, Dim, Fact, Shape};

/// What a file claims of a value; nothing for values that are not tensors.
///
/// An axis without length or name gets a name of its own, made from the value's.
pub(super) fn fact(info: &ValueInfoProto) -> Fact {
    let Some(tensor) = tensor_type(info) else { return Fact::unknown() };
    let shape = tensor.shape.as_ref().map(|shape| shape.dim.iter().enumerate().map(|(axis, dim)| length(dim, info.name(), axis)).collect());
    Fact::partial(DType::from_code(tensor.elem_type()), shape)
}

fn tensor_type(info: &ValueInfoProto) -> Option<&TensorType> {
    match info.r#type.as_ref()?.value.as_ref()? {
        type_value::Value::Tensor(tensor) => Some(tensor),
        _ => None,
    }
}

fn length(dim: &Dimension, value: &str, axis: usize) -> Dim {
    match &dim.value {
        Some(dimension::Value::DimValue(length)) if *length >= 0 => Dim::known(*length),
        Some(dimension::Value::DimParam(name)) if !name.is_empty() && !name.starts_with('?') => Dim::symbol(name),
        _ => Dim::symbol(&format!("?{value}.{axis}")),
    }
}

/// What is said of a value in a file: the words it was read with (in bodies that may be the name alone), unless they contradict what is
/// known; else what is known.
pub(super) fn value_info(name: &str, fact: &Fact, declared: Option<ValueInfoProto>) -> ValueInfoProto {
    let stands = declared.as_ref().is_some_and(|info| !contradicts(&self::fact(info), fact));
    said(name, fact, declared, if stands { Words::Stand } else { Words::Gone })
}

/// The declaration of an input. Nothing but the file's own declaration was known of it, which is kept as long as the fact still agrees.
pub(super) fn input_info(name: &str, fact: &Fact, declared: Option<ValueInfoProto>) -> ValueInfoProto {
    let claims = declared.as_ref().map(self::fact);
    let stands = claims.is_some_and(|claims| (claims.dtype, claims.shape) == (fact.dtype, fact.shape.clone()));
    said(name, fact, declared, if stands { Words::Stand } else { Words::Gone })
}

/// What is known of a value that must have a type and has none yet.
pub(super) fn complete(info: &mut ValueInfoProto, fact: &Fact) {
    if info.r#type.is_none() {
        *info = said(info.name(), fact, Some(info.clone()), Words::Gone);
    }
}

/// Whether a file's words on a value's type are still right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    Stand,
    Gone,
}

fn said(name: &str, fact: &Fact, declared: Option<ValueInfoProto>, words: Words) -> ValueInfoProto {
    let mut info = ValueInfoProto { name: Some(name.to_owned()), ..declared.unwrap_or_default() };
    if words == Words::Gone {
        let known = TypeProto { value: Some(type_value::Value::Tensor(tensor_type_of(fact))), ..TypeProto::default() };
        info.r#type = fact.dtype.map(|_| known);
    }
    info
}

/// Whether a claim is certainly wrong.
pub(super) fn contradicts(claim: &Fact, fact: &Fact) -> bool {
    let differ = |claim: &Shape, shape: &Shape| {
        let pair_differs = |(a, b): (&Dim, &Dim)| matches!((a.as_known(), b.as_known()), (Some(a), Some(b)) if a != b);
        claim.len() != shape.len() || claim.iter().zip(shape).any(pair_differs)
    };
    let types = matches!((claim.dtype, fact.dtype), (Some(a), Some(b)) if a != b);
    types || matches!((&claim.shape, &fact.shape), (Some(a), Some(b)) if differ(a, b))
}

fn tensor_type_of(fact: &Fact) -> TensorType {
    let shape = fact.shape.as_ref().map(|shape| TensorShapeProto { dim: shape.iter().map(dimension_of).collect() });
    TensorType { elem_type: fact.dtype.map(DType::code), shape }
}

fn dimension_of(dim: &Dim) -> Dimension {
    let text = || Some(dim.to_string()).filter(|text| !text.contains('?'));
    let value = dim.as_known().map(dimension::Value::DimValue).or_else(|| text().map(dimension::Value::DimParam));
    Dimension { value, ..Dimension::default() }
}
