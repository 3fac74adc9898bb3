//! ONNX files in and out. Only this module knows protobuf.

mod attribute;
mod external;
mod map;
mod order;
mod proto;
mod read;
mod storage;
mod tensor;
mod types;
mod write;

pub use read::read;
pub use storage::Storage;
pub use write::{WriteOptions, write};
