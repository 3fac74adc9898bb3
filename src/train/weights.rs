//! What rows, or their labels, weigh in a loss: `Σ w·l / Σ w`, as `torch.nn.CrossEntropyLoss(weight=..)` has it of classes and scikit-learn's `sample_weight` of rows.

use crate::ir::{Builder, DType, Dim, Expr, Tensor};

/// The optional input with what each row, or each label, weighs; all 1 if nobody gives it.
pub const WEIGHTS: &str = "label_weights";

/// The optional input with what each row, or each label, weighs, of so many axes; one number for all, 1, if nobody gives it.
#[must_use]
pub fn weights(b: &Builder, axes: usize) -> Expr<'_> {
    b.input_named(WEIGHTS).unwrap_or_else(|| {
        let lengths: Vec<Dim> = ["weighed_rows", "weighed_labels"].into_iter().take(axes).map(Dim::symbol).collect();
        let input = b.input(WEIGHTS, DType::F32, &lengths);
        let fact = input.fact();
        b.set_initializer(input.id(), Tensor::from_f32(&vec![1; axes], &[1.0]));
        // One number stands for as many as there are.
        b.assume(input.id(), fact);
        input
    })
}
