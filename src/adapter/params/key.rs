//! The names of an adapter's tensors, as PEFT writes them (`peft/utils/save_and_load.py`).
//!
//! | name | [`Key`] |
//! |---|---|
//! | `base_model.model.` module `.lora_A.weight` | a [`KeyPart`] of a module |
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
        part: KeyPart,
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
    /// A tensor that all modules share: its whole name.
    Shared(&'static str),
    /// The embeddings of the virtual tokens, or the flattened keys and values.
    Prompt,
    /// A parameter of the network that computes them: `transform.0.weight`.
    Encoder {
        /// Its name in the network.
        name: String,
    },
}

/// A tensor that a method adds to a module: the segment that says what it is, and the segment after the adapter's name, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPart {
    marker: &'static str,
    end: &'static str,
}

impl KeyPart {
    /// `lora_A` and `weight` of `q_proj.lora_A.weight`; a parameter of the layer itself (`ia3_l`) ends there.
    #[must_use]
    pub const fn new(marker: &'static str, end: &'static str) -> Self {
        Self { marker, end }
    }

    /// The base's weight, beside what adapts it; of the base's shape.
    pub const BASE_WEIGHT: Self = Self::new("base_layer", "weight");
    /// The base's bias, beside what adapts its module; of the base's shape.
    pub const BASE_BIAS: Self = Self::new("base_layer", "bias");
}

/// The parts that any method may have beside its own.
const COMMON: &[KeyPart] = &[KeyPart::BASE_WEIGHT, KeyPart::BASE_BIAS];

/// The names that a method gives to its tensors.
#[derive(Clone, Copy, Debug)]
pub struct Tensors {
    /// What it adds to modules.
    pub parts: &'static [KeyPart],
    /// What all its modules share: `base_model.vera_A`.
    pub shared: &'static [&'static str],
}

const PROMPT: &str = "base_model.";
const EMBEDDINGS: &str = "prompt_embeddings";
const ENCODER: &str = "prompt_encoder.";

impl Key {
    /// The name of what a method adds to a module.
    pub fn module(module: impl Into<String>, part: KeyPart) -> Self {
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

    /// Reads a name; `tensors` are those of all methods that are known.
    ///
    /// Beside what PEFT writes, this takes what a plain dump of the model has: an adapter's name (`lora_A.default.weight`) and
    /// `modules_to_save.default` inside names of parameters. None if the name has none of the known beginnings.
    #[must_use]
    pub fn parse(text: &str, family: Family, tensors: &[Tensors]) -> Option<Self> {
        if text == EMBEDDINGS {
            return Some(Self::Prompt);
        }
        if let Some(name) = text.strip_prefix(ENCODER) {
            return Some(Self::Encoder { name: name.to_owned() });
        }
        if let Some(&shared) = tensors.iter().flat_map(|of| of.shared).find(|name| is_named(text, name)) {
            return Some(Self::Shared(shared));
        }
        match family {
            Family::Prompt => text.strip_prefix(PROMPT).map(|name| Self::PromptParameter { name: without_wrapper(name) }),
            Family::Tuner => {
                let name = text.strip_prefix(PEFT_PREFIX)?;
                Some(part_of(name, tensors).unwrap_or_else(|| Self::Parameter { name: without_wrapper(name) }))
            }
        }
    }
}

/// Whether `text` is `name`, perhaps with an adapter's name after it.
fn is_named(text: &str, name: &str) -> bool {
    text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.').is_some_and(|adapter| !adapter.contains('.')))
}

/// Reads `module.marker[.adapter][.end]`.
fn part_of(name: &str, tensors: &[Tensors]) -> Option<Key> {
    tensors.iter().flat_map(|of| of.parts).chain(COMMON).find_map(|&part| {
        let KeyPart { marker, end } = part;
        let (module, rest) = split_at_segments(name, marker)?;
        let exact = rest == end;
        let with_adapter = match rest.rsplit_once('.') {
            Some((adapter, last)) => !end.is_empty() && last == end && !adapter.contains('.'),
            None => end.is_empty() && !matches!(rest, "weight" | "bias"),
        };
        // Dumps of a model and files of PEFT 0.9 end the magnitude in `weight`.
        let dumped = marker == "lora_magnitude_vector" && rest.rsplit('.').next() == Some("weight");
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
                let KeyPart { marker, end } = part;
                write!(f, "{PEFT_PREFIX}{module}.{marker}")?;
                if end.is_empty() { Ok(()) } else { write!(f, ".{end}") }
            }
            Self::Parameter { name } => write!(f, "{PEFT_PREFIX}{name}"),
            Self::PromptParameter { name } => write!(f, "{PROMPT}{name}"),
            Self::Shared(name) => f.write_str(name),
            Self::Prompt => f.write_str(EMBEDDINGS),
            Self::Encoder { name } => write!(f, "{ENCODER}{name}"),
        }
    }
}
