//! Constant data: typed bytes, mapped from a file or owned. No arithmetic.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};

use super::dtype::DType;
use crate::error::{Error, Result};

/// A constant tensor. Cloning it never copies its data.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
    origin: Option<Origin>,
}

#[derive(Clone)]
enum Data {
    /// Little endian, row-major, types of less than a byte packed, as ONNX's `raw_data`.
    Raw(Bytes),
    Strings(Arc<[Bytes]>),
}

/// The place in a file where a tensor's bytes lie as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// Bytes from the start of the file.
    pub offset: u64,
}

/// Numbers as files have them; on most machines they are so in memory, and are not copied.
#[must_use]
pub fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return Cow::Borrowed(bytemuck::cast_slice(values));
    }
    Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// The number of elements of a shape. Lengths beside a length of 0 are checked too: whatever is computed of some of them fits.
fn count(shape: &[usize]) -> Result<usize> {
    // Elements of up to 16 bytes.
    const MOST: usize = usize::MAX >> 5;
    let others = shape.iter().filter(|&&length| length > 0).try_fold(1_usize, |n, &length| n.checked_mul(length).filter(|&n| n <= MOST));
    let others = others.ok_or_else(|| Error::invalid(format!("shape {shape:?} overflows")))?;
    Ok(if shape.contains(&0) { 0 } else { others })
}

