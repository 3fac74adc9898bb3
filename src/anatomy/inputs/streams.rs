//! What each data input is for: by where it leads, and by its name where that does not tell.

use std::collections::BTreeSet;

use crate::ir::{DType, Graph, Trait, ValueId};

use super::super::walk::{NodeRef, ValueRef};
use super::super::{Attention, CacheSlot, Embedding, MaskForm, Role};
use super::{PASSING, SEGMENTS, mask};

/// What is known when inputs are looked at.
pub(super) struct Looking<'g> {
    pub(super) graph: &'g Graph,
    pub(super) embeddings: &'g [Embedding],
    pub(super) attentions: &'g [Attention],
    pub(super) cache: &'g [CacheSlot],
    /// Whether positions that the graph counts itself are looked up.
    pub(super) counts_positions: bool,
    /// As many numbers as the head gives for each row.
    pub(super) classes: Option<i64>,
}

/// The inputs that read tables.
pub(super) struct Streams {
    /// The table of the tokens, by its place.
    pub(super) tokens: Option<usize>,
    pub(super) token_ids: Option<ValueId>,
    decoder_ids: Option<ValueId>,
    /// Inputs with the tables that they read directly, by their places.
    readers: Vec<(ValueId, Vec<usize>)>,
}

/// Names that inputs have in Hugging Face's models.
const KNOWN: &[(&str, Role)] = &[
    ("input_ids", Role::InputIds),
    ("position_ids", Role::PositionIds),
    ("token_type_ids", Role::TokenTypeIds),
    ("pixel_values", Role::PixelValues),
    ("pixel_attention_mask", Role::PixelMask),
    ("pixel_mask", Role::PixelMask),
    ("decoder_input_ids", Role::DecoderInputIds),
    ("use_cache_branch", Role::UseCacheBranch),
    ("labels", Role::Labels),
    ("head_mask", Role::HeadMask),
    ("decoder_head_mask", Role::HeadMask),
    ("cross_attn_head_mask", Role::HeadMask),
];

const ATTENTION_MASK: &str = "attention_mask";

/// Parts of names, of inputs that nothing else tells about or of the tables that they read.
const POSITIONS: &[&str] = &["position", "pos_ids", "pos_emb", "embed_pos", "wpe"];
const TYPES: &[&str] = &["token_type", "segment", "type_ids", "type_emb"];
const DECODER: &[&str] = &["decoder", "tgt", "trg", "target"];

/// Joins of inputs with other numbers, one behind the other, at most.
const MOST_PARTS: usize = 4;

/// A table of fewer rows is of segments, whatever it is called.
const FEW: i64 = 4;

