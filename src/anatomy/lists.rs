//! Lists of strings as Python prints them: torch's exporter writes annotations so.

/// A list of strings as Python prints it, of strings without quotes of their own.
pub(super) fn strung(strings: &[String]) -> String {
    let shown: Vec<String> = strings.iter().map(|string| format!("'{string}'")).collect();
    format!("[{}]", shown.join(", "))
}

/// The strings of a list as Python prints it: `['a', "b's"]`.
pub(super) fn quoted(list: &str) -> Vec<String> {
    let (mut strings, mut rest) = (vec![], list);
    while let Some(start) = rest.find(['\'', '"']) {
        let (quote, inner) = rest[start..].split_at(1);
        let Some(end) = inner.find(quote) else { break };
        strings.push(inner[..end].to_owned());
        rest = &inner[end + 1..];
    }
    strings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_lists_are_read() {
        assert_eq!(quoted("['', 'model', 'model.norm', 'mul_3']"), ["", "model", "model.norm", "mul_3"]);
        assert_eq!(quoted("[\"L['self']\", 'model']"), ["L['self']", "model"]);
    }
}
