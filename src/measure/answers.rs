//! Answers to questions about a text, compared as SQuAD 1.1's evaluation script compares them (Rajpurkar et al. 2016).

use super::float;

/// An answer's words: lower case, without punctuation, articles and extra spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer(Vec<String>);

impl Answer {
    /// Normalises a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let bare: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
        // The script removes articles by `\b(a|an|the)\b`, whose edges are those of words of letters, digits and underscores.
        let words =
            bare.split_whitespace().map(without_articles).flat_map(|word| word.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        Self(words.collect())
    }
}

fn without_articles(word: &str) -> String {
    let is_article = |part: &str| matches!(part, "a" | "an" | "the");
    let mut text = String::new();
    let mut part = String::new();
    for c in word.chars().map(Some).chain([None]) {
        if let Some(c) = c.filter(|c| c.is_alphanumeric() || *c == '_') {
            part.push(c);
        } else {
            text.push_str(if is_article(&part) { " " } else { &part });
            part.clear();
            text.extend(c);
        }
    }
    text
}

/// Whether an answer equals one of the right ones: 1 or 0.
#[must_use]
pub fn exact_match(predicted: &str, right: &[String]) -> f64 {
    let predicted = Answer::new(predicted);
    f64::from(u8::from(right.iter().any(|right| Answer::new(right) == predicted)))
}

/// The best F1 of an answer's words against each right answer's. Two empty answers agree.
#[must_use]
pub fn token_f1(predicted: &str, right: &[String]) -> f64 {
    let predicted = Answer::new(predicted);
    right.iter().map(|right| overlap(&predicted, &Answer::new(right))).fold(0.0, f64::max)
}

fn overlap(predicted: &Answer, right: &Answer) -> f64 {
    if predicted.0.is_empty() || right.0.is_empty() {
        return f64::from(u8::from(predicted == right));
    }
    let mut left = right.0.clone();
    let common =
        predicted.0.iter().filter(|word| left.iter().position(|other| other == *word).map(|at| left.swap_remove(at)).is_some()).count();
    2.0 * float(common) / float(predicted.0.len() + right.0.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_without_case_articles_and_punctuation() {
        let right = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        for (predicted, answers, exact, f1) in [
            ("The Eiffel Tower!", right(&["eiffel tower"]), 1.0, 1.0),
            ("a tower", right(&["eiffel tower", "tower in Paris"]), 0.0, 2.0 / 3.0),
            ("the", right(&[""]), 1.0, 1.0),
            ("x", right(&[""]), 0.0, 0.0),
            ("1,000 men", right(&["1000 men"]), 1.0, 1.0),
            ("theatre", right(&["atre"]), 0.0, 0.0),
        ] {
            assert!((exact_match(predicted, &answers) - exact).abs() < 1e-12, "{predicted}");
            assert!((token_f1(predicted, &answers) - f1).abs() < 1e-12, "{predicted}");
        }
    }
}
