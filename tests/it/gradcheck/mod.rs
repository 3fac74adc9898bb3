//! Every gradient rule against finite differences, on ONNX Runtime. `GRADCHECK=Gather cargo test --test it gradcheck` checks one operator.

#![cfg(feature = "runtime")]

mod check;
mod edges;
mod guarded;
mod operators;
mod refused;
mod row;
mod rows;
mod straight;

use std::collections::BTreeSet;

use peft_onnx::grad::{Rule, rules};

#[test]
fn gradients_agree_with_finite_differences() {
    let only = std::env::var("GRADCHECK").unwrap_or_default();
    let rows = rows::rows();
    let rows = rows.iter().filter(|row| only.is_empty() || row.op == only);
    let failures: Vec<String> = rows.filter_map(|row| check::check(row).err().map(|why| format!("{row:?}\n    {why}"))).collect();
    assert!(failures.is_empty(), "{} rows fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_rule_has_a_row_and_every_row_a_rule() {
    let ruled: BTreeSet<&str> =
        rules().filter(|(_, rule)| !matches!(rule, Rule::Stop | Rule::StraightThrough(_))).map(|(op, _)| op).collect();
    let checked: BTreeSet<&str> = rows::rows().iter().map(|row| row.op).collect();
    assert_eq!(ruled.difference(&checked).collect::<Vec<_>>(), Vec::<&&str>::new(), "rules without a row in tests/it/gradcheck/rows.rs");
    assert_eq!(checked.difference(&ruled).collect::<Vec<_>>(), Vec::<&&str>::new(), "rows without a rule in src/grad/rules.rs");
}
