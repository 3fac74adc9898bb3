//! Operators with bodies. A body's facts were inferred when it was written.

use std::collections::HashSet;

use super::super::dim::Dim;
use super::super::dtype::DType;
use super::super::fact::{Fact, Shape};
use super::super::graph::Graph;
use super::{Answer, Question, Rule};
use crate::ir::graph::attr::Attr;

pub(super) static TABLE: &[(&str, Rule)] =
    &[("If", if_), ("Loop", loop_), ("OptionalHasElement", truth), ("Scan", scan), ("SequenceLength", count)];

fn truth(_: &Question<'_>) -> Answer {
    Ok(vec![Fact::new(DType::Bool, vec![])])
}

fn count(_: &Question<'_>) -> Answer {
    Ok(vec![Fact::new(DType::I64, vec![])])
}

fn body<'a>(q: &'a Question<'_>, name: &str) -> Option<&'a Graph> {
    match q.attrs.get(name)? {
        Attr::Graph(body) => Some(body),
        _ => None,
    }
}

fn outputs(body: &Graph) -> Vec<&Fact> {
    body.outputs().iter().map(|&id| body.fact(id)).collect()
}

/// What both branches agree on; the branch that is taken where the condition is known.
fn if_(q: &Question<'_>) -> Answer {
    let (Some(then), Some(other)) = (body(q, "then_branch"), body(q, "else_branch")) else { return Ok(vec![]) };
    let (then, other) = (outputs(then), outputs(other));
    if then.len() != other.len() {
        return Err(format!("outputs of the branches: expected as many of both, found {} and {}", then.len(), other.len()).into());
    }
    let outer = q.captured.iter().flat_map(|fact| fact.shape.iter().chain(&fact.contents).flatten());
    let outer: HashSet<String> = outer.flat_map(Dim::names).collect();
    let leave = |facts: Vec<&Fact>| facts.into_iter().map(|fact| leaving(q, &outer, fact)).collect::<Vec<_>>();
    let (then, other) = (leave(then), leave(other));
    match q.element(0).and_then(Dim::as_known) {
        Some(0) => Ok(other),
        Some(_) => Ok(then),
        None => Ok(then.iter().zip(&other).enumerate().map(|(i, (a, b))| common(q, i, a, b)).collect()),
    }
}

/// A fact of a body's output for the graph around it: lengths that the body named get names that are unique there too.
/// `outer` are the names of lengths there.
fn leaving(q: &Question<'_>, outer: &HashSet<String>, fact: &Fact) -> Fact {
    let renamed = |dim: &Dim| {
        dim.substitute(|name| {
            let own = name.starts_with('?') && !outer.contains(name);
            own.then(|| {
                let unique = format!("?{}{name}", q.symbol);
                // Elements have their index in brackets and may be negative.
                if name.contains('[') { Dim::number(&unique) } else { Dim::symbol(&unique) }
            })
        })
    };
    let all = |dims: &Vec<Dim>| dims.iter().map(renamed).collect();
    Fact { dtype: fact.dtype, shape: fact.shape.as_ref().map(all), contents: fact.contents.as_ref().map(all) }
}

/// What two facts agree on.
fn common(q: &Question<'_>, output: usize, a: &Fact, b: &Fact) -> Fact {
    let shape = match (&a.shape, &b.shape) {
        (Some(a), Some(b)) if a.len() == b.len() => {
            let agreed = |(axis, (a, b)): (usize, (&Dim, &Dim))| if a == b { a.clone() } else { q.fresh(output, axis) };
            Some(a.iter().zip(b).enumerate().map(agreed).collect())
        }
        _ => None,
    };
    let contents = a.contents.clone().filter(|_| a.contents == b.contents && a.shape == b.shape);
    Fact::partial(a.dtype.filter(|_| a.dtype == b.dtype), shape).with_contents(contents)
}

/// What is known of a value that a body makes in every round: names in it may stand for something else each time.
fn every_round(q: &Question<'_>, output: usize, fact: &Fact) -> Fact {
    let constant = |(axis, dim): (usize, &Dim)| if dim.as_known().is_some() { dim.clone() } else { q.fresh(output, axis) };
    Fact::partial(fact.dtype, fact.shape.as_ref().map(|dims| dims.iter().enumerate().map(constant).collect()))
}

/// A value that is carried from round to round: it may be the first one, if there is no round.
fn carried(q: &Question<'_>, output: usize, first: usize, made: &Fact) -> Fact {
    let first = q.fact(first).cloned().unwrap_or_default();
    let same_shape = first.shape.is_some() && first.shape == made.shape;
    let shape = if same_shape { first.shape.clone() } else { common(q, output, &first, &every_round(q, output, made)).shape };
    Fact::partial(first.dtype.or(made.dtype), shape)
}

