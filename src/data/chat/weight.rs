//! How large values become. The engine counts a template's steps, and the values that one step makes; but a list that has another one twice is made in one
//! step, and after sixty of them whoever walks through it meets 2⁶⁰ values. So what holds others is weighed when it is made, as if nothing in it were shared.

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, functions};

use super::methods::refused;
use super::tags::{OWN, TERM};
use super::text::DEPTH;
use crate::num;

/// The most values that a list or a map may have in it.
const MOST: u64 = 1 << 18;
/// The most bytes of text.
const MOST_TEXT: u64 = 64 << 20;
/// Values that are weighed for one of the template's steps.
const A_STEP: u64 = 64;
/// Bytes of text for one of them.
const BYTES_A_STEP: u64 = 4096;

/// Has what makes lists and maps of others weigh them.
pub(super) fn guard(environment: &mut Environment<'_>) {
    type Filled = Option<Value>;
    environment.add_function(OWN, own);
    environment.add_function(TERM, term);
    environment.add_function("dict", |state: &State<'_, '_>, given: Filled, more: Kwargs| weighed(state, functions::dict(given, more)?));
    environment.add_filter("batch", |state: &State<'_, '_>, value: Value, count: usize, fill: Filled| {
        weighed(state, filters::batch(state, value, count, fill)?)
    });
    environment.add_filter("slice", |state: &State<'_, '_>, value: Value, count: usize, fill: Filled| {
        weighed(state, filters::slice(state, value, count, fill)?)
    });
    environment.add_filter("map", |state: &mut State<'_, '_>, value: Value, given: Rest<ValueOrKwargs>| {
        let mapped = Value::from(filters::map(state, value, given)?);
        weighed(state, mapped)
    });
    environment
        .add_filter("zip", |state: &State<'_, '_>, value: Value, others: Rest<Value>| weighed(state, filters::zip(state, value, others)?));
    environment.add_filter("chain", |state: &State<'_, '_>, value: Value, others: Rest<Value>| {
        weighed(state, filters::chain(state, value, others)?)
    });
}

/// A value that a template makes or keeps; of several, their tuple.
fn own(state: &State<'_, '_>, values: Rest<Value>) -> Result<Value, Error> {
    match values.as_slice() {
        [only] => weighed(state, only.clone()),
        _ => weighed(state, Value::from(Tuple::from(values.0))),
    }
}

/// What is put behind another value by `+`: of a list, each item is a step's part, as if it were copied.
fn term(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if holds_others(&value) {
        state.consume_fuel(num::wide(value.len().unwrap_or_default()) / A_STEP)?;
    }
    Ok(value)
}

fn holds_others(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// A value that is not too large.
///
/// # Errors
/// One that is, with everything that is in it.
fn weighed(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if holds_others(&value) {
        let mut weight = Weight::default();
        let fits = weight.add(&value, 0);
        state.consume_fuel(weight.values / A_STEP + weight.bytes / BYTES_A_STEP)?;
        fits?;
    }
    Ok(value)
}

/// What a value has in it.
#[derive(Default)]
struct Weight {
    values: u64,
    bytes: u64,
}

impl Weight {
    fn add(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(refused(format!("lists in lists, more than {DEPTH}")));
        }
        self.values += 1;
        self.bytes += value.as_str().map_or(0, |text| num::wide(text.len()));
        if self.values > MOST || self.bytes > MOST_TEXT {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        match value.kind() {
            // What has no length may be gone after one look at it.
            ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
                value.try_iter()?.try_for_each(|item| self.add(&item, depth + 1))
            }
            ValueKind::Map => value.try_iter()?.try_for_each(|key| {
                let item = value.get_item(&key)?;
                self.add(&key, depth + 1).and_then(|()| self.add(&item, depth + 1))
            }),
            _ => Ok(()),
        }
    }
}
