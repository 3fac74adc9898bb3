//! What is minimised, and the model that it is minimised in.

use super::class_terms::ClassTerms;
use super::distillation::Distillation;
use super::formula::Formula;
use super::loss_graph::LossGraph;
use super::recompute::Recompute;
use super::verbalizer::HardPrompt;
use crate::adapter::Param;
use crate::anatomy::Anatomy;
use crate::ir::Graph;

/// What is minimised.
#[derive(Clone, Debug)]
pub enum Objective {
    /// Causal language models: each position predicts the next label. Labels `[batch, seq]`, not shifted.
    NextToken(Tokens),
    /// Masked language models, token classification, decoders whose labels are in place: labels `[batch, seq]`.
    EachToken(Tokens),
    /// Classification of whole sequences or images: labels `[batch]`.
    Sequence,
    /// A formula over what the model gives.
    Formula(Formula),
    /// A loss that somebody wrote as a graph.
    Graph(LossGraph),
}

/// What goes with the cross-entropy of tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    /// Weights and smoothing.
    pub classes: ClassTerms,
    /// A teacher to learn from beside the labels.
    pub distillation: Option<Distillation>,
}

/// An adapted model that is to be trained.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    /// The base with the adapter's tensors as optional inputs.
    pub graph: &'a Graph,
    /// The base, whose names the outputs keep: a value that the adapter put another in the place of has another name in `graph`.
    pub base: &'a Graph,
    /// What was recognised in the base.
    pub anatomy: &'a Anatomy,
    /// The adapter's tensors, in the order of the trainable vector.
    pub params: &'a [Param],
    /// What is minimised.
    pub objective: &'a Objective,
    /// Positions of the logits in front of those that have labels: virtual tokens.
    pub positions_without_label: usize,
    /// Virtual tokens that the adapter puts before each row, in front of the tokens or of keys and values.
    pub virtual_tokens: usize,
    /// The words that labels stand for: labels are then numbers of these, at the word's place.
    pub hard_prompt: Option<&'a HardPrompt>,
    /// What is computed again in the backward pass.
    pub recompute: Recompute,
}

/// The name of the labels' input.
pub const LABELS: &str = "labels";
