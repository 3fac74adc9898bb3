//! Tensors in ordinary memory: what a session is fed with and what it gives back.

use std::fmt;

use half::{bf16, f16};

use crate::error::{Error, Result};

/// The type of a tensor's elements, by the names of the ONNX specification's `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ElementType {
    /// 32-bit float.
    Float32,
    /// 64-bit float.
    Float64,
    /// IEEE 16-bit float.
    Float16,
    /// Brain 16-bit float.
    BFloat16,
    /// 64-bit signed integer.
    Int64,
    /// 32-bit signed integer.
    Int32,
    /// One truth value in a byte.
    Bool,
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Float16 => "float16",
            Self::BFloat16 => "bfloat16",
            Self::Int64 => "int64",
            Self::Int32 => "int32",
            Self::Bool => "bool",
        })
    }
}

/// The elements of a [`HostTensor`], in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// Elements of type [`ElementType::Float32`].
    Float32(Vec<f32>),
    /// Elements of type [`ElementType::Float64`].
    Float64(Vec<f64>),
    /// Elements of type [`ElementType::Float16`].
    Float16(Vec<f16>),
    /// Elements of type [`ElementType::BFloat16`].
    BFloat16(Vec<bf16>),
    /// Elements of type [`ElementType::Int64`].
    Int64(Vec<i64>),
    /// Elements of type [`ElementType::Int32`].
    Int32(Vec<i32>),
    /// Elements of type [`ElementType::Bool`].
    Bool(Vec<bool>),
}

impl Elements {
    fn count(&self) -> usize {
        match self {
            Self::Float32(values) => values.len(),
            Self::Float64(values) => values.len(),
            Self::Float16(values) => values.len(),
            Self::BFloat16(values) => values.len(),
            Self::Int64(values) => values.len(),
            Self::Int32(values) => values.len(),
            Self::Bool(values) => values.len(),
        }
    }
}

impl From<Vec<f32>> for Elements {
    fn from(values: Vec<f32>) -> Self {
        Self::Float32(values)
    }
}

impl From<Vec<f64>> for Elements {
    fn from(values: Vec<f64>) -> Self {
        Self::Float64(values)
    }
}

impl From<Vec<i64>> for Elements {
    fn from(values: Vec<i64>) -> Self {
        Self::Int64(values)
    }
}

impl From<Vec<i32>> for Elements {
    fn from(values: Vec<i32>) -> Self {
        Self::Int32(values)
    }
}

impl From<Vec<bool>> for Elements {
    fn from(values: Vec<bool>) -> Self {
        Self::Bool(values)
    }
}

/// Elements that lie behind one another in a tensor, and where they go in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The tensor that has them, by its place among several.
    pub source: usize,
    /// Where they begin there.
    pub from: usize,
    /// Where they go.
    pub to: usize,
    /// How many there are.
    pub count: usize,
}

/// A dense tensor in ordinary memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    shape: Vec<usize>,
    elements: Elements,
}

impl HostTensor {
    /// A tensor of `shape` with `elements` in row-major order.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if the shape does not have as many elements.
    pub fn new(shape: impl Into<Vec<usize>>, elements: impl Into<Elements>) -> Result<Self> {
        let (shape, elements) = (shape.into(), elements.into());
        let expected = shape.iter().try_fold(1_usize, |count, axis| count.checked_mul(*axis));
        if expected != Some(elements.count()) {
            let expected = expected.map_or_else(|| "fewer".to_owned(), |count| count.to_string());
            return Err(Error::mismatch(format!("elements of a tensor of shape {shape:?}"), expected, elements.count()));
        }
        Ok(Self { shape, elements })
    }

    /// A tensor of one axis.
    pub fn vector(elements: impl Into<Elements>) -> Self {
        let elements = elements.into();
        Self { shape: vec![elements.count()], elements }
    }

    /// A tensor without axes.
    pub fn scalar<T>(value: T) -> Self
    where
        Elements: From<Vec<T>>,
    {
        Self { shape: vec![], elements: vec![value].into() }
    }

    /// A tensor of zeros (`false` for truth values).
    #[must_use]
    pub fn zeros(element_type: ElementType, shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let count = shape.iter().product();
        let elements = match element_type {
            ElementType::Float32 => Elements::Float32(vec![0.0; count]),
            ElementType::Float64 => Elements::Float64(vec![0.0; count]),
            ElementType::Float16 => Elements::Float16(vec![f16::ZERO; count]),
            ElementType::BFloat16 => Elements::BFloat16(vec![bf16::ZERO; count]),
            ElementType::Int64 => Elements::Int64(vec![0; count]),
            ElementType::Int32 => Elements::Int32(vec![0; count]),
            ElementType::Bool => Elements::Bool(vec![false; count]),
        };
        Self { shape, elements }
    }

