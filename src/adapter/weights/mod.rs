//! The base's weights: read as matrices, taken apart, changed, and put back as they are stored.

pub(crate) mod dequantised_rows;
pub(crate) mod fold;
pub mod linalg;
pub mod replace;
mod requantise;
