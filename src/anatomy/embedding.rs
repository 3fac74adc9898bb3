//! Embedding tables: matrices of floats, or of integers that stand for floats, whose rows are read by index.
//!
//! ```text
//! W → [dequantising] ─→ Gather (ids) → [dequantising] → rows
//! ```

use crate::ir::{Graph, NodeId, Tensor, ValueId};

use super::Layout;
use super::stored::{self, Stored};
use super::walk::{Found, NodeRef, ValueRef};

/// A table that has no name yet.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) node: NodeId,
    pub(super) weight: ValueId,
    /// Whether the weight is stored as `[hidden, rows]`.
    pub(super) transposed: bool,
    /// What is looked up in: the weight, perhaps as the numbers that it stands for.
    pub(super) read: ValueId,
    pub(super) indices: ValueId,
    pub(super) output: ValueId,
    pub(super) rows: i64,
    pub(super) hidden: i64,
    /// Whether its rows are cosines or sines of angles, which nobody learns.
    pub(super) is_rotation: bool,
}

/// Every table in the order of execution.
pub(super) fn find(graph: &Graph) -> Vec<Table> {
    graph.node_ids().filter_map(|(id, _)| table(NodeRef::new(graph, id)).ok()).collect()
}

fn table(node: NodeRef<'_>) -> Found<Table> {
    if node.is(&["com.microsoft:GatherBlockQuantized"]) {
        return packed_table(node);
    }
    if !node.is(&["Gather"]) {
        return Err(node.miss("rows read by index"));
    }
    if node.input(1)?.is_constant() {
        return Err(node.miss("rows that are chosen while the graph runs"));
    }
    let (read, gathered) = (node.input(0)?, node.output(0)?);
    let Stored { value, layout, is_scaled } = stored::behind(read)?;
    let is_floats = value.stored().is_some_and(|tensor| tensor.dtype().is_float());
    let Some(&[first, second]) = read.fact().known_shape().as_deref() else { return Err(read.miss("a constant matrix")) };
    let [rows, hidden] = match node.node().int("axis", 0) {
        0 => [first, second],
        1 | -1 => [second, first],
        _ => return Err(node.miss("rows read by index")),
    };
    let is_columns = node.node().int("axis", 0) != 0;
    let output = match () {
        () if is_floats && is_columns => turned(gathered)?,
        () if is_floats || is_scaled => gathered,
        () => stored::dequantised(gathered)?,
    };
    let transposed = is_floats && is_columns != (layout == Layout::OutIn);
    // What is stored with other axes than it is read with cannot be changed there.
    let (weight, transposed) = if is_floats && value.fact().rank() != Some(2) { (read, false) } else { (value, transposed) };
    // A list of numbers that is looked up is no embedding.
    if is_floats && hidden == 1 {
        return Err(value.miss("rows of several numbers"));
    }
    let is_rotation = value.stored().is_some_and(is_rotation);
    let indices = node.input(1)?.id();
    Ok(Table { node: node.id(), weight: weight.id(), transposed, read: read.id(), indices, output: output.id(), rows, hidden, is_rotation })
}

