//! Uses of operators that their rules do not cover: what is said of them, and that it is said.

use peft_onnx::ErrorKind;
use peft_onnx::grad;
use peft_onnx::ir::{Builder, DType, Expr, ModelInfo};

use super::check::value;
use super::row::{Input, Row, any, fixed, list, positive, row, truth, whole};

/// A use of an operator that has no gradient, and a part of the message.
pub(crate) struct Refused {
    pub(crate) row: Row,
    pub(crate) why: &'static str,
}

fn refused(row: Row, why: &'static str) -> Refused {
    Refused { row, why }
}

pub(crate) fn refusals() -> Vec<Refused> {
    let conv = || row("Conv", [fixed(&[1, 4, 5]), any(&[4, 2, 3])]);
    let scatter = |reduction: &'static str| {
        row("ScatterElements", [any(&[2, 3]), Input::Whole { shape: vec![2, 1], values: vec![0, 1] }, any(&[2, 1])])
            .attr("reduction", reduction)
    };
    let batch = || row("BatchNormalization", [any(&[2, 3]), any(&[3]), any(&[3]), any(&[3]), positive(&[3])]);
    let past = || [any(&[2, 2, 3, 8]), any(&[2, 2, 3, 8]), any(&[2, 2, 3, 8])];
    let flat = [any(&[2, -2, 16]), any(&[2, -2, 16]), any(&[2, -2, 16])];
    vec![
        refused(conv().int("group", 2), "with respect to the weight of a grouped convolution"),
        refused(
            row("Conv", [any(&[1, 2, -2]), fixed(&[3, 2, 3])]).ints("strides", &[2]).attr("auto_pad", "SAME_UPPER"),
            "with lengths that are known only when the graph runs",
        ),
        refused(
            row("ConvTranspose", [any(&[1, 2, 4]), fixed(&[2, 2, 3])]).ints("output_shape", &[7]).ints("strides", &[2]),
            "with an output_shape, or pads that follow from it",
        ),
        refused(
            row("AveragePool", [any(&[1, 2, 6])]).ints("kernel_shape", &[3]).ints("strides", &[2]).int("ceil_mode", 1),
            "ceil_mode = 1",
        ),
        refused(row("MaxPool", [any(&[1, 2, 6])]).ints("kernel_shape", &[2]).int("storage_order", 1), "storage_order = 1"),
        refused(
            row("Resize", [any(&[1, 1, 4, 4]), Input::Held(vec![0., 0., 0., 0., 1., 1., 1., 1.]), Input::LeftOut, list(&[1, 1, 3, 3])])
                .attr("coordinate_transformation_mode", "tf_crop_and_resize"),
            "coordinate_transformation_mode = \"tf_crop_and_resize\"",
        ),
        refused(
            row("Resize", [any(&[1, 1, 4, 4]), Input::LeftOut, Input::LeftOut, list(&[1, 1, 3, 2])])
                .attr("keep_aspect_ratio_policy", "not_larger"),
            "keep_aspect_ratio_policy other than \"stretch\"",
        ),
        refused(row("DFT", [any(&[2, 5, 1]), whole(8)]), "with a length other than the input's"),
        refused(row("DFT", [any(&[2, 3, 2])]).int("onesided", 1).int("inverse", 1).opset(20), "the inverse of a one-sided spectrum"),
        refused(row("Einsum", [any(&[3, 3])]).attr("equation", "ii->i"), "its equation repeats a letter within an operand"),
        refused(
            row("Dropout", [any(&[2, 3]), Input::Constant(0.5), truth(&[], &[1])]),
            "in training mode, and without its mask as an output",
        ),
        refused(batch().int("training_mode", 1).outputs(3, &[0]), "training_mode = 1"),
        refused(scatter("mul"), "reduction = \"mul\""),
        refused(row("Attention", past()).opset(23).outputs(4, &[3]), "with respect to its scores"),
        refused(
            row("Attention", flat).int("q_num_heads", 0).int("kv_num_heads", 0).opset(23),
            "with a number of heads that is known only when the graph runs",
        ),
        refused(row("RotaryEmbedding", [fixed(&[1, 2, 3, 8]), any(&[1, 3, 4]), fixed(&[1, 3, 4])]).opset(23), "with respect to input 1"),
        refused(row("DequantizeLinear", [any(&[2, 8]), fixed(&[2, 2])]).int("axis", 1).int("block_size", 4).opset(21), "in blocks"),
        refused(row("LSTM", [any(&[3, 1, 4]), fixed(&[1, 8, 4]), fixed(&[1, 8, 2])]).int("hidden_size", 2), "it is a loop over time"),
        refused(row("GridSample", [any(&[1, 1, 3, 3]), fixed(&[1, 2, 2, 2])]), "it reads an image at computed places"),
    ]
}

fn message(row: &Row) -> Result<(), String> {
    let b = Builder::new(ModelInfo::dialect().with_opset("", row.opset));
    let x: Vec<Option<Expr>> = row.inputs.iter().enumerate().map(|(i, input)| value(&b, i, input, DType::F32)).collect();
    let y = b.op_n(row.op, &x, &row.attrs, row.outputs);
    let seeds: Vec<(Expr, Expr)> = row.seeds.iter().map(|&k| (y[k], y[k])).collect();
    let wrt: Vec<Expr> = (0..x.len()).filter(|&i| row.inputs[i].is_asked_for()).filter_map(|i| x[i]).collect();
    match grad::vjp(&b, &seeds, &wrt) {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::NoGradient(lines) => Err(lines.join("\n")),
            _ => Err(format!("another error: {error}")),
        },
    }
}

#[test]
fn what_rules_do_not_cover_is_said() {
    let wrong: Vec<String> = refusals()
        .iter()
        .filter_map(|Refused { row, why }| match message(row) {
            Err(said) if said.contains(why) => None,
            said => Some(format!("{}: expected {why:?}, found {said:?}", row.op)),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
