//! Attentions, anchored on what all exports of them share: a softmax that a product reads.
//!
//! ```text
//! x → q ─ heads ─┐
//! x → k ─ heads ─┴→ MatMul → scale, masks → Softmax → [guards] ─┐
//! x → v ─ heads ───────────────────────────────────────────────┴→ MatMul → join heads → o →
//! ```

use crate::ir::{Graph, ValueId};

use super::causal::Causal;
use super::flow::{Flow, Source};
use super::fused::{self, Fused};
use super::linear::Linear;
use super::scores::{self, Scores};
use super::walk::{Found, NodeRef, ValueRef};
use super::{Attention, Axis, Heads, Miss, Projection, heads};

/// Operators between the softmax and the product with the values: guards against rows without any key, dropout, layout.
const GUARDS: &[&str] = &["Cast", "Identity", "Dropout", "Where", "Mul", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice"];

/// Where an attention stands, before its surroundings are known.
pub(super) struct AttentionSite<'g> {
    /// Operands: queries, keys and values as the attention reads them.
    query: Heads,
    keys: Heads,
    values: Heads,
    /// What the attention gives.
    pub(super) output: ValueId,
    kind: Kind<'g>,
}

enum Kind<'g> {
    /// Decomposed.
    Open { scores: Scores<'g>, before_softmax: ValueRef<'g> },
    /// One operator.
    Fused(Fused<'g>),
}

/// Every attention in the order of execution, and every softmax that is none.
pub(super) fn find(graph: &Graph) -> (Vec<AttentionSite<'_>>, Vec<Miss>) {
    let (mut sites, mut misses) = (vec![], vec![]);
    for (id, _) in graph.node_ids() {
        let node = NodeRef::new(graph, id);
        let softmax = node.is(&["Softmax"]).then(|| open(node));
        match softmax.or_else(|| fused::find(node).map(fused_site)) {
            Some(Ok(site)) => sites.push(site),
            Some(Err(miss)) => misses.push(miss),
            None => {}
        }
    }
    (sites, misses)
}

