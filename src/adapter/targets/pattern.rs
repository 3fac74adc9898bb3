//! Python regular expressions, matched the ways PEFT matches them.

use fancy_regex::Regex;

use crate::error::{Error, Result};

/// A compiled Python regular expression.
#[derive(Debug)]
pub(crate) struct Pattern {
    regex: Regex,
    source: String,
}

impl Pattern {
    /// Matches a whole text, as `re.fullmatch` does.
    pub(crate) fn whole(field: &str, source: &str) -> Result<Self> {
        Self::compile(field, source, &format!(r"\A(?:{source})\z"))
    }

    /// Matches the whole text, or what comes after one of its dots: how `rank_pattern` is read (`get_pattern_key` in `peft/utils/other.py`).
    pub(crate) fn tail(field: &str, source: &str) -> Result<Self> {
        Self::compile(field, source, &format!(r"\A(?:.*\.)?(?:{source})\z"))
    }

    /// Matches the path of a module, or of anything inside it (`check_target_module_exists` in `peft/tuners/tuners_utils.py`).
    pub(crate) fn module_or_inside(field: &str, source: &str) -> Result<Self> {
        Self::compile(field, source, &format!(r"\A(?:^|.*\.)(?:{source})(?:$|\..*)"))
    }

    /// Finds the number of the layer that a module is in: the segment after the list of layers, named by `source`, or else after the first
    /// segment that a number follows. The first number counts: a later one is an expert's.
    pub(crate) fn layer(field: &str, source: Option<&str>) -> Result<Self> {
        match source {
            None => Self::compile(field, "", r"\A.*?\.[^.]*\.(?P<idx>\d+)\."),
            Some(source) => Self::compile(field, source, &format!(r"\A(?:^|.*?\.)(?:{source})\.(?P<idx>\d+)\.")),
        }
    }

    fn compile(field: &str, source: &str, anchored: &str) -> Result<Self> {
        let regex =
            Regex::new(anchored).map_err(|why| Error::invalid(format!("{field}: {source:?} is not a regular expression: {why}")))?;
        Ok(Self { regex, source: source.to_owned() })
    }

    /// Whether `text` matches.
    ///
    /// # Errors
    /// If the expression needs too many steps.
    pub(crate) fn matches(&self, text: &str) -> Result<bool> {
        self.regex.is_match(text).map_err(|why| self.too_hard(text, &why))
    }

    /// The number that [`Pattern::layer`] looks for.
    ///
    /// # Errors
    /// If the expression needs too many steps.
    pub(crate) fn layer_of(&self, module: &str) -> Result<Option<usize>> {
        let found = self.regex.captures(module).map_err(|why| self.too_hard(module, &why))?;
        Ok(found.and_then(|groups| groups.name("idx")?.as_str().parse().ok()))
    }

    fn too_hard(&self, text: &str, why: &fancy_regex::Error) -> Error {
        Error::invalid(format!("regular expression {:?} on {text:?}: {why}", self.source))
    }
}
