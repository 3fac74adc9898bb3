//! Models of images whose table of positions is resampled for each size of image: ONNX Runtime has no kernel for what it makes of a cubic
//! `Resize` behind a `Transpose`, unless the table is small enough to be folded.

use std::path::Path;

use crate::common::{Folder, done, json_of, number};
use peft_onnx::ir::{Attr, Builder, DType, Dim, ModelInfo, Tensor};
use peft_onnx::onnx::{self, WriteOptions};

const WIDTH: usize = 32;
/// Positions along one side of the table: it has more than the 64 KiB that ONNX Runtime folds.
const SIDE: usize = 24;

fn numbers(shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).expect("16 bits")) / 65536.0 - 0.5
    };
    Tensor::from_f32(shape, &(0..shape.iter().product()).map(|_| next()).collect::<Vec<f32>>())
}

/// `logits` `[batch, 3]` of `pixel_values` `[batch, 3, height, width]`, by patches of 2 x 2.
fn model(path: &str) {
    let side = i64::try_from(SIDE).expect("small");
    let b = Builder::new(ModelInfo::dialect());
    let free = |name: &str| Dim::symbol(name);
    let x = b.input("pixel_values", DType::F32, &[free("batch"), Dim::known(3), free("height"), free("width")]);
    let kernel = b.initializer("patch.weight", numbers(&[WIDTH, 3, 2, 2], 1));
    let patches = b.op("Conv", &[x, kernel], &[("strides", Attr::Ints(vec![2, 2]))]);
    let table = b.initializer("positions", numbers(&[1, SIDE * SIDE, WIDTH], 2));
    let as_image = b.op("Transpose", &[table.reshape(&[1, side, side, -1])], &[("perm", Attr::Ints(vec![0, 3, 1, 2]))]);
    let sizes = as_image.length(0).concat(&[as_image.length(1), patches.length(2), patches.length(3)], 0);
    let cubic = [("mode", Attr::Str("cubic".into())), ("cubic_coeff_a", Attr::Float(-0.75))];
    let resized = b.op_n("Resize", &[Some(as_image), None, None, Some(sizes)], &cubic, 1)[0];
    let tokens = b.op("Transpose", &[patches + resized], &[("perm", Attr::Ints(vec![0, 2, 3, 1]))]).reshape(&[
        0,
        -1,
        i64::try_from(WIDTH).expect("small"),
    ]);
    let hidden = b.scoped("/fc", || tokens.matmul(b.initializer("fc.weight", numbers(&[WIDTH, WIDTH], 3)))).tanh();
    let pooled = hidden.mean(&[1]).reshape(&[-1, i64::try_from(WIDTH).expect("small")]);
    let bias = b.initializer("classifier.bias", numbers(&[3], 5));
    let logits = b.scoped("/classifier", || pooled.matmul(b.initializer("classifier.weight", numbers(&[WIDTH, 3], 4))) + bias);
    b.output("logits", logits);
    onnx::write(&b.finish().expect("a valid graph"), Path::new(path), &WriteOptions::default()).expect("it is written");
}

#[test]
fn a_table_of_positions_that_is_resampled_cubically_trains_and_merges() {
    let folder = Folder::empty();
    let (base, bundle, merged) = (folder.path("model.onnx"), folder.path("bundle"), folder.path("merged.onnx"));
    model(&base);
    let image = |shift: usize, side: usize| {
        let row = |y: usize| (0..side).map(|x| ((x * 7 + y * 3 + shift * 5) % 11).to_string()).collect::<Vec<_>>().join(", ");
        let plane = (0..side).map(|y| format!("[{}]", row(y))).collect::<Vec<_>>().join(", ");
        format!("[[{plane}], [{plane}], [{plane}]]")
    };
    let rows: Vec<String> = (0..4).map(|i| format!("{{\"pixel_values\": {}, \"label\": {}}}\n", image(i, 20), i % 3)).collect();
    let data = folder.write("rows.jsonl", &rows.concat());
    done(&["inject", &base, "--task", "image-cls", "--method", "lora", "--rank", "2", "--target-modules", "fc", "-o", &bundle, "-q"]);
    done(&["train", &bundle, "--data", &data, "--max-steps", "4", "--learning-rate", "0.05", "-q"]);
    done(&["merge", &bundle, "-o", &merged]);
    let loss = |model: &[&str]| number(&json_of(&[&["eval"], model, &["--data", &data]].concat())["loss"]);
    let (before, adapted, folded) = (loss(&[&base, "--task", "image-cls"]), loss(&[&bundle]), loss(&[&merged, "--task", "image-cls"]));
    assert!(adapted < before, "{before} before, {adapted} after training");
    assert!((adapted - folded).abs() < 1e-5, "{adapted} with the adapter, {folded} merged");
}
