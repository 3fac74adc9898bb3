//! A training graph that every binding feeds and every execution provider runs: what may be left out is fixed, nothing is float64, and no node has many outputs.

use crate::ir::{Builder, DType, Expr, Graph, Node, Tensor, ValueId};
use crate::num;
use crate::{Error, Result};

/// Outputs of a node, at most: WebGPU binds so many buffers to a shader.
const MOST_OUTPUTS: usize = 8;

/// The graph with required inputs alone, in float32, with slices in place of large splits.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) for float64 of another form than the optimizer's bias corrections.
pub(super) fn portable(graph: &Graph, numbers: &[(&str, f64)]) -> Result<Graph> {
    let numbered = Builder::on(graph);
    for &id in graph.inputs() {
        let (name, dtype) = (graph.value_name(id), graph.initializer(id).map(Tensor::dtype));
        if let Some((dtype, (_, number))) = dtype.zip(numbers.iter().find(|(own, _)| *own == name)) {
            numbered.set_initializer(id, Tensor::from_f64(dtype, &[], &[*number])?);
        }
    }
    let graph = &numbered.finish_whole()?;
    let b = Builder::on(graph);
    for &id in graph.inputs().iter().filter(|id| graph.initializer(**id).is_some()) {
        b.fix_input(b.expr(id));
    }
    for node in graph.nodes() {
        if &*node.op == "Split" && node.outputs.len() > MOST_OUTPUTS {
            slices(&b, graph, node)?;
        }
    }
    let formulas = Formulas { b: &b, graph };
    let narrowed = graph.nodes().iter().filter(|node| &*node.op == "Cast").filter_map(|node| Some((node.input(0)?, node.output(0)?)));
    for (wide, narrow) in narrowed.filter(|(wide, narrow)| is(graph, *wide, DType::F64) && is(graph, *narrow, DType::F32)) {
        let single = formulas.single(wide).ok_or_else(|| {
            let what = format!("the float64 value {} in a graph for every runtime", graph.value_name(wide));
            Error::unsupported(what, "only bias corrections of AdamW have a form in float32")
        })?;
        b.rewire(b.expr(narrow), |_| single);
    }
    b.finish()
}

/// The graph with some of its optional inputs required.
///
/// # Errors
/// None for a graph that was finished.
pub(super) fn requiring(graph: &Graph, is_required: impl Fn(&str) -> bool) -> Result<Graph> {
    let b = Builder::on(graph);
    for &id in graph.inputs().iter().filter(|id| is_required(graph.value_name(**id))) {
        b.require_input(b.expr(id));
    }
    b.finish_whole()
}

fn is(graph: &Graph, value: ValueId, dtype: DType) -> bool {
    graph.fact(value).dtype == Some(dtype)
}

/// Each output of a split as a slice of its input.
fn slices(b: &Builder, graph: &Graph, node: &Node) -> Result<()> {
    let axis = node.int("axis", 0);
    let Some(x) = node.input(0) else { return Ok(()) };
    let place = graph.fact(x).rank().and_then(|rank| num::axis(axis, rank));
    let mut start = 0;
    for output in node.outputs.iter().copied() {
        let length = output.and_then(|id| graph.fact(id).shape.as_ref()?.get(place?)?.as_known());
        let (Some(output), Some(length)) = (output, length) else {
            return Err(Error::unsupported("a large split", "the lengths of its outputs are not known"));
        };
        b.rewire(b.expr(output), |_| b.expr(x).slice(&[start], &[start + length], &[axis]));
        start += length;
    }
    Ok(())
}

/// The forms that computations in float64 have in float32, as exact as float32 is.
struct Formulas<'g> {
    b: &'g Builder,
    graph: &'g Graph,
}

