//! Weights of small integers that an adapter is folded into: dequantised, changed, and rounded again in their own scheme.
//!
//! A weight is `(value - zero[group]) · scale[group]`, its groups rows, columns, or blocks of either. Each group keeps its scale and zero
//! point, or gets those that its new numbers span, whichever rounds with less error; so a change of nothing changes nothing.

use ndarray::Array2;

use crate::adapter::part::Folding;
use crate::anatomy::{Layout, Projection};
use crate::ir::{DType, Graph, Node, Tensor, ValueId};
use crate::{Error, Place, Result};

/// Changes a weight that is stored as integers; `update` sees it as `[out_features, in_features]`.
///
/// # Errors
/// A weight whose scheme is not known here, or that others read too.
pub(super) fn change(at: &Folding<'_>, projection: &Projection, update: impl FnOnce(Array2<f32>) -> Result<Array2<f32>>) -> Result<()> {
    let Some(stored) = Stored::of(at.graph, projection) else {
        let name = at.graph.values().get(projection.weight.value.index()).map_or(projection.module.as_str(), |value| &value.name);
        return Err(Error::unsupported(format!("rounding {name} again"), "how it is packed is not known")
            .with_hint("without `requantize` the adapter stays beside the weights, which is exact"));
    };
    let place = || Place::Tensor(at.graph.value_name(stored.values).to_owned());
    if at.graph.uses(stored.values).len() > 1 {
        return Err(Error::unsupported("rounding it again", "other modules read it too").at(place()));
    }
    let unknown = || Error::unsupported("rounding it again", "its numbers are not stored as its scheme says").at(place());
    let mut packed = stored.read(at).ok_or_else(unknown)?;
    let turn = |matrix: Array2<f32>| if stored.layout(projection) == Layout::OutIn { matrix } else { matrix.reversed_axes() };
    let mut whole = packed.numbers();
    let columns = stored.columns(whole.ncols());
    let own = turn(whole.slice(ndarray::s![.., ..columns]).to_owned());
    let (shape, changed) = (own.dim(), update(own)?);
    if changed.dim() != shape {
        return Err(Error::mismatch("shape of the update", format!("{shape:?}"), format!("{:?}", changed.dim())).at(place()));
    }
    whole.slice_mut(ndarray::s![.., ..columns]).assign(&turn(changed));
    packed.round(&whole);
    at.requantised.set(at.requantised.get().and(&whole, &packed.numbers()));
    stored.write(at, &packed).ok_or_else(unknown)
}

/// Where a packed weight lies.
struct Stored {
    values: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    form: Scheme,
}

enum Scheme {
    /// As `DequantizeLinear` reads it: one scale, one for each place along `axis`, or one for each block along it.
    Linear { axis: usize, block: usize },
    /// As `MatMulNBits` reads it: `[N, K]` in blocks along `K`, perhaps with the group of each column.
    Blocks { bits: usize, block: usize, rows: usize, columns: usize, groups: Option<ValueId> },
}

impl Stored {
    fn of(graph: &Graph, projection: &Projection) -> Option<Self> {
        let packed = graph.nodes().iter().find(|node| {
            let makes = |value| node.output(0) == Some(value);
            &*node.op == "com.microsoft:MatMulNBits" && (makes(projection.y) || makes(projection.output))
        });
        if let Some(node) = packed {
            let size = |name| usize::try_from(node.int(name, 0)).ok().filter(|&n| n > 0);
            let bits = usize::try_from(node.int("bits", 4)).ok()?;
            let (block, rows, columns) = (size("block_size")?, size("N")?, size("K")?);
            let form = Scheme::Blocks { bits, block, rows, columns, groups: node.input(4) };
            return Some(Self { values: node.input(1)?, scale: node.input(2)?, zero: node.input(3), form });
        }
        let values = projection.weight.value;
        let tensor = graph.initializer(values)?;
        let node = graph.node(graph.uses(values).first()?.node);
        match &*node.op {
            "DequantizeLinear" => {
                let rank = i64::try_from(tensor.shape().len()).ok()?;
                let axis = node.int("axis", 1);
                let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
                let form = Scheme::Linear { axis, block: usize::try_from(node.int("block_size", 0)).ok()? };
                Some(Self { values, scale: node.input(1)?, zero: node.input(2), form })
            }
            "MatMulInteger" => {
                let form = Scheme::Linear { axis: 1, block: 0 };
                Some(Self { values, scale: scale_of_product(graph, node)?, zero: node.input(3), form })
            }
            _ => None,
        }
    }

