//! The names of an adapter's tensors, as PEFT writes them (`peft/utils/save_and_load.py`).
//!
//! | name | [`Key`] |
//! |---|---|
//! | `base_model.model.` module `.lora_A.weight` | a [`Part`] of a module |
//! | `base_model.model.` name | a parameter of the base, trained as a whole |
//! | `base_model.` name | the same, with a prompt method |
//! | `base_model.vera_A` | a projection that all modules share |
//! | `prompt_embeddings` | the prompt or prefix |
//! | `prompt_encoder.` name | a parameter of the network that computes it |

use std::fmt;

/// PEFT's prefix of the base model's module paths.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// How the names of a method's tensors begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Methods that change modules: `base_model.model.`
    Tuner,
    /// Prompt methods, which wrap the base itself: `base_model.`
    Prompt,
}

/// The name of a trainable tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// What a method adds to a module.
    Module {
        /// The module's path in the base.
        module: String,
        /// Which of the tensors.
        part: Part,
    },
    /// A parameter of the base that is trained as a whole.
    Parameter {
        /// Its name in the base: `classifier.weight`.
        name: String,
    },
    /// The same, beside a prompt method.
    PromptParameter {
        /// Its name in the base.
        name: String,
    },
    /// A tensor that all modules share.
    Shared(Shared),
    /// The embeddings of the virtual tokens, or the flattened keys and values.
    Prompt,
    /// A parameter of the network that computes them: `transform.0.weight`.
    Encoder {
        /// Its name in the network.
        name: String,
    },
}

/// What a method adds to a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the table below has names and shapes")]
pub enum Part {
    LoraA,
    LoraB,
    LoraBBias,
    LoraEmbeddingA,
    LoraEmbeddingB,
    LoraMagnitude,
    AdaLoraA,
    AdaLoraB,
    AdaLoraE,
    BaseWeight,
    BaseBias,
    TokenDelta,
    OwnTokenDelta,
    Ia3,
    NormWeight,
    NormBias,
    VeraLambdaB,
    VeraLambdaD,
    HadaW1A,
    HadaW1B,
    HadaW2A,
    HadaW2B,
    LokrW1,
    LokrW1A,
    LokrW1B,
    LokrW2,
    LokrW2A,
    LokrW2B,
}

/// VeRA's projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shared {
    /// `[rank, in]` of the widest module.
    VeraA,
    /// `[out, rank]` of the widest module.
    VeraB,
}

/// Every part: the segment that says what it is, and the segment after the adapter's name, if there is one.
///
/// Shapes: `lora_A` `[r, in]`, `lora_B` `[out, r]`, its bias `[out]`, `lora_embedding_A` `[r, rows]`, `lora_embedding_B` `[hidden, r]`,
/// `lora_magnitude_vector` `[out]`, `lora_E` `[r, 1]`, `base_layer` those of the base, `trainable_tokens_delta` `[rows, hidden]` (in a
/// `token_adapter` where it stands beside LoRA),
/// `ia3_l` `[out, 1]` or for feed-forward `[1, in]`, `vera_lambda_b` `[out]`, `vera_lambda_d` `[r]`,
/// `hada_w1_a` `[out, r]`, `hada_w1_b` `[r, in]`, `lokr_w1` and `lokr_w2` two factors of `[out, in]`.
const PARTS: &[(Part, &str, &str)] = &[
    (Part::LoraA, "lora_A", "weight"),
    (Part::LoraB, "lora_B", "weight"),
    (Part::LoraBBias, "lora_B", "bias"),
    (Part::LoraEmbeddingA, "lora_embedding_A", ""),
    (Part::LoraEmbeddingB, "lora_embedding_B", ""),
    (Part::LoraMagnitude, "lora_magnitude_vector", ""),
    (Part::AdaLoraA, "lora_A", ""),
    (Part::AdaLoraB, "lora_B", ""),
    (Part::AdaLoraE, "lora_E", ""),
    (Part::BaseWeight, "base_layer", "weight"),
    (Part::BaseBias, "base_layer", "bias"),
    (Part::TokenDelta, "token_adapter.trainable_tokens_delta", ""),
    (Part::OwnTokenDelta, "trainable_tokens_delta", ""),
    (Part::Ia3, "ia3_l", ""),
    (Part::NormWeight, "ln_tuning_layers", "weight"),
    (Part::NormBias, "ln_tuning_layers", "bias"),
    (Part::VeraLambdaB, "vera_lambda_b", ""),
    (Part::VeraLambdaD, "vera_lambda_d", ""),
    (Part::HadaW1A, "hada_w1_a", ""),
    (Part::HadaW1B, "hada_w1_b", ""),
    (Part::HadaW2A, "hada_w2_a", ""),
    (Part::HadaW2B, "hada_w2_b", ""),
    (Part::LokrW1, "lokr_w1", ""),
    (Part::LokrW1A, "lokr_w1_a", ""),
    (Part::LokrW1B, "lokr_w1_b", ""),
    (Part::LokrW2, "lokr_w2", ""),
    (Part::LokrW2A, "lokr_w2_a", ""),
    (Part::LokrW2B, "lokr_w2_b", ""),
];

