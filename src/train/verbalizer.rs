//! Hard prompts: a language model's predictions at one place of a text, narrowed to a few words that stand for labels (Schick & Schütze,
//! Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference: pattern-exploiting training, PET).

use serde::{Deserialize, Serialize};

use crate::ir::{DType, Expr, Tensor};

/// A task in words: how a row is shown to a language model, and which words there stand for which label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardPrompt {
    /// The text around a row's columns, with the place of the word: `{text} It was [MASK].`
    pub template: String,
    /// The labels in the order of their numbers.
    pub labels: Vec<Label>,
}

/// The words that stand for one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The label as data files have it.
    pub name: String,
    /// The words.
    pub words: Vec<String>,
    /// The token of each word.
    pub tokens: Vec<i64>,
}

impl HardPrompt {
    /// The logits of labels, `[.., labels]`, of those of tokens, `[.., vocabulary]`: the mean of each label's words, as PET has it.
    #[must_use]
    pub fn narrowed<'g>(&self, logits: Expr<'g>) -> Expr<'g> {
        let b = logits.b();
        let tokens: Vec<i64> = self.labels.iter().flat_map(|label| &label.tokens).copied().collect();
        let words = logits.gather(b.ints(&tokens), -1).cast(DType::F32);
        if self.labels.iter().all(|label| label.tokens.len() == 1) {
            return words;
        }
        words.matmul(b.constant(Tensor::from_f32(&[tokens.len(), self.labels.len()], &self.shares())))
    }

    /// The share of each word in each label, `[words, labels]`.
    fn shares(&self) -> Vec<f32> {
        let words = |label: &Label| f32::from(u16::try_from(label.tokens.len()).unwrap_or(u16::MAX));
        let row = |own: usize| self.labels.iter().enumerate().map(move |(at, label)| if at == own { 1.0 / words(label) } else { 0.0 });
        self.labels.iter().enumerate().flat_map(|(own, label)| label.tokens.iter().flat_map(move |_| row(own))).collect()
    }

    /// The same for one row of logits; `None` if a token is not among them.
    #[must_use]
    pub fn scores(&self, logits: &[f32]) -> Option<Vec<f32>> {
        let mean = |label: &Label| {
            let words = label.tokens.iter().map(|&token| logits.get(usize::try_from(token).ok()?).copied());
            let sum: Option<f32> = words.sum();
            Some(sum? / f32::from(u16::try_from(label.tokens.len()).unwrap_or(u16::MAX)))
        };
        self.labels.iter().map(mean).collect()
    }

    /// The labels and their words as JSON, in their order.
    #[must_use]
    pub fn verbalizer(&self) -> String {
        let labels = self.labels.iter().map(|label| (label.name.clone(), label.words.clone().into()));
        serde_json::Value::Object(labels.collect()).to_string()
    }

    /// The numbers of the labels by their names.
    pub fn numbers(&self) -> impl Iterator<Item = (String, i32)> + '_ {
        self.labels.iter().zip(0..).map(|(label, number)| (label.name.clone(), number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, Dim, ModelInfo};

    #[test]
    fn words_of_a_label_are_averaged() {
        let label = |name: &str, tokens: &[i64]| Label { name: name.into(), words: vec![], tokens: tokens.to_vec() };
        let prompt = HardPrompt { template: String::new(), labels: vec![label("good", &[1, 3]), label("bad", &[0])] };
        assert_eq!(prompt.scores(&[9.0, 2.0, 7.0, 4.0]), Some(vec![3.0, 9.0]));
        assert_eq!(prompt.scores(&[9.0, 2.0]), None);
        assert_eq!(prompt.shares(), [0.5, 0.0, 0.5, 0.0, 0.0, 1.0]);
        let b = Builder::new(ModelInfo::dialect());
        let logits = b.input("logits", DType::F32, &[Dim::symbol("batch"), Dim::symbol("seq"), Dim::known(4)]);
        assert_eq!(prompt.narrowed(logits).dim(-1).as_known(), Some(2));
    }
}
