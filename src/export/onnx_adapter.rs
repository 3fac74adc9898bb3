//! ONNX Runtime's adapter files: values for a graph's optional inputs, activated run by run (`LoraAdapter`, `RunOptions.add_active_adapter`).
//!
//! The file is a FlatBuffer with the identifier `TORT` (ONNX Runtime, `lora/adapter_format/adapter_schema.fbs`):
//!
//! | table | field | type |
//! |---|---|---|
//! | adapter | format version, 1 | int32 |
//! | | version of the adapter, of the model | int32 |
//! | | parameters | list of tables |
//! | parameter | name of the input | string |
//! | | lengths of the axes | list of int64 |
//! | | element type, as `TensorProto.DataType` | int32 |
//! | | numbers, little-endian | bytes |

mod fitting;

use std::path::Path;

pub(super) use fitting::fitted;
use flatbuffers::{FlatBufferBuilder, WIPOffset};
use indexmap::IndexMap;

use super::manifest::{Manifest, Port};
use super::names::INITIAL;
use super::trainable;
use crate::adapter::PEFT_PREFIX;
use crate::contract::{GraphName, PortRole};
use crate::ir::Tensor;
use crate::num;
use crate::peft::{self, AdapterFiles};
use crate::{Context, Error, Place, Result};

/// The beginning of the file behind its first offset.
const IDENTIFIER: &str = "TORT";
const FORMAT_VERSION: i32 = 1;
/// Versions of the adapter and of its model, which are the user's own and mean nothing here.
const OWN_VERSION: i32 = 1;
const FLOAT: i32 = 1;
/// FlatBuffers count with 32 bits, one of them for the sign.
const LARGEST: usize = (1 << 31) - (1 << 16);

/// Places of the fields of the two tables in their lists of fields: two bytes each, behind two lengths.
mod field {
    pub(super) const FORMAT_VERSION: u16 = 4;
    pub(super) const ADAPTER_VERSION: u16 = 6;
    pub(super) const MODEL_VERSION: u16 = 8;
    pub(super) const PARAMETERS: u16 = 10;
    pub(super) const NAME: u16 = 4;
    pub(super) const DIMS: u16 = 6;
    pub(super) const DATA_TYPE: u16 = 8;
    pub(super) const RAW_DATA: u16 = 10;
}

/// Writes a bundle's adapter, or another one for the same inputs, for the bundle's inference graph. Gives the number of inputs with values.
///
/// # Errors
/// A bundle that is not whole; an adapter with a tensor that the graph has no input for, without one that it has, or of another shape; one of
/// another method, or of other rows or shared projections.
pub fn write(bundle: &Path, adapter: Option<&Path>, output: &Path) -> Result<usize> {
    let manifest = Manifest::read(bundle)?;
    let (folder, own) = (adapter.unwrap_or(bundle), peft::read(bundle)?);
    let files = match adapter {
        Some(folder) => fitted(peft::read(folder)?, &own).in_file(folder)?,
        None => own,
    };
    let inputs = inputs(Made::Folder(bundle), &manifest, &files).in_file(folder)?;
    if inputs.is_empty() {
        return Err(Error::unsupported("an adapter file of this bundle", "its inference graph has no optional inputs").in_file(folder));
    }
    let bytes = encode(&inputs).in_file(output)?;
    crate::files::replace(output, &bytes)?;
    Ok(inputs.len())
}

/// What a graph that was made for the adapter `own` is fed for another one: tensors by the inference graph's inputs, at the graph's scales.
///
/// # Errors
/// As [`write()`].
pub fn fed(manifest: &Manifest, own: &AdapterFiles, adapter: AdapterFiles) -> Result<IndexMap<String, Tensor>> {
    inputs(Made::Memory(own), manifest, &fitting::fitted(adapter, own)?)
}

/// The tensors of an adapter by the inference graph's inputs, each of the input's shape.
///
/// # Errors
/// A tensor that the graph has no input for; one that is missing, or of another shape.
pub(super) fn inputs(made: Made<'_>, manifest: &Manifest, files: &AdapterFiles) -> Result<IndexMap<String, Tensor>> {
    let files = &*trainable::whole(files, manifest);
    let ports: Vec<&Port> =
        manifest.graph(GraphName::Inference.name())?.inputs.iter().filter(|port| port.role == PortRole::Parameter).collect();
    let mut found = IndexMap::new();
    for (key, tensor) in &files.tensors {
        let slot = manifest.trainable.iter().find(|slot| slot.name == *key).map(|slot| slot.input.as_str());
        let names = [slot, key.strip_prefix(PEFT_PREFIX), Some(key)];
        let port = names.into_iter().flatten().find_map(|name| ports.iter().find(|port| port.name == name));
        // What is never trained is a constant of the graph.
        let Some(port) = port else {
            if is_fixed(key) || is_as_made(made, key, tensor)? {
                continue;
            }
            return Err(Error::not_found("optional input of the inference graph", key.clone())
                .with_hint("an adapter fits the graph of another one if both attach to the same modules with the same ranks"));
        };
        let shape: Vec<serde_json::Value> = tensor.shape().iter().map(|&length| length.into()).collect();
        if shape != port.shape {
            let [expected, found] = [&port.shape, &shape].map(|shape| serde_json::Value::from(shape.clone()).to_string());
            return Err(Error::mismatch("shape", expected, found).at(Place::Tensor(key.clone())));
        }
        found.insert(port.name.clone(), tensor.clone());
    }
    let slots = manifest.trainable.iter().filter(|slot| slot.file == peft::WEIGHTS_FILE);
    if let Some(slot) = slots.into_iter().find(|slot| ports.iter().any(|port| port.name == slot.input) && !found.contains_key(&slot.input))
    {
        return Err(Error::not_found("tensor", slot.name.clone()).with_hint("the adapter attaches to other modules than the bundle's"));
    }
    Ok(found)
}

