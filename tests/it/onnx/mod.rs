//! ONNX files: what is read, what is refused, what is written, and that nothing is lost in between.

mod external;
mod functions;
mod fuzz;
mod make;
mod raise;
mod read;
mod write;