    /// How the matrix that is read lies.
    fn layout(&self, projection: &Projection) -> Layout {
        if matches!(self.form, Scheme::Blocks { .. }) { Layout::OutIn } else { projection.weight.layout }
    }

    /// The columns that mean something of those that are there.
    fn columns(&self, all: usize) -> usize {
        if let Scheme::Blocks { columns, .. } = self.form { columns } else { all }
    }

    fn read(&self, at: &Folding<'_>) -> Option<Packed> {
        let stored = |id: ValueId| at.b.initial(id).or_else(|| at.b.constant_of(id));
        let (values, scale) = (stored(self.values)?, stored(self.scale)?);
        let zero = self.zero.map(|zero| stored(zero).ok_or(())).transpose().ok()?;
        // Scales of several weights stay as they are.
        let is_own = |id: ValueId| at.graph.uses(id).len() == 1 && at.b.initial(id).is_some();
        let may_rescale = is_own(self.scale) && self.zero.is_none_or(is_own);
        let scales = scale.to_f32()?;
        let packed = match &self.form {
            Scheme::Linear { axis, block } => {
                let &[rows, columns] = values.shape() else { return None };
                let along = |length: usize, is_axis: bool| -> Vec<usize> {
                    match (scales.len(), is_axis, block) {
                        (1, ..) | (_, false, 0) => vec![0; length],
                        (_, true, block @ 1..) => (0..length).map(|i| i / block).collect(),
                        (_, true, 0) | (_, false, _) => (0..length).collect(),
                    }
                };
                let zeros = zero.as_ref().map_or(Some(vec![0.0]), integers)?;
                let (low, high) = range(values.dtype())?;
                let groups = Groups { of_rows: along(rows, *axis == 0), of_columns: along(columns, *axis == 1) };
                Packed {
                    values: Array2::from_shape_vec((rows, columns), integers(&values)?).ok()?,
                    groups,
                    scales,
                    zeros,
                    low,
                    high,
                    ..Packed::default()
                }
            }
            Scheme::Blocks { bits, block, rows, columns, groups } => {
                let blocks = columns.div_ceil(*block);
                let of_columns = match groups {
                    None => (0..blocks * block).map(|column| column / block).collect(),
                    Some(groups) => {
                        let told = stored(*groups)?.to_i64()?;
                        (0..blocks * block)
                            .map(|column| told.get(column).map_or(Some(0), |&group| usize::try_from(group).ok()))
                            .collect::<Option<_>>()?
                    }
                };
                let middle = f32::from(1_u16 << (bits - 1));
                let zeros = match &zero {
                    None => vec![middle],
                    Some(zero) if zero.dtype().is_float() => zero.to_f32()?,
                    Some(zero) => rows_of_bits(zero.bytes()?, *bits, *rows, blocks),
                };
                let values =
                    Array2::from_shape_vec((*rows, blocks * block), rows_of_bits(values.bytes()?, *bits, *rows, blocks * block)).ok()?;
                let high = 2.0 * middle - 1.0;
                let real_zeros = zero.as_ref().is_some_and(|zero| zero.dtype().is_float());
                Packed {
                    values,
                    groups: Groups { of_rows: (0..*rows).collect(), of_columns },
                    scales,
                    zeros,
                    high,
                    real_zeros,
                    ..Packed::default()
                }
            }
        };
        Some(Packed { scale_type: scale.dtype(), may_rescale, ..packed }).filter(Packed::is_whole)
    }

