//! Reverse-mode differentiation: the backward pass of a graph, written after it as ordinary ONNX operators.
//!
//! One table ([`rules()`]) says how gradient passes through each operator; one engine does what all rules have in common. It finds
//! the nodes between the values asked for and the seeds, visits them from last to first, adds up the contributions to each value,
//! sums the axes that were broadcast, casts to the type of the input, and names what it writes `grad/<node>/..`. An operator that
//! is not in the table, or a use of one that its rule does not cover, is an error; all of them are reported at once.
//!
//! A rule sees a node's inputs and outputs, never what an exporter or a fusion puts inside, so that the runtime may still fuse
//! the forward pass.
//!
//! Where an operator has a kink (`Relu` at 0, equal elements of a maximum), a rule gives the subgradient that PyTorch gives; where an
//! element is zero, a rule gives a number wherever the slope is one. `tests/it/gradcheck/edges.rs` holds both.
//!
//! # How to add a rule
//! 1. Add one line to the table in `rules.rs`, where operators of its kind stand. What is longer than the line becomes a function
//!    in the file of that kind, with the formula in its documentation.
//! 2. Add a row to the table in `tests/it/gradcheck/rows.rs`: shapes, attributes, and the numbers the operator is smooth on.
//!
//! 3. `GRADCHECK_DOCS=write cargo test --test it gradcheck` writes `docs/OPERATORS.md` again.
//!
//! The second step is checked by `every_rule_has_a_row_and_every_row_a_rule`, the third by
//! `the_operators_page_is_up_to_date`.

mod composites;
mod engine;
mod forward;
mod refusals;
mod rules;
mod scan;

pub use engine::{Gradients, gradients, missing, pull_back, vjp};
pub use forward::Forward;
pub use refusals::refusals;
pub use rules::{Rule, Vjp, rules};