/// Whether a tensor belongs to an adapter but is not trained: the projections that all modules share.
fn is_fixed(key: &str) -> bool {
    use crate::adapter::methods;
    use crate::adapter::params::key::{Family, Key};
    matches!(methods::key(key, Family::Tuner), Some(Key::Shared(_)))
}

/// Whether `inject` put a tensor into the bundle's graphs with these numbers: a table that stands beside the adapter and is not trained.
fn is_as_made(made: Made<'_>, key: &str, tensor: &Tensor) -> Result<bool> {
    match made {
        Made::Memory(files) => Ok(files.tensors.get(key) == Some(tensor)),
        Made::Folder(bundle) => {
            let made = bundle.join(INITIAL);
            Ok(made.exists() && peft::read(&made)?.tensors.get(key) == Some(tensor))
        }
    }
}

/// Where the adapter is as it was put into the graphs.
#[derive(Clone, Copy)]
pub(super) enum Made<'a> {
    /// In the folder of a bundle.
    Folder(&'a Path),
    /// In memory.
    Memory(&'a AdapterFiles),
}

fn encode(inputs: &IndexMap<String, Tensor>) -> Result<Vec<u8>> {
    let size: usize = inputs.values().map(|tensor| 4 * tensor.len() + 256).sum();
    if size > LARGEST {
        return Err(Error::unsupported("an adapter file of more than 2 GB", "FlatBuffers count with 31 bits"));
    }
    let mut b = FlatBufferBuilder::with_capacity(size);
    let mut parameters = Vec::with_capacity(inputs.len());
    for (name, tensor) in inputs {
        let values = tensor.to_f32().ok_or_else(|| Error::mismatch("dtype", "float", tensor.dtype()).at(Place::Tensor(name.clone())))?;
        let dims: Vec<i64> = tensor.shape().iter().map(|&length| num::int(length)).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|number| number.to_le_bytes()).collect();
        let (name, dims, bytes) = (b.create_string(name), b.create_vector(&dims), b.create_vector(&bytes));
        let table = b.start_table();
        b.push_slot_always(field::NAME, name);
        b.push_slot_always(field::DIMS, dims);
        b.push_slot_always(field::DATA_TYPE, FLOAT);
        b.push_slot_always(field::RAW_DATA, bytes);
        parameters.push(WIPOffset::<flatbuffers::Table<'_>>::new(b.end_table(table).value()));
    }
    let parameters = b.create_vector(&parameters);
    let root = b.start_table();
    b.push_slot_always(field::FORMAT_VERSION, FORMAT_VERSION);
    b.push_slot_always(field::ADAPTER_VERSION, OWN_VERSION);
    b.push_slot_always(field::MODEL_VERSION, OWN_VERSION);
    b.push_slot_always(field::PARAMETERS, parameters);
    let root = b.end_table(root);
    b.finish(root, Some(IDENTIFIER));
    Ok(b.finished_data().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows an offset of a FlatBuffer.
    fn follow(bytes: &[u8], place: usize) -> usize {
        place + usize::try_from(u32::from_le_bytes(bytes[place..place + 4].try_into().expect("four bytes"))).expect("small")
    }

    #[test]
    fn a_file_begins_as_onnx_runtime_reads_it() -> Result<()> {
        let inputs = IndexMap::from([
            ("q.lora_A.weight".to_owned(), Tensor::from_f32(&[1, 3], &[1.0, -2.0, 0.5])),
            ("q.lora_B.weight".to_owned(), Tensor::from_f32(&[2, 1], &[3.0, 4.0])),
        ]);
        let bytes = encode(&inputs)?;
        assert_eq!(&bytes[4..8], b"TORT");
        let root = follow(&bytes, 0);
        assert_eq!(root % 4, 0);
        // The numbers of each tensor lie one behind the other, where four bytes make a number.
        for tensor in inputs.values() {
            let numbers: Vec<u8> = tensor.to_f32().expect("floats").iter().flat_map(|number| number.to_le_bytes()).collect();
            let place = bytes.windows(numbers.len()).position(|window| window == numbers).expect("the numbers are there");
            assert_eq!(place % 4, 0);
        }
        Ok(())
    }
}
