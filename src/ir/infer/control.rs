//! To come.

use super::Rule;

pub(super) static TABLE: &[(&str, Rule)] = &[];
