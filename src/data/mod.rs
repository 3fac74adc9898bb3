//! Everything between a data file and a padded batch.
//!
//! ```text
//! file ─record→ rows ─encode→ examples ─dataset→ checked, cut, packed ─batch→ tensors by the graph's input names
//!                        ▲                                     ▲
//!                tokenizer, chat template              order: seed, epoch, position
//! ```
//! Knows how rows look and what a tokenizer's files say; knows no graph: batches have the names and types that a session's inputs ask for.

mod batch;
mod chat;
mod classes;
mod columns;
mod dataset;
mod encode;
mod example;
mod long;
mod masking;
mod media;
mod record;
mod roles;
mod rows;
mod shuffle;
mod task;
mod template;
mod tokenizer;
mod wall;

pub use batch::{Batch, Batches, Filling};
pub use chat::{ChatTemplate, Conversation, Ending, Message};
pub use classes::OtherNames;
pub use dataset::{Dataset, Packing, Reading, Summary};
pub use example::{Context, Example, IGNORED, Labels, Limits, Numbers, Pixels};
pub use media::Media;
pub use roles::{ColumnMap, Renamed};
pub use shuffle::{Cursor, Order};
pub use task::forms;
pub use template::hard_prompt;
pub use tokenizer::{Specials, Tokenizer, Tokens};

#[cfg(test)]
mod tests;
