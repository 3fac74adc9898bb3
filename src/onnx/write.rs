//! Writing ONNX files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use super::attribute;
use super::proto::{
    AttributeProto, FREE_INITIALIZERS, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, entry,
};
use super::storage::{Storage, Store, Stored};
use super::together::Way;
use super::{tensor, types};
use crate::error::{Context, Error, Place, Result};
use crate::files::Staged;
use crate::ir::{Attr, Graph, Node, Value, ValueId};

/// How a model is written.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Where the data of initializers goes.
    pub storage: Storage,
}

/// The most bytes a protobuf message may have, by the protobuf documentation.
const MAX_MESSAGE: usize = 0x7fff_ffff;

/// Writes a model, the same bytes for the same graph. The files appear when they are complete, data before the model; existing ones
/// of the same names are replaced, a model with its data file together.
///
/// # Errors
/// If the model needs more than 2 GB in one file, or a file cannot be written.
pub fn write(graph: &Graph, path: &Path, options: &WriteOptions) -> Result<()> {
    let way = Way::choose(path, &options.storage)?;
    let (target, storage) = way.target(path, &options.storage);
    let mut store = Stored::new(&target, &storage);
    let message = model(graph, &mut store).in_file(path)?;
    let bytes = encoded(&message).in_file(path)?;
    let mut staged = Staged::new(&target)?;
    staged.write(&bytes)?;
    match store.into_data() {
        Some(data) => staged.finish_behind(data, way.gone())?,
        None => staged.finish()?,
    }
    way.finish()
}

/// A model as the bytes of its file, weights and all.
///
/// # Errors
/// If it needs more than 2 GB.
pub fn to_bytes(graph: &Graph) -> Result<Vec<u8>> {
    encoded(&model(graph, &mut Stored::new(Path::new(""), &Storage::Inline))?)
}

/// Models that share one file of weights: what several of them have is written once.
#[derive(Debug)]
pub struct Sharing {
    store: Stored,
}

impl Sharing {
    /// With the weights in a new file of this name: in a folder, or in memory.
    #[must_use]
    pub fn new(folder: Option<&Path>, file: &str) -> Self {
        Self { store: Stored::shared(folder.map(Path::to_path_buf), file) }
    }

    /// The bytes of a model's own file.
    ///
    /// # Errors
    /// If they are more than 2 GB, or the file of the weights cannot be written.
    pub fn put(&mut self, graph: &Graph) -> Result<Vec<u8>> {
        encoded(&model(graph, &mut self.store)?)
    }

    /// Puts the file of the weights into its place, or gives it if it is in memory; none if no model has weights to put there.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(self) -> Result<Option<Vec<u8>>> {
        self.store.finish()
    }
}

fn encoded(message: &ModelProto) -> Result<Vec<u8>> {
    let size = message.encoded_len();
    if size > MAX_MESSAGE {
        let error = Error::mismatch("size of the model file", "less than 2 GB", format!("{size} bytes"));
        return Err(error.with_hint("store the weights in a file of their own (external data)"));
    }
    Ok(message.encode_to_vec())
}

/// The message of a graph.
pub(super) fn model(graph: &Graph, store: &mut dyn Store) -> Result<ModelProto> {
    let info = graph.model();
    let mut message: ModelProto = kept(info.rest.as_ref())?;
    let mut versions: Vec<(String, i64)> = info.opsets.iter().map(|opset| (opset.domain.to_string(), opset.version)).collect();
    for domain in domains(graph) {
        if info.version_of(domain).is_none() {
            versions.push((domain.to_owned(), 1));
        }
    }
    message.ir_version = Some(info.ir_version);
    message.opset_import =
        versions.into_iter().map(|(domain, version)| OperatorSetIdProto { domain: Some(domain), version: Some(version) }).collect();
    let (names, mut lifted) = (Names::of(graph), vec![]);
    let writer = Writer {
        graph,
        store,
        constants_are_inputs: info.ir_version < FREE_INITIALIZERS,
        names: &names,
        lifted: &mut lifted,
        level: Level::Outermost,
    };
    let mut whole = writer.graph()?;
    whole.initializer.append(&mut lifted);
    for (info, &id) in whole.output.iter_mut().zip(graph.outputs()) {
        types::complete(info, graph.fact(id));
    }
    message.graph = Some(whole);
    Ok(message)
}

/// The domains of all operators, those in bodies too.
fn domains(graph: &Graph) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for node in graph.nodes() {
        found.insert(node.domain_and_name().0);
        node.attrs.values().flat_map(Attr::graphs).for_each(|body| found.extend(domains(body)));
    }
    found
}

/// A message that was kept as it was encoded.
pub(super) fn kept<M: Message + Default>(bytes: Option<&Bytes>) -> Result<M> {
    bytes.map_or_else(|| Ok(M::default()), |bytes| M::decode(bytes.clone()).map_err(|why| Error::format("a message kept from a file", why)))
}

fn declared(value: &Value) -> Result<Option<ValueInfoProto>> {
    value.declared.as_ref().map(|bytes| kept(Some(bytes))).transpose()
}

struct Writer<'a> {
    graph: &'a Graph,
    store: &'a mut dyn Store,
    constants_are_inputs: bool,
    names: &'a Names,
    /// Constants of bodies that are written with those of the outermost graph, whose names mean the same inside.
    lifted: &'a mut Vec<TensorProto>,
    level: Level,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Outermost,
    Body,
}

/// Names that stand for one value in the whole model: a constant of such a name may move out of its body.
struct Names(HashMap<String, usize>);

