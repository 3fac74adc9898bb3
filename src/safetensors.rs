//! The safetensors format: a JSON header and one block of data.
//!
//! Checking is done by the `safetensors` crate (sizes, bounds, overlaps and gaps). Writing is done here: the tensors lie in the order of their
//! names without gaps, so that a file of float32 tensors holds one flat vector, and where each begins is known to those who refer to the file.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use crate::error::{Context, Error, Place, Result};
use crate::files::{self, Staged};
use crate::ir::{DType, Origin, Tensor, little_endian};

const FORMAT: &str = "a safetensors file";

/// Every element type that both sides know: ours, the crate's, the name in the header.
const DTYPES: &[(DType, Dtype, &str)] = &[
    (DType::F32, Dtype::F32, "F32"),
    (DType::F16, Dtype::F16, "F16"),
    (DType::BF16, Dtype::BF16, "BF16"),
    (DType::F64, Dtype::F64, "F64"),
    (DType::I64, Dtype::I64, "I64"),
    (DType::I32, Dtype::I32, "I32"),
    (DType::I16, Dtype::I16, "I16"),
    (DType::I8, Dtype::I8, "I8"),
    (DType::U64, Dtype::U64, "U64"),
    (DType::U32, Dtype::U32, "U32"),
    (DType::U16, Dtype::U16, "U16"),
    (DType::U8, Dtype::U8, "U8"),
    (DType::Bool, Dtype::BOOL, "BOOL"),
];

/// Reads all tensors of a file, in the order of their names; each knows its place in the file.
///
/// # Errors
/// If the file cannot be read, is not a safetensors file, or has a tensor of a type unknown here.
pub fn read(path: &Path) -> Result<IndexMap<String, Tensor>> {
    let bytes = files::map(path)?;
    let mut tensors = parse(&bytes).in_file(path)?;
    let file: Arc<Path> = path.into();
    for (offset, tensor) in tensors.values_mut() {
        *tensor = tensor.clone().at(Origin { file: file.clone(), offset: *offset });
    }
    Ok(tensors.into_iter().map(|(name, (_, tensor))| (name, tensor)).collect())
}

/// Reads all tensors of the bytes of a file, in the order of their names.
///
/// # Errors
/// As [`read`].
pub fn from_bytes(bytes: &Bytes) -> Result<IndexMap<String, Tensor>> {
    Ok(parse(bytes)?.into_iter().map(|(name, (_, tensor))| (name, tensor)).collect())
}

fn parse(bytes: &Bytes) -> Result<IndexMap<String, (u64, Tensor)>> {
    let file = SafeTensors::deserialize(bytes).map_err(|why| Error::format(FORMAT, why))?;
    let mut names = file.names();
    names.sort_unstable();
    let mut tensors = IndexMap::with_capacity(names.len());
    for name in names {
        let view = file.tensor(name).map_err(|why| Error::format(FORMAT, why))?;
        let place = || Place::Tensor(name.to_owned());
        let dtype = (DTYPES.iter().find(|(_, theirs, _)| *theirs == view.dtype()).map(|(ours, ..)| *ours))
            .ok_or_else(|| Error::unsupported(format!("element type {:?}", view.dtype()), "no such type in ONNX").at(place()))?;
        let data = bytes.slice_ref(view.data());
        let offset = view.data().as_ptr().addr() - bytes.as_ptr().addr();
        let offset = u64::try_from(offset).map_err(|why| Error::format(FORMAT, why))?;
        tensors.insert(name.to_owned(), (offset, Tensor::new(dtype, view.shape().to_vec(), data).at(place())?));
    }
    Ok(tensors)
}

/// What stands before the data of a file, and where the data of each tensor begins.
#[derive(Clone, Debug)]
pub struct Header {
    /// The length of the JSON and the JSON itself, padded with spaces to a multiple of 8.
    pub bytes: Vec<u8>,
    /// The first byte of each tensor's data, from the start of the file, in the order of the names.
    pub offsets: IndexMap<String, u64>,
}

