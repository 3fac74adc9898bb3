//! Bases with numbers that are not finite: what is computed from them is refused, what is written of them says so.

use std::path::Path;

use crate::common::{Folder, done, fixture, refused, run};
use peft_onnx::ir::{Builder, DType, Dim, ModelInfo, Tensor};
use peft_onnx::onnx::{self, WriteOptions};
use peft_onnx::safetensors;

/// A small language model with one NaN in the weight of a module.
fn broken(folder: &Folder, module: &str) -> String {
    let graph = onnx::read(Path::new(&fixture("llama/torchscript.onnx"))).expect("a model");
    let b = Builder::on(&graph);
    let anatomy = peft_onnx::anatomy::read(&graph);
    let projection = anatomy.projections.iter().find(|projection| projection.module.ends_with(module)).expect("the module is there");
    let weight = graph.initializer(projection.weight.value).expect("a constant");
    let mut numbers = weight.to_f64().expect("floats");
    numbers[3] = f64::NAN;
    b.store(projection.weight.value, Tensor::from_f64(DType::F32, weight.shape(), &numbers).expect("floats"));
    let path = folder.path("broken.onnx");
    onnx::write(&b.finish().expect("a graph"), Path::new(&path), &WriteOptions::default()).expect("it is written");
    path
}

#[test]
fn what_starts_from_a_weight_that_is_not_finite_is_refused() {
    let folder = Folder::empty();
    let base = broken(&folder, "layers.0.self_attn.q_proj");
    let rows: [&[&str]; 4] =
        [&["--use-dora"], &["--init-lora-weights", "pissa"], &["--init-lora-weights", "pissa_niter_4"], &["--init-lora-weights", "olora"]];
    for options in rows {
        let inject = ["inject", &base, "--method", "lora", "--rank", "2", "-o", &folder.path("bundle")];
        refused(&[&inject[..], options].concat(), &["layers.0.self_attn.q_proj", "finite"]);
    }
}

#[test]
fn an_adapter_that_would_start_from_numbers_that_are_not_finite_is_not_written() {
    let folder = Folder::empty();
    let base = broken(&folder, "lm_head");
    let bundle = folder.path("bundle");
    refused(&["inject", &base, "--method", "lora", "--modules-to-save", "lm_head", "-o", &bundle], &["lm_head", "not finite", "hint: "]);
    assert!(!Path::new(&bundle).exists());
}

#[test]
fn an_adapter_with_numbers_that_are_not_finite_is_refused_by_every_command() {
    let folder = Folder::empty();
    let (data, out) = (folder.path("rows.jsonl"), folder.path("out"));
    std::fs::write(&data, "{\"input_ids\": [1, 5, 9, 4], \"labels\": [1, 5, 9, 4]}\n").expect("the file is written");
    // A kernel of ONNX Runtime's makes finite numbers of scores that are none.
    let methods: [(&str, &[&str]); 4] = [
        ("ia3", &[]),
        ("lora", &["--init-lora-weights", "random"]),
        ("lora", &["--use-dora"]),
        ("prefix_tuning", &["--prefix-projection"]),
    ];
    for (number, (method, more)) in methods.into_iter().enumerate() {
        let bundle = folder.path(&format!("bundle-{number}"));
        done(&[&["inject", &fixture("llama/torchscript.onnx"), "--method", method, "-o", &bundle], more].concat());
        let file = Path::new(&bundle).join("adapter_model.safetensors");
        let mut tensors = safetensors::read(&file).expect("an adapter");
        let name = tensors.keys().find(|name| name.contains("k_proj")).or(tensors.keys().next()).expect("a tensor").clone();
        let mut numbers = tensors[&name].to_f32().expect("floats");
        numbers[0] = f32::NAN;
        tensors[&name] = Tensor::from_f32(tensors[&name].shape(), &numbers);
        safetensors::write(&file, &tensors).expect("the file is written");
        let commands: [&[&str]; 7] = [
            &["eval", &bundle, "--data", &data],
            &["check", &bundle],
            &["predict", &bundle, "--data", &data, "-o", &out],
            &["generate", &bundle, "--prompt", "1"],
            &["train", &bundle, "--data", &data, "--max-steps", "1", "--continue"],
            &["merge", &bundle, "-o", &out],
            &["export", &bundle, "--format", "peft", "-o", &out],
        ];
        for command in commands {
            refused(command, &["adapter_model.safetensors", "1 of ", "numbers are not finite", "hint: "]);
            assert!(!Path::new(&out).exists(), "{command:?}");
        }
    }
}

#[test]
fn a_merge_whose_weights_leave_their_range_is_refused_and_writes_nothing() {
    let folder = Folder::empty();
    let (bundle, merged) = (folder.path("bundle"), folder.path("merged.onnx"));
    done(&["inject", &fixture("llama/torchscript.onnx"), "--method", "lora", "--init-lora-weights", "random", "-o", &bundle]);
    let file = Path::new(&bundle).join("adapter_model.safetensors");
    let mut tensors = safetensors::read(&file).expect("an adapter");
    for tensor in tensors.values_mut() {
        let numbers = tensor.to_f32().expect("floats").into_iter().map(|number| number * 1e30).collect::<Vec<_>>();
        *tensor = Tensor::from_f32(tensor.shape(), &numbers);
    }
    safetensors::write(&file, &tensors).expect("the file is written");
    // As if they had been trained.
    std::fs::remove_file(Path::new(&bundle).join(".adapter-written.json")).expect("it was noted");
    refused(&["merge", &bundle, "-o", &merged, "--no-verify"], &["numbers are not finite", "with the adapter folded in", "hint: "]);
    assert!(!Path::new(&merged).exists());
}