impl Names {
    /// Counts nothing where no body has constants of its own.
    fn of(graph: &Graph) -> Self {
        let mut counts = HashMap::new();
        if bodies(graph).any(has_constants) {
            count_names(graph, &mut counts);
        }
        Self(counts)
    }

    fn is_unique(&self, name: &str) -> bool {
        self.0.get(name) == Some(&1)
    }
}

fn bodies(graph: &Graph) -> impl Iterator<Item = &Graph> {
    graph.nodes().iter().flat_map(|node| node.attrs.values()).flat_map(Attr::graphs).map(AsRef::as_ref)
}

fn has_constants(body: &Graph) -> bool {
    body.initializers().next().is_some() || bodies(body).any(has_constants)
}

fn count_names(graph: &Graph, counts: &mut HashMap<String, usize>) {
    let made = graph.nodes().iter().flat_map(Node::writes).chain(graph.inputs().iter().copied());
    for id in made.chain(graph.initializers().map(|(id, _)| id)).collect::<BTreeSet<_>>() {
        *counts.entry(graph.value_name(id).to_owned()).or_default() += 1;
    }
    bodies(graph).for_each(|body| count_names(body, counts));
}

impl Writer<'_> {
    fn graph(mut self) -> Result<GraphProto> {
        let graph = self.graph;
        let mut message: GraphProto = kept(graph.extra())?;
        self.drop_words_on_what_is_gone(&mut message);
        message.name = Some(graph.name().to_owned());
        message.input = graph.inputs().iter().map(|&id| self.input(id)).collect::<Result<_>>()?;
        message.output = graph.outputs().iter().map(|&id| self.value(id)).collect::<Result<_>>()?;
        message.value_info.extend(self.inner_values()?);
        let mut words: HashMap<String, TensorProto> = message.initializer.drain(..).map(|words| (words.name().to_owned(), words)).collect();
        for (id, tensor) in graph.initializers() {
            let name = graph.value_name(id);
            let is_default = graph.is_input(id);
            let data = match (is_default, self.level) {
                (true, _) => self.store.put_default(name, tensor),
                (false, Level::Body) => self.store.put_inner(name, tensor),
                (false, _) => self.store.put(name, tensor),
            };
            let mut data = data.at(Place::Tensor(name.to_owned()))?;
            if let Some(words) = words.remove(name) {
                (data.doc_string, data.metadata_props) = (words.doc_string, words.metadata_props);
            }
            if self.level == Level::Body && self.store.is_elsewhere(&data) {
                if self.names.is_unique(name) {
                    self.lifted.push(data);
                    continue;
                }
                data = tensor::to_inline(name, tensor);
            }
            message.initializer.push(data);
            if self.constants_are_inputs && !is_default {
                message.input.push(self.value(id)?);
            }
        }
        for node in graph.nodes() {
            let message_of_node = self.node(node).at(Place::Node(node.name.to_string()))?;
            message.node.push(message_of_node);
        }
        Ok(message)
    }

    fn value(&self, id: ValueId) -> Result<ValueInfoProto> {
        let value = self.graph.value(id);
        Ok(types::value_info(&value.name, &value.fact, declared(value)?))
    }

    fn input(&self, id: ValueId) -> Result<ValueInfoProto> {
        let value = self.graph.value(id);
        Ok(types::input_info(&value.name, &value.fact, declared(value)?))
    }

    /// What the file said of values that are neither inputs nor outputs.
    fn inner_values(&self) -> Result<Vec<ValueInfoProto>> {
        let graph = self.graph;
        let made = graph.nodes().iter().flat_map(Node::writes).chain(graph.initializers().map(|(id, _)| id));
        let shown: BTreeSet<ValueId> = graph.inputs().iter().chain(graph.outputs()).copied().collect();
        let constants = if self.constants_are_inputs { graph.initializers().map(|(id, _)| id).collect() } else { BTreeSet::new() };
        let inner = made.filter(|id| !shown.contains(id) && !constants.contains(id) && graph.value(*id).declared.is_some());
        inner.map(|id| self.value(id)).collect()
    }

    fn drop_words_on_what_is_gone(&self, message: &mut GraphProto) {
        if message.quantization_annotation.is_empty() && message.sparse_initializer.is_empty() {
            return;
        }
        let names: BTreeSet<&str> = self.graph.values().iter().map(|value| &*value.name).collect();
        message.quantization_annotation.retain(|annotation| names.contains(annotation.tensor_name()));
        message.sparse_initializer.retain(|sparse| names.contains(super::order::sparse_name(sparse)));
    }

    fn node(&mut self, node: &Node) -> Result<NodeProto> {
        let mut message: NodeProto = kept(node.extra.as_ref())?;
        let name_of = |id: &Option<ValueId>| id.map_or_else(String::new, |id| self.graph.value_name(id).to_owned());
        message.input = node.inputs.iter().map(name_of).collect();
        message.output = node.outputs.iter().map(name_of).collect();
        let (domain, op) = node.domain_and_name();
        message.op_type = Some(op.to_owned());
        message.domain = (!domain.is_empty()).then(|| domain.to_owned());
        message.name = (!node.name.is_empty()).then(|| node.name.to_string());
        message.metadata_props = node.metadata.iter().map(|(key, value)| entry(key, value)).collect();
        let words: BTreeMap<String, AttributeProto> = message.attribute.drain(..).map(|words| (words.name().to_owned(), words)).collect();
        for (name, attr) in &node.attrs {
            let attribute = attribute::write(name, attr, words.get(&**name), |body| {
                let (store, lifted) = (&mut *self.store, &mut *self.lifted);
                Writer { graph: body, store, constants_are_inputs: false, names: self.names, lifted, level: Level::Body }.graph()
            })?;
            message.attribute.push(attribute);
        }
        Ok(message)
    }
}
