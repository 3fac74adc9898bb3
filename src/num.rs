//! Numbers of one type as numbers of another: never a wrong one.
//!
//! A count of things in memory fits into 63 bits, so [`int`] and [`wide`] lose nothing. What comes from a file or from a user may be negative
//! or larger than memory: [`size`] and [`index`] are told apart from it.

use crate::error::{Error, Result};

/// A count of things in memory as one of ONNX's whole numbers.
#[must_use]
pub fn int(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A count of things in memory as a number of 64 bits.
#[must_use]
pub fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A count as the nearest number of type float64.
#[must_use]
pub fn float(count: usize) -> f64 {
    float_of(wide(count))
}

/// A number of 64 bits as the nearest number of type float64.
#[must_use]
pub fn float_of(number: u64) -> f64 {
    let half = |bits: u64| f64::from(u32::try_from(bits & 0xFFFF_FFFF).unwrap_or(u32::MAX));
    half(number >> 32) * 4_294_967_296.0 + half(number)
}

/// The nearest number of type float32.
#[must_use]
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "the nearest such number is meant")]
pub fn single(number: f64) -> f32 {
    number as f32
}

/// The largest count that is not above a number; 0 for one below 0, or that is none.
#[must_use]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is no count becomes the nearest one"
)]
pub fn floor(value: f64) -> usize {
    value.floor() as usize
}

/// One of ONNX's whole numbers as a number of elements in memory; `what` names it.
///
/// # Errors
/// If it is negative, or more than memory can have.
pub fn size(what: &'static str, number: i64) -> Result<usize> {
    usize::try_from(number).map_err(|_| Error::mismatch(what, "a number of elements", number))
}

/// A place in a list; one that no list has if it is negative, so that nothing is found there.
#[must_use]
pub fn index(place: i64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// The axis that a number names among `rank` axes, from the last one if it is negative; none that is not there.
#[must_use]
pub fn axis(axis: i64, rank: usize) -> Option<usize> {
    let from_first = if axis < 0 { axis.checked_add(int(rank))? } else { axis };
    usize::try_from(from_first).ok().filter(|&at| at < rank)
}

/// Whether float32 makes something else of a number than a number near it: 0 of one that is none, or infinity.
#[must_use]
pub fn is_lost_in_float32(value: f64) -> bool {
    let rounded = single(value);
    !rounded.is_finite() || (value != 0.0 && rounded == 0.0)
}

/// Checks that float32 has a number near one that is asked for: it makes infinity of a large one, and 0 of a small one. `wrong` makes the error
/// of what is expected and what is found.
///
/// # Errors
/// One that float32 does not have.
pub fn in_float32(value: f64, wrong: impl FnOnce(&'static str, String) -> Error) -> Result<()> {
    if !is_lost_in_float32(value) {
        return Ok(());
    }
    let error = wrong("a number of float32's range", format!("{value:e}, which rounds to {}", single(value)));
    Err(error.with_hint("the graph computes in float32: the smallest number above 0 is 1.4e-45, the largest 3.4e38"))
}

/// The same of a share, of which a part must be left: float32 makes 1 of one just below it.
///
/// # Errors
/// One that float32 does not have.
pub fn share_in_float32(value: f64, wrong: impl FnOnce(&'static str, String) -> Error) -> Result<()> {
    if value < 1.0 && single(value) >= 1.0 {
        let error = wrong("a number of float32's range", format!("{value}, which rounds to 1"));
        return Err(error.with_hint("the graph computes in float32: the largest number below 1 is 0.99999994"));
    }
    in_float32(value, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_become_the_nearest_float() {
        for (number, expected) in [(0, 0.0), (3, 3.0), (1 << 32, 4_294_967_296.0), (u64::MAX, 18_446_744_073_709_551_616.0)] {
            assert_eq!(float_of(number).to_bits(), f64::to_bits(expected), "{number}");
        }
    }

    #[test]
    fn an_axis_may_be_counted_from_the_last() {
        let found = [(0, 2), (1, 2), (-1, 2), (-2, 2), (2, 2), (-3, 2), (0, 0), (i64::MIN, 3)].map(|(at, rank)| axis(at, rank));
        assert_eq!(found, [Some(0), Some(1), Some(1), Some(0), None, None, None, None]);
    }

    #[test]
    fn a_number_that_float32_does_not_have_is_told_from_one_that_it_rounds() {
        type Check = fn(f64, fn(&'static str, String) -> Error) -> Result<()>;
        let checks: [(Check, &[f64], &[f64]); 2] = [
            (in_float32, &[0.0, -0.0, 1e-45, 3.4e38, -2.5, 0.999_999_999_999], &[1e-46, -1e-300, 1e39, -1e300, f64::NAN, f64::INFINITY]),
            (share_in_float32, &[0.0, 0.1, 0.999_999_9, 1.0], &[1e-300, 0.999_999_99, 0.999_999_999_999]),
        ];
        for (check, fine, lost) in checks {
            let wrong: fn(&'static str, String) -> Error = |expected, found| Error::mismatch("it", expected, found);
            assert!(fine.iter().all(|value| check(*value, wrong).is_ok()), "{fine:?}");
            assert!(
                lost.iter().all(|value| check(*value, wrong).is_err_and(|error| error.to_string().contains("which rounds to"))),
                "{lost:?}"
            );
        }
    }

    #[test]
    fn a_negative_number_is_no_size_and_no_place() {
        assert_eq!(size("rows", 3).ok(), Some(3));
        let error = size("rows", -1).expect_err("negative");
        assert_eq!(error.to_string(), "rows: expected a number of elements, found -1");
        assert_eq!([1, 2, 3].get(index(-1)), None);
    }
}
