//! Rounding, whose slope is taken to be that of what it rounds: gradients through it are those of the same graph without rounding, with
//! the rounded numbers in the place of the numbers.

use peft_onnx::ir::{Attr, DType, Expr, Tensor};

use super::check::gradient_of_squares;

/// A graph with rounding in it: `x` `[3, 4]` to `y`; `round` does not round where the graph without rounding is written.
struct Case {
    what: &'static str,
    write: for<'g> fn(Expr<'g>, Rounding) -> Expr<'g>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    /// As the operators do.
    Yes,
    /// Numbers go through as they are.
    No,
}

const CASES: &[Case] = &[
    Case {
        what: "QuantizeLinear and DequantizeLinear, one scale",
        write: |x, rounding| static_pair(x, rounding, x.same_type(0.05), None, 0).tanh(),
    },
    Case {
        what: "with a zero point, and a scale for each column",
        write: |x, rounding| {
            let b = x.b();
            let scale = b.constant(Tensor::from_f32(&[4], &[0.02, 0.05, 0.1, 0.03]));
            let zero = b.constant(Tensor::from_f64(DType::I8, &[4], &[3.0, -4.0, 0.0, 10.0]).expect("small numbers"));
            static_pair(x, rounding, scale, Some(zero), 1).tanh()
        },
    },
    Case {
        what: "DynamicQuantizeLinear before a product with int8 weights",
        write: |x, rounding| {
            let b = x.b();
            let bytes: Vec<f64> = (0..20).map(|i| f64::from(i * 37 % 121 - 60)).collect();
            let weight = b.constant(Tensor::from_f64(DType::I8, &[4, 5], &bytes).expect("small numbers"));
            let weight = b.op("DequantizeLinear", &[weight, x.same_type(0.01)], &[]);
            let rounded = match rounding {
                Rounding::No => x,
                Rounding::Yes => {
                    let parts = b.op_n("DynamicQuantizeLinear", &[Some(x)], &[], 3);
                    b.op_n("DequantizeLinear", &[Some(parts[0]), Some(parts[1]), Some(parts[2])], &[], 1)[0]
                }
            };
            rounded.matmul(weight)
        },
    },
    Case {
        what: "two roundings, one behind the other",
        write: |x, rounding| {
            let once = static_pair(x, rounding, x.same_type(0.04), None, 0);
            static_pair(once * 2.0, rounding, x.same_type(0.03), None, 0)
        },
    },
];

fn static_pair<'g>(x: Expr<'g>, rounding: Rounding, scale: Expr<'g>, zero: Option<Expr<'g>>, axis: i64) -> Expr<'g> {
    if rounding == Rounding::No {
        return x;
    }
    let b = x.b();
    let zero = zero.or_else(|| Tensor::from_f64(DType::I8, &[], &[0.0]).ok().map(|zero| b.constant(zero)));
    let attrs = [("axis", Attr::Int(axis))];
    let rounded = b.op_n("QuantizeLinear", &[Some(x), Some(scale), zero], &attrs, 1)[0];
    b.op_n("DequantizeLinear", &[Some(rounded), Some(scale), zero], &attrs, 1)[0]
}

/// `dx` of `Σ y²`, and `y`.
fn gradient(case: &Case, rounding: Rounding, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    gradient_of_squares(|x| (case.write)(x, rounding), &[3, 4], x)
}

/// Rounding moves a number by half a step at most: here less than 0.03, and the gradients of these graphs by about as much.
const HALF_A_STEP: f32 = 0.12;

#[test]
fn gradients_through_rounding_are_those_without() {
    let x: Vec<f32> = (0_u8..12).map(|i| (f32::from(i) * 1.7).sin()).collect();
    let mut wrong = vec![];
    for case in CASES {
        let ((rounded, y), (smooth, z)) = (gradient(case, Rounding::Yes, &x), gradient(case, Rounding::No, &x));
        assert!(y != z, "{}: nothing was rounded", case.what);
        let apart = rounded.iter().zip(&smooth).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max);
        if apart.is_nan() || apart > HALF_A_STEP || smooth.iter().all(|dx| dx.abs() < HALF_A_STEP) {
            wrong.push(format!("{}: {apart} ({rounded:?}, {smooth:?})", case.what));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_pair_with_one_scale_passes_its_gradient_on_unchanged() {
    let x: Vec<f32> = (0_u8..12).map(|i| (f32::from(i) * 0.9).cos()).collect();
    let case = Case { what: "a pair", write: |x, rounding| static_pair(x, rounding, x.same_type(0.0625), None, 0) };
    let (dx, y) = gradient(&case, Rounding::Yes, &x);
    // The scale is a power of two: dividing and multiplying by it rounds nothing.
    assert_eq!(dx, y.iter().map(|y| 2.0 * y).collect::<Vec<_>>());
}
