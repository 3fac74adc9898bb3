//! The prediction head: the projection that an output comes from, and what is made of its scores.

use std::collections::BTreeSet;

use crate::ir::{DType, Dim, Graph, Trait, ValueId};

use super::copies;
use super::ending::{self, Behind};
use super::flow::Flow;
use super::linear::Linear;
use super::range;
use super::walk::{Found, NodeRef, ValueRef};
use super::{Embedding, Ending, Head, Layout, Probabilities, Projection, Squash, Weight};

/// The name that exporters give to scores.
const LOGITS: &str = "logits";

/// The head. What it is tied to is not known yet.
///
/// The output called `logits` comes first, then others whose names say so, then the first one of numbers, then a choice among classes.
///
/// # Errors
/// What stands where a head was looked for.
pub(super) fn find(graph: &Graph, flow: &Flow, linears: &[Linear]) -> Found<Head> {
    let output = chosen_output(graph);
    let output = ValueRef::new(graph, output.ok_or_else(|| super::Miss { at: "the outputs".into(), wanted: "an output".into() })?);
    let Behind { scores, made } = ending::behind(graph, output.id());
    let scores = with_classes(ValueRef::new(graph, scores));
    let path = Path::to(scores, flow, &varying(graph));
    if let Some(node) = path.product {
        return Err(node.miss("a head: this is a product of two things that are both computed from the data"));
    }
    if scores.fact().rank().is_some_and(|rank| rank > 3) {
        return Err(scores.miss(format!("scores of classes, [batch, classes] or [batch, seq, classes]; it is {}", scores.fact())));
    }
    let projection = flow.projection(scores.id()).filter(|&at| path.starts.contains(&linears[at].y));
    if projection.is_none() && plain(output.name()) != LOGITS {
        return Err(output.miss("a head: scores that come from one last projection"));
    }
    let reached = graph.outputs().iter().copied().find(|&id| id == scores.id());
    let is_beside = reached.is_some_and(|reached| reached != output.id());
    let bounded = || {
        let made = output.behind(&["Identity", "Cast", "Reshape", "Squeeze"]);
        range::of(graph, output.id()).is_of_probabilities().then(|| made.producer()).flatten()
    };
    let is_made = made.is_some() && !is_beside;
    let ending = match (made, path.squash, path.vector) {
        (Some(made), ..) => made_of_scores(graph, made, output.id(), projection.map(|at| linears[at].out_features)),
        (None, Some(node), _) => Ending::Probabilities(Probabilities { squash: Squash::Mixed, node: node.label() }),
        (None, None, vector) => match (bounded(), vector) {
            (Some(node), _) => Ending::Probabilities(Probabilities { squash: Squash::Bounded, node: node.label() }),
            (None, Some(node)) => Ending::Vector(node.label()),
            (None, None) => Ending::Scores,
        },
    };
    // Scores that the graph gives beside their probabilities are an output like others.
    let ending = if is_beside && matches!(ending, Ending::Probabilities(_)) { Ending::Scores } else { ending };
    // A cap of scores makes logits.
    let logits = if is_made && ending == Ending::Scores { output.id() } else { scores.id() };
    let before = projection.and_then(|at| flow.only_projection(linears[at].x));
    let classes = if projection.is_none() { path.classes(linears, scores) } else { None };
    Ok(Head {
        logits,
        output: reached.filter(|_| logits == scores.id()).unwrap_or(output.id()),
        ending,
        projection,
        before,
        tied: false,
        classes,
    })
}

/// What numbers are that a graph makes of scores. Sigmoids that were brought within other bounds are probabilities of no score's, and within wide ones they are logits
/// themselves: a cap of scores (`30 sigmoid(x / 7.5)`).
fn made_of_scores(graph: &Graph, made: Probabilities, output: ValueId, classes: Option<i64>) -> Ending {
    let range = range::of(graph, output);
    let is_other = made.squash == Squash::Sigmoid && range.is_closed() && !range.is_of_all_probabilities();
    match classes.and_then(|classes| i32::try_from(classes).ok()) {
        Some(classes) if is_other && classes > 1 && range.may_be_logits_of(classes.into()) => Ending::Scores,
        _ if is_other => Ending::Probabilities(Probabilities { squash: Squash::Mixed, ..made }),
        _ => Ending::Probabilities(made),
    }
}

