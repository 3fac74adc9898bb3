//! Prefixes: learned keys and values in front of every layer's own (Li & Liang, Prefix-Tuning; Liu et al., P-Tuning v2; PEFT
//! `PeftModel.get_prompt`).
//!
//! A row of the file has, for each layer, the keys of all key-value heads and then the values: `[tokens, layers · 2 · heads · size]`. They
//! stand in front of what the attention reads, after rotation and repetition, and behind any cache, which keeps real tokens alone. Masks are
//! made again for the longer row of keys, and positions are counted from the number of virtual tokens on, as if the prefix were a past.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::prompt::of_virtual_tokens;
use crate::adapter::config::fields::{Fields, Flag};
use crate::adapter::config::options::Options;
use crate::adapter::config::settings::Settings;
use crate::adapter::config::{PrefixConfig, PrefixInit, PromptShape, Task, at_least_one};
use crate::adapter::method::{Configuration, Method, Placed, Places, Row};
use crate::adapter::params::init;
use crate::adapter::params::key::{Family, Tensors};
use crate::adapter::part::{Folding, Insertion, Part};
use crate::adapter::virtual_tokens::encoder::Encoder;
use crate::adapter::virtual_tokens::extended_masks::Longer;
use crate::adapter::virtual_tokens::rows::Rows;
use crate::adapter::virtual_tokens::{check_room, decoder, score_shapes};
use crate::anatomy::{Anatomy, Attention, Axis, Heads, Mask, Masking, PositionUse};
use crate::ir::{Attr, Builder, DType, Expr, Graph, Tensor, ValueId};
use crate::num;
use crate::{Error, Result};

/// Keys and values in front of those of every layer.
#[derive(Debug)]
struct Prefix {
    rows: Rows,
    /// What it starts from, if not from random numbers.
    start: Option<Tensor>,
    seed: u64,
    tokens: usize,
    shape: Sizes,
    has_encoder: bool,
}

/// Lengths that all layers share.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    layers: usize,
    kv_heads: usize,
    head: usize,
}

/// Deviation of fresh keys and values: small ones learn better than those of PEFT, which are normal with deviation 1 (PEFT's own
/// comparison of methods on MetaMathQA has 35.8 for zeros against 18.6).
const DEVIATION: f32 = 0.02;

/// The keys and values, `prompt_embeddings` `[tokens, layers · 2 · heads · size]`, are the only tensor of a prefix.
const TENSORS: Tensors = Tensors { parts: &[], shared: &[] };

/// The row of prefixes that a network computes; both kinds are of one `peft_type`.
pub static ROW: Row = Row {
    name: "prefix_tuning",
    aliases: &["prefix-tuning"],
    variants: &[],
    about: "Learned keys and values in front of every layer's, computed by a small network",
    peft_type: "PREFIX_TUNING",
    learning_rate: 5e-4,
    family: Family::Prompt,
    tensors: TENSORS,
    adapter_file: "prefix",
    takes: &[&["modules_to_save", "num_virtual_tokens", "prefix_projection", "encoder_hidden_size", "prompt_init", "prompt_init_text"]],
    page: "prefix-tuning.md",
    read: |fields| read(fields).map(Into::into),
    configure: |options: &Options| asked(options, true),
};

/// The row of prefixes that are trained as they are.
pub static P_TUNING_V2: Row = Row {
    name: "p_tuning_v2",
    aliases: &["p-tuning-v2", "ptuning-v2", "ptuningv2"],
    variants: &[],
    about: "Learned keys and values in front of every layer's",
    peft_type: "PREFIX_TUNING",
    learning_rate: 1e-2,
    family: Family::Prompt,
    tensors: TENSORS,
    adapter_file: "prefix",
    takes: &[&["modules_to_save", "num_virtual_tokens", "prompt_init", "prompt_init_text"]],
    page: "p-tuning-v2.md",
    read: |fields| read(fields).map(Into::into),
    configure: |options: &Options| asked(options, false),
};

fn asked(options: &Options, is_computed: bool) -> Result<Method> {
    Ok(PrefixConfig {
        num_virtual_tokens: options.virtual_tokens(),
        prefix_projection: is_computed || options.prefix_projection,
        encoder_hidden_size: options.encoder_hidden_size,
        init: options.prefix_init()?,
        modules_to_save: options.scope.modules_to_save.clone(),
        ..PrefixConfig::default()
    }
    .into())
}

