//! Models that round activations to small integers while they run: gradients pass that as if it were not there, and are held to the loss without it.

use std::path::Path;

use crate::common::{Folder, done, json_of, number, refused, run};
use peft_onnx::ir::{Attr, Builder, DType, Dim, Expr, ModelInfo, Tensor};
use peft_onnx::onnx::{self, WriteOptions};

const WIDTH: usize = 8;

/// Bytes that differ from each other, from 0 on.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| u8::try_from((at * 37 + 11) % 120).expect("below 120")).collect()
}

/// A product as dynamic quantisation writes it.
fn product<'g>(b: &'g Builder, number: usize, x: Expr<'g>) -> Expr<'g> {
    b.scoped(&format!("/layers.{number}/fc"), || {
        let rounded = b.op_n("DynamicQuantizeLinear", &[Some(x)], &[], 3);
        let weight = Tensor::new(DType::I8, vec![WIDTH, WIDTH], bytes(WIDTH * WIDTH).into()).expect("as many bytes");
        let weight = b.initializer(&format!("layers.{number}.fc.weight_quantized"), weight);
        let scale = b.initializer(&format!("layers.{number}.fc.weight_scale"), Tensor::from_f32(&[], &[0.004]));
        let integers = b.op("MatMulInteger", &[rounded[0], weight, rounded[2]], &[]);
        integers.cast(DType::F32) * (rounded[1] * scale)
    })
}

/// Two products in a row behind a table, and a classifier.
fn model_file(path: &str) {
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let spread = |count: usize| bytes(count).iter().map(|&byte| f32::from(byte) / 60.0 - 1.0).collect::<Vec<f32>>();
    let table = b.initializer("embed.weight", Tensor::from_f32(&[20, WIDTH], &spread(20 * WIDTH)));
    let x = b.scoped("/embed", || table.gather(ids, 0));
    let x = product(&b, 1, product(&b, 0, x).tanh()).tanh().mean(&[1]).reshape(&[-1, 8]);
    let head = b.initializer("onnx::MatMul_9", Tensor::from_f32(&[WIDTH, 2], &spread(2 * WIDTH)));
    b.output("logits", b.scoped("/classifier", || x.matmul(head)));
    onnx::write(&b.finish().expect("a valid graph"), Path::new(path), &WriteOptions::default()).expect("it is written");
}

#[test]
fn gradients_of_a_model_that_rounds_activations_are_held_to_its_loss_before_rounding() {
    let folder = Folder::empty();
    let (model, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
    model_file(&model);

    done(&[
        "inject",
        &model,
        "--task",
        "seq-cls",
        "--method",
        "lora",
        "--rank",
        "2",
        "--target-modules",
        "layers.0.fc",
        "-o",
        &bundle,
        "-q",
    ]);
    let (is_right, table, said) = run(&["check", &bundle]);
    assert!(is_right && said.contains("straight through") && !table.contains("WRONG"), "{table}{said}");
}

#[test]
fn factors_of_what_a_product_rounds_are_in_the_merged_model() {
    let folder = Folder::empty();
    let (model, bundle, merged, rows) =
        (folder.path("model.onnx"), folder.path("bundle"), folder.path("merged.onnx"), folder.path("rows.jsonl"));
    model_file(&model);
    let row = |at: usize| format!("{{\"input_ids\": [{}, {}, {}], \"label\": {}}}\n", at, at + 3, 19 - at, at % 2);
    std::fs::write(&rows, (0..6).map(row).collect::<String>()).expect("it is written");
    let targets = ["--target-modules", "fc", "--feedforward-modules", "fc"];
    done(&[&["inject", &model, "--task", "seq-cls", "--method", "ia3", "-o", &bundle, "-q"][..], &targets].concat());
    done(&["train", &bundle, "--data", &rows, "--max-steps", "20", "--learning-rate", "0.3", "-q"]);
    done(&["merge", &bundle, "-o", &merged]);
    let loss = |of: &str| number(&json_of(&["eval", of, "--data", &rows])["loss"]);
    let (untrained, trained, merged) = (loss(&model), loss(&bundle), loss(&merged));
    assert!((trained - merged).abs() < 0.02 * trained && (untrained - trained).abs() > 0.2 * trained, "{untrained} {trained} {merged}");
}

/// The same network with its products in blocks of four bits.
fn blocks_file(path: &str) {
    let b = Builder::new(ModelInfo::dialect().with_opset("com.microsoft", 1));
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let table = Tensor::from_f32(&[20, 16], &bytes(320).iter().map(|&byte| f32::from(byte) / 60.0 - 1.0).collect::<Vec<_>>());
    let x = b.scoped("/embed", || b.initializer("embed.weight", table).gather(ids, 0));
    // Several, so that what is decomposed has more values than what is written.
    let y = (0..4).fold(x, |x, number| {
        let y = b.scoped(&format!("/layers.{number}/fc"), || {
            let weight = Tensor::new(DType::U8, vec![16, 1, 8], bytes(128).into()).expect("as many bytes");
            let weight = b.initializer(&format!("layers.{number}.fc.MatMul.weight_Q4"), weight);
            let scales = b.initializer(&format!("layers.{number}.fc.MatMul.weight_scales"), Tensor::from_f32(&[16], &[0.05; 16]));
            let attrs = [("K", 16), ("N", 16), ("bits", 4), ("block_size", 16)].map(|(name, number)| (name, Attr::Int(number)));
            b.op("com.microsoft:MatMulNBits", &[x, weight, scales], &attrs)
        });
        y.tanh()
    });
    let head = Tensor::from_f32(&[16, 2], &bytes(32).iter().map(|&byte| f32::from(byte) / 60.0 - 1.0).collect::<Vec<_>>());
    let pooled = y.mean(&[1]).reshape(&[-1, 16]);
    b.output("logits", b.scoped("/classifier", || pooled.matmul(b.initializer("onnx::MatMul_9", head))));
    onnx::write(&b.finish().expect("a valid graph"), Path::new(path), &WriteOptions::default()).expect("it is written");
}

#[test]
fn methods_that_compute_with_the_bases_weights_refuse_small_integers() {
    let methods: [&[&str]; 5] = [
        &["hira"],
        &["lora", "--use-dora"],
        &["lora", "--init-lora-weights", "pissa"],
        &["lora", "--init-lora-weights", "olora"],
        &["miss", "--set", "init_weights=bat"],
    ];
    for write in [model_file, blocks_file] {
        let folder = Folder::empty();
        let model = folder.path("model.onnx");
        write(&model);
        let options = ["--task", "seq-cls", "--target-modules", "fc", "--rank", "2", "-o", &folder.path("bundle")];
        for method in methods {
            let inject = [&["inject", &model, "--method"], method, &options].concat();
            refused(&inject, &["is not supported: it is stored ", "hint: this method reads the base's weights"]);
        }
        done(&[&["inject", &model, "--method", "lora", "-q"][..], &options].concat());
    }
}
