//! Cross-entropy computed here, for models that give logits and no loss.

use super::found::Sums;
use crate::adapter::config::Task;
use crate::data::{Batch, IGNORED};
use crate::error::{Error, Result};
use crate::ort::{Axis, ElementType, Feed, HostTensor, Port, Presence};
use crate::train::verbalizer::HardPrompt;

/// The labels that are compared with; a model may have an input of the usual name itself.
pub(super) const LABELS: &str = "labels that are compared with";

/// The input that a model would have for labels.
pub(super) fn labels_port(task: Task) -> Port {
    let axes = if task.is_one_class() { 1 } else { 2 };
    let shape = vec![Axis::Free(String::new()); axes];
    Port { name: LABELS.to_owned(), element_type: Some(ElementType::Int64), shape, presence: Presence::Required }
}

/// The labels of a batch, and the feeds without them.
pub(super) fn without_labels<'a>(batch: &'a Batch, feeds: Vec<Feed<'a>>) -> Result<(&'a [i64], Vec<Feed<'a>>)> {
    let labels = batch.tensors.iter().find(|(name, _)| name == LABELS).ok_or_else(|| Error::not_found("column", LABELS))?;
    Ok((labels.1.as_i64()?, feeds.into_iter().filter(|feed| feed.name() != LABELS).collect()))
}

/// The sums over a batch. Logits are `[batch, seq, classes]` or `[batch, classes]`; a causal model's logits predict the next label. With a hard
/// prompt labels are numbers of its words, to which the logits are narrowed.
pub(super) fn sums(logits: &HostTensor, labels: &[i64], task: Task, hard_prompt: Option<&HardPrompt>) -> Result<Sums> {
    let (Some(&classes), Some(&rows)) = (logits.shape().last(), logits.shape().first()) else {
        return Err(Error::mismatch("axes of the logits", "2 or 3", logits.shape().len()));
    };
    let values = logits.to_f32()?;
    let positions = if labels.is_empty() || rows == 0 { 0 } else { labels.len() / rows };
    if classes == 0 || values.len() != labels.len() * classes {
        return Err(Error::mismatch("logits", format!("{} rows of {classes}", labels.len()), format!("{:?}", logits.shape())));
    }
    let (mut sums, mut right) = (Sums::default(), 0.0);
    for (at, row) in values.chunks_exact(classes).enumerate() {
        let label = if task == Task::CausalLm {
            if at % positions + 1 == positions { i64::from(IGNORED) } else { labels[at + 1] }
        } else {
            labels[at]
        };
        if label == i64::from(IGNORED) {
            continue;
        }
        let narrowed = hard_prompt.map(|prompt| {
            let beyond = || Error::mismatch("logits", "one for each token of the label words", classes);
            prompt.scores(row).ok_or_else(beyond)
        });
        let narrowed = narrowed.transpose()?;
        let row = narrowed.as_deref().unwrap_or(row);
        let label = usize::try_from(label).ok().filter(|label| *label < row.len());
        let label = label.ok_or_else(|| Error::mismatch("a label", format!("below {classes}"), labels[at]))?;
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|logit| f64::from(logit - most).exp()).sum();
        sums.loss += sum.ln() - f64::from(row[label] - most);
        sums.labels += 1.0;
        // As argmax: the first of the largest.
        right += f64::from(u8::from(row[label] >= most && row[..label].iter().all(|logit| *logit < most)));
    }
    sums.correct = Some(right);
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_formula() -> Result<()> {
        let ln = |x: f32| x.ln();
        let rows = [[1.0, 3.0], [1.0, 1.0], [9.0, 1.0]].concat().into_iter().map(ln).collect::<Vec<_>>();
        let logits = HostTensor::new([1, 3, 2], rows.clone())?;
        // Positions 0 and 1 predict labels 1 and 0.
        let causal = sums(&logits, &[0, 1, 0], Task::CausalLm, None)?;
        assert!((causal.loss - (-(0.75_f64.ln()) - 0.5_f64.ln())).abs() < 1e-6);
        assert_eq!((causal.labels, causal.correct), (2.0, Some(2.0)));
        let in_place = sums(&logits, &[-100, 1, 0], Task::TokenCls, None)?;
        assert!((in_place.loss - (-(0.5_f64.ln()) - 0.9_f64.ln())).abs() < 1e-6);
        assert_eq!((in_place.labels, in_place.correct), (2.0, Some(1.0)));
        let classes = HostTensor::new([3, 2], rows)?;
        let all = sums(&classes, &[1, 1, 0], Task::SeqCls, None)?;
        assert_eq!((all.labels, all.correct), (3.0, Some(2.0)));
        assert!(sums(&classes, &[1, 2, 0], Task::SeqCls, None).is_err());
        Ok(())
    }
}
