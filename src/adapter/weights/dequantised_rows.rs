//! Rows of a table of small integers, as the numbers that they stand for.
//!
//! What the graph does with them on the way is done here with some rows alone: a table may be too large to be dequantised as a whole.

use ndarray::Array2;

use crate::adapter::params::matrices;
use crate::anatomy::Embedding;
use crate::ir::{DType, Graph, Node, Tensor, ValueId};
use crate::{Error, Place, Result};

/// Some rows of a table, float32 `[rows, hidden]`, whether it is stored as floats or not.
///
/// # Errors
/// A table that is dequantised in a way that is not known here.
pub(crate) fn rows_of(graph: &Graph, table: &Embedding, rows: &[usize]) -> Result<Tensor> {
    let stored = graph.stored(table.weight);
    if let Some(floats) = stored.filter(|tensor| tensor.dtype().is_float()) {
        return super::fold::rows_of(floats, table, rows);
    }
    let numbers = stored.and_then(|stored| StoredRows { graph, table, stored }.rows(rows));
    numbers.map(|numbers| matrices::tensor(&numbers.view())).ok_or_else(|| {
        let kind = stored.map_or_else(|| "turned before it is read".to_owned(), |tensor| format!("stored as {}", tensor.dtype()));
        let why = format!("the table is {kind}, and how it is dequantised is not known");
        Error::unsupported(format!("starting from rows of {}", table.module), why)
            .at(Place::Tensor(graph.value_name(table.weight).to_owned()))
            .with_hint("`prompt_init random` starts from random numbers")
    })
}

struct StoredRows<'a> {
    graph: &'a Graph,
    table: &'a Embedding,
    stored: &'a Tensor,
}

impl<'a> StoredRows<'a> {
    fn rows(&self, rows: &[usize]) -> Option<Array2<f32>> {
        let steps = self.steps()?;
        let hidden = usize::try_from(self.table.hidden).ok()?;
        let mut numbers = Array2::zeros((rows.len(), hidden));
        let blocks = steps.iter().find(|node| &*node.op == "com.microsoft:GatherBlockQuantized");
        let bits = blocks.map_or(8, |node| node.int("bits", 4));
        let width = if self.stored.dtype() == DType::U8 && bits == 4 { 4 } else { self.stored.dtype().bits() };
        for (at, &row) in rows.iter().enumerate() {
            for column in 0..hidden {
                numbers[[at, column]] = integer(self.stored, width, row * hidden + column)?;
            }
        }
        for node in steps {
            self.step(node, rows, &mut numbers)?;
        }
        Some(numbers)
    }

    /// The nodes from the table to its rows.
    fn steps(&self) -> Option<Vec<&'a Node>> {
        let (mut at, mut steps) = (self.table.output, vec![]);
        while at != self.table.weight {
            let node = self.graph.node(self.graph.producer(at)?);
            // Of two factors, the other one is the scale.
            at = match &*node.op {
                "Mul" | "Add" if self.leads_to_table(node.input(1)?) => node.input(1)?,
                _ => node.input(0)?,
            };
            steps.push(node);
            if steps.len() > 16 {
                return None;
            }
        }
        steps.reverse();
        Some(steps)
    }

    fn leads_to_table(&self, value: ValueId) -> bool {
        let mut at = value;
        for _ in 0..16 {
            if at == self.table.weight {
                return true;
            }
            let Some(next) = self.graph.producer(at).and_then(|id| self.graph.node(id).input(0)) else { return false };
            at = next;
        }
        false
    }

    fn step(&self, node: &Node, rows: &[usize], numbers: &mut Array2<f32>) -> Option<()> {
        let operand = |input: usize| -> Option<Operand> { self.operand(node.input(input)?) };
        match &*node.op {
            "Identity" | "Cast" => {}
            "Gather" if node.int("axis", 0) == 0 => {}
            "DequantizeLinear" => {
                let zero = if node.input(2).is_some() { Some(operand(2)?) } else { None };
                self.dequantise(&operand(1)?, zero.as_ref(), rows, numbers)?;
            }
            "com.microsoft:GatherBlockQuantized" => {
                let zero = if node.input(3).is_some() { Some(operand(3)?) } else { None };
                let middle = if self.stored.dtype() == DType::U8 { if node.int("bits", 4) == 4 { 8.0 } else { 128.0 } } else { 0.0 };
                // Packed zero points begin each row on a byte.
                if zero.is_some() && self.stored.dtype() == DType::U8 && node.int("bits", 4) == 4 {
                    return None;
                }
                if zero.is_none() {
                    numbers.mapv_inplace(|number| number - middle);
                }
                self.dequantise(&operand(2)?, zero.as_ref(), rows, numbers)?;
            }
            op @ ("Mul" | "Div" | "Sub" | "Add") => {
                let is_first = self.leads_to_table(node.input(0)?);
                let other = operand(usize::from(is_first))?;
                let change = |number: f32, other: f32| match op {
                    "Mul" => number * other,
                    "Div" => number / other,
                    "Sub" if is_first => number - other,
                    "Sub" => other - number,
                    _ => number + other,
                };
                Self::each(rows, numbers, |number, row, column| Some(change(number, other.at(self.table, row, column)?)))?;
            }
            _ => return None,
        }
        Some(())
    }

    fn dequantise(&self, scale: &Operand, zero: Option<&Operand>, rows: &[usize], numbers: &mut Array2<f32>) -> Option<()> {
        Self::each(rows, numbers, |number, row, column| {
            let zero = zero.map_or(Some(0.0), |zero| zero.at(self.table, row, column))?;
            Some((number - zero) * scale.at(self.table, row, column)?)
        })
    }

    fn each(rows: &[usize], numbers: &mut Array2<f32>, change: impl Fn(f32, usize, usize) -> Option<f32>) -> Option<()> {
        for (at, &row) in rows.iter().enumerate() {
            for column in 0..numbers.ncols() {
                numbers[[at, column]] = change(numbers[[at, column]], row, column)?;
            }
        }
        Some(())
    }

    /// A constant of scales or zero points, perhaps looked up row by row as the table is.
    fn operand(&self, value: ValueId) -> Option<Operand> {
        let mut at = value;
        loop {
            if let Some(tensor) = self.graph.stored(at) {
                return Some(Operand(tensor.clone()));
            }
            let node = self.graph.node(self.graph.producer(at)?);
            at = match &*node.op {
                "Identity" | "Cast" | "Reshape" | "Unsqueeze" | "Squeeze" | "Gather" => node.input(0)?,
                _ => return None,
            };
        }
    }
}

