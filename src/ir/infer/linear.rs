//! Products of matrices.

use std::collections::BTreeMap;

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, Shape, broadcast};
use super::elementwise::same_dtype;
use super::question::expect_rank;
use super::{Answer, Question, Rule};
use crate::error::Refusal;

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("Det", det),
    ("Einsum", einsum),
    ("Gemm", gemm),
    ("MatMul", matmul),
    ("MatMulInteger", matmul_integer),
    ("QLinearMatMul", qlinear_matmul),
    ("com.microsoft:DynamicQuantizeMatMul", matmul),
    ("com.microsoft:FusedGemm", gemm),
    ("com.microsoft:FusedMatMul", fused_matmul),
    ("com.microsoft:GemmFastGelu", matmul),
    ("com.microsoft:MatMulIntegerToFloat", matmul_to_float),
    ("com.microsoft:TransposeMatMul", fused_matmul),
];

fn matmul(q: &Question<'_>) -> Answer {
    let dtype = same_dtype(q.dtype(0), q.dtype(1)).or_else(|e| if q.op == "MatMul" { Err(e) } else { Ok(q.dtype(0)) })?;
    Ok(vec![Fact::partial(dtype, shapes(q, 1)?)])
}

/// Whole numbers of 8 bits; sums of 32.
fn matmul_integer(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(Some(DType::I32), shapes(q, 1)?)])
}

/// Scales and zero points stand between the operands; the result has the type of the last zero point.
fn qlinear_matmul(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(q.dtype(7), shapes(q, 3)?)])
}

/// The result has the type of the scales.
fn matmul_to_float(q: &Question<'_>) -> Answer {
    Ok(vec![Fact::partial(q.dtype(2), shapes(q, 1)?)])
}

fn shapes(q: &Question<'_>, second: usize) -> Result<Option<Shape>, Refusal> {
    match (q.shape(0), q.shape(second)) {
        (Some(a), Some(b)) => product(a, b).map(Some),
        _ => Ok(None),
    }
}

/// The shape of a product; a vector is a row on the left, a column on the right, and that axis falls away.
pub(super) fn product(a: &Shape, b: &Shape) -> Result<Shape, Refusal> {
    if a.is_empty() || b.is_empty() {
        return Err(format!("a product of {a:?} and {b:?}: expected a rank of at least 1").into());
    }
    let one = Dim::known(1);
    let left = if a.len() == 1 { vec![one.clone(), a[0].clone()] } else { a.clone() };
    let right = if b.len() == 1 { vec![b[0].clone(), one] } else { b.clone() };
    let ((a_rows, m), (b_rows, n)) = (left.split_at(left.len() - 2), right.split_at(right.len() - 2));
    if m[1].surely_differs(&n[0]) {
        return Err(format!("{a:?} and {b:?} do not multiply: {} columns and {} rows", m[1], n[0]).into());
    }
    let mut shape = broadcast(a_rows, b_rows)?;
    if a.len() > 1 {
        shape.push(m[0].clone());
    }
    if b.len() > 1 {
        shape.push(n[1].clone());
    }
    Ok(shape)
}

fn gemm(q: &Question<'_>) -> Answer {
    let dtype = same_dtype(q.dtype(0), q.dtype(1))?;
    let (Some(a), Some(b)) = (q.shape(0), q.shape(1)) else {
        return Ok(vec![Fact::partial(dtype, Some(q.fresh_shape(0, 2)))]);
    };
    expect_rank("A", a, 2)?;
    expect_rank("B", b, 2)?;
    let turned = |dims: &Shape, name: &str| if q.int(name, 0) == 0 { dims.clone() } else { vec![dims[1].clone(), dims[0].clone()] };
    let shape = product(&turned(a, "transA"), &turned(b, "transB"))?;
    match q.shape(2) {
        Some(c) if c.len() > 2 || broadcast(&shape, c).is_err() => Err(format!("C of shape {c:?} does not broadcast to {shape:?}").into()),
        _ => Ok(vec![Fact::partial(dtype, Some(shape))]),
    }
}

/// `transA` and `transB` swap the last two axes, `transBatchA` and `transBatchB` move the first axis before the last but one.
fn fused_matmul(q: &Question<'_>) -> Answer {
    let dtype = q.dtype(0).or(q.dtype(1));
    let (Some(a), Some(b)) = (q.shape(0), q.shape(1)) else {
        return Ok(vec![Fact::partial(dtype, None)]);
    };
    let turned = |dims: &Shape, swap: &str, batch: &str| {
        let mut dims = dims.clone();
        let rank = dims.len();
        if q.int(batch, 0) != 0 && rank > 2 {
            dims[..rank - 1].rotate_left(1);
        }
        if q.int(swap, 0) != 0 && rank > 1 {
            dims.swap(rank - 1, rank - 2);
        }
        dims
    };
    let shape = product(&turned(a, "transA", "transBatchA"), &turned(b, "transB", "transBatchB"))?;
    Ok(vec![Fact::partial(dtype, Some(shape))])
}

/// The determinant of the last two axes.
fn det(q: &Question<'_>) -> Answer {
    let shape = q.shape(0).map(|dims| dims[..dims.len().saturating_sub(2)].to_vec());
    Ok(vec![Fact::partial(q.dtype(0), shape)])
}

