//! Which tokens a masked language model must guess.

use super::collation::Collation;
use super::example::{Example, IGNORED, Labels};
use super::shuffle::{Use, below, generator};

/// An example with tokens hidden as BERT's authors do it (Devlin et al. 2019, section 3.1): 15 % of them become labels, of which 80 % are hidden
/// behind the mask token, 10 % behind a random one, and 10 % stay. An example that has its labels stays as it is.
///
/// `drawn` tells one reading of one row from all others, so that every epoch hides other tokens.
pub(super) fn hidden(example: &Example, collation: &Collation, seed: u64, drawn: u64) -> Example {
    let mut example = example.clone();
    let (Labels::Hidden, Some(mask)) = (&example.labels, collation.mask) else { return example };
    let mut random = generator(Use::Hiding, seed, drawn);
    let candidates: Vec<usize> =
        (0..example.input_ids.len()).filter(|at| !collation.never_hidden.contains(&example.input_ids[*at])).collect();
    let mut chosen: Vec<usize> = candidates.iter().copied().filter(|_| below(&mut random, 100) < 15).collect();
    // A short row may have had no luck, but it must have a label.
    if chosen.is_empty() && !candidates.is_empty() {
        chosen.push(candidates[below(&mut random, candidates.len())]);
    }
    let mut labels = vec![IGNORED; example.input_ids.len()];
    for at in chosen {
        labels[at] = example.input_ids[at];
        match below(&mut random, 10) {
            0 => example.input_ids[at] = i32::try_from(below(&mut random, collation.vocabulary.max(1))).unwrap_or(mask),
            1 => {}
            _ => example.input_ids[at] = mask,
        }
    }
    example.labels = Labels::Tokens(labels);
    example
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collation() -> Collation {
        Collation { mask: Some(3), vocabulary: 100, ..Collation::default() }
    }

    fn example(length: i32) -> Example {
        Example { input_ids: (0..length).map(|id| 10 + id % 80).collect(), labels: Labels::Hidden, ..Example::default() }
    }

    #[test]
    fn as_many_tokens_are_hidden_as_the_paper_says() {
        let before = example(20_000);
        let after = hidden(&before, &collation(), 1, 0);
        let Labels::Tokens(labels) = &after.labels else { panic!("labels were made") };
        let mut counts = [0_usize; 4];
        for ((old, new), label) in before.input_ids.iter().zip(&after.input_ids).zip(labels) {
            assert!(*label == IGNORED || label == old);
            counts[match (*label == IGNORED, *new == 3, new == old) {
                (true, _, is_same) => {
                    assert!(is_same);
                    0
                }
                (false, true, _) => 1,
                (false, false, false) => 2,
                (false, false, true) => 3,
            }] += 1;
        }
        // Of 20 000: 3000 +- 50 become labels, of those 2400, 300 and 300; five standard deviations.
        assert!((2750..3250).contains(&(20_000 - counts[0])), "{counts:?}");
        assert!((2150..2650).contains(&counts[1]) && (210..390).contains(&counts[2]) && (210..390).contains(&counts[3]), "{counts:?}");
    }

    #[test]
    fn what_is_hidden_depends_on_seed_and_reading_alone() {
        let row = example(200);
        assert_eq!(hidden(&row, &collation(), 1, 5), hidden(&row, &collation(), 1, 5));
        assert_ne!(hidden(&row, &collation(), 1, 5), hidden(&row, &collation(), 1, 6));
        assert_ne!(hidden(&row, &collation(), 1, 5), hidden(&row, &collation(), 2, 5));
    }

    #[test]
    fn special_tokens_are_never_hidden_and_a_short_row_has_a_label() {
        let collation = Collation { never_hidden: vec![10, 12], ..collation() };
        for drawn in 0..50 {
            let Labels::Tokens(labels) = hidden(&example(3), &collation, 0, drawn).labels else { panic!("labels were made") };
            assert_eq!(labels, [IGNORED, 11, IGNORED]);
        }
    }
}
