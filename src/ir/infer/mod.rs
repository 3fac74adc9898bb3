//! What each operator makes of types, shapes and small contents: one table, used for nodes that are read and for nodes that are written.
//!
//! A rule follows the operator's page in the ONNX specification (or ONNX Runtime's contrib operators for `com.microsoft`). It must
//! never claim what may be false: what it cannot tell is unknown, or a length with a fresh name. Lengths that have a name are taken to
//! be at least 1 where an operator gives 0 a meaning of its own (`Reshape`'s copied length, broadcasting of empty tensors).

#![expect(clippy::unnecessary_wraps, reason = "all rules have one signature, those that find nothing to refuse too")]

mod classic;
mod contents;
mod contrib;
mod control;
mod create;
mod elementwise;
mod index;
mod layout;
mod linear;
mod neural;
mod numbers;
mod pieces;
mod quantized;
mod question;
mod recurrent;
mod reduce;
mod shape;
#[cfg(test)]
mod testing;
mod window;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::error::Refusal;
use indexmap::IndexMap;

use super::fact::Fact;
use super::graph::attr::Attr;
use super::tensor::Tensor;

/// A node whose outputs' facts are asked for.
pub struct Question<'a> {
    /// The operator, with its domain in front.
    pub op: &'a str,
    /// The version of the operator's domain: some operators changed their form.
    pub opset: i64,
    /// Fact of each input, and its data where it is a constant; `None` for inputs left out.
    pub inputs: Vec<Option<(&'a Fact, Option<&'a Tensor>)>>,
    /// Facts of the values that bodies read.
    pub captured: Vec<&'a Fact>,
    /// Attributes.
    pub attrs: &'a IndexMap<Arc<str>, Attr>,
    /// The number of outputs, left-out ones included.
    pub outputs: usize,
    /// A name no other node has: lengths that nothing is known of are named after it.
    pub symbol: &'a str,
}

/// The outputs' facts, or what is wrong with the node.
type Answer = Result<Vec<Fact>, Refusal>;

/// What an operator makes of its inputs.
type Rule = fn(&Question<'_>) -> Answer;

/// Every rule, by the part of the specification it is about.
static TABLES: &[&[(&str, Rule)]] = &[
    classic::TABLE,
    contrib::TABLE,
    control::TABLE,
    create::TABLE,
    elementwise::TABLE,
    index::TABLE,
    layout::TABLE,
    linear::TABLE,
    neural::TABLE,
    pieces::TABLE,
    quantized::TABLE,
    recurrent::TABLE,
    reduce::TABLE,
    shape::TABLE,
    window::TABLE,
];

static RULES: LazyLock<HashMap<&str, Rule>> = LazyLock::new(|| TABLES.iter().copied().flatten().copied().collect());

/// The facts of a node's outputs; fewer than it has where nothing is known of the last ones.
///
/// # Errors
/// What is wrong with the node, in words: inputs that can never go together, an axis that is not there.
pub fn infer(question: &Question<'_>) -> Result<Vec<Fact>, Refusal> {
    let name = question.op.strip_prefix("ai.onnx:").unwrap_or(question.op);
    RULES.get(name).map_or(Ok(vec![]), |rule| rule(question))
}

/// Whether anything is known of an operator, with its domain in front.
#[must_use]
pub fn is_known(op: &str) -> bool {
    RULES.contains_key(op.strip_prefix("ai.onnx:").unwrap_or(op))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_operator_has_two_rules() {
        let mut seen = HashSet::new();
        let twice: Vec<&str> = TABLES.iter().copied().flatten().map(|(op, _)| *op).filter(|op| !seen.insert(*op)).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}