/// Operators between positions and the angles that they become.
const ANGLES: &[&str] = &[
    "Add",
    "Cast",
    "Concat",
    "Einsum",
    "Expand",
    "Identity",
    "MatMul",
    "Mul",
    "Reshape",
    "Slice",
    "Squeeze",
    "Sub",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// Operators between an image and the first convolution.
const PREPARING: &[&str] = &["Add", "Cast", "Div", "Identity", "Mul", "Reshape", "Sub", "Transpose", "Unsqueeze"];

/// Operators that keep what was read from a table as it is.
const LAYOUT: &[&str] = &["Cast", "Concat", "Expand", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"];

const LOSSES: &[&str] = &["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"];
/// The input that a value has the numbers of, through so many joins at most.
fn leads_back(value: ValueRef<'_>, data: &[ValueId], joins: usize) -> Option<ValueId> {
    let mut at = value;
    loop {
        at = at.behind(PASSING).behind(&["Transpose"]).behind(PASSING);
        if data.contains(&at.id()) {
            return Some(at.id());
        }
        let node = at.producer()?;
        at = match node.op() {
            // A table with rows in front that no token has.
            "Add" | "Sub" => match (node.input(0).ok()?, node.input(1).ok()?) {
                (x, number) if number.number().is_some() => x,
                (number, x) if number.number().is_some() => x,
                _ => return None,
            },
            // Tokens behind places that others fill, such as a prompt's.
            "Concat" if joins > 0 => {
                let mut parts = node.inputs().filter_map(|part| leads_back(part, data, joins - 1));
                return parts.next().filter(|_| parts.next().is_none());
            }
            _ => return None,
        };
    }
}

impl Looking<'_> {
    /// An input's name as its model would call it: exporters put a number, or a prefix, at its ends.
    fn name(&self, id: ValueId) -> String {
        let name = self.graph.value_name(id).to_lowercase();
        let name = name.strip_prefix("serving_default_").unwrap_or(&name);
        let name = name.split(':').next().filter(|name| *name != "onnx").unwrap_or(name);
        match name.rsplit_once('.') {
            Some((name, number)) if number.chars().all(|c| c.is_ascii_digit()) => name.to_owned(),
            _ => name.to_owned(),
        }
    }

    fn has(&self, id: ValueId, parts: &[&str]) -> bool {
        let name = self.name(id);
        parts.iter().any(|part| name.contains(part))
    }

    fn rank(&self, id: ValueId) -> Option<usize> {
        self.graph.fact(id).rank()
    }

    fn is_float(&self, id: ValueId) -> bool {
        self.graph.fact(id).dtype.is_some_and(DType::is_float)
    }

    /// The input whose numbers are the rows that are read.
    fn read_by(&self, table: &Embedding, data: &[ValueId]) -> Option<ValueId> {
        leads_back(ValueRef::new(self.graph, table.indices), data, MOST_PARTS)
    }

    /// All nodes that a value reaches through some operators, and their readers.
    fn ahead(&self, from: ValueId, through: &[&str]) -> Vec<NodeRef<'_>> {
        let (mut found, mut seen, mut waiting) = (vec![], BTreeSet::new(), vec![from]);
        while let Some(value) = waiting.pop() {
            for node in ValueRef::new(self.graph, value).readers().filter(|node| seen.insert(node.id())).collect::<Vec<_>>() {
                if node.is(through) {
                    waiting.extend(node.node().writes());
                }
                found.push(node);
            }
        }
        found
    }

    fn leads_to(&self, from: ValueId, through: &[&str], to: &[&str]) -> bool {
        self.ahead(from, through).iter().any(|node| node.is(to))
    }

    /// Whether a table holds what positions are rotated by: its rows are multiplied, not added.
    fn is_rotation(&self, table: &Embedding) -> bool {
        let readers = self.ahead(table.output, LAYOUT);
        let mut ends = readers.iter().filter(|node| !node.is(LAYOUT)).peekable();
        let multiplied = |node: &&NodeRef<'_>| {
            node.is(&["com.microsoft:RotaryEmbedding", "RotaryEmbedding"])
                || (node.is(&["Mul"]) && node.inputs().all(|input| !input.is_single()))
        };
        ends.peek().is_some() && ends.all(|node| multiplied(&node))
    }

    /// A mask that weights positions before they are summed up.
    fn is_pooling(&self, id: ValueId) -> bool {
        let ahead = self.ahead(id, &["Cast", "Expand", "Identity", "Reshape", "Unsqueeze"]);
        let is_weight = ahead.iter().any(|node| node.is(&["Mul"]) && node.inputs().all(|input| !input.is_constant()));
        is_weight && ahead.iter().any(|node| node.is(&["ReduceSum"]))
    }
}

impl Streams {
    pub(super) fn find(looking: &Looking<'_>, data: &[ValueId]) -> Self {
        let mut readers: Vec<(ValueId, Vec<usize>)> = vec![];
        for (at, table) in looking.embeddings.iter().enumerate() {
            let Some(id) = looking.read_by(table, data) else { continue };
            match readers.iter_mut().find(|(reader, _)| *reader == id) {
                Some((_, tables)) => tables.push(at),
                None => readers.push((id, vec![at])),
            }
        }
        let mut streams = Self { tokens: None, token_ids: None, decoder_ids: None, readers };
        streams.find_tokens(looking);
        streams
    }

    /// Tokens are what nothing says is anything else. Of several such inputs, one is the decoder's where there is one.
    fn find_tokens(&mut self, looking: &Looking<'_>) {
        let open: Vec<(ValueId, usize)> = self
            .readers
            .iter()
            .filter(|(id, _)| self.beside_tokens(looking, *id).is_none())
            .filter_map(|(id, tables)| {
                let words = tables.iter().copied().filter(|&at| looking.embeddings[at].rows > SEGMENTS);
                Some((*id, { words }.find(|&at| !looking.is_rotation(&looking.embeddings[at]))?))
            })
            .collect();
        let has_decoder = |id: ValueId| looking.has(id, DECODER) && !looking.name(id).starts_with("encoder");
        let named = open.iter().copied().find(|(id, _)| has_decoder(*id) && open.len() > 1);
        let named = named.or_else(|| open.iter().copied().find(|(id, _)| looking.name(*id) == "decoder_input_ids"));
        let rest: Vec<(ValueId, usize)> = open.iter().copied().filter(|stream| Some(*stream) != named).collect();
        let has_encoder = named.is_some() || looking.attentions.iter().any(|attention| attention.cross);
        let rows = |at: usize| looking.embeddings[at].rows;
        let known = || rest.iter().find(|(id, _)| looking.name(*id) == "input_ids");
        let predicted = || rest.iter().find(|(_, at)| Some(rows(*at)) == looking.classes);
        let largest = || rest.iter().rev().max_by_key(|(_, at)| rows(*at));
        let first = if has_encoder { known().or_else(|| rest.first()) } else { known().or_else(predicted).or_else(largest) };
        (self.token_ids, self.tokens) = (first.map(|(id, _)| *id), first.map(|(_, at)| *at));
        let second = || rest.iter().find(|stream| has_encoder && Some(stream.0) != self.token_ids).copied();
        self.decoder_ids = named.or_else(second).map(|(id, _)| id);
    }