    fn write(&self, at: &Folding<'_>, packed: &Packed) -> Option<()> {
        let stored = |id: ValueId| at.b.initial(id).or_else(|| at.b.constant_of(id));
        let put = |id: ValueId, numbers: &[f32], bits: Option<(usize, usize)>| {
            let old = stored(id)?;
            let bytes = match (bits, old.dtype()) {
                (_, dtype) if dtype.is_float() => {
                    let numbers: Vec<f64> = numbers.iter().map(|&n| f64::from(n)).collect();
                    return Tensor::from_f64(dtype, old.shape(), &numbers).ok().map(|tensor| at.b.set_initializer(id, tensor));
                }
                (Some((bits, rows)), _) => bits_of_rows(numbers, bits, rows),
                (None, DType::U4 | DType::I4) => bits_of_rows(numbers, 4, 1),
                (None, _) => bits_of_rows(numbers, 8, 1),
            };
            Tensor::new(old.dtype(), old.shape().to_vec(), bytes.into()).ok().map(|tensor| at.b.set_initializer(id, tensor))
        };
        let packing = if let Scheme::Blocks { bits, rows, .. } = self.form { Some((bits, rows)) } else { None };
        put(self.values, packed.values.as_standard_layout().as_slice()?, packing)?;
        if packed.may_rescale {
            put(self.scale, &packed.scales, packing)?;
            if let Some(zero) = self.zero.filter(|_| packed.zeros.len() == packed.scales.len()) {
                put(zero, &packed.zeros, packing)?;
            }
        }
        Some(())
    }
}

/// The scale of the second operand of a product of integers: `MatMulInteger → Cast → Mul (scale · scale)`.
fn scale_of_product(graph: &Graph, product: &Node) -> Option<ValueId> {
    let reader = |value: ValueId, op: &str| match graph.uses(value) {
        [only] if &*graph.node(only.node).op == op => Some(graph.node(only.node)),
        _ => None,
    };
    let cast = reader(product.output(0)?, "Cast")?.output(0)?;
    let scaled = reader(cast, "Mul")?.reads().find(|&id| id != cast)?;
    graph.node(graph.producer(scaled)?).reads().find(|&id| graph.initializer(id).is_some())
}

/// The group of each element: that of its row and that of its column.
#[derive(Default)]
struct Groups {
    of_rows: Vec<usize>,
    of_columns: Vec<usize>,
}

impl Groups {
    fn columns(&self) -> usize {
        self.of_columns.iter().max().map_or(1, |most| most + 1)
    }

    fn count(&self) -> usize {
        self.columns() * self.of_rows.iter().max().map_or(1, |most| most + 1)
    }

    fn of(&self, (row, column): (usize, usize)) -> usize {
        self.of_rows[row] * self.columns() + self.of_columns[column]
    }
}

/// Integers that stand for numbers.
struct Packed {
    values: Array2<f32>,
    groups: Groups,
    scales: Vec<f32>,
    /// One for each group, or one for all.
    zeros: Vec<f32>,
    /// Whether zero points need not be whole.
    real_zeros: bool,
    /// The smallest and the largest integer.
    low: f32,
    high: f32,
    /// What scales are rounded to.
    scale_type: DType,
    /// Whether scales and zero points may change.
    may_rescale: bool,
}

impl Default for Packed {
    fn default() -> Self {
        let (values, groups, scales, zeros) = (Array2::default((0, 0)), Groups::default(), vec![], vec![]);
        Self { values, groups, scales, zeros, real_zeros: false, low: 0.0, high: 0.0, scale_type: DType::F32, may_rescale: false }
    }
}

/// A scale and a zero point.
#[derive(Clone, Copy)]
struct Grid {
    scale: f32,
    zero: f32,
}

impl Packed {
    fn is_whole(&self) -> bool {
        let count = self.groups.count();
        self.scales.len() == count && (self.zeros.len() == 1 || self.zeros.len() == count)
    }

