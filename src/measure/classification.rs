//! Metrics of classes: one class a row, or a set of labels a row. Definitions of scikit-learn 1.9 (`sklearn.metrics`).

use super::{f1, float, share};

/// How often each class was predicted where each class was right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// Row-major `[right, predicted]`.
    counts: Vec<usize>,
}

impl Confusion {
    /// An empty table of so many classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts one row. Classes beyond the table's are not counted.
    pub fn add(&mut self, right: usize, predicted: usize) {
        if right < self.classes && predicted < self.classes {
            self.counts[right * self.classes + predicted] += 1;
        }
    }

    /// How often `predicted` was predicted where `right` was right.
    #[must_use]
    pub fn count(&self, right: usize, predicted: usize) -> usize {
        self.counts[right * self.classes + predicted]
    }

    /// The number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    fn diagonal(&self) -> usize {
        (0..self.classes).map(|class| self.count(class, class)).sum()
    }

    fn right(&self, class: usize) -> usize {
        (0..self.classes).map(|other| self.count(class, other)).sum()
    }

    fn predicted(&self, class: usize) -> usize {
        (0..self.classes).map(|other| self.count(other, class)).sum()
    }

    fn rows(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Precision, recall and F1 of a class, and how many rows have it (`precision_recall_fscore_support`).
    #[must_use]
    pub fn scores(&self, class: usize) -> Scores {
        let (hits, predicted, support) = (self.count(class, class), self.predicted(class), self.right(class));
        Scores { precision: share(hits, predicted), recall: share(hits, support), f1: f1(hits, predicted - hits, support - hits), support }
    }

    /// The share of rows whose class was predicted (`accuracy_score`); it equals the micro-averaged F1 of single labels.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        share(self.diagonal(), self.rows())
    }

    /// The mean F1 of the classes that are right or predicted somewhere (`f1_score(average="macro")`).
    #[must_use]
    pub fn f1_macro(&self) -> f64 {
        let present: Vec<usize> = (0..self.classes).filter(|&class| self.right(class) + self.predicted(class) > 0).collect();
        let score = |&class: &usize| {
            let hits = self.count(class, class);
            f1(hits, self.predicted(class) - hits, self.right(class) - hits)
        };
        present.iter().map(score).sum::<f64>() / float(present.len().max(1))
    }

    /// Matthews' correlation coefficient of any number of classes (`matthews_corrcoef`; Gorodkin 2004, eq. 8); 0 where it is not defined.
    #[must_use]
    pub fn mcc(&self) -> f64 {
        let rows = float(self.rows());
        let products = |of: &dyn Fn(usize) -> f64| (0..self.classes).map(of).sum::<f64>();
        let covariance = float(self.diagonal()) * rows - products(&|class| float(self.right(class)) * float(self.predicted(class)));
        let of_right = rows * rows - products(&|class| float(self.right(class)).powi(2));
        let of_predicted = rows * rows - products(&|class| float(self.predicted(class)).powi(2));
        if of_right * of_predicted == 0.0 { 0.0 } else { covariance / (of_right * of_predicted).sqrt() }
    }
}

/// How well a class was told from the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// The share of its predictions that are right.
    pub precision: f64,
    /// The share of its rows that were found.
    pub recall: f64,
    /// The harmonic mean of both.
    pub f1: f64,
    /// Its rows.
    pub support: usize,
}

/// Counts of predicted and right labels, where a row has any number of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSets {
    rows: usize,
    whole: usize,
    /// Found, wrongly found, missed: for each label.
    labels: Vec<[usize; 3]>,
}

impl LabelSets {
    /// No rows yet, of so many labels.
    #[must_use]
    pub fn new(labels: usize) -> Self {
        Self { rows: 0, whole: 0, labels: vec![[0; 3]; labels] }
    }

    /// The number of labels.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.labels.len()
    }

    /// Counts one row: for each label whether it is right and whether it was predicted.
    pub fn add(&mut self, right: &[bool], predicted: &[bool]) {
        self.rows += 1;
        self.whole += usize::from(right == predicted);
        for ((counts, &right), &predicted) in self.labels.iter_mut().zip(right).zip(predicted) {
            match (right, predicted) {
                (true, true) => counts[0] += 1,
                (false, true) => counts[1] += 1,
                (true, false) => counts[2] += 1,
                (false, false) => {}
            }
        }
    }

    /// The share of rows of which every label is right (`accuracy_score` of indicator matrices).
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        share(self.whole, self.rows)
    }

    /// F1 over all labels of all rows together (`f1_score(average="micro")`).
    #[must_use]
    pub fn f1_micro(&self) -> f64 {
        let sum = |at: usize| self.labels.iter().map(|counts| counts[at]).sum();
        f1(sum(0), sum(1), sum(2))
    }

    /// The mean F1 of the labels (`f1_score(average="macro")`).
    #[must_use]
    pub fn f1_macro(&self) -> f64 {
        let scores = self.labels.iter().map(|&[right, wrong, missed]| f1(right, wrong, missed));
        scores.sum::<f64>() / float(self.labels.len().max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
    }

    #[test]
    fn classes_are_measured_as_scikit_learn_measures_them() {
        // y_true = [0, 1, 2, 2, 1, 0, 3], y_pred = [0, 2, 2, 2, 1, 1, 1]
        let mut table = Confusion::new(5);
        for (right, predicted) in [(0, 0), (1, 2), (2, 2), (2, 2), (1, 1), (0, 1), (3, 1), (9, 0)] {
            table.add(right, predicted);
        }
        near(table.accuracy(), 0.571_428_571_428_571_4);
        near(table.f1_macro(), 0.466_666_666_666_666_7);
        near(table.mcc(), 0.426_006_433_615_129_24);
        near(Confusion::new(2).mcc(), 0.0);
    }

    #[test]
    fn sets_of_labels_are_measured_as_scikit_learn_measures_them() {
        let mut sets = LabelSets::new(3);
        sets.add(&[true, false, true], &[true, true, false]);
        sets.add(&[false, false, true], &[false, false, true]);
        sets.add(&[true, false, false], &[false, false, false]);
        near(sets.accuracy(), 1.0 / 3.0);
        near(sets.f1_micro(), 0.571_428_571_428_571_4);
        near(sets.f1_macro(), 0.444_444_444_444_444_4);
    }
}
