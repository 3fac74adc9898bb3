//! How much longer a tokenizer may make a text before it is cut into tokens. A few steps that double it make any text endless.

use serde_json::Value;

use crate::error::{Error, Result};

/// The most times that a text may be its own length. Real normalizers write up to three bytes for one, and a few more at the beginning.
const MOST_TIMES: f64 = 1024.0;
/// The most bytes that are added to any text.
const MOST_ADDED: f64 = 16_777_216.0;

/// A bound of a text's length after a step: so many times its own, and so many bytes more.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Growth {
    times: f64,
    added: f64,
}

const NONE: Growth = Growth { times: 1.0, added: 0.0 };

/// Refuses a normalizer that may make a text so much longer that nobody waits for it.
///
/// # Errors
/// As said.
pub(super) fn check(normalizer: &Value) -> Result<()> {
    let Growth { times, added } = growth(normalizer);
    if times <= MOST_TIMES && added <= MOST_ADDED {
        return Ok(());
    }
    let found = format!("{times:.0} times as long and {added:.0} bytes more");
    let expected = format!("{MOST_TIMES} times as long and {MOST_ADDED} bytes more at most");
    Err(Error::mismatch("texts behind the tokenizer's normalizer", expected, found)
        .with_hint("this tokenizer.json was not made to be used: take the one that came with the model"))
}

fn growth(step: &Value) -> Growth {
    match step["type"].as_str() {
        Some("Sequence") => step["normalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(growth)
            .fold(NONE, |before, next| Growth { times: before.times * next.times, added: before.added.mul_add(next.times, next.added) }),
        Some("Replace") => replaced(&step["pattern"], length(&step["content"])),
        Some("Prepend") => Growth { added: length(&step["prepend"]), ..NONE },
        // A byte becomes a letter of up to two.
        Some("ByteLevel") => Growth { times: 2.0, ..NONE },
        _ => NONE,
    }
}

/// What is written for each place where a pattern stands; an expression may stand between any two letters.
fn replaced(pattern: &Value, content: f64) -> Growth {
    match length(&pattern["String"]) {
        found if found > 0.0 => Growth { times: (content / found).max(1.0), ..NONE },
        _ => Growth { times: 1.0 + content, added: content },
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "lengths of texts in a file")]
fn length(text: &Value) -> f64 {
    text.as_str().map_or(0.0, |text| text.len() as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_that_make_a_text_endless_are_refused() {
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let several = |step: Value, count: usize| json!({"type": "Sequence", "normalizers": vec![step; count]});
        for (what, normalizer, is_fine) in [
            ("nothing", Value::Null, true),
            ("spaces as marks", json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")]}), true),
            ("spaces once", json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}), true),
            ("letters away", several(replace("a", ""), 1000), true),
            ("letters twice, again and again", several(replace("a", "aa"), 40), false),
            ("long beginnings", several(json!({"type": "Prepend", "prepend": "x".repeat(1_000_000)}), 200), false),
            ("bytes of bytes", several(json!({"type": "ByteLevel"}), 40), false),
        ] {
            assert_eq!(check(&normalizer).is_ok(), is_fine, "{what}");
        }
    }
}
