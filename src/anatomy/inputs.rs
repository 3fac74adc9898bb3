//! Data inputs by what they are for: by where they lead, and by name where that does not tell.

mod mask;
mod streams;

use crate::ir::{Graph, ValueId};

use super::causal::Causal;
use super::walk::ValueRef;
use super::{Attention, CacheSlot, Embedding, Inputs, Role};
use streams::{Looking, Streams};

/// Operators that pass indices on.
const PASSING: &[&str] = &["Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Slice", "Clip"];

/// Tables of segments are tiny.
const SEGMENTS: i64 = 16;

/// The inputs, and the table that reads the tokens.
pub(super) struct FoundInputs {
    pub(super) inputs: Inputs,
    pub(super) token_embedding: Option<usize>,
    pub(super) max_positions: Option<i64>,
}

pub(super) fn find(
    graph: &Graph,
    embeddings: &[Embedding],
    attentions: &[Attention],
    cache: &[CacheSlot],
    causal: &Causal,
    classes: Option<i64>,
) -> FoundInputs {
    let counts_positions = embeddings.iter().any(|table| causal.is_position(table.indices));
    let looking = Looking { graph, embeddings, attentions, cache, counts_positions, classes };
    let data: Vec<ValueId> = graph.data_inputs().collect();
    let streams = Streams::find(&looking, &data);
    let mut roles: Vec<(ValueId, Role)> = data.iter().map(|&id| (id, streams.role(&looking, id))).collect();
    settle_masks(&looking, &mut roles);
    let first = |is: fn(Role) -> bool| roles.iter().find(|(_, role)| is(*role)).map(|(id, _)| *id);
    let main = first(|role| role == Role::InputIds).or_else(|| first(|role| role == Role::PixelValues));
    let mask = roles.iter().find_map(|&(id, role)| if let Role::AttentionMask(form) = role { Some((id, form)) } else { None });
    let inputs = Inputs {
        main,
        attention_mask: mask.map(|(id, _)| id),
        mask_form: mask.map(|(_, form)| form).unwrap_or_default(),
        position_ids: first(|role| role == Role::PositionIds),
        token_type_ids: first(|role| role == Role::TokenTypeIds),
        decoder_input_ids: first(|role| role == Role::DecoderInputIds),
        roles,
    };
    let token_embedding = streams.tokens.filter(|_| inputs.main == streams.token_ids);
    FoundInputs { inputs, token_embedding, max_positions: max_positions(graph, embeddings, causal, token_embedding) }
}

/// Of several masks, those that are known to say which tokens there are say it. The others may mean anything (which tokens are looked at by all, which
/// belong to an entity): columns of the data fill them.
fn settle_masks(looking: &Looking<'_>, roles: &mut [(ValueId, Role)]) {
    let is_mask = |role: Role| matches!(role, Role::AttentionMask(_));
    let masks: Vec<ValueId> = roles.iter().filter(|(_, role)| is_mask(*role)).map(|(id, _)| *id).collect();
    if masks.len() < 2 {
        return;
    }
    let mut told: Vec<ValueId> = masks.iter().copied().filter(|&id| Streams::is_certain_mask(looking, id)).collect();
    if told.is_empty() {
        told = masks.iter().copied().filter(|&id| Streams::is_called_padding(looking, id)).collect();
    }
    for (id, role) in roles.iter_mut().filter(|(_, role)| is_mask(*role)) {
        if !told.contains(id) {
            *role = Role::Column;
        }
    }
}

/// The positions that the smallest learned table of positions holds.
fn max_positions(graph: &Graph, embeddings: &[Embedding], causal: &Causal, tokens: Option<usize>) -> Option<i64> {
    let of_positions = embeddings.iter().enumerate().filter(|(at, table)| Some(*at) != tokens && causal.is_position(table.indices));
    of_positions
        .filter(|(_, table)| table.rows > SEGMENTS)
        .map(|(_, table)| table.rows.saturating_sub(first_row(ValueRef::new(graph, table.indices))))
        .min()
}

