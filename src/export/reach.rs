//! Whether the numbers that a graph gives are the logits that a loss takes them for.

use crate::adapter::config::Task;
use crate::anatomy::{self, Anatomy, Bounds, Ending, Head, Probabilities, Reads, Squash};
use crate::ir::Graph;
use crate::train::plan::LossPlan;
use crate::{Error, Result};

/// Checks that a loss of logits finds some: numbers that are bounded closely are none, whatever the model learns, and what a softmax gives are no truths each for itself.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) with what the numbers are.
pub(super) fn check(plan: &LossPlan, task: Task, graph: &Graph, anatomy: &Anatomy) -> Result<()> {
    let Some(head) = anatomy.head.as_ref().filter(|_| plan.is_of_probabilities() && task.row().reads != Reads::Embeddings) else {
        return Ok(());
    };
    let name = graph.value_name(head.output);
    let why = match &head.ending {
        Ending::Probabilities(made) => no_logits(plan, made),
        Ending::Scores | Ending::Vector(_) => too_close(plan, task, head, anatomy::bounds(graph, head.logits)),
    };
    let Some(why) = why else { return Ok(()) };
    let numbers = match task {
        Task::Rerank => "; with `loss mse` the numbers themselves are learnt",
        _ if task.scores_rows() => "; with `task regression` the numbers themselves are learnt",
        _ => "",
    };
    let hint = format!("export the model so that it gives its logits{numbers}; `loss_graph FILE` brings any other loss");
    Err(Error::unsupported(format!("the loss {} of {name}", plan.name), why).with_hint(hint))
}

/// Why there are no logits for a loss behind probabilities.
fn no_logits(plan: &LossPlan, made: &Probabilities) -> Option<String> {
    let node = &made.node;
    match made.squash {
        Squash::Softmax if plan.name == "bce" => {
            Some(format!("they are probabilities of a softmax ({node}), of which one is right, and the loss is of truths each for itself"))
        }
        Squash::Mixed | Squash::Bounded => Some(format!("its numbers are made by {node}, and there are no logits behind them")),
        Squash::Softmax | Squash::SoftmaxElsewhere | Squash::Sigmoid => None,
    }
}