impl Tensor {
    /// A tensor of raw little-endian bytes.
    ///
    /// # Errors
    /// If the number of bytes is not what type and shape ask for.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Self> {
        let count = count(&shape)?;
        let expected = dtype.bytes(count);
        if dtype == DType::String || bytes.len() != expected {
            return Err(Error::mismatch(format!("bytes of {dtype}{shape:?}"), expected, bytes.len()));
        }
        Ok(Self { dtype, shape, data: Data::Raw(bytes), origin: None })
    }

    /// A tensor of strings.
    ///
    /// # Errors
    /// If the number of strings is not what the shape asks for.
    pub fn strings(shape: Vec<usize>, strings: Vec<Bytes>) -> Result<Self> {
        let expected = count(&shape)?;
        if strings.len() != expected {
            return Err(Error::mismatch("number of strings", expected, strings.len()));
        }
        Ok(Self { dtype: DType::String, shape, data: Data::Strings(strings.into()), origin: None })
    }

    /// A float32 tensor.
    ///
    /// # Panics
    /// If the number of values is not what the shape asks for.
    #[must_use]
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes = little_endian(values).into_owned();
        Self::new(DType::F32, shape.to_vec(), bytes.into()).expect("as many values as the shape asks for")
    }

    /// A float32 tensor of zeros, whose memory is not written to before somebody reads it.
    ///
    /// # Panics
    /// If the shape has more elements than memory.
    #[must_use]
    pub fn zeros(shape: &[usize]) -> Self {
        let bytes = count(shape).map(|count| vec![0_u8; DType::F32.bytes(count)]);
        bytes.and_then(|bytes| Self::new(DType::F32, shape.to_vec(), bytes.into())).expect("memory has so many elements")
    }

    /// An int64 tensor.
    ///
    /// # Panics
    /// If the number of values is not what the shape asks for.
    #[must_use]
    pub fn from_i64(shape: &[usize], values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        Self::new(DType::I64, shape.to_vec(), bytes.into()).expect("as many values as the shape asks for")
    }

    /// An int64 tensor whose shape and values facts tell; none where they do not go together, as a shape beyond 64 bits with nothing in it.
    #[must_use]
    pub(in crate::ir) fn of_facts(shape: &[usize], values: &[i64]) -> Option<Self> {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        Self::new(DType::I64, shape.to_vec(), bytes.into()).ok()
    }

    /// A tensor of numbers rounded to `dtype`.
    ///
    /// # Errors
    /// If `dtype` is not a float, integer or boolean of whole bytes, or the count does not fit the shape.
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "this is where numbers are rounded to a tensor's type"
    )]
    pub fn from_f64(dtype: DType, shape: &[usize], values: &[f64]) -> Result<Self> {
        let mut bytes = Vec::with_capacity(dtype.bytes(values.len()));
        for &v in values {
            match dtype {
                DType::F64 => bytes.extend(v.to_le_bytes()),
                DType::F32 => bytes.extend((v as f32).to_le_bytes()),
                DType::F16 => bytes.extend(f16::from_f64(v).to_le_bytes()),
                DType::BF16 => bytes.extend(bf16::from_f64(v).to_le_bytes()),
                DType::I64 => bytes.extend((v as i64).to_le_bytes()),
                DType::I32 => bytes.extend((v as i32).to_le_bytes()),
                DType::U64 => bytes.extend((v as u64).to_le_bytes()),
                DType::U32 => bytes.extend((v as u32).to_le_bytes()),
                DType::I8 => bytes.extend((v as i8).to_le_bytes()),
                DType::U8 => bytes.extend((v as u8).to_le_bytes()),
                DType::Bool => bytes.push(u8::from(v != 0.0)),
                _ => return Err(Error::unsupported(format!("a constant of type {dtype}"), "no conversion from a number")),
            }
        }
        Self::new(dtype, shape.to_vec(), bytes.into())
    }

    /// The same tensor, known to lie at a place in a file.
    #[must_use]
    pub fn at(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// The type of the elements.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The lengths of the axes.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The raw little-endian bytes; none for strings.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.data {
            Data::Raw(bytes) => Some(bytes),
            Data::Strings(_) => None,
        }
    }

    /// The strings of a tensor of strings.
    #[must_use]
    pub fn as_strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            Data::Raw(_) => None,
            Data::Strings(strings) => Some(strings),
        }
    }

    /// The file and offset where the bytes lie, if they came from a file.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The elements as whole numbers, for integer and boolean types; none where one is beyond int64.
    #[must_use]
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        let b = self.bytes()?;
        let all = |size: usize, read: fn(&[u8]) -> i64| Some(b.chunks_exact(size).map(read).collect());
        match self.dtype {
            DType::I64 => all(8, |c| i64::from_le_bytes(array(c))),
            DType::U64 => b.chunks_exact(8).map(|c| i64::try_from(u64::from_le_bytes(array(c))).ok()).collect(),
            DType::I32 => all(4, |c| i32::from_le_bytes(array(c)).into()),
            DType::U32 => all(4, |c| u32::from_le_bytes(array(c)).into()),
            DType::I16 => all(2, |c| i16::from_le_bytes(array(c)).into()),
            DType::U16 => all(2, |c| u16::from_le_bytes(array(c)).into()),
            DType::I8 => all(1, |c| i8::from_le_bytes(array(c)).into()),
            DType::U8 | DType::Bool => all(1, |c| c[0].into()),
            _ => None,
        }
    }

    /// The elements as numbers, for float, integer and boolean types of whole bytes.
    #[must_use]
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "integers beyond 2^53 have no exact f64")]
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        let b = self.bytes()?;
        match self.dtype {
            DType::F64 => Some(b.chunks_exact(8).map(|c| f64::from_le_bytes(array(c))).collect()),
            DType::F32 | DType::F16 | DType::BF16 => Some(self.to_f32()?.into_iter().map(f64::from).collect()),
            _ => Some(self.to_i64()?.into_iter().map(|v| v as f64).collect()),
        }
    }

    /// The elements as float32, for float types; float64 is rounded.
    #[must_use]
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "rounding float64 is what is asked for")]
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let b = self.bytes()?;
        match self.dtype {
            DType::F32 if cfg!(target_endian = "little") => Some(bytemuck::pod_collect_to_vec(b)),
            DType::F32 => Some(b.chunks_exact(4).map(|c| f32::from_le_bytes(array(c))).collect()),
            DType::F16 => Some(b.chunks_exact(2).map(|c| f16::from_le_bytes(array(c)).to_f32()).collect()),
            DType::BF16 => Some(b.chunks_exact(2).map(|c| bf16::from_le_bytes(array(c)).to_f32()).collect()),
            DType::F64 => Some(b.chunks_exact(8).map(|c| f64::from_le_bytes(array(c)) as f32).collect()),
            _ => None,
        }
    }

    /// The one element of a tensor of one element, as a number.
    #[must_use]
    pub fn scalar(&self) -> Option<f64> {
        (self.len() == 1).then(|| self.to_f64())??.first().copied()
    }

    /// The same elements with another shape.
    ///
    /// # Errors
    /// If the number of elements differs.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Self> {
        let found: usize = shape.iter().product();
        if found != self.len() {
            return Err(Error::mismatch("number of elements", self.len(), found));
        }
        Ok(Self { shape, ..self.clone() })
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("chunks of N bytes")
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes() && self.as_strings() == other.as_strings()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_facts_tell_of_no_tensor_is_none() {
        assert_eq!(Tensor::of_facts(&[2], &[3, 5]).and_then(|tensor| tensor.to_i64()), Some(vec![3, 5]));
        assert!(Tensor::of_facts(&[0, 1 << 62], &[]).is_none_or(|tensor| tensor.shape() == [0, 1 << 62]), "no panic");
        assert!(Tensor::of_facts(&[2, 1 << 62], &[]).is_none() && Tensor::of_facts(&[3], &[1]).is_none());
    }
}
