//! Numbers in the types that inputs ask for; exporters differ in them.

use crate::error::{Error, Result};
use crate::ort::{ElementType, Elements, Port};

/// Whole numbers in the type that an input asks for; exporters differ in it.
pub(super) fn integers(port: &Port, values: Vec<i32>) -> Result<Elements> {
    match port.element_type {
        Some(ElementType::Int64) => Ok(Elements::Int64(values.into_iter().map(i64::from).collect())),
        Some(ElementType::Int32) => Ok(Elements::Int32(values)),
        Some(ElementType::Bool) => Ok(Elements::Bool(values.into_iter().map(|value| value != 0).collect())),
        _ => converted(port, &values.into_iter().map(f64::from).collect::<Vec<_>>()),
    }
}

/// Fractions in the type that an input asks for.
pub(super) fn floats(port: &Port, values: Vec<f32>) -> Result<Elements> {
    match port.element_type {
        Some(ElementType::Float32) => Ok(Elements::Float32(values)),
        _ => converted(port, &values.into_iter().map(f64::from).collect::<Vec<_>>()),
    }
}

/// Numbers in the type that an input asks for, if it can hold them.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "numbers are rounded once, where they become tensors")]
pub(super) fn converted(port: &Port, values: &[f64]) -> Result<Elements> {
    let whole = |least: f64, most: f64| match values.iter().find(|value| value.fract() != 0.0 || **value < least || **value > most) {
        None => Ok(()),
        Some(other) => Err(Error::mismatch("a number", format!("a whole one from {least} to {most}"), other)),
    };
    match port.element_type {
        Some(ElementType::Float32) => Ok(Elements::Float32(values.iter().map(|&value| value as f32).collect())),
        Some(ElementType::Float64) => Ok(Elements::Float64(values.to_vec())),
        Some(ElementType::Float16) => Ok(Elements::Float16(values.iter().map(|&value| half::f16::from_f64(value)).collect())),
        Some(ElementType::BFloat16) => Ok(Elements::BFloat16(values.iter().map(|&value| half::bf16::from_f64(value)).collect())),
        // Up to there a float64 tells every whole number from the next.
        Some(ElementType::Int64) => whole(-9e15, 9e15).map(|()| Elements::Int64(values.iter().map(|&value| value as i64).collect())),
        Some(ElementType::Int32) => {
            whole(i32::MIN.into(), i32::MAX.into()).map(|()| Elements::Int32(values.iter().map(|&value| value as i32).collect()))
        }
        Some(ElementType::Bool) => Ok(Elements::Bool(values.iter().map(|value| *value != 0.0).collect())),
        None => Err(Error::unsupported(format!("an input of the type of {}", port.name), "numbers of other types are fed alone")),
    }
}
