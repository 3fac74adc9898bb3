//! A bare body with a new head is a model of a class that transformers has: its modules get the names that they have there, so that PEFT finds them.

use crate::Result;
use crate::adapter::config::NewHead;
use crate::adapter::targets::align_names;
use crate::anatomy::Anatomy;
use crate::model::{Beside, declared};
use crate::peft::body;

/// Names a body's modules as the class with the head does, where `config.json` beside the model tells its `model_type`: `bert.encoder.layer.0` for
/// `encoder.layer.0`. The modules of the head stay; a model whose modules are called so already does too.
///
/// # Errors
/// A configuration that is not JSON.
pub(super) fn name_as_class(anatomy: &mut Anatomy, head: Option<&NewHead>, beside: &Beside) -> Result<()> {
    let Some(head) = head.and_then(|head| head.modules.as_ref()) else { return Ok(()) };
    let config = beside.json(declared::CONFIG)?.unwrap_or_default();
    let Some(model_type) = config["model_type"].as_str() else { return Ok(()) };
    let is_decoder = anatomy.attentions.iter().any(|attention| attention.causal);
    let front = format!("{}.", body::name(model_type, is_decoder));
    let is_of_head = |name: &str| head.has(name) || name.rsplit_once('.').is_some_and(|(module, _)| head.has(module));
    let modules = anatomy.projections.iter().map(|projection| &projection.module);
    let names = modules.chain(anatomy.parameters.iter().map(|parameter| &parameter.name));
    if names.into_iter().filter(|name| !is_of_head(name)).any(|name| name.starts_with(&front)) {
        return Ok(());
    }
    tracing::info!("modules are named as in the class with the head: {front}");
    align_names::put_in_front(anatomy, &front, Some(head));
    Ok(())
}
