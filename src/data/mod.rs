//! Everything between a data file and a padded batch.
//!
//! ```text
//! file ─record→ rows ─encode→ examples ─dataset→ checked, cut, packed ─batch→ tensors by the graph's input names
//!                        ▲                                     ▲
//!                tokenizer, chat template              order: seed, epoch, position
//! ```
//! Knows how rows look and what a tokenizer's files say; knows no graph: batches have the names and types that a session's inputs ask for.

mod asked;
mod batch;
mod chat;
mod classes;
mod collation;
mod column_map;
mod columns;
mod companions;
mod dataset;
mod elements;
mod encode;
mod encoded;
mod encoder;
mod example;
mod examples;
mod extent;
mod fields;
mod fit;
mod held_out;
mod long;
mod masking;
mod meanings;
mod media;
mod media_file;
mod normalizers;
mod other_forms;
mod packing;
pub mod profile;
mod prompts;
mod reading;
mod record;
mod role_names;
mod roles;
mod rows;
mod sampler;
mod shuffle;
pub mod splits;
mod survey;
mod symbols;
mod task;
mod task_columns;
mod template;
mod tokenizer;
mod tokens;
mod weights;

pub use asked::{Asked, ask, ask_row, ask_some, each_row};
pub use batch::{Batch, Batches, Group};
pub use chat::{ChatTemplate, Conversation, Ending, Message};
pub use collation::Collation;
pub use column_map::{ColumnMap, Renamed};
pub use dataset::{Dataset, Summary};
pub use example::{Answer, Context, Example, IGNORED, Labels, Limits, Numbers, Pixels, UNLABELLED};
pub use examples::Examples;
pub use fields::Fields;
pub use held_out::{HeldOut, ValSize};
pub use media::Media;
pub use media_file::MediaFile;
pub use prompts::prompted;
pub use reading::{OtherNames, Packing, Reading};
pub use rows::{Question, Shown, with_picture_tokens};
pub use sampler::Sampler;
pub use shuffle::{Cursor, Order};
pub use survey::{Classes, Survey, classes_of};
pub use task::forms;
pub use template::hard_prompt;
pub use tokenizer::{Specials, Tokenizer};
pub use tokens::Tokens;

#[cfg(test)]
mod tests;
