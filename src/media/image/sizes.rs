//! Sizes that pictures get, as configurations write them.

use serde::Deserialize;

use crate::error::{Error, Result};

/// The size that a picture is resized to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// This height and width, whatever its shape was.
    Exact(u32, u32),
    /// This length of its shorter side.
    Shorter(u32),
    /// This length of its longer side, the other one even.
    Longer(u32),
}

/// A size, as configurations write it: one number, or named ones.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Size {
    Number(u32),
    Named { height: Option<u32>, width: Option<u32>, shortest_edge: Option<u32>, longest_edge: Option<u32> },
}

/// What a picture is resized to, and the height and width that are cut out of it then.
pub(super) type Resizing = (Option<Target>, Option<(u32, u32)>);

impl Size {
    /// A height and a width.
    pub(super) fn sides(height: u32, width: u32) -> Self {
        Self::Named { height: Some(height), width: Some(width), shortest_edge: None, longest_edge: None }
    }

    /// The length of the shorter side.
    pub(super) fn shorter(side: u32) -> Self {
        Self::Named { height: None, width: None, shortest_edge: Some(side), longest_edge: None }
    }

    /// The shorter side's length times a number, where that is what is named.
    pub(super) fn with_shorter_times(self, factor: f64) -> Self {
        match self {
            Self::Named { shortest_edge: Some(side), .. } => Self::shorter(whole(f64::from(side) * factor)),
            other => other,
        }
    }

    /// The lengths over a share of them; where they are equal, as the shorter side's.
    pub(super) fn over(self, share: f64) -> Self {
        match self {
            Self::Named { shortest_edge: Some(side), .. } => Self::shorter(quotient(side, share)),
            Self::Named { height: Some(height), width: Some(width), .. } if height == width => Self::shorter(quotient(height, share)),
            Self::Named { height: Some(height), width: Some(width), .. } => Self::sides(quotient(height, share), quotient(width, share)),
            other => other,
        }
    }

    /// The length of the longer side, where that is what is named.
    pub(super) fn longest(self) -> Option<u32> {
        if let Self::Named { longest_edge, .. } = self { longest_edge } else { None }
    }

    pub(super) fn exact(self, what: &'static str) -> Result<(u32, u32)> {
        match self {
            Self::Named { height: Some(height), width: Some(width), .. } => Ok((height, width)),
            Self::Number(side) | Self::Named { shortest_edge: Some(side), .. } => Ok((side, side)),
            Self::Named { .. } => Err(Error::mismatch(what, "a number, or height and width", "neither")),
        }
    }

    pub(super) fn target(self, crop_pct: Option<f64>, crops: bool, crop: Option<(u32, u32)>) -> Result<Resizing> {
        // ConvNeXt: small models are resized a little too large and cropped, large ones are resized as they are.
        let with_share = |side: u32, share: f64| {
            if side >= 384 {
                (Some(Target::Exact(side, side)), None)
            } else {
                (Some(Target::Shorter(quotient(side, share))), Some((side, side)))
            }
        };
        match (self, crop_pct) {
            (Self::Named { shortest_edge: Some(side), .. } | Self::Number(side), Some(share)) if share > 0.0 => Ok(with_share(side, share)),
            (Self::Named { shortest_edge: Some(side), longest_edge: None, .. }, _) => Ok((Some(Target::Shorter(side)), crop)),
            (Self::Number(side), _) if crops => Ok((Some(Target::Shorter(side)), crop)),
            (Self::Named { longest_edge: Some(_), .. }, _) => {
                Err(Error::unsupported("longest_edge", "this processor keeps pictures of many sizes, which a batch cannot hold"))
            }
            (size, _) => size.exact("size").map(|(height, width)| (Some(Target::Exact(height, width)), crop)),
        }
    }
}

impl Target {
    /// Width and height that a picture is resized to.
    pub(super) fn of(self, width: u32, height: u32) -> (u32, u32) {
        match self {
            Self::Exact(height, width) => (width, height),
            Self::Shorter(side) => {
                let (short, long) = (width.min(height).max(1), width.max(height));
                let longer = u64::from(side) * u64::from(long) / u64::from(short);
                let longer = u32::try_from(longer).unwrap_or(u32::MAX);
                if width <= height { (side, longer) } else { (longer, side) }
            }
            // transformers 4.57, `models/idefics3/image_processing_idefics3.py`, `_resize_output_size_rescale_to_max_len`.
            Self::Longer(side) => {
                let ratio = f64::from(width.max(1)) / f64::from(height.max(1));
                let shorter = if width >= height { quotient(side, ratio) } else { whole(f64::from(side) * ratio) };
                let shorter = shorter.saturating_add(shorter % 2).max(1);
                if width >= height { (side, shorter) } else { (shorter, side) }
            }
        }
    }
}

/// The longest side of a picture.
const LONGEST: u32 = 1 << 16;

/// What to do about a picture that is too large.
pub(super) const SMALLER: &str = "make it smaller first: the model sees no more than a few hundred pixels a side";

/// Refuses a size, in pixels, that has none or too many.
pub(super) fn check(what: &'static str, (width, height): (u32, u32), most: u64) -> Result<()> {
    let is_possible = [width, height].iter().all(|side| (1..=LONGEST).contains(side)) && u64::from(width) * u64::from(height) <= most;
    if is_possible {
        return Ok(());
    }
    let expected = format!("sides of 1 to {LONGEST}, and at most {most} pixels");
    Err(Error::mismatch(what, expected, format!("{width} x {height}")).with_hint(SMALLER))
}

/// The whole part of a length over a share.
fn quotient(side: u32, share: f64) -> u32 {
    whole(f64::from(side) / share)
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length of 0 or more, saturating")]
fn whole(length: f64) -> u32 {
    length as u32
}
