//! Short rows put into long ones, so that little is filled up.

use std::collections::BTreeSet;

use super::example::{Example, IGNORED, Labels};
use super::examples::{Examples, Packer};
use super::reading::{Packing, Reading};
use super::tokenizer::Tokenizer;
use crate::adapter::config::Task;
use crate::error::{Error, Place, Result};

/// Rows put together, in the way that was asked for.
///
/// # Errors
/// A task whose rows cannot follow one another; no length to put rows together up to; rows with columns of their own.
pub(super) fn packed(examples: &Examples, reading: &Reading<'_>) -> Result<Examples> {
    match reading.packing {
        Packing::Off => Ok(examples.clone()),
        Packing::Concatenate => wrapped(examples, length(examples, reading)?, reading),
        Packing::Whole => whole(examples, length(examples, reading)?),
    }
}

/// How long rows become.
fn length(examples: &Examples, reading: &Reading<'_>) -> Result<usize> {
    if reading.task != Task::CausalLm {
        return Err(Error::unsupported(
            format!("packing for {}", reading.task.name()),
            "only rows of a causal language model can follow one another",
        ));
    }
    let Some(length) = reading.max_length.or(reading.limits.positions).filter(|length| *length > 1) else {
        return Err(Error::invalid("packing needs a length").with_hint("give `max_length`, the tokens of a block"));
    };
    if let Some(positions) = reading.limits.positions.filter(|positions| *positions < length) {
        return Err(Error::mismatch("the length of a block", format!("at most {positions}, the model's positions"), length));
    }
    if examples.iter().any(|example| example.media.is_some()) {
        return Err(Error::unsupported("packing of rows with pictures", "rows are joined of tokens and labels alone"));
    }
    if let Some(example) = examples.iter().find(|example| !example.weighs_one()) {
        let error = Error::unsupported("packing of rows with weights", "rows are joined of tokens and labels alone");
        return Err(error.at(Place::Line(example.line)).with_hint("leave packing out, or the column `weight`"));
    }
    if let Some(name) = examples.iter().find_map(|example| example.columns.keys().next().cloned()) {
        return Err(Error::unsupported(format!("packing with the column {name}"), "rows are joined of tokens and labels alone"));
    }
    Ok(length)
}

/// The tokens of a row that are attended to, with their labels.
fn tokens(example: &Example) -> Vec<(i32, i32)> {
    let Labels::Tokens(labels) = &example.labels else { return vec![] };
    let is_kept = |position: usize| example.attention_mask.get(position).is_none_or(|mask| *mask != 0);
    let pairs = example.input_ids.iter().zip(labels).enumerate();
    pairs.filter(|(position, _)| is_kept(*position)).map(|(_, (id, label))| (*id, *label)).collect()
}

/// Whole rows, each a segment of its block: the longest first, each into the block with the least room that has enough for it (best fit
/// decreasing, TRL's `packing_strategy="bfd"`). Blocks stand in the order of their first rows.
///
/// Nothing is learnt of a segment's first token: nothing stands before it.
fn whole(examples: &Examples, length: usize) -> Result<Examples> {
    let lengths: Vec<usize> = examples.iter().map(|example| tokens(&example).len()).collect();
    let mut order: Vec<usize> = (0..lengths.len()).filter(|&row| lengths[row] > 0).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let (mut blocks, mut room): (Vec<Vec<usize>>, BTreeSet<(usize, usize)>) = (vec![], BTreeSet::new());
    for row in order {
        let needed = lengths[row];
        let (free, block) = room.range((needed, 0)..).next().copied().unwrap_or_else(|| {
            blocks.push(vec![]);
            (length.max(needed), blocks.len() - 1)
        });
        room.remove(&(free, block));
        room.insert((free - needed, block));
        blocks[block].push(row);
    }
    for block in &mut blocks {
        block.sort_unstable();
    }
    blocks.sort_unstable();
    let mut packer = Packer::default();
    blocks.iter().try_for_each(|block| packer.push(joined(block, examples)))?;
    packer.finish()
}

fn joined(block: &[usize], examples: &Examples) -> Example {
    let mut whole = Example { line: block.first().map_or(0, |&row| examples.get(row).line), ..Example::default() };
    let mut labels = vec![];
    for (number, &row) in (0_i32..).zip(block) {
        for (at, (id, label)) in tokens(&examples.get(row)).into_iter().enumerate() {
            whole.input_ids.push(id);
            whole.segments.push(number);
            labels.push(if at == 0 { IGNORED } else { label });
        }
    }
    whole.labels = Labels::Tokens(labels);
    whole
}

/// All rows in one stream with an end token between, cut into blocks.
fn wrapped(examples: &Examples, length: usize, reading: &Reading<'_>) -> Result<Examples> {
    let end = reading.tokenizer.and_then(Tokenizer::eos);
    let mut packer = Packer::default();
    let mut block: Option<Example> = None;
    for example in examples.iter() {
        let end = end.filter(|end| example.input_ids.last() != Some(end)).map(|end| (end, end));
        for (id, label) in tokens(&example).into_iter().chain(end) {
            if let Some(full) = block.take_if(|block| block.input_ids.len() == length) {
                packer.push(full)?;
            }
            let block = block.get_or_insert_with(|| Example { line: example.line, ..Example::default() });
            block.input_ids.push(id);
            if let Labels::Tokens(labels) = &mut block.labels {
                labels.push(label);
            }
        }
    }
    block.map_or(Ok(()), |last| packer.push(last))?;
    packer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: usize, ids: &[i32]) -> Example {
        Example { line, input_ids: ids.to_vec(), labels: Labels::Tokens(ids.to_vec()), ..Example::default() }
    }

    #[test]
    fn whole_rows_fill_blocks_with_little_left() {
        let rows = [row(1, &[1, 2, 3]), row(2, &[4]), row(3, &[5, 6, 7, 8, 9]), row(4, &[10, 11]), row(5, &[12, 13])];
        let blocks = whole(&Examples::from(rows.to_vec()), 6).expect("memory takes it");
        let lines: Vec<(usize, usize)> = blocks.iter().map(|block| (block.line, block.input_ids.len())).collect();
        assert_eq!(lines, [(1, 5), (2, 6), (5, 2)]);
        assert_eq!(blocks.get(0).input_ids, [1, 2, 3, 10, 11]);
        assert_eq!(blocks.get(0).segments, [0, 0, 0, 1, 1]);
        assert_eq!(blocks.get(0).labels, Labels::Tokens(vec![IGNORED, 2, 3, IGNORED, 11]));
    }

    #[test]
    fn what_a_row_does_not_attend_to_is_left_out() {
        let masked = Example { attention_mask: vec![1, 1, 0], ..row(1, &[1, 2, 3]) };
        assert_eq!(whole(&Examples::from(vec![masked]), 8).expect("memory takes it").get(0).input_ids, [1, 2]);
    }
}
