//! The tensors of an adapter: their names as PEFT writes them, and how they fit what a graph has places for.

use std::fmt;

use indexmap::IndexMap;

use crate::adapter::methods;
use crate::adapter::params::key::{Family, Key};
use crate::adapter::targets::nearest::near;
use crate::adapter::{PEFT_PREFIX, Param};
use crate::error::{Error, Place, Result};
use crate::ir::Tensor;

/// The tensors of a file under the names that PEFT gives them today, in the order of the names.
///
/// Files that are plain dumps of a model have an adapter's name inside (`lora_A.default.weight`), those of wrapped models what the wrapper is
/// called, those of adapters without PEFT's wrapper no `base_model.model.` in front. A name of another kind stays as it is.
///
/// # Errors
/// If two names become the same: a dump of several adapters.
pub fn canonical(tensors: IndexMap<String, Tensor>, family: Family) -> Result<IndexMap<String, Tensor>> {
    let mut named = IndexMap::with_capacity(tensors.len());
    // PEFT keeps biases of the module that stands in front of one that is saved as a whole; nothing reads them.
    for (name, tensor) in tensors.into_iter().filter(|(name, _)| !name.contains(".original_module.")) {
        let canonical = canonical_name(&name, family);
        let other = named.insert(canonical.clone(), tensor.clone());
        if other.is_some_and(|other| other != tensor) {
            return Err(Error::invalid("several tensors of this name: the file holds more than one adapter").at(Place::Tensor(canonical)));
        }
    }
    named.sort_unstable_keys();
    Ok(named)
}

/// What wrappers around a module put into its path, wherever they stand: torch.compile, FSDP and its older form, activation checkpoints,
/// mixed precision. No model calls a module so.
const WRAPPERS: &[&str] = &["_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module"];
/// What DDP, DeepSpeed's engine and FP16 wrappers put in front. A module inside a model may be called so.
const OUTER_WRAPPER: &str = "module";
/// PEFT's own segments in front of a base's modules.
const PEFT_SEGMENTS: &[&str] = &["base_model", "model"];

/// A name without what wrappers put into it; of a model that was wrapped by PEFT twice, as if once.
#[must_use]
pub(super) fn unwrapped(name: &str) -> String {
    let mut in_front = true;
    let mut kept: Vec<&str> = Vec::new();
    for segment in name.split('.').filter(|segment| !WRAPPERS.contains(segment)) {
        if in_front && segment == OUTER_WRAPPER {
            continue;
        }
        in_front &= PEFT_SEGMENTS.contains(&segment);
        kept.push(segment);
    }
    let name = kept.join(".");
    // A trainer or a module around PEFT's has it under a name of its own (`student.base_model.model.`), which PEFT does not know.
    let behind = name.find(PEFT_PREFIX).filter(|at| name[..*at].ends_with('.'));
    let mut inner = behind.filter(|_| !name.starts_with(PEFT_PREFIX)).map_or(name.as_str(), |at| &name[at..]);
    while let Some(rest) = inner.strip_prefix(PEFT_PREFIX).filter(|rest| rest.starts_with(PEFT_PREFIX)) {
        inner = rest;
    }
    inner.to_owned()
}

fn canonical_name(name: &str, family: Family) -> String {
    let name = unwrapped(name);
    if let Some(key) = methods::key(&name, family) {
        return key.to_string();
    }
    let wrapped = methods::key(&Key::parameter(&name, family).to_string(), family);
    match wrapped {
        Some(key @ Key::Module { .. }) => key.to_string(),
        _ => name,
    }
}

/// How a file's tensors fit an adapter's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// The names of tensors that fit.
    pub matched: Vec<String>,
    /// The names of tensors that the adapter has and the file has not.
    pub missing: Vec<String>,
    /// The names of tensors that the file has and the adapter has not.
    pub unmatched: Vec<String>,
    /// Tensors whose two axes are swapped.
    pub transposed: Vec<Misfit>,
    /// Tensors of other shapes.
    pub misfits: Vec<Misfit>,
    expected: Vec<String>,
}

/// A tensor of another shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The tensor's name.
    pub name: String,
    /// The shape that the adapter has.
    pub expected: Vec<usize>,
    /// The shape in the file.
    pub found: Vec<usize>,
}

