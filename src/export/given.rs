//! An adapter's files made to fit a base: what its keys say beside PEFT's names, and the embeddings that stand beside its tensors.
//!
//! PEFT writes the token table and the head beside an adapter when the vocabulary was touched (`save_embedding_layers`), and loads them into
//! the base. Where they are the base's own they are left out here; else they take the base's place, and are not trained.

use std::collections::BTreeSet;

use crate::adapter::methods;
use crate::adapter::methods::lora::{EMBEDDING_A, EMBEDDING_B, LORA_A, LORA_B, LoraConfig};
use crate::adapter::params::key::{Family, Key, KeyPart};
use crate::adapter::{Plan, targets, weights::replace};
use crate::anatomy::{Anatomy, Parameter, Task};
use crate::ir::Tensor;
use crate::model::base::Base;
use crate::num;
use crate::peft::AdapterFiles;
use crate::{Error, Place, Result};

/// A segment that wrappers put anywhere into names, and that models have names with as well.
const WRAPPER: &str = ".module.";

/// Leaves `module` out of an adapter's names where no name of the graph has it: it is a wrapper's (DDP around a part of the model).
pub fn unwrap(files: &mut AdapterFiles, anatomy: &Anatomy) {
    let has_it = |name: &str| format!(".{name}.").contains(WRAPPER);
    let modules = anatomy.projections.iter().map(|p| p.module.as_str()).chain(anatomy.embeddings.iter().map(|e| e.module.as_str()));
    if modules.chain(anatomy.parameters.iter().map(|p| p.name.as_str())).any(has_it) {
        return;
    }
    let plain = |name: &str| name.replace(WRAPPER, ".");
    let names: BTreeSet<String> = files.tensors.keys().map(|name| plain(name)).collect();
    if names.len() == files.tensors.len() {
        files.tensors = std::mem::take(&mut files.tensors).into_iter().map(|(name, tensor)| (plain(&name), tensor)).collect();
    }
}

/// Checks what can be told of an adapter's tensors, and leaves out embeddings that are the base's own.
///
/// # Errors
/// Tensors of another rank than the configuration says; tables with more or fewer rows of tokens than the base's; a table that was changed
/// and is adapted as well.
pub fn settle(files: &mut AdapterFiles, base: &Base) -> Result<()> {
    ranks(files)?;
    turn(files, base)?;
    tables(files, base)
}

/// Gives whole weights PyTorch's order of axes where a file has them in the base's: those of adapters that were written so.
fn turn(files: &mut AdapterFiles, base: &Base) -> Result<()> {
    let family = files.config.method.family();
    for (key, tensor) in &mut files.tensors {
        let Some(Key::Parameter { name } | Key::PromptParameter { name }) = methods::key(key, family) else { continue };
        let Some(parameter) = base.anatomy.parameters.iter().find(|parameter| parameter.name == name) else { continue };
        let (order, turned) = replace::turned(&base.graph, parameter, tensor)?;
        if order == replace::Order::Untold {
            tracing::warn!(
                "whether {name} of the adapter is [out, in] or [in, out] cannot be told from its numbers; it is read as PEFT's, [out, in]"
            );
        }
        if let Some(turned) = turned {
            tracing::info!("{name} is read as [in, out]: its axes are swapped in the adapter's file");
            *tensor = turned;
        }
    }
    Ok(())
}

/// Refuses a rank that the configuration does not say.
fn ranks(files: &AdapterFiles) -> Result<()> {
    let Some(config) = files.config.method.get::<LoraConfig>() else { return Ok(()) };
    for (name, tensor) in &files.tensors {
        let Some(Key::Module { module, part }) = methods::key(name, Family::Tuner) else { continue };
        let axis = match part {
            LORA_A | EMBEDDING_A => 0,
            LORA_B | EMBEDDING_B => 1,
            _ => continue,
        };
        let declared = config.ranks().site(&module)?.rank;
        if let Some(&found) = tensor.shape().get(axis).filter(|&&found| found != declared && tensor.shape().len() == 2) {
            return Err(undeclared(config, &module, found, declared).at(Place::Tensor(name.clone())));
        }
    }
    Ok(())
}

fn undeclared(config: &LoraConfig, module: &str, found: usize, declared: usize) -> Error {
    let field = if declared == config.rank { "r" } else { "rank_pattern" };
    Error::mismatch("rank", format!("{declared} ({field} in adapter_config.json)"), found).with_hint(format!(
        "write the rank that the file has into adapter_config.json: `\"rank_pattern\": {{\"{module}\": {found}}}`, or `r`"
    ))
}

/// The module of a parameter whose tensor stands beside an adapter's.
fn owner(name: &str) -> Option<&str> {
    name.strip_suffix(".weight")
}

