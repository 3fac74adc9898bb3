//! The normalisations, trained as they are (Zhao et al., Tuning LayerNorm in Attention; PEFT `tuners/ln_tuning/layer.py`).

use super::trained::Trained;
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::{Scope, settings::Settings};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::Role;
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::part::{Part, boxed};
use crate::adapter::targets::{self, CandidateKind};
use crate::{Error, Result};

/// `[hidden]`
const WEIGHT: KeyPart = KeyPart::new("ln_tuning_layers", "weight");
/// `[hidden]`
const BIAS: KeyPart = KeyPart::new("ln_tuning_layers", "bias");

/// The row of layer norm tuning.
pub static ROW: Row = Row {
    name: "ln_tuning",
    aliases: &["ln-tuning"],
    variants: &[],
    about: "Normalisation layers",
    peft_type: "LN_TUNING",
    learning_rate: 1e-3,
    family: Family::Tuner,
    tensors: Tensors { parts: &[WEIGHT, BIAS], shared: &[] },
    adapter_file: "ln_tuning",
    takes: &[SCOPE],
    page: "layer-norm-and-bias.md",
    read: |fields| Ok(LnTuningConfig { scope: Scope::read(fields)? }.into()),
    configure: |options: &Options| Ok(LnTuningConfig { scope: options.scope.clone() }.into()),
};

/// The options of layer norm tuning (`LNTuningConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LnTuningConfig {
    /// The normalisation layers.
    pub scope: Scope,
}

impl Configuration for LnTuningConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        self.scope.check()
    }

    fn write(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }

    fn scope_mut(&mut self) -> Option<&mut Scope> {
        Some(&mut self.scope)
    }

    /// All normalisations where none are named.
    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let mut config = self.clone();
        config.scope.modules_to_save = at.saved.to_vec();
        let candidates = targets::norms(at.anatomy);
        let chosen: Vec<&str> = if config.scope.targets.is_default() {
            candidates.iter().map(|norm| norm.module.as_str()).collect()
        } else {
            targets::select(&config.scope, &candidates, at.strictness)?.into_iter().map(|place| candidates[place].module.as_str()).collect()
        };
        debug_assert!(candidates.iter().all(|candidate| candidate.kind == CandidateKind::Norm), "only norms are candidates");
        if chosen.is_empty() {
            let error = Error::unsupported("tuning the normalisations", "none was found in this graph");
            return Err(error.with_hint("`peft-onnx inspect MODEL` lists what the graph has, and what each method could train"));
        }
        let parts = [("weight", WEIGHT), ("bias", BIAS)];
        let mut found: Vec<Box<dyn Part>> = vec![];
        for module in &chosen {
            for (leaf, part) in parts {
                let name = format!("{module}.{leaf}");
                let parameter = at.anatomy.parameters.iter().find(|parameter| parameter.name == name).cloned();
                let key = Key::module(*module, part).to_string();
                found.extend(parameter.map(|parameter| boxed(Trained { parameter, key, role: Role::Trained })));
            }
        }
        config.scope.settle(&chosen, at.saved);
        Ok(Placed { parts: found, settled: config.into() })
    }
}