fn read(fields: &Fields<'_>) -> Result<PrefixConfig> {
    fields.inert(&["init_weights"]);
    Ok(PrefixConfig {
        num_virtual_tokens: PromptShape::virtual_tokens(fields)?,
        prefix_projection: fields.flag("prefix_projection", Flag::Off)?,
        encoder_hidden_size: fields.size("encoder_hidden_size")?,
        init: PrefixInit::Random,
        modules_to_save: fields.names("modules_to_save")?,
        shape: PromptShape::read(fields)?,
    })
}

impl Configuration for PrefixConfig {
    fn row(&self) -> &'static Row {
        if self.prefix_projection { &ROW } else { &P_TUNING_V2 }
    }

    fn check(&self) -> Result<()> {
        at_least_one("encoder_hidden_size", self.encoder_hidden_size.unwrap_or(1))?;
        at_least_one("num_virtual_tokens", self.num_virtual_tokens)
    }

    fn write(&self, settings: &mut Settings) {
        self.shape.write(self.num_virtual_tokens, &self.modules_to_save, settings);
        settings.put("prefix_projection", self.prefix_projection);
        settings.put("encoder_hidden_size", json!(self.encoder_hidden_size));
    }

    fn modules_to_save(&self) -> &[String] {
        &self.modules_to_save
    }

    fn task_type(&self, task: Task) -> Option<&'static str> {
        of_virtual_tokens(task)
    }

    fn encoder(&self) -> Result<Option<Encoder>> {
        self.prefix_projection.then(|| Encoder::of_prefix(self)).transpose()
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        place(self, at)
    }
}

/// Finds the place of a prefix: every attention of a token with its own kind.
fn place(config: &PrefixConfig, at: &Places<'_>) -> Result<Placed> {
    check_room(at.anatomy, config.num_virtual_tokens)?;
    let has_encoder = decoder::is_behind_encoder(at.anatomy);
    let shape = sizes(at.anatomy)?;
    let mut config = config.clone();
    config.shape = PromptShape {
        token_dim: Some(shape.kv_heads * shape.head),
        num_layers: Some(shape.layers),
        num_attention_heads: Some(shape.kv_heads),
        num_transformer_submodules: Some(if has_encoder { 2 } else { 1 }),
    };
    config.encoder_hidden_size = config.encoder_hidden_size.or(config.shape.token_dim);
    at.saved.clone_into(&mut config.modules_to_save);
    if let PrefixInit::Text(text) = &config.init {
        return Err(Error::unsupported(format!("starting the prefix from {text:?}"), "its keys and values were not computed"));
    }
    let (tokens, start) = (config.num_virtual_tokens, config.init.rows().cloned());
    let settled = Method::from(config);
    let prefix = Prefix { rows: Rows::of(|| settled.encoder(), at.given, at.seed)?, start, seed: at.seed, tokens, shape, has_encoder };
    Ok(Placed { parts: vec![Box::new(prefix)], settled })
}

fn sizes(anatomy: &Anatomy) -> Result<Sizes> {
    let of = |attention: &Attention| {
        let head = attention.head_size?;
        let kv_heads = attention.kv_heads?;
        Some((usize::try_from(kv_heads).ok()?, usize::try_from(head).ok()?))
    };
    let all: Vec<Option<(usize, usize)>> = decoder::attentions(anatomy).map(of).collect();
    let Some(first) = all.first() else {
        return Err(Error::unsupported("prefixes in this graph", "no attention was recognised")
            .with_hint("`peft-onnx inspect --explain` says what was looked for"));
    };
    let Some((kv_heads, head)) = *first else {
        return Err(Error::unsupported("prefixes in this graph", "the number of heads of its attentions is not known"));
    };
    if all.iter().any(|other| other != first) {
        return Err(Error::unsupported("prefixes in this graph", "its layers have heads of different numbers or sizes"));
    }
    Ok(Sizes { layers: all.len(), kv_heads, head })
}

impl Part for Prefix {
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        let b = at.b;
        let rows = self.rows.write(at, || Ok(self.fresh()));
        let pieces = b.scoped("prefix", || self.pieces(rows));
        let longer = b.scoped("prefix", || Longer::new(at, self.tokens));
        let mut masks = BTreeSet::new();
        for (layer, attention) in decoder::attentions(at.anatomy).enumerate() {
            b.scoped(&format!("prefix/{layer}"), || {
                let scale = attention.key_scale.ok_or_else(|| Error::unsupported("a prefix", "the scale of the keys is not known"))?;
                let site = PrefixSite { b, graph: at.graph, attention, tokens: self.tokens };
                let [keys, values] = self.places(layer);
                site.put(&attention.keys, pieces[keys] * scale)?;
                site.put(&attention.values, pieces[values])?;
                site.open_masks(&longer, &mut masks)
            })?;
        }
        b.scoped("prefix", || self.shift_positions(at));
        b.infer_again();
        Ok(())
    }

    fn fold(&self, _: &Folding<'_>) -> Result<()> {
        Err(Error::unsupported("folding a prefix", "it has no weight to be folded into"))
    }

    fn is_baked(&self) -> bool {
        true
    }

    fn touches_attention(&self) -> bool {
        true
    }

    fn virtual_tokens(&self) -> usize {
        self.tokens
    }

    fn numbers(&self, _: &Anatomy) -> u128 {
        let Sizes { layers, kv_heads, head } = self.shape;
        self.rows.numbers(self.tokens, layers * 2 * kv_heads * head)
    }
}

