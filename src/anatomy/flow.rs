//! What each value is made of: the projections, attentions and tables that it was computed from without another of them in between.

use std::collections::BTreeMap;

use crate::ir::{Graph, Node, Trait, ValueId};

/// Something whose output is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A projection, by its place among them.
    Projection(usize),
    /// An attention, by its place among them.
    Attention(usize),
    /// An embedding table, by its place among them.
    Table(usize),
}

/// The sources of every value.
#[derive(Clone, Debug)]
pub(super) struct Flow(Vec<Sources>);

#[derive(Clone, Debug, Default)]
enum Sources {
    #[default]
    None,
    Few(Vec<Source>),
    /// The hidden states, to which everything has been added.
    Many,
}

/// With more sources than this a value is made of everything.
const FEW: usize = 8;

/// Operators of which only the first input's numbers are in the output; the others say how.
const FIRST_ONLY: &[&str] = &[
    "Cast",
    "CastLike",
    "Clip",
    "CumSum",
    "DequantizeLinear",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Pad",
    "QuantizeLinear",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
];

impl Flow {
    /// Follows the given outputs through the graph, in one pass.
    pub(super) fn follow(graph: &Graph, starts: &BTreeMap<ValueId, Source>) -> Self {
        let mut sources = vec![Sources::None; graph.values().len()];
        for node in graph.nodes() {
            let joined = data_inputs(node).fold(Sources::None, |all, input| all.joined(&sources[input.index()]));
            for output in node.writes() {
                let is_rounded = &*node.op == "QuantizeLinear";
                let is_data = is_rounded || graph.fact(output).dtype.is_none_or(crate::ir::DType::is_float);
                sources[output.index()] = match starts.get(&output) {
                    Some(&source) => Sources::Few(vec![source]),
                    None if is_data => joined.clone(),
                    None => Sources::None,
                };
            }
        }
        Self(sources)
    }

    /// The sources of a value, in order; none if there are too many to tell.
    pub(super) fn of(&self, value: ValueId) -> &[Source] {
        match &self.0[value.index()] {
            Sources::Few(sources) => sources,
            Sources::None | Sources::Many => &[],
        }
    }

    /// The projection that a value is made of, if it is made of nothing else.
    pub(super) fn only_projection(&self, value: ValueId) -> Option<usize> {
        if let [Source::Projection(at)] = self.of(value) { Some(*at) } else { None }
    }

    /// Whether a value is made of any projection, attention or table.
    pub(super) fn is_computed(&self, value: ValueId) -> bool {
        !matches!(self.0[value.index()], Sources::None)
    }

    /// The one projection that a value comes from, if there is just one.
    pub(super) fn projection(&self, value: ValueId) -> Option<usize> {
        let mut projections = self.of(value).iter().filter_map(|source| match source {
            Source::Projection(at) => Some(*at),
            Source::Attention(_) | Source::Table(_) => None,
        });
        projections.next().filter(|_| projections.next().is_none())
    }
}

impl Sources {
    fn joined(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Many, _) | (_, Self::Many) => Self::Many,
            (Self::None, other) => other.clone(),
            (some, Self::None) => some,
            (Self::Few(mut all), Self::Few(more)) => {
                all.extend(more);
                all.sort_unstable();
                all.dedup();
                if all.len() > FEW { Self::Many } else { Self::Few(all) }
            }
        }
    }
}

/// The inputs whose numbers are in the output.
pub(super) fn data_inputs(node: &Node) -> impl Iterator<Item = ValueId> + '_ {
    let op = &*node.op;
    let range = match op {
        _ if Trait::ShapeOnly.is_of(op) => 0..0,
        _ if FIRST_ONLY.contains(&op) => 0..1,
        "Where" => 1..3,
        _ => 0..node.inputs.len(),
    };
    node.inputs.get(range).unwrap_or_default().iter().flatten().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, DType, Dim, ModelInfo};

    #[test]
    fn sources_are_followed_through_layout_and_sums_but_not_through_shapes() {
        let b = Builder::new(ModelInfo::dialect());
        let shape = [Dim::known(2), Dim::known(4)];
        let (p, q) = (b.input("p", DType::F32, &shape).tanh(), b.input("q", DType::F32, &shape).tanh());
        let sum = (p + q).reshape(&[8]);
        let only_shape = b.op("Expand", &[p, b.op("Shape", &[q], &[])], &[]);
        b.output("sum", sum);
        b.output("expanded", only_shape);
        let starts = BTreeMap::from([(p.id(), Source::Projection(0)), (q.id(), Source::Attention(1))]);
        let (sum, only_shape) = (sum.id(), only_shape.id());
        let graph = b.finish().expect("a valid graph");
        let flow = Flow::follow(&graph, &starts);
        assert_eq!(flow.of(sum), [Source::Projection(0), Source::Attention(1)]);
        assert_eq!(flow.of(only_shape), [Source::Projection(0)]);
        assert_eq!(flow.projection(sum), Some(0));
    }
}
