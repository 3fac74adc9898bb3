//! Operators that move elements about without computing.

use super::super::dim::Dim;
use super::super::fact::{Fact, MAX_RANK, Shape};
use super::contents::{self, Small};
use super::elementwise::first;
use super::question::{axes_at, expect_rank};
use super::{Answer, Question, Rule};

pub(super) static TABLE: &[(&str, Rule)] = &[
    ("DepthToSpace", depth_to_space),
    ("ReverseSequence", first),
    ("SpaceToDepth", space_to_depth),
    ("Transpose", transpose),
    ("Trilu", first),
    ("com.microsoft:Trilu", first),
];

fn transpose(q: &Question<'_>) -> Answer {
    let rank = q.rank(0).or_else(|| q.ints("perm").map(<[i64]>::len));
    let Some(rank) = rank.filter(|&rank| rank <= MAX_RANK) else { return first(q) };
    let perm = match q.ints("perm") {
        Some(perm) => axes_at(perm, rank)?,
        None => (0..rank).rev().collect(),
    };
    let mut once = perm.clone();
    once.sort_unstable();
    if !once.iter().copied().eq(0..rank) {
        return Err(format!("perm: expected each of the {rank} axes once, found {perm:?}").into());
    }
    let shape = match q.shape(0) {
        Some(dims) => perm.iter().map(|&axis| dims[axis].clone()).collect(),
        None => q.fresh_shape(0, rank),
    };
    let small = q.fact(0).and_then(Small::of);
    let source = |at: &[usize]| {
        let mut from = vec![0; rank];
        perm.iter().zip(at).for_each(|(&axis, &c)| from[axis] = c);
        Some(from)
    };
    let contents = small.zip(contents::sizes(&shape)).and_then(|(small, sizes)| small.pick(&sizes, source));
    Ok(vec![Fact::partial(q.dtype(0), Some(shape)).with_contents(contents)])
}

/// `[n, c, h, w]` to `[n, c / b², h * b, w * b]`.
fn depth_to_space(q: &Question<'_>) -> Answer {
    blocks(q, |dims, block| vec![dims[0].clone(), dims[1].floor_div(&(block * block)), &dims[2] * block, &dims[3] * block])
}

/// `[n, c, h, w]` to `[n, c * b², h / b, w / b]`.
fn space_to_depth(q: &Question<'_>) -> Answer {
    blocks(q, |dims, block| vec![dims[0].clone(), &dims[1] * &(block * block), dims[2].floor_div(block), dims[3].floor_div(block)])
}

fn blocks(q: &Question<'_>, shape: impl Fn(&Shape, &Dim) -> Shape) -> Answer {
    let block = Dim::known(q.int("blocksize", 1));
    let Some(dims) = q.shape(0) else {
        return Ok(vec![Fact::partial(q.dtype(0), Some(q.fresh_shape(0, 4)))]);
    };
    expect_rank("the input", dims, 4)?;
    Ok(vec![Fact::partial(q.dtype(0), Some(shape(dims, &block)))])
}
