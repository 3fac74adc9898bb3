//! Where a method attaches.

use crate::error::{Error, Result};

/// A choice of modules by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Modules whose path is one of these, or ends with a dot and one of these.
    Names(Vec<String>),
    /// Modules whose whole path matches a regular expression in Python's syntax.
    Regex(String),
}

/// The modules that a method attaches to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Targets {
    /// What the method does best with, from structure: every linear projection but the head for LoRA.
    #[default]
    Default,
    /// Every linear projection but the head.
    AllLinear,
    /// A choice.
    Only(Selection),
}

impl Targets {
    /// Whether nothing was asked for.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::Default
    }

    /// The targets of one text, as on a command line: `all-linear`, names with commas between them, or a regular expression.
    ///
    /// A text with any of `*+?()[]{}|^$\` is a regular expression.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        if text.eq_ignore_ascii_case("all-linear") { Self::AllLinear } else { Self::Only(Selection::from_text(text)) }
    }
}

impl Selection {
    /// Names with commas or blanks between them, a list of names as JSON or Python writes it, or a regular expression; see [`Targets::from_text`].
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        if let Some(names) = listed(text) {
            return Self::Names(names);
        }
        if text.contains(['*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '^', '$', '\\']) {
            return Self::Regex(text.to_owned());
        }
        Self::Names(text.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }
}

/// The names in `["q_proj", "v_proj"]`, if a text is such a list; without quotes it is a class of characters.
fn listed(text: &str) -> Option<Vec<String>> {
    let inside = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let unquoted = |name: &str| {
        let quote = name.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        name.strip_prefix(quote)?.strip_suffix(quote).map(str::to_owned)
    };
    inside.trim_end().trim_end_matches(',').split(',').map(|name| unquoted(name.trim())).collect()
}

/// Where a method attaches, and what is trained beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The modules to attach to.
    pub targets: Targets,
    /// The modules not to attach to, even if they are targets.
    pub exclude: Option<Selection>,
    /// The only layers to attach to; none means all.
    pub layers_to_transform: Vec<usize>,
    /// Names of the list of layers, if layers are chosen and it is not the first numbered one.
    pub layers_pattern: Vec<String>,
    /// Modules that are trained and saved as a whole; never attached to.
    pub modules_to_save: Vec<String>,
}

impl Scope {
    /// Writes down what was chosen by structure: the targets by their full paths, if they were not named, and what is saved beside them.
    ///
    /// PEFT finds `all-linear` in its own way, which may differ from what was found in a graph.
    pub fn settle(&mut self, targets: &[&str], modules_to_save: &[String]) {
        if matches!(self.targets, Targets::Default | Targets::AllLinear) {
            self.targets = Targets::Only(Selection::Names(targets.iter().map(ToString::to_string).collect()));
            self.layers_to_transform.clear();
            self.layers_pattern.clear();
        }
        modules_to_save.clone_into(&mut self.modules_to_save);
    }

    /// Checks that the settings go together.
    ///
    /// # Errors
    /// Layers beside a regular expression; a pattern of layers without layers.
    pub fn check(&self) -> Result<()> {
        if !self.layers_pattern.is_empty() && self.layers_to_transform.is_empty() {
            return Err(Error::invalid("layers_pattern is given without layers_to_transform"));
        }
        if matches!(self.targets, Targets::Only(Selection::Regex(_))) && !self.layers_to_transform.is_empty() {
            return Err(Error::invalid("layers_to_transform cannot be used with a regular expression as target_modules")
                .with_hint("write the layers into the expression, or list the targets by name"));
        }
        Ok(())
    }
}

/// Which biases are trained (`bias` of `LoraConfig`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum), value(rename_all = "snake_case"))]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// Every bias of the base.
    All,
    /// The biases of the adapted modules.
    #[cfg_attr(feature = "cli", value(name = "lora_only"))]
    TargetsOnly,
}