    fn grid(&self, group: usize) -> Grid {
        Grid { scale: self.scales[group], zero: self.zeros.get(group).copied().unwrap_or(self.zeros[0]) }
    }

    fn numbers(&self) -> Array2<f32> {
        Array2::from_shape_fn(self.values.dim(), |at| {
            let Grid { scale, zero } = self.grid(self.groups.of(at));
            (self.values[at] - zero) * scale
        })
    }

    /// The integer nearest to a number.
    fn nearest(&self, number: f32, grid: Grid) -> f32 {
        if grid.scale == 0.0 { grid.zero } else { (number / grid.scale + grid.zero).round().clamp(self.low, self.high) }
    }

    /// Rounds `wanted`, each group on the grid that has the smaller error.
    fn round(&mut self, wanted: &Array2<f32>) {
        let count = self.groups.count();
        let old: Vec<Grid> = (0..count).map(|group| self.grid(group)).collect();
        let mut spans = vec![(0.0_f32, 0.0_f32); count];
        for (at, &number) in wanted.indexed_iter() {
            let span = &mut spans[self.groups.of(at)];
            *span = (span.0.min(number), span.1.max(number));
        }
        let new: Vec<Grid> = spans.iter().zip(&old).map(|(&span, old)| self.spanning(span, *old)).collect();
        let mut errors = vec![(0.0_f64, 0.0_f64); count];
        for (at, &number) in wanted.indexed_iter() {
            let group = self.groups.of(at);
            let error = |grid: Grid| f64::from((self.nearest(number, grid) - grid.zero) * grid.scale - number).powi(2);
            errors[group].0 += error(old[group]);
            errors[group].1 += error(new[group]);
        }
        let best: Vec<Grid> =
            (0..count).map(|group| if self.may_rescale && errors[group].1 < errors[group].0 { new[group] } else { old[group] }).collect();
        self.values = Array2::from_shape_fn(wanted.dim(), |at| self.nearest(wanted[at], best[self.groups.of(at)]));
        self.scales = best.iter().map(|grid| grid.scale).collect();
        if self.zeros.len() == count {
            self.zeros = best.iter().map(|grid| grid.zero).collect();
        }
    }

    /// The grid whose integers span some numbers, zero among them. Zero points that are all the same stay.
    fn spanning(&self, (least, most): (f32, f32), old: Grid) -> Grid {
        let fixed = self.zeros.iter().all(|zero| zero.to_bits() == self.zeros[0].to_bits());
        let scale = if fixed {
            let side = |span: f32, steps: f32| if steps > 0.0 { span / steps } else { 0.0 };
            side(most, self.high - old.zero).max(side(-least, old.zero - self.low))
        } else {
            (most - least) / (self.high - self.low)
        };
        let scale =
            Tensor::from_f64(self.scale_type, &[], &[f64::from(scale)]).ok().and_then(|tensor| tensor.to_f32()).map_or(scale, |all| all[0]);
        if scale <= 0.0 || !scale.is_finite() {
            return old;
        }
        let zero = self.low - least / scale;
        match (fixed, self.real_zeros) {
            (true, _) => Grid { scale, zero: old.zero },
            (false, true) => Grid { scale, zero },
            (false, false) => Grid { scale, zero: zero.round().clamp(self.low, self.high) },
        }
    }
}

fn range(dtype: DType) -> Option<(f32, f32)> {
    match dtype {
        DType::U4 => Some((0.0, 15.0)),
        DType::I4 => Some((-8.0, 7.0)),
        DType::U8 => Some((0.0, 255.0)),
        DType::I8 => Some((-128.0, 127.0)),
        _ => None,
    }
}

/// The integers of a tensor of 4 or 8 bits.
fn integers(tensor: &Tensor) -> Option<Vec<f32>> {
    let bytes = tensor.bytes()?;
    let signed = |nibble: u8| if nibble < 8 { f32::from(nibble) } else { f32::from(nibble) - 16.0 };
    let nibbles = || bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).take(tensor.len());
    match tensor.dtype() {
        DType::U4 => Some(nibbles().map(f32::from).collect()),
        DType::I4 => Some(nibbles().map(signed).collect()),
        DType::U8 => Some(bytes.iter().map(|&byte| f32::from(byte)).collect()),
        DType::I8 => Some(bytes.iter().map(|byte| f32::from(i8::from_le_bytes([*byte]))).collect()),
        _ => None,
    }
}

