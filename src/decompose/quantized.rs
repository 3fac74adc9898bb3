//! Products with quantised weights, which stay packed: only a product's own weight is alive as floats, and only while it runs.

use super::{Fused, Outputs, within_reason};
use crate::error::Refusal;
use crate::ir::{Attr, Builder, DType, Expr, Graph, Node, Tensor};

/// The opset that came with blocks in `DequantizeLinear` and with elements of 4 bits.
const BLOCKS_OPSET: i64 = 21;
/// The version of the file format that came with it.
const BLOCKS_IR_VERSION: i64 = 10;
/// Operators that have another form in opset 21 than in 18.
const CHANGED: &[&str] = &["DFT", "GridSample", "GroupNormalization"];

/// `y = x · Wᵀ + bias` with `W` `[N, K]` in blocks along `K`: inputs `x`, values, scales, zero points, group of each column, bias.
pub(super) fn blocks<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let packing = Packing::new(f, f.count("N")?, f.count("K")?, f.count("block_size")?, f.int("bits", 4))?;
    let packed = Packed { values: f.x(1)?, scales: f.x(2)?, zeros: f.given(3) };
    let x = f.x(0)?;
    let weight = match f.given(4) {
        None => packing.weight(f, packed)?,
        Some(groups) => packing.grouped_weight(f, packed, groups)?,
    };
    // A product before its bias, as projections are written elsewhere.
    let y = x.matmul(weight.cast(x.dtype()).t());
    Ok(vec![Some(f.given(5).map_or(y, |bias| y + bias))])
}

/// The parts of a packed matrix.
#[derive(Clone, Copy)]
pub(super) struct Packed<'g> {
    pub(super) values: Expr<'g>,
    pub(super) scales: Expr<'g>,
    /// Without any, the middle of the range is zero.
    pub(super) zeros: Option<Expr<'g>>,
}

/// A matrix whose rows are packed in blocks. The bytes are those of ONNX's own 4-bit (or 8-bit) type, so that they are read where they lie.
pub(super) struct Packing {
    rows: i64,
    columns: i64,
    /// `columns` up to whole blocks.
    padded: i64,
    block: i64,
    blocks: i64,
    dtype: DType,
}

impl Packing {
    pub(super) fn new(f: &Fused<'_>, rows: i64, columns: i64, block: i64, bits: i64) -> Result<Self, Refusal> {
        let dtype = match bits {
            4 => DType::U4,
            8 => DType::U8,
            bits => return Err(format!("with {bits} bits").into()),
        };
        dialect_of_blocks(f)?;
        let (Some(block @ 1..), Some(columns @ 0..)) = (within_reason(block), within_reason(columns)) else {
            return Err(format!("with rows of {columns} numbers in blocks of {block}").into());
        };
        let blocks = (columns + block - 1) / block;
        let padded = blocks * block;
        rows.checked_mul(padded).ok_or_else(|| format!("with {rows} rows of {padded} numbers"))?;
        Ok(Self { rows, columns, padded, block, blocks, dtype })
    }

    /// The matrix in floats, `[rows, columns]`.
    pub(super) fn weight<'g>(&self, f: &Fused<'g>, packed: Packed<'g>) -> Result<Expr<'g>, Refusal> {
        if self.dtype == DType::U8 {
            return Ok(self.unpadded(self.bytes(f, packed)?));
        }
        let (values, scales) = (self.values(f, packed)?, self.scales(packed));
        let blocks = [("axis", Attr::Int(1)), ("block_size", Attr::Int(self.block))];
        let dequantised = |zero: Option<Expr<'g>>| f.b.op_n("DequantizeLinear", &[Some(values), Some(scales), zero], &blocks, 1)[0];
        let weight = match packed.zeros {
            // Zero points that are numbers of their own, not values.
            Some(zero) if zero.dtype().is_float() => {
                let shift = (zero.reshape(&[self.rows, self.blocks]) * scales).unsqueeze(&[2]);
                let apart = dequantised(None).reshape(&[self.rows, self.blocks, self.block]);
                (apart - shift).reshape(&[self.rows, self.padded])
            }
            _ => dequantised(Some(self.zeros(f, packed)?)),
        };
        Ok(self.unpadded(weight))
    }

