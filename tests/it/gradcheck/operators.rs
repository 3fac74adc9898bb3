//! `docs/OPERATORS.md`, made from the tables of rules, rows and refusals.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use peft_onnx::decompose;
use peft_onnx::grad::{self, Rule, rules};

use super::refused::{Refused, refusals};
use super::rows;

/// Every operator of ONNX up to opset 24, the opset of its last form, and whether it makes floats from floats: by
/// `scripts/fixtures/onnx_operators.py`.
const OPERATORS: &str = include_str!("operators.txt");

struct Operator {
    name: &'static str,
    since: &'static str,
    floats: bool,
}

fn operators() -> Vec<Operator> {
    let row = |line: &'static str| {
        let [name, since, kind] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("three words in {line:?}") };
        Operator { name, since, floats: kind == "floats" }
    };
    OPERATORS.lines().map(row).collect()
}

#[test]
fn every_operator_of_floats_has_a_rule_or_a_reason() {
    let ruled: BTreeSet<&str> = rules().map(|(op, _)| op).collect();
    let refused: BTreeSet<&str> = grad::refusals().map(|(op, _)| op).collect();
    let neither: Vec<&str> =
        operators().iter().filter(|op| op.floats && !ruled.contains(op.name) && !refused.contains(op.name)).map(|op| op.name).collect();
    assert_eq!(neither, Vec::<&str>::new(), "neither a rule in src/grad/rules.rs nor a reason in src/grad/refusals.rs");
    assert_eq!(ruled.intersection(&refused).collect::<Vec<_>>(), Vec::<&&str>::new(), "both a rule and a reason not to have one");
    let known: BTreeSet<&str> = operators().iter().map(|op| op.name).collect();
    let refused: BTreeSet<&str> = refused.into_iter().filter(|op| !op.contains(':')).collect();
    assert_eq!(refused.difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new(), "no operators of ONNX");
}

#[test]
fn the_operators_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATORS.md");
    let page = page();
    if std::env::var("GRADCHECK_DOCS").is_ok_and(|word| word == "write") {
        std::fs::write(&path, &page).expect("docs can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/OPERATORS.md is stale: `GRADCHECK_DOCS=write cargo test --test it gradcheck` writes it");
}

fn page() -> String {
    let rules: BTreeMap<&str, &Rule> = rules().collect();
    let reasons: BTreeMap<&str, &str> = grad::refusals().collect();
    let mut checks: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows::rows() {
        *checks.entry(row.op).or_default() += 1;
    }
    let mut limits: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Refused { row, why } in refusals() {
        if rules.contains_key(row.op) {
            limits.entry(row.op).or_default().push(why);
        }
    }
    let mut page = String::from(HEAD);
    let (mut passed, mut straight, mut stopped, mut refused) = (0, 0, 0, 0);
    for Operator { name, since, .. } in operators().iter().filter(|op| op.floats) {
        let gradient = match (rules.get(name), reasons.get(name)) {
            (Some(Rule::Stop), _) => {
                stopped += 1;
                "none: its slope is zero, or its result no number".to_owned()
            }
            (Some(Rule::StraightThrough(_)), _) => {
                straight += 1;
                "straight through".to_owned()
            }
            (Some(_), _) => {
                passed += 1;
                let count = checks.get(name).copied().unwrap_or_default();
                format!("yes, {count} {}", if count == 1 { "check" } else { "checks" })
            }
            (None, Some(why)) => {
                refused += 1;
                format!("refused: {why}")
            }
            (None, None) => "none".to_owned(),
        };
        let limits = limits.get(name).map(|limits| limits.join("; ")).unwrap_or_default();
        writeln!(page, "| {name} | {since} | {gradient} | {limits} |").expect("a String takes everything");
    }
    write!(page, "\n{passed} pass gradients, {straight} straight through; {stopped} have none to pass; {refused} are refused.\n")
        .expect("a String takes everything");
    page.push_str(FUSED);
    for op in decompose::operators() {
        writeln!(page, "* `{}`", op.replace(':', "::")).expect("a String takes everything");
    }
    page.push_str("\nRefused with a reason of their own:\n\n");
    for (op, why) in grad::refusals().filter(|(op, _)| op.contains(':')) {
        writeln!(page, "* `{}`: {why}", op.replace(':', "::")).expect("a String takes everything");
    }
    page.push_str(OTHERS);
    let others: Vec<String> = operators().iter().filter(|op| !op.floats).map(|op| format!("`{}`", op.name)).collect();
    page.push_str(&others.join(", "));
    page.push_str(".\n");
    page
}

const HEAD: &str = "# Operators

<!-- Made from the tables of rules, checks and refusals: `GRADCHECK_DOCS=write cargo test --test it gradcheck` -->

How gradient passes through the operators of ONNX (`ai.onnx` up to opset 24) that make floats from floats. A check is a row of
`tests/it/gradcheck/rows.rs`: gradients against differences, on ONNX Runtime. `peft-onnx inspect MODEL --ops` says it for the operators of a
model. *Straight through* is the straight-through estimator: rounding has the slope of what it rounds. A node without a gradient matters
only between an adapter and the loss; what stands before the first adapter may be anything.

| operator | since opset | gradient | but not |
|---|---|---|---|
";

const FUSED: &str = "
## Fused and quantised operators

These are decomposed into the operators above where gradient has to pass (`tests/it/decompose.rs` compares each with ONNX Runtime's kernel); the
inference graph and the merged model keep them where the adapter allows. Others of `com.microsoft` have no rule.

";

const OTHERS: &str = "
## Operators that make no floats from floats

Truth values, whole numbers, strings and random numbers; gradient neither reaches nor leaves them:
";