    fn tables<'a>(&'a self, looking: &'a Looking<'_>, id: ValueId) -> impl Iterator<Item = &'a Embedding> {
        self.readers.iter().filter(move |(reader, _)| *reader == id).flat_map(|(_, tables)| tables).map(|&at| &looking.embeddings[at])
    }

    /// What an input is that reads a table, where names or the table say that it is not tokens.
    fn beside_tokens(&self, looking: &Looking<'_>, id: ValueId) -> Option<Role> {
        let known = KNOWN.iter().find(|(name, _)| *name == looking.name(id)).map(|(_, role)| *role);
        if known.is_some() {
            return known.filter(|role| !matches!(role, Role::InputIds | Role::DecoderInputIds));
        }
        let called = |parts: &[&str]| {
            let of_tables = |part: &&str| self.tables(looking, id).any(|table| table.module.to_lowercase().contains(part));
            looking.has(id, parts) || parts.iter().any(of_tables)
        };
        let most = self.tables(looking, id).map(|table| table.rows).max()?;
        let has_rotation =
            self.tables(looking, id).all(|table| looking.is_rotation(table)) || looking.leads_to(id, ANGLES, &["Cos", "Sin"]);
        if has_rotation || called(POSITIONS) {
            return Some(Role::PositionIds);
        }
        (most <= FEW || (most <= SEGMENTS && called(TYPES)) || looking.has(id, TYPES)).then_some(Role::TokenTypeIds)
    }

    /// What an input is for. What has other axes than that, a column of the data fills.
    pub(super) fn role(&self, looking: &Looking<'_>, id: ValueId) -> Role {
        let role = self.told(looking, id);
        let shape = looking.graph.fact(id).shape.as_deref();
        let tokens = self.token_ids.and_then(|id| looking.graph.fact(id).shape.as_deref());
        let is_fit = match (role, shape) {
            // One row of positions for all rows of tokens.
            (Role::PositionIds, Some([length])) => tokens.is_none_or(|tokens| tokens.first() != Some(length)),
            // Models that see pictures have positions for the time, the rows and the columns of each token.
            (Role::PositionIds, Some([each, _, _])) => each.as_known().is_some(),
            (Role::TokenTypeIds | Role::PositionIds, Some(shape)) => shape.len() == 2,
            _ => true,
        };
        if is_fit { role } else { Role::Column }
    }

    fn told(&self, looking: &Looking<'_>, id: ValueId) -> Role {
        let name = looking.name(id);
        let is_past = looking.cache.iter().any(|slot| slot.past == id) || name.starts_with("past");
        if is_past {
            return Role::Past;
        }
        if Some(id) == self.token_ids {
            return Role::InputIds;
        }
        if Some(id) == self.decoder_ids {
            return Role::DecoderInputIds;
        }
        let known = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, role)| *role);
        let known = known.or_else(|| self.beside_tokens(looking, id));
        if let Some(role) = known {
            return role;
        }
        if self.readers.iter().any(|(reader, _)| *reader == id) {
            return if self.is_positions(looking, id) { Role::PositionIds } else { Role::Column };
        }
        let is_read = !looking.graph.uses(id).is_empty() || looking.graph.is_output(id);
        let other = if is_read { Role::Column } else { Role::Unread };
        self.of_structure(looking, id).or_else(|| Self::of_name(looking, id)).unwrap_or(other)
    }

    /// Whether an input is what positions are looked up by: where nothing else is, and one input alone reads a table that could be theirs.
    fn is_positions(&self, looking: &Looking<'_>, id: ValueId) -> bool {
        let is_open = |other: ValueId| Some(other) != self.token_ids && Some(other) != self.decoder_ids;
        let others = self.readers.iter().map(|(other, _)| *other).filter(|&other| is_open(other));
        let told = others.clone().any(|other| self.beside_tokens(looking, other) == Some(Role::PositionIds));
        let open = others.filter(|&other| self.beside_tokens(looking, other).is_none()).count();
        let rows = self.tables(looking, id).map(|table| table.rows).max();
        !looking.counts_positions && !told && open == 1 && rows.is_some_and(|rows| rows > SEGMENTS)
    }

    fn of_structure(&self, looking: &Looking<'_>, id: ValueId) -> Option<Role> {
        let is_whole = !looking.is_float(id);
        if is_whole && looking.leads_to(id, ANGLES, &["Cos", "Sin"]) {
            return Some(Role::PositionIds);
        }
        if is_whole && looking.leads_to(id, PASSING, LOSSES) {
            return Some(Role::Labels);
        }
        if is_whole && looking.rank(id) == Some(1) && looking.ahead(id, PASSING).iter().any(|node| node.has(Trait::Comparison)) {
            return Some(Role::Lengths);
        }
        if looking.rank(id) == Some(4) && !is_whole && looking.leads_to(id, PREPARING, &["Conv"]) {
            return Some(Role::PixelValues);
        }
        let masked: Vec<&Attention> = looking
            .attentions
            .iter()
            .filter(|attention| attention.masks.iter().any(|mask| mask::reaches(looking.graph, id, mask.value)))
            .collect();
        let form = masked.iter().find_map(|attention| mask::form(looking.graph, attention, id));
        if !masked.is_empty() && looking.rank(id).is_none_or(|rank| rank >= 2) {
            let of_decoder = self.decoder_ids.is_some() && masked.iter().all(|attention| attention.causal && !attention.cross);
            return Some(Self::mask_role(looking, id, of_decoder, form));
        }
        looking.is_pooling(id).then(|| Self::mask_role(looking, id, false, Some(MaskForm::Seen)))
    }

    /// Whether an input is known to say which tokens there are: it hides keys of attention, or is called so.
    pub(super) fn is_certain_mask(looking: &Looking<'_>, id: ValueId) -> bool {
        let hides = |attention: &Attention| mask::form(looking.graph, attention, id).is_some();
        looking.name(id) == ATTENTION_MASK || looking.attentions.iter().any(hides)
    }

    /// Whether an input has a name that masks of padding have.
    pub(super) fn is_called_padding(looking: &Looking<'_>, id: ValueId) -> bool {
        looking.has(id, &["attention", "pad", "valid"]) || ["mask", "masks"].contains(&looking.name(id).as_str())
    }

    fn mask_role(looking: &Looking<'_>, id: ValueId, of_decoder: bool, form: Option<MaskForm>) -> Role {
        let usual = if looking.is_float(id) && looking.rank(id) == Some(4) { MaskForm::Added } else { MaskForm::Seen };
        let form = form.unwrap_or(usual);
        let name = looking.name(id);
        match (of_decoder || name.contains("decoder"), name == "encoder_attention_mask") {
            (true, _) => Role::DecoderAttentionMask(form),
            (_, true) => Role::EncoderAttentionMask(form),
            _ => Role::AttentionMask(form),
        }
    }

    fn of_name(looking: &Looking<'_>, id: ValueId) -> Option<Role> {
        let rank = looking.rank(id);
        let is_whole = !looking.is_float(id);
        let has = |parts: &[&str]| looking.has(id, parts);
        match () {
            () if has(&["mask", "valid"]) && rank.is_none_or(|rank| rank >= 2) => Some(if has(&["decoder"]) {
                Role::DecoderAttentionMask(MaskForm::Seen)
            } else if looking.name(id) == "encoder_attention_mask" {
                Role::EncoderAttentionMask(MaskForm::Seen)
            } else {
                Role::AttentionMask(MaskForm::Seen)
            }),
            () if is_whole && has(POSITIONS) => Some(Role::PositionIds),
            () if is_whole && rank.is_none_or(|rank| rank >= 2) && has(&["token_type", "segment"]) => Some(Role::TokenTypeIds),
            () if rank == Some(4) && has(&["pixel", "image"]) => Some(Role::PixelValues),
            () if is_whole && rank == Some(1) && has(&["length"]) => Some(Role::Lengths),
            () if is_whole && has(&["label", "target"]) => Some(Role::Labels),
            () => None,
        }
    }
}
