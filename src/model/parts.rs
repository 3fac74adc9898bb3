//! Models in several files: what one file gives is what another reads, and all are one graph to train.
//!
//! Outputs of parts are joined to inputs by their names: equal ones, and those that transformers and optimum give the states of an encoder
//! (`last_hidden_state`, read as `encoder_hidden_states`). A decoder's own inputs are then called as in the whole model: `decoder_input_ids`. What a
//! part sees of pictures stands at the places of a token, as `config.json` says.

mod folder;
mod pictures;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::anatomy::Front;
use crate::ir::{Attr, Builder, DType, Dim, Expr, Fact, Graph, ModelInfo, Node, Renaming, Tensor};
use crate::model::Beside;
use crate::{Context, Error, Place, Result};

pub use folder::{Split, of_pictures};

/// An output that fills an input of another name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The output, of one of the parts.
    pub output: String,
    /// The input, of another file.
    pub input: String,
    /// The token at whose places alone the output stands; elsewhere the input keeps what another output fills it with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<i64>,
}

/// The files of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The file whose outputs are the model's.
    pub model: PathBuf,
    /// The files that fill inputs of it, or of each other.
    pub parts: Vec<PathBuf>,
    /// What is joined beside what names tell.
    pub joins: Vec<Join>,
}

impl Files {
    /// A model in one file.
    #[must_use]
    pub fn one(model: &Path) -> Self {
        Self { model: model.to_path_buf(), ..Self::default() }
    }

    /// All files, the model's first.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.model).chain(&self.parts).map(PathBuf::as_path)
    }
}

/// What transformers and optimum call the states of an encoder, where it gives them and where a decoder reads them.
const GIVEN: &[&str] =
    &["last_hidden_state", "encoder_hidden_states", "hidden_states", "encoder_outputs", "encoder_output", "encoder_last_hidden_state"];
const READ: &[&str] = &["encoder_hidden_states", "encoder_outputs", "encoder_output", "encoder_last_hidden_state"];

/// The decoder's view of the encoder's mask, and what the encoder calls it.
const ENCODER_MASK: &str = "encoder_attention_mask";
const MASK: &str = "attention_mask";
const TOKENS: &str = "input_ids";

/// Inputs of a decoder that the whole model calls `decoder_..`.
const OF_DECODER: &[&str] = &[TOKENS, MASK, "position_ids", "inputs_embeds", "token_type_ids"];

/// Constants of fewer numbers are not looked for in the other files.
const LARGE: usize = 1024;

/// A file of a model, read.
pub struct File<'a> {
    /// The file.
    pub path: &'a Path,
    /// Its graph, functions inlined, in the dialect spoken inside.
    pub graph: Graph,
    /// Its names in the whole model.
    pub front: Front,
}

/// An input that another file fills.
struct Link {
    input: String,
    from: usize,
    output: String,
    /// Whether a decoder reads an encoder's states so.
    is_states: bool,
    /// What stands at the places of a token.
    placed: Option<Placed>,
}

/// An output that stands at the places of a token.
struct Placed {
    from: usize,
    output: String,
    token: i64,
}

impl Link {
    /// Whether a file fills the input, or a part of it.
    fn reads(&self, file: usize) -> bool {
        self.from == file || self.placed.as_ref().is_some_and(|placed| placed.from == file)
    }
}