const SHARED: &[(Shared, &str)] = &[(Shared::VeraA, "base_model.vera_A"), (Shared::VeraB, "base_model.vera_B")];
const PROMPT: &str = "base_model.";
const EMBEDDINGS: &str = "prompt_embeddings";
const ENCODER: &str = "prompt_encoder.";

impl Key {
    /// The name of what a method adds to a module.
    pub fn module(module: impl Into<String>, part: Part) -> Self {
        Self::Module { module: module.into(), part }
    }

    /// The name of a parameter of the base.
    pub fn parameter(name: impl Into<String>, family: Family) -> Self {
        let name = name.into();
        match family {
            Family::Tuner => Self::Parameter { name },
            Family::Prompt => Self::PromptParameter { name },
        }
    }

    /// The module that a method's tensor belongs to.
    #[must_use]
    pub fn into_module(self) -> Option<String> {
        match self {
            Self::Module { module, .. } => Some(module),
            _ => None,
        }
    }

    /// Reads a name.
    ///
    /// Beside what PEFT writes, this takes what a plain dump of the model has: an adapter's name (`lora_A.default.weight`) and
    /// `modules_to_save.default` inside names of parameters. None if the name has none of the known beginnings.
    #[must_use]
    pub fn parse(text: &str, family: Family) -> Option<Self> {
        if text == EMBEDDINGS {
            return Some(Self::Prompt);
        }
        if let Some(name) = text.strip_prefix(ENCODER) {
            return Some(Self::Encoder { name: name.to_owned() });
        }
        if let Some(&(shared, _)) = SHARED.iter().find(|(_, name)| is_named(text, name)) {
            return Some(Self::Shared(shared));
        }
        match family {
            Family::Prompt => text.strip_prefix(PROMPT).map(|name| Self::PromptParameter { name: without_wrapper(name) }),
            Family::Tuner => {
                let name = text.strip_prefix(PEFT_PREFIX)?;
                Some(part_of(name).unwrap_or_else(|| Self::Parameter { name: without_wrapper(name) }))
            }
        }
    }
}

/// Whether `text` is `name`, perhaps with an adapter's name after it.
fn is_named(text: &str, name: &str) -> bool {
    text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.').is_some_and(|adapter| !adapter.contains('.')))
}

/// Reads `module.marker[.adapter][.end]`.
fn part_of(name: &str) -> Option<Key> {
    PARTS.iter().find_map(|&(part, marker, end)| {
        let (module, rest) = split_at_segments(name, marker)?;
        let exact = rest == end;
        let with_adapter = match rest.rsplit_once('.') {
            Some((adapter, last)) => !end.is_empty() && last == end && !adapter.contains('.'),
            None => end.is_empty() && !matches!(rest, "weight" | "bias"),
        };
        // Dumps of a model and files of PEFT 0.9 end the magnitude in `weight`.
        let dumped = part == Part::LoraMagnitude && rest.rsplit('.').next() == Some("weight");
        (exact || with_adapter || dumped).then(|| Key::module(module, part))
    })
}

/// Splits `a.marker.b` into `a` and `b`; at the last marker, and `b` may be absent.
fn split_at_segments<'n>(name: &'n str, marker: &str) -> Option<(&'n str, &'n str)> {
    name.rmatch_indices(marker).find_map(|(start, _)| {
        let module = name[..start].strip_suffix('.')?;
        let rest = &name[start + marker.len()..];
        if rest.is_empty() { Some((module, rest)) } else { Some((module, rest.strip_prefix('.')?)) }
    })
}