fn tables(files: &mut AdapterFiles, base: &Base) -> Result<()> {
    let family = files.config.method.family();
    let anatomy = &base.anatomy;
    for (key, tensor) in files.tensors.clone() {
        let (name, is_adapted) = match methods::key(&key, family) {
            Some(Key::Parameter { name } | Key::PromptParameter { name }) => (name, false),
            Some(Key::Module { module, part: KeyPart::BASE_WEIGHT }) => (format!("{module}.weight"), true),
            _ => continue,
        };
        let Some(rows) = owner(&name).and_then(|module| rows_of_tokens(anatomy, module)) else { continue };
        same_rows(&key, &tensor, rows)?;
        let is_trained = files.config.method.modules_to_save().iter().any(|saved| targets::is_saved(&name, saved));
        let Some(parameter) = anatomy.parameters.iter().find(|parameter| parameter.name == name).filter(|_| !is_trained) else { continue };
        if is_of_base(base, parameter, &tensor)? {
            // A method that adapts a table keeps it where PEFT wrote it; a head's own weight is the base's.
            let is_table = anatomy.embeddings.iter().any(|table| owner(&name) == Some(table.module.as_str()));
            if !(is_adapted && is_table) {
                files.tensors.shift_remove(&key);
            }
        } else if is_adapted {
            let why = "its own table was changed, too: merge the two before";
            return Err(Error::unsupported(format!("an adapter of {name}"), why).at(Place::Tensor(key)).with_hint(
                "load the adapter with PEFT, save the base with its table (`model.get_base_model().save_pretrained`) and export that",
            ));
        } else {
            tie(files, anatomy, &name, &tensor, family);
        }
    }
    files.tensors.sort_unstable_keys();
    Ok(())
}

/// The number of tokens that a module has rows for: the token table, or the head of a language model.
fn rows_of_tokens(anatomy: &Anatomy, module: &str) -> Option<i64> {
    let table = anatomy.embeddings.iter().find(|table| table.module == module).map(|table| table.rows);
    let head = anatomy.head.as_ref().and_then(|head| anatomy.projections.get(head.projection?));
    let is_for_tokens = anatomy.task.task.is_some_and(Task::predicts_tokens);
    table.or_else(|| head.filter(|head| head.module == module && is_for_tokens).map(|head| head.out_features))
}

fn same_rows(key: &str, tensor: &Tensor, rows: i64) -> Result<()> {
    match tensor.shape().first().map(|&found| num::int(found)) {
        Some(found) if found != rows => {
            let error = Error::mismatch("rows of tokens", format!("{rows}, as the base has"), found);
            Err(error.at(Place::Tensor(key.to_owned())).with_hint(format!(
                "the vocabulary was resized before the adapter was trained: call `model.resize_token_embeddings({found})` on the base, \
                 export it again, and inject into that"
            )))
        }
        _ => Ok(()),
    }
}

/// Whether a tensor is what the base has, as far as the base's type can tell.
fn is_of_base(base: &Base, parameter: &Parameter, tensor: &Tensor) -> Result<bool> {
    let stored = base.graph.stored(parameter.value).filter(|_| parameter.floats);
    let Some(stored) = stored else {
        tracing::warn!("{} is saved with the adapter but quantised in this base: the base's values are kept", parameter.name);
        return Ok(true);
    };
    let found = replace::as_stored(stored, tensor, parameter.transposed).map_err(|e| e.at(Place::Tensor(parameter.name.clone())))?;
    Ok(found.to_f32() == stored.to_f32())
}

/// A head that is the table itself has what the table has.
fn tie(files: &mut AdapterFiles, anatomy: &Anatomy, name: &str, tensor: &Tensor, family: Family) {
    let head = anatomy.head.as_ref().filter(|head| head.tied).and_then(|head| anatomy.projections.get(head.projection?));
    let table = anatomy.token_embedding.and_then(|at| anatomy.embeddings.get(at));
    let (Some(head), Some(table)) = (head, table) else { return };
    let both = [&head.module, &table.module].map(|module| format!("{module}.weight"));
    if both.iter().any(|own| own == name) {
        for own in both {
            files.tensors.entry(Key::parameter(own, family).to_string()).or_insert_with(|| tensor.clone());
        }
    }
}

/// Refuses `ensure_weight_tying` where a table or a head that is tied is adapted.
///
/// # Errors
/// As said.
pub fn check_tying(files: &AdapterFiles, anatomy: &Anatomy, plan: &Plan) -> Result<()> {
    if !files.config.ensures_weight_tying() {
        return Ok(());
    }
    let Some(head) = anatomy.head.as_ref().filter(|head| head.tied) else { return Ok(()) };
    let head = head.projection.and_then(|at| anatomy.projections.get(at)).map(|projection| &projection.module);
    let table = anatomy.token_embedding.and_then(|at| anatomy.embeddings.get(at)).map(|table| &table.module);
    let touched = plan.touched();
    match head.into_iter().chain(table).find(|module| touched.contains(*module)) {
        None => Ok(()),
        Some(module) => Err(Error::unsupported(
            "ensure_weight_tying",
            format!("{module} is adapted and tied to another module, and adapters of tied modules are not tied here"),
        )
        .with_hint("save the adapter without it, or leave the token table and the head out of its targets")),
    }
}
