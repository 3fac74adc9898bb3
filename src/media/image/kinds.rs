//! Processors by their names: what they do to pictures beside what their files say (transformers 4.57, `models/*/image_processing_*.py`).

use serde_json::{Map, Value, json};

use super::sizes::Size;
use crate::error::{Error, Result};

/// What a processor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// What its file says.
    AsWritten,
    /// Resizes the shorter side to 256/224 of what its file says.
    LargerShorter,
    /// Takes the middle of a picture that is larger by `crop_pct`, 224/256 where the file says none, but not where the size is 384 or more.
    Middle,
    /// Resizes to the size over `crop_pct`, and crops as its file says.
    OverShare,
    /// With `rescale_offset` takes 1 from what is rescaled, and with `include_top` divides by `image_std` once more.
    DividesTwice,
}

/// A processor that is followed.
pub(super) struct Kind {
    name: &'static str,
    /// Whether a size that is one number is both sides' length; else it is the shorter one's.
    is_square: bool,
    /// Whether the middle is taken where the file does not say.
    pub(super) crops: bool,
    pub(super) does: Does,
}

#[rustfmt::skip]
static FOLLOWED: &[Kind] = &[
    Kind { name: "Beit",            is_square: true,  crops: true,  does: Does::AsWritten },
    Kind { name: "Bit",             is_square: false, crops: true,  does: Does::AsWritten },
    Kind { name: "Blip",            is_square: true,  crops: false, does: Does::AsWritten },
    Kind { name: "CLIP",            is_square: false, crops: true,  does: Does::AsWritten },
    Kind { name: "Chameleon",       is_square: false, crops: true,  does: Does::AsWritten },
    Kind { name: "ChineseCLIP",     is_square: false, crops: true,  does: Does::AsWritten },
    Kind { name: "ConvNext",        is_square: false, crops: false, does: Does::Middle },
    Kind { name: "DINOv3ViT",       is_square: true,  crops: false, does: Does::AsWritten },
    Kind { name: "DPT",             is_square: true,  crops: false, does: Does::AsWritten },
    Kind { name: "DeiT",            is_square: true,  crops: true,  does: Does::AsWritten },
    Kind { name: "Donut",           is_square: true,  crops: false, does: Does::AsWritten },
    Kind { name: "EfficientFormer", is_square: true,  crops: true,  does: Does::AsWritten },
    Kind { name: "EfficientNet",    is_square: true,  crops: false, does: Does::DividesTwice },
    Kind { name: "Flava",           is_square: true,  crops: true,  does: Does::AsWritten },
    Kind { name: "Gemma3",          is_square: true,  crops: false, does: Does::AsWritten },
    Kind { name: "Idefics3",        is_square: false, crops: false, does: Does::AsWritten },
    Kind { name: "LayoutLMv3",      is_square: true,  crops: false, does: Does::AsWritten },
    Kind { name: "Levit",           is_square: false, crops: true,  does: Does::LargerShorter },
    Kind { name: "Llava",           is_square: false, crops: true,  does: Does::AsWritten },
    Kind { name: "MobileNetV1",     is_square: false, crops: true,  does: Does::AsWritten },
    Kind { name: "MobileNetV2",     is_square: false, crops: true,  does: Does::AsWritten },
    Kind { name: "MobileViT",       is_square: false, crops: true,  does: Does::AsWritten },
    Kind { name: "OwlViT",          is_square: true,  crops: true,  does: Does::AsWritten },
    Kind { name: "PoolFormer",      is_square: false, crops: true,  does: Does::OverShare },
    Kind { name: "Pvt",             is_square: true,  crops: false, does: Does::AsWritten },
    Kind { name: "Segformer",       is_square: true,  crops: false, does: Does::AsWritten },
    Kind { name: "Siglip",          is_square: true,  crops: false, does: Does::AsWritten },
    Kind { name: "SmolVLM",         is_square: false, crops: false, does: Does::AsWritten },
    Kind { name: "ViT",             is_square: true,  crops: false, does: Does::AsWritten },
    Kind { name: "VideoMAE",        is_square: false, crops: true,  does: Does::AsWritten },
];