/// `classifier.modules_to_save.default.weight` is `classifier.weight` in the base.
fn without_wrapper(name: &str) -> String {
    match split_at_segments(name, "modules_to_save") {
        Some((module, rest)) => match rest.split_once('.') {
            Some((_adapter, parameter)) => format!("{module}.{parameter}"),
            None => format!("{module}.{rest}"),
        },
        None => name.to_owned(),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module { module, part } => {
                let (_, marker, end) = PARTS.iter().find(|(known, ..)| known == part).expect("every part has a row");
                write!(f, "{PEFT_PREFIX}{module}.{marker}")?;
                if end.is_empty() { Ok(()) } else { write!(f, ".{end}") }
            }
            Self::Parameter { name } => write!(f, "{PEFT_PREFIX}{name}"),
            Self::PromptParameter { name } => write!(f, "{PROMPT}{name}"),
            Self::Shared(shared) => f.write_str(SHARED.iter().find(|(known, _)| known == shared).expect("every shared tensor has a row").1),
            Self::Prompt => f.write_str(EMBEDDINGS),
            Self::Encoder { name } => write!(f, "{ENCODER}{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_written_and_read() {
        for &(part, ..) in PARTS {
            let key = Key::module("model.layers.0.self_attn.q_proj", part);
            assert_eq!(Key::parse(&key.to_string(), Family::Tuner), Some(key));
        }
    }

    #[test]
    fn names_as_peft_writes_them() {
        let module = |module: &str, part| Key::module(module, part);
        let parameter = |name: &str| Key::Parameter { name: name.to_owned() };
        let rows = [
            (Family::Tuner, "base_model.model.h.0.c_attn.lora_A.weight", module("h.0.c_attn", Part::LoraA)),
            (Family::Tuner, "base_model.model.h.0.c_attn.lora_B.bias", module("h.0.c_attn", Part::LoraBBias)),
            (Family::Tuner, "base_model.model.h.0.c_attn.lora_A", module("h.0.c_attn", Part::AdaLoraA)),
            (Family::Tuner, "base_model.model.wte.lora_embedding_B", module("wte", Part::LoraEmbeddingB)),
            (Family::Tuner, "base_model.model.q.lora_magnitude_vector", module("q", Part::LoraMagnitude)),
            (Family::Tuner, "base_model.model.query.base_layer.bias", module("query", Part::BaseBias)),
            (Family::Tuner, "base_model.model.embed_tokens.token_adapter.trainable_tokens_delta", module("embed_tokens", Part::TokenDelta)),
            (Family::Tuner, "base_model.model.embed_tokens.trainable_tokens_delta", module("embed_tokens", Part::OwnTokenDelta)),
            (Family::Tuner, "base_model.model.k_proj.ia3_l", module("k_proj", Part::Ia3)),
            (Family::Tuner, "base_model.model.q.lokr_w1_a", module("q", Part::LokrW1A)),
            (Family::Tuner, "base_model.model.norm.ln_tuning_layers.weight", module("norm", Part::NormWeight)),
            (Family::Tuner, "base_model.model.classifier.weight", parameter("classifier.weight")),
            (Family::Tuner, "base_model.model.encoder.layer.0.output.dense.bias", parameter("encoder.layer.0.output.dense.bias")),
            (Family::Tuner, "base_model.vera_A", Key::Shared(Shared::VeraA)),
            (Family::Prompt, "prompt_embeddings", Key::Prompt),
            (Family::Prompt, "base_model.classifier.bias", Key::PromptParameter { name: "classifier.bias".into() }),
            (Family::Prompt, "base_model.model.norm.weight", Key::PromptParameter { name: "model.norm.weight".into() }),
            (Family::Prompt, "prompt_encoder.transform.0.weight", Key::Encoder { name: "transform.0.weight".into() }),
        ];
        for (family, text, key) in rows {
            assert_eq!(Key::parse(text, family).as_ref(), Some(&key), "{text}");
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn names_in_a_dump_of_the_model_have_an_adapter_inside() {
        let rows = [
            ("base_model.model.q.lora_A.default.weight", "base_model.model.q.lora_A.weight"),
            ("base_model.model.q.lora_B.my_adapter.bias", "base_model.model.q.lora_B.bias"),
            ("base_model.model.q.lora_magnitude_vector.default.weight", "base_model.model.q.lora_magnitude_vector"),
            ("base_model.model.q.lora_magnitude_vector.weight", "base_model.model.q.lora_magnitude_vector"),
            ("base_model.model.wte.lora_embedding_A.default", "base_model.model.wte.lora_embedding_A"),
            ("base_model.model.k.ia3_l.default", "base_model.model.k.ia3_l"),
            ("base_model.model.classifier.modules_to_save.default.weight", "base_model.model.classifier.weight"),
            ("base_model.model.classifier.modules_to_save.weight", "base_model.model.classifier.weight"),
            ("base_model.vera_B.default", "base_model.vera_B"),
        ];
        for (dumped, written) in rows {
            assert_eq!(Key::parse(dumped, Family::Tuner).map(|key| key.to_string()).as_deref(), Some(written), "{dumped}");
        }
    }

    #[test]
    fn other_names_are_not_keys() {
        for text in ["", "lora_A.weight", "model.layers.0.q_proj.lora_A.weight", "base_model", "prompt_embedding"] {
            assert_eq!(Key::parse(text, Family::Tuner), None, "{text}");
        }
    }
}