    /// Whole bytes in floats, `[rows, blocks · block]`: each block a row with a scale of its own. CUDA's `DequantizeLinear` takes blocks of 4 bits, and
    /// bytes along an axis, but no blocks of bytes.
    fn bytes<'g>(&self, f: &Fused<'g>, packed: Packed<'g>) -> Result<Expr<'g>, Refusal> {
        let of_blocks = self.rows * self.blocks;
        let values = self.typed(f, packed.values, of_blocks, self.block)?;
        let scales = packed.scales.reshape(&[of_blocks]);
        let apart = match packed.zeros {
            Some(zero) if zero.dtype().is_float() => {
                let plain = f.b.op("DequantizeLinear", &[values, scales], &[("axis", Attr::Int(0))]);
                plain - (zero.reshape(&[of_blocks]) * scales).unsqueeze(&[1])
            }
            _ => {
                let zeros = self.zeros(f, packed)?.reshape(&[of_blocks]);
                f.b.op("DequantizeLinear", &[values, scales, zeros], &[("axis", Attr::Int(0))])
            }
        };
        Ok(apart.reshape(&[self.rows, self.padded]))
    }

    /// `(q - zero[group]) · scale[group]` for columns whose group is given one by one.
    fn grouped_weight<'g>(&self, f: &Fused<'g>, packed: Packed<'g>, groups: Expr<'g>) -> Result<Expr<'g>, Refusal> {
        let (stored, scales) = (self.values(f, packed)?, self.scales(packed));
        let one = f.b.number(1.0, scales.dtype());
        let whole = |values: Expr<'g>| f.b.op("DequantizeLinear", &[values, one], &[]);
        let zero = match packed.zeros {
            Some(zero) if zero.dtype().is_float() => zero.reshape(&[self.rows, self.blocks]),
            _ => whole(self.zeros(f, packed)?),
        };
        let values = self.unpadded(whole(stored));
        let of_columns = |of_groups: Expr<'g>| of_groups.gather(groups, 1);
        Ok((values - of_columns(zero)) * of_columns(scales))
    }

    /// Without the columns that only fill the last block.
    fn unpadded<'g>(&self, weight: Expr<'g>) -> Expr<'g> {
        if self.padded == self.columns { weight } else { weight.slice(&[0], &[self.columns], &[1]) }
    }

    fn scales<'g>(&self, packed: Packed<'g>) -> Expr<'g> {
        packed.scales.reshape(&[self.rows, self.blocks])
    }

    /// `[rows, blocks · block]`, the same bytes.
    fn values<'g>(&self, f: &Fused<'g>, packed: Packed<'g>) -> Result<Expr<'g>, Refusal> {
        self.typed(f, packed.values, self.rows, self.padded)
    }

    /// `[rows, blocks]`
    fn zeros<'g>(&self, f: &Fused<'g>, packed: Packed<'g>) -> Result<Expr<'g>, Refusal> {
        let Some(zero) = packed.zeros else {
            let middle = if self.dtype == DType::U4 { 0x88 } else { 0x80 };
            let bytes = vec![middle; self.dtype.bytes(size(self.rows * self.blocks)?)];
            let tensor = Tensor::new(self.dtype, vec![size(self.rows)?, size(self.blocks)?], bytes.into()).map_err(|e| e.to_string())?;
            return Ok(f.b.initializer(&format!("{}_zero_point", packed.values.name()), tensor));
        };
        if self.dtype == DType::U8 || self.blocks % 2 == 0 {
            return self.typed(f, zero, self.rows, self.blocks);
        }
        // Each row ends with half a byte that means nothing.
        let stored = f.b.constant_of(zero.id()).and_then(|tensor| tensor.bytes().cloned()).ok_or("its zero points are not constant")?;
        let row = size(self.blocks)?.div_ceil(2);
        let nibbles: Vec<u8> =
            stored.chunks(row).flat_map(|row| row.iter().flat_map(|byte| [byte & 15, byte >> 4]).take(2 * row.len() - 1)).collect();
        let bytes: Vec<u8> = nibbles.chunks(2).map(|pair| pair[0] | (pair.get(1).copied().unwrap_or(0) << 4)).collect();
        let tensor = Tensor::new(self.dtype, vec![size(self.rows)?, size(self.blocks)?], bytes.into()).map_err(|e| e.to_string())?;
        Ok(f.b.initializer(&format!("{}_packed", zero.name()), tensor))
    }

    /// A constant of bytes as a matrix of this packing's type, at the place where it lies.
    fn typed<'g>(&self, f: &Fused<'g>, bytes: Expr<'g>, rows: i64, width: i64) -> Result<Expr<'g>, Refusal> {
        let stored = f.b.constant_of(bytes.id()).ok_or("its weight is not constant")?;
        let raw = stored.bytes().ok_or("its weight is not a tensor of bytes")?;
        let typed = Tensor::new(self.dtype, vec![size(rows)?, size(width)?], raw.clone()).map_err(|e| e.to_string())?;
        let typed = stored.origin().map_or(typed.clone(), |origin| typed.at(origin.clone()));
        Ok(f.b.initializer(&format!("{}_{}", bytes.name(), self.dtype.name()), typed))
    }
}