/// The shape of a value that collects what a body makes in each round along a new axis.
fn collected(q: &Question<'_>, output: usize, made: &Fact, axis: i64, rounds: Dim) -> Fact {
    let shape = every_round(q, output, made).shape.and_then(|dims| {
        let rank = dims.len() + 1;
        let at = super::question::axis_at(axis, rank).ok()?;
        let mut shape: Shape =
            dims.iter().enumerate().map(|(i, dim)| if dim.as_known().is_some() { dim.clone() } else { q.fresh(output, i + 1) }).collect();
        shape.insert(at, rounds);
        Some(shape)
    });
    Fact::partial(made.dtype, shape)
}

/// Inputs: rounds, condition, carried values. The body gives the condition, the carried values and what is collected.
fn loop_(q: &Question<'_>) -> Answer {
    let Some(body) = body(q, "body") else { return Ok(vec![]) };
    let made = outputs(body);
    let states = q.inputs.len().saturating_sub(2);
    let fact = |(i, made): (usize, &&Fact)| {
        if i < states { carried(q, i, i + 2, made) } else { collected(q, i, made, 0, q.fresh(i, 0)) }
    };
    Ok(made.get(1..).unwrap_or_default().iter().enumerate().map(fact).collect())
}

/// Inputs: carried values, then values that are read slice by slice. In opset 8 there was a batch axis around everything.
fn scan(q: &Question<'_>) -> Answer {
    let Some(body) = body(q, "body").filter(|_| q.opset >= 9) else { return Ok(vec![]) };
    let read = q.count("num_scan_inputs", 0)?;
    let Some(states) = q.inputs.len().checked_sub(read) else {
        return Err(format!("num_scan_inputs: expected at most {}, found {read}", q.inputs.len()).into());
    };
    let nth = |name: &str, i: usize| q.ints(name).and_then(|axes| axes.get(i).copied()).unwrap_or(0);
    let rounds = (0..read).find_map(|i| q.dim(states + i, nth("scan_input_axes", i)));
    let fact = |(i, made): (usize, &&Fact)| {
        if i < states {
            return carried(q, i, i, made);
        }
        let rounds = rounds.clone().unwrap_or_else(|| q.fresh(i, 0));
        collected(q, i, made, nth("scan_output_axes", i - states), rounds)
    };
    Ok(outputs(body).iter().enumerate().map(fact).collect())
}

#[cfg(test)]
mod tests {
    use crate::ir::{Builder, DType, Dim, Graph, ModelInfo};

    /// A node with bodies, on `x: float[n, 4]` and `c: bool`, and its first output's fact.
    fn first_output(write: impl Fn(&Builder)) -> String {
        let b = Builder::new(ModelInfo::dialect());
        b.input("x", DType::F32, &[Dim::symbol("n"), Dim::known(4)]);
        b.input("c", DType::Bool, &[]);
        write(&b);
        let graph: Graph = b.finish().expect("a graph");
        graph.fact(graph.outputs()[0]).to_string()
    }

    #[test]
    fn branches_that_agree() {
        let fact = first_output(|b| {
            let (x, c) = (b.input_named("x").expect("x"), b.input_named("c").expect("c"));
            let branch = |name: &str, op: &str| {
                let body = b.body(name);
                let y = body.op(op, &[body.capture(x)], &[]);
                body.output(&format!("{name}_y"), y);
                body.finish_body().expect("a body")
            };
            let y = b.op_with_bodies("If", &[Some(c)], vec![("then_branch", branch("a", "Exp")), ("else_branch", branch("b", "Neg"))], 1);
            b.output("y", y[0]);
        });
        assert_eq!(fact, "float[n, 4]");
    }

    #[test]
    fn values_carried_and_collected() {
        let fact = first_output(|b| {
            let (x, c) = (b.input_named("x").expect("x"), b.input_named("c").expect("c"));
            let body = b.body("body");
            body.input("i", DType::I64, &[]);
            let go = body.input("go", DType::Bool, &[]);
            let state = body.input("state", DType::F32, &[Dim::symbol("n"), Dim::known(4)]);
            body.output("go_on", go.identity());
            body.output("next", state.exp());
            body.output("seen", state.identity());
            let bodies = vec![("body", body.finish_body().expect("a body"))];
            let y = b.op_with_bodies("Loop", &[None, Some(c), Some(x)], bodies, 2);
            b.output("y", y[1]);
            assert_eq!(y[0].fact().to_string(), "float[n, 4]");
        });
        assert!(fact.ends_with(", 4]") && fact.matches(',').count() == 2, "{fact}");
    }
}
