//! What training adds to a graph: the loss, the gradient, the optimizer; and the graphs that are made of them.

mod allocation;
pub mod cache;
pub mod cached;
pub mod class_terms;
pub mod distillation;
pub mod formula;
pub mod head;
pub mod held;
pub mod logits;
pub mod loss;
pub mod loss_graph;
pub mod losses;
pub mod objective;
pub mod optimizer;
mod order;
pub mod plan;
pub mod pooling;
pub mod precision;
pub mod prediction;
mod prepared;
mod queries;
pub mod recompute;
pub mod segments;
pub mod step;
mod token_log_probs;
pub mod verbalizer;
pub mod weights;