/// The first `width` integers of 4 or 8 bits of each row, which starts on a byte.
fn rows_of_bits(bytes: &[u8], bits: usize, rows: usize, width: usize) -> Vec<f32> {
    let row = bytes.len().checked_div(rows).unwrap_or(0).max(1);
    let integers = |row: &[u8]| -> Vec<f32> {
        match bits {
            4 => row.iter().flat_map(|byte| [byte & 15, byte >> 4]).take(width).map(f32::from).collect(),
            _ => row.iter().take(width).map(|&byte| f32::from(byte)).collect(),
        }
    };
    bytes.chunks(row).flat_map(integers).collect()
}

/// Integers as bytes, each row from a byte on; negative ones as their complement to two.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "they were rounded into the range of their type"
)]
fn bits_of_rows(numbers: &[f32], bits: usize, rows: usize) -> Vec<u8> {
    let byte = |number: f32| (number as i32 & 0xff) as u8;
    let width = numbers.len().checked_div(rows).unwrap_or(0).max(1);
    let packed = |row: &[f32]| -> Vec<u8> {
        match bits {
            4 => row.chunks(2).map(|pair| (byte(pair[0]) & 15) | (pair.get(1).map_or(0, |&high| byte(high) & 15) << 4)).collect(),
            _ => row.iter().map(|&number| byte(number)).collect(),
        }
    };
    numbers.chunks(width).flat_map(packed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(zeros: Vec<f32>) -> Packed {
        let values = Array2::from_shape_fn((4, 8), |(row, column)| f32::from(u8::try_from((row * 5 + column * 3) % 16).expect("small")));
        let groups = Groups { of_rows: (0..4).collect(), of_columns: (0..8).map(|column| column / 4).collect() };
        Packed { values, groups, scales: vec![0.1; 8], zeros, high: 15.0, may_rescale: true, ..Packed::default() }
    }

    #[test]
    fn a_change_of_nothing_changes_nothing() {
        for zeros in [vec![8.0], vec![3.0, 8.0, 1.0, 9.0, 12.0, 0.0, 15.0, 7.0]] {
            let mut weight = packed(zeros.clone());
            let (values, numbers) = (weight.values.clone(), weight.numbers());
            weight.round(&numbers);
            assert_eq!((weight.values, weight.zeros, weight.scales), (values, zeros, vec![0.1; 8]));
        }
    }

    #[test]
    fn numbers_out_of_range_get_a_wider_grid() {
        for zeros in [vec![8.0], vec![3.0, 8.0, 1.0, 9.0, 12.0, 0.0, 15.0, 7.0]] {
            let mut weight = packed(zeros);
            let wanted = weight.numbers() * 3.0 + 0.05;
            weight.round(&wanted);
            // Half a step of a grid of 15 steps over what a group spans.
            let worst = wanted.iter().zip(&weight.numbers()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 0.31, "{worst}");
        }
    }

    #[test]
    fn integers_come_back_as_they_were() {
        let numbers: Vec<f32> = vec![1.0, 15.0, 7.0, 0.0, 3.0, 9.0];
        assert_eq!(rows_of_bits(&bits_of_rows(&numbers, 4, 2), 4, 2, 3), numbers);
        assert_eq!(rows_of_bits(&bits_of_rows(&numbers, 8, 2), 8, 2, 3), numbers);
        let signed = [-8.0, 7.0, -1.0, 0.0];
        let tensor = Tensor::new(DType::I4, vec![4], bits_of_rows(&signed, 4, 1).into()).expect("two bytes");
        assert_eq!(integers(&tensor), Some(signed.to_vec()));
    }
}
