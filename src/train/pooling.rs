//! One vector for a text, of the vectors of its tokens: as sentence-transformers' modules `Pooling` and `Normalize` make it.

use serde::{Deserialize, Serialize};

use super::losses::normalized;
use crate::adapter::config::Pooling;
use crate::adapter::new_head;
use crate::ir::Expr;

/// How token vectors become a text's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentenceVector {
    /// Which tokens it is made of.
    pub pooling: Pooling,
    /// Whether it has length 1.
    pub normalize: bool,
}

impl SentenceVector {
    /// The vector of each text, `[texts, hidden]`, of states `[texts, seq, hidden]` (or of vectors that the model pooled itself) and the mask
    /// of tokens, if the model takes one.
    #[must_use]
    pub fn write<'g>(self, states: Expr<'g>, mask: Option<Expr<'g>>) -> Expr<'g> {
        let pooled = if states.rank() == 2 { states } else { new_head::pooled(states, mask, self.pooling) };
        if self.normalize { normalized(pooled) } else { pooled }
    }
}