impl<'g> Formulas<'g> {
    /// A value in float32.
    fn single(&self, value: ValueId) -> Option<Expr<'g>> {
        if let Some(number) = self.number(value) {
            return Some(self.b.number(number, DType::F32));
        }
        let node = self.node(value)?;
        match &*node.op {
            "Sqrt" => Some(self.single(node.input(0)?)?.sqrt()),
            "Cast" => Some(self.b.expr(node.input(0)?).cast(DType::F32)),
            "Sub" if self.number(node.input(0)?) == Some(1.0) => self.one_less(node.input(1)?),
            _ => None,
        }
    }

    /// `1 − β^t = −2T / (1 − T)` with `T = tanh(t · ln β / 2)`: near 1, `β^t` itself has few digits that the difference keeps.
    fn one_less(&self, power: ValueId) -> Option<Expr<'g>> {
        let node = self.node(power).filter(|node| &*node.op == "Pow")?;
        let beta = self.number(node.input(0)?)?;
        let t = self.single(node.input(1)?)?;
        if beta <= 0.0 {
            return Some(t.same_type(1.0));
        }
        let tanh = (t * (beta.ln() / 2.0)).tanh();
        Some((tanh * -2.0) / (1.0 - tanh))
    }

    /// A value that is one number, whatever is fed.
    fn number(&self, value: ValueId) -> Option<f64> {
        if let Some(constant) = self.graph.initializer(value) {
            return constant.scalar();
        }
        let node = self.node(value).filter(|node| &*node.op == "Sub")?;
        Some(self.number(node.input(0)?)? - self.number(node.input(1)?)?)
    }

    fn node(&self, value: ValueId) -> Option<&'g Node> {
        self.graph.nodes().iter().find(|node| node.writes().any(|made| made == value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Input;
    use crate::ir::{Dim, ModelInfo};
    use crate::train::optimizer::{Update, update_graph};

    #[test]
    fn an_update_has_required_inputs_alone_and_no_float64() -> Result<()> {
        let whole = update_graph(&Update::default(), 3)?;
        let graph = portable(&whole, &[("adam_beta1", 0.5)])?;
        let inputs: Vec<&str> = graph.inputs().iter().map(|id| graph.value_name(*id)).collect();
        assert_eq!(inputs, [Input::Trainable.name(), "gradient", "adam_m", "adam_v", "step", "learning_rate"]);
        let wide: Vec<&str> =
            graph.values().iter().filter(|value| value.fact.dtype == Some(DType::F64)).map(|value| &*value.name).collect();
        let used = |name: &&str| graph.nodes().iter().flat_map(Node::reads).any(|id| graph.value_name(id) == *name);
        assert_eq!(wide.into_iter().filter(|name| used(name)).collect::<Vec<_>>(), Vec::<&str>::new());
        assert_eq!(graph.outputs().len(), whole.outputs().len());
        Ok(())
    }

    #[test]
    fn a_split_into_many_is_slices_and_one_into_few_stays() -> Result<()> {
        for (parts, expected) in [(4, "Split"), (20, "Slice")] {
            let b = Builder::new(ModelInfo::dialect());
            let x = b.input("x", DType::F32, &[Dim::known(40)]);
            let sizes = b.ints(&vec![40 / parts; usize::try_from(parts).unwrap_or_default()]);
            let outputs = b.op_n("Split", &[Some(x), Some(sizes)], &[], usize::try_from(parts).unwrap_or_default());
            outputs.iter().enumerate().for_each(|(at, part)| b.output(&format!("y{at}"), part.tanh()));
            let graph = portable(&b.finish()?, &[])?;
            let count = graph.nodes().iter().filter(|node| &*node.op == expected).count();
            assert_eq!(count, if parts == 4 { 1 } else { 20 }, "{parts}");
        }
        Ok(())
    }

    #[test]
    fn float64_that_is_no_bias_correction_is_refused() -> Result<()> {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::known(2)]);
        b.output("y", (x.cast(DType::F64) * b.constant(Tensor::from_f64(DType::F64, &[], &[2.0])?)).cast(DType::F32));
        assert!(portable(&b.finish()?, &[]).is_err_and(|error| error.to_string().contains("float64")));
        Ok(())
    }
}