/// Why numbers within bounds are no logits.
fn too_close(plan: &LossPlan, task: Task, head: &Head, bounds: Bounds) -> Option<String> {
    let shown = |number: f64| (number * 1e3).round() / 1e3;
    let range = || format!("its numbers lie from {} to {}", shown(bounds.low), shown(bounds.high));
    match (task.row().reads, plan.name.as_str()) {
        (Reads::Logits, "bce") if !bounds.may_be_logits_of_truths() => {
            let Bounds { low, high } = bounds.sigmoids();
            Some(format!("{}, and their sigmoids from {low:.3} to {high:.3}, however sure the model is: they are no logits", range()))
        }
        (Reads::Logits, "cross-entropy" | "focal")
        | (Reads::Vocabulary | Reads::TokenLogits | Reads::Frames | Reads::TokenLogProbs | Reads::Spans, _) => {
            let classes = f64::from(head.classes.and_then(|classes| i32::try_from(classes).ok()).unwrap_or(2).max(2));
            let most = bounds.surest_of(classes);
            (!bounds.may_be_logits_of(classes)).then(|| {
                format!(
                    "{}, and a softmax of them gives no class more than {most:.3}, however sure the model is: they are no logits",
                    range()
                )
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::*;
    use crate::ir::{Builder, DType, Dim, Expr, ModelInfo, Tensor};

    type Write = for<'g> fn(&'g Builder, Expr<'g>) -> Expr<'g>;

    fn op<'g>(b: &'g Builder, op: &str, x: Expr<'g>) -> Expr<'g> {
        b.op(op, &[x], &[])
    }

    fn clip<'g>(b: &'g Builder, x: Expr<'g>, least: f64, most: f64) -> Expr<'g> {
        b.op("Clip", &[x, b.number(least, DType::F32), b.number(most, DType::F32)], &[])
    }

    fn matrix<'g>(b: &'g Builder, name: &str, rows: usize, columns: usize) -> Expr<'g> {
        let numbers: Vec<f32> = (0..rows * columns).map(|at| f32::from(u8::try_from(at % 7).expect("small")) - 3.0).collect();
        b.initializer(name, Tensor::from_f32(&[rows, columns], &numbers))
    }

    /// What is said against a loss of a classifier whose scores end so.
    fn said(write: Write, classes: usize, task: Task, loss: &str) -> Option<String> {
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let states = matrix(&b, "embed.weight", 40, 4).gather(ids, 0);
        let features = if task == Task::TokenCls { states } else { states.mean(&[1]).squeeze(&[1]) };
        b.output("logits", write(&b, features.matmul(matrix(&b, "classifier.weight", 4, classes))));
        let graph = b.finish().expect("a valid graph");
        let plan = LossPlan { name: loss.to_owned(), ..LossPlan::default() };
        let checked = check(&plan, task, &graph, &anatomy::read(&graph));
        checked.err().map(|error| format!("{error} {}", error.hint().unwrap_or_default()))
    }

    #[test]
    fn numbers_within_close_bounds_are_no_logits_and_what_is_capped_far_away_is() {
        // What stands behind the scores, and whether they are logits of three classes and of truths.
        let rows: &[(&str, Write, bool, bool)] = &[
            ("scores", |_, x| x, true, true),
            ("a hyperbolic tangent", |_, x| x.tanh(), false, false),
            ("a clip", |b, x| clip(b, x, -1.0, 1.0), false, false),
            ("a softsign", |b, x| op(b, "Softsign", x), false, false),
            ("an arc tangent", |b, x| op(b, "Atan", x), false, false),
            ("five sigmoids", |_, x| x.sigmoid() * 5.0, false, false),
            ("from -2 to 2", |b, x| op(b, "Sin", x) * 2.0, false, false),
            ("a cosine of angles", |b, x| op(b, "Cos", x * PI), false, false),
            ("a cap", |_, x| (x / 30.0).tanh() * 30.0, true, true),
            ("a cap by sigmoids", |_, x| (x / 7.5).sigmoid() * 30.0, true, false),
            ("wide bounds", |b, x| clip(b, x, -50.0, 50.0), true, true),
            ("nothing below 0", |b, x| op(b, "Relu", x), true, false),
            ("distances", |_, x| -(x * x), true, false),
            ("a scale of tangents", |_, x| x.tanh() * 10.0, true, true),
        ];
        for (what, write, of_classes, of_truths) in rows {
            for (task, loss, fits) in [
                (Task::SeqCls, "cross-entropy", of_classes),
                (Task::SeqCls, "focal", of_classes),
                (Task::TokenCls, "cross-entropy", of_classes),
                (Task::MultiLabel, "bce", of_truths),
            ] {
                let said = said(*write, 3, task, loss);
                assert_eq!(said.is_none(), *fits, "{what}, {task}: {said:?}");
                let has_all = |said: &str| ["gives its logits", "loss_graph FILE"].iter().all(|words| said.contains(words));
                assert!(said.is_none_or(|said| has_all(&said)), "{what}, {task}");
            }
            assert_eq!(said(*write, 3, Task::Regression, "mse"), None, "{what}");
            assert_eq!(said(*write, 1, Task::Rerank, "mse"), None, "{what}");
            assert_eq!(said(*write, 1, Task::Rerank, "bce").is_none(), *of_truths, "{what}");
        }
    }

    /// A softmax's numbers were taken for truths by what stands before it, which the model never gives.
    #[test]
    fn a_softmax_gives_no_truths_each_for_itself() {
        let said = |loss, task| said(|_, x| x.softmax(-1), 3, task, loss);
        assert!(said("bce", Task::MultiLabel).is_some_and(|said| said.contains("of which one is right")));
        assert_eq!((said("cross-entropy", Task::SeqCls), said("mse", Task::Regression)), (None, None));
    }
}