/// `Einsum`: each letter stands for a length. An ellipsis stands for axes that broadcast.
fn einsum(q: &Question<'_>) -> Answer {
    let dtype = q.dtype(0);
    let equation: String = q.str("equation").unwrap_or_default().chars().filter(|c| !c.is_whitespace()).collect();
    let (terms, result) = match equation.split_once("->") {
        Some((terms, result)) => (terms, result.to_owned()),
        None => (equation.as_str(), implicit_result(&equation)),
    };
    let terms: Vec<&str> = terms.split(',').collect();
    if terms.len() != q.inputs.len() {
        return Err(format!("equation {equation:?}: expected {} inputs, found {}", terms.len(), q.inputs.len()).into());
    }
    let mut letters: Vec<(char, Dim)> = vec![];
    let mut hidden = Some(vec![]);
    for (i, term) in terms.iter().enumerate() {
        let Some(dims) = q.shape(i) else {
            return Ok(vec![einsum_unknown(q, &result)]);
        };
        let (front, back) = term.split_once("...").unwrap_or((term, ""));
        let named = front.chars().count() + back.chars().count();
        let around = dims.len().checked_sub(named).filter(|n| *n == 0 || term.contains("..."));
        let Some(around) = around else { return Err(format!("term {term:?} and the shape {dims:?}").into()) };
        let first = front.chars().count();
        hidden = match hidden {
            Some(so_far) => Some(broadcast(&so_far, &dims[first..first + around])?),
            None => None,
        };
        for (letter, dim) in front.chars().zip(dims).chain(back.chars().zip(&dims[first + around..])) {
            note_letter(&mut letters, letter, dim)?;
        }
    }
    let mut shape = vec![];
    let (front, back) = result.split_once("...").unwrap_or((&result, ""));
    let length_of = |letter: char| letters.iter().find(|(l, _)| *l == letter).map(|(_, dim)| dim.clone());
    let unknown = || format!("equation {equation:?}: a letter of the result is in no term");
    for letter in front.chars() {
        shape.push(length_of(letter).ok_or_else(unknown)?);
    }
    if result.contains("...") {
        shape.extend(hidden.unwrap_or_default());
    }
    for letter in back.chars() {
        shape.push(length_of(letter).ok_or_else(unknown)?);
    }
    Ok(vec![Fact::partial(dtype, Some(shape))])
}

fn note_letter(letters: &mut Vec<(char, Dim)>, letter: char, dim: &Dim) -> Result<(), Refusal> {
    let Some((_, known)) = letters.iter_mut().find(|(l, _)| *l == letter) else {
        letters.push((letter, dim.clone()));
        return Ok(());
    };
    match broadcast(std::slice::from_ref(known), std::slice::from_ref(dim)) {
        Ok(joined) => known.clone_from(&joined[0]),
        Err(_) => return Err(format!("letter {letter:?} stands for {known} and for {dim}").into()),
    }
    Ok(())
}

fn einsum_unknown(q: &Question<'_>, result: &str) -> Fact {
    let rank = (!result.contains("...")).then(|| result.chars().count());
    Fact::partial(q.dtype(0), rank.map(|rank| q.fresh_shape(0, rank)))
}

/// Without an arrow: the ellipsis, then the letters that stand once, by the alphabet.
fn implicit_result(equation: &str) -> String {
    let mut counts = BTreeMap::<char, usize>::new();
    equation.chars().filter(|letter| letter.is_alphabetic()).for_each(|letter| *counts.entry(letter).or_default() += 1);
    let once = counts.into_iter().filter(|(_, count)| *count == 1).map(|(letter, _)| letter);
    let ellipsis = if equation.contains("...") { "..." } else { "" };
    ellipsis.chars().chain(once).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::row;
    use crate::ir::Attr;

    #[test]
    fn products() {
        row("MatMul", &["float[b, s, 64]", "float[64, 32]"], &[], "float[b, s, 32]");
        row("MatMul", &["float[b, h, s, d]", "float[b, h, d, t]"], &[], "float[b, h, s, t]");
        row("MatMul", &["float[64]", "float[64, 32]"], &[], "float[32]");
        row("MatMul", &["float[b, 64]", "float[64]"], &[], "float[b]");
        row("MatMul", &["float[b, 64]", "float[32, 8]"], &[], "error: [b, 64] and [32, 8] do not multiply: 64 columns and 32 rows");
        row("Gemm", &["float[b, 64]", "float[32, 64]", "float[32]"], &[("transB", Attr::Int(1))], "float[b, 32]");
        row("Gemm", &["float[...]", "float[32, 64]"], &[], "float[?y.0.0, ?y.0.1]");
        row("com.microsoft:FusedMatMul", &["float[b, h, s, d]", "float[b, h, t, d]"], &[("transB", Attr::Int(1))], "float[b, h, s, t]");
    }

    #[test]
    fn einstein_sums() {
        let equation = |text: &str| [("equation", Attr::from(text))];
        row("Einsum", &["float[b, s, h, 8]", "float[b, t, h, 8]"], &equation("bqhd, bkhd -> bhqk"), "float[b, h, s, t]");
        row("Einsum", &["float[b, 3, 4]", "float[4, 5]"], &equation("...ij,jk->...ik"), "float[b, 3, 5]");
        row("Einsum", &["float[3, 4]", "float[4, 5]"], &equation("ij,jk"), "float[3, 5]");
        row("Einsum", &["float[n, n]"], &equation("ii->"), "float");
        row("Einsum", &["float[3, 4]", "float[5, 5]"], &equation("ij,jk->ik"), "error: letter 'j' stands for 4 and for 5");
    }
}
