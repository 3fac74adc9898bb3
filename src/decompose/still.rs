//! Chance inside a model, taken out: an export in training mode drops activations, norms rows by the batch that they come in, and adds noise.
//! What an adapter is trained in, measured in and merged into computes the same every time.

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::ir::{Attr, Builder, Graph, Node};

/// What was made to stand still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stilled {
    /// `Dropout`s that drop nothing any more.
    pub dropouts: usize,
    /// `BatchNormalization`s that use the statistics that they store.
    pub norms: usize,
    /// Random numbers from a normal distribution, which are its mean now.
    pub noise: usize,
    /// Other random numbers: they are still drawn, from a fixed seed.
    pub seeded: usize,
}

impl Stilled {
    fn and(self, other: Self) -> Self {
        Self {
            dropouts: self.dropouts + other.dropouts,
            norms: self.norms + other.norms,
            noise: self.noise + other.noise,
            seeded: self.seeded + other.seeded,
        }
    }

    /// Whether nothing had to be.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Stilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.dropouts, "Dropout nodes drop nothing"),
            (self.norms, "BatchNormalization nodes use their stored statistics"),
            (self.noise, "nodes of random noise give its mean"),
            (self.seeded, "other random nodes draw from a fixed seed"),
        ];
        let parts: Vec<String> = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Where seeds of random nodes start; each has its own.
const SEED: u16 = 42;

/// The same graph in inference mode (random nodes replaced by what they give at inference), and what was changed.
///
/// # Errors
/// Nodes that do not go together.
pub fn still(graph: &Graph) -> Result<(Graph, Stilled)> {
    let b = OnceCell::new();
    let mut all = Stilled::default();
    for node in graph.nodes() {
        let Some(output) = node.writes().next() else { continue };
        let done = if &*node.op == "BatchNormalization" {
            norm(b.get_or_init(|| Builder::on(graph)), graph, node)
        } else {
            let (form, done) = form(graph, node)?;
            if let Some(form) = form {
                b.get_or_init(|| Builder::on(graph)).replace_node(output, form);
            }
            done
        };
        all = all.and(done);
    }
    let still = b.into_inner().filter(|_| !all.is_none()).map_or_else(|| Ok(graph.clone()), Builder::finish)?;
    Ok((still, all))
}

fn form(graph: &Graph, node: &Node) -> Result<(Option<Node>, Stilled)> {
    let mut new = node.clone();
    let seed = || f32::from(SEED + node.writes().next().and_then(|id| u16::try_from(id.index() % 1000).ok()).unwrap_or_default());
    match &*node.op {
        "Dropout" if drops(graph, node) => {
            if graph.model().opset() < 7 {
                new.attrs.insert("is_test".into(), Attr::Int(1));
            } else {
                new.inputs.truncate(1);
            }
            Ok((Some(new), Stilled { dropouts: 1, ..Stilled::default() }))
        }
        "RandomNormal" | "RandomNormalLike" => {
            // ONNX Runtime ends the process at a deviation of 0; this one is lost in rounding.
            new.attrs.insert("scale".into(), Attr::Float(f32::MIN_POSITIVE));
            new.attrs.entry("seed".into()).or_insert_with(|| Attr::Float(seed()));
            Ok((Some(new), Stilled { noise: 1, ..Stilled::default() }))
        }
        "RandomUniform" | "RandomUniformLike" | "Bernoulli" | "Multinomial" => {
            new.attrs.entry("seed".into()).or_insert_with(|| Attr::Float(seed()));
            Ok((Some(new), Stilled { seeded: 1, ..Stilled::default() }))
        }
        _ => bodies(new),
    }
}

/// The same in the bodies of a node.
fn bodies(mut node: Node) -> Result<(Option<Node>, Stilled)> {
    let mut all = Stilled::default();
    for attr in node.attrs.values_mut() {
        let mut inner = |body: &Arc<Graph>| -> Result<Arc<Graph>> {
            let (body, done) = still(body)?;
            all = all.and(done);
            Ok(Arc::new(body))
        };
        match attr {
            Attr::Graph(body) => *body = inner(body)?,
            Attr::Graphs(bodies) => *bodies = bodies.iter().map(inner).collect::<Result<_>>()?,
            _ => {}
        }
    }
    Ok(((!all.is_none()).then_some(node), all))
}

/// Whether a `Dropout` drops: it did by default before opset 7, never from there to 11, and from 12 on when an input says so.
fn drops(graph: &Graph, node: &Node) -> bool {
    match graph.model().opset() {
        ..7 => node.int("is_test", 0) == 0,
        7..12 => false,
        _ => node.input(2).is_some_and(|mode| {
            let told = graph.initializer(mode).or_else(|| graph.constant(mode)).and_then(crate::ir::Tensor::scalar);
            told != Some(0.0)
        }),
    }
}