    /// A tensor of zeros with pieces of other tensors of one type in it.
    ///
    /// # Errors
    /// No source; sources of different types; pieces that lie outside.
    pub fn of_pieces(shape: impl Into<Vec<usize>>, sources: &[Self], pieces: &[Piece]) -> Result<Self> {
        let first = sources.first().ok_or_else(|| Error::invalid("a tensor of pieces of none"))?;
        let mut made = Self::zeros(first.element_type(), shape);
        macro_rules! copied {
            ($($kind:ident),*) => {
                match &mut made.elements {
                    $(Elements::$kind(to) => {
                        for Piece { source, from, to: at, count } in pieces {
                            let Some(Elements::$kind(own)) = sources.get(*source).map(Self::elements) else {
                                return Err(Error::mismatch("element type", first.element_type(), "another"));
                            };
                            let (own, place) = (own.get(*from..from + count), to.get_mut(*at..at + count));
                            let (own, place) = own.zip(place).ok_or_else(|| Error::mismatch("length", from + count, own.map_or(0, <[_]>::len)))?;
                            place.copy_from_slice(own);
                        }
                    })*
                }
            };
        }
        copied!(Float32, Float64, Float16, BFloat16, Int64, Int32, Bool);
        Ok(made)
    }

    /// The length of every axis.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, in row-major order.
    #[must_use]
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// The type of the elements.
    #[must_use]
    pub fn element_type(&self) -> ElementType {
        match self.elements {
            Elements::Float32(_) => ElementType::Float32,
            Elements::Float64(_) => ElementType::Float64,
            Elements::Float16(_) => ElementType::Float16,
            Elements::BFloat16(_) => ElementType::BFloat16,
            Elements::Int64(_) => ElementType::Int64,
            Elements::Int32(_) => ElementType::Int32,
            Elements::Bool(_) => ElementType::Bool,
        }
    }

    /// The elements of a `float32` tensor, borrowed.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if they are of another type.
    pub fn as_f32(&self) -> Result<&[f32]> {
        match &self.elements {
            Elements::Float32(values) => Ok(values),
            _ => Err(self.not(ElementType::Float32)),
        }
    }

    /// The elements of an `int64` tensor, borrowed.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if they are of another type.
    pub fn as_i64(&self) -> Result<&[i64]> {
        match &self.elements {
            Elements::Int64(values) => Ok(values),
            _ => Err(self.not(ElementType::Int64)),
        }
    }

    /// The elements of a float tensor of any width as `float32`.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if they are integers or truth values.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        match &self.elements {
            Elements::Float32(values) => Ok(values.clone()),
            Elements::Float16(values) => Ok(values.iter().map(|value| value.to_f32()).collect()),
            Elements::BFloat16(values) => Ok(values.iter().map(|value| value.to_f32()).collect()),
            _ => Err(self.not(ElementType::Float32)),
        }
    }

    /// The same of a tensor that nobody needs any more: elements of that type are not copied.
    ///
    /// # Errors
    /// As [`to_f32`](Self::to_f32).
    pub fn into_f32(self) -> Result<Vec<f32>> {
        match self.elements {
            Elements::Float32(values) => Ok(values),
            _ => self.to_f32(),
        }
    }

    /// The only element of a float tensor of any width and rank.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if there is not exactly one element or it is no float.
    pub fn item(&self) -> Result<f32> {
        match self.to_f32()?[..] {
            [value] => Ok(value),
            _ => Err(Error::mismatch("elements", 1, self.elements.count())),
        }
    }

    fn not(&self, expected: ElementType) -> Error {
        Error::mismatch("element type", expected, self.element_type())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_must_have_as_many_elements_as_there_are() {
        assert!(HostTensor::new([2, 3], vec![0.0_f32; 6]).is_ok());
        assert!(HostTensor::new([2, 0], Vec::<i64>::new()).is_ok());
        let error = HostTensor::new([2, 3], vec![0.0_f32; 5]).unwrap_err();
        assert_eq!(error.to_string(), "elements of a tensor of shape [2, 3]: expected 6, found 5");
        assert!(HostTensor::new([usize::MAX, 3], vec![0_i64]).is_err());
    }

    #[test]
    fn one_element_is_an_item_whatever_its_width() {
        let half = HostTensor { shape: vec![1], elements: Elements::Float16(vec![f16::from_f32(0.5)]) };
        assert_eq!(half.item().ok(), Some(0.5));
        assert_eq!(HostTensor::scalar(2.0_f32).item().ok(), Some(2.0));
        assert!(HostTensor::scalar(2_i64).item().is_err());
        assert!(HostTensor::vector(vec![1.0_f32, 2.0]).item().is_err());
    }
}