/// Scores with their axis of classes: one number for each row is a view of `[batch, 1]`.
fn with_classes(scores: ValueRef<'_>) -> ValueRef<'_> {
    let mut at = scores;
    while at.fact().rank() == Some(1) {
        let Some(below) =
            at.from(&["Squeeze", "Reshape", "Flatten", "Gather", "Slice", "Identity", "Cast"]).ok().and_then(|node| node.input(0).ok())
        else {
            return scores;
        };
        if below.fact().rank() == Some(2) && below.length(1) == Some(1) {
            return below;
        }
        at = below;
    }
    scores
}

/// A name without what exporters put behind it (`logits:0`), in small letters.
pub(super) fn plain(name: &str) -> String {
    let name = name.rsplit_once(':').filter(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit())).map_or(name, |(name, _)| name);
    name.to_lowercase()
}

fn chosen_output(graph: &Graph) -> Option<ValueId> {
    let outputs = graph.outputs();
    let named = |is: &dyn Fn(&str) -> bool| outputs.iter().copied().find(|&id| is(&plain(graph.value_name(id))));
    let is_float = |id: &ValueId| graph.fact(*id).dtype.is_none_or(DType::is_float);
    named(&|name| name == LOGITS)
        .or_else(|| named(&|name| name.ends_with(LOGITS)))
        .or_else(|| outputs.iter().copied().find(is_float))
        .or_else(|| outputs.first().copied())
}

/// Which values depend on what the graph is fed with, not only on its shape.
fn varying(graph: &Graph) -> Vec<bool> {
    let mut varying = vec![false; graph.values().len()];
    for id in graph.data_inputs() {
        varying[id.index()] = true;
    }
    for node in graph.nodes() {
        let varies = !Trait::ShapeOnly.is_of(&node.op) && node.reads().any(|id| varying[id.index()]);
        for output in node.writes() {
            varying[output.index()] = varies;
        }
    }
    varying
}

/// What stands between the last products and the scores.
struct Path<'g> {
    /// What the path starts from: outputs of products with constants.
    starts: Vec<ValueId>,
    /// A product of two things that both depend on the data, or a convolution.
    product: Option<NodeRef<'g>>,
    /// What makes probabilities, or logarithms, in a way that is not known.
    squash: Option<NodeRef<'g>>,
    /// What makes a representation, not scores, of a row: an activation, a normalisation.
    vector: Option<NodeRef<'g>>,
}

/// What ends a layer inside a network and not the scores of its classes.
const ACTIVATIONS: &[&str] = &[
    "Elu",
    "Gelu",
    "LayerNormalization",
    "LeakyRelu",
    "LpNormalization",
    "RMSNormalization",
    "Relu",
    "Selu",
    "com.microsoft:FastGelu",
    "com.microsoft:Gelu",
    "com.microsoft:QuickGelu",
];

/// Steps that are walked before the search gives up: between a product and scores there are few.
const MAX_STEPS: usize = 256;

impl<'g> Path<'g> {
    fn to(scores: ValueRef<'g>, flow: &Flow, varying: &[bool]) -> Self {
        let is_map = scores.fact().rank().is_some_and(|rank| rank > 2);
        let mut path = Self { starts: vec![], product: None, squash: None, vector: None };
        let mut seen = BTreeSet::new();
        // A cap brings scores into bounds and scales them up again.
        let mut queue = vec![(scores, false)];
        while let Some((at, is_scaled)) = queue.pop() {
            let Some(node) = at.producer().filter(|_| seen.len() < MAX_STEPS && seen.insert(at.id())) else { continue };
            let data: Vec<ValueRef<'_>> = node.data_inputs().filter(|input| varying[input.id().index()]).collect();
            if node.has(Trait::Convolution) {
                path.product = path.product.or(is_map.then_some(node));
                continue;
            }
            if is_product(node) {
                if data.len() < 2 {
                    path.starts.push(at.id());
                    path.squash = path.squash.or_else(|| exchange_of_probabilities(node));
                } else {
                    path.product.get_or_insert(node);
                }
                continue;
            }
            if node.has(Trait::Probability) {
                path.squash.get_or_insert(node);
            }
            let joins = node.is(&["Mul", "Div", "Pow"]) && data.iter().filter(|input| flow.is_computed(input.id())).count() > 1;
            if node.is(ACTIVATIONS) || joins || (node.is(&["Tanh"]) && !is_scaled) {
                path.vector.get_or_insert(node);
            }
            let scales = node.is(&["Mul", "Div"]) && data.len() == 1;
            queue.extend(data.into_iter().map(|input| (input, is_scaled || scales)));
        }
        path
    }
}