/// A norm by the batch's statistics becomes one by those that are stored; one whose new statistics are read stays as it is.
fn norm(b: &Builder, graph: &Graph, node: &Node) -> Stilled {
    let opset = graph.model().opset();
    let trains = match opset {
        ..7 => node.int("is_test", 0) == 0,
        7..14 => node.writes().count() > 1,
        _ => node.int("training_mode", 0) != 0,
    };
    let are_read = node.writes().skip(1).any(|id| !graph.uses(id).is_empty() || graph.is_output(id));
    let Some(y) = node.output(0).filter(|_| trains && !are_read) else { return Stilled::default() };
    let kept = node.attrs.iter().filter(|(name, _)| &***name != "training_mode");
    let mut attrs: Vec<(&str, Attr)> = kept.map(|(name, attr)| (&**name, attr.clone())).collect();
    if opset < 7 {
        attrs.retain(|(name, _)| *name != "is_test");
        attrs.push(("is_test", Attr::Int(1)));
    }
    let inputs: Vec<_> = node.inputs.iter().map(|id| id.map(|id| b.expr(id))).collect();
    let new = b.op_n("BatchNormalization", &inputs, &attrs, 1)[0];
    b.take_over(b.expr(y), new);
    Stilled { norms: 1, ..Stilled::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Dim, Expr, ModelInfo, Tensor};

    type Write = for<'g> fn(&'g Builder, Expr<'g>) -> Expr<'g>;

    fn normed<'g>(b: &'g Builder, x: Expr<'g>, outputs: usize, attrs: &[(&str, Attr)]) -> Expr<'g> {
        let ones = |name: &str| Some(b.initializer(name, Tensor::from_f32(&[3], &[1.0; 3])));
        let inputs = [Some(x), ones("scale"), ones("bias"), ones("mean"), ones("variance")];
        b.op_n("BatchNormalization", &inputs, attrs, outputs)[0]
    }

    /// What is written, the opset, and what is said of it.
    const CASES: &[(&str, i64, Write, &str)] = &[
        (
            "a Dropout told to drop",
            17,
            |b, x| b.op("Dropout", &[x, b.number(0.5, DType::F32), b.number(1.0, DType::Bool)], &[]),
            "1 Dropout nodes drop nothing",
        ),
        ("a Dropout told not to", 17, |b, x| b.op("Dropout", &[x, b.number(0.5, DType::F32), b.number(0.0, DType::Bool)], &[]), ""),
        ("a Dropout told nothing", 17, |b, x| b.op("Dropout", &[x], &[]), ""),
        (
            "a Dropout told by the caller",
            17,
            |b, x| b.op("Dropout", &[x, b.number(0.5, DType::F32), b.input("training", DType::Bool, &[])], &[]),
            "1 Dropout nodes drop nothing",
        ),
        (
            "a norm by the batch's statistics",
            17,
            |b, x| normed(b, x, 3, &[("training_mode", Attr::Int(1))]),
            "1 BatchNormalization nodes use their stored statistics",
        ),
        ("a norm by stored statistics", 17, |b, x| normed(b, x, 1, &[]), ""),
        ("noise", 17, |b, x| x + b.op("RandomNormalLike", &[x], &[]), "1 nodes of random noise give its mean"),
        ("a coin", 17, |b, x| x * b.op("Bernoulli", &[x], &[]), "1 other random nodes draw from a fixed seed"),
    ];

    #[test]
    fn chance_is_taken_out_and_said() -> Result<()> {
        for (what, opset, write, expected) in CASES {
            let b = Builder::new(ModelInfo::dialect().with_opset("", *opset));
            let x = b.input("x", DType::F32, &[Dim::symbol("n"), Dim::known(3)]);
            b.output("y", write(&b, x));
            let (graph, stilled) = still(&b.finish()?)?;
            assert_eq!(stilled.to_string(), *expected, "{what}");
            let (_, again) = still(&graph)?;
            assert_eq!((again.dropouts, again.norms), (0, 0), "{what}: nothing is left");
        }
        Ok(())
    }

    #[test]
    fn chance_in_branches_is_taken_out_too() -> Result<()> {
        let b = Builder::new(ModelInfo::dialect());
        let (x, c) = (b.input("x", DType::F32, &[Dim::known(4)]), b.input("c", DType::Bool, &[]));
        let branch = |name: &str| {
            let body = b.body(name);
            let y = body.op("Dropout", &[body.capture(x), body.number(0.5, DType::F32), body.number(1.0, DType::Bool)], &[]);
            body.output(&format!("{name}_y"), y);
            body.finish_body()
        };
        let y = b.op_with_bodies("If", &[Some(c)], vec![("then_branch", branch("t")?), ("else_branch", branch("e")?)], 1);
        b.output("y", y[0]);
        assert_eq!(still(&b.finish()?)?.1.dropouts, 2);
        Ok(())
    }
}
