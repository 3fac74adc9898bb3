//! What a model's file says in words beside its graph: the program that wrote it, and its metadata (`metadata_props`), which any reader of ONNX finds by their keys.

use prost::Message;

use super::proto::{ModelProto, entry};
use super::read::encoded;
use super::write::kept;
use crate::Result;
use crate::ir::ModelInfo;

/// The program that wrote a model, with its version, where the file says so.
#[must_use]
pub fn producer(info: &ModelInfo) -> Option<String> {
    let proto = ModelProto::decode(info.rest.clone()?).ok()?;
    let words = [proto.producer_name, proto.producer_version].into_iter().flatten().filter(|word| !word.is_empty());
    let text = words.collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

/// The text under a key of the file's metadata, if there is one.
#[must_use]
pub fn metadata(info: &ModelInfo, key: &str) -> Option<String> {
    let proto = ModelProto::decode(info.rest.clone()?).ok()?;
    proto.metadata_props.into_iter().find(|entry| entry.key() == key)?.value
}

/// The same information with a text under a key of the file's metadata, in place of the one that was there; without a text, with no such key.
///
/// # Errors
/// What was kept of the file cannot be read.
pub fn with_metadata(info: &ModelInfo, key: &str, text: Option<&str>) -> Result<ModelInfo> {
    let mut proto: ModelProto = kept(info.rest.as_ref())?;
    proto.metadata_props.retain(|entry| entry.key() != key);
    proto.metadata_props.extend(text.map(|text| entry(key, text)));
    Ok(ModelInfo { rest: encoded(&proto), ..info.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_the_metadata_has_one_text_beside_those_of_other_keys() -> Result<()> {
        let bare = ModelInfo::dialect();
        assert_eq!(metadata(&bare, "id2label"), None);
        let other = with_metadata(&bare, "author", Some("Jane"))?;
        let named = with_metadata(&with_metadata(&other, "id2label", Some("old"))?, "id2label", Some("new"))?;
        assert_eq!((metadata(&named, "id2label").as_deref(), metadata(&named, "author").as_deref()), (Some("new"), Some("Jane")));
        assert_eq!(with_metadata(&named, "id2label", None)?.rest, other.rest);
        assert_eq!(with_metadata(&other, "author", None)?.rest, bare.rest);
        Ok(())
    }
}
