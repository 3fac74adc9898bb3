//! Types of elements.

use std::fmt;

/// The type of a tensor's elements, with ONNX's codes (`TensorProto.DataType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are ONNX's own, shortened")]
pub enum DType {
    F32 = 1,
    U8 = 2,
    I8 = 3,
    U16 = 4,
    I16 = 5,
    I32 = 6,
    I64 = 7,
    String = 8,
    Bool = 9,
    F16 = 10,
    F64 = 11,
    U32 = 12,
    U64 = 13,
    Complex64 = 14,
    Complex128 = 15,
    BF16 = 16,
    F8E4M3FN = 17,
    F8E4M3FNUZ = 18,
    F8E5M2 = 19,
    F8E5M2FNUZ = 20,
    U4 = 21,
    I4 = 22,
    F4E2M1 = 23,
    F8E8M0 = 24,
    U2 = 25,
    I2 = 26,
}

/// Every element type: name in ONNX's text form, bits of an element (0: not of fixed size).
const DTYPES: &[(DType, &str, usize)] = &[
    (DType::F32, "float", 32),
    (DType::U8, "uint8", 8),
    (DType::I8, "int8", 8),
    (DType::U16, "uint16", 16),
    (DType::I16, "int16", 16),
    (DType::I32, "int32", 32),
    (DType::I64, "int64", 64),
    (DType::String, "string", 0),
    (DType::Bool, "bool", 8),
    (DType::F16, "float16", 16),
    (DType::F64, "double", 64),
    (DType::U32, "uint32", 32),
    (DType::U64, "uint64", 64),
    (DType::Complex64, "complex64", 64),
    (DType::Complex128, "complex128", 128),
    (DType::BF16, "bfloat16", 16),
    (DType::F8E4M3FN, "float8e4m3fn", 8),
    (DType::F8E4M3FNUZ, "float8e4m3fnuz", 8),
    (DType::F8E5M2, "float8e5m2", 8),
    (DType::F8E5M2FNUZ, "float8e5m2fnuz", 8),
    (DType::U4, "uint4", 4),
    (DType::I4, "int4", 4),
    (DType::F4E2M1, "float4e2m1", 4),
    (DType::F8E8M0, "float8e8m0", 8),
    (DType::U2, "uint2", 2),
    (DType::I2, "int2", 2),
];

impl DType {
    /// The type of an ONNX code, if it is one we know.
    #[must_use]
    pub fn from_code(code: i32) -> Option<Self> {
        DTYPES.iter().find(|(dtype, ..)| dtype.code() == code).map(|(dtype, ..)| *dtype)
    }

    /// ONNX's code (`TensorProto.DataType`).
    #[must_use]
    #[expect(clippy::as_conversions, reason = "the discriminants are the codes")]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// ONNX's name: `float`, `int64`, ...
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bits of an element; 0 for strings.
    #[must_use]
    pub fn bits(self) -> usize {
        self.row().2
    }

    /// Bytes that `count` elements take; types of less than a byte are packed.
    #[must_use]
    pub fn bytes(self, count: usize) -> usize {
        count.saturating_mul(self.bits()).div_ceil(8)
    }

    /// Whether gradients can flow through values of this type.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::F64 | Self::BF16)
    }

    fn row(self) -> &'static (Self, &'static str, usize) {
        DTYPES.iter().find(|(dtype, ..)| *dtype == self).expect("every dtype has a row")
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
