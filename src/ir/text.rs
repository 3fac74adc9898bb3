//! Graphs as ONNX text.