/// Compares the tensors of a file with those of an adapter.
#[must_use]
pub fn match_params(tensors: &IndexMap<String, Tensor>, params: &[Param]) -> Matched {
    let expected = params.iter().map(|param| param.key.clone()).collect();
    let mut result = Matched { expected, ..Matched::default() };
    for param in params {
        let expected = param.initial.shape();
        let name = param.key.clone();
        match tensors.get(&name).map(Tensor::shape) {
            None => result.missing.push(name),
            Some(found) if found == expected => result.matched.push(name),
            Some(found) => {
                let misfit = Misfit { name, expected: expected.to_vec(), found: found.to_vec() };
                let is_swapped = expected.len() == 2 && found.iter().rev().eq(expected);
                if is_swapped { &mut result.transposed } else { &mut result.misfits }.push(misfit);
            }
        }
    }
    result.unmatched = tensors.keys().filter(|name| params.iter().all(|param| param.key != **name)).cloned().collect();
    result
}

impl fmt::Display for Matched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { matched, missing, unmatched, transposed, misfits, .. } = self;
        let others = [
            (missing.len(), "missing"),
            (unmatched.len(), "without a place"),
            (transposed.len(), "with swapped axes"),
            (misfits.len(), "of another shape"),
        ];
        write!(f, "{} tensors fit", matched.len())?;
        others.iter().filter(|(count, _)| *count > 0).try_for_each(|(count, what)| write!(f, ", {count} {what}"))
    }
}

impl Matched {
    /// Whether a name is that of the bias beside a weight that fits.
    fn is_left_out(&self, name: &str) -> bool {
        name.strip_suffix(".bias").is_some_and(|module| self.matched.contains(&format!("{module}.weight")))
    }

    /// Accepts a perfect fit.
    ///
    /// # Errors
    /// If any tensor is missing, unknown, or of another shape; all of them at once.
    pub fn check(&self) -> Result<()> {
        if let Some(Misfit { name, expected, found }) = self.misfits.first().or_else(|| self.transposed.first()) {
            let others = self.misfits.len() + self.transposed.len() - 1;
            let what = if others == 0 { "shape".to_owned() } else { format!("shape (and {others} more like this)") };
            let hint = if self.misfits.is_empty() {
                "its axes are swapped; PEFT's order is expected"
            } else {
                "the adapter belongs to another base"
            };
            let error = Error::mismatch(what, format!("{expected:?}"), format!("{found:?}"));
            return Err(error.at(Place::Tensor(name.clone())).with_hint(format!("{hint} ({self})")));
        }
        if let Some(first) = self.unmatched.first() {
            let expected: Vec<&str> = self.expected.iter().map(String::as_str).collect();
            if let Some(bias) = self.unmatched.iter().find(|name| self.is_left_out(name)) {
                let why = "the exporter left its bias out, as it was 0 in the base";
                let error = Error::unsupported("a bias of the adapter", why).at(Place::Tensor(bias.clone()));
                return Err(error.with_hint("export the base with `torch.onnx.export(.., dynamo=False)`, which keeps it"));
            }
            let hint = format!(
                "the adapter belongs to another base, or the base's modules have other names ({self}); nearest: {}",
                near(first, &expected).join(", ")
            );
            return Err(Error::invalid(format!("no place in the model for {}", listed(&self.unmatched))).with_hint(hint));
        }
        if !self.missing.is_empty() {
            return Err(Error::invalid(format!("the file has no {}", listed(&self.missing)))
                .with_hint(format!("adapter_config.json names modules that the file has no tensors for ({self})")));
        }
        Ok(())
    }
}

