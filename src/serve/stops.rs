//! Texts that end an answer: found although they come in pieces, and never told in part.

/// What follows of a text that ends before any of some texts.
#[derive(Debug)]
pub(super) struct Stops {
    ends: Vec<String>,
    /// What may be the beginning of an end, and is not told yet.
    held: String,
}

impl Stops {
    pub(super) fn new(ends: Vec<String>) -> Self {
        Self { ends, held: String::new() }
    }

    /// Takes what follows: what of it can be told, and whether an end has come.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held += text;
        let first = self.ends.iter().filter_map(|end| self.held.find(end.as_str())).min();
        if let Some(at) = first {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let held = &self.held;
        let may_begin = |at: &usize| self.ends.iter().any(|end| end.starts_with(&held[*at..]));
        let safe = held.char_indices().map(|(at, _)| at).find(may_begin).unwrap_or(held.len());
        let rest = self.held.split_off(safe);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back in vain.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a text in pieces, and whether it ended.
    fn told(ends: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut stops = Stops::new(ends.iter().map(ToString::to_string).collect());
        let mut told = vec![];
        for piece in pieces {
            let (text, is_over) = stops.push(piece);
            told.push(text);
            if is_over {
                return (told, true);
            }
        }
        told.push(stops.finish());
        (told, false)
    }

    #[test]
    fn an_end_is_found_across_pieces_and_never_told_in_part() {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (ends, pieces, expected, is_over) in [
            (&["END"][..], &["one E", "N", "D two"][..], &["one ", "", ""][..], true),
            (&["END"], &["one E", "NO", " more"], &["one ", "ENO", " more", ""], false),
            (&["END"], &["one E"], &["one ", "E"], false),
            (&["bc", "ab"], &["xabc"], &["x"], true),
            (&["\n\n"], &["a\n", "b\n", "\nc"], &["a", "\nb", ""], true),
            (&["aab"], &["aa", "aab"], &["", "aa"], true),
            (&["\u{e9}e"], &["caf\u{e9}", "e"], &["caf", ""], true),
            (&[], &["a", "b"], &["a", "b", ""], false),
        ] {
            assert_eq!(told(ends, pieces), (owned(expected), is_over), "{ends:?} {pieces:?}");
        }
    }
}
