//! Rows that differ only in the numbers of their layers, joined.

use indexmap::IndexMap;

/// Rows under one name.
#[derive(Debug)]
pub(super) struct Group<'a, T> {
    /// The modules' path with the numbers joined: `model.layers.{0..29}.mlp.up_proj`.
    pub name: String,
    /// The rows, in their order.
    pub rows: Vec<&'a T>,
}

/// Joins neighbours and others whose paths are alike but for the first number, if `key` says the same of them.
pub(super) fn group<'a, T>(rows: &'a [T], path: impl Fn(&T) -> &str, key: impl Fn(&T) -> String) -> Vec<Group<'a, T>> {
    let mut groups = IndexMap::<(String, String, String), (Vec<u64>, Vec<&'a T>)>::new();
    for row in rows {
        let (before, number, after) = split(path(row));
        let (numbers, rows) = groups.entry((before, after, key(row))).or_default();
        numbers.extend(number);
        rows.push(row);
    }
    groups
        .into_iter()
        .map(|((before, after, _), (numbers, rows))| Group { name: format!("{before}{}{after}", span(&numbers)), rows })
        .collect()
}

/// A path around its first segment that is a number.
fn split(path: &str) -> (String, Option<u64>, String) {
    let mut at = 0;
    for segment in path.split('.') {
        if let Ok(number) = segment.parse() {
            return (path[..at].to_owned(), Some(number), path[at + segment.len()..].to_owned());
        }
        at += segment.len() + 1;
    }
    (path.to_owned(), None, String::new())
}

/// `{0..29}`, `{0,2,5}`, `3`, or nothing.
fn span(numbers: &[u64]) -> String {
    let is_run = numbers.windows(2).all(|pair| pair[1] == pair[0] + 1);
    match numbers {
        [] => String::new(),
        [only] => only.to_string(),
        [first, .., last] if is_run => format!("{{{first}..{last}}}"),
        _ => format!("{{{}}}", numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_look_alike_are_joined() {
        let rows = [("h.0.attn", 1), ("h.0.mlp", 2), ("h.1.attn", 1), ("h.1.mlp", 2), ("h.3.mlp", 2), ("head", 1), ("h.2.attn", 7)];
        let groups = group(&rows, |row| row.0, |row| row.1.to_string());
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["h.{0..1}.attn", "h.{0,1,3}.mlp", "head", "h.2.attn"]);
        assert_eq!(groups[1].rows.len(), 3);
    }
}