/// Joins the files of a model, that with the model's outputs first, to one graph. Constants that files have in common are there once.
///
/// # Errors
/// A part that fills nothing, an input that several outputs could fill, parts that wait for each other.
pub fn join(files: &[File<'_>], joins: &[Join]) -> Result<Graph> {
    let links = all_links(files, joins)?;
    if let Some(unread) = (1..files.len()).find(|part| !links.iter().flatten().any(|link| link.reads(*part))) {
        return Err(fills_nothing(files, unread));
    }
    let b = Builder::new(model(files));
    let order = order(files, &links)?;
    let inside = files.iter().fold(BTreeSet::new(), |mut names, file| {
        names_inside(&file.graph, &mut names);
        names
    });
    let mut writing = Writing { b: &b, files, inside, constants: BTreeMap::new(), given: BTreeMap::new(), nodes: RefCell::default() };
    for file in order {
        writing.write(file, &links[file])?;
    }
    for (name, value) in writing.given.get(&0).into_iter().flatten() {
        b.output(name, *value);
    }
    b.finish_whole()
}

/// The joins that are asked for, with the one that `config.json` tells of a part that sees pictures and fills nothing by its names.
///
/// # Errors
/// As [`join`]; a configuration that cannot be read, or that does not say at which token's places pictures stand.
pub fn with_pictures(files: &[File<'_>], joins: &[Join], beside: &Beside) -> Result<Vec<Join>> {
    let implied = pictures::implied(files, &all_links(files, joins)?, pictures::token(beside)?)?;
    Ok(joins.iter().cloned().chain(implied).collect())
}

/// The inputs of each file that others fill.
fn all_links(files: &[File<'_>], joins: &[Join]) -> Result<Vec<Vec<Link>>> {
    check_joins(files, joins)?;
    (0..files.len()).map(|reader| links(files, reader, joins)).collect()
}

/// What the joined model's file would say beside its graph: the newest of each.
fn model(files: &[File<'_>]) -> ModelInfo {
    let mut model = files[0].graph.model().clone();
    for other in files.iter().map(|file| file.graph.model()) {
        model.ir_version = model.ir_version.max(other.ir_version);
        for opset in &other.opsets {
            let known = model.version_of(&opset.domain).unwrap_or_default();
            model = model.with_opset(&opset.domain, known.max(opset.version));
        }
    }
    model
}

fn inputs(graph: &Graph) -> impl Iterator<Item = &str> {
    graph.data_inputs().map(|id| graph.value_name(id))
}

fn outputs(graph: &Graph) -> impl Iterator<Item = &str> {
    graph.outputs().iter().map(|&id| graph.value_name(id))
}

fn list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.take(12).collect::<Vec<_>>().join(", ")
}

/// Whether the graph of a file reads what an input gives.
fn is_read(graph: &Graph, name: &str) -> bool {
    graph.data_inputs().any(|id| graph.value_name(id) == name)
}

fn check_joins(files: &[File<'_>], joins: &[Join]) -> Result<()> {
    for join in joins {
        let of = |has: fn(&Graph, &str) -> bool, name: &str| files.iter().any(|file| has(&file.graph, name));
        if !of(|graph, name| outputs(graph).any(|output| output == name), &join.output) {
            let all = list(files.iter().skip(1).flat_map(|file| outputs(&file.graph)));
            return Err(
                Error::not_found("output", &*join.output).with_hint(format!("`join OUTPUT=INPUT` names an output of a part: {all}"))
            );
        }
        if !of(is_read, &join.input) {
            let all = list(files.iter().flat_map(|file| inputs(&file.graph)));
            return Err(
                Error::not_found("input", &*join.input).with_hint(format!("`join OUTPUT=INPUT` names an input of the model: {all}"))
            );
        }
    }
    Ok(())
}

/// The inputs of a file that others fill.
fn links(files: &[File<'_>], reader: usize, joins: &[Join]) -> Result<Vec<Link>> {
    let mut found = vec![];
    for input in inputs(&files[reader].graph) {
        let of_input = || joins.iter().filter(|join| join.input == input);
        let asked: Vec<&str> = of_input().filter(|join| join.at.is_none()).map(|join| join.output.as_str()).collect();
        let placed = of_input().find_map(|join| Some((join.output.as_str(), join.at?)));
        let placed = placed.and_then(|(output, token)| Some(Placed { from: giver(files, output)?, output: output.to_owned(), token }));
        let is_states = READ.contains(&input);
        let fits = |output: &str| match &asked[..] {
            [] => output == input || (is_states && GIVEN.contains(&output)),
            asked => asked.contains(&output),
        };
        // The model's own outputs fill nothing: a decoder's cache is not its input in the same run.
        let others = files.iter().enumerate().skip(1).filter(|(number, _)| *number != reader);
        let candidates: Vec<(usize, &str)> = others
            .flat_map(|(number, file)| outputs(&file.graph).filter(|output| fits(output)).map(move |output| (number, output)))
            .collect();
        // An equal name says more than one that is alike.
        let equal: Vec<_> = candidates.iter().filter(|(_, output)| *output == input).copied().collect();
        match if equal.is_empty() { &candidates[..] } else { &equal[..] } {
            [] if placed.is_some() => return Err(nothing_elsewhere(&files[reader], input)),
            [] => {}
            [(from, output)] => found.push(Link { input: input.to_owned(), from: *from, output: (*output).to_owned(), is_states, placed }),
            several => {
                let names = several.iter().map(|(number, output)| format!("{output} of {}", files[*number].path.display()));
                let error = Error::mismatch(format!("outputs that fill {input}"), "one", names.collect::<Vec<_>>().join(", "));
                return Err(error.in_file(files[reader].path).with_hint(format!("say which with `join OUTPUT={input}`")));
            }
        }
    }
    Ok(found)
}

/// The part that gives an output.
fn giver(files: &[File<'_>], output: &str) -> Option<usize> {
    files.iter().enumerate().skip(1).find(|(_, file)| outputs(&file.graph).any(|name| name == output)).map(|(number, _)| number)
}

/// Pictures that stand at some places of an input which nothing else fills.
fn nothing_elsewhere(reader: &File<'_>, input: &str) -> Error {
    let error = Error::not_found("output", input).in_file(reader.path);
    error.with_hint("pictures stand among the vectors of tokens: name the file that gives these with `part embed_tokens.onnx`")
}

fn fills_nothing(files: &[File<'_>], part: usize) -> Error {
    let (model, file) = (&files[0], &files[part]);
    let found = format!("{}; {} reads {}", list(outputs(&file.graph)), model.path.display(), list(inputs(&model.graph)));
    Error::mismatch("outputs of the part", "one with the name of an input of the model", found)
        .in_file(file.path)
        .with_hint("`join OUTPUT=INPUT` joins an output to an input of another name")
}

/// Files each behind those that fill its inputs.
fn order(files: &[File<'_>], links: &[Vec<Link>]) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = vec![];
    while order.len() < files.len() {
        let is_ready = |file: &usize| {
            !order.contains(file)
                && (0..files.len()).all(|other| order.contains(&other) || !links[*file].iter().any(|link| link.reads(other)))
        };
        let Some(file) = (0..files.len()).find(is_ready) else {
            let waiting = files.iter().enumerate().filter(|(number, _)| !order.contains(number));
            let names: Vec<String> = waiting.map(|(_, file)| file.path.display().to_string()).collect();
            return Err(Error::invalid(format!("these files fill inputs of each other in a circle: {}", names.join(", "))));
        };
        order.push(file);
    }
    Ok(order)
}

/// The type and the shape of a constant.
type TypeAndShape = (String, Vec<usize>);

/// The joined graph while it is written.
struct Writing<'a, 'g> {
    b: &'g Builder,
    files: &'a [File<'a>],
    /// What bodies of any file name themselves.
    inside: BTreeSet<String>,
    /// Large constants that are there already, by type and shape.
    constants: BTreeMap<TypeAndShape, Vec<(Tensor, Expr<'g>)>>,
    /// What each file gives, by name.
    given: BTreeMap<usize, Vec<(std::sync::Arc<str>, Expr<'g>)>>,
    /// The names of nodes so far, and how often each was asked for.
    nodes: RefCell<BTreeMap<String, usize>>,
}

impl<'g> Writing<'_, 'g> {
    fn write(&mut self, number: usize, links: &[Link]) -> Result<()> {
        let File { path, graph, front } = &self.files[number];
        let filled = links.iter().map(|link| Ok((link.input.clone(), self.filled(link)?))).collect::<Result<BTreeMap<_, _>>>()?;
        let has_encoder = links.iter().any(|link| link.is_states);
        let lengths = lengths(graph, &filled, has_encoder).in_file(*path)?;
        let states = links.iter().find(|link| link.is_states).map(|link| filled[&link.input]);
        let b = self.b;
        let bind = |name: &str, fact: Fact| -> Result<Expr<'g>> {
            if let Some(value) = filled.get(name) {
                return Ok(*value);
            }
            if has_encoder && name == ENCODER_MASK {
                // Of an encoder that does not read tokens, the mask is not as long as its states, unless the decoder makes it so.
                return Ok(match b.input_named(MASK).filter(|_| b.input_named(TOKENS).is_some() || is_thinned(graph, name, &[])) {
                    Some(mask) => mask,
                    None => all_seen(b, states.unwrap_or_else(|| b.unknown()), fact.dtype),
                });
            }
            let is_decoders = has_encoder && OF_DECODER.contains(&name);
            let named = if is_decoders { format!("decoder_{name}") } else { name.to_owned() };
            let shape =
                fact.shape.map(|shape| shape.iter().map(|dim| dim.substitute(|name| lengths.get(name).cloned())).collect::<Vec<_>>());
            shared(b, &named, Fact::partial(fact.dtype, shape))
        };
        let constant = |name: &str| self.outside(number, front.constant(name));
        let value = |name: &str| self.outside(number, front.node(name));
        let nodes = &self.nodes;
        let node = |name: &str| unique(&mut nodes.borrow_mut(), &self.outside(number, front.node(name)));
        let annotation = |key: &str, value: &str| front.annotation(key, value);
        let renaming = Renaming { constant: Some(&constant), node: Some(&node), value: Some(&value), annotation: Some(&annotation) };
        let constants = &self.constants;
        let known = |tensor: &Tensor| {
            let alike = constants.get(&key(tensor)?)?;
            alike.iter().find(|(other, _)| other == tensor).map(|(_, value)| *value)
        };
        let given = b.splice_renamed(graph, renaming, known, bind).in_file(*path)?;
        self.given.insert(number, given);
        self.remember();
        Ok(())
    }

    /// What fills the input of a link.
    fn filled(&self, link: &Link) -> Result<Expr<'g>> {
        let filled = self.value(link.from, &link.output)?;
        let Some(placed) = &link.placed else { return Ok(filled) };
        let part = &self.files[link.from];
        let tokens = pictures::tokens(&part.graph).and_then(|name| self.b.input_named(name));
        let tokens = tokens.ok_or_else(|| Error::not_found("input", "input_ids").in_file(part.path))?;
        Ok(pictures::placed(filled, self.value(placed.from, &placed.output)?, tokens, placed.token))
    }

    fn value(&self, file: usize, output: &str) -> Result<Expr<'g>> {
        let found = self.given.get(&file).into_iter().flatten().find(|(name, _)| **name == *output);
        found.map(|(_, value)| *value).ok_or_else(|| Error::not_found("output", output))
    }

    /// A name of a part's that no body of another file has: around a body, nothing may be called as something in it. Names of modules are one
    /// and the same.
    fn outside(&self, file: usize, name: String) -> String {
        let is_free = file == 0 || name.contains('.') || !self.inside.contains(&name);
        if is_free { name } else { format!("{name}_of_part_{file}") }
    }

    /// Notes the large constants that are there.
    fn remember(&mut self) {
        self.constants.clear();
        for (value, tensor) in self.b.constants() {
            if let Some(key) = key(&tensor) {
                self.constants.entry(key).or_default().push((tensor, value));
            }
        }
    }
}

/// What the bodies in a graph name themselves.
fn names_inside(graph: &Graph, names: &mut BTreeSet<String>) {
    for body in bodies(graph) {
        names.extend(body.values().iter().map(|value| value.name.to_string()));
        names.extend(body.nodes().iter().map(|node| node.name.to_string()));
        names_inside(body, names);
    }
}

/// The bodies of a graph's nodes.
fn bodies(graph: &Graph) -> impl Iterator<Item = &Graph> {
    graph.nodes().iter().flat_map(|node| node.attrs.values()).flat_map(Attr::graphs).map(|body| &**body)
}

/// A name that no other node has; none for none.
fn unique(names: &mut BTreeMap<String, usize>, wanted: &str) -> String {
    if wanted.is_empty() {
        return String::new();
    }
    let mut name = wanted.to_owned();
    loop {
        let count = names.entry(name.clone()).or_insert(0);
        *count += 1;
        if *count == 1 {
            return name;
        }
        name = format!("{wanted}_{}", *count - 1);
    }
}

/// What large constants are looked up by; none for small ones, and those of strings.
fn key(tensor: &Tensor) -> Option<TypeAndShape> {
    let is_large = tensor.shape().len() > 1 && tensor.len() >= LARGE && tensor.bytes().is_some();
    is_large.then(|| (tensor.dtype().to_string(), tensor.shape().to_vec()))
}

/// What the names of lengths in a file's inputs mean in the joined graph: what fills an input tells them. A decoder's own lengths are not the
/// encoder's, though they may be called so.
fn lengths(graph: &Graph, filled: &BTreeMap<String, Expr<'_>>, is_decoder: bool) -> Result<BTreeMap<String, Dim>> {
    let mut known: BTreeMap<String, Dim> = BTreeMap::new();
    let (mut batches, mut others) = (BTreeSet::new(), BTreeSet::new());
    for id in graph.data_inputs() {
        let name = graph.value_name(id);
        let Some(shape) = &graph.fact(id).shape else { continue };
        if let Some(value) = filled.get(name) {
            let given = value.fact();
            let fits = given.shape.as_ref().is_none_or(|given| given.len() == shape.len());
            if !fits || (given.dtype.is_some() && graph.fact(id).dtype.is_some() && given.dtype != graph.fact(id).dtype) {
                let error = Error::mismatch("what fills this input", graph.fact(id), given).at(Place::Tensor(name.to_owned()));
                return Err(error.with_hint("the files are of different models, or `join` names the wrong output"));
            }
            for (own, given) in shape.iter().zip(given.shape.iter().flatten()) {
                if let Some(symbol) = own.as_name() {
                    known.entry(symbol.to_owned()).or_insert_with(|| given.clone());
                }
            }
        } else {
            batches.extend(shape.first().and_then(Dim::as_name).map(str::to_owned));
            others.extend(shape.iter().skip(1).flat_map(Dim::names));
        }
    }
    if let Some(batch) = filled.values().find_map(|value| value.fact().shape?.first().cloned()) {
        for name in batches {
            known.entry(name).or_insert_with(|| batch.clone());
        }
    }
    for name in others.into_iter().filter(|_| is_decoder) {
        let own = Dim::symbol(&format!("decoder_{}", name.trim_start_matches("decoder_")));
        known.entry(name).or_insert(own);
    }
    Ok(known)
}

/// The input of a name, which files may share.
fn shared<'g>(b: &'g Builder, name: &str, fact: Fact) -> Result<Expr<'g>> {
    match b.input_named(name) {
        None => Ok(b.input_value(name, fact, None)),
        Some(input) if input.fact().rank() == fact.rank() => Ok(match fact.dtype {
            Some(dtype) if input.fact().dtype != fact.dtype => input.cast(dtype),
            _ => input,
        }),
        Some(input) => Err(Error::mismatch("an input of two files", input.fact(), fact).at(Place::Tensor(name.to_owned()))),
    }
}

/// Whether a graph takes only some numbers of an input, at regular distances: of samples of a sound, those that its positions begin at (Moonshine).
fn is_thinned(graph: &Graph, input: &str, around: &[&Graph]) -> bool {
    let graphs: Vec<&Graph> = around.iter().copied().chain([graph]).collect();
    let constant = |id| {
        let name = graph.value_name(id);
        graphs.iter().find_map(|graph| graph.constant(graph.find(name)?))
    };
    let steps = |slice: &Node| constant(slice.input(4)?).and_then(Tensor::to_i64);
    let is_outer = |id| graph.is_input(id) || graph.captured().contains(&id);
    let is_read = |node: &&Node| &*node.op == "Slice" && node.input(0).is_some_and(|id| is_outer(id) && graph.value_name(id) == input);
    let is_here = graph.nodes().iter().filter(is_read).any(|slice| steps(slice).is_some_and(|steps| steps.iter().any(|step| *step > 1)));
    is_here || bodies(graph).any(|body| is_thinned(body, input, &graphs))
}

/// A mask that hides none of an encoder's states, `[batch, length]`.
fn all_seen<'g>(b: &'g Builder, states: Expr<'g>, dtype: Option<DType>) -> Expr<'g> {
    let shape = states.length(0).concat(&[states.length(1)], 0);
    let one = b.int(1).cast(dtype.unwrap_or(DType::I64));
    b.op("Expand", &[one, shape], &[])
}