/// The first few names, and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(4).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(4) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Role;
    use crate::ir::{Builder, DType, Graph};

    type Named<'a> = (&'a str, &'a [usize]);

    fn tensors(list: &[Named<'_>]) -> IndexMap<String, Tensor> {
        list.iter().map(|&(name, shape)| (name.to_owned(), Tensor::from_f32(shape, &vec![0.0; shape.iter().product()]))).collect()
    }

    fn params(list: &[Named<'_>]) -> Vec<Param> {
        let b = Builder::on(&Graph::default());
        let value = b.input("x", DType::F32, &[]).id();
        tensors(list).into_iter().map(|(key, initial)| Param { name: key.clone(), key, value, initial, role: Role::Trained }).collect()
    }

    #[test]
    fn names_become_those_that_peft_writes() -> Result<()> {
        let rows: &[(&[&str], &[&str])] = &[
            (
                &["base_model.model.q.lora_B.default.weight", "base_model.model.q.lora_A.default.weight"],
                &["base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"],
            ),
            (&["base_model.model._orig_mod.h.0.q.lora_A.weight"], &["base_model.model.h.0.q.lora_A.weight"]),
            (&["module.base_model.model.h.0.q.lora_A.default.weight"], &["base_model.model.h.0.q.lora_A.weight"]),
            (&["base_model.model.module.model.h.0.q.lora_A.weight"], &["base_model.model.model.h.0.q.lora_A.weight"]),
            (&["base_model.model.module.base_model.model.h.0.q.lora_A.weight"], &["base_model.model.h.0.q.lora_A.weight"]),
            (
                &["_fsdp_wrapped_module.base_model.model.h.0._fsdp_wrapped_module._checkpoint_wrapped_module.q.lora_A.weight"],
                &["base_model.model.h.0.q.lora_A.weight"],
            ),
            (&["_forward_module.module.h.0._orig_mod.q._orig_mod.lora_A.weight"], &["base_model.model.h.0.q.lora_A.weight"]),
            // What has PEFT's model under a name of its own.
            (&["model.base_model.model.h.0.q.lora_A.weight"], &["base_model.model.h.0.q.lora_A.weight"]),
            (&["student.peft_model.base_model.model.h.0.q.lora_A.default.weight"], &["base_model.model.h.0.q.lora_A.weight"]),
            (&["net.base_model.model.base_model.model.h.0.q.lora_A.weight"], &["base_model.model.h.0.q.lora_A.weight"]),
            // A module of the model itself.
            (&["base_model.model.h.0.module.q.lora_A.weight"], &["base_model.model.h.0.module.q.lora_A.weight"]),
            (&["h.0.q.lora_A.weight"], &["base_model.model.h.0.q.lora_A.weight"]),
            (&["something.else", "lm_head.weight"], &["lm_head.weight", "something.else"]),
        ];
        for (found, expected) in rows {
            let found: Vec<(&str, &[usize])> = found.iter().map(|&name| (name, &[1_usize][..])).collect();
            assert_eq!(canonical(tensors(&found), Family::Tuner)?.keys().collect::<Vec<_>>(), *expected);
        }
        // With `bias="all"`, PEFT writes the biases of a saved module three times.
        let biases = ["classifier.bias", "classifier.modules_to_save.bias", "classifier.original_module.bias"];
        let biases = biases.map(|name| (format!("base_model.model.{name}"), Tensor::from_f32(&[1], &[2.0])));
        assert_eq!(
            canonical(biases.into_iter().collect(), Family::Tuner)?.keys().collect::<Vec<_>>(),
            ["base_model.model.classifier.bias"]
        );
        let two = tensors(&[("base_model.model.q.lora_A.one.weight", &[1]), ("base_model.model.q.lora_A.two.weight", &[2])]);
        let error = canonical(two, Family::Tuner).expect_err("two adapters").to_string();
        assert!(error.contains("more than one adapter"), "{error}");
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_said() -> Result<()> {
        let params = params(&[("base_model.model.q.lora_A.weight", &[2, 8]), ("base_model.model.q.lora_B.weight", &[8, 2])]);
        let a = ("base_model.model.q.lora_A.weight", &[2_usize, 8][..]);
        let b = ("base_model.model.q.lora_B.weight", &[8_usize, 2][..]);
        let rows: &[(&[Named<'_>], &str, &str)] = &[
            (&[a], "the file has no base_model.model.q.lora_B.weight", "adapter_config.json names modules"),
            (&[a, (b.0, &[2, 8])], "tensor base_model.model.q.lora_B.weight: shape: expected [8, 2], found [2, 8]", "its axes are swapped"),
            (
                &[(a.0, &[4, 8]), (b.0, &[8, 4])],
                "shape (and 1 more like this): expected [2, 8], found [4, 8]",
                "the adapter belongs to another base",
            ),
            (
                &[a, b, ("base_model.model.p.lora_A.weight", &[2, 8])],
                "no place in the model for base_model.model.p.lora_A.weight",
                "the adapter belongs",
            ),
        ];
        for (file, message, hint) in rows {
            let error = match_params(&tensors(file), &params).check().expect_err(message);
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.hint().is_some_and(|found| found.starts_with(hint)), "{:?}", error.hint());
        }
        let saved = self::params(&[("base_model.model.classifier.weight", &[3, 8])]);
        let file = tensors(&[("base_model.model.classifier.weight", &[3, 8]), ("base_model.model.classifier.bias", &[3])]);
        let error = match_params(&file, &saved).check().expect_err("a bias that the graph has not");
        assert!(error.to_string().contains("classifier.bias: a bias of the adapter") && error.hint().is_some(), "{error}");
        let matched = match_params(&tensors(&[a, b]), &params);
        assert_eq!(matched.matched.len(), 2);
        matched.check()
    }
}