impl Header {
    /// The header of a file with tensors of these names, types and shapes, and `{"format": "pt"}` as metadata, which PEFT asks for.
    ///
    /// # Errors
    /// If a type is one that the format does not have, or a size overflows.
    pub fn new<'t>(tensors: impl IntoIterator<Item = (&'t str, DType, &'t [usize])>) -> Result<Self> {
        let mut sorted: Vec<_> = tensors.into_iter().collect();
        sorted.sort_unstable_by_key(|&(name, ..)| name);
        let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
        let mut offsets = IndexMap::with_capacity(sorted.len());
        let mut end = 0_usize;
        for (name, dtype, shape) in sorted {
            let place = || Place::Tensor(name.to_owned());
            let code = (DTYPES.iter().find(|(ours, ..)| *ours == dtype).map(|(.., code)| *code)).ok_or_else(|| {
                Error::unsupported(format!("element type {dtype}"), "the safetensors format has no such type").at(place())
            })?;
            let start = end;
            let count = shape.iter().try_fold(1_usize, |n, &length| n.checked_mul(length));
            end = (count.and_then(|count| start.checked_add(dtype.bytes(count))))
                .ok_or_else(|| Error::invalid(format!("shape {shape:?} overflows")).at(place()))?;
            if header.insert(name.to_owned(), json!({"dtype": code, "shape": shape, "data_offsets": [start, end]})).is_some() {
                return Err(Error::invalid("two tensors have this name").at(place()));
            }
            offsets.insert(name.to_owned(), u64::try_from(start).map_err(|why| Error::format(FORMAT, why))?);
        }
        let mut text = serde_json::to_vec(&Value::Object(header)).map_err(|why| Error::format(FORMAT, why))?;
        text.resize(text.len().next_multiple_of(8), b' ');
        let length = u64::try_from(text.len()).map_err(|why| Error::format(FORMAT, why))?;
        offsets.values_mut().for_each(|offset| *offset += 8 + length);
        Ok(Self { bytes: [&length.to_le_bytes()[..], &text].concat(), offsets })
    }
}

/// Tensors as the bytes of a file.
///
/// # Errors
/// A tensor of a type that the format does not have.
pub fn to_bytes(tensors: &IndexMap<String, Tensor>) -> Result<Vec<u8>> {
    let header = Header::new(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.dtype(), tensor.shape())))?;
    let mut bytes = header.bytes;
    for name in header.offsets.keys() {
        bytes.extend_from_slice(tensors[name].bytes().map_or(&[], |bytes| &bytes[..]));
    }
    Ok(bytes)
}

/// Writes tensors to a file, which appears when it is complete; gives the first byte of each tensor's data.
///
/// # Errors
/// If the file cannot be written, or a tensor's type is one that the format does not have.
pub fn write(path: &Path, tensors: &IndexMap<String, Tensor>) -> Result<IndexMap<String, u64>> {
    let header = Header::new(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.dtype(), tensor.shape()))).in_file(path)?;
    write_behind(path, &header, |name| Cow::Borrowed(tensors[name].bytes().map_or(&[], |bytes| &bytes[..])))?;
    Ok(header.offsets)
}

/// Writes vectors of float32 numbers to a file, which appears when it is complete. They are not copied.
///
/// # Errors
/// If the file cannot be written.
pub fn write_vectors(path: &Path, vectors: &IndexMap<String, Vec<f32>>) -> Result<()> {
    let shapes: Vec<[usize; 1]> = vectors.values().map(|values| [values.len()]).collect();
    let header = Header::new(vectors.keys().zip(&shapes).map(|(name, shape)| (name.as_str(), DType::F32, &shape[..]))).in_file(path)?;
    write_behind(path, &header, |name| little_endian(&vectors[name]))
}