#[test]
fn options_that_float32_rounds_to_nothing_or_to_all_are_refused_where_they_are_given() {
    let folder = Folder::empty();
    let (bundle, tokens) = (folder.path("bundle"), fixture("llama/torchscript.onnx"));
    let texts = fixture("bert_encoder/torchscript.onnx");
    let distilled = ["--distill-weight", "0.5", "--temperature"];
    let rows: [(&str, &[&str], &str); 13] = [
        (&tokens, &["--dropout"], "0.999999999999"),
        (&tokens, &["--dropout"], "1e-300"),
        (&tokens, &["--alpha"], "1e-300"),
        (&tokens, &["--label-smoothing"], "1e-300"),
        (&tokens, &["--label-smoothing"], "0.99999999999"),
        (&tokens, &["--distill-weight"], "1e-300"),
        (&tokens, &["--distill-weight"], "0.99999999999"),
        (&tokens, &distilled, "1e-300"),
        (&tokens, &distilled, "1e300"),
        (&tokens, &distilled, "1e-30"),
        (&texts, &["--task", "embedding", "--loss", "mnrl", "--loss-option"], "scale=1e300"),
        (&texts, &["--task", "embedding", "--loss", "mnrl", "--loss-option"], "scale=1e-300"),
        (&texts, &["--task", "embedding", "--loss", "cosent", "--loss-option"], "scale=1e-46"),
    ];
    for (model, options, value) in rows {
        let line = [&["inject", model, "--method", "lora", "-o", &bundle], options, &[value]].concat();
        refused(&line, &["expected a number of float32's range", "which rounds to", "hint: the graph computes in float32"]);
        assert!(!Path::new(&bundle).exists(), "{options:?} {value}");
    }
}

#[test]
fn adapters_are_combined_within_float32() {
    let folder = Folder::empty();
    let (bundle, both) = (folder.path("bundle"), folder.path("both"));
    done(&["inject", &fixture("llama/torchscript.onnx"), "--method", "lora", "--init-lora-weights", "random", "-o", &bundle]);
    for (weights, method, said) in
        [("nan,1", "linear", "finite"), ("1,1e300", "linear", "float32's range"), ("3e38,3e38", "svd", "not finite")]
    {
        refused(&["combine", &bundle, &bundle, "--weights", weights, "--method", method, "--rank", "2", "-o", &both], &[said, "hint: "]);
        assert!(!Path::new(&both).exists(), "{weights}");
    }
}

#[test]
fn a_model_that_is_written_with_numbers_that_are_not_finite_says_so() {
    let folder = Folder::empty();
    let base = broken(&folder, "layers.0.self_attn.q_proj");
    let (success, stdout, stderr) = run(&["convert", &base, "-o", &folder.path("written.onnx")]);
    assert!(success && stderr.contains("1 of 1024 numbers are not finite"), "{stdout}{stderr}");
}

/// A token's row of the table has NaN: what the model says of texts with it is no number, and no class.
#[test]
fn rows_whose_scores_are_no_numbers_have_no_class() {
    let folder = Folder::empty();
    let base = folder.path("model.onnx");
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let values: Vec<f32> = (0..40_u8).map(|at| if at / 4 == 7 { f32::NAN } else { f32::from(at % 5) - 2.0 }).collect();
    let table = b.initializer("embed.weight", Tensor::from_f32(&[10, 4], &values));
    let weight = b.initializer("classifier.weight", crate::common::numbers("head", &[4, 3]));
    let pooled = b.scoped("/embed", || table.gather(ids, 0)).mean(&[1]).squeeze(&[1]);
    b.output("logits", b.scoped("/classifier", || pooled.matmul(weight)));
    onnx::write(&b.finish().expect("a graph"), Path::new(&base), &WriteOptions::default()).expect("it is written");
    let rows = [(1, 0), (7, 0), (3, 2)].map(|(token, label)| format!("{{\"input_ids\": [2, {token}], \"label\": {label}}}\n")).concat();
    let data = folder.write("rows.jsonl", &rows);
    let (success, stdout, stderr) = run(&["predict", &base, "--task", "seq-cls", "--data", &data]);
    assert!(success && stderr.contains("1 of 3 rows") && stderr.contains("line 2"), "{stderr}");
    let predicted: Vec<bool> =
        stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["prediction"].is_null()).collect();
    assert_eq!(predicted, [false, true, false], "{stdout}");
    let (success, stdout, stderr) = run(&["eval", &base, "--task", "seq-cls", "--data", &data]);
    assert!(success && stderr.contains("1 rows is no number") && stderr.contains("line 2"), "{stdout}{stderr}");
}