impl Prefix {
    fn fresh(&self) -> Tensor {
        if let Some(start) = &self.start {
            return start.clone();
        }
        let Sizes { layers, kv_heads, head } = self.shape;
        let mut rng = init::generator(self.seed, "prompt_embeddings");
        init::normal(&mut rng, &[self.tokens, layers * 2 * kv_heads * head], DEVIATION)
    }

    /// Which pieces a layer's keys and values are. PEFT lays an encoder-decoder's pieces out twice and deals them out in fours, two of which its
    /// attention to the encoder does not use (`PeftModel.get_prompt`): layers get every other pair, from the first again at the end.
    fn places(&self, layer: usize) -> [usize; 2] {
        let keys = if self.has_encoder { (4 * layer) % (2 * self.shape.layers) } else { 2 * layer };
        [keys, keys + 1]
    }

    /// Keys and values layer by layer, each `[1, kv heads, tokens, size]`.
    fn pieces<'g>(&self, rows: Expr<'g>) -> Vec<Expr<'g>> {
        let size = num::int;
        let Sizes { layers, kv_heads, head } = self.shape;
        let apart = rows.reshape(&[size(self.tokens), size(2 * layers), size(kv_heads), size(head)]);
        apart.transpose(&[1, 2, 0, 3]).split(&vec![1; 2 * layers], 0)
    }

    /// Counts the positions of real tokens from the number of virtual ones on.
    fn shift_positions(&self, at: &Insertion<'_, '_>) {
        let b = at.b;
        let mut shifted: BTreeMap<ValueId, Expr<'_>> = BTreeMap::new();
        for place in decoder::positions(at.graph, at.anatomy) {
            let Some((output, position)) = reader(at.graph, *place) else { continue };
            let tokens = u32::try_from(self.tokens).unwrap_or(u32::MAX);
            let later = *shifted.entry(position).or_insert_with(|| b.expr(position) + f64::from(tokens));
            b.rewire_input(output, place.input, later);
        }
    }
}

/// The node's own output where a position is read, and the position. Rows of half precision are upcast behind the node that reads them.
fn reader(graph: &Graph, place: PositionUse) -> Option<(ValueId, ValueId)> {
    let mut output = place.output;
    loop {
        let node = graph.node(graph.producer(output)?);
        match node.input(place.input) {
            Some(position) => return Some((output, position)),
            None if &*node.op == "Cast" => output = node.input(0)?,
            None => return None,
        }
    }
}

/// A graph that gives the keys and values of its own tokens, as the rows of a prefix that stands for them: `rows`, float32
/// `[tokens, layers · 2 · heads · size]`, of a batch of one text.
///
/// # Errors
/// Attentions whose keys and values are not values of the graph, or not known well enough.
pub fn of_text(graph: &Graph, anatomy: &Anatomy) -> Result<Graph> {
    if decoder::is_behind_encoder(anatomy) {
        return Err(Error::unsupported("a prefix from a text in an encoder-decoder", "its layers share pieces of the prefix, as in PEFT"));
    }
    let shape = sizes(anatomy)?;
    let b = Builder::on(graph);
    let mut columns = vec![];
    for attention in decoder::attentions(anatomy) {
        let site = PrefixSite { b: &b, graph, attention, tokens: 0 };
        let scale = attention.key_scale.ok_or_else(|| site.refuse("the scale of its keys is not known"))?;
        columns.push(site.flattened(&attention.keys, shape)? * (1.0 / scale));
        columns.push(site.flattened(&attention.values, shape)?);
    }
    b.clear_outputs();
    b.output("rows", columns[0].concat(&columns[1..], 1));
    b.finish()
}

/// One attention that gets a prefix.
struct PrefixSite<'g, 'a> {
    b: &'g Builder,
    graph: &'a Graph,
    attention: &'a Attention,
    tokens: usize,
}