impl Path<'_> {
    /// The classes of scores that several heads of so many sum up to (`(cls_logits + distillation_logits) / 2` of distilled transformers).
    fn classes(&self, linears: &[Linear], scores: ValueRef<'_>) -> Option<i64> {
        let width = |start: &ValueId| linears.iter().find(|linear| linear.y == *start).map(|linear| linear.out_features);
        let (first, others) = self.starts.split_first()?;
        let classes = width(first)?;
        let shown = scores.fact().shape.as_ref()?.last()?.as_known();
        (!others.is_empty() && others.iter().all(|start| width(start) == Some(classes)) && shown == Some(classes)).then_some(classes)
    }
}

/// The softmax whose probabilities of classes a square matrix exchanges for those of as many others.
fn exchange_of_probabilities(node: NodeRef<'_>) -> Option<NodeRef<'_>> {
    let softmax = node.data_inputs().find_map(|input| input.behind(&["Identity", "Cast", "Reshape"]).from(&["Softmax"]).ok())?;
    let matrix = node.inputs().find_map(ValueRef::stored)?;
    matches!(matrix.shape(), [rows, columns] if rows == columns).then_some(softmax)
}

fn is_product(node: NodeRef<'_>) -> bool {
    ["MatMul", "Gemm", "Einsum"].iter().any(|word| node.op().contains(word)) || node.op().ends_with("Attention")
}

impl Head {
    /// The axes of the logits as the output has them: without those of one element between the batch and the classes.
    #[must_use]
    pub fn axes(&self, graph: &Graph) -> Option<Vec<Dim>> {
        let shown = |axes: Vec<i64>| {
            let dims = graph.fact(self.output).shape.as_ref()?;
            axes.into_iter().map(|axis| dims.get(usize::try_from(axis).ok()?).cloned()).collect()
        };
        self.output_axes(graph).map_or_else(|| graph.fact(self.logits).shape.clone(), shown)
    }

    /// Where the graph computes logits in another shape than what it makes of them (rows of all texts one after the other): the axes of the output
    /// that they have to be given.
    #[must_use]
    pub fn output_axes(&self, graph: &Graph) -> Option<Vec<i64>> {
        let (own, shown) = (graph.fact(self.logits).shape.as_ref()?, graph.fact(self.output).shape.as_ref()?);
        let last = shown.len().checked_sub(1)?;
        let is_kept = |axis: usize| axis == 0 || axis == last || shown[axis].as_known() != Some(1);
        let kept: Vec<i64> = (0..=last).filter(|&axis| is_kept(axis)).filter_map(|axis| i64::try_from(axis).ok()).collect();
        let has_classes = own.last() == shown.last() && graph.fact(self.output).dtype.is_some_and(DType::is_float);
        (has_classes && kept.len() != own.len()).then_some(kept)
    }

    /// Fills in what the projection tells.
    pub(super) fn complete(self, graph: &Graph, projections: &[Projection], token_embedding: Option<&Embedding>) -> Self {
        let found = self.projection.map(|at| &projections[at]);
        let layout = |table: &Embedding| if table.transposed { Layout::InOut } else { Layout::OutIn };
        let rows = |table: &Embedding| Weight { value: table.weight, layout: layout(table), part: None };
        let tied = found.zip(token_embedding).is_some_and(|(head, table)| copies::are_one(graph, &head.weight, &rows(table)));
        Self { tied, classes: found.map(|head| head.out_features).or(self.classes), ..self }
    }
}

#[cfg(test)]
mod tests {
    use crate::anatomy;
    use crate::ir::{Builder, DType, Dim, Expr, ModelInfo, Tensor};

    #[test]
    fn heads_that_are_added_have_the_classes_of_each() {
        let classes = |make: &dyn for<'g> Fn(Expr<'g>, Expr<'g>) -> Expr<'g>, widths: [usize; 2]| {
            let b = Builder::new(ModelInfo::dialect());
            let tokens = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
            let table = b.initializer("embed.weight", Tensor::from_f32(&[9, 4], &[0.5; 36]));
            let vector = table.gather(tokens, 0).gather(b.int(0), 1);
            let [one, other] = [("a", widths[0]), ("b", widths[1])].map(|(name, width)| {
                vector.matmul(b.initializer(&format!("{name}.weight"), Tensor::from_f32(&[4, width], &vec![0.5; 4 * width])))
            });
            b.output("logits", make(one, other));
            let graph = b.finish().expect("a valid graph");
            anatomy::read(&graph).head.and_then(|head| head.classes)
        };
        assert_eq!(classes(&|one, _| one, [3, 3]), Some(3));
        assert_eq!(classes(&|one, other| (one + other) / 2.0, [3, 3]), Some(3), "the mean of two heads");
        assert_eq!(classes(&|one, other| one + other, [3, 1]), None, "heads of different widths");
    }
}
