//! Nodes whose gradient is written together. Numbers that a graph puts in the place of NaN: gradients are those of the numbers.

use peft_onnx::ir::{DType, Expr, Tensor};

use super::check::gradient_of_squares;

/// The weights of a row of scores that are all masked away are no numbers; exporters of PyTorch's attention write zeros in their place.
fn attention_weights(x: Expr<'_>) -> Expr<'_> {
    let b = x.b();
    let hidden =
        b.constant(Tensor::from_f64(DType::Bool, &[3, 4], &[0., 1., 0., 0., 1., 1., 1., 1., 0., 0., 1., 1.]).expect("truth values"));
    let weights = (x + hidden.where_(x.same_type(f64::NEG_INFINITY), x.same_type(0.0))).softmax(-1);
    b.op("IsNaN", &[weights], &[]).where_(x.same_type(0.0), weights)
}

#[test]
fn rows_that_are_masked_away_have_no_gradient_and_spoil_no_other() {
    let x: Vec<f32> = (0_u8..12).map(|i| (f32::from(i) * 1.7).sin()).collect();
    let (dx, y) = gradient_of_squares(attention_weights, &[3, 4], &x);
    assert_eq!(y[4..8], [0.0; 4]);
    let sums: Vec<f32> = y.chunks(4).map(|row| row.iter().map(|y| 2.0 * y * y).sum()).collect();
    let wanted = y.iter().enumerate().map(|(i, y)| y * (2.0 * y - sums[i / 4]));
    assert!(dx.iter().zip(wanted).all(|(dx, wanted)| (dx - wanted).abs() < 1e-6), "{dx:?}");
}

#[test]
fn the_gradient_of_swish_written_as_a_product_is_that_of_its_formula() {
    let x: Vec<f32> = (0_u8..12).map(|i| (f32::from(i) - 6.0) * 0.9).collect();
    let ways: [for<'g> fn(Expr<'g>) -> Expr<'g>; 2] = [|x| x * x.sigmoid(), |x| x.sigmoid() * x];
    for write in ways {
        let (dx, y) = gradient_of_squares(write, &[3, 4], &x);
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let wanted = x.iter().zip(&y).map(|(&x, y)| 2.0 * y * sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))));
        assert!(dx.iter().zip(wanted).all(|(dx, wanted)| (dx - wanted).abs() < 1e-5 * wanted.abs().max(1.0)), "{dx:?}");
    }
}