fn write_behind<'t>(path: &Path, header: &Header, bytes: impl Fn(&str) -> Cow<'t, [u8]>) -> Result<()> {
    let mut file = Staged::new(path)?;
    file.write(&header.bytes)?;
    header.offsets.keys().try_for_each(|name| file.write(&bytes(name)))?;
    file.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> IndexMap<String, Tensor> {
        let tensor = |shape: &[usize], first: f32| {
            let count = shape.iter().product();
            Tensor::from_f32(shape, &std::iter::successors(Some(first), |value| Some(value + 1.0)).take(count).collect::<Vec<_>>())
        };
        [("b", tensor(&[2, 3], 0.0)), ("a", tensor(&[5], 6.0)), ("c", tensor(&[], 11.0))]
            .map(|(name, tensor)| (name.to_owned(), tensor))
            .into()
    }

    #[test]
    fn float32_tensors_lie_end_to_end_in_the_order_of_their_names() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.safetensors");
        let written = write(&path, &example())?;
        let bytes = std::fs::read(&path)?;
        let start = usize::try_from(written["a"]).expect("small");
        let numbers: Vec<f32> = bytes[start..].chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().expect("4 bytes"))).collect();
        assert_eq!(numbers, [6., 7., 8., 9., 10., 0., 1., 2., 3., 4., 5., 11.]);
        assert_eq!(written.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(start % 8, 0);
        let offsets: IndexMap<String, u64> =
            read(&path)?.iter().filter_map(|(name, tensor)| Some((name.clone(), tensor.origin()?.offset))).collect();
        assert_eq!(offsets, written);
        let read_back = read(&path)?;
        assert!(example().iter().all(|(name, tensor)| read_back[name] == *tensor));
        Ok(())
    }

    #[test]
    fn metadata_is_what_peft_writes() -> Result<()> {
        let header = Header::new([("w", DType::F16, &[2_usize, 2][..])])?;
        let text = std::str::from_utf8(&header.bytes[8..]).expect("JSON").trim_end();
        assert_eq!(text, r#"{"__metadata__":{"format":"pt"},"w":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}}"#);
        Ok(())
    }

    #[test]
    fn nonsense_is_an_error() {
        let with_length = |length: u64, rest: &str| [&length.to_le_bytes()[..], rest.as_bytes()].concat();
        let header = |json: &str, data: usize| [&with_length(json.len().try_into().expect("small"), json)[..], &vec![0; data]].concat();
        let rows: &[(&str, Vec<u8>)] = &[
            ("empty", vec![]),
            ("shorter than its length field", vec![1, 2, 3]),
            ("a header longer than the file", with_length(100, "{}")),
            ("a huge header", with_length(u64::MAX, "{}")),
            ("no JSON", with_length(2, "{]")),
            ("no UTF-8", [&2_u64.to_le_bytes()[..], &[0xff, 0xfe]].concat()),
            ("data missing", header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 4)),
            ("data left over", header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 12)),
            (
                "overlap",
                header(
                    r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                    12,
                ),
            ),
            ("shape and offsets differ", header(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8)),
            ("a shape that overflows", header(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,16],"data_offsets":[0,0]}}"#, 0)),
            ("a type unknown here", header(r#"{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}"#, 8)),
        ];
        for (what, bytes) in rows {
            assert!(from_bytes(&Bytes::copy_from_slice(bytes)).is_err(), "{what}");
        }
    }

    fn file() -> Vec<u8> {
        let tensors = example();
        let header = Header::new(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.dtype(), tensor.shape()))).expect("a header");
        let data = header.offsets.keys().flat_map(|name| tensors[name].bytes().expect("numbers").to_vec());
        header.bytes.into_iter().chain(data).collect()
    }

    proptest! {
        #[test]
        fn mutated_files_do_not_panic(places in prop::collection::vec((0_usize..400, any::<u8>()), 1..6), length in 0_usize..400) {
            let mut bytes = file();
            for (place, byte) in places {
                let place = place % bytes.len();
                bytes[place] = byte;
            }
            bytes.truncate(length.max(bytes.len() / 4));
            let _ = from_bytes(&bytes.into());
        }

        #[test]
        fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_bytes(&bytes.into());
        }
    }
}
