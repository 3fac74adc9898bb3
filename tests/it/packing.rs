//! Rows that are packed attend to themselves alone: losses and gradients are those of separate rows.

use std::path::Path;

use peft_onnx::ir::{Attr, Builder, DType, Dim, ModelInfo, Tensor};
use peft_onnx::onnx::{self, WriteOptions};
use serde_json::{Value, json};

use crate::common::{Folder, done, fixture, number, refused};

/// Rows of tokens of different lengths; the first ones of each are not learnt.
fn rows(folder: &Folder) -> String {
    let row = |length: usize| {
        let ids: Vec<usize> = (0..length).map(|at| (at * at * 5 + at * 3 + length) % 60 + 3).collect();
        let labels: Vec<i64> =
            ids.iter().enumerate().map(|(at, &id)| if at < length / 3 { -100 } else { i64::try_from(id).expect("small") }).collect();
        json!({"input_ids": ids, "attention_mask": vec![1; length], "labels": labels}).to_string()
    };
    let lines: Vec<String> = [5, 17, 9, 3, 12, 8].into_iter().map(row).collect();
    folder.write("rows.jsonl", &lines.join("\n"))
}

/// Losses and norms of gradients of three steps, each of all rows.
fn steps(bundle: &str, data: &str, options: &[&str]) -> Vec<(f64, f64)> {
    let common =
        ["train", bundle, "--data", data, "--restart", "--no-shuffle", "--batch-size", "6", "--max-steps", "3", "--run", options[0]];
    done(&[&common[..], &["--quiet", "--learning-rate", "0.01"], &options[1..]].concat());
    let metrics = std::fs::read_to_string(format!("{bundle}/runs/{}/metrics.jsonl", options[0])).expect("metrics are there");
    let of_line = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        (number(&line["loss"]), number(&line["grad_norm"]))
    };
    metrics.lines().filter(|line| line.contains("grad_norm")).map(of_line).collect()
}

/// To float32's rounding.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 2e-4 * a.abs()
}

fn is_same(one: &[(f64, f64)], other: &[(f64, f64)]) -> bool {
    one.len() == 3 && other.len() == 3 && one.iter().zip(other).all(|(a, b)| near(a.0, b.0) && near(a.1, b.1))
}

#[test]
fn packed_rows_have_the_losses_and_gradients_of_separate_ones() {
    for (model, options) in [
        ("llama/torchscript.onnx", &["--method", "lora", "--target-modules", "all-linear"][..]),
        ("llama/dynamo.onnx", &["--method", "ia3", "--recompute", "layer"]),
        ("llama/optimum_cache.onnx", &["--method", "lora", "--recompute", "attention"]),
        ("qwen2/torchscript.onnx", &["--method", "lora", "--target-modules", "k_proj,o_proj"]),
        ("qwen2/dynamo.onnx", &["--method", "lora", "--use-dora", "--target-modules", "q_proj"]),
    ] {
        let folder = Folder::empty();
        let (bundle, data, model_file) = (folder.path("bundle"), rows(&folder), fixture(model));
        done(&[&["inject", &model_file, "--quiet", "-o", &bundle], options].concat());
        let separate = steps(&bundle, &data, &["separate"]);
        let packed = steps(&bundle, &data, &["packed", "--packing", "--max-length", "20"]);
        assert!(is_same(&separate, &packed), "{model}: {separate:?}, packed {packed:?}");
        // Rows that see each other have other losses: the comparison can fail.
        let wrapped = steps(&bundle, &data, &["wrapped", "--packing", "--packing-strategy", "wrapped", "--max-length", "20"]);
        assert!(!near(separate[0].1, wrapped[0].1), "{model}: {separate:?}, wrapped {wrapped:?}");
    }
}

#[test]
fn rows_are_not_packed_where_they_could_not_be_kept_apart() {
    let virtual_tokens = ["`--packing` with this bundle", "virtual tokens stand before each row", "hint: "];
    for (model, options, expected) in [
        ("llama/torchscript.onnx", &["--method", "prompt_tuning", "--num-virtual-tokens", "2"][..], virtual_tokens),
        ("llama/torchscript.onnx", &["--method", "p_tuning_v2", "--num-virtual-tokens", "2"], virtual_tokens),
        ("llama_classifier/torchscript.onnx", &["--method", "lora"], ["--packing: expected a task", "causal-lm, masked-lm", "hint: "]),
    ] {
        let folder = Folder::empty();
        let (bundle, data, model_file) = (folder.path("bundle"), rows(&folder), fixture(model));
        done(&[&["inject", &model_file, "--quiet", "-o", &bundle], options].concat());
        refused(&["train", &bundle, "--data", &data, "--packing", "--max-length", "20"], &expected);
    }
}

/// Where a model adds to its scores what grows with a key's place (Press et al. 2022, ALiBi).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bias {
    /// A row of it for each head of each row, all on one axis, before batch and heads are parted; the mask is added behind that.
    OfRowsAndHeads,
    /// A row of it for each head.
    OfHeads,
    /// As the first, and the mask is added before batch and heads are parted.
    WithMask,
}

