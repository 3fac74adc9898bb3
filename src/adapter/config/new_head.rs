//! A new prediction head on a body.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A head that is put on a body in place of what it had: linear layers with rectifiers between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHead {
    /// Widths of the hidden layers, from the body's end on.
    pub layers: Vec<usize>,
    /// The number of classes.
    pub labels: usize,
    /// How the positions of a text become one vector; `None`: as goes with the body.
    pub pooling: Option<Pooling>,
    /// The modules of its linear layers; `None`: as goes with the body.
    pub modules: Option<HeadModules>,
}

/// The modules of a head's linear layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadModules {
    /// Their paths, one for each layer: `classifier`.
    pub names: Vec<String>,
    /// Whether they add a bias.
    pub bias: bool,
}

impl HeadModules {
    /// `classifier.0`, `classifier.2`, .. as in `torch.nn.Sequential(Linear, ReLU, Linear, ..)`; `classifier` for one layer alone.
    #[must_use]
    pub fn usual(hidden_layers: usize) -> Self {
        let numbered = (0..=hidden_layers).map(|at| format!("classifier.{}", 2 * at));
        Self { names: if hidden_layers == 0 { vec!["classifier".to_owned()] } else { numbered.collect() }, bias: true }
    }

    /// `score`, as Hugging Face calls the layer on a decoder; where it sees one vector of a text, it has no bias.
    #[must_use]
    pub fn score(bias: bool) -> Self {
        Self { names: vec!["score".to_owned()], bias }
    }

    /// Whether a path is that of one of the modules.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.names.iter().any(|name| name == path)
    }
}

/// How the hidden states of a text's positions become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The first position's.
    #[serde(rename = "cls")]
    First,
    /// The mean over the tokens of the attention mask.
    Mean,
    /// That of the last token of the attention mask.
    Last,
    /// Not at all: the body gives one vector for a text, or each position gets its own class.
    #[serde(rename = "none")]
    Nothing,
}

/// Ways of pooling by the names that the command line and files use.
const POOLINGS: &[(Pooling, &str)] =
    &[(Pooling::First, "cls"), (Pooling::Mean, "mean"), (Pooling::Last, "last"), (Pooling::Nothing, "none")];

impl Pooling {
    /// The name: `mean`.
    #[must_use]
    pub fn name(self) -> &'static str {
        POOLINGS.iter().find(|(pooling, _)| *pooling == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pooling {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = POOLINGS.iter().find(|(_, known)| *known == name).map(|(pooling, _)| *pooling);
        known.ok_or_else(|| Error::mismatch("pooling", "cls, mean, last or none", name))
    }
}

impl NewHead {
    /// Checks that the numbers make sense.
    ///
    /// # Errors
    /// Fewer than two classes, between which there would be nothing to learn, or more than any model has; a layer without width, or without a module.
    pub fn check(&self) -> Result<()> {
        super::at_least_one("num_labels", self.labels)?;
        if let Some(modules) = self.modules.as_ref().filter(|modules| modules.names.len() != self.layers.len() + 1) {
            return Err(Error::mismatch("number of a head's modules", self.layers.len() + 1, modules.names.len()));
        }
        self.layers.iter().try_for_each(|&width| super::at_least_one("width of a head's layer", width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (pooling, name) in POOLINGS {
            assert_eq!((name.parse::<Pooling>().expect("a name from the table"), pooling.to_string().as_str()), (*pooling, *name));
        }
        assert!("max".parse::<Pooling>().is_err());
    }
}