/// The rows behind columns that were read by index, `[hidden, ..]`.
fn turned(columns: ValueRef<'_>) -> Found<ValueRef<'_>> {
    let node = columns.into(&["Transpose"])?;
    let last = columns.fact().rank().and_then(|rank| i64::try_from(rank).ok()).ok_or_else(|| columns.miss("columns of known rank"))?;
    let wanted: Vec<i64> = (1..last).chain([0]).collect();
    let is_default = last == 2 && node.node().ints("perm").is_none();
    if is_default || node.node().ints("perm") == Some(&wanted) { node.output(0) } else { Err(node.miss("columns that become rows")) }
}

/// A table whose rows are packed in blocks: `data`, `indices`, scales.
fn packed_table(node: NodeRef<'_>) -> Found<Table> {
    let (weight, output) = (node.input(0)?, node.output(0)?);
    let rows = weight.stored().and_then(|tensor| tensor.shape().first().copied()).ok_or_else(|| weight.miss("a constant table"))?;
    let hidden =
        output.fact().rank().and_then(|rank| output.length(rank.checked_sub(1)?)).ok_or_else(|| output.miss("rows of known length"))?;
    Ok(Table {
        node: node.id(),
        weight: weight.id(),
        transposed: false,
        read: weight.id(),
        indices: node.input(1)?.id(),
        output: output.id(),
        rows: i64::try_from(rows).map_err(|_| weight.miss("lengths within 63 bits"))?,
        hidden,
        is_rotation: false,
    })
}

/// Whether rows are cosines, or sines, of angles that grow with the row's number: `cos 0` or `sin 0` in the first one, and the angles of the third
/// are twice those of the second.
fn is_rotation(tensor: &Tensor) -> bool {
    const ROWS: usize = 3;
    let &[rows, width] = tensor.shape() else { return false };
    let length = ROWS * width * tensor.dtype().bits() / 8;
    let first = tensor.bytes().filter(|bytes| rows >= ROWS && width >= 2 && tensor.dtype().is_float() && bytes.len() >= length);
    let first = first.and_then(|bytes| Tensor::new(tensor.dtype(), vec![ROWS, width], bytes.slice(..length)).ok()?.to_f64());
    let Some(numbers) = first else { return false };
    let (zero, one, two) = (&numbers[..width], &numbers[width..2 * width], &numbers[2 * width..]);
    // Half precision keeps three digits.
    let near = |a: f64, b: f64| (a - b).abs() < 1e-2;
    let scale = zero[0];
    let pairs = || one.iter().zip(two);
    let is_cosine = scale > 0.0
        && zero.iter().all(|&number| (number - scale).abs() < 1e-6)
        && pairs().all(|(&a, &b)| near(2.0 * (a / scale).powi(2) - 1.0, b / scale));
    let is_sine = zero.iter().all(|&number| number == 0.0)
        && one.iter().any(|&number| number > 1e-4)
        && pairs().all(|(&a, &b)| (-1.0..=1.0).contains(&a) && near(2.0 * a * (1.0 - a * a).sqrt(), b));
    is_cosine || is_sine
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Attr, Builder, DType, Dim, Expr, ModelInfo, Tensor};

    type Write = for<'g> fn(&'g Builder, Expr<'g>) -> Expr<'g>;

    fn bytes<'g>(b: &'g Builder, name: &str, dtype: DType, shape: &[usize]) -> Expr<'g> {
        let count = dtype.bytes(shape.iter().product());
        b.initializer(name, Tensor::new(dtype, shape.to_vec(), vec![1; count].into()).expect("as many bytes as it takes"))
    }

    fn floats<'g>(b: &'g Builder, name: &str, shape: &[usize]) -> Expr<'g> {
        b.initializer(name, Tensor::from_f32(shape, &vec![0.5; shape.iter().product()]))
    }

    fn dequantised<'g>(b: &'g Builder, q: Expr<'g>, axis: i64) -> Expr<'g> {
        b.op("DequantizeLinear", &[q, floats(b, "scale", &[])], &[("axis", Attr::Int(axis))])
    }

    fn gather<'g>(b: &'g Builder, table: Expr<'g>, ids: Expr<'g>, axis: i64) -> Expr<'g> {
        b.op("Gather", &[table, ids], &[("axis", Attr::Int(axis))])
    }

    /// What stands between the table and the rows, and the name of what is stored.
    const FORMS: &[(&str, Write, &str)] = &[
        ("floats", |b, ids| gather(b, floats(b, "w", &[50, 4]), ids, 0), "w"),
        ("half precision, upcast", |b, ids| gather(b, bytes(b, "w", DType::F16, &[50, 4]).cast(DType::F32), ids, 0), "w"),
        ("dequantised before", |b, ids| gather(b, dequantised(b, bytes(b, "w", DType::I8, &[50, 4]), 0), ids, 0), "w"),
        ("four bits", |b, ids| gather(b, dequantised(b, bytes(b, "w", DType::U4, &[50, 4]), 0), ids, 0), "w"),
        ("dequantised after", |b, ids| dequantised(b, gather(b, bytes(b, "w", DType::U8, &[50, 4]), ids, 0), 0), "w"),
        ("a number times integers", |b, ids| gather(b, bytes(b, "w", DType::I8, &[50, 4]).cast(DType::F32) * 0.25, ids, 0), "w"),
        (
            "a scale for each row, first",
            |b, ids| gather(b, floats(b, "scale", &[50, 1]) * bytes(b, "w", DType::I8, &[50, 4]).cast(DType::F32), ids, 0),
            "w",
        ),
        (
            "integers less a zero point, times a number",
            |b, ids| gather(b, (bytes(b, "w", DType::U8, &[50, 4]).cast(DType::F32) - 128.0) * 0.25, ids, 0),
            "w",
        ),
        (
            "rows less a zero point, times a number",
            |b, ids| (gather(b, bytes(b, "w", DType::U8, &[50, 4]), ids, 0).cast(DType::F32) - 128.0) * 0.25,
            "w",
        ),
        (
            "rows times their own scales",
            |b, ids| {
                let scales = gather(b, floats(b, "scale", &[50, 1]), ids, 0);
                gather(b, bytes(b, "w", DType::I8, &[50, 4]), ids, 0).cast(DType::F32) * scales
            },
            "w",
        ),
        (
            "columns of the head's own matrix, turned and dequantised",
            |b, ids| dequantised(b, gather(b, bytes(b, "w", DType::I8, &[4, 50]), ids, 1).transpose(&[1, 2, 0]), 2),
            "w",
        ),
        (
            "columns of the head's own matrix, dequantised and turned",
            |b, ids| dequantised(b, gather(b, bytes(b, "w", DType::I8, &[4, 50]), ids, 1), 0).transpose(&[1, 2, 0]),
            "w",
        ),
        ("floats, turned", |b, ids| gather(b, floats(b, "w", &[4, 50]).t(), ids, 0), "w"),
        ("columns of floats, turned", |b, ids| gather(b, floats(b, "w", &[4, 50]), ids, 1).transpose(&[1, 2, 0]), "w"),
        (
            "columns of floats that are rows where they are stored",
            |b, ids| gather(b, floats(b, "w", &[50, 4]).t(), ids, 1).transpose(&[1, 2, 0]),
            "w",
        ),
        ("the head's own matrix, turned", |b, ids| gather(b, dequantised(b, bytes(b, "w", DType::I8, &[4, 50]).t(), 1), ids, 0), "w"),
    ];

    #[test]
    fn tables_are_found_however_they_are_stored() {
        for (what, write, stored) in FORMS {
            let b = Builder::new(ModelInfo::dialect().with_opset("", 21));
            let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
            let rows = write(&b, ids);
            let output = rows.id();
            b.output("y", b.expr(output).tanh());
            let graph = b.finish().unwrap_or_else(|error| panic!("{what}: {error}"));
            let found: Vec<_> = find(&graph).into_iter().filter(|table| table.hidden > 1).collect();
            let [table] = found.as_slice() else { panic!("{what}: {found:?}") };
            assert_eq!((graph.value_name(table.weight), table.rows, table.hidden, table.output), (*stored, 50, 4, output), "{what}");
            assert!(crate::anatomy::read(&graph).token_embedding.is_some(), "{what}");
        }
    }

    #[test]
    fn tables_of_rotations_are_told_from_those_that_are_learned() {
        let angles = |turn: fn(f64) -> f64| {
            let rows = (0..4_u8).flat_map(|row| [1.0, 0.1, 0.01].map(|angle| turn(f64::from(row) * angle)));
            Tensor::from_f64(DType::F32, &[4, 3], &rows.collect::<Vec<f64>>()).expect("floats")
        };
        let padded = Tensor::from_f32(&[4, 3], &[0., 0., 0., 0.3, -0.2, 0.5, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
        let rows = [("cosines", angles(f64::cos), true), ("sines", angles(f64::sin), true), ("a row of padding", padded, false)];
        for (what, tensor, expected) in rows {
            assert_eq!(is_rotation(&tensor), expected, "{what}");
        }
    }
}