/// Processors that make something else of a picture than their files' sizes and numbers say: several parts, patches, lines of text, clusters of colours.
const REFUSED: [&str; 39] = [
    "Aria",
    "BridgeTower",
    "Cohere2Vision",
    "DeepseekVL",
    "DeepseekVLHybrid",
    "EfficientLoFTR",
    "Emu3",
    "Fuyu",
    "GLPN",
    "Glm4v",
    "GotOcr2",
    "Idefics",
    "Idefics2",
    "ImageGPT",
    "Janus",
    "Kosmos2_5",
    "LayoutLMv2",
    "Lfm2Vl",
    "LightGlue",
    "Llama4",
    "LlavaNext",
    "LlavaOnevision",
    "Mllama",
    "Nougat",
    "Ovis2",
    "Perceiver",
    "PerceptionLM",
    "Phi4Multimodal",
    "Pix2Struct",
    "Pixtral",
    "Qwen2VL",
    "Siglip2",
    "SuperGlue",
    "SuperPoint",
    "Swin2SR",
    "TextNet",
    "TimmWrapper",
    "Vilt",
    "Vivit",
];

/// Keys that say how pictures become something else, with what changes nothing.
const KEYS: [(&str, Value); 6] = [
    ("keep_aspect_ratio", Value::Bool(false)),
    ("crop_to_patches", Value::Bool(false)),
    ("split_image", Value::Bool(false)),
    ("image_grid_pinpoints", Value::Null),
    ("size_divisor", Value::Null),
    ("clusters", Value::Null),
];

/// What there is to do about a processor that is not followed.
pub(super) const HINT: &str = "rows may have pixel_values, as the processor makes them";

/// The processor that a configuration names; none where it names none, or one that is not known, which is told.
///
/// # Errors
/// A processor that does what is not followed here.
pub(super) fn of(config: &Map<String, Value>) -> Result<Option<&'static Kind>> {
    let is_more = |(key, nothing): &&(&str, Value)| config.get(*key).is_some_and(|value| value != nothing && !value.is_null());
    let multiple = config.get("ensure_multiple_of").is_some_and(|multiple| !multiple.is_null() && *multiple != json!(1));
    let key = KEYS.iter().find(is_more).map(|(key, _)| *key).or_else(|| multiple.then_some("ensure_multiple_of"));
    if let Some(key) = key {
        return Err(Error::unsupported(key, "what this step of a processor does to pictures is not known").with_hint(HINT));
    }
    let named = |key: &str| config.get(key).and_then(Value::as_str);
    let Some(name) = named("image_processor_type").or_else(|| named("feature_extractor_type")) else { return Ok(None) };
    let short = name.strip_suffix("Fast").unwrap_or(name);
    let short = ["ImageProcessor", "FeatureExtractor"].iter().find_map(|ending| short.strip_suffix(ending)).unwrap_or(short);
    if REFUSED.contains(&short) {
        let error = Error::unsupported(name.to_owned(), "this processor does more to pictures than its file says");
        return Err(error.with_hint(HINT));
    }
    let found = FOLLOWED.iter().find(|kind| kind.name == short);
    if found.is_none() {
        tracing::warn!("the image processor {name} is not known: pictures are resized, cropped and normalised as its file says");
    }
    Ok(found)
}

impl Kind {
    /// A size that is one number, in words.
    pub(super) fn named(&self, size: Size) -> Size {
        match size {
            Size::Number(side) if self.is_square => Size::sides(side, side),
            Size::Number(side) => Size::shorter(side),
            named @ Size::Named { .. } => named,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_followed_by_their_names_or_refused() {
        let of = |config: Value| of(config.as_object().expect("an object"));
        for (config, name) in [
            (json!({"image_processor_type": "ViTImageProcessor"}), Some("ViT")),
            (json!({"image_processor_type": "ViTImageProcessorFast"}), Some("ViT")),
            (json!({"feature_extractor_type": "DeiTFeatureExtractor"}), Some("DeiT")),
            (
                json!({"image_processor_type": "DPTImageProcessor", "ensure_multiple_of": 1, "keep_aspect_ratio": false, "size_divisor": null}),
                Some("DPT"),
            ),
            (json!({"image_processor_type": "OwnImageProcessor"}), None),
            (json!({}), None),
        ] {
            assert_eq!(of(config.clone()).expect("followed").map(|kind| kind.name), name, "{config}");
        }
        for (config, expected) in [
            (json!({"image_processor_type": "PerceiverImageProcessor"}), "PerceiverImageProcessor"),
            (json!({"image_processor_type": "Qwen2VLImageProcessorFast"}), "Qwen2VLImageProcessorFast"),
            (json!({"image_processor_type": "DPTImageProcessor", "ensure_multiple_of": 32}), "ensure_multiple_of"),
            (json!({"size_divisor": 32}), "size_divisor"),
        ] {
            let Err(error) = of(config) else { panic!("{expected} is followed") };
            assert!(error.to_string().contains(expected) && error.hint().is_some(), "{error}");
        }
    }
}