const HEADS: i64 = 4;
const WIDTH: i64 = 16;

/// A causal language model of one layer that knows places of tokens by such a bias alone.
fn biased(bias: Bias, path: &str) {
    let b = Builder::new(ModelInfo::dialect());
    let axes = [Dim::symbol("batch"), Dim::symbol("sequence")];
    let [ids, seen] = ["input_ids", "attention_mask"].map(|name| b.input(name, DType::I64, &axes));
    let numbers = |rows: i64, columns: i64, seed: usize| {
        let [rows, columns] = [rows, columns].map(|length| usize::try_from(length).expect("small"));
        let number = |at: usize| f32::from(u8::try_from((at * 37 + seed * 101 + at * at * 13) % 251).expect("small")) / 251.0 - 0.5;
        Tensor::from_f32(&[rows, columns], &(0..rows * columns).map(number).collect::<Vec<_>>())
    };
    let weight = |name: &str, columns: i64, seed| b.initializer(&format!("{name}.weight"), numbers(WIDTH, columns, seed));
    let x = b.initializer("wte.weight", numbers(64, WIDTH, 1)).gather(ids, 0);
    let heads =
        |name: &str, seed| x.matmul(weight(&format!("h.0.{name}"), WIDTH, seed)).reshape(&[0, 0, HEADS, -1]).transpose(&[0, 2, 1, 3]);
    let (q, k, v) = (heads("q_proj", 2), heads("k_proj", 3), heads("v_proj", 4));
    let (batch, length) = (ids.length(0), ids.length(1));
    let joined = batch * b.ints(&[HEADS]);
    let parted = batch.concat(&[b.ints(&[HEADS]), length, length], 0);
    let slopes = b.constant(Tensor::from_f32(&[4, 1], &[0.5, 0.25, 0.125, 0.0625]));
    let places = (b.op("CumSum", &[seen, b.int(1)], &[]) - seen.same_type(1.0)) * seen;
    let rising = places.cast(DType::F32).unsqueeze(&[1]) * slopes;
    let triangle = b.op("Trilu", &[length.concat(&[length], 0).filled(1.0, DType::F32)], &[("upper", Attr::Int(0))]);
    let mask = (1.0 - triangle.unsqueeze(&[0, 1]) * seen.cast(DType::F32).unsqueeze(&[1, 2])) * -1e9;
    let scores = q.matmul(k.transpose(&[0, 1, 3, 2])) * 0.5;
    let on_one_axis =
        || scores.reshape_to(joined.concat(&[length, length], 0)) + rising.reshape_to(joined.concat(&[b.ints(&[1]), length], 0));
    let masked = match bias {
        Bias::OfRowsAndHeads => on_one_axis().reshape_to(parted) + mask,
        Bias::OfHeads => {
            let distance = b.op("Range", &[b.int(0), length.squeeze(&[0]), b.int(1)], &[]).cast(DType::F32).unsqueeze(&[0]);
            scores + (distance * slopes).unsqueeze(&[1]) + mask
        }
        Bias::WithMask => (on_one_axis() + mask.expand(parted).reshape_to(joined.concat(&[length, length], 0))).reshape_to(parted),
    };
    let context = masked.softmax(-1).matmul(v).transpose(&[0, 2, 1, 3]).reshape(&[0, 0, WIDTH]);
    let hidden = (x + context.matmul(weight("h.0.o_proj", WIDTH, 5))).tanh();
    b.output("logits", hidden.matmul(weight("lm_head", 64, 6)));
    onnx::write(&b.finish().expect("a valid graph"), Path::new(path), &WriteOptions::default()).expect("it is written");
}

#[test]
fn models_that_know_places_by_a_bias_learn_from_batches_and_from_packed_rows() {
    for bias in [Bias::OfRowsAndHeads, Bias::OfHeads, Bias::WithMask] {
        let folder = Folder::empty();
        let (base, bundle, data) = (folder.path("model.onnx"), folder.path("bundle"), rows(&folder));
        biased(bias, &base);
        done(&["inject", &base, "--method", "lora", "--target-modules", "q_proj,v_proj", "--quiet", "-o", &bundle]);
        let whole = steps(&bundle, &data, &["whole"]);
        let alone = steps(&bundle, &data, &["alone", "--micro-batch-size", "1"]);
        assert!(is_same(&whole, &alone), "{bias:?}: {whole:?}, one at a time {alone:?}");
        let packing = ["packed", "--packing", "--max-length", "20"];
        if bias == Bias::WithMask {
            let train = ["train", &bundle, "--data", &data, "--restart", "--max-steps", "1", "--run"];
            refused(&[&train[..], &packing].concat(), &["`--packing` with this bundle", "no mask of all queries and keys", "hint: "]);
        } else {
            let packed = steps(&bundle, &data, &packing);
            assert!(is_same(&whole, &packed), "{bias:?}: {whole:?}, packed {packed:?}");
        }
    }
}
