//! Numbers in the types that inputs ask for; exporters differ in them.

use super::example::Numbers;
use crate::error::{Error, Place, Result};
use crate::ort::{Axis, ElementType, Elements, Port};

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

/// The numbers of rows, as many of each, in the type that an input asks for; `lines` are those of the data.
///
/// # Errors
/// The first number that it cannot hold, with its line.
pub(super) fn converted_rows(port: &Port, values: &[f64], lines: &[usize]) -> Result<Elements> {
    converted(port, values).map_err(|error| {
        let each = (values.len() / lines.len().max(1)).max(1);
        let own = values.chunks(each).zip(lines).find_map(|(row, line)| Some((converted(port, row).err()?, *line)));
        let Some((error, line)) = own else { return error };
        let hint = format!("the input {} is declared for whole numbers: write such into its column, or declare it as float32", port.name);
        error.at(Place::Line(line)).with_hint(hint)
    })
}

/// Checks that a row of numbers is as long as an input is declared to be, or as these are filled up to; `is_filled` says on which axes zeros may stand for
/// what it lacks.
///
/// # Errors
/// The first axis that it is too long or too short on.
pub(super) fn fitting(port: &Port, row: &Numbers, lengths: &[usize], is_filled: impl Fn(usize) -> bool) -> Result<()> {
    let of_axis = |axis: usize| {
        if lengths.len() == 1 { format!("numbers in {}", port.name) } else { format!("length of axis {axis} of {}", port.name) }
    };
    for (axis, (found, expected)) in row.shape.iter().zip(lengths).enumerate() {
        let is_declared = matches!(port.shape.get(axis + 1), Some(Axis::Known(_)));
        if found > expected || (found < expected && is_declared && !is_filled(axis)) {
            let told = if is_declared { format!("{expected}, as {} is declared", port.name) } else { format!("at most {expected}") };
            let error = Error::mismatch(of_axis(axis), told, found);
            return Err(
                error.with_hint("a column has as many numbers in each row as the model's input, or the loss graph's, is declared with")
            );
        }
    }
    Ok(())
}
