//! What transformers' classes call the body that they put a head on: `bert` in `BertForSequenceClassification`, whose layers are `bert.encoder.layer.0`.
//!
//! A bare body's graph has its layers without that name. An adapter of it with a new head is for the class with the head, so that its modules must have it.

/// Names of bodies (`base_model_prefix` of the classes of transformers 4.57), and the `model_type`s of those that have them. A body of a type that is not here
/// has its type's name where positions see each other both ways; the body of a decoder is called `model`.
const BODIES: &[(&str, &[&str])] = &[
    ("bert", &["big_bird", "megatron-bert", "qdqbert"]),
    ("biogpt", &["biogpt"]),
    ("deberta", &["deberta-v2"]),
    ("donut", &["donut-swin"]),
    ("gpt_neox", &["gpt_neox"]),
    ("hgnetv2", &["hgnet_v2"]),
    ("model", &["bart", "bigbird_pegasus", "gemma3_text", "mbart", "modernbert", "mvp", "plbart", "t5gemma", "whisper"]),
    ("reformer", &["reformer"]),
    ("roberta", &["camembert", "xlm-roberta", "xlm-roberta-xl", "xmod"]),
    ("sew-d", &["sew-d"]),
    (
        "transformer",
        &[
            "bloom",
            "codegen",
            "ctrl",
            "falcon",
            "flaubert",
            "gpt-sw3",
            "gpt2",
            "gpt_bigcode",
            "gpt_neo",
            "gptj",
            "imagegpt",
            "mpt",
            "mt5",
            "openai-gpt",
            "squeezebert",
            "t5",
            "transfo-xl",
            "umt5",
            "xlm",
            "xlnet",
        ],
    ),
    ("vit", &["vit_hybrid", "vit_msn"]),
];

/// The name of the body in a class with a head, of a model of this `model_type`; `is_decoder`: no position sees later ones.
#[must_use]
pub fn name(model_type: &str, is_decoder: bool) -> String {
    let of_table = BODIES.iter().find(|(_, types)| types.contains(&model_type)).map(|(name, _)| (*name).to_owned());
    of_table.unwrap_or_else(|| if is_decoder { "model".to_owned() } else { model_type.replace('-', "_") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_the_names_of_transformers() {
        for (kind, is_decoder, expected) in [
            ("bert", false, "bert"),
            ("xlm-roberta", false, "roberta"),
            ("roberta-prelayernorm", false, "roberta_prelayernorm"),
            ("deberta-v2", false, "deberta"),
            ("distilbert", false, "distilbert"),
            ("modernbert", false, "model"),
            ("vit", false, "vit"),
            ("gpt2", true, "transformer"),
            ("bloom", true, "transformer"),
            ("gpt_neox", true, "gpt_neox"),
            ("llama", true, "model"),
            ("opt", true, "model"),
            ("qwen3", true, "model"),
            ("of the year 2030", true, "model"),
        ] {
            assert_eq!(name(kind, is_decoder), expected, "{kind}");
        }
    }
}