impl<'g> PrefixSite<'g, '_> {
    /// Puts `piece`, `[1, kv heads, tokens, size]`, in front of keys or values where the attention reads them.
    fn put(&self, heads: &Heads, piece: Expr<'g>) -> Result<()> {
        let own = self.b.expr(heads.value);
        let place = heads.axis(Axis::Seq).ok_or_else(|| self.refuse("its keys have no axis of positions"))?;
        let size = heads.axis(Axis::Size).and_then(|size| own.dims()?.get(size)?.as_known());
        if size.is_some_and(|size| self.attention.head_size.is_some_and(|head| head != size)) {
            return Err(self.refuse("it reads keys or values of another size than a cache holds"));
        }
        let piece = self.arranged(heads, piece, own)?.cast(own.dtype());
        let joined = piece.concat(&[own], num::int(place));
        let readers = self.readers(heads.value);
        if readers.is_empty() {
            return Err(self.refuse("keys and values are made inside of its operator"));
        }
        for (output, input) in readers {
            self.b.rewire_input(output, input, joined);
            if output != self.attention.output {
                score_shapes::lengthen(self.b, self.graph, output, self.attention.output, self.tokens)?;
            }
        }
        Ok(())
    }

    fn refuse(&self, why: &str) -> Error {
        Error::unsupported(format!("a prefix at {}", self.attention.module), why)
    }

    /// The places where the attention itself reads a value, as the node's output and the number of its input.
    fn readers(&self, value: ValueId) -> Vec<(ValueId, usize)> {
        const READS: &[&str] = &["MatMul", "com.microsoft:FusedMatMul", "Attention", "com.microsoft:MultiHeadAttention"];
        let uses = self.graph.uses(value).iter();
        uses.filter_map(|reader| {
            let node = self.graph.node(reader.node);
            READS.contains(&&*node.op).then(|| Some((node.output(0)?, reader.input?))).flatten()
        })
        .collect()
    }

    /// A piece with the heads, axes and batch of `own`.
    fn arranged(&self, heads: &Heads, piece: Expr<'g>, own: Expr<'g>) -> Result<Expr<'g>> {
        use Axis::{Batch, BatchHeads, Heads as HeadAxis, HeadsSize, Seq, Size};
        let size = |n: Option<i64>| n.filter(|n| *n > 0).ok_or_else(|| self.refuse("its numbers of heads are not known"));
        let (kv_heads, head) = (size(self.attention.kv_heads)?, size(self.attention.head_size)?);
        let tokens = num::int(self.tokens);
        let length = |axis: Axis| heads.axis(axis).and_then(|place| own.dims()?.get(place)?.as_known());
        let all_heads = match length(HeadsSize) {
            Some(joined) => joined / head,
            None => length(HeadAxis).or(self.attention.heads).unwrap_or(kv_heads),
        };
        let repeats = all_heads / kv_heads;
        // Every head a few times, as grouped queries read them.
        let piece = if repeats > 1 {
            let times = self.b.ints(&[1, 1, repeats, 1, 1]);
            piece.unsqueeze(&[2]).expand(times).reshape(&[1, all_heads, tokens, head])
        } else {
            piece
        };
        let batch = match heads.axis(Batch) {
            Some(place) => own.length(num::int(place)),
            None => own.length(0) / self.b.ints(&[all_heads]),
        };
        let whole = piece.expand(batch.concat(&[self.b.ints(&[1, 1, 1])], 0));
        let (apart, order) = if heads.axis(BatchHeads).is_some() {
            (whole.reshape(&[-1, tokens, head]), vec![BatchHeads, Seq, Size])
        } else if heads.axis(HeadsSize).is_some() {
            let joined = whole.transpose(&[0, 2, 1, 3]).reshape(&[0, tokens, all_heads * head]);
            (joined, vec![Batch, Seq, HeadsSize])
        } else {
            (whole, vec![Batch, HeadAxis, Seq, Size])
        };
        let place = |axis: &Axis| order.iter().position(|other| other == axis).and_then(|place| i64::try_from(place).ok());
        let perm: Option<Vec<i64>> = heads.axes.iter().map(place).collect();
        Ok(apart.transpose(&perm.ok_or_else(|| self.refuse("its axes are in an unknown order"))?))
    }

    /// Keys or values of one text as `[tokens, kv heads · size]`: what [`arranged`](Self::arranged) undoes.
    fn flattened(&self, heads: &Heads, shape: Sizes) -> Result<Expr<'g>> {
        use Axis::{Batch, BatchHeads, Heads as HeadAxis, HeadsSize, Seq, Size};
        let size = num::int;
        let (kv_heads, head) = (size(shape.kv_heads), size(shape.head));
        let own = self.b.expr(heads.value);
        let order = |wanted: &[Axis]| -> Result<Expr<'g>> {
            let place = |axis: &Axis| heads.axis(*axis).and_then(|place| i64::try_from(place).ok());
            let perm: Option<Vec<i64>> = wanted.iter().map(place).collect();
            Ok(own.transpose(&perm.ok_or_else(|| self.refuse("its axes are in an unknown order"))?))
        };
        // Every head, one behind the other: `[heads, tokens, size]`.
        let all = if heads.axis(BatchHeads).is_some() {
            order(&[BatchHeads, Seq, Size])?
        } else if heads.axis(HeadsSize).is_some() {
            order(&[Batch, Seq, HeadsSize])?.squeeze(&[0]).reshape(&[0, -1, head]).transpose(&[1, 0, 2])
        } else {
            order(&[Batch, HeadAxis, Seq, Size])?.squeeze(&[0])
        };
        // Of heads that grouped queries read several times, one.
        let tokens = self.b.int(1).reshape(&[1]);
        let lengths = self.b.ints(&[kv_heads, -1]).concat(&[all.length(1), self.b.ints(&[head])], 0);
        let once = all.reshape_to(lengths).slice_at(self.b.ints(&[0]), tokens, &[1]).squeeze(&[1]);
        Ok(once.transpose(&[1, 0, 2]).reshape(&[-1, kv_heads * head]).cast(DType::F32))
    }

    /// Gives every mask columns in front. `done` has masks that several layers share.
    fn open_masks(&self, longer: &Longer<'g, '_>, done: &mut BTreeSet<ValueId>) -> Result<()> {
        if self.attention.scores.is_none() && self.attention.causal && self.attention.masks.is_empty() {
            return Err(self.refuse("its operator hides later positions by itself"));
        }
        for mask in &self.attention.masks {
            let own = self.b.expr(mask.value);
            let is_one = own.dims().and_then(|dims| dims.last()?.as_known()) == Some(1);
            if is_one || !done.insert(mask.value) {
                continue;
            }
            let again = longer.mask(mask.value);
            if again.is_none() && longer.follows_from_tokens(mask.value) {
                return Err(self.refuse("its mask follows from hidden states, so that a prefix would need its own"));
            }
            let Some(wider) = again.or_else(|| self.opened(*mask)) else { continue };
            for reader in self.graph.uses(mask.value) {
                let node = self.graph.node(reader.node);
                let applies = ["Add", "Sub", "Where", "Attention", "com.microsoft:MultiHeadAttention"].contains(&&*node.op);
                if let (true, Some(output), Some(input)) = (applies, node.output(0), reader.input) {
                    self.b.rewire_input(output, input, wider);
                }
            }
        }
        Ok(())
    }

    /// The mask with columns in front that leave the virtual tokens open.
    fn opened(&self, mask: Mask) -> Option<Expr<'g>> {
        let own = self.b.expr(mask.value);
        let open = match mask.kind {
            Masking::Added | Masking::Subtracted | Masking::MaskedWhere => 0.0,
            Masking::KeptWhere => 1.0,
        };
        let dims = own.known_dims();
        let (_, leading) = dims.split_last()?;
        let tokens = self.b.ints(&[num::int(self.tokens)]);
        let lengths = if leading.is_empty() {
            tokens
        } else {
            let bounds = [("end", Attr::Int(-1))];
            let leading = self.b.shape(leading).unwrap_or_else(|| self.b.op("Shape", &[own], &bounds));
            leading.concat(&[tokens], 0)
        };
        let columns = match own.dtype() {
            DType::Bool => lengths.filled(open, DType::I64).cast(DType::Bool),
            dtype => lengths.filled(open, dtype),
        };
        Some(columns.concat(&[own], -1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_behind_an_encoder_gets_the_pieces_that_peft_deals_out() {
        let sizes = |layers| Sizes { layers, kv_heads: 1, head: 2 };
        let prefix = |layers, has_encoder| Prefix {
            rows: Rows::without_network(),
            start: None,
            seed: 0,
            tokens: 1,
            shape: sizes(layers),
            has_encoder,
        };
        let places = |prefix: &Prefix| (0..prefix.shape.layers).map(|layer| prefix.places(layer)).collect::<Vec<_>>();
        assert_eq!(places(&prefix(3, false)), [[0, 1], [2, 3], [4, 5]]);
        assert_eq!(places(&prefix(3, true)), [[0, 1], [4, 5], [2, 3]]);
        assert_eq!(places(&prefix(2, true)), [[0, 1], [0, 1]]);
    }
}