fn open(softmax: NodeRef<'_>) -> Found<AttentionSite<'_>> {
    let before_softmax = softmax.input(0)?;
    let context = context(softmax.output(0)?)?;
    let scores = scores::behind(before_softmax)?;
    Ok(AttentionSite {
        query: heads::queries(scores.product)?,
        keys: heads::keys(scores.product)?,
        values: heads::values(context)?,
        output: context.output(0)?.id(),
        kind: Kind::Open { scores, before_softmax },
    })
}

fn fused_site(fused: Fused<'_>) -> Found<AttentionSite<'_>> {
    let heads = |value: ValueRef<'_>| Heads { value: value.id(), axes: fused::axes(value) };
    Ok(AttentionSite {
        query: heads(fused.query),
        keys: heads(fused.keys),
        values: heads(fused.values),
        output: fused.node.output(0)?.id(),
        kind: Kind::Fused(fused),
    })
}

/// The product that reads the probabilities.
fn context(probabilities: ValueRef<'_>) -> Found<NodeRef<'_>> {
    let mut at = probabilities;
    loop {
        let product = at.readers().find(|n| scores::is_product(n.op()) && n.node().input(0) == Some(at.id()));
        if let Some(product) = product {
            let is_router = product.input(1)?.is_constant();
            return if is_router { Err(product.miss("a product of probabilities with values")) } else { Ok(product) };
        }
        let guard = at.readers().find(|n| n.is(GUARDS)).ok_or_else(|| at.miss("a product of probabilities with values"))?;
        at = guard.output(0)?;
    }
}

/// Finds what stands around the attentions: the projection behind each, and whether it looks at other hidden states than its own.
pub(super) fn connect(graph: &Graph, attentions: &mut [Attention], linears: &[Linear], flow: &Flow) {
    for (at, linear) in linears.iter().enumerate() {
        for source in flow.of(linear.x) {
            if let Source::Attention(attention) = source {
                attentions[*attention].o.get_or_insert(at);
            }
        }
    }
    let hidden = |at: usize| ValueRef::new(graph, linears[at].x).behind(&["Reshape", "Cast", "Identity"]).id();
    for attention in attentions {
        attention.cross = attention.q.zip(attention.k).is_some_and(|(q, k)| hidden(q) != hidden(k));
    }
}

/// Gives each attention the path that its projections share.
pub(super) fn name(attentions: &mut [Attention], projections: &[Projection]) {
    for attention in attentions {
        let path = |at: &usize| &*projections[*at].module;
        let inner: Vec<&str> = [&attention.q, &attention.k, &attention.v].into_iter().flatten().map(path).collect();
        let outer: Vec<&str> = attention.o.iter().map(path).collect();
        attention.module = common_parent(if inner.is_empty() { &outer } else { &inner });
    }
}

/// The longest path that all modules are inside of.
fn common_parent(modules: &[&str]) -> String {
    let parents: Vec<Vec<&str>> =
        modules.iter().map(|module| module.rsplit_once('.').map_or(vec![], |(p, _)| p.split('.').collect())).collect();
    let Some((first, rest)) = parents.split_first() else { return String::new() };
    let shared = |at: &usize| rest.iter().all(|other| other.get(*at) == first.get(*at));
    let length = (0..first.len()).take_while(shared).count();
    first[..length].join(".")
}

impl<'g> AttentionSite<'g> {
    /// The attention, with its projections; its module and its output projection are for the caller to find.
    pub(super) fn read(&self, graph: &'g Graph, flow: &Flow, causal: &Causal) -> Attention {
        let own_projections = matches!(&self.kind, Kind::Fused(fused) if fused.projects);
        let projection = |value: ValueId| flow.projection(value).filter(|_| !own_projections);
        let value_of = |heads: &Heads| ValueRef::new(graph, heads.value);
        let query = heads::unrepeated(value_of(&self.query), &self.query);
        let key = heads::unrepeated(value_of(&self.keys), &self.keys);
        let value = heads::unrepeated(value_of(&self.values), &self.values);
        let (masks, scale) = match &self.kind {
            Kind::Open { scores, .. } => (scores.masks.clone(), scores.scale.zip(self.scale_before(graph)).map(|(a, b)| a * b)),
            Kind::Fused(fused) => (fused.masks(), fused.scale),
        };
        let always = matches!(&self.kind, Kind::Fused(fused) if fused.causal);
        // Where only a part of each head is rotated, the length of what is joined again is not always known.
        let head_size = [&query, &key, &value].into_iter().find_map(|heads| length(graph, heads, Axis::Size));
        let mut attention = Attention {
            module: String::new(),
            q: projection(self.query.value),
            k: projection(self.keys.value),
            v: projection(self.values.value),
            o: None,
            causal: always || masks.iter().any(|mask| causal.is(mask.value)),
            may_be_causal: masks.iter().any(|mask| causal.is_unclear(mask.value)),
            cross: false,
            heads: length(graph, &query, Axis::Heads),
            kv_heads: length(graph, &key, Axis::Heads),
            head_size,
            keys: self.keys.clone(),
            values: self.values.clone(),
            key,
            value,
            scores: match &self.kind {
                Kind::Open { before_softmax, .. } => Some(before_softmax.id()),
                Kind::Fused(_) => None,
            },
            masks,
            output: self.output,
            scale,
            key_scale: scale_on_the_way(ValueRef::new(graph, self.keys.value)),
        };
        if let Kind::Fused(fused) = &self.kind {
            fused.complete(&mut attention);
        }
        attention
    }

    /// What queries and keys are scaled with before their product.
    fn scale_before(&self, graph: &'g Graph) -> Option<f64> {
        let scale = |heads: &Heads| scale_on_the_way(ValueRef::new(graph, heads.value));
        Some(scale(&self.query)? * scale(&self.keys)?)
    }
}

/// The length of one axis of a tensor of heads.
fn length(graph: &Graph, heads: &Heads, axis: Axis) -> Option<i64> {
    ValueRef::new(graph, heads.value).length(heads.axis(axis)?)
}

/// The product of the scales right behind an operand, as far as layout goes; `None` if one of them is not known.
fn scale_on_the_way(operand: ValueRef<'_>) -> Option<f64> {
    let (mut at, mut scale) = (operand, 1.0);
    loop {
        at = at.behind(&["Cast", "Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze"]);
        let Ok((before, factor)) = at.from(&["Mul", "Div"]).and_then(scores::scaled) else { return Some(scale) };
        scale *= factor?;
        at = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy::{Anatomy, Masking, read};
    use crate::ir::{Attr, Builder, DType, Dim, Expr, ModelInfo, Tensor};

    /// Hidden states, and what is made of them in a few words.
    struct Written<'g> {
        b: &'g Builder,
        x: Expr<'g>,
    }

    impl<'g> Written<'g> {
        /// A projection of the hidden states into four heads of two, `[batch, heads, seq, size]`.
        fn heads(&self, name: &str, heads: i64) -> Expr<'g> {
            let columns = usize::try_from(heads * 2).expect("small");
            let numbers: Vec<f32> = (0..8 * columns).map(|i| f32::from(u8::try_from(i).expect("small"))).collect();
            let weight = self.b.initializer(&format!("{name}.weight"), Tensor::from_f32(&[8, columns], &numbers));
            self.x.matmul(weight).reshape(&[0, 0, heads, 2]).transpose(&[0, 2, 1, 3])
        }

        /// Heads side by side again.
        fn joined(context: Expr<'g>) -> Expr<'g> {
            context.transpose(&[0, 2, 1, 3]).reshape(&[0, 0, 8])
        }
    }

    fn anatomy_of(write: for<'g> fn(&Written<'g>) -> Expr<'g>) -> Anatomy {
        let b = Builder::new(ModelInfo::dialect().with_opset("", 23));
        let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::symbol("seq"), Dim::known(8)]);
        b.output("out", write(&Written { b: &b, x }));
        read(&b.finish().expect("the case is a valid graph"))
    }

    #[test]
    fn heads_may_share_an_axis_with_the_batch() {
        let anatomy = anatomy_of(|w| {
            let [q, k, v] = ["q", "k", "v"].map(|name| w.heads(name, 4).reshape(&[-1, 3, 2]));
            let scores = q.matmul(k.transpose(&[0, 2, 1])) * 0.5;
            Written::joined(scores.softmax(-1).matmul(v).reshape(&[-1, 4, 3, 2]))
        });
        let attention = &anatomy.attentions[0];
        assert_eq!((attention.heads, attention.kv_heads, attention.head_size, attention.scale), (Some(4), Some(4), Some(2), Some(0.5)));
        assert_eq!(attention.keys.axes, [Axis::BatchHeads, Axis::Size, Axis::Seq]);
        assert_eq!(attention.key.axes, [Axis::Batch, Axis::Heads, Axis::Seq, Axis::Size]);
    }

    #[test]
    fn masks_are_kept_in_their_order_and_factors_wherever_they_stand() {
        let anatomy = anatomy_of(|w| {
            let [q, k, v] = ["q", "k", "v"].map(|name| w.heads(name, 4));
            let keep = w.b.initializer("triangle", Tensor::from_f64(DType::Bool, &[2, 2], &[1., 0., 1., 1.]).expect("booleans"));
            let added = w.b.input("mask", DType::F32, &[Dim::symbol("seq")]);
            let scores = (q * 0.5).matmul((k * 0.5).t()) / 2.0;
            let masked = keep.where_(scores, scores.same_type(-1e9)) + added;
            Written::joined(masked.softmax(-1).matmul(v))
        });
        let attention = &anatomy.attentions[0];
        let kinds: Vec<Masking> = attention.masks.iter().map(|mask| mask.kind).collect();
        assert_eq!((kinds, attention.causal), (vec![Masking::KeptWhere, Masking::Added], true));
        assert_eq!((attention.scale, attention.q, attention.k, attention.v), (Some(0.125), Some(0), Some(1), Some(2)));
    }

    #[test]
    fn one_operator_is_an_attention_too() {
        let anatomy = anatomy_of(|w| {
            let (q, k, v) = (w.heads("q", 4), w.heads("k", 2), w.heads("v", 2));
            Written::joined(w.b.op("Attention", &[q, k, v], &[("is_causal", Attr::Int(1))]))
        });
        let attention = &anatomy.attentions[0];
        assert_eq!((attention.heads, attention.kv_heads, attention.head_size), (Some(4), Some(2), Some(2)));
        assert_eq!((attention.scale, attention.causal, attention.scores), (Some(2_f64.sqrt().recip()), true, None));
    }

    #[test]
    fn a_choice_of_experts_is_no_attention() {
        let anatomy = anatomy_of(|w| w.heads("router", 4).softmax(-1));
        assert!(anatomy.attentions.is_empty());
        assert!(anatomy.misses.iter().any(|miss| miss.wanted.contains("probabilities")), "{:?}", anatomy.misses);
    }
}