/// The row of the first position: OPT and RoBERTa leave two rows at the top of the table.
fn first_row(indices: ValueRef<'_>) -> i64 {
    let (mut at, mut first) = (indices, 0.0);
    loop {
        at = at.behind(PASSING);
        let Some(node) = at.producer() else { break };
        let numbers = (node.input(0).ok().and_then(ValueRef::number), node.input(1).ok().and_then(ValueRef::number));
        let next = match (node.op(), numbers) {
            ("Add", (None, Some(number))) => (0, number),
            ("Add", (Some(number), None)) => (1, number),
            ("Sub", (None, Some(number))) => (0, -number),
            // A running count of the tokens that are seen starts with 1.
            ("CumSum", _) => return whole(first + 1.0),
            // The count, where there is a token.
            ("Mul", _) => (usize::from(node.input(0).is_ok_and(|input| input.behind(PASSING).from(&["CumSum", "Add"]).is_err())), 0.0),
            _ => break,
        };
        first += next.1;
        let Ok(input) = node.input(next.0) else { break };
        at = input;
    }
    whole(first)
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sums of small whole numbers")]
fn whole(number: f64) -> i64 {
    number as i64
}

#[cfg(test)]
mod tests {
    use super::Role;
    use crate::ir::{Builder, DType, Dim, Expr, ModelInfo, Tensor};

    type Write = for<'g> fn(&'g Builder, Expr<'g>, Expr<'g>) -> Expr<'g>;

    struct Case {
        what: &'static str,
        /// Positions from tokens and mask.
        positions: Write,
        expected: Option<i64>,
    }

    /// `1, 2, 3, ...` where there is a token, else 0.
    fn count<'g>(b: &'g Builder, mask: Expr<'g>) -> Expr<'g> {
        b.op("CumSum", &[mask, b.int(1)], &[]) * mask
    }

    const CASES: &[Case] = &[
        Case {
            what: "GPT-2: from 0",
            positions: |b, ids, _| b.op("Range", &[b.int(0), b.op("Squeeze", &[b.op("Shape", &[ids], &[])], &[]), b.int(1)], &[]),
            expected: Some(40),
        },
        Case { what: "RoBERTa: behind the padding's row", positions: |b, _, mask| count(b, mask) + b.int(1), expected: Some(38) },
        Case { what: "OPT: two rows free", positions: |b, _, mask| count(b, mask) - b.int(1) + b.int(2), expected: Some(38) },
        Case { what: "no positions", positions: |_, _, mask| mask, expected: None },
    ];

    #[test]
    fn tables_tell_how_many_positions_there_are() {
        for case in CASES {
            let b = Builder::new(ModelInfo::dialect());
            let shape = [Dim::symbol("batch"), Dim::symbol("seq")];
            let (ids, mask) = (b.input("input_ids", DType::I64, &shape), b.input("attention_mask", DType::I64, &shape));
            let table = |name: &str, rows: usize| b.initializer(name, Tensor::from_f32(&[rows, 2], &vec![0.5; rows * 2]));
            let tokens = b.op("Gather", &[table("tokens.weight", 50), ids], &[]);
            let positions = b.op("Gather", &[table("positions.weight", 40), (case.positions)(&b, ids, mask)], &[]);
            b.output("out", tokens + positions);
            let graph = b.finish().expect("the case is a valid graph");
            let anatomy = crate::anatomy::read(&graph);
            assert_eq!(anatomy.max_positions, case.expected, "{}", case.what);
            assert_eq!(anatomy.token_embedding, Some(0), "{}", case.what);
        }
    }

    #[test]
    fn a_signal_whose_states_are_added_to_scores_is_no_mask() {
        let b = Builder::new(ModelInfo::dialect());
        let signal = b.input("input_values", DType::F32, &[Dim::symbol("batch"), Dim::symbol("samples")]);
        let weight = |name: &str, shape: &[usize]| b.initializer(name, Tensor::from_f32(shape, &vec![0.5; shape.iter().product()]));
        let states = b.op("Conv", &[signal.unsqueeze(&[1]), weight("conv.weight", &[4, 1, 3])], &[]).transpose(&[0, 2, 1]);
        let [q, k, v] = ["q", "k", "v"].map(|name| states.matmul(weight(&format!("{name}.weight"), &[4, 4])));
        let gate = states.matmul(weight("gate.weight", &[4, 1]));
        let probabilities = (q.matmul(k.transpose(&[0, 2, 1])) * 0.5 + gate).softmax(-1);
        b.output("states", probabilities.matmul(v).matmul(weight("out.weight", &[4, 4])));
        let graph = b.finish().expect("a valid graph");
        let anatomy = crate::anatomy::read(&graph);
        assert!(anatomy.attentions.iter().any(|attention| !attention.masks.is_empty()), "the gate stands where masks do");
        assert_eq!(anatomy.inputs.attention_mask, None, "{:?}", anatomy.inputs.roles);
    }

    fn weight<'b>(b: &'b Builder, name: &str, rows: usize, columns: usize) -> Expr<'b> {
        let numbers: Vec<f32> = (0..rows * columns).map(|at| if at % 3 == 0 { 0.5 } else { -0.25 }).collect();
        b.initializer(name, Tensor::from_f32(&[rows, columns], &numbers))
    }

    /// The gated position bias of WavLM is made of hidden states and added to scores: what they are made of is no mask.
    #[test]
    fn a_sound_whose_states_are_added_to_scores_is_no_mask() {
        for has_mask in [false, true] {
            let b = Builder::new(ModelInfo::dialect());
            let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
            let sound = b.input("input_values", DType::F32, &[batch.clone(), seq.clone()]);
            let states = sound.unsqueeze(&[-1]).matmul(weight(&b, "feature.weight", 1, 4)).tanh();
            let project = |name: &str| states.matmul(weight(&b, name, 4, 4));
            let gate = states.matmul(weight(&b, "gate.weight", 4, 1)).sigmoid();
            let mut scores = project("q").matmul(project("k").t()) * 0.5 + gate;
            if has_mask {
                let seen = b.input("attention_mask", DType::I64, &[batch, seq]);
                scores = scores + (1.0 - seen.cast(DType::F32).unsqueeze(&[1])) * -1e9;
            }
            let context = scores.softmax(-1).matmul(project("v")).matmul(weight(&b, "o", 4, 4));
            b.output("logits", (states + context).mean(&[1]).squeeze(&[1]).matmul(weight(&b, "classifier.weight", 4, 3)));
            let graph = b.finish().expect("a valid graph");
            let anatomy = crate::anatomy::read(&graph);
            let role = |name: &str| anatomy.inputs.roles.iter().find(|(id, _)| graph.value_name(*id) == name).map(|(_, role)| *role);
            assert_eq!(anatomy.attentions.len(), 1, "{:?}", anatomy.misses);
            assert_eq!(role("input_values"), Some(Role::Column));
            assert_eq!(matches!(role("attention_mask"), Some(Role::AttentionMask(_))), has_mask);
        }
    }
}
