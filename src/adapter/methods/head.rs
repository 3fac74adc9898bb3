//! The head alone: nothing but modules of the base that are trained and saved as a whole. PEFT has no such method: it is written as a LoRA
//! without targets.

use serde_json::json;

use crate::adapter::config::fields::Fields;
use crate::adapter::config::options::Options;
use crate::adapter::config::settings::Settings;
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::key::{Family, Tensors};
use crate::{Error, Result};

/// What PEFT takes for no target at all (`DUMMY_TARGET_MODULES` in `peft/utils/constants.py`): a LoRA of nothing trains what is saved as a whole.
pub(super) const NO_TARGETS: &str = "dummy-target-modules";

/// The row of the head alone.
pub static ROW: Row = Row {
    name: "head",
    aliases: &[],
    variants: &[],
    about: "Some of the base's own modules",
    peft_type: "HEAD",
    learning_rate: 1e-2,
    family: Family::Tuner,
    tensors: Tensors { parts: &[], shared: &[] },
    adapter_file: "head",
    takes: &[&["modules_to_save"]],
    page: "head.md",
    read: |fields| HeadConfig::read(fields).map(Into::into),
    configure: |options: &Options| Ok(HeadConfig { modules_to_save: options.scope.modules_to_save.clone() }.into()),
};

/// The options of training some of the base's own modules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadConfig {
    /// The modules.
    pub modules_to_save: Vec<String>,
}

impl HeadConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        let modules_to_save = fields.names("modules_to_save")?;
        if modules_to_save.is_empty() {
            return Err(Error::invalid("modules_to_save names no module, and this method trains nothing else"));
        }
        Ok(Self { modules_to_save })
    }
}

impl Configuration for HeadConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn write(&self, settings: &mut Settings) {
        settings.0.shift_remove("method");
        settings.put("peft_type", "LORA");
        settings.put("target_modules", NO_TARGETS);
        settings.put("modules_to_save", json!(self.modules_to_save));
    }

    fn modules_to_save(&self) -> &[String] {
        &self.modules_to_save
    }

    fn is_head_alone(&self) -> bool {
        true
    }

    /// The model's own head where no module is named.
    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let mut modules_to_save = at.saved.to_vec();
        if modules_to_save.is_empty() {
            let head = at.anatomy.head.as_ref().and_then(|head| at.anatomy.projections.get(head.projection?));
            let module = head.map(|projection| projection.module.clone());
            modules_to_save.push(module.ok_or_else(|| {
                Error::invalid("the model's head was not recognised").with_hint("name the module to train with `modules_to_save`")
            })?);
        }
        Ok(Placed { parts: vec![], settled: Self { modules_to_save }.into() })
    }
}
