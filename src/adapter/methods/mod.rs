//! The methods: a file and a row of the table each.
//!
//! A method that attaches to linear projections says what it does at one of them ([`branch::Branch`]), how it is configured
//! ([`Configuration`](super::method::Configuration)), and what is the same for all its adapters ([`Row`]). Everything else (command line, files, graphs, merging) follows.
//! A method of one's own has the same three and is made known with [`register`].

pub mod adalora;
pub mod branch;
pub mod fourierft;
pub mod head;
pub mod hira;
pub mod ia3;
mod lacking;
pub mod ln_tuning;
pub mod loha;
pub mod lokr;
pub mod lora;
pub mod miss;
mod new_input;
pub mod oft;
pub mod prefix;
pub mod product;
pub mod prompt;
pub mod road;
pub mod trainable_tokens;
pub(crate) mod trained;
pub mod vera;

use std::sync::{PoisonError, RwLock};

use super::config::options::{self, Options};
use super::method::{Method, Row};
use super::params::key::{Family, Key, Tensors};
use crate::error::{Context, Error, Result};

/// The methods, in the order in which they are shown.
pub static METHODS: &[&Row] = &[
    &lora::ROW,
    &prompt::ROW,
    &prefix::ROW,
    &prefix::P_TUNING_V2,
    &prompt::P_TUNING,
    &ia3::ROW,
    &trainable_tokens::ROW,
    &head::ROW,
    &ln_tuning::ROW,
    &vera::ROW,
    &loha::ROW,
    &lokr::ROW,
    &adalora::ROW,
    &oft::ROW,
    &miss::ROW,
    &fourierft::ROW,
    &hira::ROW,
    &road::ROW,
];

/// Methods of the program that uses this library.
static OWN: RwLock<Vec<&'static Row>> = RwLock::new(Vec::new());

/// Makes a method of one's own known: adapters of it are read and written, injected, trained and merged like any other.
///
/// # Errors
/// A name or a `peft_type` that is another method's.
pub fn register(row: &'static Row) -> Result<()> {
    let names = [row.name].into_iter().chain(row.aliases.iter().copied()).chain(row.variants.iter().copied());
    let taken = all().into_iter().find(|known| names.clone().any(|name| known.is_called(name)) || known.peft_type == row.peft_type);
    if let Some(known) = taken.filter(|known| !std::ptr::eq(*known, row)) {
        return Err(Error::invalid(format!("the method {} has the name or the type of {}", row.name, known.name)));
    }
    let mut own = OWN.write().unwrap_or_else(PoisonError::into_inner);
    if !own.iter().any(|known| std::ptr::eq(*known, row)) {
        own.push(row);
    }
    Ok(())
}

/// All methods that are known.
#[must_use]
pub fn all() -> Vec<&'static Row> {
    let own = OWN.read().unwrap_or_else(PoisonError::into_inner);
    METHODS.iter().chain(own.iter()).copied().collect()
}

/// The method of a name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Row> {
    all().into_iter().find(|row| row.is_called(name))
}

/// The method of PEFT's `peft_type`.
///
/// # Errors
/// One that is not known.
pub fn of_peft_type(peft_type: &str) -> Result<&'static Row> {
    let rows = all();
    rows.iter().find(|row| row.peft_type.eq_ignore_ascii_case(peft_type)).copied().ok_or_else(|| {
        let mut known: Vec<&str> = rows.iter().map(|row| row.peft_type).collect();
        known.dedup();
        Error::unsupported(format!("peft_type {peft_type:?}"), format!("known are {}", known.join(", ")))
    })
}

/// Configures a method as a user asks for it.
///
/// # Errors
/// An unknown name; options that contradict each other, or that the method cannot have.
pub fn configure(options: &Options) -> Result<Method> {
    let row = named(&options.name).ok_or_else(|| Error::not_found("method", options.name.clone()))?;
    let untaken = options::TABLE.iter().find(|(name, is_said)| is_said(options) && !row.takes(name));
    if let Some((name, _)) = untaken {
        let takers: Vec<&str> = all().into_iter().filter(|other| other.takes(name)).map(|other| other.name).collect();
        return Err(Error::setting(name, format!("a method that takes it ({})", takers.join(", ")), row.name).with_hint(format!(
            "{} takes {}",
            row.name,
            row.takes.concat().join(", ")
        )));
    }
    let method = (row.configure)(options)?.with_settings(&options.settings)?;
    method.check().hint("the default of every setting is PEFT's: leave it out")?;
    Ok(method)
}

/// Reads the name of an adapter's tensor.
#[must_use]
pub fn key(text: &str, family: Family) -> Option<Key> {
    let tensors: Vec<Tensors> = all().into_iter().map(|row| row.tensors).collect();
    Key::parse(text, family, &tensors)
}

#[cfg(test)]
mod tests;
