//! ONNX files in and out. Only this module knows protobuf.

mod attribute;
mod external;
mod forms;
mod inline;
mod lent;
mod map;
mod older;
mod order;
mod proto;
mod raise;
mod read;
mod runnable;
mod storage;
mod tensor;
mod together;
mod types;
#[cfg(test)]
mod wire;
mod words;
mod write;

pub use inline::inline_functions;
pub use lent::Lent;
pub use raise::raise;
pub use read::{read, read_bytes, read_lent};
pub use runnable::Runnable;
pub use storage::{Storage, has_external};
pub use words::{metadata, producer, with_metadata};
pub use write::{Sharing, WriteOptions, to_bytes, write};
