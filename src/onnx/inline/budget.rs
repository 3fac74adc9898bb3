//! How much calls of functions may unfold into.
//!
//! Functions that call each other several times each multiply: a file of a kilobyte can stand for more nodes than any memory holds.

use prost::Message;

use super::super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use crate::error::{Error, Result};

/// Bytes that calls may unfold into: a model of some hundred thousand nodes.
const BYTES: usize = 1 << 27;
/// What a node takes in memory beside what it says.
pub(super) const NODE: usize = 512;
/// What an attribute takes beside what it says.
const ATTRIBUTE: usize = 512;
/// How deep functions may call each other; exporters nest modules, of which there are a dozen inside each other at most.
const CALLS: usize = 200;
/// How deep bodies may stand in each other: as deep as a file of this format can hold them.
const BODIES: usize = 33;

/// What is left of it.
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(BYTES)
    }
}

impl Budget {
    pub(super) fn spend(&mut self, bytes: usize) -> Result<()> {
        self.check(bytes)?;
        self.0 -= bytes;
        Ok(())
    }

    /// # Errors
    /// If that many bytes are not left.
    pub(super) fn check(&self, bytes: usize) -> Result<()> {
        let left = self.0.checked_sub(bytes);
        left.map(|_| ()).ok_or_else(|| {
            let what = format!("calls of functions unfold into more than {} MB of nodes", BYTES >> 20);
            Error::graph(what).with_hint("a model that expands like this is broken or malicious")
        })
    }
}

/// # Errors
/// If too many calls are open.
pub(super) fn check_calls(open: usize) -> Result<()> {
    if open > CALLS { Err(Error::graph(format!("functions call each other more than {CALLS} deep"))) } else { Ok(()) }
}

/// # Errors
/// If too many bodies are around a node.
pub(super) fn check_bodies(around: usize) -> Result<()> {
    if around > BODIES { Err(Error::graph(format!("bodies stand in each other more than {BODIES} deep"))) } else { Ok(()) }
}

/// The memory that a copy of a node takes. Raw data is shared, not copied.
pub(super) fn of_node(node: &NodeProto) -> usize {
    let Beside { more, shared } = beside(node);
    NODE + more + node.encoded_len().saturating_sub(shared)
}

pub(super) fn of_info(info: &ValueInfoProto) -> usize {
    NODE + info.encoded_len()
}

/// How the memory that a copy takes differs from the bytes of its message.
#[derive(Default)]
struct Beside {
    more: usize,
    shared: usize,
}

impl std::iter::Sum for Beside {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self { more: sum.more + one.more, shared: sum.shared + one.shared })
    }
}

fn beside(node: &NodeProto) -> Beside {
    node.attribute.iter().map(beside_attribute).sum()
}

fn beside_attribute(attribute: &AttributeProto) -> Beside {
    // Numbers have one byte at least in a file, and 8 in memory; strings 2, and 32.
    let lists = attribute.ints.len() * 8 + attribute.floats.len() * 4 + attribute.strings.len() * 32;
    let tensors = attribute.t.iter().chain(&attribute.tensors).map(beside_tensor);
    let bodies = attribute.g.iter().chain(&attribute.graphs).map(beside_body);
    tensors.chain(bodies).chain([Beside { more: ATTRIBUTE + lists, shared: 0 }]).sum()
}

fn beside_body(body: &GraphProto) -> Beside {
    let values = body.input.len() + body.output.len() + body.value_info.len() + body.node.len();
    let constants = body.initializer.iter().map(beside_tensor);
    constants.chain(body.node.iter().map(beside)).chain([Beside { more: NODE * (values + 1), shared: 0 }]).sum()
}

fn beside_tensor(tensor: &TensorProto) -> Beside {
    let numbers = tensor.int64_data.len() + tensor.uint64_data.len() + tensor.int32_data.len();
    Beside { more: NODE + 8 * numbers, shared: tensor.raw_data.as_ref().map_or(0, bytes::Bytes::len) }
}