fn size(length: i64) -> Result<usize, Refusal> {
    usize::try_from(length).map_err(|error| error.to_string().into())
}

/// Goes on to the opset that has blocks, if nothing in the graph means something else there.
fn dialect_of_blocks(f: &Fused<'_>) -> Result<(), Refusal> {
    let mut model = f.b.model();
    if model.opset() >= BLOCKS_OPSET {
        return Ok(());
    }
    if let Some(node) = f.graph.nodes().iter().find(|node| CHANGED.contains(&&*node.op)) {
        return Err(format!("the graph has {}, which is another in opset {BLOCKS_OPSET}", node.op).into());
    }
    model.ir_version = model.ir_version.max(BLOCKS_IR_VERSION);
    f.b.set_model(model.with_opset("", BLOCKS_OPSET));
    Ok(())
}

/// `DequantizeLinear` of an operand of a product: its scale is one number, or one for each column.
fn floats<'g>(x: Expr<'g>, scale: Expr<'g>, zero: Option<Expr<'g>>) -> Expr<'g> {
    x.b().op_n("DequantizeLinear", &[Some(x), Some(scale), zero], &[("axis", Attr::Int(-1))], 1)[0]
}

/// `y = x̂ · Ŵ + bias` with `x̂` rounded as `DynamicQuantizeLinear` does: inputs `x`, `W`, scale and zero point of `W`, bias.
pub(super) fn dynamic<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let rounded = f.b.op_n("DynamicQuantizeLinear", &[Some(f.x(0)?)], &[], 3);
    let y = floats(rounded[0], rounded[1], Some(rounded[2])).matmul(floats(f.x(1)?, f.x(2)?, f.given(3)));
    Ok(vec![Some(f.given(4).map_or(y, |bias| y + bias))])
}

/// `y = Â · B̂ + bias`: inputs `A`, `B`, scale of each, zero point of each, bias.
pub(super) fn integer_to_float<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let y = floats(f.x(0)?, f.x(2)?, f.given(4)).matmul(floats(f.x(1)?, f.x(3)?, f.given(5)));
    Ok(vec![Some(f.given(6).map_or(y, |bias| y + bias))])
}

/// The product of numbers, rounded again: inputs `A`, `B` and `Y`'s scale and zero point, each behind its operand.
pub(super) fn linear<'g>(f: &Fused<'g>) -> Result<Outputs<'g>, Refusal> {
    let operands = [floats(f.x(0)?, f.x(1)?, f.given(2)), floats(f.x(3)?, f.x(4)?, f.given(5))];
    let y = f.product("MatMul", &operands.map(Some), &[])?;
    Ok(vec![Some(f.b.op("QuantizeLinear", &[y, f.x(6)?, f.x(7)?], &[]))])
}

/// Each product of integers that is scaled afterwards, with the product of numbers that it stands for.
///
/// ```text
/// A, B → MatMulInteger → Cast → Mul (scale of A · scale of B)
/// ```
pub(super) fn integer_products<'g>(b: &'g Builder, graph: &Graph) -> Vec<(Expr<'g>, Expr<'g>)> {
    let products = graph.nodes().iter().filter(|node| &*node.op == "MatMulInteger");
    products.filter_map(|node| integer_product(b, graph, node)).collect()
}

fn integer_product<'g>(b: &'g Builder, graph: &Graph, node: &Node) -> Option<(Expr<'g>, Expr<'g>)> {
    let reader = |value, op: &str| match graph.uses(value) {
        [a_use] if &*graph.node(a_use.node).op == op => Some(graph.node(a_use.node)),
        _ => None,
    };
    let sum = node.output(0)?;
    let cast = reader(sum, "Cast")?;
    let scaled = reader(cast.output(0)?, "Mul")?;
    let scale = scaled.reads().find(|id| Some(*id) != cast.output(0))?;
    let scales = graph.node(graph.producer(scale)?);
    if &*scales.op != "Mul" {
        return None;
    }
    let (first, second) = (scales.input(0)?, scales.input(1)?);
    // The operand's scale is written by the node that rounds it.
    let of_operand = |id| graph.producer(id).is_some() && graph.producer(id) == node.input(0).and_then(|a| graph.producer(a));
    let (of_a, of_b) = match (of_operand(first), of_operand(second)) {
        (true, _) => (first, second),
        (_, true) => (second, first),
        _ => return None,
    };
    let expr = |id| b.expr(id);
    let operand = |at: usize, scale| Some(floats(expr(node.input(at)?), expr(scale), node.input(at + 2).map(expr)));
    let product = b.scoped(&super::scope(&node.name), || Some(operand(0, of_a)?.matmul(operand(1, of_b)?)))?;
    Some((expr(scaled.output(0)?), product))
}
