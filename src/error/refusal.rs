//! Why one node is refused, said by rules that do not know which node they are asked about.

use std::borrow::Cow;
use std::fmt;

use super::{Error, ErrorKind, Place};

/// Why a node, or a form of one, cannot be taken: what inference, raising, decomposing and differentiating answer alike.
///
/// A rule says why; whoever walks the graph adds the node. As an [`Error`] it is [`ErrorKind::Refused`] at the node's place, to which files and
/// hints are added on the way up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The node, once it was said which.
    pub node: Option<Refused>,
    /// What stands in the way.
    pub why: Cow<'static, str>,
}

/// The node that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The operator, with its domain in front unless that is ONNX's own.
    pub op: String,
    /// The node's name, or its first output's where it has none.
    pub name: String,
}

impl Refusal {
    /// A refusal of a node that is not named yet.
    pub fn new(why: impl Into<Cow<'static, str>>) -> Self {
        Self { node: None, why: why.into() }
    }

    /// Says which node is refused; what was said first stays.
    #[must_use]
    pub fn of(mut self, op: impl Into<String>, name: impl Into<String>) -> Self {
        self.node.get_or_insert_with(|| Refused { op: op.into(), name: name.into() });
        self
    }
}

impl<T: Into<Cow<'static, str>>> From<T> for Refusal {
    fn from(why: T) -> Self {
        Self::new(why)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{} ({}): {}", node.op, node.name, self.why),
            None => f.write_str(&self.why),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal.node {
            Some(node) => Self::from(ErrorKind::Refused { op: node.op, why: refusal.why }).at(Place::Node(node.name)),
            None => ErrorKind::Invalid(refusal.why.into_owned()).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_then_which_node_and_becomes_an_error_at_that_place() {
        let refusal = Refusal::from("the lengths 3 and 4 do not go together");
        assert_eq!(refusal.to_string(), "the lengths 3 and 4 do not go together");
        let named = refusal.of("MatMul", "/q_proj/MatMul").of("Scan", "/loop");
        assert_eq!(named.to_string(), "MatMul (/q_proj/MatMul): the lengths 3 and 4 do not go together");
        let error = Error::from(named).in_file("model.onnx").with_hint("export it again");
        assert_eq!(error.to_string(), "model.onnx: node /q_proj/MatMul: MatMul: the lengths 3 and 4 do not go together");
        assert_eq!(error.hint(), Some("export it again"));
    }
}
