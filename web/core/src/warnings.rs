//! What the library warns of, kept until somebody asks.

use std::cell::RefCell;
use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use wasm_bindgen::prelude::*;

thread_local! {
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(vec![]) };
}

/// The warnings since the last call.
#[wasm_bindgen(js_name = takeWarnings)]
#[must_use]
pub fn take_warnings() -> Vec<String> {
    WARNINGS.with(RefCell::take)
}

/// Keeps warnings from now on.
pub(crate) fn keep() {
    // Only one who was there before could refuse, and then warnings are kept already.
    let _ = tracing::subscriber::set_global_default(Keeper);
}

struct Keeper;

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        WARNINGS.with_borrow_mut(|warnings| warnings.push(text.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The words of an event.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing into a String cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}