/// One number for all, for each row, for each column, or for each block of a row.
struct Operand(Tensor);

impl Operand {
    fn at(&self, table: &Embedding, row: usize, column: usize) -> Option<f32> {
        let count = |n: i64| usize::try_from(n).ok();
        let (rows, hidden, all) = (count(table.rows)?, count(table.hidden)?, self.0.len());
        let place = match all {
            1 => 0,
            all if all == rows && self.0.shape().last() != Some(&hidden) => row,
            all if all == rows && self.0.shape().first() == Some(&rows) => row,
            all if all == hidden => column,
            all if all % rows == 0 && hidden % (all / rows) == 0 => {
                let blocks = all / rows;
                row * blocks + column / (hidden / blocks)
            }
            _ => return None,
        };
        if self.0.dtype().is_float() { float(&self.0, place) } else { integer(&self.0, self.0.dtype().bits(), place) }
    }
}

/// One element of a tensor of floats.
fn float(tensor: &Tensor, place: usize) -> Option<f32> {
    let size = tensor.dtype().bytes(1);
    let bytes = tensor.bytes()?.slice(place * size..(place + 1) * size);
    Tensor::new(tensor.dtype(), vec![1], bytes).ok()?.to_f32()?.first().copied()
}

/// One integer of 4 or 8 bits.
fn integer(tensor: &Tensor, bits: usize, place: usize) -> Option<f32> {
    let bytes = tensor.bytes()?;
    let is_signed = matches!(tensor.dtype(), DType::I4 | DType::I8);
    match bits {
        8 => {
            let byte = *bytes.get(place)?;
            Some(if is_signed { f32::from(i8::from_le_bytes([byte])) } else { f32::from(byte) })
        }
        4 => {
            let byte = *bytes.get(place / 2)?;
            let nibble = f32::from(if place.is_multiple_of(2) { byte & 15 } else { byte >> 4 });
            Some(if is_signed && nibble >= 8.0 { nibble - 16.0 } else { nibble })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Attr, Builder, Dim, Expr, ModelInfo};

    type Write = for<'g> fn(&'g Builder, Expr<'g>, Expr<'g>) -> Expr<'g>;

    /// Two columns, three rows: the bytes are 1, 2 | 3, 4 | 5, 6.
    const FORMS: &[(&str, Write, [f32; 2])] = &[
        ("times a number", |b, w, ids| b.op("Gather", &[w.cast(DType::F32) * 0.5, ids], &[]), [2.5, 3.0]),
        ("less a zero point", |b, w, ids| (b.op("Gather", &[w, ids], &[]).cast(DType::F32) - 1.0) * 2.0, [8.0, 10.0]),
        (
            "a scale and a zero point of each row",
            |b, w, ids| {
                let scale = b.initializer("scale", Tensor::from_f32(&[3], &[1.0, 2.0, 4.0]));
                let zero = b.initializer("zero", Tensor::new(DType::I8, vec![3], vec![0, 0, 2].into()).expect("three bytes"));
                b.op("Gather", &[b.op("DequantizeLinear", &[w, scale, zero], &[("axis", Attr::Int(0))]), ids], &[])
            },
            [12.0, 16.0],
        ),
        (
            "a scale of each row, looked up",
            |b, w, ids| {
                let scale = b.initializer("scale", Tensor::from_f32(&[3, 1], &[1.0, 2.0, 4.0]));
                b.op("Gather", &[scale, ids], &[]) * b.op("Gather", &[w, ids], &[]).cast(DType::F32)
            },
            [20.0, 24.0],
        ),
        (
            "a scale of each column",
            |b, w, ids| {
                let scale = b.initializer("scale", Tensor::from_f32(&[2], &[1.0, 2.0]));
                b.op("DequantizeLinear", &[b.op("Gather", &[w, ids], &[]), scale], &[("axis", Attr::Int(-1))])
            },
            [5.0, 12.0],
        ),
    ];

    #[test]
    fn rows_are_unpacked_as_the_graph_does() -> Result<()> {
        for (what, write, expected) in FORMS {
            let b = Builder::new(ModelInfo::dialect());
            let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
            let w = b.initializer("w", Tensor::new(DType::I8, vec![3, 2], vec![1, 2, 3, 4, 5, 6].into())?);
            b.output("y", write(&b, w, ids).tanh());
            let graph = b.finish()?;
            let anatomy = crate::anatomy::read(&graph);
            let table = anatomy.embeddings.iter().find(|table| table.hidden == 2).unwrap_or_else(|| panic!("{what}: no table"));
            let found = rows_of(&graph, table, &[2])?;
            assert_eq!(found, Tensor::from_f32(&[1, 2], expected), "{what}");
        }
        Ok(())
    }
}
