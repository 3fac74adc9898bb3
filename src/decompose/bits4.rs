//! Weights of 4 bits that stand for numbers of a table (`com.microsoft:MatMulBnb4`): the forms of bitsandbytes.

use super::{Fused, Outputs, known};
use crate::error::Refusal;
use crate::ir::{DType, Tensor};

/// Normal floats, each as likely as the others among numbers with a normal distribution (Dettmers et al., QLoRA, appendix E).
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Floats of a sign, two bits of exponent and one of mantissa, over the largest.
const FP4: [f32; 16] = [
    0.0,
    5.208_333e-3,
    0.666_666_7,
    1.0,
    0.333_333_33,
    0.5,
    0.166_666_67,
    0.25,
    -0.0,
    -5.208_333e-3,
    -0.666_666_7,
    -1.0,
    -0.333_333_33,
    -0.5,
    -0.166_666_67,
    -0.25,
];

/// `y = x · Wᵀ` with `W` `[N, K]`: inputs `x`, two codes a byte (the first one in the high bits) in blocks of the flattened matrix, and the largest
/// magnitude of each block.
pub(super) fn product<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let (rows, columns, block) = (f.count("N")?, f.count("K")?, f.count("block_size")?);
    if f.int("transB", 1) != 1 {
        return Err("with transB 0".into());
    }
    let table = match f.int("quant_type", 1) {
        0 => FP4,
        1 => NF4,
        kind => return Err(format!("with quant_type {kind}").into()),
    };
    let (b, x, packed, largest) = (f.b, f.x(0)?, f.x(1)?, f.x(2)?);
    if (rows * columns) % 2 != 0 {
        return Err("with half a byte at the end".into());
    }
    let blocks = (rows * columns + block - 1) / block;
    let dtype = largest.dtype();
    known(x, -1, "the length of its rows")?;
    // Both halves of a byte at once, and a table of what each stands for: integers are not shifted by every provider.
    let pairs: Vec<f32> = (0..=255_usize).flat_map(|byte| [table[byte >> 4], table[byte & 15]]).collect();
    let pairs = b.constant(Tensor::from_f32(&[256, 2], &pairs)).cast(dtype);
    let numbers = pairs.gather(packed.reshape(&[-1]).cast(DType::I32), 0).reshape(&[-1]);
    let missing = blocks * block - rows * columns;
    let whole = if missing == 0 { numbers } else { numbers.concat(&[b.ints(&[missing]).filled(0.0, dtype)], 0) };
    let scaled = (whole.reshape(&[blocks, block]) * largest.reshape(&[blocks, 1])).reshape(&[-1]);
    let scaled = if missing == 0 { scaled } else { scaled.slice(&[0], &[rows * columns], &[0]) };
    Ok(vec![Some(x.matmul(scaled.reshape(&[rows, columns]).cast(x.dtype()).t()))])
}
